// What a program that serves faults does: UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_CONTINUE,
// UFFDIO_WRITEPROTECT.
#include <asm/errno.h>
#include <linux/mman.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/mm/userfault.hpp"

namespace kernel {
namespace {

// The registered mapping that has all of the range. Requires: the mutex is held.
Result<Vma*> target_of(AddressSpaceImpl& impl, UserfaultRange range) {
    Vma* vma = impl.vmas.find(range.start);
    if (vma == nullptr || vma->end - range.start < range.length || !vma->userfault)
        return fail(ENOENT);
    return vma;
}

Result<FrameRef> filled_frame(UserfaultFill how, u64 source) {
    if (how == UserfaultFill::Continue)
        return FrameRef();
    FrameRef frame = FrameRef::adopt(as_kind(FrameKind::Anonymous, alloc_zeroed_frame()));
    if (!frame)
        return fail(ENOMEM);
    if (how == UserfaultFill::Copy)
        TRY(copy_in_bytes(frame.data(), source, page_size));
    return frame;
}

} // namespace

// Requires: the mutex is held.
Result<void> AddressSpaceImpl::fill_private(Vma& vma, u64 page, FrameRef frame, bool guarded) {
    SpinGuard guard(table.lock());
    u64* entry = table.make(page);
    if (entry == nullptr)
        return fail(ENOMEM);
    if (*entry != 0)
        return fail(EEXIST);
    const bool writable = (vma.protection & PROT_WRITE) != 0 && !guarded;
    *entry = make_entry(frame_to_phys(*frame).raw(), vma.protection, writable,
                        pte_private | (guarded ? pte_guarded : 0));
    note_resident(pte_private, 1, false);
    frame.leak();
    return {};
}

// Requires: the mutex is held.
Result<void> AddressSpaceImpl::fill_shared(Vma& vma, u64 page, FrameRef frame) {
    const u64 index = vma.page_index(page);
    if (vma.file && vma.file->inode() != nullptr) {
        TRY(const Attributes attributes, vma.file->inode()->attributes());
        if (index >= page_up(attributes.size) >> page_shift)
            return fail(EFAULT);
    }
    if (frame) {
        TRY(vma.cache->insert(index, FrameRef::share(*frame)));
    } else {
        frame = vma.cache->lookup(index);
        if (!frame)
            return fail(EFAULT);
        SpinGuard guard(table.lock());
        if (const u64* entry = table.find(page); entry != nullptr && *entry != 0)
            return fail(EEXIST);
    }
    if (install_cached(vma, page, std::move(frame), true) == FaultOutcome::NoMemory)
        return fail(ENOMEM);
    return {};
}

Result<u64> fill_userfault(UserfaultContext& context, UserfaultRange range, UserfaultFill how,
                           u64 source, bool guarded) {
    TRY(check_userfault_range(range));
    if (context.space->users() == 0)
        return fail(ESRCH);
    AddressSpaceImpl& impl = AddressSpaceImpl::of(*context.space);
    const auto fill_page = [&](u64 page, FrameRef frame) -> Result<void> {
        SharedGuard guard(impl.mutex);
        if (context.changing.load() != 0)
            return fail(EAGAIN);
        TRY(Vma * vma, target_of(impl, range));
        if (guarded && (vma->flags & vma_fault_write) == 0)
            return fail(EINVAL);
        if (how == UserfaultFill::Continue && !(vma->cache && vma->shared()))
            return fail(EINVAL);
        return vma->cache && vma->shared()
                   ? impl.fill_shared(*vma, page, std::move(frame))
                   : impl.fill_private(*vma, page, std::move(frame), guarded);
    };
    u64 done = 0;
    for (; done < range.length; done += page_size) {
        Result<FrameRef> frame = filled_frame(how, source + done);
        const Result<void> filled = frame ? fill_page(range.start + done, std::move(*frame))
                                          : Result<void>(fail(frame.error().code));
        if (!filled && done == 0)
            return fail(filled.error().code);
        if (!filled || fatal_signal_pending())
            break;
        cond_resched();
    }
    return done;
}

Result<void> guard_userfault(UserfaultContext& context, UserfaultRange range, bool guarded) {
    TRY(check_userfault_range(range));
    if (context.space->users() == 0)
        return fail(ESRCH);
    AddressSpaceImpl& impl = AddressSpaceImpl::of(*context.space);
    const u64 end = range.start + range.length;
    SharedGuard guard(impl.mutex);
    if (context.changing.load() != 0)
        return fail(EAGAIN);
    u64 at = range.start;
    for (Vma* vma = impl.vmas.find_from(at); at < end; vma = VmaTree::next(*vma)) {
        if (vma == nullptr || vma->start > at || (vma->flags & vma_fault_write) == 0)
            return fail(ENOENT);
        const u64 stop = vma->end < end ? vma->end : end;
        impl.set_guard(at, stop, guarded);
        at = stop;
    }
    return {};
}

} // namespace kernel
