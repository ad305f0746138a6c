// name_to_handle_at(2), open_by_handle_at(2).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/file_handle.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

constexpr u32 largest_handle = 128; // MAX_HANDLE_SZ
constexpr u32 handle_fid = 0x200;   // AT_HANDLE_FID, which the headers of Linux 6.1 lack

struct HandleHead { // struct file_handle, whose bytes follow
    u32 bytes, type;
};

} // namespace

Result<long> sys_name_to_handle_at(Task&, int directory, u64 name, u64 handle, UserPtr<i32> mount,
                                   u32 flags) {
    if ((flags & ~u32{AT_SYMLINK_FOLLOW | AT_EMPTY_PATH | handle_fid}) != 0)
        return fail(EINVAL);
    TRY(String text, copy_path(name));
    const u32 lookup = ((flags & AT_SYMLINK_FOLLOW) != 0 ? u32{lookup_follow} : 0u) |
                       ((flags & AT_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u);
    TRY(const Path path, lookup_path(directory, text.view(), lookup));
    TRY(const HandleHead room, UserPtr<const HandleHead>(handle).copy_in());
    if (room.bytes > largest_handle)
        return fail(EINVAL);
    TRY(const FileHandle made, make_file_handle(path, (flags & handle_fid) != 0));
    TRY(mount.copy_out(static_cast<i32>(path.mount()->id())));
    TRY(UserPtr<HandleHead>(handle).copy_out({made.bytes, made.type}));
    if (room.bytes < made.bytes)
        return fail(EOVERFLOW);
    TRY(copy_out_bytes(handle + sizeof room, made.words, made.bytes));
    return 0;
}

Result<long> sys_open_by_handle_at(Task& task, int mount, u64 handle, u32 flags) {
    if (!has_capability(current_credentials(), CAP_DAC_READ_SEARCH))
        return fail(EPERM);
    Path where = task.fs->cwd();
    if (mount != at_fdcwd) {
        TRY(Ref<File> file, task.files->get(mount));
        TRY(where, path_of(*file));
    }
    TRY(const HandleHead head, UserPtr<const HandleHead>(handle).copy_in());
    if (head.bytes == 0 || head.bytes > largest_handle)
        return fail(EINVAL);
    FileHandle wanted;
    if (head.bytes > FileHandle::largest)
        return fail(ESTALE);
    wanted.bytes = head.bytes;
    wanted.type = head.type;
    TRY(copy_in_bytes(wanted.words, handle + sizeof head, head.bytes));
    TRY(const Path path, find_file_handle(where, wanted));
    if ((flags & O_DIRECTORY) != 0 && !path.dentry()->inode()->is_directory())
        return fail(ENOTDIR);
    TRY(const int fd, task.files->reserve());
    auto file = restartable(open_path(path, (flags & ~u32{O_CREAT | O_EXCL}) | O_LARGEFILE));
    if (!file) {
        task.files->unreserve(fd);
        return fail(file.error().code);
    }
    task.files->fill(fd, std::move(*file), (flags & O_CLOEXEC) != 0);
    return fd;
}

} // namespace kernel
