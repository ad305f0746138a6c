// inotify(7).
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/inotify.h>

#include "guestkernel/ipc/inotify.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/socket_calls.hpp"

namespace kernel {

namespace {

constexpr u32 may_read = 4;
constexpr u32 known_bits = u32{IN_ALL_EVENTS} | IN_UNMOUNT | IN_Q_OVERFLOW | IN_IGNORED |
                           IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK | IN_MASK_CREATE |
                           IN_MASK_ADD | IN_ISDIR | IN_ONESHOT;

Result<InotifyFile*> as_inotify(File& file) {
    InotifyFile* inotify = file_as<InotifyFile>(file);
    if (inotify == nullptr)
        return fail(EINVAL);
    return inotify;
}

} // namespace

Result<long> sys_inotify_init1(Task& task, int flags) {
    if ((flags & ~(IN_CLOEXEC | IN_NONBLOCK)) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, make_inotify_file(static_cast<u32>(flags & IN_NONBLOCK)));
    TRY(const int fd, task.files->install(std::move(file), (flags & IN_CLOEXEC) != 0));
    return fd;
}

Result<long> sys_inotify_init(Task& task) {
    return sys_inotify_init1(task, 0);
}

Result<long> sys_inotify_add_watch(Task& task, int fd, u64 name, u32 mask) {
    if ((mask & known_bits) == 0)
        return fail(EINVAL);
    TRY(Ref<File> file, usable_file(task, fd));
    if ((mask & IN_MASK_ADD) != 0 && (mask & IN_MASK_CREATE) != 0)
        return fail(EINVAL);
    TRY(InotifyFile * inotify, as_inotify(*file));
    TRY(String text, copy_path(name));
    const u32 lookup = ((mask & IN_DONT_FOLLOW) != 0 ? 0 : u32{lookup_follow}) |
                       ((mask & IN_ONLYDIR) != 0 ? u32{lookup_directory} : 0);
    TRY(Path path, lookup_path(at_fdcwd, text.view(), lookup));
    TRY(check_access(path, may_read));
    TRY(const i32 number, inotify->add_watch(path, mask));
    return number;
}

Result<long> sys_inotify_rm_watch(Task& task, int fd, int watch) {
    TRY(Ref<File> file, usable_file(task, fd));
    TRY(InotifyFile * inotify, as_inotify(*file));
    TRY(inotify->remove_watch(watch));
    return 0;
}

} // namespace kernel
