// mount(2), umount2(2), pivot_root(2).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/mount_helpers.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

Result<void> require_mount_rights() {
    if (landlock_restricted())
        return fail(EPERM);
    const MountNamespace* space = current_mount_namespace();
    return space != nullptr && capable_over(space->owner(), CAP_SYS_ADMIN)
               ? Result<void>()
               : Result<void>(fail(EPERM));
}

Result<void> require_own(const Path& path) {
    return path.mount()->space() != nullptr && path.mount()->space() == current_mount_namespace()
               ? Result<void>()
               : Result<void>(fail(EINVAL));
}

namespace {

constexpr u32 mnt_force = 1, mnt_detach = 2, mnt_expire = 4,
              umount_nofollow = 8; // umount(2); in no UAPI header

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

// What a user namespace may mount: file systems that trust nothing outside of the kernel.
bool safe_for_users(std::string_view type) {
    constexpr std::string_view safe[] = {"proc",   "sysfs",   "tmpfs",   "ramfs", "devpts",
                                         "mqueue", "cgroup2", "overlay", "fuse"};
    for (const std::string_view name : safe)
        if (type == name)
            return true;
    return false;
}

Result<void> change_propagation(const Path& where, u32 flags) {
    constexpr u32 types = MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE;
    const u32 type = flags & types;
    if ((flags & ~u32{types | MS_REC | MS_SILENT}) != 0 || (type & (type - 1)) != 0)
        return fail(EINVAL);
    return MountTree::change_propagation(where, type, (flags & MS_REC) != 0);
}

Result<void> remount(const Path& where, u32 flags, std::string_view options) {
    if (where.dentry() != &where.mount()->root())
        return fail(EINVAL);
    Superblock& superblock = where.mount()->superblock();
    const bool bind_only = (flags & MS_BIND) != 0;
    if (!bind_only) {
        if (!capable_over(superblock.user_ns.get(), CAP_SYS_ADMIN))
            return fail(EPERM);
        TRY(superblock.reconfigure(options));
    }
    return MountTree::remount(where, flags, bind_only);
}

// Who rules what a file system of this type shows: the owner of the caller's processes, network,
// ... To be root somewhere is no right to a view of others' (or a writable one).
UserNamespace* ruler_of(std::string_view type) {
    Namespaces* own = current_namespaces();
    if (type == "proc") {
        const PidNamespace* pids = current_pid_namespace();
        return pids == nullptr ? nullptr : pids->owner();
    }
    if (own != nullptr && type == "sysfs")
        return own->net->owner();
    if (own != nullptr && type == "mqueue")
        return own->ipc->owner();
    if (own != nullptr && type == "cgroup2")
        return own->cgroup->owner();
    return current_task().credentials->user_space();
}

} // namespace

Result<u32> check_revealing(std::string_view type, u32 flags) {
    MountNamespace& space = *current_mount_namespace();
    if (is_initial(space.owner()) || (type != "proc" && type != "sysfs"))
        return u32{0};
    // What a container's maker has hidden must not come to light in a fresh mount.
    u32 locked = 0;
    if (!MountTree::fully_visible(space, type, flags, locked))
        return fail(EPERM);
    return locked;
}

Result<Ref<Superblock>> make_checked_filesystem(std::string_view type, std::string_view source,
                                                std::string_view options, u32 flags) {
    const Credentials& who = *current_task().credentials;
    const bool initial = who.in_initial_space();
    bool known = is_fuse(type);
    for (const char* const* name = filesystem_types(); *name != nullptr; name++)
        known = known || type == *name;
    if (!known)
        return fail(ENODEV);
    if (!initial && !safe_for_users(is_fuse(type) ? "fuse" : type))
        return fail(EPERM);
    UserNamespace* ruler = ruler_of(type);
    if (!capable_over(ruler, CAP_SYS_ADMIN))
        return fail(EPERM);
    TRY(Ref<Superblock> made, make_filesystem(type, source, options, flags));
    if (!initial && !made->user_ns && made->mount_count.load() == 0)
        made->user_ns = Ref<UserNamespace>::share(ruler);
    return made;
}

