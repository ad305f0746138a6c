// What mount(2), umount2(2), pivot_root(2) and their like do to the trees.
#include "guestkernel/fs/mount_tree.hpp"

#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 access_time_flags = MS_NOATIME | MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME;
constexpr u32 lockable_flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;

bool same_kind(const Dentry& a, const Dentry& b) {
    return a.inode()->is_directory() == b.inode()->is_directory();
}

} // namespace

bool is_descendant(const Dentry& dentry, const Dentry& ancestor) {
    SpinGuard guard(tree_lock());
    for (const Dentry* d = &dentry; d != nullptr; d = d->parent())
        if (d == &ancestor)
            return true;
    return false;
}

Mount* MountTree::next(Mount& mount, const Mount& top) {
    if (Mount* child = mount.children_.front())
        return child;
    for (Mount* at = &mount; at != &top; at = at->parent_.get())
        if (Mount* sibling = at->parent_->children_.next(*at))
            return sibling;
    return nullptr;
}

bool MountTree::is_below(const Mount& mount, const Mount& ancestor) {
    for (const Mount* m = &mount; m != nullptr; m = m->parent_.get())
        if (m == &ancestor)
            return true;
    return false;
}

// --- copies --------------------------------------------------------------------------------------

Result<Ref<Mount>> MountTree::clone(const Mount& mount, Dentry& root, Copy kind) {
    TRY(Ref<Mount> copy,
        make(mount.superblock_, Ref<Dentry>::share(&root), mount.flags(), mount.source()));
    copy->locked_flags_ = mount.locked_flags_;
    copy->unbindable_ = kind == Copy::Same && mount.unbindable_;
    switch (kind) {
    case Copy::Same:
        copy->peer_group_ = mount.peer_group_;
        copy->master_group_ = mount.master_group_;
        break;
    case Copy::Private:
        break;
    case Copy::Slave:
        copy->master_group_ = mount.peer_group_;
        break;
    case Copy::SharedSlave:
        copy->master_group_ = mount.peer_group_;
        copy->peer_group_ = new_group();
        break;
    case Copy::SharedToSlave:
        copy->master_group_ = mount.peer_group_ != 0 ? mount.peer_group_ : mount.master_group_;
        break;
    }
    return copy;
}

Result<Ref<Mount>> MountTree::copy_tree(Mount& top, Dentry& root, Copy kind, bool unbindable_too) {
    TRY(Ref<Mount> copy, clone(top, root, kind));
    Mount* original = &top;
    Mount* twin = copy.get();
    // Depth first; `twin` always is the copy of `original`.
    Mount* child = original->children_.front();
    for (;;) {
        if (child == nullptr) {
            if (original == &top)
                return copy;
            child = original->parent_->children_.next(*original);
            original = original->parent_.get();
            twin = twin->parent_.get();
            continue;
        }
        const bool visible = original != &top || is_descendant(*child->place_, root);
        const bool left_out = child->unbindable_ && !unbindable_too;
        if (visible && left_out && child->locked_) {
            dissolve(*copy); // a copy without it would show what it hides
            return fail(EPERM);
        }
        if (!visible || left_out) {
            child = original->children_.next(*child);
            continue;
        }
        auto made = clone(*child, child->root(), kind);
        if (!made) {
            dissolve(*copy);
            return fail(ENOMEM);
        }
        (*made)->locked_ = child->locked_;
        {
            SpinGuard guard(tree_lock());
            link(**made, *twin, *child->place_);
        }
        original = child;
        twin = made->get();
        child = original->children_.front();
    }
}

// Takes a tree apart that only those can reach any more who stand in it, or that is in no
// namespace.
void MountTree::dissolve(Mount& tree) {
    for (;;) {
        Mount* leaf = &tree;
        for (Mount* child = leaf->children_.back(); child != nullptr && !child->gone_;
             child = leaf->children_.back())
            leaf = child;
        Ref<Mount> parent;
        Ref<Dentry> place;
        Ref<Mount> dropped;
        {
            SpinGuard guard(tree_lock());
            leave_space(*leaf);
            leaf->gone_ = true;
            if (leaf != &tree && leaf->locked_) {
                keep_covering(*leaf, parent);
            } else if (leaf != &tree) {
                unlink(*leaf, parent, place);
                dropped = Ref<Mount>::adopt(leaf);
            }
        }
        leave_groups(*leaf);
        if (leaf == &tree)
            return;
    }
}

MountNamespace::~MountNamespace() {
    // Who moves the tree out of here may be at it: only the mutex tells whether there is one.
    MutexGuard guard(mount_mutex());
    const Ref<Mount> top = std::move(top_);
    if (top)
        MountTree::dissolve(*top);
}

