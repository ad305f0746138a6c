// Times, loads, and changes of how a task is scheduled.
#include <linux/sched.h>

#include "guestkernel/sched/lend.hpp"
#include "guestkernel/sched/requeue.hpp"

namespace kernel {

namespace {

// Load averages decay every five seconds by exp(-5/60), exp(-5/300), exp(-5/900), in units of
// 1/65536.
constexpr u64 load_period_ns = 5 * nanoseconds_per_second;
constexpr u64 load_unit = 65536;
constexpr u64 load_decay[3] = {60296, 64453, 65172};

constinit base::Atomic<u64> averages[3];
constinit base::Atomic<u64> next_sample{load_period_ns};

} // namespace

void note_load(u64 now) {
    u64 due = next_sample.load(base::Order::Relaxed);
    if (now < due)
        return;
    // Whoever moves the date on takes the samples: no lock, for a run queue's is held here.
    const u64 periods = (now - due) / load_period_ns + 1;
    if (!next_sample.compare_exchange(due, due + periods * load_period_ns))
        return;
    const u64 active = u64{running_tasks()} * load_unit;
    // A long idle time is many samples of the same value; past some hundreds they have converged.
    for (u64 step = 0; step < periods && step < 1000; step++)
        for (unsigned i = 0; i < 3; i++)
            averages[i].store(
                (averages[i].load() * load_decay[i] + active * (load_unit - load_decay[i])) /
                load_unit);
}

void load_averages(u64 (&out)[3]) {
    note_load(monotonic_ns());
    for (unsigned i = 0; i < 3; i++)
        out[i] = averages[i].load();
}

u32 running_tasks() {
    u32 count = 0;
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
        const CpuRunQueue& queue = run_queue(cpu);
        count += queue.queued + (queue.current != queue.idle ? 1 : 0);
    }
    return count;
}

CpuTimes cpu_times(unsigned cpu) {
    CpuRunQueue& queue = run_queue(cpu);
    SpinGuard guard(queue.lock);
    const u64 now = monotonic_ns();
    queue.bring_up_to_date(now);
    const u64 idle_since = queue.idle_since_ns;
    const u64 idle = queue.idle_ns + (idle_since != 0 && now > idle_since ? now - idle_since : 0);
    return {queue.user_ns, queue.nice_ns, queue.system_ns, idle, 0, queue.switches};
}

void note_run_times() {
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
        CpuRunQueue& queue = run_queue(cpu);
        SpinGuard guard(queue.lock);
        queue.bring_up_to_date(monotonic_ns());
    }
}

u64 task_run_time(Task& task) {
    u64 ran = task.run_time_ns;
    const u64 since = task.exec_start_ns;
    const u64 now = monotonic_ns();
    if (run_queue(task.cpu).current == &task && now > since)
        ran += now - since;
    return ran;
}

void account_kernel_entry(Task& task) {
    task.entered_kernel_ns = task.run_time_ns + (monotonic_ns() - task.exec_start_ns);
}

void account_kernel_exit(Task& task) {
    if (task.entered_kernel_ns == 0)
        return;
    const u64 now = task.run_time_ns + (monotonic_ns() - task.exec_start_ns);
    const u64 spent = now > task.entered_kernel_ns ? now - task.entered_kernel_ns : 0;
    task.entered_kernel_ns = 0;
    task.system_time_ns += spent;
    // account() books it as user time when it is due.
    CpuRunQueue& queue = this_run_queue();
    queue.system_ns += spent;
    u64& user = task.nice > 0 ? queue.nice_ns : queue.user_ns;
    user = user > spent ? user - spent : 0;
}

void set_scheduling(Task& task, u32 policy, i32 rt_priority, i32 nice) {
    bool held = false;
    with_task_dequeued(task, [&](CpuRunQueue& queue) {
        const bool was_fair = is_fair(task);
        if (task.deadline_state != DeadlineState::None)
            held = leave_deadline(task, queue);
        task.policy = policy;
        task.rt_priority = rt_priority;
        task.nice = nice;
        if (!was_fair && is_fair(task))
            queue.join_fair(task);
        return Requeue::AndLook;
    });
    if (held)
        wake(task, static_cast<u32>(TaskState::Killable));
}

void set_nice(Task& task, i32 nice) {
    with_task_dequeued(task, [&](CpuRunQueue&) {
        task.nice = nice;
        return Requeue::AndLook;
    });
}

void lend_priority(Task& task, i32 rt_priority, i32 nice) {
    with_task_dequeued(task, [&](CpuRunQueue& queue) {
        const bool was_fair = is_fair(task);
        task.lent_rt_priority = rt_priority;
        task.lent_nice = nice;
        if (!was_fair && is_fair(task))
            queue.join_fair(task);
        return Requeue::AndLook;
    });
}

void set_groups(Task& task, Ref<Cgroup>& group, Cgroup* cpu_group) {
    with_task_dequeued(task, [&](CpuRunQueue&) {
        std::swap(task.cgroup, group);
        task.cpu_group = cpu_group;
        return Requeue::Quietly;
    });
}

void set_affinity(Task& task, u64 mask) {
    bool move = false;
    bool running_elsewhere = false;
    unsigned target = 0;
    for (;;) {
        const unsigned home = __atomic_load_n(&task.cpu, __ATOMIC_RELAXED);
        CpuRunQueue& queue = run_queue(home);
        SpinGuard guard(queue.lock);
        if (task.cpu != home)
            continue;
        task.affinity = mask;
        if ((mask >> home & 1) != 0)
            return;
        if (task.queued) {
            queue.dequeue(task);
            if (task.counted_weight != 0)
                uncount_runnable(task, home);
            queue.send_off(task);
            target = choose_cpu(task, home, false);
            task.cpu = target;
            move = true;
        } else if (queue.current == &task) {
            running_elsewhere = true;
            target = home;
        }
        break;
    }
    if (move) {
        place(task, target, false);
    } else if (running_elsewhere) {
        // It leaves at its next schedule(): the queue hands it on (CpuRunQueue order is by affinity
        // there).
        if (&task == arch::current())
            schedule();
        else
            arch::kick_cpu(target);
    }
}

u64 slice_length_ns(Task& task) {
    if (task.policy == SCHED_FIFO || task.policy == SCHED_DEADLINE)
        return 0;
    return is_realtime(task) ? 100'000'000 : time_slice_ns;
}

} // namespace kernel
