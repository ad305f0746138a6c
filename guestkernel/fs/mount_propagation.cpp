// Peer groups and slaves (mount_namespaces(7), "Shared subtrees"). A group is a number; who is in
// it is found by going through all mounts that have to do with any group.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/mount.h>

#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constinit u32 last_group = 0; // under MountTree's mutex

} // namespace

MountTree::Grouped& MountTree::grouped() {
    static constinit Grouped list;
    return list;
}

u32 MountTree::new_group() {
    return ++last_group;
}

// A mount that came into a namespace, or whose groups changed.
void MountTree::join_groups(Mount& mount) {
    const bool wanted = mount.peer_group_ != 0 || mount.master_group_ != 0;
    if (wanted && !mount.group_node_.linked())
        grouped().push_back(mount);
    else if (!wanted && mount.group_node_.linked())
        mount.group_node_.unlink();
}

// When the last member of a group goes, the group's slaves become its master's.
void MountTree::leave_groups(Mount& mount) {
    const u32 group = mount.peer_group_;
    const u32 master = mount.master_group_;
    if (mount.group_node_.linked())
        mount.group_node_.unlink();
    mount.peer_group_ = 0;
    mount.master_group_ = 0;
    if (group == 0)
        return;
    auto& all = grouped();
    for (const Mount& other : all)
        if (other.peer_group_ == group)
            return;
    for (Mount* slave = all.front(); slave != nullptr;) {
        Mount* after = all.next(*slave);
        if (slave->master_group_ == group) {
            slave->master_group_ = master;
            join_groups(*slave);
        }
        slave = after;
    }
}

void MountTree::set_propagation(Mount& mount, u32 type) {
    mount.unbindable_ = type == MS_UNBINDABLE;
    if (type == MS_SHARED) {
        if (mount.peer_group_ == 0)
            mount.peer_group_ = new_group();
        join_groups(mount);
        return;
    }
    const u32 group = mount.peer_group_;
    u32 master = mount.master_group_;
    leave_groups(mount);
    if (type == MS_SLAVE && group != 0)
        for (const Mount& other : grouped())
            if (other.peer_group_ == group)
                master = group;
    mount.master_group_ = type == MS_SLAVE ? master : 0;
    join_groups(mount);
}

// The mounts that hear of what happens in `parent`, with the copies of `tree` that go there.
Result<void> MountTree::propagate(Mount& parent, Dentry& place, Mount& tree,
                                  Vector<Received>& out) {
    struct Step {
        u32 group;
        Mount* source; // a tree whose mounts have the groups of what `group`'s members got
        Mount* served;
    };
    const usize size = size_of(tree);
    Vector<Step> steps;
    TRY(steps.push_back(Step{parent.peer_group_, &tree, &parent}));
    for (usize i = 0; i < steps.size(); i++) {
        const Step step = steps[i];
        for (Mount& receiver : grouped()) {
            const bool peer = receiver.peer_group_ == step.group;
            const bool slave = receiver.master_group_ == step.group;
            if ((!peer && !slave) || &receiver == step.served || &receiver == &parent ||
                receiver.superblock_ != parent.superblock_ ||
                !is_descendant(place, receiver.root()))
                continue;
            if (!peer && receiver.peer_group_ != 0) {
                bool queued = false;
                for (const Step& other : steps)
                    queued = queued || other.group == receiver.peer_group_;
                if (queued)
                    continue;
            }
            const Copy kind = peer                        ? Copy::Same
                              : receiver.peer_group_ != 0 ? Copy::SharedSlave
                                                          : Copy::Slave;
            // Room first: what is awaited must be on the list, so that it is taken back.
            TRY(out.reserve(out.size() + 1));
            TRY(Ref<Mount> copy, copy_tree(*step.source, step.source->root(), kind, true));
            if (auto room = await(receiver, size); !room) {
                dissolve(*copy);
                return room;
            }
            if (receiver.space_ != nullptr && receiver.space_->owner() != parent.space_->owner())
                lock_tree(*copy);
            Mount* made = copy.get();
            TRY(out.push_back(Received{Ref<Mount>::share(&receiver), std::move(copy)}));
            if (!peer && receiver.peer_group_ != 0)
                TRY(steps.push_back(Step{receiver.peer_group_, made, &receiver}));
        }
    }
    return {};
}

Result<void> MountTree::collect_receivers(const Mount& parent, Vector<Mount*>& out) {
    Vector<u32> groups;
    if (parent.peer_group_ == 0)
        return {};
    TRY(groups.push_back(u32{parent.peer_group_}));
    for (usize i = 0; i < groups.size(); i++)
        for (Mount& receiver : grouped()) {
            const bool peer = receiver.peer_group_ == groups[i];
            if ((!peer && receiver.master_group_ != groups[i]) || &receiver == &parent)
                continue;
            bool known = false;
            for (const Mount* other : out)
                known = known || other == &receiver;
            if (!known)
                TRY(out.push_back(&receiver));
            if (peer || receiver.peer_group_ == 0)
                continue;
            known = false;
            for (const u32 other : groups)
                known = known || other == receiver.peer_group_;
            if (!known)
                TRY(groups.push_back(u32{receiver.peer_group_}));
        }
    return {};
}

// The tree at `top` and what came to other places with it, children before parents.
Result<void> MountTree::collect_unmounts(Mount& top, Vector<Mount*>& out) {
    const auto choose = [&](Mount& mount) -> Result<void> {
        TRY(out.push_back(&mount));
        mount.chosen_ = true;
        return {};
    };
    // In reverse of pre-order: leaves first.
    Vector<Mount*> own;
    for (Mount* m = &top; m != nullptr; m = next(*m, top))
        TRY(own.push_back(m));
    for (usize i = own.size(); i-- > 0;) {
        Mount& mount = *own[i];
        if (!mount.chosen_)
            TRY(choose(mount));
        if (!mount.parent_)
            continue;
        Vector<Mount*> receivers;
        TRY(collect_receivers(*mount.parent_, receivers));
        for (Mount* receiver : receivers) {
            SpinGuard guard(tree_lock());
            Mount* twin = find(*receiver, *mount.place_);
            guard.unlock();
            if (twin == nullptr || twin->chosen_ || &twin->root() != &mount.root())
                continue;
            bool busy = false;
            for (Mount& child : twin->children_)
                busy = busy || !child.chosen_;
            if (!busy)
                TRY(choose(*twin));
        }
    }
    return {};
}

Result<void> MountTree::share_group(const Path& from, const Path& with) {
    MutexGuard guard(mount_mutex());
    Mount& source = *from.mount();
    Mount& target = *with.mount();
    for (const Mount* mount : {&source, &target}) {
        if (mount->space_ == nullptr)
            return fail(EINVAL);
        if (!capable_over(mount->space_->owner(), CAP_SYS_ADMIN))
            return fail(EPERM);
    }
    if (from.dentry() != &source.root() || with.dentry() != &target.root())
        return fail(EINVAL);
    // The same file system, of which the target shows no more; it is in no group so far.
    if (&source.superblock() != &target.superblock() || target.peer_group_ != 0 ||
        target.master_group_ != 0 || (source.peer_group_ == 0 && source.master_group_ == 0) ||
        !is_descendant(target.root(), source.root()) || has_locked_children(source, target.root()))
        return fail(EINVAL);
    target.peer_group_ = source.peer_group_;
    target.master_group_ = source.master_group_;
    target.unbindable_ = false;
    join_groups(target);
    guard.unlock();
    return {};
}

} // namespace kernel
