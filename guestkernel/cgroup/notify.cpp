// Telling of events. Those who make them hold spin locks; inotify sleeps. So a kernel task tells,
// and also finds out when all tasks of a frozen group have come to rest.
#include <linux/inotify.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constinit SpinLock list_lock{LockRank::Leaf};
constinit base::IntrusiveList<Cgroup, &Cgroup::notify_node> waiting;
constinit WaitQueue work;
constinit base::Atomic<bool> frozen_changed{false};
constinit bool started = false; // hierarchy_mutex()

Ref<Cgroup> next_waiting() {
    SpinGuard guard(list_lock);
    return Ref<Cgroup>::adopt(waiting.pop_front());
}

bool at_rest(Task& task) {
    return task.exiting || task.state != static_cast<u32>(TaskState::Running);
}

// Whether every task of a frozen group, and of those below, is held or asleep.
bool all_at_rest(Cgroup& group) {
    bool rest = true;
    SpinGuard tree(process_tree_lock());
    for_each_process_locked([&](Process& process) {
        for (Task& task : process.tasks)
            if (task.cgroup && task.cgroup->is_below(group) && !at_rest(task))
                rest = false;
    });
    return rest;
}

// Returns whether some group is still on its way.
bool look_at_frozen() {
    bool unfinished = false;
    MutexGuard guard(hierarchy_mutex());
    for_each_below(root_cgroup(), [&](Cgroup& group) {
        const bool wanted = group.frozen.load();
        if (!wanted && !group.frozen_told)
            return;
        const bool now = wanted && all_at_rest(group);
        unfinished = unfinished || now != wanted;
        if (now != group.frozen_told) {
            group.frozen_told = now;
            cgroup_event(group, CgroupEvent::Events);
        }
    });
    return unfinished;
}

void run_notifier(void*) {
    constexpr u64 shortest_ns = 1'000'000;
    constexpr u64 longest_ns = 100'000'000;
    u64 again_ns = 0;
    for (;;) {
        const u64 deadline = again_ns == 0 ? no_deadline : monotonic_ns() + again_ns;
        (void)wait_until(
            work, [&] { return !waiting.empty() || frozen_changed.load(); }, deadline,
            TaskState::Uninterruptible);
        if (frozen_changed.exchange(false))
            again_ns = shortest_ns;
        // Tasks that run in the kernel when their group freezes may go to sleep there: nobody says
        // so.
        if (again_ns != 0) {
            const bool unfinished = look_at_frozen();
            again_ns = !unfinished ? 0 : again_ns * 2 < longest_ns ? again_ns * 2 : longest_ns;
        }
        while (Ref<Cgroup> group = next_waiting()) {
            const u32 events = group->pending_events.exchange(0);
            for (u32 bit = 1; bit < 32; bit++)
                if ((events >> bit & 1) != 0)
                    tell_cgroup_file(*group, static_cast<CgroupEvent>(bit));
        }
    }
}

} // namespace

void cgroup_event(Cgroup& group, CgroupEvent event) {
    const u32 bit = 1u << static_cast<u32>(event);
    if (group.is_root() || (group.pending_events.fetch_or(bit) & bit) != 0)
        return;
    {
        SpinGuard guard(list_lock);
        if (group.notify_node.linked())
            return;
        group.add_ref();
        waiting.push_back(group);
    }
    work.wake_all();
}

void recheck_frozen() {
    if (!frozen_changed.exchange(true))
        work.wake_all();
}

Result<void> start_cgroup_notifier() {
    if (started)
        return {};
    TRY(start_kernel_task("cgroup_notify", run_notifier, nullptr));
    started = true;
    return {};
}

} // namespace kernel
