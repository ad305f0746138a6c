#include <asm/stat.h>
#include <asm/statfs.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include <linux/securebits.h>
#include <linux/stat.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

Result<long> copy_stat(Inode& inode, u64 address) {
    TRY(const Attributes from, inode.attributes());
    struct stat out {};
    out.st_dev = inode.superblock()->device_number;
    out.st_ino = from.inode;
    out.st_nlink = from.links;
    out.st_mode = from.mode;
    const UserNamespace* reader = current_task().credentials->user_ns.get();
    out.st_uid = from_global_id(reader, false, from.uid);
    out.st_gid = from_global_id(reader, true, from.gid);
    out.st_rdev = from.device_number;
    out.st_size = static_cast<i64>(from.size);
    out.st_blksize = from.block_size;
    out.st_blocks = static_cast<i64>(from.blocks);
    out.st_atime = static_cast<u64>(from.access_time.seconds);
    out.st_atime_nsec = from.access_time.nanoseconds;
    out.st_mtime = static_cast<u64>(from.modify_time.seconds);
    out.st_mtime_nsec = from.modify_time.nanoseconds;
    out.st_ctime = static_cast<u64>(from.change_time.seconds);
    out.st_ctime_nsec = from.change_time.nanoseconds;
    TRY(copy_out_bytes(address, &out, sizeof out));
    return 0;
}

statx_timestamp to_statx(const TimeSpec& time) {
    statx_timestamp out{};
    out.tv_sec = time.seconds;
    out.tv_nsec = time.nanoseconds;
    return out;
}

Result<long> copy_statx(Inode& inode, const Path& path, u64 address) {
    TRY(const Attributes from, inode.attributes());
    struct statx out {};
    out.stx_mask = STATX_BASIC_STATS;
    out.stx_blksize = from.block_size;
    out.stx_nlink = from.links;
    const UserNamespace* reader = current_task().credentials->user_ns.get();
    out.stx_uid = from_global_id(reader, false, from.uid);
    out.stx_gid = from_global_id(reader, true, from.gid);
    out.stx_mode = static_cast<u16>(from.mode);
    out.stx_ino = from.inode;
    out.stx_size = from.size;
    out.stx_blocks = from.blocks;
    out.stx_atime = to_statx(from.access_time);
    out.stx_mtime = to_statx(from.modify_time);
    out.stx_ctime = to_statx(from.change_time);
    if (from.birth_time.seconds != 0) {
        out.stx_btime = to_statx(from.birth_time);
        out.stx_mask |= STATX_BTIME;
    }
    out.stx_rdev_major = device_major(from.device_number);
    out.stx_rdev_minor = device_minor(from.device_number);
    out.stx_dev_major = device_major(inode.superblock()->device_number);
    out.stx_dev_minor = device_minor(inode.superblock()->device_number);
    out.stx_attributes_mask = STATX_ATTR_MOUNT_ROOT;
    if (inode.keeps_flags()) {
        constexpr u32 told = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP;
        static_assert(told == (Inode::immutable_flag | Inode::append_flag | Inode::no_dump_flag));
        out.stx_attributes_mask |= told;
        out.stx_attributes |= inode.file_flags.load() & told;
    }
    if (path) {
        out.stx_mnt_id = path.mount()->id();
        out.stx_mask |= STATX_MNT_ID;
        if (path.dentry() == &path.mount()->root())
            out.stx_attributes |= STATX_ATTR_MOUNT_ROOT;
    }
    TRY(copy_out_bytes(address, &out, sizeof out));
    return 0;
}

Result<long> stat_path(int directory, u64 name, u64 out, u32 lookup) {
    TRY(String text, copy_path(name));
    TRY(Path path, lookup_path(directory, text.view(), lookup));
    return copy_stat(*path.dentry()->inode(), out);
}

u32 lookup_of(u32 flags) {
    return ((flags & AT_SYMLINK_NOFOLLOW) != 0 ? 0u : u32{lookup_follow}) |
           ((flags & AT_EMPTY_PATH) != 0 ? u32{lookup_empty_path} : 0u);
}

