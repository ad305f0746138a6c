#include "guestkernel/cgroup/controllers.hpp"

#include "guestkernel/cgroup/cpuset.hpp"
#include "guestkernel/cgroup/io.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

Cgroup* governing(Cgroup* group, Controller which) {
    for (Cgroup* at = group; at != nullptr && at->parent; at = at->parent.get())
        if (at->has(which))
            return at;
    return nullptr;
}

namespace {

// Before `subtree_control` of the parent says so: has() does not know yet.
MemoryGroup* memory_above(Cgroup& group) {
    for (Cgroup* at = group.parent.get(); at->parent; at = at->parent.get())
        if (at->memory != nullptr)
            return at->memory;
    return nullptr;
}

} // namespace

Result<void> enable_controllers(Cgroup& group, u32 which) {
    if (group.pressure == nullptr) {
        TRY(group.pressure, make_pressure_group(group));
    }
    if ((which & controller_bit(Controller::Memory)) != 0 && group.memory == nullptr) {
        TRY(group.memory, make_memory_group(memory_above(group), group));
    }
    if ((which & controller_bit(Controller::Io)) != 0 && group.io == nullptr) {
        TRY(group.io, make_io_group());
    }
    return {};
}

void disable_controllers(Cgroup& group, u32 which) {
    const auto goes = [which](Controller controller) {
        return (which & controller_bit(controller)) != 0;
    };
    if (goes(Controller::Memory) && group.memory != nullptr)
        retire_memory_group(*std::exchange(group.memory, nullptr));
    if (goes(Controller::Io) && group.io != nullptr)
        reset_io_group(*group.io);
    if (goes(Controller::Pids))
        group.pids_max.store(no_limit);
    if (goes(Controller::Cpu)) {
        group.cpu.set_weight(100, false);
        group.cpu.set_limit(no_limit_ns, default_cpu_period_ns, 0);
    }
    if (goes(Controller::Cpuset)) {
        group.cpuset_wanted = 0;
        group.cpuset_mems_set = false;
    }
}

void retire_controllers(Cgroup& group) {
    if (group.memory != nullptr)
        retire_memory_group(*std::exchange(group.memory, nullptr));
}

void free_controllers(Cgroup& group) {
    if (group.memory != nullptr) // it never came into the tree
        retire_memory_group(*group.memory);
    if (group.pressure != nullptr)
        free_pressure_group(group.pressure);
    if (group.io != nullptr)
        free_io_group(group.io);
}

void set_task_groups(Task& task, Ref<Cgroup>& group) {
    Cgroup* const fresh = group.get();
    Cgroup* const memory = governing(fresh, Controller::Memory);
    task.memory_owner =
        memory == nullptr || memory->memory == nullptr ? u16{0} : memory->memory->number;
    set_groups(task, group, governing(fresh, Controller::Cpu));
}

void regroup_members(Cgroup& top) {
    {
        SpinGuard tree(process_tree_lock());
        for_each_process_locked([&](Process& process) {
            for (Task& task : process.tasks) {
                if (!task.cgroup || !task.cgroup->is_below(top))
                    continue;
                Ref<Cgroup> same = task.cgroup;
                set_task_groups(task, same); // gives back the same: never the last reference
            }
        });
    }
    refresh_cpusets(top);
}

} // namespace kernel
