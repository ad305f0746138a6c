#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fcntl.h>

#include "guestkernel/fs/directory_ops.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

// Packs entries into a kernel buffer, in the layout of getdents64(2) or of the old getdents(2).
class EntryPacker : public DirectorySink {
public:
    EntryPacker(u8* buffer, usize capacity, bool old_layout)
        : buffer_(buffer), capacity_(capacity), old_layout_(old_layout) {}
    bool add(std::string_view name, u64 inode, u32 type, u64 next_offset) override {
        // struct linux_dirent64: u64 d_ino, s64 d_off, u16 d_reclen, u8 d_type, name; the old one
        // has no d_type there but in the record's last byte.
        const usize head = old_layout_ ? 18 : 19;
        const usize length = (head + name.size() + (old_layout_ ? 2 : 1) + 7) & ~usize{7};
        if (used_ + length > capacity_) {
            too_small_ = used_ == 0;
            return false;
        }
        u8* at = buffer_ + used_;
        __builtin_memset(at, 0, length);
        const auto record = static_cast<u16>(length);
        __builtin_memcpy(at, &inode, 8);
        __builtin_memcpy(at + 8, &next_offset, 8);
        __builtin_memcpy(at + 16, &record, 2);
        at[old_layout_ ? length - 1 : 18] = static_cast<u8>(type);
        __builtin_memcpy(at + head, name.data(), name.size());
        used_ += length;
        behind_ = next_offset;
        return true;
    }
    // The position behind the last entry. Requires: used().
    u64 behind() const { return behind_; }
    usize used() const { return used_; }
    bool too_small() const { return too_small_; }

private:
    u8* buffer_;
    usize capacity_;
    bool old_layout_;
    usize used_ = 0;
    u64 behind_ = 0;
    bool too_small_ = false;
};

Result<long> read_entries(Task& task, int fd, u64 out, u32 size, bool old_layout) {
    constexpr usize largest = 32 * 1024; // what C libraries ask for
    TRY(Ref<File> file, usable_file(task, fd));
    if (file->inode() == nullptr || !file->inode()->is_directory())
        return fail(ENOTDIR);
    const usize capacity = size < largest ? size : largest;
    if (!user_range_ok(out, capacity))
        return fail(EFAULT);
    u8* buffer = static_cast<u8*>(kmalloc(capacity == 0 ? 1 : capacity));
    if (buffer == nullptr)
        return fail(ENOMEM);
    EntryPacker packer(buffer, capacity, old_layout);
    auto run = [&]() -> Result<long> {
        if (const Dentry* dentry = file->path().dentry(); dentry != nullptr && dentry->deleted())
            return fail(ENOENT);
        MutexGuard guard(file->position_mutex());
        if (!file->silent)
            TRY(ask_to_use(file->path(), FAN_ACCESS_PERM));
        auto next = file->read_directory(packer, file->position());
        if (!next && packer.used() == 0)
            return fail(next.error().code);
        if (packer.too_small())
            return fail(EINVAL);
        TRY(copy_out_bytes(out, buffer, packer.used()));
        // An error is told by the next call, which must not begin with the same entries again: a
        // reader would never come to it.
        file->set_position(next ? *next : packer.behind());
        notify_file(*file, FAN_ACCESS);
        return static_cast<long>(packer.used());
    };
    auto result = restartable(run());
    kfree(buffer);
    return result;
}

Result<void> enter(Task& task, const Path& path) {
    TRY(check_search(*path.dentry()->inode()));
    task.fs->set_cwd(path);
    return {};
}

} // namespace

Result<long> sys_getdents(Task& task, int fd, u64 out, u32 size) {
    return read_entries(task, fd, out, size, true);
}
Result<long> sys_getdents64(Task& task, int fd, u64 out, u32 size) {
    return read_entries(task, fd, out, size, false);
}

Result<long> sys_getcwd(Task& task, u64 out, u64 size) {
    const Path cwd = task.fs->cwd();
    if (cwd.dentry()->deleted())
        return fail(ENOENT);
    TRY(String name, path_name_from(task.fs->root(), cwd));
    if (name.size() + 1 > size)
        return fail(ERANGE);
    TRY(copy_out_bytes(out, name.c_str(), name.size() + 1));
    return static_cast<long>(name.size() + 1);
}

