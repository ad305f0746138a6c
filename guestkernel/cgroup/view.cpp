#include "guestkernel/cgroup/view.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

u64 all_cpus() {
    const unsigned count = arch::cpu_count();
    return count >= 64 ? ~u64{0} : (u64{1} << count) - 1;
}

// The first `count` of the CPUs in `mask`.
u64 first_cpus(u64 mask, u64 count) {
    u64 out = 0;
    for (; mask != 0 && count > 0; mask &= mask - 1, count--)
        out |= mask & ~(mask - 1);
    return out;
}

bool has_limit(const Cgroup& group) {
    return group.cpu.limited() || (group.cpuset_cpus & all_cpus()) != all_cpus() ||
           (group.memory != nullptr && group.memory->max != no_page_limit);
}

void view_memory(ResourceView& view, const MemoryGroup& group) {
    view.memory = true;
    view.memory_total = group.max;
    view.memory_used = group.usage < group.max ? group.usage : group.max;
    view.anonymous = memory_group_kind(group, FrameKind::Anonymous);
    view.file = memory_group_kind(group, FrameKind::File);
    view.shared = memory_group_kind(group, FrameKind::Shared);
    view.tables = memory_group_kind(group, FrameKind::PageTable);
    view.stacks = memory_group_kind(group, FrameKind::Stack);
    view.kernel = memory_group_kind(group, FrameKind::Kernel);
}

void count_tasks(ResourceView& view, const Cgroup& group) {
    SpinGuard tree(process_tree_lock());
    for_each_process_locked([&](Process& process) {
        for (Task& task : process.tasks)
            if (task.cgroup && task.cgroup->is_below(group)) {
                view.tasks++;
                view.running += task.state == 0 ? 1 : 0;
            }
    });
}

} // namespace

ResourceView resource_view(bool with_load) {
    ResourceView view;
    Task& task = current_task();
    if (!task.cgroup) [[likely]]
        return view;
    const Ref<Cgroup> own = cgroup_of(task);
    Cgroup* limited = nullptr;
    const MemoryGroup* memory = nullptr;
    view.cpus = own->cpuset_cpus & all_cpus();
    for (Cgroup* at = own.get(); at->parent; at = at->parent.get()) {
        if (limited == nullptr && has_limit(*at))
            limited = at;
        if (at->memory != nullptr && at->memory->max != no_page_limit &&
            (memory == nullptr || at->memory->max < memory->max))
            memory = at->memory;
        if (at->cpu.limited()) {
            const u64 period = at->cpu.period_ns;
            view.cpus = first_cpus(view.cpus, (at->cpu.quota_ns.load() + period - 1) / period);
        }
    }
    if (limited == nullptr)
        return ResourceView();
    view.limited = true;
    if (memory != nullptr && memory->max < memory_stats().total)
        view_memory(view, *memory);
    note_run_times();
    view.born_ns = limited->cpu.born_ns;
    view.usage_ns = limited->cpu.usage_ns.load();
    view.system_ns = limited->cpu.system_ns.load();
    view.nice_ns = limited->cpu.nice_ns.load();
    if (with_load) {
        limited->cpu.averages(view.load);
        count_tasks(view, *limited);
    }
    return view;
}

} // namespace kernel
