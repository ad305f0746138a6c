// CPU time by groups.
//
// Shares: run queues stay flat. The virtual time of a task in a group passes faster by how many
// compete with it inside, and slower by the group's weight: its run time is multiplied by load of
// the group's members over the group's weight, for each group up to the root. Loads are counted per
// CPU, since tasks compete with those on their CPU.
//
// Bandwidth: a group that has used up its quota is throttled until the period ends: its tasks sleep
// where they would return to user mode. What it used beyond its quota until somebody looked is
// taken off the next period.
#include "guestkernel/cgroup/cpu_group.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/sched/run_queue.hpp"

namespace kernel {

namespace {

constexpr u64 longest_step = u64{1} << 36; // ns: keeps the products below 64 bits
constexpr u64 largest_load = u64{1} << 27;

u64 clamp(u64 value, u64 most) {
    return value < most ? value : most;
}

} // namespace

CpuGroup::CpuGroup(Cgroup& owner)
    : period_timer([](Timer&, void* self) { static_cast<CpuGroup*>(self)->period_ended(); }, this),
      group(owner) {}

CpuGroup::~CpuGroup() {
    period_timer.cancel();
    delete[] per_cpu;
}

Result<void> CpuGroup::init() {
    per_cpu = new (std::nothrow) PerCpu[arch::cpu_count()];
    return per_cpu != nullptr ? Result<void>() : Result<void>(fail(enomem));
}

// --- shares --------------------------------------------------------------------------------------

void count_runnable(Task& task, unsigned cpu) {
    if (!is_fair(task))
        return;
    task.counted_weight = task_weight(task);
    u64 weight = task.counted_weight;
    for (Cgroup* at = task.cpu_group; at->parent; at = at->parent.get()) {
        CpuGroup::PerCpu& here = at->cpu.per_cpu[cpu];
        here.load += weight;
        if (here.runnable++ != 0)
            return;
        here.weight = at->cpu.scaled_weight;
        weight = here.weight;
    }
}

void uncount_runnable(Task& task, unsigned cpu) {
    u64 weight = task.counted_weight;
    task.counted_weight = 0;
    for (Cgroup* at = task.cpu_group; at->parent; at = at->parent.get()) {
        CpuGroup::PerCpu& here = at->cpu.per_cpu[cpu];
        here.load -= weight;
        if (--here.runnable != 0)
            return;
        weight = here.weight;
    }
}

u64 share_of_groups(const Task& task, unsigned cpu, u64 weighted_ns) {
    u64 result = clamp(weighted_ns, longest_step);
    for (const Cgroup* at = task.cpu_group; at->parent; at = at->parent.get()) {
        const CpuGroup::PerCpu& here = at->cpu.per_cpu[cpu];
        const u64 weight = here.weight == 0 ? at->cpu.scaled_weight : here.weight;
        result = clamp(result * clamp(here.load == 0 ? weight : here.load, largest_load) / weight,
                       longest_step);
    }
    return result;
}

void CpuGroup::set_weight(u32 fresh, bool make_idle) {
    constexpr u32 idle_weight = 3;
    weight = fresh;
    idle = make_idle;
    const u32 scaled = make_idle ? idle_weight : scale_cpu_weight(fresh);
    scaled_weight = scaled;
    Cgroup* above = group.parent.get();
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
        SpinGuard guard(run_queue(cpu).lock);
        PerCpu& here = per_cpu[cpu];
        if (here.runnable != 0 && above->parent)
            above->cpu.per_cpu[cpu].load += u64{scaled} - here.weight;
        here.weight = scaled;
    }
}

// --- run time and bandwidth ----------------------------------------------------------------------

// Members' times of waiting overlap: only what comes after the last one told counts.
void note_group_waited(Task& task, unsigned cpu, u64 now) {
    const u64 waited = now > task.waiting_since_ns ? now - task.waiting_since_ns : 0;
    for (Cgroup* at = task.cgroup.get(); at != nullptr && at->parent; at = at->parent.get()) {
        at->cpu.wait_ns.fetch_add(waited, base::Order::Relaxed);
        CpuGroup::PerCpu& here = at->cpu.per_cpu[cpu];
        const u64 from = task.waiting_since_ns > here.waited_until_ns ? task.waiting_since_ns
                                                                      : here.waited_until_ns;
        if (now > from)
            here.waited_ns += now - from;
        here.waited_until_ns = now;
    }
}

// Running and waiting time per time is the number of tasks that run or wait: decayed as
// load_averages() are, when somebody asks.
void CpuGroup::averages(u64 (&out)[3]) {
    constexpr u64 period = 5 * nanoseconds_per_second;
    constexpr u64 one = 65536;
    constexpr u64 decay[3] = {60296, 64453, 65172};
    SpinGuard guard(lock);
    const u64 now = monotonic_ns();
    const u64 total = usage_ns.load() + wait_ns.load();
    if (sampled_ns == 0)
        sampled_ns = born_ns;
    const u64 elapsed = now - sampled_ns;
    if (elapsed >= period) {
        const u64 active = (total - sampled_total_ns) / (elapsed / one + 1);
        u64 steps = elapsed / period;
        steps = steps < 1000 ? steps : 1000;
        for (u64 step = 0; step < steps; step++)
            for (unsigned i = 0; i < 3; i++)
                load[i] = (load[i] * decay[i] + active * (one - decay[i])) / one;
        sampled_ns = now;
        sampled_total_ns = total;
    }
    for (unsigned i = 0; i < 3; i++)
        out[i] = load[i];
}

