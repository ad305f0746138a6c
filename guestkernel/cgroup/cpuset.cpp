#include "guestkernel/cgroup/cpuset.hpp"

#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

u64 online_cpus() {
    const unsigned count = arch::cpu_count();
    return count >= 64 ? ~u64{0} : (u64{1} << count) - 1;
}

} // namespace

u64 allowed_by_cpuset(Task& task, u64 wanted) {
    SpinGuard tree(process_tree_lock());
    const u64 cpus = task.cgroup ? task.cgroup->cpuset_cpus : ~u64{0};
    return wanted & cpus & online_cpus();
}

u64 affinity_in_cpuset(Task& task, u64 wanted) {
    const u64 cpus = task.cgroup ? task.cgroup->cpuset_cpus : ~u64{0};
    return (wanted & cpus & online_cpus()) != 0 ? wanted & cpus : cpus;
}

void apply_cpuset(Task& task) {
    u64 mask = 0;
    {
        SpinGuard tree(process_tree_lock());
        if (task.exiting)
            return;
        mask = affinity_in_cpuset(task, task.wanted_affinity);
    }
    if (mask != task.affinity)
        set_affinity(task, mask);
}

void refresh_cpusets(Cgroup& top) {
    for_each_below(top, [](Cgroup& group) {
        if (group.is_root())
            return;
        const u64 above = group.parent->cpuset_cpus;
        const u64 own = group.has(Controller::Cpuset) ? group.cpuset_wanted & above : 0;
        group.cpuset_cpus = (own & online_cpus()) != 0 ? own : above;
    });
    for (i32 pid = next_pid(0); pid != 0; pid = next_pid(pid)) {
        const Ref<Process> process = find_process(pid);
        if (!process)
            continue;
        for (i32 tid = next_tid(*process, 0); tid != 0; tid = next_tid(*process, tid)) {
            const Ref<Task> task = find_task(tid);
            if (!task)
                continue;
            const Ref<Cgroup> group = cgroup_of(*task);
            if (group->is_below(top))
                apply_cpuset(*task);
        }
    }
}

void set_cpuset(Cgroup& group, u64 cpus) {
    group.cpuset_wanted = cpus;
    refresh_cpusets(group);
}

} // namespace kernel
