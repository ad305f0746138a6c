// Tasks that may not run in user mode: those of frozen groups, and of groups without CPU time left.
// They sleep on their way back, where they hold no lock that anybody else needs.
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/controllers.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

// The group to wait for; null: none.
Cgroup* holder(Cgroup* group) {
    if (group != nullptr && group->frozen.load(base::Order::Relaxed))
        return group;
    for (Cgroup* at = group; at != nullptr && at->parent; at = at->parent.get())
        if (at->cpu.throttled.load(base::Order::Relaxed))
            return at;
    return nullptr;
}

} // namespace

bool must_hold(const Cgroup* group) {
    return holder(const_cast<Cgroup*>(group)) != nullptr;
}

void request_hold(Task& task) {
    __atomic_fetch_or(&task.interrupt_flags, interrupt_cgroup, __ATOMIC_SEQ_CST);
    if (&task != arch::current() && task.on_cpu != 0)
        arch::kick_cpu(task.cpu);
}

void hold_by_cgroup(Task& task) {
    for (;;) {
        __atomic_fetch_and(&task.interrupt_flags, ~interrupt_cgroup, __ATOMIC_SEQ_CST);
        slow_down_for_memory(task);
        Ref<Cgroup> own;
        Cgroup* waits_for = nullptr;
        {
            SpinGuard tree(process_tree_lock());
            own = task.cgroup;
            waits_for = holder(own.get());
        }
        if (waits_for == nullptr || fatal_signal_pending())
            return;
        // Whoever moves the task elsewhere looks at this bit.
        __atomic_fetch_or(&task.interrupt_flags, interrupt_cgroup, __ATOMIC_SEQ_CST);
        if (waits_for->frozen.load(base::Order::Relaxed))
            recheck_frozen();
        (void)wait_until(
            waits_for->hold_queue,
            [&] { return task.cgroup != own || holder(own.get()) != waits_for; }, no_deadline,
            TaskState::Killable);
    }
}

void set_frozen_below(Cgroup& top) {
    for_each_below(top, [](Cgroup& group) {
        const bool frozen = group.freeze_wanted || (group.parent && group.parent->frozen.load());
        if (group.frozen.exchange(frozen) == frozen)
            return;
        if (!frozen) {
            group.hold_queue.wake_all();
            return;
        }
        SpinGuard tree(process_tree_lock());
        for_each_process_locked([&](Process& process) {
            for (Task& task : process.tasks)
                if (task.cgroup.get() == &group)
                    request_hold(task);
        });
    });
    recheck_frozen();
}

} // namespace kernel