// The open file itself, when the name is empty and AT_EMPTY_PATH was given: what glibc's fstat()
// sends.
bool names_descriptor(int directory, std::string_view name, u32 flags) {
    return name.empty() && (flags & AT_EMPTY_PATH) != 0 && directory != at_fdcwd;
}

} // namespace

Result<long> sys_stat(Task&, u64 name, u64 out) {
    return stat_path(at_fdcwd, name, out, lookup_follow);
}
Result<long> sys_lstat(Task&, u64 name, u64 out) {
    return stat_path(at_fdcwd, name, out, 0);
}

Result<long> sys_fstat(Task& task, int fd, u64 out) {
    TRY(Ref<File> file, task.files->get(fd));
    if (file->inode() == nullptr)
        return fail(EBADF);
    return copy_stat(*file->inode(), out);
}

Result<long> sys_newfstatat(Task& task, int directory, u64 name, u64 out, u32 flags) {
    if ((flags & ~u32{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT}) != 0)
        return fail(EINVAL);
    TRY(String text, copy_path(name));
    if (names_descriptor(directory, text.view(), flags))
        return sys_fstat(task, directory, out);
    TRY(Path path, lookup_path(directory, text.view(), lookup_of(flags)));
    return copy_stat(*path.dentry()->inode(), out);
}

Result<long> sys_statx(Task& task, int directory, u64 name, u32 flags, u32 mask, u64 out) {
    if ((flags &
         ~u32{AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_SYNC_TYPE}) != 0 ||
        (mask & STATX__RESERVED) != 0 || (flags & AT_STATX_SYNC_TYPE) == AT_STATX_SYNC_TYPE)
        return fail(EINVAL);
    TRY(String text, copy_path(name));
    if (names_descriptor(directory, text.view(), flags)) {
        TRY(Ref<File> file, task.files->get(directory));
        if (file->inode() == nullptr)
            return fail(EBADF);
        return copy_statx(*file->inode(), file->path(), out);
    }
    TRY(Path path, lookup_path(directory, text.view(), lookup_of(flags)));
    return copy_statx(*path.dentry()->inode(), path, out);
}

namespace {

// access(2) asks for the real ids: what could the caller of a set-user-ID program do? The
// directories on the way count as well as the file, and a path is walked with what the task has.
Result<void> take_real_ids(BorrowedCredentials& ids) {
    const Credentials& own = *current_task().credentials;
    u64 capabilities = own.cap_effective;
    if ((own.securebits & SECBIT_NO_SETUID_FIXUP) == 0)
        capabilities = own.uid == own.root_id() ? own.cap_permitted : 0;
    if (own.fsuid == own.uid && own.fsgid == own.gid && own.cap_effective == capabilities)
        return {};
    TRY(Ref<Credentials> real, own.clone());
    real->fsuid = real->uid;
    real->fsgid = real->gid;
    real->cap_effective = capabilities;
    ids.take(std::move(real));
    return {};
}

Result<void> may_use(int directory, std::string_view name, u32 mode, u32 flags) {
    TRY(Path path, lookup_path(directory, name, lookup_of(flags)));
    Inode& inode = *path.dentry()->inode();
    if (mode == 0)
        return check_permission(inode, 0); // a device may be nobody's to see
    if ((mode & may_exec) != 0 && inode.is_regular() && (path.mount()->flags() & MS_NOEXEC) != 0)
        return fail(EACCES);
    return check_access(path, mode);
}

} // namespace

Result<long> sys_faccessat2(Task&, int directory, u64 name, u32 mode, u32 flags) {
    if ((mode & ~7u) != 0 || (flags & ~u32{AT_EACCESS | AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH}) != 0)
        return fail(EINVAL);
    TRY(String text, copy_path(name));
    BorrowedCredentials ids;
    if ((flags & AT_EACCESS) == 0)
        TRY(take_real_ids(ids));
    TRY(may_use(directory, text.view(), mode, flags));
    return 0;
}

Result<long> sys_faccessat(Task& task, int directory, u64 name, u32 mode) {
    return sys_faccessat2(task, directory, name, mode, 0);
}
Result<long> sys_access(Task& task, u64 name, u32 mode) {
    return sys_faccessat2(task, at_fdcwd, name, mode, 0);
}

