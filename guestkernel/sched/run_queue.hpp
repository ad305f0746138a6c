// One CPU's run queue. Internal to sched/.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/sched/deadline.hpp"
#include "guestkernel/sched/fair_queue.hpp"

namespace kernel {

inline constexpr u64 time_slice_ns = 3'500'000;
inline constexpr u64 wakeup_granularity_ns =
    1'000'000; // virtual time by which a woken task must be behind to preempt
inline constexpr u64 sleeper_credit_ns = 1'500'000;
inline constexpr u64 offer_delay_ns =
    150'000; // a task that waited this long here is offered to idle CPUs
// Waking a halted CPU costs about as much as this: wakers that run for less before they sleep keep
// the woken task.
inline constexpr u32 short_burst_ns = 60'000;
inline constexpr u64 max_poll_ns = 50'000; // a halt and a wake-up cost more than this
inline constexpr u32 weight_of_nice_0 = 1024;
// Real-time tasks and those with deadlines get together at most this share of a CPU that ordinary
// tasks wait for (sched(7), sched_rt_runtime_us): a busy loop under SCHED_FIFO must not lock
// everybody else out.
inline constexpr u64 realtime_period_ns = 1'000'000'000, realtime_share_ns = 950'000'000;

u32 task_weight(const Task& task);
// Real-time by policy or because priority was lent to it. Not asked of those with deadlines unless
// they are exhausted.
bool is_realtime(const Task& task);
bool is_fair(const Task& task); // neither

struct CpuRunQueue {
    SpinLock lock{LockRank::RunQueue};
    unsigned cpu = 0;
    Task* current = nullptr;
    Task* idle = nullptr;
    Task* previous = nullptr; // during a switch: the task that gave the CPU away
    FairQueue fair;
    base::IntrusiveList<Task, &Task::run_node> realtime; // by falling priority
    DeadlineQueue deadlines;                             // SCHED_DEADLINE, not exhausted
    volatile u64 running_deadline_ns = no_deadline;      // of `current`, if it is one of them
    bool migrates = false;                               // `previous` may not run here any more
    volatile u32 queued = 0;                             // waiting in all three
    u64 min_virtual_runtime = 0;
    // The address space whose page table is loaded, held: kernel tasks borrow it. And one that was
    // unloaded, on its way to be dropped after the switch.
    Ref<AddressSpace> loaded;
    Ref<AddressSpace> unloaded;
    bool borrows = false;      // nobody works in `loaded` here: this CPU is not in its active_cpus
    u64 loaded_generation = 0; // the last of its flushes whose effect this CPU is known to have
    Timer slice_timer;
    u64 idle_since_ns = 0; // polling or halted since then; 0: not now
    // Idle, but looking at `queued` and `asked` all the time: no interrupt is needed to tell it of
    // work.
    base::Atomic<bool> polling{false};
    base::Atomic<bool> asked{false}; // to pull a task
    u64 poll_ns = 0; // how long it polls before it halts; follows how soon work came lately
    // How long anybody has waited for this CPU: pressure.cpp.
    u64 waiting_since_ns = 0, waited_ns = 0;
    u64 idle_ns = 0, switches = 0, user_ns = 0, nice_ns = 0, system_ns = 0;

    CpuRunQueue();

    // Run time of real-time tasks and those with deadlines in the period that began then.
    u64 realtime_used_ns = 0, realtime_since_ns = 0;

    // All of these: Requires: lock held.
    void enqueue(Task& task);
    void dequeue(Task& task);
    Task* pick();          // takes it out; null when nobody waits
    void account(u64 now); // the run time of `current`
    // The same on whatever CPU, whose tick may be far: who runs alone has none.
    void bring_up_to_date(u64 now) {
        if (current != nullptr && current != idle)
            account(now);
    }
    void advance_min();
    // A task leaves for another queue, or comes from one: its virtual run time becomes a distance
    // from the minimum and the reverse.
    void send_off(Task& task) {
        task.virtual_runtime -= min_virtual_runtime;
        task.in_transit = true;
    }
    void receive(Task& task) {
        task.virtual_runtime += min_virtual_runtime;
        task.in_transit = false;
    }
    // Real-time tasks have had their share while others wait.
    u64 realtime_left_ns() const {
        return realtime_used_ns < realtime_share_ns ? realtime_share_ns - realtime_used_ns
                                                    : realtime_period_ns;
    }
    bool realtime_exhausted() const {
        return realtime_used_ns >= realtime_share_ns && !fair.empty();
    }
    // The earliest deadline of those that wait here and, unless null, of `running`: who has a later
    // one need not come. 0: nobody need.
    u64 best_deadline(const Task* running) const;
    // It is the turn of ordinary tasks, and some are there: no period of a deadline need begin.
    bool owes_fair(u64 now) const;
    // Whether `task`, just queued, should run instead of `current`.
    bool should_preempt(const Task& task) const;
    // After tasks came or went: is anybody waiting?
    void note_waiting(u64 now) {
        if ((queued != 0) == (waiting_since_ns != 0))
            return;
        if (queued != 0) {
            waiting_since_ns = now;
        } else {
            waited_ns += now > waiting_since_ns ? now - waiting_since_ns : 0;
            waiting_since_ns = 0;
        }
    }
    void arm_slice(u64 now); // on the own CPU only
    // The same for a task whose groups' CPU time is limited: it must be looked at while it runs.
    void arm_bandwidth(Task& task, u64 now);

    // --- deadline.cpp
    void account_deadline(Task& task, u64 ran, u64 now); // of an eligible `current`
    void yield_deadline(Task& task, u64 now);            // `current` gives up its runtime
    void wake_deadline(Task& task, u64 now);             // an eligible task, about to be queued
    void note_deadline(Task& task, u64 now);             // that it runs now; on the own CPU only
    // What a period's begin cost besides run time, since it was due.
    void charge_overhead(u64 due, u64 now);
    // It is among the fair from here on: without credit for the time when it was not.
    void join_fair(Task& task);

private:
    u64 overhead_until_ns_ = 0, event_cost_ns_ = 30'000;
    void account_fair(Task& task, u64 ran);
    void exhaust(Task& task, u64 now);
};

CpuRunQueue& run_queue(unsigned cpu);
inline CpuRunQueue& this_run_queue() {
    return run_queue(arch::cpu_id());
}

// --- placement.cpp
extern base::Atomic<u64> idle_cpus; // bit n: CPU n is in its idle loop with nothing to do
// Where a woken or new task shall run. `home`: where it ran last.
unsigned choose_cpu(const Task& task, unsigned home, bool is_new);
// Moves a task that waits elsewhere and whose deadline is earlier than `before` here. Requires: no
// lock held.
bool pull_deadline(CpuRunQueue& queue, u64 before);
// Moves a waiting task from a busier CPU here. Requires: no lock held. Returns whether one came.
bool pull_task(CpuRunQueue& queue);
// Enqueues a task that is Running, in transit and whose `cpu` is `target`, and sees to it that it
// runs: there or, if it may no longer run there, elsewhere.
void place(Task& task, unsigned target, bool waking);
// Lets an idle CPU come and pull.
void wake_idle_cpu(u64 allowed);

void note_load(u64 now);
void drop_address_space(
    Ref<AddressSpace> space); // now, or by the reaper when it is the last reference

} // namespace kernel
