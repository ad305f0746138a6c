// madvise(2), msync(2), mincore(2).
#include <asm/errno.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/mm/change_mappings.hpp"
#include "guestkernel/sched/scheduler.hpp"

namespace kernel {
namespace {

// What madvise(2) changes in a mapping's flags: set and cleared bits.
struct FlagChange {
    u32 set = 0, clear = 0;
    bool known = true;
};

FlagChange flag_change(int advice) {
    switch (advice) {
    case MADV_DONTFORK:
        return {vma_dont_fork, 0};
    case MADV_DOFORK:
        return {0, vma_dont_fork};
    case MADV_WIPEONFORK:
        return {vma_wipe_on_fork, 0};
    case MADV_KEEPONFORK:
        return {0, vma_wipe_on_fork};
    case MADV_DONTDUMP:
        return {vma_dont_dump, 0};
    case MADV_DODUMP:
        return {0, vma_dont_dump};
    case MADV_RANDOM:
        return {vma_random, 0};
    case MADV_NORMAL:
    case MADV_SEQUENTIAL:
        return {0, vma_random};
    default:
        return {0, 0, false};
    }
}

Result<void> change_flags(AddressSpaceImpl& impl, u64 start, u64 end, int advice,
                          FlagChange change) {
    const auto changed = [&](u32 flags) { return (flags | change.set) & ~change.clear; };
    return change_mappings(
        impl, start, end, ENOMEM,
        [&](const Vma& vma) -> Result<bool> {
            if (advice == MADV_WIPEONFORK && (vma.cache || vma.shared()))
                return fail(EINVAL);
            return changed(vma.flags) != vma.flags;
        },
        [&](Vma& vma) { vma.flags = changed(vma.flags); });
}

// Programs that serve the faults of a range learn that its pages are about to go
// (UFFD_EVENT_REMOVE), and the caller waits until they know.
void tell_removal(AddressSpaceImpl& impl, u64 start, u64 end) {
    while (start < end) {
        Ref<UserfaultContext> context;
        u64 from = 0;
        {
            SharedGuard guard(impl.mutex);
            const Vma* vma = impl.vmas.find_from(start);
            while (vma != nullptr &&
                   !(vma->userfault && vma->userfault->has(UFFD_FEATURE_EVENT_REMOVE)))
                vma = VmaTree::next(*vma);
            if (vma == nullptr || vma->start >= end)
                return;
            context = vma->userfault;
            from = start > vma->start ? start : vma->start;
            start = vma->end < end ? vma->end : end;
        }
        context->tell(UFFD_EVENT_REMOVE, from, start, 0);
    }
}

// Calls `function(vma, from, to)` for the mapped parts of a range with the lock held shared; ENOMEM
// if there are holes.
template <typename F>
Result<void> for_each_part(AddressSpaceImpl& impl, u64 start, u64 end, F&& function) {
    SharedGuard guard(impl.mutex);
    u64 expected = start;
    bool holes = false;
    for (Vma* vma = impl.vmas.find_from(start); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma)) {
        const u64 from = start > vma->start ? start : vma->start;
        const u64 to = end < vma->end ? end : vma->end;
        holes = holes || from != expected;
        expected = to;
        TRY(function(*vma, from, to));
    }
    if (holes || expected != end)
        return fail(ENOMEM);
    return {};
}

// A piece of a cache that an operation which may sleep for long works on, without the address
// space's lock.
struct CachePart {
    Ref<PageCache> cache;
    Ref<File> file;
    u64 first_byte = 0, end_byte = 0;
};

// The next part of [start, end) that shows a cache; advances `start`. Null cache: none left.
CachePart next_cache_part(AddressSpaceImpl& impl, u64& start, u64 end, bool only_shared,
                          bool& holes) {
    SharedGuard guard(impl.mutex);
    for (Vma* vma = impl.vmas.find_from(start); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma)) {
        const u64 from = start > vma->start ? start : vma->start;
        const u64 to = end < vma->end ? end : vma->end;
        holes = holes || from != start;
        start = to;
        if (vma->cache && (vma->shared() || !only_shared))
            return {vma->cache, vma->file, vma->page_index(from) << page_shift,
                    (vma->page_index(from) << page_shift) + (to - from)};
    }
    holes = holes || start < end;
    start = end;
    return {};
}

