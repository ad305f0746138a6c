// Faults in what is absent of a range, before anybody touches it: MAP_POPULATE, mlock(2),
// madvise(2).
#include <asm/errno.h>
#include <linux/mman.h>

#include "guestkernel/mm/address_space_impl.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

// What populate() makes of a fault.
Result<void> check_populated(FaultOutcome outcome, bool ignore_holes) {
    if (outcome == FaultOutcome::NoMemory)
        return fail(ENOMEM);
    if (outcome == FaultOutcome::Done || ignore_holes)
        return {};
    return fail(outcome == FaultOutcome::BusError ? EFAULT : ENOMEM);
}

} // namespace

// A part of populate() with the lock held once; EAGAIN: FaultInfo::userfault has to serve `start`
// first, or FaultInfo::absent is to be read.
Result<void> AddressSpaceImpl::populate_part(u64& start, u64 end, bool write, bool ignore_holes,
                                             FaultInfo& info) {
    SharedGuard guard(mutex);
    Vma* vma = vmas.find_from(start);
    if (vma == nullptr || vma->start > start) {
        if (!ignore_holes)
            return fail(ENOMEM);
        start = vma == nullptr || vma->start >= end ? end : vma->start;
        return {};
    }
    // Shared pages are not made dirty, private ones are copied only if stores are allowed.
    const bool stores =
        write && (vma->protection & PROT_WRITE) != 0 && !(vma->cache && tracks_dirty(*vma));
    const u64 stop = end < vma->end ? end : vma->end;
    // In steps, so that those who wait for the lock get it.
    for (u64 pages = 0; start < stop && pages < 512; pages++, start += page_size) {
        if ((vma->protection & 7) == 0) {
            start = stop;
            break;
        }
        info = {};
        const FaultOutcome outcome = resolve(*vma, start, stores, most_around, info);
        if (outcome == FaultOutcome::Userfault || outcome == FaultOutcome::Absent)
            return fail(EAGAIN);
        TRY(check_populated(outcome, ignore_holes));
        if (info.touch)
            arch::flush_local(VirtAddr(start), 1);
    }
    return {};
}

Result<void> AddressSpaceImpl::populate(u64 start, u64 end, bool write, bool ignore_holes) {
    const u64 access = write ? u64{arch::fault_write} : 0;
    FrameRef read; // which keeps it until the next part has found it
    while (start < end) {
        if (fatal_signal_pending())
            return fail(EINTR);
        FaultInfo info;
        const Result<void> part = populate_part(start, end, write, ignore_holes, info);
        if (part)
            continue;
        if (part.error().code == EAGAIN && info.userfault) {
            if (wait_for_userfault(start, access, info) != FaultOutcome::Userfault)
                return fail(EFAULT);
        } else if (part.error().code == EAGAIN && info.absent.cache) {
            const FaultOutcome outcome = read_absent(access, info);
            read = std::move(info.read);
            if (outcome == FaultOutcome::Absent)
                continue;
            TRY(check_populated(outcome, ignore_holes));
            start += page_size;
        } else {
            return part;
        }
    }
    return {};
}

} // namespace kernel
