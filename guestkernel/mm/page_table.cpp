#include "guestkernel/mm/page_table.hpp"

#include <asm-generic/errno-base.h>

#include <linux/mman.h>

#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/mm/page_cache.hpp"

namespace kernel {
namespace {

constexpr unsigned user_root_entries = 256;

// Index into the table of `level` (4 is the root, 1 a leaf).
constexpr unsigned index_at(unsigned level, u64 address) {
    return address >> (page_shift + 9 * (level - 1)) & 511;
}
constexpr u64 span_of(unsigned level) { // of one entry
    return u64{1} << (page_shift + 9 * (level - 1));
}
u64* table_at(u64 entry) {
    return static_cast<u64*>(arch::phys_to_virt(PhysAddr(pte_frame(entry))));
}

// Trees of page tables whose leaves are empty, kept for the next address space: that of a fork or
// of the same program run again has its mappings at the same places. Where KVM shadows page tables,
// this spares it and us most of the work: a table that becomes other memory, or other memory that
// becomes a table, costs several traps of 3 us and more, and its shadow is built anew.
struct KeptTree {
    PhysAddr root{};
    u64 tables = 0;
};
struct KeptTrees {
    static constexpr unsigned most = 16;
    static constexpr u64 most_tables = 64; // of one tree
    SpinLock lock{LockRank::Slab};
    KeptTree trees[most];
    unsigned count = 0;
};
constinit KeptTrees kept;

} // namespace

u64 make_entry(u64 phys, u32 protection, bool writable, u64 software_bits) {
    const u64 no_exec = (protection & PROT_EXEC) != 0 ? 0 : arch::pte_no_exec;
    if ((protection & (PROT_READ | PROT_WRITE | PROT_EXEC)) == 0)
        return phys | software_bits | pte_hidden;
    return phys | software_bits | arch::pte_present | arch::pte_user | arch::pte_accessed |
           arch::pte_dirty | no_exec | (writable ? arch::pte_write : 0);
}

Result<void> PageTable::create() {
    {
        SpinGuard guard(kept.lock);
        if (kept.count > 0) {
            const KeptTree& tree = kept.trees[--kept.count];
            root_ = tree.root;
            tables_ = tree.tables;
            return {};
        }
    }
    Frame* frame = as_kind(FrameKind::PageTable, alloc_zeroed_frame());
    if (frame == nullptr)
        return fail(ENOMEM);
    arch::init_root_table(frame_data(*frame));
    root_ = frame_to_phys(*frame);
    tables_ = 1;
    count_up(memory_counters.page_tables);
    return {};
}

void PageTable::free_level(u64* table, unsigned level, u64& freed) {
    const unsigned entries = level == 4 ? user_root_entries : 512;
    for (unsigned i = 0; i < entries; i++) {
        if ((table[i] & arch::pte_present) == 0)
            continue;
        if (level > 2)
            free_level(table_at(table[i]), level - 1, freed);
        put_frame(*frame_of(table[i]));
        freed++;
    }
}

void PageTable::destroy() {
    if (tables_ == 0)
        return;
    // Kept ones serve any group: not those that one pays for.
    if (tables_ <= KeptTrees::most_tables && phys_to_frame(root_)->owner == 0) {
        SpinGuard guard(kept.lock);
        if (kept.count < KeptTrees::most) {
            kept.trees[kept.count++] = {root_, tables_};
            tables_ = 0;
            return;
        }
    }
    free_tree();
}

void PageTable::free_tree() {
    u64 freed = 1;
    free_level(table_at(root_.raw()), 4, freed);
    put_frame(*phys_to_frame(root_));
    count_down(memory_counters.page_tables, freed);
    tables_ = 0;
}

usize release_kept_page_tables() {
    usize freed = 0;
    for (;;) {
        PageTable table;
        {
            SpinGuard guard(kept.lock);
            if (kept.count == 0)
                return freed;
            const KeptTree& tree = kept.trees[--kept.count];
            table.root_ = tree.root;
            table.tables_ = tree.tables;
        }
        freed += table.tables_;
        table.free_tree();
    }
}

void reset_page_tables_for_test() {
    kept.count = 0;
}

u64* PageTable::leaf_table(u64 address, u64& next) const {
    u64* table = table_at(root_.raw());
    for (unsigned level = 4; level > 1; level--) {
        const u64 entry = table[index_at(level, address)];
        next = (address & ~(span_of(level) - 1)) + span_of(level);
        if ((entry & arch::pte_present) == 0)
            return nullptr;
        table = table_at(entry);
    }
    return table;
}

u64* PageTable::find(u64 address) const {
    u64 next = 0;
    u64* table = leaf_table(address, next);
    return table == nullptr ? nullptr : table + index_at(1, address);
}

u64* PageTable::make(u64 address) {
    u64* table = table_at(root_.raw());
    for (unsigned level = 4; level > 1; level--) {
        u64& entry = table[index_at(level, address)];
        if ((entry & arch::pte_present) == 0) {
            // Under a spin lock nobody can wait for a group to come below its limit: fork(2) would
            // fail, and a fault end the program, though there is page cache to give up. Whoever
            // takes pages of the group next waits for it.
            Frame* frame = as_kind(FrameKind::PageTable, alloc_zeroed_frame(false, Charge::Force));
            if (frame == nullptr)
                return nullptr;
            // Volatile: the CPU, or a KVM that traps this store, sees the entry whole.
            *static_cast<volatile u64*>(&entry) = frame_to_phys(*frame).raw() | arch::pte_table;
            tables_++;
            count_up(memory_counters.page_tables);
        }
        table = table_at(entry);
    }
    return table + index_at(1, address);
}

} // namespace kernel
