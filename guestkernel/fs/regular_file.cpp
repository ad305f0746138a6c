// RegularFile: read, write and map by way of the page cache.
#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/inotify.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/poll.h>

#include "guestkernel/fs/attributes.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/permission.hpp"

namespace kernel {

namespace {

constexpr usize pages_between_breaks = 64;

void note_read(const File& file) {
    const Mount* mount = file.path().mount();
    const u32 flags = mount == nullptr ? u32{MS_NOATIME} : mount->flags();
    if ((flags & MS_NOATIME) == 0 && (file.flags() & O_NOATIME) == 0)
        file.inode()->note_accessed((flags & MS_STRICTATIME) != 0);
}

} // namespace

Result<usize> RegularFile::read(IoBuffer& out, u64 offset) {
    PageCache* cache = inode_->page_cache();
    if (cache == nullptr)
        return fail(EINVAL);
    if (!silent && path_)
        TRY(ask_to_use(path_, FAN_ACCESS_PERM));
    const u64 size = inode_->file_size();
    if (offset >= size)
        return usize{0};
    out.truncate(size - offset);
    usize done = 0;
    usize pages = 0;
    while (out.remaining() > 0) {
        const u64 at = offset + done;
        const usize in_page = at % page_size;
        auto frame = cache->get(at >> page_shift);
        if (!frame) {
            if (done != 0 || frame.error().code == ENXIO) // the file became shorter
                break;
            return fail(frame.error().code);
        }
        const usize left = page_size - in_page;
        const usize piece = out.remaining() < left ? out.remaining() : left;
        const usize copied = out.copy_out(frame->data() + in_page, piece);
        done += copied;
        if (copied < piece) {
            if (done == 0)
                return fail(EFAULT);
            break;
        }
        if (++pages % pages_between_breaks == 0)
            cond_resched();
    }
    if (done != 0) {
        note_read(*this);
        notify_file(*this, IN_ACCESS);
    }
    return done;
}

namespace {

// The page with the next `piece` bytes of `in`, at most a page's worth, copied to it; `copied` may
// fall short of them. Locks: the inode's mutex is held.
Result<FrameRef> fill_page(PageCache& cache, IoBuffer& in, u64 at, usize piece, usize& copied) {
    const u64 index = at >> page_shift;
    const usize in_page = at % page_size;
    FrameRef frame = cache.lookup(index);
    if (!frame && piece != page_size) {
        TRY(frame, cache.get_for_write(index, false));
    }
    if (frame) {
        copied = in.copy_in(frame.data() + in_page, piece);
        return frame;
    }
    // Nothing of the old contents is needed, and nothing but all of the new ones is shown: who
    // reads meanwhile has neither zeros nor a part.
    FrameRef fresh = FrameRef::adopt(alloc_frame());
    if (!fresh)
        return fail(ENOMEM);
    copied = in.copy_in(fresh.data(), page_size);
    if (copied == page_size) {
        auto inserted = cache.insert(index, FrameRef::share(*fresh));
        if (inserted)
            return fresh;
        if (inserted.error().code != EEXIST)
            return fail(inserted.error().code);
    }
    TRY(frame, cache.get_for_write(index, false));
    __builtin_memcpy(frame.data(), fresh.data(), copied);
    return frame;
}

} // namespace

// Locks: the inode's mutex is held.
Result<usize> RegularFile::write_locked(IoBuffer& in, u64 offset) {
    PageCache& cache = *inode_->page_cache();
    u64 size = inode_->file_size();
    usize done = 0;
    while (in.remaining() > 0) {
        const u64 at = offset + done;
        const usize left = page_size - at % page_size;
        usize piece = in.remaining() < left ? in.remaining() : left;
        // Pages in: most copies then need not be made twice.
        piece = in.fault_in(piece);
        if (piece == 0)
            return done != 0 ? Result<usize>(done) : Result<usize>(fail(EFAULT));
        usize copied = 0;
        auto frame = fill_page(cache, in, at, piece, copied);
        if (!frame)
            return done != 0 ? Result<usize>(done) : Result<usize>(fail(frame.error().code));
        // The size first: write-back cuts pages off at the size it sees.
        if (at + copied > size) {
            auto extended = inode_->extend(at + copied);
            if (!extended)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(extended.error().code));
            size = at + copied;
        }
        cache.mark_dirty(**frame);
        // Dropped before it was dirty, since the file changed behind us: into the page that takes
        // its place.
        while (!cache.memory_only() &&
               __atomic_load_n(&(*frame)->cache, __ATOMIC_ACQUIRE) != &cache) {
            auto again = cache.get_for_write(at >> page_shift, false);
            if (!again)
                return done != 0 ? Result<usize>(done) : Result<usize>(fail(again.error().code));
            __builtin_memcpy(again->data() + at % page_size, (*frame).data() + at % page_size,
                             copied);
            frame = std::move(again);
            cache.mark_dirty(**frame);
        }
        done += copied;
        if (copied < piece)
            break;
        if (done / page_size % pages_between_breaks == pages_between_breaks - 1)
            cond_resched();
    }
    return done;
}

Result<usize> RegularFile::write(IoBuffer& in, u64 offset) {
    if (inode_->page_cache() == nullptr)
        return fail(EINVAL);
    usize done = 0;
    {
        MutexGuard guard(inode_->mutex());
        const bool append = (flags_ & O_APPEND) != 0 || offset == at_end;
        if (append)
            offset = inode_->file_size();
        if (in.remaining() == 0)
            return usize{0};
        TRY(const usize allowed, limit_file_size(offset, in.remaining()));
        in.truncate(allowed);
        TRY(drop_privileges(*inode_));
        TRY(const usize fitting, before_write(offset, in.remaining()));
        in.truncate(fitting);
        TRY(done, write_locked(in, offset));
        inode_->note_modified();
        if (append)
            append_end = offset + done;
    }
    if ((flags_ & (O_SYNC | O_DSYNC)) != 0)
        TRY(sync((flags_ & __O_SYNC) == 0));
    notify_file(*this, IN_MODIFY);
    return done;
}

Result<Ref<PageCache>> RegularFile::mapping(u32 protection, u32 map_flags) {
    if (!readable() ||
        ((map_flags & MAP_SHARED) != 0 && (protection & PROT_WRITE) != 0 && !writable()))
        return fail(EACCES);
    if ((protection & PROT_EXEC) != 0 && path_.mount() != nullptr &&
        (path_.mount()->flags() & MS_NOEXEC) != 0)
        return fail(EPERM);
    PageCache* cache = inode_->page_cache();
    if (cache == nullptr)
        return fail(ENODEV);
    note_read(*this);
    return Ref<PageCache>::share(cache);
}

u32 RegularFile::poll(PollTable*) {
    return POLLIN | POLLOUT | POLLRDNORM | POLLWRNORM;
}

Result<void> RegularFile::sync(bool) {
    PageCache* cache = inode_->page_cache();
    if (cache == nullptr || cache->memory_only())
        return {};
    return cache->write_back(0, ~u64{0});
}

Result<void> RegularFile::truncate(u64 size) {
    TRY(truncate_inode(*inode_, size));
    notify_file(*this, IN_MODIFY);
    return {};
}

} // namespace kernel
