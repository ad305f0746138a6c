#include "guestkernel/sched/run_queue.hpp"

#include <linux/sched.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/sched/lend.hpp"

namespace kernel {

namespace {

// Run time counts inversely to these: each nice level is worth about 10 % of the CPU (the values of
// sched(7)'s implementation in Linux, so that programs see the shares that they know).
constexpr u32 nice_weights[40] = {
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916, 9548, 7620, 6100, 4904,
    3906,  3121,  2501,  1991,  1586,  1277,  1024,  820,   655,   526,   423,  335,  272,  215,
    172,   137,   110,   87,    70,    56,    45,    36,    29,    23,    18,   15,
};
constexpr u32 idle_policy_weight = 3;

} // namespace

i32 effective_rt_priority(const Task& task) {
    const i32 own = task.policy == SCHED_FIFO || task.policy == SCHED_RR ? task.rt_priority : 0;
    return task.lent_rt_priority > own ? task.lent_rt_priority : own;
}

i32 effective_nice(const Task& task) {
    return task.lent_nice < task.nice ? task.lent_nice : task.nice;
}

u32 task_weight(const Task& task) {
    if (task.policy == SCHED_IDLE && task.lent_nice >= 20)
        return idle_policy_weight;
    return nice_weights[effective_nice(task) + 20];
}

i32 urgency(const Task& task) {
    return task.policy == SCHED_DEADLINE ? urgency_of_deadlines : effective_rt_priority(task);
}

bool is_realtime(const Task& task) {
    return effective_rt_priority(task) > 0;
}

bool is_fair(const Task& task) {
    return task.deadline_state != DeadlineState::Eligible && !is_realtime(task);
}

CpuRunQueue::CpuRunQueue() : slice_timer([](Timer&, void*) { scheduler_tick(); }, nullptr) {}

void CpuRunQueue::enqueue(Task& task) {
    if (task.cpu_group != nullptr && task.counted_weight == 0)
        count_runnable(task, cpu);
    if (task.deadline_state == DeadlineState::Eligible) [[unlikely]] {
        deadlines.insert(task);
        waiting_deadline_tasks.fetch_add(1);
    } else if (is_realtime(task)) {
        // Behind those of the same priority; a preempted SCHED_FIFO task should come first among
        // them, but nothing here preempts in favour of an equal.
        Task* after = nullptr;
        for (Task& other : realtime)
            if (effective_rt_priority(other) < effective_rt_priority(task)) {
                after = &other;
                break;
            }
        if (after != nullptr)
            realtime.insert_before(*after, task);
        else
            realtime.push_back(task);
    } else {
        fair.insert(task);
    }
    task.queued = true;
    queued = queued + 1;
}

void CpuRunQueue::dequeue(Task& task) {
    if (task.deadline_state == DeadlineState::Eligible) [[unlikely]] {
        deadlines.remove(task);
        waiting_deadline_tasks.fetch_sub(1);
    } else if (task.run_node.linked()) {
        task.run_node.unlink();
    } else {
        fair.remove(task);
    }
    task.queued = false;
    queued = queued - 1;
}

Task* CpuRunQueue::pick() {
    Task* next = deadlines.first();
    if (next == nullptr)
        next = realtime.front();
    if (next == nullptr || realtime_exhausted())
        next = fair.first();
    if (next != nullptr)
        dequeue(*next);
    return next;
}

void CpuRunQueue::account(u64 now) {
    Task& task = *current;
    // The clock is the TSC, which virtual CPUs may see a little apart.
    const u64 ran = now > task.exec_start_ns ? now - task.exec_start_ns : 0;
    task.exec_start_ns = now;
    if (now - realtime_since_ns >= realtime_period_ns) {
        realtime_since_ns = now;
        realtime_used_ns = 0;
    }
    if (&task == idle)
        return;
    task.run_time_ns += ran;
    if (task.is_kernel)
        system_ns += ran;
    else
        (task.nice > 0 ? nice_ns : user_ns) += ran;
    if (task.deadline_state == DeadlineState::Eligible) [[unlikely]]
        account_deadline(task, ran, now);
    else if (is_realtime(task))
        realtime_used_ns += ran;
    else
        account_fair(task, ran);
    if (task.cgroup) [[unlikely]]
        account_groups(task, ran, now);
    advance_min();
}

void CpuRunQueue::account_fair(Task& task, u64 ran) {
    const u32 weight = task_weight(task);
    u64 weighted = weight == weight_of_nice_0 ? ran : ran * weight_of_nice_0 / weight;
    if (task.cpu_group != nullptr) [[unlikely]]
        weighted = share_of_groups(task, cpu, weighted);
    task.virtual_runtime += weighted;
}

void CpuRunQueue::advance_min() {
    u64 least = min_virtual_runtime;
    const Task* first = fair.first();
    if (current != idle && is_fair(*current))
        least = current->virtual_runtime;
    else if (first != nullptr)
        least = first->virtual_runtime;
    if (first != nullptr && static_cast<i64>(first->virtual_runtime - least) < 0)
        least = first->virtual_runtime;
    if (static_cast<i64>(least - min_virtual_runtime) > 0)
        min_virtual_runtime = least;
}

bool CpuRunQueue::should_preempt(const Task& task) const {
    if (current == idle)
        return true;
    if (task.deadline_state == DeadlineState::Eligible) [[unlikely]]
        return current->deadline_state != DeadlineState::Eligible ||
               DeadlineQueue::before(task, *current);
    if (current->deadline_state == DeadlineState::Eligible) [[unlikely]]
        return false;
    if (is_realtime(task))
        return effective_rt_priority(task) > effective_rt_priority(*current);
    if (is_realtime(*current) || task.policy == SCHED_BATCH)
        return false;
    if (current->policy == SCHED_IDLE && task.policy != SCHED_IDLE)
        return true;
    return static_cast<i64>(current->virtual_runtime - task.virtual_runtime) >
           static_cast<i64>(wakeup_granularity_ns);
}

u64 CpuRunQueue::best_deadline(const Task* running) const {
    if (realtime_used_ns >= realtime_share_ns)
        return 0;
    u64 best = no_deadline;
    if (running != nullptr && running->deadline_state == DeadlineState::Eligible)
        best = running->deadline_ns;
    if (const Task* first = deadlines.first(); first != nullptr && first->deadline_ns < best)
        best = first->deadline_ns;
    return best;
}

void CpuRunQueue::arm_slice(u64 now) {
    // A deadline that is already armed stays: arming costs several microseconds, and the tick finds
    // out whether the slice is really over.
    if (slice_timer.pending())
        return;
    const u64 delay = idle_cpus.load(base::Order::Relaxed) != 0 ? time_slice_ns / 4 : time_slice_ns;
    slice_timer.arm(now + delay);
}

void CpuRunQueue::arm_bandwidth(Task& task, u64 now) {
    const u64 left = bandwidth_left_ns(task);
    if (left == no_deadline)
        return;
    if (left == 0) {
        __atomic_fetch_or(&task.interrupt_flags, interrupt_cgroup, __ATOMIC_SEQ_CST);
        return; // the scheduler runs on the way to user mode, or will before it gets there
    }
    const u64 until = now + (left < time_slice_ns ? left : time_slice_ns);
    if (!slice_timer.pending() || slice_timer.deadline() > until)
        slice_timer.arm(until);
}

} // namespace kernel
