// Changes of how a task is scheduled while it may wait, run or sleep anywhere. Internal to sched/.
#pragma once

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/sched/run_queue.hpp"

namespace kernel {

// AndLook: its CPU finds out at once who should run there.
enum class Requeue : u8 { Quietly, AndLook };

// The run queue that guards how a task is scheduled, locked.
inline SpinGuard lock_run_queue_of(const Task& task) {
    for (;;) {
        const unsigned home = __atomic_load_n(&task.cpu, __ATOMIC_RELAXED);
        SpinGuard guard(run_queue(home).lock);
        if (task.cpu == home)
            return guard;
    }
}

// Runs `change(queue)`, which gives a Requeue back, while the task is in no run queue's order.
template <typename Change>
void with_task_dequeued(Task& task, Change&& change) {
    const SpinGuard guard = lock_run_queue_of(task);
    const unsigned home = task.cpu;
    CpuRunQueue& queue = run_queue(home);
    const bool queued = task.queued;
    if (queued)
        queue.dequeue(task);
    else if (queue.current == &task)
        queue.account(monotonic_ns());
    const bool counted = task.counted_weight != 0;
    if (counted)
        uncount_runnable(task, home);
    const Requeue how = change(queue);
    const bool runs = queue.current == &task && task.state == static_cast<u32>(TaskState::Running);
    if (queued)
        queue.enqueue(task);
    else if (runs && task.cpu_group != nullptr)
        count_runnable(task, home);
    if (how == Requeue::AndLook && (queued ? queue.should_preempt(task) : runs))
        arch::kick_cpu(home);
}

} // namespace kernel
