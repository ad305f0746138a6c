// What the scheduler keeps for each group: shares, run time, bandwidth. See cpu_group.cpp.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/time.hpp"

namespace kernel {

class Cgroup;
class Task;

inline constexpr u64 no_limit_ns = ~u64{0};
inline constexpr u64 default_cpu_period_ns = 100'000'000;

struct CpuGroup {
    explicit CpuGroup(Cgroup& owner);
    ~CpuGroup();
    Result<void> init(); // the part per CPU

    // --- shares: under the lock of the CPU's run queue
    struct PerCpu {
        u64 load = 0;      // weights of what is runnable directly in it
        u32 runnable = 0;  // such tasks and groups
        u64 waited_ns = 0; // some member waited for this CPU
        u64 waited_until_ns = 0;
        u32 weight = 0; // what it adds to its parent's load
    };
    PerCpu* per_cpu = nullptr;
    u32 weight = 100;         // cpu.weight
    u32 scaled_weight = 1024; // the same, as tasks' weights are
    bool idle = false;        // cpu.idle

    // --- run time, with that of the groups below
    base::Atomic<u64> usage_ns{0}, system_ns{0}, nice_ns{0};

    // --- load: how many members run or wait, on average; under `lock` but for the sum
    base::Atomic<u64> wait_ns{0}; // all members' times of waiting for a CPU
    u64 sampled_ns = 0, sampled_total_ns = 0, load[3] = {};
    void averages(u64 (&out)[3]); // in units of 1/65536
    const u64 born_ns = monotonic_ns();

    // --- cpu.max: under `lock`
    SpinLock lock{LockRank::Bandwidth};
    base::Atomic<u64> quota_ns{~u64{0}};
    u64 period_ns = default_cpu_period_ns;
    u64 burst_ns = 0;
    u64 carried_ns = 0;           // what it saved up, within its burst
    base::Atomic<u64> used_ns{0}; // in this period, with what earlier ones overdrew
    base::Atomic<bool> throttled{false};
    u64 throttled_since_ns = 0;
    u64 periods = 0, throttled_periods = 0, throttled_ns = 0, bursts = 0, burst_used_ns = 0;
    Timer period_timer;
    Cgroup& group;

    bool limited() const { return quota_ns.load(base::Order::Relaxed) != ~u64{0}; }
    void set_weight(u32 fresh, bool make_idle); // Requires: hierarchy_mutex()
    void set_limit(u64 quota, u64 period, u64 burst);
    // Some run time was used: may throttle. Requires: a run queue's lock held.
    void consume(u64 ns, u64 now);
    void period_ended();
};

// cpu.weight as the weight of a nice-0 task is to its 100.
constexpr u32 scale_cpu_weight(u32 weight) {
    const u32 scaled = (weight * 1024 + 50) / 100;
    return scaled < 2 ? 2 : scaled;
}

// --- for the run queues; all require the queue's lock
// The task becomes runnable on that CPU, or ceases to be.
void count_runnable(Task& task, unsigned cpu);
void uncount_runnable(Task& task, unsigned cpu);
// `ran` ns of weighted run time in a group, as the whole machine sees it.
u64 share_of_groups(const Task& task, unsigned cpu, u64 weighted_ns);
// The task gets that CPU after it waited for it.
void note_group_waited(Task& task, unsigned cpu, u64 now);
void account_groups(Task& task, u64 ran, u64 now);
// How long the running task may go on before somebody should look; ~0 when nothing limits it.
u64 bandwidth_left_ns(const Task& task);

} // namespace kernel
