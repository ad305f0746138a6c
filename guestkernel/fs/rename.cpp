// rename(2): two directories at once.
#include <linux/errno.h>
#include <linux/fanotify.h>
#include <linux/fs.h>
#include <linux/inotify.h>

#include "guestkernel/fs/directory_ops.hpp"
#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/walk.hpp"

namespace kernel {

namespace {

// Renames across directories go one at a time: so the shape of the tree above the two holds still
// while they are locked, and "ancestor first" is an order.
constinit Mutex rename_mutex;
constinit base::Atomic<u32> next_cookie{1};

// The child of `ancestor` through which `dentry` hangs below it; null if it does not.
Ref<Dentry> way_down(Dentry& ancestor, Dentry& dentry) {
    Ref<Dentry> at = Ref<Dentry>::share(&dentry);
    while (Ref<Dentry> up = at->parent_ref()) {
        if (up.get() == &ancestor)
            return at;
        at = std::move(up);
    }
    return nullptr;
}

// Both directories' mutexes, and what hangs below what.
class TwoDirectories {
public:
    TwoDirectories(Dentry& from, Dentry& to) {
        if (from.inode() == to.inode()) {
            first_ = &from.inode()->mutex();
            first_->lock();
            return;
        }
        rename_mutex.lock();
        crossing_ = true;
        above_source = way_down(to, from);
        above_target = way_down(from, to);
        const bool to_first = above_source || (!above_target && to.inode() < from.inode());
        first_ = to_first ? &to.inode()->mutex() : &from.inode()->mutex();
        second_ = to_first ? &from.inode()->mutex() : &to.inode()->mutex();
        first_->lock();
        second_->lock();
    }
    TwoDirectories(const TwoDirectories&) = delete;
    TwoDirectories& operator=(const TwoDirectories&) = delete;
    ~TwoDirectories() {
        if (second_ != nullptr)
            second_->unlock();
        first_->unlock();
        if (crossing_)
            rename_mutex.unlock();
    }
    Ref<Dentry> above_source; // in the target directory, holding the source directory
    Ref<Dentry> above_target; // the other way round

private:
    RwMutex* first_ = nullptr;
    RwMutex* second_ = nullptr;
    bool crossing_ = false;
};

struct Names {
    Dentry& old_parent;
    Dentry& new_parent;
    std::string_view old_name, new_name;
};

Result<void> check_rename(const Names& names, Dentry& source, Dentry& target, u32 flags) {
    Inode& moved = *source.inode();
    TRY(check_delete(names.old_parent, moved, moved.is_directory()));
    if (target.is_negative()) {
        TRY(check_create(names.new_parent));
    } else {
        Inode& other = *target.inode();
        TRY(check_delete(names.new_parent, other,
                         (flags & RENAME_EXCHANGE) != 0 ? other.is_directory()
                                                        : moved.is_directory()));
        if ((flags & RENAME_EXCHANGE) != 0 && other.is_directory() &&
            &names.old_parent != &names.new_parent)
            TRY(check_permission(other, may_write));
    }
    // Moving a directory changes its "..".
    if (moved.is_directory() && &names.old_parent != &names.new_parent)
        TRY(check_permission(moved, may_write));
    return {};
}

// Locks: both directories'. Whether anything was moved: two names of one file are left alone
// (rename(2)).
Result<bool> rename_locked(const Names& names, Dentry& source, Dentry& target, u32 flags) {
    Ref<Inode> moved = Ref<Inode>::share(source.inode());
    Ref<Inode> other = Ref<Inode>::share(target.inode());
    if (moved == other)
        return false;
    // By a second name, as only a program's file system has it: they are locked already.
    for (const Dentry* parent : {&names.old_parent, &names.new_parent})
        if (moved.get() == parent->inode() || other.get() == parent->inode())
            return fail(ESTALE);
    TRY(check_rename(names, source, target, flags));
    if (MountTree::mounted_here(source) || MountTree::mounted_here(target))
        return fail(EBUSY);
    TRY(char* storage, DentryCache::prepare_name(names.new_name));
    const bool replaces_directory =
        other && other->is_directory() && (flags & RENAME_EXCHANGE) == 0;
    if (replaces_directory)
        other->mutex().lock(); // nothing may be created in it any more
    auto done = names.old_parent.inode()->rename(names.old_name, *moved, *names.new_parent.inode(),
                                                 names.new_name, other.get(), flags);
    if (done) {
        if ((flags & RENAME_EXCHANGE) != 0)
            DentryCache::exchange(source, target);
        else
            DentryCache::move(source, names.new_parent, names.new_name,
                              std::exchange(storage, nullptr));
    }
    if (replaces_directory)
        other->mutex().unlock();
    delete[] storage;
    if (!done)
        return fail(done.error().code);
    return true;
}

void notify_rename(const Names& names, Inode& moved, Inode* other, u32 flags) {
    const u32 cookie = next_cookie.fetch_add(1, base::Order::Relaxed);
    const u32 kind = moved.is_directory() ? u32{IN_ISDIR} : 0u;
    notify_rename_pair({.mask = FAN_RENAME | kind,
                        .name = names.old_name,
                        .directory = names.old_parent.inode(),
                        .directory_place = &names.old_parent,
                        .object = &moved,
                        .entry = true,
                        .new_directory = &names.new_parent,
                        .new_name = names.new_name});
    notify_entry(names.old_parent, IN_MOVED_FROM | kind, names.old_name, &moved, cookie);
    notify_entry(names.new_parent, IN_MOVED_TO | kind, names.new_name, &moved, cookie);
    notify_event(moved, IN_MOVE_SELF, {});
    if (other != nullptr && (flags & RENAME_EXCHANGE) == 0)
        notify_event(*other, IN_ATTRIB, {});
}

} // namespace

Result<void> rename_path(int old_directory, std::string_view old_name, int new_directory,
                         std::string_view new_name, u32 flags) {
    if ((flags & ~u32{RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT}) != 0 ||
        ((flags & RENAME_EXCHANGE) != 0 && (flags & (RENAME_NOREPLACE | RENAME_WHITEOUT)) != 0))
        return fail(EINVAL);
    PathWalker from(0);
    PathWalker to(0);
    TRY(from.start(old_directory, old_name));
    TRY(from.walk_parent());
    TRY(to.start(new_directory, new_name));
    TRY(to.walk_parent());
    if (&from.mount() != &to.mount())
        return fail(EXDEV);
    if (from.last() != PathWalker::Last::Name)
        return fail(EBUSY);
    if (to.last() != PathWalker::Last::Name)
        return fail((flags & RENAME_NOREPLACE) != 0 ? EEXIST : EBUSY);
    const Names names{from.dentry(), to.dentry(), from.last_name(), to.last_name()};
    Ref<Inode> moved;
    Ref<Inode> other;
    Ref<Dentry> replaced;
    {
        TwoDirectories locks(names.old_parent, names.new_parent);
        TRY(Ref<Dentry> source, DentryCache::lookup_locked(names.old_parent, names.old_name));
        if (source->is_negative())
            return fail(ENOENT);
        TRY(Ref<Dentry> target, DentryCache::lookup_locked(names.new_parent, names.new_name));
        if ((flags & RENAME_NOREPLACE) != 0 && !target->is_negative())
            return fail(EEXIST);
        if ((flags & RENAME_EXCHANGE) != 0 && target->is_negative())
            return fail(ENOENT);
        if ((flags & RENAME_EXCHANGE) != 0 && to.trailing_slash() &&
            !target->inode()->is_directory())
            return fail(ENOTDIR);
        // A name with a slash at its end means a directory.
        if (!source->inode()->is_directory() &&
            (from.trailing_slash() || (to.trailing_slash() && (flags & RENAME_EXCHANGE) == 0)))
            return fail(ENOTDIR);
        if (source.get() == locks.above_target.get())
            return fail(EINVAL); // into itself
        if (target.get() == locks.above_source.get() && target)
            return fail((flags & RENAME_EXCHANGE) != 0 ? EINVAL : ENOTEMPTY);
        if (from.mount().read_only())
            return fail(EROFS);
        moved = Ref<Inode>::share(source->inode());
        other = Ref<Inode>::share(target->inode());
        const bool exchanges = (flags & RENAME_EXCHANGE) != 0;
        if (landlock_restricted())
            TRY(landlock_check_move(from.path(), to.path(), *moved, other.get(),
                                    exchanges ? other.get() : nullptr, false));
        TRY(const bool done, rename_locked(names, *source, *target, flags));
        if (!done)
            return {};
        if (!exchanges)
            replaced = std::move(target);
    }
    if (replaced)
        MountTree::drop_from(*replaced);
    notify_rename(names, *moved, other.get(), flags);
    return {};
}

} // namespace kernel