// The next part of [start, end) that MADV_REMOVE empties; advances `start`. Null cache: none left.
Result<CachePart> next_part_to_remove(AddressSpaceImpl& impl, u64& start, u64 end, bool& holes) {
    SharedGuard guard(impl.mutex);
    const Vma* vma = impl.vmas.find_from(start);
    if (vma == nullptr || vma->start >= end) {
        holes = true;
        start = end;
        return CachePart();
    }
    const u64 from = start > vma->start ? start : vma->start;
    const u64 to = end < vma->end ? end : vma->end;
    if ((vma->flags & vma_locked) != 0 || !vma->cache)
        return fail(EINVAL);
    if ((vma->flags & vma_secret) != 0) // a child's, which locks do not pass on to
        return fail(EOPNOTSUPP);
    // It is the object that loses its contents: only for who may write to it.
    if (!vma->shared() || (vma->max_protection & PROT_WRITE) == 0)
        return fail(EACCES);
    holes = holes || from != start;
    start = to;
    const u64 first_byte = vma->page_index(from) << page_shift;
    return CachePart{vma->cache, vma->file, first_byte, first_byte + (to - from)};
}

Result<void> remove_pages(AddressSpaceImpl& impl, u64 start, u64 end) {
    bool holes = false;
    while (start < end) {
        TRY(const CachePart part, next_part_to_remove(impl, start, end, holes));
        if (!part.cache)
            break;
        // By way of the file, which has flags, seals and an account of its pages.
        const Inode* inode = part.file ? part.file->inode() : nullptr;
        if (inode != nullptr && inode->is_frozen())
            return fail(EPERM);
        if (inode != nullptr && inode->is_regular())
            TRY(part.file->allocate(0x03, part.first_byte,
                                    part.end_byte - part.first_byte)); // PUNCH_HOLE | KEEP_SIZE
        else
            part.cache->punch(part.first_byte, part.end_byte);
    }
    if (holes)
        return fail(ENOMEM);
    return {};
}

// By pieces: a file may be longer than its reader lives. Errors are those of who uses the pages.
Result<void> read_part(PageCache& cache, u64 first, u64 end) {
    constexpr u64 piece = 512;
    while (first < end) {
        if (fatal_signal_pending())
            return fail(EINTR);
        const u64 pages = end - first < piece ? end - first : piece;
        if (!cache.read_ahead(first, pages))
            break;
        first += pages;
        cond_resched();
    }
    return {};
}

Result<void> will_need(AddressSpaceImpl& impl, u64 start, u64 end) {
    bool holes = false;
    while (start < end) {
        CachePart part = next_cache_part(impl, start, end, false, holes);
        if (part.cache)
            TRY(read_part(*part.cache, part.first_byte >> page_shift, part.end_byte >> page_shift));
    }
    if (holes)
        return fail(ENOMEM);
    return {};
}

bool locked_within(AddressSpaceImpl& impl, u64 start, u64 end) {
    SharedGuard guard(impl.mutex);
    for (Vma* vma = impl.vmas.find_from(start); vma != nullptr && vma->start < end;
         vma = VmaTree::next(*vma))
        if ((vma->flags & vma_locked) != 0)
            return true;
    return false;
}

// What of a file others have used lately is told to those only who may change the file.
bool tells_residence(const Vma& vma) {
    constexpr u32 may_write = 2;
    Inode* inode = vma.file ? vma.file->inode() : nullptr;
    return inode == nullptr || owner_or_capable(*inode) ||
           check_permission(*inode, may_write).has_value();
}

} // namespace