void account_groups(Task& task, u64 ran, u64 now) {
    const u64 system = task.system_time_ns - task.system_told_ns;
    task.system_told_ns = task.system_time_ns;
    for (Cgroup* at = task.cgroup.get(); at != nullptr && at->parent; at = at->parent.get()) {
        CpuGroup& cpu = at->cpu;
        cpu.usage_ns.fetch_add(ran, base::Order::Relaxed);
        if (system != 0)
            cpu.system_ns.fetch_add(system, base::Order::Relaxed);
        if (task.nice > 0)
            cpu.nice_ns.fetch_add(ran, base::Order::Relaxed);
        if (cpu.limited())
            cpu.consume(ran, now);
        if (cpu.throttled.load(base::Order::Relaxed))
            __atomic_fetch_or(&task.interrupt_flags, interrupt_cgroup, __ATOMIC_SEQ_CST);
    }
}

u64 bandwidth_left_ns(const Task& task) {
    u64 least = no_deadline;
    for (const Cgroup* at = task.cgroup.get(); at != nullptr && at->parent; at = at->parent.get()) {
        const CpuGroup& cpu = at->cpu;
        if (!cpu.limited())
            continue;
        if (cpu.throttled.load(base::Order::Relaxed))
            return 0;
        const u64 quota = cpu.quota_ns.load(base::Order::Relaxed);
        const u64 used = cpu.used_ns.load(base::Order::Relaxed);
        // Others of the group may be running: look again a little early, but not all the time.
        constexpr u64 shortest_look = 200'000;
        const u64 left = used < quota ? quota - used : 0;
        const u64 shared = left < shortest_look ? shortest_look : left;
        least = shared < least ? shared : least;
    }
    return least;
}

void CpuGroup::consume(u64 ns, u64 now) {
    const u64 used = used_ns.fetch_add(ns, base::Order::Relaxed) + ns;
    const bool over = used >= quota_ns.load(base::Order::Relaxed) + carried_ns;
    if (period_timer.pending() && !over)
        return;
    SpinGuard guard(lock);
    if (!period_timer.pending())
        period_timer.arm(now + period_ns);
    if (over && limited() && !throttled.load(base::Order::Relaxed)) {
        throttled_since_ns = now;
        throttled.store(true);
    }
}

void CpuGroup::period_ended() {
    bool wake = false;
    {
        SpinGuard guard(lock);
        const u64 now = monotonic_ns();
        const u64 quota = quota_ns.load();
        const u64 used = used_ns.load();
        periods++;
        if (used > quota && carried_ns != 0) {
            bursts++;
            const u64 extra = used - quota;
            burst_used_ns += extra < carried_ns ? extra : carried_ns;
        }
        const u64 room = quota == no_limit_ns ? no_limit_ns : quota + carried_ns;
        const u64 taken = used < room ? used : room;
        // Others may add to it meanwhile.
        const u64 left = used_ns.fetch_sub(taken) - taken;
        carried_ns = room == no_limit_ns ? 0 : room - taken;
        carried_ns = carried_ns < burst_ns ? carried_ns : burst_ns;
        const bool was = throttled.load();
        throttled_periods += was ? 1 : 0;
        if (was && left < quota + carried_ns) {
            throttled_ns += now > throttled_since_ns ? now - throttled_since_ns : 0;
            throttled.store(false);
            wake = true;
        }
        if (used != 0 || was) {
            const u64 next = period_timer.deadline() + period_ns;
            period_timer.arm(next > now ? next : now + period_ns);
        }
    }
    if (wake)
        group.hold_queue.wake_all();
}

void CpuGroup::set_limit(u64 quota, u64 period, u64 burst) {
    bool wake = false;
    {
        SpinGuard guard(lock);
        period_ns = period;
        burst_ns = burst;
        carried_ns = 0;
        used_ns.store(0);
        quota_ns.store(quota);
        if (throttled.exchange(false)) {
            const u64 now = monotonic_ns();
            throttled_ns += now > throttled_since_ns ? now - throttled_since_ns : 0;
            wake = true;
        }
    }
    if (wake)
        group.hold_queue.wake_all();
    // Whoever runs alone on its CPU has nothing armed that would look.
    if (quota != no_limit_ns)
        for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
            if (arch::cpu_online(cpu) && cpu != arch::cpu_id())
                arch::kick_cpu(cpu);
    arch::set_need_resched();
}

} // namespace kernel