Result<Ref<MountNamespace>> MountNamespace::copy(MountNamespace& from, Ref<UserNamespace> owner,
                                                 FsContext* place) {
    const bool less_privileged = owner.get() != from.owner();
    TRY(charge_namespace(NamespaceKind::Mount, owner.get()));
    auto space = make_ref<MountNamespace>(owner, true, false);
    if (!space) {
        uncharge_namespace(NamespaceKind::Mount, owner.get());
        return space;
    }
    Path root, cwd;
    if (place != nullptr)
        root = place->root(), cwd = place->cwd();
    MutexGuard guard(mount_mutex());
    Mount& old = *from.top_;
    TRY(Ref<Mount> top, MountTree::copy_tree(old, old.root(),
                                             less_privileged ? MountTree::Copy::SharedToSlave
                                                             : MountTree::Copy::Same,
                                             true));
    // Both trees have the same shape: the copies of the two places are found on the way.
    Mount* original = &old;
    Ref<Mount> new_root, new_cwd;
    for (Mount* m = top.get(); m != nullptr;
         m = MountTree::next(*m, *top), original = MountTree::next(*original, old)) {
        if (original == root.mount())
            new_root = Ref<Mount>::share(m);
        if (original == cwd.mount())
            new_cwd = Ref<Mount>::share(m);
    }
    if (less_privileged)
        MountTree::lock_tree(*top);
    {
        SpinGuard lock(tree_lock());
        (*space)->top_ = top;
        MountTree::adopt(*top, **space);
    }
    guard.unlock();
    if (new_root)
        place->set_root(Path(std::move(new_root), Ref<Dentry>::share(root.dentry())));
    if (new_cwd)
        place->set_cwd(Path(std::move(new_cwd), Ref<Dentry>::share(cwd.dentry())));
    return space;
}

// What a less privileged namespace gets stays as a whole and as restricted as it is.
void MountTree::lock_tree(Mount& top) {
    for (Mount* m = &top; m != nullptr; m = next(*m, top)) {
        m->locked_flags_ |= (m->flags() & lockable_flags) | MS_NOATIME; // all of the atime family
        m->locked_ = m->locked_ || m != &top;
    }
}

// --- attaching -----------------------------------------------------------------------------------

usize MountTree::size_of(Mount& tree) {
    usize size = 0;
    for (Mount* m = &tree; m != nullptr; m = next(*m, tree))
        size++;
    return size;
}

// More mounts for the namespace of one that will hold them: each copy that propagation makes
// counts, or a few shared mounts would multiply without an end.
Result<void> MountTree::await(Mount& parent, usize mounts) {
    MountNamespace* space = parent.space_;
    if (space == nullptr)
        return {};
    if (space->mount_count_ + space->awaited_ + mounts > mount_limit)
        return fail(ENOSPC);
    space->awaited_ += mounts;
    return {};
}

// The copies of a tree for all that hear of it. Nothing is left of them if it fails.
Result<void> MountTree::propagate_tree(Mount& tree, Mount& parent, Dentry& place,
                                       Vector<Received>& received) {
    for (Mount* m = &tree; m != nullptr; m = next(*m, tree))
        if (m->peer_group_ == 0)
            m->peer_group_ = new_group();
    auto done = propagate(parent, place, tree, received);
    for (Received& one : received) {
        if (one.mount->space_ != nullptr)
            one.mount->space_->awaited_ = 0;
        if (!done)
            dissolve(*one.tree);
    }
    return done;
}

// Requires: `tree` is linked to nothing above it.
Result<void> MountTree::attach_tree(Mount& tree, const Path& where) {
    if (where.mount()->gone_)
        return fail(EINVAL); // unmounted since the caller found the place
    if (where.dentry()->is_negative() || where.dentry()->deleted())
        return fail(ENOENT);
    if (!same_kind(*where.dentry(), tree.root()))
        return fail(ENOTDIR);
    // Whatever was mounted here meanwhile is covered.
    Ref<Mount> parent = Ref<Mount>::share(where.mount());
    Ref<Dentry> place = Ref<Dentry>::share(where.dentry());
    cross_down(parent, place);
    TRY(await(*parent, size_of(tree)));
    Vector<Received> received;
    auto done =
        parent->peer_group_ == 0 ? Result<void>() : propagate_tree(tree, *parent, *place, received);
    if (parent->space_ != nullptr)
        parent->space_->awaited_ = 0;
    TRY(std::move(done));
    {
        SpinGuard guard(tree_lock());
        // Its name may have gone meanwhile, and drop_from() have been and found nothing.
        if (!place->deleted()) {
            put(tree, *parent, *place);
            for (Received& one : received)
                put(*one.tree, *one.mount, *place);
            return {};
        }
    }
    for (Received& one : received)
        dissolve(*one.tree);
    return fail(ENOENT);
}

