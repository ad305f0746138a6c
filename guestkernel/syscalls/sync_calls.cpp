#include <linux/errno.h>
#include <linux/fadvise.h>
#include <linux/fs.h>

#include "guestkernel/fs/mount.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

Result<long> sync_file(Task& task, int fd, bool data_only) {
    TRY(Ref<File> file, usable_file(task, fd));
    auto done = file->sync(data_only);
    // A directory's names are as durable as its file system makes them.
    if (!done && done.error().code == EINVAL && file->inode() != nullptr &&
        file->inode()->is_directory())
        return 0;
    TRY(restartable(std::move(done)));
    return 0;
}

PageCache* cache_of(File& file) {
    return file.inode() == nullptr ? nullptr : file.inode()->page_cache();
}

} // namespace

Result<long> sys_fsync(Task& task, int fd) {
    return sync_file(task, fd, false);
}
Result<long> sys_fdatasync(Task& task, int fd) {
    return sync_file(task, fd, true);
}

Result<long> sys_sync(Task&) {
    write_back_all();
    Vector<Ref<Mount>> mounts;
    TRY(MountTree::list(mounts));
    for (const Ref<Mount>& mount : mounts)
        if (!mount->superblock().sync()) {
            // sync(2) cannot fail
        }
    return 0;
}

Result<long> sys_syncfs(Task& task, int fd) {
    TRY(Ref<File> file, usable_file(task, fd));
    write_back_all();
    if (file->inode() != nullptr)
        TRY(file->inode()->superblock()->sync());
    return 0;
}

Result<long> sys_sync_file_range(Task& task, int fd, i64 offset, i64 length, u32 flags) {
    constexpr u32 known =
        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    i64 end = 0;
    if ((flags & ~known) != 0 || offset < 0 || length < 0 ||
        __builtin_add_overflow(offset, length, &end))
        return fail(EINVAL);
    TRY(Ref<File> file, usable_file(task, fd));
    if (file->is_stream())
        return fail(ESPIPE);
    PageCache* cache = cache_of(*file);
    if (cache == nullptr)
        return fail(file->inode() != nullptr && file->inode()->is_directory() ? EINVAL : ESPIPE);
    if (!cache->memory_only())
        TRY(cache->write_back(static_cast<u64>(offset),
                              length == 0 ? ~u64{0} : static_cast<u64>(end)));
    return 0;
}

Result<long> sys_readahead(Task& task, int fd, i64 offset, u64 count) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (!file->readable())
        return fail(EBADF);
    PageCache* cache = cache_of(*file);
    if (cache == nullptr || offset < 0 || static_cast<i64>(count) < 0)
        return fail(EINVAL);
    constexpr u64 most_pages = 512; // a hint: 2 MiB are enough of it
    const u64 pages = page_up((static_cast<u64>(offset) & (page_size - 1)) + count) >> page_shift;
    TRY(cache->read_ahead(static_cast<u64>(offset) >> page_shift,
                          pages < most_pages ? pages : most_pages));
    return 0;
}

Result<long> sys_fadvise64(Task& task, int fd, i64 offset, i64 length, int advice) {
    TRY(Ref<File> file, usable_file(task, fd));
    if (file->is_stream())
        return fail(ESPIPE);
    if (length < 0 || offset < 0 || advice < POSIX_FADV_NORMAL || advice > POSIX_FADV_NOREUSE)
        return fail(EINVAL);
    if (advice == POSIX_FADV_WILLNEED && cache_of(*file) != nullptr && file->readable()) {
        const u64 bytes = length == 0 ? largest_transfer : static_cast<u64>(length);
        if (!sys_readahead(task, fd, offset, bytes)) {
            // advice only
        }
    }
    return 0;
}

} // namespace kernel
