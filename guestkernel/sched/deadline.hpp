// SCHED_DEADLINE: earliest deadline first, each task within a constant bandwidth server (sched(7),
// Linux's Documentation/scheduler/sched-deadline.rst).
//
// A task that has used up its runtime is exhausted until its next period begins. What it does in
// the kernel meanwhile it does as an ordinary task, since others may wait for locks that it holds;
// it is held where it would return to user mode.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/time.hpp"

namespace kernel {

class Task;
struct CpuRunQueue;

struct DeadlineParameters {
    u64 runtime_ns = 0, deadline_ns = 0, period_ns = 0;
    u64 flags = 0; // SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN

    bool operator==(const DeadlineParameters&) const = default;
};

inline constexpr u64 shortest_runtime_ns = 1024; // sched(7)
// sched_deadline_period_min_us and ..._max_us: what new parameters are held to.
inline base::Atomic<u32> shortest_period_us{100}, longest_period_us{u32{1} << 22};
// Unlike in what programs give, a period of 0 does not mean the deadline any more.
bool valid_deadline(const DeadlineParameters& parameters);

// Made when a task first becomes SCHED_DEADLINE, kept as long as the task: who leaves the class and
// comes back gets no more than the rest of its period. Guarded by the task's run queue's lock.
struct DeadlineServer {
    explicit DeadlineServer(Task& owner);

    Task& task;
    DeadlineParameters parameters;
    i64 left_ns = 0;           // of this period's runtime
    u64 bandwidth = 0;         // what is admitted for it; 0: it is in another class
    u64 replenished_at_ns = 0; // while exhausted
    bool overran = false;      // to be told by a signal
    bool held = false;
    bool just_replenished = false; // held until now: this wake-up begins the new period
    Timer timer;                   // of the next period; a late shot finds nothing to do
};

// Makes a task SCHED_DEADLINE, or changes its parameters. Requires: valid parameters. EPERM: it may
// not run on all CPUs; EBUSY: what is admitted would be more than the CPUs can give.
Result<void> set_deadline(Task& task, const DeadlineParameters& parameters, u64 all_cpus);
// False: the task is in another class.
bool deadline_of(Task& task, DeadlineParameters& out);
// Before it returns to user mode: until its next period. For Task::interrupt_flags.
void hold_by_deadline(Task& task);
// The task has left the class, or ended. Requires: the lock of its run queue, the task not queued.
// Returns whether it was held: it must be woken.
bool leave_deadline(Task& task, CpuRunQueue& queue);

// Whether any task is admitted; whether one waits for a CPU.
extern base::Atomic<u32> deadline_tasks, waiting_deadline_tasks;

} // namespace kernel