Result<void> MountTree::attach(const Path& where, Ref<Mount> mount) {
    MutexGuard guard(mount_mutex());
    return attach_tree(*mount, where);
}

// A locked mount hides what is below it: a copy without it would show that.
bool MountTree::has_locked_children(const Mount& mount, const Dentry& below) {
    for (Mount& child : const_cast<Mount&>(mount).children_)
        if (child.locked_ && is_descendant(*child.place_, below))
            return true;
    return false;
}

Result<void> MountTree::check_bind_source(const Path& from, bool recursive) {
    const Mount& source = *from.mount();
    // What still covers places in one that was unmounted since the caller found it is no part of a
    // tree any more, and nothing to walk along.
    if (source.unbindable_ || source.gone_)
        return fail(EINVAL);
    if (!recursive && has_locked_children(source, *from.dentry()))
        return fail(EINVAL);
    return {};
}

Result<void> MountTree::bind(const Path& from, const Path& where, bool recursive) {
    MutexGuard guard(mount_mutex());
    TRY(check_bind_source(from, recursive));
    if (!same_kind(*from.dentry(), *where.dentry()))
        return fail(ENOTDIR);
    Ref<Mount> copy;
    if (recursive) {
        TRY(copy, copy_tree(*from.mount(), *from.dentry(), Copy::Same, false));
    } else {
        TRY(copy, clone(*from.mount(), *from.dentry(), Copy::Same));
    }
    auto done = attach_tree(*copy, where);
    if (!done)
        dissolve(*copy);
    return done;
}

Result<Ref<MountNamespace>> MountTree::alone(Ref<Mount> mount) {
    MountNamespace* own = current_mount_namespace();
    TRY(Ref<MountNamespace> space,
        make_ref<MountNamespace>(Ref<UserNamespace>::share(own->owner()), false, true));
    MutexGuard guard(mount_mutex());
    SpinGuard lock(tree_lock());
    space->top_ = mount;
    adopt(*mount, *space);
    return space;
}

Result<Ref<MountNamespace>> MountTree::clone_tree(const Path& from, bool recursive) {
    Ref<Mount> copy;
    {
        MutexGuard guard(mount_mutex());
        TRY(check_bind_source(from, recursive));
        if (recursive) {
            TRY(copy, copy_tree(*from.mount(), *from.dentry(), Copy::Same, false));
        } else {
            TRY(copy, clone(*from.mount(), *from.dentry(), Copy::Same));
        }
    }
    auto space = alone(copy);
    if (!space) {
        MutexGuard guard(mount_mutex());
        dissolve(*copy);
    }
    return space;
}

namespace {

// Propagation to another namespace would take an unbindable mount there.
bool has_unbindable(Mount& top, Mount* (*next)(Mount&, const Mount&)) {
    for (Mount* m = &top; m != nullptr; m = next(*m, top))
        if (m->unbindable())
            return true;
    return false;
}

} // namespace

bool MountTree::in_reach(const Mount& mount) {
    MutexGuard guard(mount_mutex()); // as long as it is held, a mount's namespace cannot go
    const MountNamespace* space = mount.space_;
    return space != nullptr && (space->anonymous_ || space == current_mount_namespace());
}

Result<void> MountTree::move_from(const Path& from, const Path& where) {
    Mount& mount = *from.mount();
    if (from.dentry() != &mount.root())
        return fail(EINVAL);
    if (!same_kind(mount.root(), *where.dentry()))
        return fail(EINVAL);
    Ref<Mount> old_parent;
    Ref<Dentry> old_place;
    Ref<Mount> held = Ref<Mount>::share(&mount);
    Ref<MountNamespace> home; // outlives the guard: its end takes the mutex
    MutexGuard guard(mount_mutex());
    // Without the tree that is moved nothing keeps an anonymous namespace that is closed meanwhile.
    if (mount.space_ == nullptr || !mount.space_->try_add_ref())
        return fail(EINVAL);
    home = Ref<MountNamespace>::adopt(mount.space_);
    if (mount.locked_ || where.mount()->space_ == nullptr)
        return fail(EINVAL);
    if (!mount.parent_ && !home->anonymous_)
        return fail(EINVAL);
    if (mount.parent_ && mount.parent_->peer_group_ != 0)
        return fail(EINVAL);
    if (is_below(*where.mount(), mount))
        return fail(ELOOP);
    if (where.mount()->peer_group_ != 0 && has_unbindable(mount, next))
        return fail(EINVAL);
    {
        SpinGuard lock(tree_lock());
        if (mount.parent_) {
            unlink(mount, old_parent, old_place);
            mount.release(); // the tree's; `held` is another one
        } else {
            home->top_ = nullptr;
        }
    }
    auto done = attach_tree(mount, where);
    if (!done) {
        // Back to where it was: that place was its own, so nothing propagates.
        SpinGuard lock(tree_lock());
        if (old_parent)
            put(mount, *old_parent, *old_place);
        else
            home->top_ = held;
    }
    return done;
}

