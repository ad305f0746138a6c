#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"

namespace kernel {

namespace {

constexpr u32 mnt_force = 1, mnt_detach = 2, mnt_expire = 4,
              umount_nofollow = 8; // umount(2); in no UAPI header

Result<void> require_admin() {
    return has_capability(current_credentials(), CAP_SYS_ADMIN) ? Result<void>()
                                                                : Result<void>(fail(EPERM));
}

Result<Path> find(u64 name, u32 lookup) {
    TRY(String text, copy_path(name));
    return lookup_path(at_fdcwd, text.view(), lookup);
}

// An optional string argument; null is empty.
Result<String> optional_string(u64 address) {
    return address == 0 ? Result<String>(String()) : copy_path(address);
}

// The data page: a string that ends at its NUL, or with the memory that is there.
Result<String> copy_data(u64 address) {
    if (address == 0)
        return String();
    return copy_in_string(address, page_size);
}

} // namespace

Result<long> sys_mount(Task&, u64 source, u64 target, u64 type, u64 flags, u64 data) {
    if (landlock_restricted())
        return fail(EPERM);
    TRY(require_admin());
    if ((flags & MS_MGC_MSK) == MS_MGC_VAL)
        flags &= ~u64{MS_MGC_MSK};
    const auto mount_flags = static_cast<u32>(flags);
    TRY(Path where, find(target, lookup_follow));
    if ((flags & MS_REMOUNT) != 0) {
        TRY(MountTree::remount(where, mount_flags, (flags & MS_BIND) != 0));
        return 0;
    }
    if ((flags & MS_BIND) != 0) {
        TRY(Path from, find(source, lookup_follow));
        TRY(MountTree::bind(from, where, (flags & MS_REC) != 0));
        return 0;
    }
    if ((flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE)) != 0) {
        // Every mount is private and stays so: asking for that succeeds; sharing has no one to
        // share with.
        if (where.dentry() != &where.mount()->root())
            return fail(EINVAL);
        return 0;
    }
    if ((flags & MS_MOVE) != 0) {
        TRY(Path from, find(source, lookup_follow));
        TRY(MountTree::move(from, where));
        return 0;
    }
    TRY(String type_name, optional_string(type));
    TRY(String source_name, optional_string(source));
    TRY(String options, copy_data(data));
    TRY(Ref<Superblock> superblock,
        make_filesystem(type_name.view(), source_name.view(), options.view(), mount_flags));
    TRY(mount_at(where, std::move(superblock), mount_flags,
                 source_name.empty() ? "none" : source_name.view()));
    return 0;
}

Result<long> sys_umount2(Task&, u64 target, u32 flags) {
    if (landlock_restricted())
        return fail(EPERM);
    if ((flags & ~(mnt_force | mnt_detach | mnt_expire | umount_nofollow)) != 0 ||
        ((flags & mnt_expire) != 0 && (flags & (mnt_force | mnt_detach)) != 0))
        return fail(EINVAL);
    TRY(require_admin());
    TRY(Path where, find(target, (flags & umount_nofollow) != 0 ? 0u : u32{lookup_follow}));
    TRY(MountTree::unmount(where, (flags & mnt_detach) != 0, (flags & mnt_expire) != 0));
    return 0;
}

Result<long> sys_pivot_root(Task& task, u64 new_root, u64 put_old) {
    if (landlock_restricted())
        return fail(EPERM);
    TRY(require_admin());
    TRY(Path fresh, find(new_root, lookup_follow | lookup_directory));
    TRY(Path old, find(put_old, lookup_follow | lookup_directory));
    const Path before = MountTree::root();
    TRY(MountTree::pivot_root(fresh, old));
    // pivot_root(2): who stood at the old root stands at the new one.
    if (task.fs->root() == before)
        task.fs->set_root(fresh);
    if (task.fs->cwd() == before)
        task.fs->set_cwd(fresh);
    return 0;
}

} // namespace kernel
