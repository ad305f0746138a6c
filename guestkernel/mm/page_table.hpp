// A user address space's page tables: four levels, of which only the leaves are handled outside.
#pragma once

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {

// Software bits of leaf entries. A frame with this bit belongs to the address spaces alone
// (anonymous memory or a private copy); without, to a page cache.
inline constexpr u64 pte_private = u64{1} << 10;
// Not present but not empty either: contents behind PROT_NONE.
inline constexpr u64 pte_hidden = u64{1} << 11;
// Present and not writable, whatever the mapping says, until a user-space fault handler allows it.
inline constexpr u64 pte_guarded = u64{1} << 52;

inline constexpr u64 pte_frame(u64 entry) {
    return entry & arch::pte_address;
}
inline Frame* frame_of(u64 entry) {
    return phys_to_frame(PhysAddr(pte_frame(entry)));
}
// Accessed and dirty are preset: neither CPU nor KVM has to write them later, and KVM maps
// neighbours only if they are accessed. `protection`: PROT_*; `writable` says whether a store needs
// no fault.
u64 make_entry(u64 phys, u32 protection, bool writable, u64 software_bits);

// The part of a leaf table that lies in a range: entries[first..end) map address(first), ...
struct LeafRange {
    u64* entries;
    unsigned first, end;
    u64 base; // the address of entries[0]
    u64 address(unsigned i) const { return base + u64{i} * page_size; }
};

class PageTable {
public:
    Result<void> create();
    // Frees all tables. Requires: loaded nowhere; the frames behind the leaves have been given
    // back.
    void destroy();

    PhysAddr root() const { return root_; }
    SpinLock& lock() { return lock_; }
    u64 table_count() const { return tables_; }

    // The entry for an address; null when there is no table / no memory for one. Requires: lock()
    // is held.
    u64* find(u64 address) const;
    u64* make(u64 address);
    // Existing leaf tables in [start, end), in order, at most `most` of them; returns where it
    // stopped, `end` when all are done. Requires: lock() is held.
    template <typename F>
    u64 for_some_leaves(u64 start, u64 end, u64 most, F&& function) const {
        while (start < end && most > 0) {
            u64 next = 0;
            u64* table = leaf_table(start, next);
            if (next > end || next == 0)
                next = end;
            if (table != nullptr) {
                const u64 base = start & ~(leaf_span - 1);
                function(LeafRange{table, static_cast<unsigned>((start - base) >> page_shift),
                                   static_cast<unsigned>((next - base) >> page_shift), base});
                most--;
            }
            start = next;
        }
        return start;
    }
    template <typename F>
    void for_each_leaf(u64 start, u64 end, F&& function) const {
        (void)for_some_leaves(start, end, ~u64{0}, function);
    }

private:
    static constexpr u64 leaf_span = u64{512} * page_size;
    // The leaf table of an address, or null; `next` is where the next one may begin.
    u64* leaf_table(u64 address, u64& next) const;
    void free_tree();
    friend usize release_kept_page_tables();
    static void free_level(u64* table, unsigned level, u64& freed);

    PhysAddr root_{};
    SpinLock lock_{LockRank::PageTable};
    u64 tables_ = 0;
};

} // namespace kernel
