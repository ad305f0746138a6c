// mprotect(2) and the mlock(2) family.
#include <asm/errno.h>
#include <linux/capability.h>
#include <linux/mman.h>

#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

constexpr u32 all_protections = PROT_READ | PROT_WRITE | PROT_EXEC;

// What an entry becomes under another protection. Requires: the page table's lock is held.
u64 change_entry(const Vma& vma, u64 entry, u32 protection) {
    bool writable = (protection & PROT_WRITE) != 0 && (entry & pte_guarded) == 0;
    if (writable && (entry & arch::pte_write) == 0) {
        // Spares the fault where it is known what it would do.
        const Frame* frame = frame_of(entry);
        const bool own = (entry & pte_private) != 0 && frame != nullptr &&
                         frame->refs.load(base::Order::Acquire) == 1;
        writable = own || (vma.shared() && vma.cache->memory_only());
    }
    return make_entry(pte_frame(entry), protection, writable, entry & (pte_private | pte_guarded));
}

bool loses_permission(u64 before, u64 after) {
    if ((before & arch::pte_present) == 0)
        return false;
    return (after & arch::pte_present) == 0 || ((before & ~after & arch::pte_write) != 0) ||
           ((after & ~before & arch::pte_no_exec) != 0);
}

void change_pages(AddressSpaceImpl& impl, const Vma& vma, u32 protection) {
    Gather gather(impl);
    SpinGuard guard(impl.table.lock());
    impl.table.for_each_leaf(vma.start, vma.end, [&](const LeafRange& leaf) {
        for (unsigned i = leaf.first; i < leaf.end; i++) {
            const u64 before = leaf.entries[i];
            if (before == 0)
                continue;
            const u64 after = change_entry(vma, before, protection);
            if (after == before)
                continue;
            leaf.entries[i] = after;
            if (loses_permission(before, after))
                gather.changed(leaf.address(i));
        }
    });
    // Under the lock: who takes the page out of its cache, or cleans it, flushes only what its
    // entry still allows.
    gather.flush();
}

// Checks [start, start + length) and rounds it outwards to pages.
Result<u64> checked_end(u64& start, u64 length) {
    const u64 end = start + length;
    if (end < start)
        return fail(EINVAL);
    if (end > user_max)
        return fail(ENOMEM);
    start = page_down(start);
    return page_up(end);
}

} // namespace

u64 AddressSpaceImpl::lock_limit() const {
    return capable(CAP_IPC_LOCK) ? ~u64{0} : space.limits.locked;
}

Result<void> AddressSpace::protect(VirtAddr address, u64 length, u32 protection) {
    u64 start = address.raw();
    const bool grows_down = (protection & PROT_GROWSDOWN) != 0;
    protection &= all_protections;
    if (start % page_size != 0)
        return fail(EINVAL);
    if (length == 0)
        return {};
    if (length > user_max || start > user_max - page_up(length))
        return fail(ENOMEM);
    const u64 end = start + page_up(length);
    RemovedVmas removed;
    MutexGuard guard(impl_->mutex);
    Vma* vma = impl_->vmas.find(start);
    if (vma == nullptr)
        return fail(ENOMEM);
    if (grows_down) {
        if ((vma->flags & vma_grows_down) == 0)
            return fail(EINVAL);
        start = vma->start;
    }
    // As far as it goes: what stands before a hole or a refusal has changed.
    while (start < end) {
        vma = impl_->vmas.find(start);
        if (vma == nullptr)
            return fail(ENOMEM);
        const u64 stop = vma->end < end ? vma->end : end;
        if ((protection & ~vma->max_protection) != 0)
            return fail(EACCES);
        if (vma->protection != protection) {
            if ((protection & PROT_WRITE) != 0 && (vma->protection & PROT_WRITE) == 0 &&
                !vma->shared() &&
                impl_->data_pages + ((stop - start) >> page_shift) > limits.data >> page_shift)
                return fail(ENOMEM);
            TRY(impl_->split_at(start));
            TRY(impl_->split_at(stop));
            vma = impl_->vmas.find(start);
            impl_->account(*vma, false);
            vma->protection = protection;
            impl_->account(*vma, true);
            change_pages(*impl_, *vma, protection);
        }
        impl_->merge(*vma, removed);
        start = stop;
    }
    return {};
}

namespace {

u32 lock_flags(bool on_fault) {
    return on_fault ? u32{vma_locked | vma_lock_on_fault} : u32{vma_locked};
}

// `lock`: of lock_flags(), or 0. Secret memory stays locked.
void set_lock(Vma& vma, u32 lock) {
    if ((vma.flags & vma_secret) == 0)
        vma.flags &= ~u32{vma_locked | vma_lock_on_fault};
    vma.flags |= lock;
}

} // namespace

Result<void> AddressSpace::lock_range(VirtAddr address, u64 length, bool locked) {
    return lock_range(address, length, locked, false);
}

Result<void> AddressSpace::lock_range(VirtAddr address, u64 length, bool locked, bool on_fault) {
    u64 start = address.raw();
    TRY(const u64 end, checked_end(start, length));
    if (start >= end)
        return {};
    const u64 first = start;
    {
        RemovedVmas removed;
        MutexGuard guard(impl_->mutex);
        if (locked) {
            u64 more = 0;
            for (Vma* vma = impl_->vmas.find_from(start); vma != nullptr && vma->start < end;
                 vma = VmaTree::next(*vma))
                if ((vma->flags & vma_locked) == 0)
                    more += ((end < vma->end ? end : vma->end) -
                             (start > vma->start ? start : vma->start)) >>
                            page_shift;
            if (impl_->lock_limit() >> page_shift == 0 && impl_->lock_limit() < page_size)
                return fail(EPERM);
            if (impl_->locked_pages + more > impl_->lock_limit() >> page_shift)
                return fail(ENOMEM);
        }
        while (start < end) {
            Vma* vma = impl_->vmas.find(start);
            if (vma == nullptr)
                return fail(ENOMEM);
            const u64 stop = vma->end < end ? vma->end : end;
            TRY(impl_->split_at(start));
            TRY(impl_->split_at(stop));
            vma = impl_->vmas.find(start);
            impl_->account(*vma, false);
            set_lock(*vma, locked ? lock_flags(on_fault) : 0);
            impl_->account(*vma, true);
            impl_->merge(*vma, removed);
            start = stop;
        }
    }
    if (locked && !on_fault)
        return impl_->populate(first, end, true, true);
    return {};
}

Result<void> AddressSpace::lock_all(bool current, bool future, bool on_fault) {
    {
        MutexGuard guard(impl_->mutex);
        if ((current || future) && impl_->lock_limit() < page_size)
            return fail(EPERM);
        if (current && impl_->total_pages > impl_->lock_limit() >> page_shift)
            return fail(ENOMEM);
        impl_->lock_future = future ? lock_flags(on_fault) : 0;
        if (current || !future) // neither: munlockall(2)
            for (Vma* vma = impl_->vmas.first(); vma != nullptr; vma = VmaTree::next(*vma)) {
                impl_->account(*vma, false);
                set_lock(*vma, current ? lock_flags(on_fault) : 0);
                impl_->account(*vma, true);
            }
    }
    if (current && !on_fault)
        (void)impl_->populate(user_min, user_max, true, true);
    return {};
}

} // namespace kernel
