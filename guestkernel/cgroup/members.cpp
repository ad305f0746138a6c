// Tasks and their groups: fork, exit, moves.
#include <linux/errno.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/controllers.hpp"
#include "guestkernel/cgroup/cpuset.hpp"
#include "guestkernel/cgroup/pids.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/sched/run_queue.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

Cgroup& object_of(Cgroup* group) {
    return group == nullptr ? root_cgroup() : *group;
}

void populate(Cgroup& group) {
    if (group.tasks++ != 0 || group.populated_below != 0)
        return;
    cgroup_event(group, CgroupEvent::Events);
    for (Cgroup* at = group.parent.get(); at != nullptr; at = at->parent.get()) {
        const bool was = at->populated();
        at->populated_below++;
        if (was)
            return;
        cgroup_event(*at, CgroupEvent::Events);
    }
}

void depopulate(Cgroup& group) {
    group.tasks--;
    if (group.populated())
        return;
    cgroup_event(group, CgroupEvent::Events);
    for (Cgroup* at = group.parent.get(); at != nullptr; at = at->parent.get()) {
        at->populated_below--;
        if (at->populated())
            return;
        cgroup_event(*at, CgroupEvent::Events);
    }
}

// Requires: tree lock. Gives back what the task was in, to be dropped without it.
Ref<Cgroup> switch_group_locked(Task& task, Cgroup& to) {
    Cgroup& from = object_of(task.cgroup.get());
    if (&from == &to)
        return {};
    Ref<Cgroup> fresh = Ref<Cgroup>::share(to.as_member());
    charge_pids(to);
    uncharge_pids(from);
    populate(to);
    set_task_groups(task, fresh); // `fresh` becomes the old one
    depopulate(from);
    if (must_hold(to.as_member()) || (task.interrupt_flags & interrupt_cgroup) != 0) {
        request_hold(task);
        wake(task, static_cast<u32>(TaskState::Killable)); // it looks again
    } else if (task.on_cpu != 0 && !to.is_root()) {
        // Limits of its new groups are looked at when it is scheduled.
        if (&task == arch::current())
            arch::set_need_resched();
        else
            arch::kick_cpu(task.cpu);
    }
    return fresh;
}

} // namespace

Ref<Cgroup> cgroup_of_locked(Task& task) {
    return Ref<Cgroup>::share(&object_of(task.cgroup.get()));
}

Ref<Cgroup> cgroup_of(Task& task) {
    SpinGuard tree(process_tree_lock());
    return cgroup_of_locked(task);
}

Result<void> move_thread(Task& thread, Cgroup& to) {
    Ref<Cgroup> old;
    {
        SpinGuard tree(process_tree_lock());
        if (thread.exiting || !thread.process_node.linked())
            return fail(ESRCH);
        old = switch_group_locked(thread, to);
    }
    apply_cpuset(thread);
    recheck_frozen();
    return {};
}

Result<void> move_process(Process& process, Cgroup& to) {
    // A reference each, dropped without the lock: few processes have threads in several groups.
    bool any = false;
    for (;;) {
        Ref<Cgroup> old;
        Ref<Task> moved;
        {
            SpinGuard tree(process_tree_lock());
            for (Task& task : process.tasks) {
                any = true;
                if (&object_of(task.cgroup.get()) == &to)
                    continue;
                old = switch_group_locked(task, to);
                moved = Ref<Task>::share(&task);
                break;
            }
        }
        if (!moved)
            break;
        apply_cpuset(*moved);
    }
    recheck_frozen();
    return any ? Result<void>() : Result<void>(fail(ESRCH));
}

// --- fork and exit -------------------------------------------------------------------------------

Result<void> plan_fork(ForkPlan& plan, Ref<Cgroup> into) {
    Task& parent = current_task();
    plan.explicitly = static_cast<bool>(into);
    if (into)
        plan.group = std::move(into);
    else if (parent.cgroup)
        plan.group = cgroup_of(parent);
    if (plan.group) {
        TRY(try_charge_pids(*plan.group));
        plan.charged = true;
    }
    return {};
}

