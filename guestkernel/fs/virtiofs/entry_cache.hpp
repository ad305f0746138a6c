// Names that the server told us before anybody asked: what READDIRPLUS listed, and names that do
// not exist. An entry with an inode leaves the cache when it is used, since the VFS's dentry takes
// over; a missing name stays. Bounded: the oldest entries go first.
#pragma once

#include <string_view>

#include "base/intrusive_list.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/fs/inode.hpp"

namespace kernel {

class EntryCache {
public:
    static constexpr usize limit = 16384;

    EntryCache() = default;
    ~EntryCache();

    enum class Answer : u8 { Unknown, Missing, Found };
    Answer take(u64 directory, std::string_view name, Ref<Inode>& inode);
    // Remembers; `inode` null: missing. Returns how many unused positive entries had to go. Memory
    // may be short: then it does not remember.
    usize put(u64 directory, std::string_view name, Ref<Inode> inode, u64 valid_until_ns);
    void forget(u64 directory, std::string_view name);
    void clear();
    u64 hits() const { return hits_.load(base::Order::Relaxed); }

private:
    struct Entry {
        Entry* hash_next;
        base::ListNode age_node;
        u64 directory, hash, valid_until_ns;
        Ref<Inode> inode;
        u32 length;
        char name[1];
    };
    static constexpr usize buckets = 1024;
    static Entry* make(u64 directory, std::string_view name, u64 hash);
    static void destroy(Entry* entry);
    Entry** find(u64 directory, std::string_view name, u64 hash);
    Entry* unlink(Entry** at);

    SpinLock lock_{LockRank::SuperBlock};
    Entry** table_ = nullptr; // made with the first entry
    base::IntrusiveList<Entry, &Entry::age_node> ages_;
    usize count_ = 0;
    base::Atomic<u64> hits_{0};
};

} // namespace kernel