Result<long> sys_readlinkat(Task& task, int directory, u64 name, u64 out, u64 size) {
    const auto room = static_cast<i32>(size); // an int, with rubbish above it perhaps
    if (room <= 0)
        return fail(EINVAL);
    (void)task;
    TRY(String text, copy_path(name));
    TRY(Path path, lookup_path(directory, text.view(), lookup_empty_path));
    Inode& inode = *path.dentry()->inode();
    if (!inode.is_symlink())
        return fail(text.empty() ? ENOENT : EINVAL);
    inode.note_accessed(false);
    TRY(String target, inode.readlink());
    const auto most = static_cast<usize>(room);
    const usize bytes = target.size() < most ? target.size() : most;
    TRY(copy_out_bytes(out, target.c_str(), bytes));
    return static_cast<long>(bytes);
}

Result<long> sys_readlink(Task& task, u64 name, u64 out, u64 size) {
    return sys_readlinkat(task, at_fdcwd, name, out, size);
}

namespace {

// ST_* of statfs(2): MS_* for the low four, own numbers above.
u64 statfs_flags(const Mount* mount) {
    constexpr u64 valid = 0x20, noatime = 0x400, nodiratime = 0x800, relatime = 0x1000;
    constexpr u64 nosymfollow = 0x2000;
    if (mount == nullptr)
        return valid;
    const u32 flags = mount->flags();
    u64 out = valid | (flags & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC));
    if (mount->read_only())
        out |= MS_RDONLY;
    out |= (flags & MS_NOATIME) != 0 ? noatime : 0;
    out |= (flags & MS_NODIRATIME) != 0 ? nodiratime : 0;
    out |= (flags & MS_RELATIME) != 0 ? relatime : 0;
    out |= (flags & MS_NOSYMFOLLOW) != 0 ? nosymfollow : 0;
    return out;
}

Result<long> copy_statfs(Inode& inode, const Mount* mount, u64 address) {
    TRY(const FileSystemStats from, inode.superblock()->stats());
    struct statfs out {};
    out.f_type = static_cast<long>(from.type);
    out.f_bsize = static_cast<long>(from.block_size);
    out.f_blocks = from.blocks;
    out.f_bfree = from.free_blocks;
    out.f_bavail = from.available_blocks;
    out.f_files = from.files;
    out.f_ffree = from.free_files;
    const u64 identity = from.fsid != 0 ? from.fsid : inode.superblock()->device_number;
    out.f_fsid.val[0] = static_cast<int>(identity);
    out.f_fsid.val[1] = static_cast<int>(identity >> 32);
    out.f_namelen = static_cast<long>(from.name_max);
    out.f_frsize = static_cast<long>(from.block_size);
    out.f_flags = static_cast<long>(statfs_flags(mount));
    TRY(copy_out_bytes(address, &out, sizeof out));
    return 0;
}

} // namespace

Result<long> sys_statfs(Task&, u64 name, u64 out) {
    TRY(String text, copy_path(name));
    TRY(Path path, lookup_path(at_fdcwd, text.view(), lookup_follow));
    return copy_statfs(*path.dentry()->inode(), path.mount(), out);
}

Result<long> sys_fstatfs(Task& task, int fd, u64 out) {
    TRY(Ref<File> file, task.files->get(fd));
    if (file->inode() == nullptr)
        return fail(EBADF);
    return copy_statfs(*file->inode(), file->path().mount(), out);
}

Result<long> sys_ustat(Task&, u64 device, u64 address) {
    struct { // struct ustat, which no UAPI header has any more
        i32 free_blocks;
        u32 padding;
        u64 free_inodes;
        char name[6], pack[6];
        u32 tail;
    } out{};
    static_assert(sizeof out == 32);
    Vector<Ref<Mount>> mounts;
    TRY(MountTree::list(mounts));
    for (const Ref<Mount>& mount : mounts) {
        if (mount->superblock().device_number != device)
            continue;
        TRY(const FileSystemStats stats, mount->superblock().stats());
        out.free_blocks = static_cast<i32>(stats.free_blocks);
        out.free_inodes = stats.free_files;
        TRY(copy_out_bytes(address, &out, sizeof out));
        return 0;
    }
    return fail(EINVAL);
}

} // namespace kernel
