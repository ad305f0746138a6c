#include "guestkernel/fs/directory_ops.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/fs.h>
#include <linux/inotify.h>

#include "guestkernel/cgroup/device_programs.hpp"
#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/open.hpp"
#include "guestkernel/fs/permission.hpp"

namespace kernel {

namespace {

// Runs `make(directory inode, name) -> Result<Ref<Inode>>` for a last component that does not exist
// yet, and gives its dentry. `kind`: its S_IF*; 0: a link to what exists.
template <typename Make>
Result<Ref<Dentry>> create_entry(PathWalker& walker, u32 kind, Make&& make) {
    const bool is_directory = (kind & mode_type) == mode_directory;
    TRY(walker.walk_parent());
    if (walker.last() != PathWalker::Last::Name)
        return fail(EEXIST);
    Dentry& parent = walker.dentry();
    Inode& directory = *parent.inode();
    Ref<Inode> made;
    Ref<Dentry> entry;
    {
        MutexGuard guard(directory.mutex());
        TRY(Ref<Dentry> now, DentryCache::lookup_locked(parent, walker.last_name()));
        if (!now->is_negative())
            return fail(EEXIST);
        // "name/" can only become a directory.
        if (walker.trailing_slash() && !is_directory)
            return fail(ENOENT);
        if (walker.mount().read_only())
            return fail(EROFS);
        TRY(check_create(parent));
        if (kind != 0)
            TRY(landlock_check(walker.path(), landlock_make(kind)));
        TRY(made, make(directory, walker.last_name()));
        TRY(entry, DentryCache::insert(parent, walker.last_name(), made));
    }
    notify_entry(parent, IN_CREATE | (is_directory ? u32{IN_ISDIR} : 0u), walker.last_name(),
                 made.get());
    return entry;
}

} // namespace

Result<void> make_directory(int directory, std::string_view name, u32 mode) {
    PathWalker walker(0);
    TRY(walker.start(directory, name));
    TRY(create_entry(
        walker, mode_directory, [&](Inode& parent, std::string_view last) -> Result<Ref<Inode>> {
            TRY(const NewOwner owner,
                new_owner(parent, mode_directory | (mode & (0777 | mode_sticky))));
            TRY(Ref<Inode> made, parent.create(last, owner.mode, 0, owner.uid, owner.gid));
            TRY(give_acls(*made, owner));
            return made;
        }));
    return {};
}

Result<Path> make_node(int directory, std::string_view name, u32 mode, u64 device_number) {
    switch (mode & mode_type) {
    case 0:
        mode |= mode_regular;
        break;
    case mode_regular:
    case mode_fifo:
    case mode_socket:
        break;
    case mode_char:
    case mode_block:
        // A whiteout (0:0) is nobody's device and everybody's right.
        if (!has_capability(current_credentials(), CAP_MKNOD) &&
            !((mode & mode_type) == mode_char && device_number == 0))
            return fail(EPERM);
        break;
    case mode_directory:
        return fail(EPERM);
    default:
        return fail(EINVAL);
    }
    const bool whiteout = (mode & mode_type) == mode_char && device_number == 0;
    if (((mode & mode_type) == mode_char && !whiteout) || (mode & mode_type) == mode_block)
        TRY(check_device_programs(mode, device_number, 0, true));
    PathWalker walker(0);
    TRY(walker.start(directory, name));
    const auto make = [&](Inode& parent, std::string_view last) -> Result<Ref<Inode>> {
        TRY(const NewOwner owner, new_owner(parent, mode));
        TRY(Ref<Inode> made, parent.create(last, owner.mode, device_number, owner.uid, owner.gid));
        TRY(give_acls(*made, owner));
        return made;
    };
    TRY(Ref<Dentry> entry, create_entry(walker, mode, make));
    return Path(Ref<Mount>::share(&walker.mount()), std::move(entry));
}

Result<void> make_symlink(std::string_view target, int directory, std::string_view name) {
    if (target.empty())
        return fail(ENOENT);
    PathWalker walker(0);
    TRY(walker.start(directory, name));
    TRY(create_entry(walker, mode_symlink,
                     [&](Inode& parent, std::string_view last) -> Result<Ref<Inode>> {
                         TRY(const NewOwner owner, new_owner(parent, mode_symlink | 0777));
                         return parent.symlink(last, target, owner.uid, owner.gid);
                     }));
    return {};
}

Result<void> make_link(int old_directory, std::string_view old_name, int new_directory,
                       std::string_view new_name, u32 flags) {
    u32 lookup = (flags & AT_SYMLINK_FOLLOW) != 0 ? u32{lookup_follow} : 0u;
    if ((flags & AT_EMPTY_PATH) != 0) {
        if (old_name.empty() && !has_capability(current_credentials(), CAP_DAC_READ_SEARCH))
            return fail(ENOENT);
        lookup |= lookup_empty_path;
    }
    TRY(Path source, lookup_path(old_directory, old_name, lookup));
    Ref<Inode> target = Ref<Inode>::share(source.dentry()->inode());
    PathWalker walker(0);
    TRY(walker.start(new_directory, new_name));
    TRY(create_entry(walker, 0, [&](Inode& parent, std::string_view last) -> Result<Ref<Inode>> {
        if (&walker.mount() != source.mount() || parent.superblock() != target->superblock())
            return fail(EXDEV);
        if (target->is_directory() || target->is_frozen())
            return fail(EPERM);
        // Nobody gives an unlinked file a name again.
        TRY(const Attributes attributes, target->attributes());
        if (attributes.links == 0 && target->linkable.load() == 0)
            return fail(ENOENT);
        if (landlock_restricted()) {
            Ref<Dentry> above = source.dentry()->parent_ref();
            const Path from(Ref<Mount>::share(source.mount()),
                            above ? std::move(above) : Ref<Dentry>::share(source.dentry()));
            TRY(landlock_check_move(from, walker.path(), *target, nullptr, nullptr, true));
        }
        TRY(parent.link(last, *target));
        target->linkable.store(0);
        return target;
    }));
    notify_event(*target, IN_ATTRIB, {});
    return {};
}

namespace {

Result<void> refuse_special_last(const PathWalker& walker, int for_dot, int for_dot_dot) {
    switch (walker.last()) {
    case PathWalker::Last::Name:
        return {};
    case PathWalker::Last::Dot:
        return fail(for_dot);
    case PathWalker::Last::DotDot:
        return fail(for_dot_dot);
    default:
        return fail(EBUSY);
    }
}

} // namespace

Result<void> remove_file(int directory, std::string_view name) {
    PathWalker walker(0);
    TRY(walker.start(directory, name));
    TRY(walker.walk_parent());
    TRY(refuse_special_last(walker, EISDIR, EISDIR));
    Dentry& parent = walker.dentry();
    Inode& holder = *parent.inode();
    Ref<Inode> inode;
    Ref<Dentry> gone;
    {
        MutexGuard guard(holder.mutex());
        TRY(Ref<Dentry> child, DentryCache::lookup_locked(parent, walker.last_name()));
        if (child->is_negative())
            return fail(ENOENT);
        inode = Ref<Inode>::share(child->inode());
        if (walker.trailing_slash())
            return fail(inode->is_directory() ? EISDIR : ENOTDIR);
        if (walker.mount().read_only())
            return fail(EROFS);
        TRY(check_delete(parent, *inode, false));
        TRY(landlock_check(walker.path(), landlock_remove(*inode)));
        if (MountTree::mounted_here(*child))
            return fail(EBUSY);
        TRY(holder.unlink(walker.last_name(), *inode));
        DentryCache::remove(*child);
        gone = std::move(child);
    }
    MountTree::drop_from(*gone);
    notify_event(*inode, IN_ATTRIB, {});
    notify_entry(parent, IN_DELETE, walker.last_name(), inode.get());
    return {};
}

Result<void> remove_directory(int directory, std::string_view name) {
    PathWalker walker(0);
    TRY(walker.start(directory, name));
    TRY(walker.walk_parent());
    TRY(refuse_special_last(walker, EINVAL, ENOTEMPTY));
    Dentry& parent = walker.dentry();
    Inode& holder = *parent.inode();
    Ref<Inode> inode;
    Ref<Dentry> gone;
    {
        MutexGuard guard(holder.mutex());
        TRY(Ref<Dentry> child, DentryCache::lookup_locked(parent, walker.last_name()));
        if (child->is_negative())
            return fail(ENOENT);
        inode = Ref<Inode>::share(child->inode());
        if (walker.mount().read_only())
            return fail(EROFS);
        TRY(check_delete(parent, *inode, true));
        TRY(landlock_check(walker.path(), landlock_remove(*inode)));
        // Its own mutex too: nothing may be created in it from now on.
        MutexGuard own(inode->mutex());
        if (MountTree::mounted_here(*child))
            return fail(EBUSY);
        TRY(holder.rmdir(walker.last_name(), *inode));
        DentryCache::remove(*child);
        gone = std::move(child);
    }
    MountTree::drop_from(*gone);
    notify_event(*inode, IN_DELETE_SELF | IN_ISDIR, {});
    notify_entry(parent, IN_DELETE | IN_ISDIR, walker.last_name(), inode.get());
    return {};
}

Result<Path> create_socket_node(std::string_view name, u32 mode) {
    auto made = make_node(at_fdcwd, name, mode_socket | (mode & mode_permissions), 0);
    if (!made && made.error().code == EEXIST)
        return fail(EADDRINUSE);
    return made;
}

Result<Path> find_socket_node(std::string_view name) {
    TRY(Path path, lookup_path(at_fdcwd, name, lookup_follow));
    if (path.dentry()->inode()->type() != mode_socket)
        return fail(ECONNREFUSED);
    TRY(check_access(path, may_write));
    return path;
}

} // namespace kernel