Result<void> AddressSpace::advise(VirtAddr address, u64 length, int advice) {
    const u64 start = address.raw();
    if (start % page_size != 0 || length > user_max || start > user_max - page_up(length))
        return fail(EINVAL);
    const u64 end = start + page_up(length);
    if (const FlagChange change = flag_change(advice); change.known) {
        if (start == end)
            return {};
        return change_flags(*impl_, start, end, advice, change);
    }
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_DONTNEED_LOCKED:
    case MADV_FREE: // freeing at once is what a reclaim just behind the call would do
        tell_removal(*impl_, start, end);
        return for_each_part(*impl_, start, end, [&](Vma& vma, u64 from, u64 to) -> Result<void> {
            if ((vma.flags & vma_locked) != 0 && advice != MADV_DONTNEED_LOCKED)
                return fail(EINVAL);
            if (advice == MADV_FREE && vma.cache)
                return fail(EINVAL);
            impl_->zap(from, to);
            return {};
        });
    case MADV_WILLNEED:
        return will_need(*impl_, start, end);
    case MADV_REMOVE:
        tell_removal(*impl_, start, end);
        return remove_pages(*impl_, start, end);
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE: {
        TRY(for_each_part(*impl_, start, end, [&](Vma& vma, u64, u64) -> Result<void> {
            const u32 needed = advice == MADV_POPULATE_WRITE
                                   ? u32{PROT_WRITE}
                                   : u32{PROT_READ | PROT_WRITE | PROT_EXEC};
            if ((vma.protection & needed) == 0)
                return fail(EINVAL);
            return {};
        }));
        return impl_->populate(start, end, advice == MADV_POPULATE_WRITE, false);
    }
    case MADV_COLD:
    case MADV_PAGEOUT:
        return for_each_part(*impl_, start, end, [](Vma& vma, u64, u64) -> Result<void> {
            if ((vma.flags & vma_locked) != 0)
                return fail(EINVAL);
            return {};
        });
    case MADV_COLLAPSE:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
        return for_each_part(*impl_, start, end, [](Vma&, u64, u64) -> Result<void> { return {}; });
    default:
        return fail(EINVAL);
    }
}

Result<void> AddressSpace::sync(VirtAddr address, u64 length, int flags) {
    u64 start = address.raw();
    if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) != 0 ||
        (flags & (MS_ASYNC | MS_SYNC)) == (MS_ASYNC | MS_SYNC) || start % page_size != 0)
        return fail(EINVAL);
    if (length > user_max || start > user_max - page_up(length))
        return fail(ENOMEM);
    const u64 end = start + page_up(length);
    if ((flags & MS_INVALIDATE) != 0 && locked_within(*impl_, start, end))
        return fail(EBUSY);
    bool holes = false;
    while (start < end) {
        CachePart part = next_cache_part(*impl_, start, end, true, holes);
        if (!part.cache || part.cache->memory_only() || (flags & MS_SYNC) == 0)
            continue;
        TRY(part.cache->write_back(part.first_byte, part.end_byte));
        // As durable as fsync(2) would make it: the server is asked, too.
        if (part.file)
            TRY(part.file->sync(true));
    }
    if (holes)
        return fail(ENOMEM);
    return {};
}

Result<void> AddressSpace::resident(VirtAddr address, u64 length, u8* out, bool discreet) {
    const u64 start = address.raw();
    if (start % page_size != 0)
        return fail(EINVAL);
    if (length > user_max || start > user_max - page_up(length))
        return fail(ENOMEM);
    return for_each_part(
        *impl_, start, start + page_up(length), [&](Vma& vma, u64 from, u64 to) -> Result<void> {
            const bool known = !discreet || tells_residence(vma);
            for (u64 at = from; at < to; at += page_size) {
                bool present = !known;
                if (known) {
                    SpinGuard guard(impl_->table.lock());
                    const u64* entry = impl_->table.find(at);
                    present = entry != nullptr && *entry != 0;
                }
                if (!present && vma.cache)
                    present = static_cast<bool>(vma.cache->lookup(vma.page_index(at)));
                out[(at - start) >> page_shift] = present ? 1 : 0;
            }
            return {};
        });
}

} // namespace kernel
