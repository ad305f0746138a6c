// Mounts, how they hang together, and the ways across them.
#include "guestkernel/fs/mount.hpp"

#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/fs/notify.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constinit Mutex changes;
constinit base::Atomic<u32> next_id{1};
constinit MountNamespace* initial_space = nullptr; // lives as long as the kernel

constexpr u32 mount_flag_mask = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME |
                                MS_NODIRATIME | MS_RELATIME | MS_STRICTATIME | MS_NOSYMFOLLOW;

// By parent and place, under tree_lock().
constexpr usize bucket_count = 1024;
constinit Mount* buckets[bucket_count] = {};

Mount*& bucket_of(const Mount& mount, const Dentry& dentry) {
    const u64 hash =
        hash_mix(reinterpret_cast<u64>(&mount) ^ hash_mix(reinterpret_cast<u64>(&dentry)));
    return buckets[hash % bucket_count];
}

} // namespace

Mutex& mount_mutex() {
    return changes;
}

Mount::Mount(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags)
    : superblock_(std::move(superblock)), root_(std::move(root)), id_(next_id.fetch_add(1)),
      flags_(flags & mount_flag_mask) {
    superblock_->mount_count.fetch_add(1);
}

Mount::~Mount() {
    MountTree::uncover(*this);
    forget_notify_target(this);
    root_ = nullptr;
    if (superblock_->mount_count.fetch_sub(1) == 1) {
        if (!superblock_->sync()) {
            // Nobody is left who could be told.
        }
        forget_unmounted(*superblock_);
        landlock_forget(*superblock_);
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

// --- ways ----------------------------------------------------------------------------------------

Mount* MountTree::find(const Mount& mount, const Dentry& dentry) {
    for (Mount* m = bucket_of(mount, dentry); m != nullptr; m = m->hash_next_)
        if (m->place_.get() == &dentry && (m->parent_ ? m->parent_.get() : m->covers_in_) == &mount)
            return m;
    return nullptr;
}

Ref<Mount> MountTree::mounted_at(const Mount& mount, const Dentry& dentry) {
    if (dentry.mounts.load(base::Order::Relaxed) == 0)
        return nullptr;
    SpinGuard guard(tree_lock());
    return Ref<Mount>::share(find(mount, dentry));
}

bool MountTree::mounted_here(const Dentry& dentry) {
    if (dentry.mounts.load() == 0)
        return false;
    MountNamespace& space = *current_mount_namespace();
    SpinGuard guard(tree_lock());
    for (const Mount& mount : space.mounts_)
        if (mount.place_.get() == &dentry)
            return true;
    return false;
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
        if (mount->covers_in_ != nullptr && mount->covers_in_->try_add_ref())
            parent = Ref<Mount>::adopt(mount->covers_in_);
        else
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
    return initial_space == nullptr ? Path() : initial_space->root();
}

// --- links ---------------------------------------------------------------------------------------

// Takes a reference for the tree.
void MountTree::link(Mount& mount, Mount& parent, Dentry& place) {
    mount.parent_ = Ref<Mount>::share(&parent);
    mount.place_ = Ref<Dentry>::share(&place);
    place.mounts.fetch_add(1);
    Mount*& bucket = bucket_of(parent, place);
    mount.hash_next_ = bucket;
    bucket = &mount;
    parent.children_.push_back(mount);
    mount.add_ref();
    note_way_change();
}

// The tree's reference goes to the caller, and those to the parent and the place, which must not be
// dropped under the lock.
void MountTree::unlink(Mount& mount, Ref<Mount>& parent, Ref<Dentry>& place) {
    unhash(mount, *mount.parent_);
    note_way_change();
    parent = std::move(mount.parent_);
    place = std::move(mount.place_);
}

void MountTree::unhash(Mount& mount, const Mount& parent) {
    for (Mount** at = &bucket_of(parent, *mount.place_); *at != nullptr; at = &(*at)->hash_next_)
        if (*at == &mount) {
            *at = mount.hash_next_;
            break;
        }
    mount.hash_next_ = nullptr;
    mount.place_->mounts.fetch_sub(1);
    mount.sibling_node_.unlink();
}

// Both are unmounted, but who stands in the parent must not see what the locked mount hides. It
// keeps its place and the tree's reference; that to the parent goes to the caller, since from now
// on it is the parent that keeps the mount. In front of those that are still to be taken out.
void MountTree::keep_covering(Mount& mount, Ref<Mount>& parent) {
    mount.covers_in_ = mount.parent_.get();
    mount.sibling_node_.unlink();
    mount.covers_in_->children_.push_front(mount);
    parent = std::move(mount.parent_);
}

namespace {

constinit bool uncovering = false; // under tree_lock(): a task gives up covers

} // namespace

// What still covers places in a mount that ends goes with it, unless somebody stands there. Covers
// can be many and deep: they end in a loop of one task, not each in the end of the one above.
void MountTree::uncover(Mount& dying) {
    static constinit Doomed waiting;
    if (dying.children_.empty())
        return;
    for (;;) {
        Ref<Dentry> place; // its file system may end with `dying`: dropped here, without the lock
        SpinGuard guard(tree_lock());
        Mount* child = dying.children_.front();
        if (child == nullptr)
            break;
        unhash(*child, dying);
        child->covers_in_ = nullptr;
        place = std::move(child->place_);
        waiting.push_back(*child);
        guard.unlock();
    }
    for (bool first = true;; first = false) {
        SpinGuard guard(tree_lock());
        if (first && std::exchange(uncovering, true))
            return; // another task, or this one further up, is at it
        Mount* next = waiting.pop_front();
        if (next == nullptr) {
            uncovering = false;
            return;
        }
        guard.unlock();
        next->release();
    }
}

// A mount on it, in whatever namespace.
Mount* MountTree::find_on(const Dentry& dentry) {
    SpinGuard guard(tree_lock());
    for (Mount* first : buckets)
        for (Mount* m = first; m != nullptr; m = m->hash_next_)
            if (m->place_.get() == &dentry && m->parent_)
                return m;
    return nullptr;
}

void MountTree::drop_from(const Dentry& dentry) {
    while (dentry.mounts.load() != 0) {
        Ref<Mount> parent, dropped; // go after the mutex
        Ref<Dentry> place;
        MutexGuard guard(mount_mutex());
        Mount* mount = find_on(dentry);
        if (mount == nullptr)
            return; // what is left covers the place for who stands there
        dissolve(*mount);
        SpinGuard lock(tree_lock());
        unlink(*mount, parent, place);
        dropped = Ref<Mount>::adopt(mount); // the tree's
    }
}

// All of a tree becomes part of a namespace.
void MountTree::adopt(Mount& tree, MountNamespace& space) {
    for (Mount* m = &tree; m != nullptr; m = next(*m, tree)) {
        if (m->space_ != nullptr)
            leave_space(*m);
        m->space_ = &space;
        space.mounts_.push_back(*m);
        space.mount_count_++;
        join_groups(*m);
    }
    space.note_change();
}

void MountTree::become_top(const Ref<Mount>& mount, MountNamespace& space) {
    space.top_ = mount;
    adopt(*mount, space);
}

void MountTree::leave_space(Mount& mount) {
    if (mount.space_ == nullptr)
        return;
    mount.space_node_.unlink();
    mount.space_->mount_count_--;
    mount.space_->note_change();
    mount.space_ = nullptr;
    if (mount.group_node_.linked())
        mount.group_node_.unlink();
}

// Hangs a tree up. What propagation finds at its place already comes to lie on top of it.
void MountTree::put(Mount& tree, Mount& parent, Dentry& place) {
    if (Mount* upper = find(parent, place)) {
        Ref<Mount> old_parent;
        Ref<Dentry> old_place;
        unlink(*upper, old_parent, old_place);
        link(*upper, tree, tree.root());
        upper->release(); // unlink() gave it to us; link() took another one
        // The parent and the place are held by the caller too: not the last references.
    }
    link(tree, parent, place);
    // Only at boot and in unit tests is the parent in none.
    adopt(tree, parent.space_ != nullptr ? *parent.space_ : *initial_space);
}

// --- namespaces ----------------------------------------------------------------------------------

MountNamespace::MountNamespace(Ref<UserNamespace> owner, bool counted, bool anonymous)
    : Namespace(NamespaceKind::Mount, std::move(owner), counted), anonymous_(anonymous) {}

Path MountNamespace::root() const {
    Ref<Mount> mount;
    {
        SpinGuard guard(tree_lock());
        mount = top_;
    }
    if (!mount)
        return {};
    Ref<Dentry> dentry = Ref<Dentry>::share(&mount->root());
    MountTree::cross_down(mount, dentry);
    return Path(std::move(mount), std::move(dentry));
}

MountNamespace* current_mount_namespace() {
    Namespaces* own = current_namespaces();
    return own != nullptr && own->mount ? own->mount.get() : initial_space;
}

bool at_namespace_root(const Path& path) {
    const MountNamespace* space = current_mount_namespace();
    return space == nullptr || !path || path == space->root();
}

namespace {

Result<MountNamespace*> first_space() {
    if (initial_space == nullptr) {
        TRY(Ref<MountNamespace> made,
            make_ref<MountNamespace>(Ref<UserNamespace>::share(initial_user_namespace), false,
                                     false));
        if (initial_namespaces != nullptr)
            initial_namespaces->mount = made;
        initial_space = made.leak();
    }
    return initial_space;
}

} // namespace

Result<Ref<Mount>> MountTree::make(Ref<Superblock> superblock, Ref<Dentry> root, u32 flags,
                                   std::string_view source, u32 locked) {
    if ((flags & (MS_NOATIME | MS_STRICTATIME)) == 0)
        flags |= MS_RELATIME;
    TRY(Ref<Mount> mount, make_ref<Mount>(std::move(superblock), std::move(root), flags));
    TRY(mount->source_.append(source));
    mount->locked_flags_ = locked;
    return mount;
}

Result<void> MountTree::list(MountNamespace& space, Vector<Ref<Mount>>& out) {
    for (;;) {
        const usize count = space.mount_count_;
        TRY(out.reserve(count));
        SpinGuard guard(tree_lock());
        if (space.mount_count_ > count)
            continue; // one more came between the two looks
        for (Mount& mount : space.mounts_)
            if (!out.push_back(Ref<Mount>::share(&mount)))
                return fail(ENOMEM);
        return {};
    }
}

Result<void> MountTree::list(Vector<Ref<Mount>>& out) {
    MountNamespace* space = current_mount_namespace();
    return space == nullptr ? Result<void>() : list(*space, out);
}

// --- the file system's own flags -----------------------------------------------------------------

Result<void> MountTree::apply_superblock_flags(Mount& mount, u32 flags, bool commit) {
    Superblock& superblock = *mount.superblock_;
    // All mounts of it become read-only at once.
    if ((flags & ~superblock.flags & MS_RDONLY) != 0 && mount.space_ != nullptr)
        for (Mount& other : mount.space_->mounts_)
            if (other.superblock_.get() == &superblock && other.writers.load() > 0)
                return fail(EBUSY);
    constexpr u32 changeable = MS_RDONLY | MS_SYNCHRONOUS | MS_DIRSYNC | MS_LAZYTIME;
    if (commit)
        superblock.flags = (superblock.flags & ~changeable) | (flags & changeable);
    return {};
}

Result<void> MountTree::reconfigure(const Path& where, u32 flags) {
    MutexGuard guard(mount_mutex());
    return apply_superblock_flags(*where.mount(), flags, true);
}

// --- what the boot code and file systems use -----------------------------------------------------

Result<void> mount_at(const Path& where, Ref<Superblock> superblock, u32 mount_flags,
                      std::string_view source, u32 locked) {
    superblock->take_flags(mount_flags & MS_RDONLY);
    TRY(Ref<Dentry> root, Dentry::make_root(*superblock, superblock->root()));
    TRY(Ref<Mount> mount,
        MountTree::make(std::move(superblock), std::move(root), mount_flags, source, locked));
    TRY(first_space());
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
    TRY(MountNamespace * space, first_space());
    {
        MutexGuard guard(mount_mutex());
        SpinGuard lock(tree_lock());
        MountTree::become_top(mount, *space);
    }
    return Path(std::move(mount), std::move(root));
}

Result<void> format_mount_options(const Mount& mount, String& out) {
    const u32 flags = mount.flags();
    TRY(out.append((flags & MS_RDONLY) != 0 ? "ro" : "rw"));
    static constexpr struct {
        u32 flag;
        const char* text;
    } names[] = {{MS_NOSUID, ",nosuid"},          {MS_NODEV, ",nodev"},
                 {MS_NOEXEC, ",noexec"},          {MS_NOATIME, ",noatime"},
                 {MS_NODIRATIME, ",nodiratime"},  {MS_RELATIME, ",relatime"},
                 {MS_NOSYMFOLLOW, ",nosymfollow"}};
    for (const auto& name : names)
        if ((flags & name.flag) != 0)
            TRY(out.append(name.text));
    return {};
}

Result<void> format_superblock_options(const Mount& mount, String& out) {
    Superblock& superblock = mount.superblock();
    TRY(out.append(superblock.read_only || (superblock.flags & MS_RDONLY) != 0 ? "ro" : "rw"));
    static constexpr struct {
        u32 flag;
        const char* text;
    } names[] = {{MS_SYNCHRONOUS, ",sync"}, {MS_DIRSYNC, ",dirsync"}, {MS_LAZYTIME, ",lazytime"}};
    for (const auto& name : names)
        if ((superblock.flags & name.flag) != 0)
            TRY(out.append(name.text));
    return superblock.describe_options(out);
}

} // namespace kernel