Result<long> sys_chdir(Task& task, u64 name) {
    TRY(String text, copy_path(name));
    TRY(Path path, lookup_path(at_fdcwd, text.view(), lookup_follow | lookup_directory));
    TRY(enter(task, path));
    return 0;
}

Result<long> sys_fchdir(Task& task, int fd) {
    TRY(Ref<File> file, task.files->get(fd));
    if (file->inode() == nullptr || !file->inode()->is_directory())
        return fail(ENOTDIR);
    TRY(enter(task, file->path()));
    return 0;
}

Result<long> sys_chroot(Task& task, u64 name) {
    TRY(String text, copy_path(name));
    TRY(Path path, lookup_path(at_fdcwd, text.view(), lookup_follow | lookup_directory));
    TRY(check_search(*path.dentry()->inode()));
    if (!capable_here(CAP_SYS_CHROOT))
        return fail(EPERM);
    task.fs->set_root(path);
    return 0;
}

Result<long> sys_mkdirat(Task&, int directory, u64 name, u32 mode) {
    TRY(String text, copy_path(name));
    TRY(make_directory(directory, text.view(), mode));
    return 0;
}
Result<long> sys_mkdir(Task& task, u64 name, u32 mode) {
    return sys_mkdirat(task, at_fdcwd, name, mode);
}

Result<long> sys_rmdir(Task&, u64 name) {
    TRY(String text, copy_path(name));
    TRY(remove_directory(at_fdcwd, text.view()));
    return 0;
}

Result<long> sys_unlink(Task&, u64 name) {
    TRY(String text, copy_path(name));
    TRY(remove_file(at_fdcwd, text.view()));
    return 0;
}

Result<long> sys_unlinkat(Task&, int directory, u64 name, u32 flags) {
    if ((flags & ~u32{AT_REMOVEDIR}) != 0)
        return fail(EINVAL);
    TRY(String text, copy_path(name));
    TRY((flags & AT_REMOVEDIR) != 0 ? remove_directory(directory, text.view())
                                    : remove_file(directory, text.view()));
    return 0;
}

Result<long> sys_renameat2(Task&, int old_directory, u64 old_name, int new_directory, u64 new_name,
                           u32 flags) {
    TRY(String from, copy_path(old_name));
    TRY(String to, copy_path(new_name));
    TRY(rename_path(old_directory, from.view(), new_directory, to.view(), flags));
    return 0;
}
Result<long> sys_renameat(Task& task, int old_directory, u64 old_name, int new_directory,
                          u64 new_name) {
    return sys_renameat2(task, old_directory, old_name, new_directory, new_name, 0);
}
Result<long> sys_rename(Task& task, u64 old_name, u64 new_name) {
    return sys_renameat2(task, at_fdcwd, old_name, at_fdcwd, new_name, 0);
}

Result<long> sys_linkat(Task&, int old_directory, u64 old_name, int new_directory, u64 new_name,
                        u32 flags) {
    if ((flags & ~u32{AT_SYMLINK_FOLLOW | AT_EMPTY_PATH}) != 0)
        return fail(EINVAL);
    TRY(String from, copy_path(old_name));
    TRY(String to, copy_path(new_name));
    TRY(make_link(old_directory, from.view(), new_directory, to.view(), flags));
    return 0;
}
Result<long> sys_link(Task& task, u64 old_name, u64 new_name) {
    return sys_linkat(task, at_fdcwd, old_name, at_fdcwd, new_name, 0);
}

Result<long> sys_symlinkat(Task&, u64 target, int directory, u64 name) {
    TRY(String text, copy_path(target));
    TRY(String place, copy_path(name));
    TRY(make_symlink(text.view(), directory, place.view()));
    return 0;
}
Result<long> sys_symlink(Task& task, u64 target, u64 name) {
    return sys_symlinkat(task, target, at_fdcwd, name);
}

Result<long> sys_mknodat(Task&, int directory, u64 name, u32 mode, u32 device) {
    TRY(String text, copy_path(name));
    TRY(make_node(directory, text.view(), mode, device));
    return 0;
}
Result<long> sys_mknod(Task& task, u64 name, u32 mode, u32 device) {
    return sys_mknodat(task, at_fdcwd, name, mode, device);
}

} // namespace kernel
