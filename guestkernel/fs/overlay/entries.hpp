// The names that an overlay directory has of its own: what was created or moved there, and
// whiteouts for what was removed from the layers below. In the order of creation, so that listings
// are stable.
//
// Locks: the directory's mutex (exclusive to change, shared to read); dentry_valid(), which has
// neither, looks with the attributes' spin lock, which changes therefore hold as well.
#pragma once

#include <string_view>

#include "base/intrusive_list.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class OverlayInode;

struct OverlayEntry {
    OverlayEntry* hash_next = nullptr;
    base::ListNode order_node;
    u64 hash = 0;
    Ref<OverlayInode> inode;   // null: a whiteout
    bool covers_lower = false; // the layers below have this name, so its removal leaves a whiteout
    u16 length = 0;
    char name[1];

    std::string_view view() const { return {name, length}; }
    static OverlayEntry* make(std::string_view name); // null: no memory
    static void destroy(OverlayEntry* entry);
};

class OverlayEntries {
public:
    OverlayEntries() = default;
    OverlayEntries(const OverlayEntries&) = delete;
    OverlayEntries& operator=(const OverlayEntries&) = delete;
    ~OverlayEntries();

    OverlayEntry* find(std::string_view name) const;
    // Requires: no entry of that name. Longer chains are only slower, so a table that cannot grow
    // is no error.
    void insert(OverlayEntry& entry);
    void remove(OverlayEntry& entry); // the caller's to destroy
    // Room ahead of an insert(): a zeroed table of table_size() pointers, allocated without the
    // spin lock, goes in; the old one comes back to be freed.
    bool wants_growth() const { return count_ >= 2 * bucket_count_; }
    bool has_table() const { return bucket_count_ != 0; }
    usize table_size() const { return bucket_count_ == 0 ? 16 : 4 * bucket_count_; }
    OverlayEntry** exchange_table(OverlayEntry** fresh);

    usize visible() const { return count_ - whiteouts_; }
    bool empty() const { return count_ == 0; }
    void note_whiteout(bool added) { whiteouts_ += added ? 1 : ~usize{0}; }
    base::IntrusiveList<OverlayEntry, &OverlayEntry::order_node>& in_order() { return order_; }

private:
    OverlayEntry** buckets_ = nullptr;
    usize bucket_count_ = 0;
    usize count_ = 0;
    usize whiteouts_ = 0;
    base::IntrusiveList<OverlayEntry, &OverlayEntry::order_node> order_;
};

} // namespace kernel