void cancel_fork(ForkPlan& plan) {
    if (plan.charged)
        uncharge_pids(*plan.group);
    plan.charged = false;
}

Result<void> join_cgroup_locked(Task& child, ForkPlan& plan) {
    if (!cgroups_exist())
        return {};
    if (plan.explicitly && plan.group->dead)
        return fail(ENODEV);
    // A parent that was moved meanwhile takes the child along, whatever the limit there.
    Cgroup& own = object_of(current_task().cgroup.get());
    if (!plan.explicitly && plan.group.get() != own.as_member()) {
        cancel_fork(plan);
        plan.moved_from = std::exchange(plan.group, Ref<Cgroup>::share(own.as_member()));
        charge_pids(own);
    }
    plan.charged = false;
    populate(object_of(plan.group.get()));
    if (!plan.group || plan.group->is_root())
        return {};
    Ref<Cgroup> fresh = plan.group;
    set_task_groups(child, fresh);
    child.affinity = affinity_in_cpuset(child, child.wanted_affinity);
    if (must_hold(plan.group.get()))
        __atomic_fetch_or(&child.interrupt_flags, interrupt_cgroup, __ATOMIC_SEQ_CST);
    return {};
}

void join_root_cgroup_locked() {
    if (cgroups_exist())
        root_cgroup().tasks++;
}

void leave_cgroup_locked(Task& task, bool becomes_zombie) {
    if (!cgroups_exist())
        return;
    Cgroup& group = object_of(task.cgroup.get());
    depopulate(group);
    if (becomes_zombie)
        task.process->zombie_group = task.cgroup; // stays charged until it is reaped
    else
        uncharge_pids(group);
    if (group.frozen.load(base::Order::Relaxed))
        recheck_frozen();
}

void reap_from_cgroup_locked(Process& process) {
    if (cgroups_exist())
        uncharge_pids(object_of(process.zombie_group.get()));
}

void kill_members(Cgroup& group, KillMembers which) {
    SpinGuard tree(process_tree_lock());
    for_each_process_locked([&](Process& process) {
        if (which == KillMembers::NotProtected && process.oom_score_adj <= never_for_memory)
            return;
        for (Task& task : process.tasks)
            if (object_of(task.cgroup.get()).is_below(group)) {
                send_child_signal_locked(process, kernel_signal(9));
                return;
            }
    });
}

// --- permissions, names --------------------------------------------------------------------------

Result<void> check_migration(Cgroup& from, Cgroup& to, const Credentials* who) {
    Cgroup* common = &from;
    while (!to.is_below(*common))
        common = common->parent.get();
    TRY(Ref<Inode> procs, cgroup_file_inode(*common, "cgroup.procs"));
    return check_permission(*procs, may_write, who);
}

Result<void> check_cgroup_entry(Cgroup& from, Cgroup& to) {
    if (to.dead)
        return fail(ENOENT);
    TRY(Ref<Inode> procs, cgroup_file_inode(to, "cgroup.procs"));
    TRY(check_permission(*procs, may_write));
    TRY(check_migration(from, to, current_credentials()));
    return check_destination(to);
}

Result<void> append_cgroup_path(String& out, const Cgroup& group, const Cgroup* root) {
    Vector<const Cgroup*> chain;
    const Cgroup* at = &group;
    const Cgroup* base = root;
    if (base != nullptr) {
        bool up = false;
        while (!group.is_below(*base)) {
            TRY(out.append("/.."));
            up = true;
            base = base->parent.get();
        }
        if (&group == base && up)
            return {};
    }
    for (; at != base && at->parent; at = at->parent.get())
        TRY(chain.push_back(at));
    if (chain.empty())
        return out.append("/");
    for (usize i = chain.size(); i > 0; i--) {
        TRY(out.append("/"));
        TRY(out.append(chain[i - 1]->name.view()));
    }
    return {};
}

Result<void> append_visible_path(String& out, const Cgroup& group) {
    const Namespaces* own = current_namespaces();
    return append_cgroup_path(out, group, own == nullptr ? nullptr : own->cgroup->root.get());
}

} // namespace kernel
