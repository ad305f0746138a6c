#include "guestkernel/fs/landlock.hpp"

#include <linux/errno.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

struct Allowed {
    u64 layers[LandlockDomain::most_layers];
};

const LandlockDomain* own_domain() {
    return static_cast<const LandlockDomain*>(current_task().landlock.get());
}

u64 given_by(std::span<const LandlockRule> rules, const Inode* inode) {
    for (usize at = landlock_find(rules, inode); at < rules.size() && rules[at].inode == inode;
         at++)
        if (rules[at].object->is(inode))
            return rules[at].allowed;
    return 0;
}

// What each layer allows at a place: what it does not handle, and what its rules give there and
// above.
Allowed allowed_at(const LandlockDomain& domain, const Path& path) {
    Allowed out{};
    const usize count = domain.layers.size();
    // A pipe or socket by way of /proc/PID/fd is in nobody's hierarchy.
    const bool nowhere = path.mount() == nullptr ||
                         std::string_view(path.mount()->superblock().type()) == "anon_inodefs";
    for (usize i = 0; i < count; i++)
        out.layers[i] = nowhere ? u64{landlock_all} : ~(domain.layers[i]->handled | landlock_refer);
    if (nowhere)
        return out;
    Ref<Mount> mount = Ref<Mount>::share(path.mount());
    Ref<Dentry> dentry = Ref<Dentry>::share(path.dentry());
    for (;;) {
        const Inode* inode = dentry->inode();
        for (usize i = 0; i < count && inode != nullptr; i++)
            out.layers[i] |= given_by(domain.layers[i]->rules.span(), inode);
        if (dentry.get() == &mount->root()) {
            if (!MountTree::cross_up(mount, dentry))
                return out;
            continue;
        }
        Ref<Dentry> parent = dentry->parent_ref();
        if (!parent)
            return out;
        dentry = std::move(parent);
    }
}

bool allows(const LandlockDomain& domain, const Allowed& allowed, u64 access) {
    for (usize i = 0; i < domain.layers.size(); i++)
        if ((access & ~allowed.layers[i]) != 0)
            return false;
    return true;
}

// Nothing may gain rights by being moved.
bool gains(const LandlockDomain& domain, const Allowed& from, const Allowed& to,
           const Inode& moved) {
    const u64 relevant = moved.is_directory() ? u64{landlock_all} : u64{landlock_of_files};
    for (usize i = 0; i < domain.layers.size(); i++)
        if ((to.layers[i] & ~from.layers[i] & relevant) != 0)
            return true;
    return false;
}

constinit SpinLock objects_lock{LockRank::Leaf};
constinit LandlockObject::List objects;

} // namespace

LandlockObject::LandlockObject(Dentry& place)
    : place_(Ref<Dentry>::share(&place)), inode_(place.inode()) {
    SpinGuard guard(objects_lock);
    objects.push_back(*this);
}

LandlockObject::~LandlockObject() {
    SpinGuard guard(objects_lock);
    node_.unlink();
}

// There may be 65536 rules in each of 16 layers, and a path may be any number of directories deep:
// to look at all of them at each would keep the CPU for minutes.
usize landlock_find(std::span<const LandlockRule> rules, const Inode* inode) {
    usize first = 0, end = rules.size();
    while (first < end) {
        const usize middle = first + (end - first) / 2;
        if (rules[middle].inode < inode)
            first = middle + 1;
        else
            end = middle;
    }
    return first;
}

// hook_sb_delete() of Linux.
void landlock_forget(const Superblock& superblock) {
    for (;;) {
        Ref<Dentry> gone; // after the lock
        SpinGuard guard(objects_lock);
        for (LandlockObject& object : objects)
            if (object.place_ && &object.place_->superblock() == &superblock) {
                object.inode_.store(nullptr);
                gone = std::move(object.place_);
                break;
            }
        if (!gone)
            return;
    }
}

bool landlock_restricted() {
    return static_cast<bool>(current_task().landlock);
}

Result<void> landlock_check_slow(const Path& path, u64 access) {
    const LandlockDomain* domain = own_domain();
    if (domain != nullptr && !allows(*domain, allowed_at(*domain, path), access))
        return fail(EACCES);
    return {};
}

u64 landlock_make(u32 mode) {
    switch (mode & mode_type) {
    case mode_directory:
        return landlock_make_dir;
    case mode_symlink:
        return landlock_make_sym;
    case mode_char:
        return landlock_make_char;
    case mode_block:
        return landlock_make_block;
    case mode_fifo:
        return landlock_make_fifo;
    case mode_socket:
        return landlock_make_sock;
    default:
        return landlock_make_reg;
    }
}

u64 landlock_remove(const Inode& inode) {
    return inode.is_directory() ? landlock_remove_dir : landlock_remove_file;
}

Result<void> landlock_check_move(const Path& from, const Path& to, const Inode& moved,
                                 const Inode* replaced, const Inode* exchanged, bool keeps_old) {
    const LandlockDomain* domain = own_domain();
    if (domain == nullptr)
        return {};
    u64 at_source = keeps_old ? 0 : landlock_remove(moved);
    u64 at_target = landlock_make(moved.mode_);
    if (replaced != nullptr)
        at_target |= landlock_remove(*replaced);
    if (exchanged != nullptr)
        at_source |= landlock_make(exchanged->mode_);
    const Allowed source = allowed_at(*domain, from);
    if (from == to)
        return allows(*domain, source, at_source | at_target) ? Result<void>()
                                                              : Result<void>(fail(EACCES));
    const Allowed target = allowed_at(*domain, to);
    if (!allows(*domain, source, at_source) || !allows(*domain, target, at_target))
        return fail(EACCES);
    if (!allows(*domain, source, landlock_refer) || !allows(*domain, target, landlock_refer) ||
        gains(*domain, source, target, moved) ||
        (exchanged != nullptr && gains(*domain, target, source, *exchanged)))
        return fail(EXDEV);
    return {};
}

} // namespace kernel