Result<void> MountTree::move(const Path& from, const Path& where) {
    return move_from(from, where);
}

// --- changing ------------------------------------------------------------------------------------

Result<void> MountTree::apply_flags(Mount& mount, u32 set, u32 clear, bool commit) {
    const u32 before = mount.flags();
    const u32 after = (before & ~clear) | set;
    const u32 locked = mount.locked_flags_;
    if ((before & ~after & locked & lockable_flags) != 0)
        return fail(EPERM);
    if ((locked & MS_NOATIME) != 0 && ((before ^ after) & access_time_flags) != 0)
        return fail(EPERM);
    if ((after & ~before & MS_RDONLY) != 0 && mount.writers.load() > 0)
        return fail(EBUSY);
    if (commit)
        mount.flags_.store(after);
    return {};
}

Result<void> MountTree::change_flags(const Path& where, u32 set, u32 clear, bool recursive) {
    MutexGuard guard(mount_mutex());
    Mount& top = *where.mount();
    if (top.gone_)
        return fail(EINVAL); // as of check_bind_source()
    for (const bool commit : {false, true})
        for (Mount* m = &top; m != nullptr; m = recursive ? next(*m, top) : nullptr)
            TRY(apply_flags(*m, set, clear, commit));
    return {};
}

Result<void> MountTree::remount(const Path& where, u32 flags, bool bind_only) {
    Mount& mount = *where.mount();
    if (where.dentry() != &mount.root())
        return fail(EINVAL);
    MutexGuard guard(mount_mutex());
    if (mount.gone_)
        return fail(EINVAL);
    if ((flags & (MS_NOATIME | MS_STRICTATIME | MS_RELATIME | MS_NODIRATIME)) == 0)
        flags |= mount.flags() & access_time_flags;
    else if ((flags & (MS_NOATIME | MS_STRICTATIME)) == 0)
        flags |= MS_RELATIME;
    constexpr u32 changeable = lockable_flags | access_time_flags | MS_NOSYMFOLLOW;
    if (!bind_only)
        TRY(apply_superblock_flags(mount, flags, false));
    TRY(apply_flags(mount, flags & changeable, changeable, true));
    return bind_only ? Result<void>() : apply_superblock_flags(mount, flags, true);
}

Result<void> MountTree::change_propagation(const Path& where, u32 type, bool recursive) {
    MutexGuard guard(mount_mutex());
    Mount& top = *where.mount();
    // One that is in no namespace any more would never leave the list of groups.
    if (where.dentry() != &top.root() || top.space_ == nullptr)
        return fail(EINVAL);
    for (Mount* m = &top; m != nullptr; m = recursive ? next(*m, top) : nullptr)
        set_propagation(*m, type);
    return {};
}

// --- unmounting ----------------------------------------------------------------------------------

// Requires: each of them has no children that are not on the list before it.
void MountTree::remove(Doomed& doomed) {
    while (Mount* mount = doomed.pop_front()) {
        Ref<Mount> parent;
        Ref<Dentry> place;
        Ref<Mount> dropped;
        SpinGuard guard(tree_lock());
        if (mount->locked_ && mount->parent_->gone_) {
            keep_covering(*mount, parent);
        } else {
            unlink(*mount, parent, place);
            dropped = Ref<Mount>::adopt(mount); // the tree's
        }
        guard.unlock();
    }
}

