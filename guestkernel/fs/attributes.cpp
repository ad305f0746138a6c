#include "guestkernel/fs/attributes.hpp"

#include <asm/signal.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/inotify.h>
#include <linux/resource.h>

#include "guestkernel/fs/acl.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u64 largest_file = 0x7fff'ffff'ffff'ffff;

Result<void> check_writable_mount(const Path& path) {
    // Nameless files (pipes, sockets) are on no mount.
    return path.mount() != nullptr && path.mount()->read_only() ? Result<void>(fail(EROFS))
                                                                : Result<void>();
}

} // namespace

Result<void> change_mode(const Path& path, u32 mode) {
    Inode& inode = *path.dentry()->inode();
    TRY(check_writable_mount(path));
    if (inode.is_symlink())
        return fail(EOPNOTSUPP);
    MutexGuard guard(inode.mutex());
    if (inode.is_frozen() || !owner_or_capable(inode))
        return fail(EPERM);
    Attributes wanted;
    wanted.mode = inode.type() | (mode & mode_permissions);
    // chmod(2): who is not in the file's group cannot set its set-group-ID bit.
    const Credentials* who = current_credentials();
    if ((wanted.mode & mode_sgid) != 0 && who != nullptr && who->fsgid != inode.gid_ &&
        !who->in_group(inode.gid_) && !capable_over_inode(who, inode, CAP_FSETID))
        wanted.mode &= ~mode_sgid;
    TRY(inode.set_attributes(wanted, set_mode));
    TRY(change_acl_mode(inode, wanted.mode));
    guard.unlock();
    notify_path(path, IN_ATTRIB);
    return {};
}

Result<void> change_owner(const Path& path, u32 uid, u32 gid) {
    Inode& inode = *path.dentry()->inode();
    TRY(check_writable_mount(path));
    MutexGuard guard(inode.mutex());
    if ((uid != keep_id || gid != keep_id) && inode.is_frozen())
        return fail(EPERM);
    const Credentials* who = current_credentials();
    if (!capable_over_inode(who, inode, CAP_CHOWN)) {
        if (uid != keep_id && (who->fsuid != inode.uid_ || uid != inode.uid_))
            return fail(EPERM);
        if (gid != keep_id && (who->fsuid != inode.uid_ ||
                               (gid != inode.gid_ && gid != who->fsgid && !who->in_group(gid))))
            return fail(EPERM);
    }
    Attributes wanted;
    u32 mask = 0;
    if (uid != keep_id) {
        wanted.uid = uid;
        mask |= set_uid;
    }
    if (gid != keep_id) {
        wanted.gid = gid;
        mask |= set_gid;
    }
    // Linux clears them even for root, but for directories. That is a change of the mode, which is
    // the owner's to make: a call that names no owner and no group must not do it for anybody.
    if (!inode.is_directory() && has_suid(inode)) {
        if (!owner_or_capable(inode))
            return fail(EPERM);
        wanted.mode = inode.mode_ & ~mode_suid;
        if ((inode.mode_ & 0010) != 0)
            wanted.mode &= ~mode_sgid;
        mask |= set_mode;
    }
    if (mask != 0)
        TRY(inode.set_attributes(wanted, mask));
    // For root, too; and, as on Linux, for anybody who may reach the file and changes nothing.
    if (!inode.is_directory())
        TRY(inode.drop_capabilities());
    guard.unlock();
    notify_path(path, IN_ATTRIB);
    return {};
}

Result<void> change_times(const Path& path, const Attributes& times, u32 mask, bool both_now) {
    Inode& inode = *path.dentry()->inode();
    TRY(check_writable_mount(path));
    if (both_now ? inode.is_immutable() : inode.is_frozen())
        return fail(EPERM);
    if (!owner_or_capable(inode)) {
        if (!both_now)
            return fail(EPERM);
        TRY(check_permission(inode, may_write));
    }
    MutexGuard guard(inode.mutex());
    TRY(inode.set_attributes(times, mask));
    guard.unlock();
    notify_path(path, IN_ATTRIB);
    return {};
}

Result<void> drop_privileges(Inode& inode) {
    TRY(inode.drop_capabilities());
    if (!has_suid(inode) || capable_over_inode(current_credentials(), inode, CAP_FSETID))
        return {};
    Attributes wanted;
    wanted.mode = inode.mode_ & ~mode_suid;
    if ((inode.mode_ & 0010) != 0)
        wanted.mode &= ~mode_sgid;
    return inode.set_attributes(wanted, set_mode);
}

Result<usize> limit_file_size(u64 offset, usize bytes) {
    if (offset >= largest_file)
        return fail(EFBIG);
    if (bytes > largest_file - offset)
        bytes = largest_file - offset;
    Task& task = current_task();
    if (task.process == nullptr)
        return bytes;
    const u64 limit = current_limit(RLIMIT_FSIZE);
    if (limit == ~u64{0} || offset + bytes <= limit)
        return bytes;
    if (offset >= limit) {
        send_signal(task, SIGXFSZ);
        return fail(EFBIG);
    }
    return limit - offset;
}

Result<void> truncate_inode(Inode& inode, u64 size) {
    if (size > largest_file)
        return fail(EINVAL);
    MutexGuard guard(inode.mutex());
    if (inode.page_cache() == nullptr || size > inode.file_size())
        TRY(limit_file_size(size == 0 ? 0 : size - 1, 1));
    TRY(drop_privileges(inode));
    Attributes wanted;
    wanted.size = size;
    return inode.set_attributes(wanted, set_size);
}

Result<void> truncate_path(const Path& path, u64 size) {
    TRY(truncate_inode(*path.dentry()->inode(), size));
    notify_path(path, IN_MODIFY);
    return {};
}

} // namespace kernel
