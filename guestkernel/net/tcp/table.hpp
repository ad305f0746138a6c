// Which connection a segment belongs to: one hash table for all network namespaces, a lock per
// bucket (listeners are in the stack's PortTable). Its entries are connections, what is left of
// them in TIME-WAIT, and requests that are not connections yet.
//
// Lock order: a bucket's lock (NetTable) lies inside of those of connections and listeners. What
// find() returns may have left the table when the caller gets round to locking it: every user asks
// again (Entry::in_table) with the entry's own lock held.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/net/tcp/secrets.hpp"

namespace kernel::net {
class Stack;
}

namespace kernel::tcp {

enum class EntryKind : u8 { Connection, TimeWait, Request, Listener };

class Entry : public RefCounted {
public:
    explicit Entry(EntryKind entry_kind) : kind(entry_kind) {}
    const EntryKind kind;
    net::Stack* stack = nullptr;
    Pair pair;
    u64 hash = 0;
    bool in_table() const { return in_table_.load(base::Order::Acquire); }
    Entry* doomed_next = nullptr; // TcpStack::release_later()

private:
    friend class Table;
    Entry* next_ = nullptr;
    base::Atomic<bool> in_table_{false};
};

class Table {
public:
    static Table& get();
    // Memory for the buckets, at the first socket: ENOMEM.
    Result<void> prepare();

    Ref<Entry> find(const net::Stack& stack, const Pair& pair);
    // The entry's stack, pair are set. Takes a reference. False: the pair is taken, by *other.
    bool insert(Entry& entry, Ref<Entry>* other = nullptr);
    // In place of `old`, in one step; false: `old` is not there any more.
    bool replace(Entry& old, Entry& fresh);
    // Drops the table's reference, which must not be the last one. Returns whether it was there.
    bool remove(Entry& entry);
    // Visits what is there, bucket by bucket, under locks; nothing sleeps.
    void for_each(void (*visit)(Entry& entry, void* context), void* context);
    // Likewise one bucket, for whoever goes through them in steps.
    static constexpr usize bucket_count = 8192;
    void for_each_in(usize index, void (*visit)(Entry& entry, void* context), void* context);
    usize longest_chain(); // for tests
    u32 size() const { return size_.load(base::Order::Relaxed); }

private:
    struct Bucket {
        SpinLock lock{LockRank::NetTable};
        Entry* first = nullptr;
    };
    Bucket& bucket(u64 hash) { return buckets_.load(base::Order::Acquire)[hash % bucket_count]; }
    static Entry* find_locked(Bucket& bucket, const net::Stack& stack, const Pair& pair, u64 hash);
    static bool unlink(Bucket& bucket, Entry& entry);
    base::Atomic<Bucket*> buckets_{nullptr};
    base::Atomic<u32> size_{0};
};

} // namespace kernel::tcp
