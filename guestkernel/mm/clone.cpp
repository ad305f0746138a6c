// fork(2): a copy of an address space that shares what it can.
#include <asm/errno.h>
#include <linux/mman.h>

#include "guestkernel/mm/address_space_impl.hpp"

namespace kernel {
namespace {

// Mappings of files are cheap to fault in again, a neighbourhood at a time; but up to this size
// copying what is present (20 ns an entry) costs less than the first fault would.
constexpr u64 largest_copied_file_mapping = u64{16} << 20;

// Requires: the parent's page table lock is held; nobody else knows the child.
Result<void> copy_leaf(AddressSpaceImpl& child, const LeafRange& leaf, bool copy_file_pages,
                       Gather& gather) {
    u64* to = nullptr;
    for (unsigned i = leaf.first; i < leaf.end; i++) {
        u64 entry = leaf.entries[i];
        if (entry == 0 || ((entry & pte_private) == 0 && !copy_file_pages))
            continue;
        Frame* frame = frame_of(entry);
        if (frame == nullptr)
            continue;
        if (to == nullptr) {
            to = child.table.make(leaf.base);
            if (to == nullptr)
                return fail(ENOMEM);
        }
        if ((entry & arch::pte_write) != 0) {
            entry &= ~arch::pte_write;
            leaf.entries[i] = entry;
            gather.changed(leaf.address(i));
        }
        get_frame(*frame);
        if ((entry & pte_private) == 0)
            frame->map_count.fetch_add(1, base::Order::Relaxed);
        to[i] = entry;
        child.note_resident(entry, 1, false);
    }
    return {};
}

Result<void> copy_pages(AddressSpaceImpl& parent, AddressSpaceImpl& child, const Vma& vma,
                        Gather& gather) {
    const bool copy_file_pages =
        vma.cache && vma.length() <= largest_copied_file_mapping && !vma.cache->memory_only();
    Result<void> outcome;
    u64 at = vma.start;
    while (outcome && at < vma.end) {
        {
            SpinGuard guard(parent.table.lock());
            at = parent.table.for_some_leaves(
                at, vma.end, leaves_per_step, [&](const LeafRange& leaf) {
                    if (outcome)
                        outcome = copy_leaf(child, leaf, copy_file_pages, gather);
                });
        }
        if (at < vma.end)
            cond_resched();
    }
    return outcome;
}

} // namespace

Result<Ref<AddressSpace>> AddressSpace::clone() {
    TRY(Ref<AddressSpace> copy, create());
    AddressSpaceImpl& child = *copy->impl_;
    copy->limits = limits;
    copy->layout = layout;
    copy->executable = executable;
    copy->membarrier_registered.store(membarrier_registered.load());
    MutexGuard guard(impl_->mutex);
    child.break_start = impl_->break_start;
    child.break_end = impl_->break_end;
    Gather gather(*impl_); // one flush, when all is copied; before the lock is released
    for (Vma* vma = impl_->vmas.first(); vma != nullptr; vma = VmaTree::next(*vma)) {
        if ((vma->flags & vma_dont_fork) != 0)
            continue;
        TRY(Vma * twin, child.copy_vma(*vma, vma->start, vma->end));
        twin->flags &= ~u32{vma_locked | vma_lock_on_fault}; // mlock(2): not inherited
        child.add_vma(*twin);
        if ((vma->flags & vma_wipe_on_fork) == 0 && !vma->shared())
            TRY(copy_pages(*impl_, child, *vma, gather));
    }
    return copy;
}

} // namespace kernel
