#include "guestkernel/fs/permission.hpp"

#include <linux/capability.h>
#include <linux/errno.h>

#include "guestkernel/cgroup/device_programs.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

const Credentials* current_credentials() {
    return current_task().credentials.get();
}

bool has_capability(const Credentials* credentials, unsigned capability) {
    return credentials == nullptr || credentials->capable(capability);
}

bool capable_over_inode(const Credentials* credentials, const Inode& inode, unsigned capability) {
    if (credentials == nullptr)
        return true;
    if (!credentials->capable_here(capability))
        return false;
    const UserNamespace* space = credentials->user_ns.get();
    return is_initial(space) || (space->to_inside(false, inode.uid_) != invalid_id &&
                                 space->to_inside(true, inode.gid_) != invalid_id);
}

u32 current_fsuid() {
    const Credentials* credentials = current_credentials();
    return credentials == nullptr ? 0 : credentials->fsuid;
}

u32 current_fsgid() {
    const Credentials* credentials = current_credentials();
    return credentials == nullptr ? 0 : credentials->fsgid;
}

namespace {

bool in_group(const Credentials& credentials, u32 group) {
    return credentials.fsgid == group || credentials.in_group(group);
}

} // namespace

namespace {

bool is_device(u32 mode) {
    return (mode & mode_type) == mode_char || (mode & mode_type) == mode_block;
}

// What mode, list and capabilities say.
Result<void> check_rights(Inode& inode, u32 may, const Credentials* credentials) {
    const u32 mode = inode.mode_;
    if (Superblock* home = inode.superblock(); home != nullptr && home->own_rules) {
        TRY(const bool decided, home->admit(inode, *credentials));
        if (decided)
            return inode.is_regular() && (may & may_exec) != 0 && (mode & 0111) == 0
                       ? Result<void>(fail(EACCES))
                       : Result<void>();
    }
    u32 bits = mode;
    if (credentials->fsuid == inode.uid_) {
        bits >>= 6;
    } else if (inode.has_acl() && (mode & 070) != 0) { // the mask of the list allows nothing: the
                                                       // mode will do
        TRY(const Ref<const Acl> acl, inode.get_acl(AclKind::Access));
        if (acl)
            bits = acl->check(inode, may, *credentials) ? 7u : 0u;
        else if (in_group(*credentials, inode.gid_))
            bits >>= 3;
    } else if (in_group(*credentials, inode.gid_))
        bits >>= 3;
    if ((may & ~bits & 7) == 0)
        return {};
    // capabilities(7): directories are open to CAP_DAC_OVERRIDE altogether; files that nobody may
    // execute stay so.
    if (inode.is_directory()) {
        if (capable_over_inode(credentials, inode, CAP_DAC_OVERRIDE))
            return {};
        if ((may & may_write) == 0 &&
            (capable_over_inode(credentials, inode, CAP_DAC_READ_SEARCH) || inode.is_callers_own()))
            return {};
        return fail(EACCES);
    }
    if (may == may_read && capable_over_inode(credentials, inode, CAP_DAC_READ_SEARCH))
        return {};
    if (((may & may_exec) == 0 || (mode & 0111) != 0) &&
        capable_over_inode(credentials, inode, CAP_DAC_OVERRIDE))
        return {};
    return fail(EACCES);
}

} // namespace

Result<void> check_permission(Inode& inode, u32 may, const Credentials* credentials) {
    if (credentials == nullptr)
        return {};
    if ((may & may_write) != 0 && inode.is_immutable())
        return fail(EPERM);
    TRY(check_rights(inode, may, credentials));
    if (!is_device(inode.mode_) || !device_programs_exist())
        return {};
    TRY(const Attributes attributes, inode.attributes());
    return check_device_programs(inode.mode_, attributes.device_number, may, false);
}

Result<void> check_access(Inode& inode, u32 may) {
    return check_permission(inode, may);
}

Result<void> check_access(const Path& path, u32 may) {
    Inode& inode = *path.dentry()->inode();
    if ((may & may_write) != 0 && path.mount()->read_only() &&
        (inode.is_regular() || inode.is_directory() || inode.is_symlink()))
        return fail(EROFS);
    return check_permission(inode, may);
}

bool owner_or_capable(Inode& inode) {
    const Credentials* credentials = current_credentials();
    return credentials == nullptr || credentials->fsuid == inode.uid_ ||
           capable_over_inode(credentials, inode, CAP_FOWNER);
}

Result<void> check_create(Dentry& directory) {
    if (directory.deleted())
        return fail(ENOENT);
    // What a file system's own user namespace cannot name, nothing in it can belong to.
    const UserNamespace* space = directory.superblock().user_ns.get();
    if (!id_is_mapped(space, false, current_fsuid()) || !id_is_mapped(space, true, current_fsgid()))
        return fail(EOVERFLOW);
    return check_permission(*directory.inode(), may_write | may_exec);
}

Result<void> check_delete(Dentry& directory, Inode& child, bool as_directory) {
    TRY(check_permission(*directory.inode(), may_write | may_exec));
    const Inode& parent = *directory.inode();
    if (parent.is_append_only() || child.is_frozen())
        return fail(EPERM);
    const u32 fsuid = current_fsuid();
    if ((parent.mode_ & mode_sticky) != 0 && child.uid_ != fsuid && parent.uid_ != fsuid &&
        !capable_over_inode(current_credentials(), child, CAP_FOWNER))
        return fail(EPERM);
    if (as_directory && !child.is_directory())
        return fail(ENOTDIR);
    if (!as_directory && child.is_directory())
        return fail(EISDIR);
    return {};
}

Result<NewOwner> new_owner(Inode& directory, u32 mode) {
    NewOwner owner;
    owner.uid = current_fsuid();
    owner.gid = current_fsgid();
    owner.mode = mode;
    if ((mode & mode_type) != mode_symlink) {
        TRY(inherit_acls(directory, owner));
        mode = owner.mode;
    }
    if ((directory.mode_ & mode_sgid) != 0) {
        owner.gid = directory.gid_;
        const Credentials* credentials = current_credentials();
        if ((mode & mode_type) == mode_directory)
            owner.mode |= mode_sgid;
        else if ((mode & (mode_sgid | 0010)) == (mode_sgid | 0010) && credentials != nullptr &&
                 !in_group(*credentials, owner.gid) &&
                 !capable_over_inode(credentials, directory, CAP_FSETID))
            owner.mode &= ~mode_sgid;
    }
    return owner;
}

Result<void> claim_write(Inode& inode) {
    i32 seen = inode.write_count.load(base::Order::Relaxed);
    do {
        if (seen < 0)
            return fail(ETXTBSY);
    } while (!inode.write_count.compare_exchange(seen, seen + 1));
    return {};
}

Result<void> claim_deny_write(Inode& inode) {
    i32 seen = inode.write_count.load(base::Order::Relaxed);
    do {
        if (seen > 0)
            return fail(ETXTBSY);
    } while (!inode.write_count.compare_exchange(seen, seen - 1));
    return {};
}

} // namespace kernel
