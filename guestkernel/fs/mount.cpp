#include "guestkernel/fs/mount.hpp"

#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/fs/vfs.hpp"

namespace kernel {

namespace {

// The tree: all attached mounts in the order of their attachment, under tree_lock(). Each holds a
// reference.
constinit Mount* first_mount = nullptr;
constinit base::Atomic<u32> next_id{1};

constexpr u32 mount_flag_mask = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME |
                                MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME;

} // namespace

Mount::Mount(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags)
    : superblock_(std::move(superblock)), root_(std::move(root)), id_(next_id.fetch_add(1)),
      flags_(flags & mount_flag_mask) {
    superblock_->mount_count.fetch_add(1);
}

Mount::~Mount() {
    root_ = nullptr;
    if (superblock_->mount_count.fetch_sub(1) == 1) {
        if (!superblock_->sync()) {
            // Nobody is left who could be told.
        }
        DentryCache::forget_superblock(*superblock_);
    }
}

bool Mount::read_only() const {
    return (flags() & MS_RDONLY) != 0 || superblock_->read_only ||
           (superblock_->flags & MS_RDONLY) != 0;
}

Path Mount::attached_at() const {
    SpinGuard guard(tree_lock());
    return parent_ ? Path(parent_, place_) : Path();
}

u32 Mount::parent_id() const {
    SpinGuard guard(tree_lock());
    return parent_ ? parent_->id_ : id_;
}

Ref<Mount> MountTree::mounted_at(const Mount& mount, const Dentry& dentry) {
    if (dentry.mounts.load(base::Order::Relaxed) == 0)
        return nullptr;
    SpinGuard guard(tree_lock());
    for (Mount* m = first_mount; m != nullptr; m = m->next_)
        if (m->place_.get() == &dentry && m->parent_.get() == &mount)
            return Ref<Mount>::share(m);
    return nullptr;
}

bool MountTree::cross_down(Ref<Mount>& mount, Ref<Dentry>& dentry) {
    bool crossed = false;
    while (Ref<Mount> upper = mounted_at(*mount, *dentry)) {
        dentry = upper->root_;
        mount = std::move(upper);
        crossed = true;
    }
    return crossed;
}

bool MountTree::cross_up(Ref<Mount>& mount, Ref<Dentry>& dentry) {
    Ref<Mount> parent;
    Ref<Dentry> place;
    {
        SpinGuard guard(tree_lock());
        parent = mount->parent_;
        place = mount->place_;
    }
    if (!parent)
        return false;
    mount = std::move(parent);
    dentry = std::move(place);
    return true;
}

Path MountTree::root() {
    Ref<Mount> mount;
    {
        SpinGuard guard(tree_lock());
        mount = Ref<Mount>::share(first_mount);
    }
    if (!mount)
        return {};
    Ref<Dentry> dentry = mount->root_;
    cross_down(mount, dentry);
    return Path(std::move(mount), std::move(dentry));
}

Result<Ref<Mount>> MountTree::make(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags,
                                   std::string_view source) {
    if ((flags & (MS_NOATIME | MS_STRICTATIME)) == 0)
        flags |= MS_RELATIME;
    TRY(Ref<Mount> mount, make_ref<Mount>(std::move(superblock), std::move(root), flags));
    TRY(mount->source_.append(source));
    return mount;
}

// Requires: tree_lock() held. Takes a reference for the tree.
void MountTree::link(Mount& mount, Mount* parent, Dentry* place) {
    mount.parent_ = Ref<Mount>::share(parent);
    mount.place_ = Ref<Dentry>::share(place);
    if (place != nullptr)
        place->mounts.fetch_add(1);
    if (mount.attached_)
        return; // moved: it stays in the list
    mount.attached_ = true;
    mount.add_ref();
    Mount** at = &first_mount;
    while (*at != nullptr)
        at = &(*at)->next_;
    *at = &mount;
}

// Requires: tree_lock() held. The tree's reference goes to the caller; parent_ and place_ are left
// for the caller to drop when the lock is released, but no longer count.
void MountTree::unlink(Mount& mount) {
    for (Mount** at = &first_mount; *at != nullptr; at = &(*at)->next_)
        if (*at == &mount) {
            *at = mount.next_;
            break;
        }
    mount.next_ = nullptr;
    mount.attached_ = false;
    if (mount.place_)
        mount.place_->mounts.fetch_sub(1);
}

bool MountTree::is_below(const Mount& mount, const Mount& ancestor) {
    for (const Mount* m = &mount; m != nullptr; m = m->parent_.get())
        if (m == &ancestor)
            return true;
    return false;
}

// Takes `top` and all mounts below it out of the tree.
void MountTree::detach_all(Mount& top) {
    Mount* chain = nullptr;
    {
        SpinGuard guard(tree_lock());
        // Children come after their parents in the list, except after a move; so go on until
        // nothing is found.
        for (bool found = true; found;) {
            found = false;
            for (Mount* m = first_mount; m != nullptr; m = m->next_)
                if (m != &top && is_below(*m, top)) {
                    // Leaves first, so that is_below() still sees the ancestors of what remains.
                    bool leaf = true;
                    for (Mount* c = first_mount; c != nullptr; c = c->next_)
                        leaf = leaf && c->parent_.get() != m;
                    if (!leaf)
                        continue;
                    unlink(*m);
                    m->next_ = chain;
                    chain = m;
                    found = true;
                    break;
                }
        }
        if (top.attached_) {
            unlink(top);
            top.next_ = chain;
            chain = &top;
        }
    }
    while (chain != nullptr) {
        Mount* next = std::exchange(chain->next_, nullptr);
        Ref<Mount> parent;
        Ref<Dentry> place;
        {
            SpinGuard guard(tree_lock());
            std::swap(parent, chain->parent_);
            std::swap(place, chain->place_);
        }
        chain->release();
        chain = next;
    }
}

Result<void> MountTree::attach(const Path& where, Ref<Mount> mount) {
    if (where.dentry()->is_negative() || where.dentry()->deleted())
        return fail(ENOENT);
    if (where.dentry()->inode()->is_directory() != mount->root_->inode()->is_directory())
        return fail(ENOTDIR);
    // Whatever was mounted here meanwhile is covered.
    Ref<Mount> parent = Ref<Mount>::share(where.mount());
    Ref<Dentry> place = Ref<Dentry>::share(where.dentry());
    cross_down(parent, place);
    SpinGuard guard(tree_lock());
    link(*mount, parent.get(), place.get());
    return {};
}

Result<void> MountTree::bind_below(const Path& from, Mount& copy) {
    // Copies the mounts below `from` that are visible through it.
    Vector<Ref<Mount>> all;
    TRY(list(all));
    struct Pair {
        Ref<Mount> original, copy;
    };
    Vector<Pair> pairs;
    TRY(pairs.push_back(Pair{Ref<Mount>::share(from.mount()), Ref<Mount>::share(&copy)}));
    for (const Ref<Mount>& mount : all) {
        if (mount.get() == &copy)
            continue;
        const Path at = mount->attached_at();
        for (usize i = 0; at && i < pairs.size(); i++) {
            if (pairs[i].original.get() != at.mount())
                continue;
            bool inside = false;
            for (Ref<Dentry> d = Ref<Dentry>::share(at.dentry()); d && !inside; d = d->parent_ref())
                inside = d.get() == &pairs[i].copy->root();
            if (!inside)
                break;
            TRY(Ref<Mount> twin,
                make(mount->superblock_, mount->root_, mount->flags(), mount->source()));
            TRY(attach(Path(pairs[i].copy, Ref<Dentry>::share(at.dentry())), twin));
            TRY(pairs.push_back(Pair{mount, std::move(twin)}));
            break;
        }
    }
    return {};
}

Result<void> MountTree::bind(const Path& from, const Path& where, bool recursive) {
    TRY(Ref<Mount> copy, make(from.mount()->superblock_, Ref<Dentry>::share(from.dentry()),
                              from.mount()->flags(), from.mount()->source()));
    TRY(attach(where, copy));
    if (!recursive)
        return {};
    auto done = bind_below(from, *copy);
    if (!done)
        detach_all(*copy);
    return done;
}

Result<void> MountTree::move(const Path& from, const Path& where) {
    Mount& mount = *from.mount();
    if (from.dentry() != &mount.root())
        return fail(EINVAL);
    if (mount.root().inode()->is_directory() != where.dentry()->inode()->is_directory())
        return fail(ENOTDIR);
    Ref<Mount> old_parent;
    Ref<Dentry> old_place;
    SpinGuard guard(tree_lock());
    if (!mount.attached_ || !mount.parent_)
        return fail(EINVAL);
    if (is_below(*where.mount(), mount))
        return fail(ELOOP);
    mount.place_->mounts.fetch_sub(1);
    std::swap(old_parent, mount.parent_);
    std::swap(old_place, mount.place_);
    link(mount, where.mount(), where.dentry());
    guard.unlock();
    return {};
}

Result<void> MountTree::remount(const Path& where, u32 flags, bool bind_only) {
    Mount& mount = *where.mount();
    if (where.dentry() != &mount.root())
        return fail(EINVAL);
    if ((flags & MS_RDONLY) != 0 && (mount.flags() & MS_RDONLY) == 0 && mount.writers.load() > 0)
        return fail(EBUSY);
    if ((flags & (MS_NOATIME | MS_STRICTATIME | MS_RELATIME)) == 0)
        flags |= mount.flags() & (MS_NOATIME | MS_STRICTATIME | MS_RELATIME);
    if (!bind_only)
        mount.superblock_->flags =
            (mount.superblock_->flags & ~u32{MS_RDONLY}) | (flags & MS_RDONLY);
    mount.flags_.store(flags & mount_flag_mask);
    return {};
}

Result<void> MountTree::unmount(const Path& where, bool detach, bool expire) {
    Mount& mount = *where.mount();
    if (where.dentry() != &mount.root())
        return fail(EINVAL);
    if (expire)
        return fail(EAGAIN); // the first MNT_EXPIRE only marks; nothing here goes unused long
                             // enough to matter
    {
        SpinGuard guard(tree_lock());
        if (!mount.attached_)
            return fail(EINVAL);
        if (!mount.parent_)
            return fail(EBUSY); // the root of everything
        if (!detach) {
            // The tree's reference and the caller's path; anything more is a file, a directory or a
            // mount in it.
            if (mount.ref_count() > 2)
                return fail(EBUSY);
        }
    }
    detach_all(mount);
    return {};
}

// pivot_root(2).
Result<void> MountTree::pivot_root(const Path& new_root, const Path& put_old) {
    Mount& fresh = *new_root.mount();
    const Path old_root = root();
    Mount& old = *old_root.mount();
    if (new_root.dentry() != &fresh.root())
        return fail(EINVAL);
    if (!new_root.dentry()->inode()->is_directory() || !put_old.dentry()->inode()->is_directory())
        return fail(ENOTDIR);
    if (&fresh == &old || put_old.mount() == &old)
        return fail(EBUSY);
    Ref<Mount> dropped_parent;
    Ref<Dentry> dropped_place;
    SpinGuard guard(tree_lock());
    if (!fresh.attached_ || !fresh.parent_ || !is_below(*put_old.mount(), fresh))
        return fail(EINVAL);
    fresh.place_->mounts.fetch_sub(1);
    std::swap(dropped_parent, fresh.parent_);
    std::swap(dropped_place, fresh.place_);
    link(old, put_old.mount(), put_old.dentry());
    // The first of the list is the top.
    for (Mount** at = &first_mount; *at != nullptr; at = &(*at)->next_)
        if (*at == &fresh) {
            *at = fresh.next_;
            break;
        }
    fresh.next_ = first_mount;
    first_mount = &fresh;
    guard.unlock();
    return {};
}

Result<void> MountTree::list(Vector<Ref<Mount>>& out) {
    for (;;) {
        usize count = 0;
        {
            SpinGuard guard(tree_lock());
            for (Mount* m = first_mount; m != nullptr; m = m->next_)
                count++;
        }
        TRY(out.reserve(count));
        SpinGuard guard(tree_lock());
        usize seen = 0;
        for (Mount* m = first_mount; m != nullptr; m = m->next_)
            seen++;
        if (seen > count)
            continue; // one more came between the two looks
        for (Mount* m = first_mount; m != nullptr; m = m->next_)
            if (!out.push_back(Ref<Mount>::share(m)))
                return fail(ENOMEM);
        return {};
    }
}

Result<void> mount_at(const Path& where, Ref<Superblock> superblock, u32 mount_flags,
                      std::string_view source) {
    superblock->flags |= mount_flags & MS_RDONLY;
    TRY(Ref<Dentry> root, Dentry::make_root(*superblock, superblock->root()));
    TRY(Ref<Mount> mount,
        MountTree::make(std::move(superblock), std::move(root), mount_flags, source));
    return MountTree::attach(where, std::move(mount));
}

Result<Path> detached_mount(Ref<Superblock> superblock, u32 mount_flags, std::string_view source) {
    TRY(Ref<Dentry> root, Dentry::make_root(*superblock, superblock->root()));
    TRY(Ref<Mount> mount, MountTree::make(std::move(superblock), root, mount_flags, source));
    return Path(std::move(mount), std::move(root));
}

Result<Path> mount_root(Ref<Superblock> superblock, u32 mount_flags, std::string_view source) {
    TRY(Ref<Dentry> root, Dentry::make_root(*superblock, superblock->root()));
    TRY(Ref<Mount> mount, MountTree::make(std::move(superblock), root, mount_flags, source));
    {
        SpinGuard guard(tree_lock());
        MountTree::link(*mount, nullptr, nullptr);
    }
    return Path(std::move(mount), std::move(root));
}

Result<void> format_mount_options(const Mount& mount, String& out) {
    const u32 flags = mount.flags();
    TRY(out.append((flags & MS_RDONLY) != 0 ? "ro" : "rw"));
    static constexpr struct {
        u32 flag;
        const char* text;
    } names[] = {{MS_NOSUID, ",nosuid"},         {MS_NODEV, ",nodev"},
                 {MS_NOEXEC, ",noexec"},         {MS_NOATIME, ",noatime"},
                 {MS_NODIRATIME, ",nodiratime"}, {MS_RELATIME, ",relatime"}};
    for (const auto& name : names)
        if ((flags & name.flag) != 0)
            TRY(out.append(name.text));
    return {};
}

Result<void> format_superblock_options(const Mount& mount, String& out) {
    Superblock& superblock = mount.superblock();
    TRY(out.append(superblock.read_only || (superblock.flags & MS_RDONLY) != 0 ? "ro" : "rw"));
    return superblock.describe_options(out);
}

} // namespace kernel