Result<long> sys_mount(Task&, u64 source, u64 target, u64 type, u64 flags, u64 data) {
    if ((flags & MS_MGC_MSK) == MS_MGC_VAL)
        flags &= ~u64{MS_MGC_MSK};
    if ((flags & MS_NOUSER) != 0)
        return fail(EINVAL);
    const auto mount_flags = static_cast<u32>(flags);
    TRY(String type_name, optional_string(type));
    TRY(String source_name, optional_string(source));
    TRY(String options, copy_data(data));
    TRY(Path where, find(target, lookup_follow));
    TRY(require_mount_rights());
    TRY(require_own(where));
    if ((flags & (MS_REMOUNT | MS_BIND)) == (MS_REMOUNT | MS_BIND) || (flags & MS_REMOUNT) != 0) {
        TRY(remount(where, mount_flags, options.view()));
        return 0;
    }
    if ((flags & MS_BIND) != 0) {
        if (source_name.empty())
            return fail(EINVAL);
        TRY(Path from, lookup_path(at_fdcwd, source_name.view(), lookup_follow));
        if (from.mount()->superblock().type() != std::string_view("nsfs"))
            TRY(require_own(from));
        TRY(MountTree::bind(from, where, (flags & MS_REC) != 0));
        return 0;
    }
    if ((flags & (MS_SHARED | MS_PRIVATE | MS_SLAVE | MS_UNBINDABLE)) != 0) {
        TRY(change_propagation(where, mount_flags));
        return 0;
    }
    if ((flags & MS_MOVE) != 0) {
        if (source_name.empty())
            return fail(EINVAL);
        TRY(Path from, lookup_path(at_fdcwd, source_name.view(), lookup_follow));
        TRY(require_own(from));
        TRY(MountTree::move(from, where));
        return 0;
    }
    if (type == 0)
        return fail(EINVAL);
    TRY(Ref<Superblock> superblock,
        make_checked_filesystem(type_name.view(), source_name.view(), options.view(), mount_flags));
    TRY(const u32 locked, check_revealing(superblock->type(), mount_flags));
    TRY(mount_at(where, std::move(superblock), mount_flags,
                 source_name.empty() ? "none" : source_name.view(), locked));
    return 0;
}

Result<long> sys_umount2(Task&, u64 target, u32 flags) {
    if ((flags & ~(mnt_force | mnt_detach | mnt_expire | umount_nofollow)) != 0)
        return fail(EINVAL);
    TRY(Path named, find(target, (flags & umount_nofollow) != 0 ? 0u : u32{lookup_follow}));
    // Also where the walk did not step onto the place (".", "/"): the topmost mount on it.
    Ref<Mount> mount = Ref<Mount>::share(named.mount());
    Ref<Dentry> dentry = Ref<Dentry>::share(named.dentry());
    MountTree::cross_down(mount, dentry);
    named = Path();
    const Path where(std::move(mount), std::move(dentry));
    TRY(require_mount_rights());
    TRY(require_own(where));
    if ((flags & mnt_expire) != 0 && (flags & (mnt_force | mnt_detach)) != 0)
        return fail(EINVAL);
    if ((flags & mnt_force) != 0 && !capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    if (where.dentry() == &where.mount()->root() && (flags & mnt_expire) != 0 &&
        where == current_task().fs->root())
        return fail(EINVAL);
    TRY(MountTree::unmount(where, (flags & mnt_detach) != 0, (flags & mnt_expire) != 0));
    return 0;
}

namespace {

// pivot_root(2): whoever stands at the old root stands at the new one from now on.
void move_everyone(const Path& before, const Path& after) {
    for (i32 pid = next_pid(0); pid != 0; pid = next_pid(pid)) {
        const Ref<Process> process = find_process(pid);
        if (!process)
            continue;
        for (i32 tid = next_tid(*process, 0); tid != 0; tid = next_tid(*process, tid)) {
            const Ref<Task> task = find_task(tid);
            const Ref<FsContext> place = task ? fs_of(*task) : Ref<FsContext>();
            if (!place)
                continue;
            if (place->root() == before)
                place->set_root(after);
            if (place->cwd() == before)
                place->set_cwd(after);
        }
    }
}

} // namespace

Result<long> sys_pivot_root(Task& task, u64 new_root, u64 put_old) {
    TRY(require_mount_rights());
    TRY(Path fresh, find(new_root, lookup_follow | lookup_directory));
    TRY(Path old, find(put_old, lookup_follow | lookup_directory));
    const Path before = task.fs->root();
    TRY(require_own(fresh));
    TRY(require_own(before));
    TRY(MountTree::pivot_root(before, fresh, old));
    move_everyone(before, fresh);
    return 0;
}

} // namespace kernel
