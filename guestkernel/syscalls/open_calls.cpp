#include <linux/close_range.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/openat2.h>
#include <linux/resource.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

Result<long> open_and_install(Task& task, int directory, u64 name, u32 flags, u32 mode,
                              u32 lookup) {
    TRY(String path, copy_path(name));
    PathWalker walker(lookup);
    TRY(walker.start(directory, path.view()));
    // The number first: a file that cannot be installed must not have been created (open(2),
    // EMFILE).
    TRY(const int fd, task.files->reserve());
    auto file = restartable(open_walk(walker, flags, mode));
    if (!file) {
        task.files->unreserve(fd);
        return fail(file.error().code);
    }
    task.files->fill(fd, std::move(*file), (flags & O_CLOEXEC) != 0);
    return fd;
}

u32 resolve_to_lookup(u64 resolve) {
    u32 lookup = 0;
    lookup |= (resolve & RESOLVE_NO_XDEV) != 0 ? u32{lookup_no_xdev} : 0u;
    lookup |= (resolve & RESOLVE_NO_MAGICLINKS) != 0 ? u32{lookup_no_magic_links} : 0u;
    lookup |=
        (resolve & RESOLVE_NO_SYMLINKS) != 0 ? u32{lookup_no_symlinks | lookup_no_magic_links} : 0u;
    lookup |= (resolve & RESOLVE_BENEATH) != 0 ? u32{lookup_beneath} : 0u;
    lookup |= (resolve & RESOLVE_IN_ROOT) != 0 ? u32{lookup_in_root} : 0u;
    lookup |= (resolve & RESOLVE_CACHED) != 0 ? u32{lookup_cached} : 0u;
    return lookup;
}

} // namespace

Result<long> sys_open(Task& task, u64 name, u32 flags, u32 mode) {
    return open_and_install(task, at_fdcwd, name, flags, mode, 0);
}
Result<long> sys_openat(Task& task, int directory, u64 name, u32 flags, u32 mode) {
    return open_and_install(task, directory, name, flags, mode, 0);
}
Result<long> sys_creat(Task& task, u64 name, u32 mode) {
    return open_and_install(task, at_fdcwd, name, O_CREAT | O_WRONLY | O_TRUNC, mode, 0);
}

Result<long> sys_openat2(Task& task, int directory, u64 name, u64 how_address, u64 size) {
    open_how how{};
    if (size < sizeof how)
        return fail(EINVAL);
    if (size > page_size)
        return fail(E2BIG);
    TRY(copy_in_bytes(&how, how_address, sizeof how));
    for (u64 at = sizeof how; at < size; at++) { // fields of the future must be zero
        u8 byte = 0;
        TRY(copy_in_bytes(&byte, how_address + at, 1));
        if (byte != 0)
            return fail(E2BIG);
    }
    constexpr u64 known_resolve = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS |
                                  RESOLVE_BENEATH | RESOLVE_IN_ROOT | RESOLVE_CACHED;
    constexpr u64 known_flags = O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND |
                                O_NONBLOCK | O_DSYNC | __O_SYNC | FASYNC | O_DIRECT | O_LARGEFILE |
                                O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC | O_PATH |
                                __O_TMPFILE;
    if ((how.resolve & ~known_resolve) != 0 || (how.flags & ~known_flags) != 0)
        return fail(EINVAL);
    if ((how.resolve & RESOLVE_BENEATH) != 0 && (how.resolve & RESOLVE_IN_ROOT) != 0)
        return fail(EINVAL);
    const bool makes = (how.flags & (O_CREAT | __O_TMPFILE)) != 0;
    if (makes ? (how.mode & ~u64{mode_permissions}) != 0 : how.mode != 0)
        return fail(EINVAL);
    if ((how.flags & O_PATH) != 0 &&
        (how.flags & ~u64{O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC}) != 0)
        return fail(EINVAL);
    if ((how.resolve & RESOLVE_CACHED) != 0 && (makes || (how.flags & O_TRUNC) != 0))
        return fail(EAGAIN);
    return open_and_install(task, directory, name, static_cast<u32>(how.flags),
                            static_cast<u32>(how.mode), resolve_to_lookup(how.resolve));
}

Result<long> sys_close(Task& task, int fd) {
    TRY(task.files->close(fd));
    return 0;
}

Result<long> sys_close_range(Task& task, u32 first, u32 last, u32 flags) {
    if ((flags & ~u32{CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC}) != 0 || first > last)
        return fail(EINVAL);
    if ((flags & CLOSE_RANGE_UNSHARE) != 0 && task.files->ref_count() > 1) {
        TRY(Ref<FileTable> own, task.files->clone());
        // Under the lock by which others take a reference to it (/proc/PID/fd, pidfd_getfd(2)). The
        // old table, which may by now be this task's alone, goes after it.
        SpinGuard tree(process_tree_lock());
        std::swap(task.files, own);
    }
    TRY(task.files->close_range(first, last, (flags & CLOSE_RANGE_CLOEXEC) != 0));
    return 0;
}

Result<long> sys_dup(Task& task, int fd) {
    TRY(Ref<File> file, task.files->get(fd));
    TRY(const int copy, task.files->install(std::move(file), false));
    return copy;
}

Result<long> sys_dup2(Task& task, int fd, int target) {
    TRY(Ref<File> file, task.files->get(fd));
    if (fd == target)
        return target;
    TRY(task.files->replace(target, std::move(file), false));
    return target;
}

Result<long> sys_dup3(Task& task, int fd, int target, u32 flags) {
    if ((flags & ~u32{O_CLOEXEC}) != 0 || fd == target)
        return fail(EINVAL);
    TRY(Ref<File> file, task.files->get(fd));
    TRY(task.files->replace(target, std::move(file), (flags & O_CLOEXEC) != 0));
    return target;
}

} // namespace kernel