Result<void> MountTree::unmount(const Path& where, bool detach, bool expire) {
    Mount& mount = *where.mount();
    if (where.dentry() != &mount.root())
        return fail(EINVAL);
    MutexGuard guard(mount_mutex());
    if (mount.space_ == nullptr || mount.locked_)
        return fail(EINVAL);
    if (!mount.parent_)
        return fail(EBUSY); // the root of everything
    if (!detach) {
        // The tree's reference and the caller's path; anything more is a file, a directory or a
        // mount in it.
        if (mount.ref_count() > 2 || !mount.children_.empty())
            return fail(EBUSY);
        if (expire && !mount.expiry_mark_.exchange(true))
            return fail(EAGAIN);
    }
    Vector<Mount*> chosen; // children before parents
    auto collected = collect_unmounts(mount, chosen);
    for (Mount* other : chosen) {
        other->chosen_ = false;
        if (collected && !detach && other != &mount && other->ref_count() > 1)
            collected = fail(EBUSY);
    }
    TRY(std::move(collected));
    Doomed doomed;
    {
        SpinGuard lock(tree_lock());
        for (Mount* m : chosen) {
            leave_space(*m);
            m->gone_ = true;
            doomed.push_back(*m);
        }
    }
    for (Mount* m : chosen)
        leave_groups(*m);
    remove(doomed);
    return {};
}

// --- the root ------------------------------------------------------------------------------------

Result<void> MountTree::pivot_root(const Path& root, const Path& new_root, const Path& put_old) {
    Mount& fresh = *new_root.mount();
    Mount& old = *root.mount();
    Ref<Mount> dropped[2];
    Ref<Dentry> dropped_places[2];
    MutexGuard guard(mount_mutex());
    MountNamespace* space = fresh.space_;
    if (space == nullptr || old.space_ != space || put_old.mount()->space_ != space ||
        fresh.locked_)
        return fail(EINVAL);
    if (new_root.dentry()->deleted())
        return fail(ENOENT);
    if (&fresh == &old || put_old.mount() == &old)
        return fail(EBUSY);
    if (root.dentry() != &old.root() || new_root.dentry() != &fresh.root() || !fresh.parent_)
        return fail(EINVAL);
    if (put_old.mount()->peer_group_ != 0 || fresh.parent_->peer_group_ != 0 ||
        (old.parent_ && old.parent_->peer_group_ != 0))
        return fail(EINVAL);
    // The old root must be where the new one can be reached from, and the new one must hold the
    // place for it.
    if (!is_below(*put_old.mount(), fresh) ||
        (put_old.mount() == &fresh && !is_descendant(*put_old.dentry(), *new_root.dentry())) ||
        !is_below(fresh, old))
        return fail(EINVAL);
    SpinGuard lock(tree_lock());
    unlink(fresh, dropped[0], dropped_places[0]);
    if (old.parent_) {
        unlink(old, dropped[1], dropped_places[1]);
        link(fresh, *dropped[1], *dropped_places[1]);
        link(old, *put_old.mount(), *put_old.dentry());
        old.release(); // the tree's old one
    } else {
        space->top_ = Ref<Mount>::share(&fresh); // the old reference is not the last one
        link(old, *put_old.mount(), *put_old.dentry());
    }
    if (old.locked_) { // what was hidden stays so
        fresh.locked_ = true;
        old.locked_ = false;
    }
    fresh.release();
    space->note_change();
    return {};
}

// --- what is visible -----------------------------------------------------------------------------

namespace {

class CountNames : public DirectorySink {
public:
    bool add(std::string_view name, u64, u32, u64) override {
        if (name != "." && name != "..")
            found = true;
        return !found;
    }
    bool found = false;
};

bool is_empty_directory(const Path& place) {
    Inode& inode = *place.dentry()->inode();
    if (!inode.is_directory())
        return false;
    auto file = inode.open(place, 0);
    CountNames names;
    return file && (*file)->read_directory(names, 0) && !names.found;
}

} // namespace

bool MountTree::fully_visible(MountNamespace& space, std::string_view type, u32 flags,
                              u32& locked) {
    Vector<Ref<Mount>> all;
    if (!list(space, all))
        return false;
    if ((flags & (MS_NOATIME | MS_STRICTATIME)) == 0)
        flags |= MS_RELATIME; // as make() completes them
    MutexGuard guard(mount_mutex());
    for (const Ref<Mount>& mount : all) {
        if (mount->space_ != &space || type != mount->superblock().type() ||
            !mount->root().is_root())
            continue;
        const Superblock& superblock = mount->superblock();
        u32 kept = mount->locked_flags_ & (MS_RDONLY | MS_NOATIME);
        if (superblock.read_only || (superblock.flags & MS_RDONLY) != 0)
            kept |= MS_RDONLY; // nobody in there can make it writable
        if ((kept & ~flags & MS_RDONLY) != 0)
            continue;
        if ((kept & MS_NOATIME) != 0 && ((mount->flags() ^ flags) & access_time_flags) != 0)
            continue;
        bool hidden = false;
        for (Mount& child : mount->children_)
            hidden = hidden || (child.locked_ && !is_empty_directory(Path(mount, child.place_)));
        if (!hidden) {
            locked = kept;
            return true;
        }
    }
    return false;
}

} // namespace kernel
