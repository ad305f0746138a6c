#include "guestkernel/sched/deadline.hpp"

#include <linux/errno.h>
#include <linux/sched.h>
#include <linux/signal.h>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/sched/requeue.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

constinit base::Atomic<u32> deadline_tasks{0};
constinit base::Atomic<u32> waiting_deadline_tasks{0};

namespace {

__extension__ using Wide = unsigned __int128;

// Bandwidth is a part of one CPU's time, in units of 1/2^30.
constexpr unsigned bandwidth_shift = 30;
constexpr u64 bandwidth_of_cpu =
    (u64{1} << bandwidth_shift) * realtime_share_ns / realtime_period_ns;
constinit base::Atomic<u64> admitted{0};

// Whoever has less runtime than the way from being held to user mode takes gets so far
// nevertheless.
constexpr u64 least_progress_ns = 50'000;

u64 bandwidth_of(const DeadlineParameters& parameters) {
    const u64 bandwidth = (parameters.runtime_ns << bandwidth_shift) / parameters.period_ns;
    return bandwidth != 0 ? bandwidth : 1;
}

bool admit(u64 former, u64 fresh) {
    const u64 most = bandwidth_of_cpu * arch::cpu_count();
    for (u64 total = admitted.load();;) {
        const u64 changed = total - former + fresh;
        if (changed > most)
            return false;
        if (admitted.compare_exchange(total, changed))
            return true;
    }
}

// SCHED_FLAG_RECLAIM: whoever has it may use what is not admitted to anybody (GRUB; that others
// sleep is not made use of). Its runtime is used up more slowly by this over bandwidth_of_cpu.
u64 reclaiming_bandwidth(const DeadlineServer& server) {
    const u64 active = admitted.load(base::Order::Relaxed) / arch::cpu_count();
    u64 counted = server.bandwidth > active ? server.bandwidth : active;
    counted = counted > 1 ? counted : 1;
    return counted < bandwidth_of_cpu ? counted : bandwidth_of_cpu;
}

u64 used_runtime(const DeadlineServer& server, u64 ran) {
    if ((server.parameters.flags & SCHED_FLAG_RECLAIM) == 0)
        return ran;
    return static_cast<u64>(Wide{ran} * reclaiming_bandwidth(server) / bandwidth_of_cpu);
}

// How long it may run until its runtime is used up.
u64 time_left(const DeadlineServer& server) {
    const auto left = server.left_ns > 0 ? static_cast<u64>(server.left_ns) : 0;
    if ((server.parameters.flags & SCHED_FLAG_RECLAIM) == 0)
        return left;
    return static_cast<u64>(Wide{left} * bandwidth_of_cpu / reclaiming_bandwidth(server)) + 1;
}

void begin_period(Task& task, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    task.deadline_ns = now + server.parameters.deadline_ns;
    server.left_ns = static_cast<i64>(server.parameters.runtime_ns);
}

// The next period, or, if what it overran by takes more than one, a later one.
void replenish(Task& task, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    const DeadlineParameters& parameters = server.parameters;
    ASSERT(parameters.runtime_ns != 0);
    if (server.left_ns <= 0) {
        const u64 periods = static_cast<u64>(-server.left_ns) / parameters.runtime_ns + 1;
        server.left_ns += static_cast<i64>(periods * parameters.runtime_ns);
        task.deadline_ns += periods * parameters.period_ns;
    }
    if (task.deadline_ns < now)
        begin_period(task, now);
    task.deadline_state = DeadlineState::Eligible;
}

void wait_for_period(Task& task) {
    DeadlineServer& server = *task.deadline_server;
    task.deadline_state = DeadlineState::Exhausted;
    __atomic_fetch_or(&task.interrupt_flags, interrupt_deadline, __ATOMIC_SEQ_CST);
    server.timer.arm(server.replenished_at_ns);
}

// No more than one period's; and what a late tick let it overrun by, or what it did before its
// parameters changed, must not keep it waiting for many.
void limit_left(DeadlineServer& server) {
    const auto runtime = static_cast<i64>(server.parameters.runtime_ns);
    server.left_ns = server.left_ns < runtime ? server.left_ns : runtime;
    server.left_ns = server.left_ns > -runtime ? server.left_ns : -runtime;
}

u64 next_period(const Task& task) {
    const DeadlineParameters& parameters = task.deadline_server->parameters;
    return task.deadline_ns - parameters.deadline_ns + parameters.period_ns;
}

// What is left of the runtime would be used faster than the bandwidth allows if it were used up by
// the deadline.
bool is_too_dense(const Task& task, u64 now) {
    const DeadlineServer& server = *task.deadline_server;
    const auto left = server.left_ns > 0 ? static_cast<u64>(server.left_ns) : 0;
    return Wide{left} * server.parameters.deadline_ns >
           Wide{task.deadline_ns - now} * server.parameters.runtime_ns;
}

void period_began(Timer& timer, void* owner) {
    Task& task = static_cast<DeadlineServer*>(owner)->task;
    const u64 due = timer.deadline();
    bool held = false;
    with_task_dequeued(task, [&](CpuRunQueue& queue) {
        DeadlineServer& server = *task.deadline_server;
        const u64 now = monotonic_ns();
        if (task.deadline_state != DeadlineState::Exhausted)
            return Requeue::Quietly; // the shot of a former period
        if (now < server.replenished_at_ns) {
            server.timer.arm(server.replenished_at_ns);
            return Requeue::Quietly;
        }
        if (queue.owes_fair(now)) {
            server.timer.arm(queue.realtime_since_ns + realtime_period_ns);
            return Requeue::Quietly;
        }
        replenish(task, now);
        held = server.just_replenished = server.held;
        server.held = false;
        return Requeue::AndLook;
    });
    if (held)
        wake(task, static_cast<u32>(TaskState::Killable));
    CpuRunQueue& here = this_run_queue();
    SpinGuard guard(here.lock);
    here.charge_overhead(due, monotonic_ns());
}

void enter_deadline(Task& task, CpuRunQueue& queue, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    task.policy = SCHED_DEADLINE;
    task.rt_priority = 0;
    deadline_tasks.fetch_add(1);
    task.deadline_state = DeadlineState::Eligible;
    if (now >= task.deadline_ns && now >= server.replenished_at_ns)
        begin_period(task, now);
    else if (server.left_ns <= 0)
        wait_for_period(task);
    // No longer among the fair: it has no claim on what they get meanwhile.
    task.virtual_runtime = queue.min_virtual_runtime;
}

} // namespace

bool valid_deadline(const DeadlineParameters& parameters) {
    constexpr u64 sign = u64{1} << 63;
    return ((parameters.runtime_ns | parameters.deadline_ns | parameters.period_ns) & sign) == 0 &&
           parameters.runtime_ns >= shortest_runtime_ns &&
           parameters.runtime_ns <= parameters.deadline_ns &&
           parameters.deadline_ns <= parameters.period_ns &&
           parameters.period_ns >= u64{shortest_period_us.load()} * 1000 &&
           parameters.period_ns <= u64{longest_period_us.load()} * 1000;
}

DeadlineServer::DeadlineServer(Task& owner) : task(owner), timer(period_began, this) {}

Result<void> set_deadline(Task& task, const DeadlineParameters& parameters, u64 all_cpus) {
    DeadlineServer* made = new (std::nothrow) DeadlineServer(task);
    if (made == nullptr)
        return fail(ENOMEM);
    int error = 0;
    with_task_dequeued(task, [&](CpuRunQueue& queue) {
        const bool is_member = task.policy == SCHED_DEADLINE;
        if (task.state == static_cast<u32>(TaskState::Dead))
            error = ESRCH;
        else if (is_member && task.deadline_server->parameters == parameters)
            return Requeue::Quietly;
        else if ((task.affinity & all_cpus) != all_cpus)
            error = EPERM;
        const u64 former = is_member ? task.deadline_server->bandwidth : 0;
        if (error == 0 && !admit(former, bandwidth_of(parameters)))
            error = EBUSY;
        if (error != 0)
            return Requeue::Quietly;
        if (task.deadline_server == nullptr)
            task.deadline_server = std::exchange(made, nullptr);
        DeadlineServer& server = *task.deadline_server;
        server.parameters = parameters;
        server.bandwidth = bandwidth_of(parameters);
        limit_left(server);
        if (!is_member)
            enter_deadline(task, queue, monotonic_ns());
        return Requeue::AndLook;
    });
    delete made;
    return error == 0 ? Result<void>() : Result<void>(fail(error));
}

bool deadline_of(Task& task, DeadlineParameters& out) {
    const SpinGuard guard = lock_run_queue_of(task);
    if (task.policy != SCHED_DEADLINE)
        return false;
    out = task.deadline_server->parameters;
    return true;
}

bool leave_deadline(Task& task, CpuRunQueue& queue) {
    DeadlineServer& server = *task.deadline_server;
    admitted.fetch_sub(std::exchange(server.bandwidth, 0));
    deadline_tasks.fetch_sub(1);
    task.deadline_state = DeadlineState::None;
    if (queue.current == &task)
        queue.running_deadline_ns = no_deadline;
    queue.join_fair(task);
    return std::exchange(server.held, false);
}

void hold_by_deadline(Task& task) {
    __atomic_fetch_and(&task.interrupt_flags, ~interrupt_deadline, __ATOMIC_SEQ_CST);
    DeadlineServer& server = *task.deadline_server;
    if (__atomic_exchange_n(&server.overran, false, __ATOMIC_RELAXED))
        (void)send_signal_info(*task.process, kernel_signal(SIGXCPU));
    for (;;) {
        set_state(TaskState::Killable);
        {
            SpinGuard guard(this_run_queue().lock);
            server.just_replenished = false;
            server.held =
                task.deadline_state == DeadlineState::Exhausted && !fatal_signal_pending();
            if (!server.held)
                break;
        }
        schedule();
    }
    set_state(TaskState::Running);
}

// --- the run queue's part ------------------------------------------------------------------------

void CpuRunQueue::exhaust(Task& task, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    server.replenished_at_ns = next_period(task);
    if (server.replenished_at_ns <= now) {
        replenish(task, now);
    } else {
        wait_for_period(task);
        join_fair(task);
        running_deadline_ns = no_deadline;
        // It may be on its way to user mode already, past the place where it would be held.
        if (cpu == arch::cpu_id() && !slice_timer.pending())
            slice_timer.arm(now + least_progress_ns);
    }
    arch::kick_cpu(cpu); // others may be more urgent now
}

void CpuRunQueue::account_deadline(Task& task, u64 ran, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    realtime_used_ns += ran;
    server.left_ns -= static_cast<i64>(used_runtime(server, ran));
    limit_left(server);
    if (server.left_ns > 0)
        return;
    server.overran = server.overran || (server.parameters.flags & SCHED_FLAG_DL_OVERRUN) != 0;
    if (server.overran)
        __atomic_fetch_or(&task.interrupt_flags, interrupt_deadline, __ATOMIC_SEQ_CST);
    exhaust(task, now);
}

void CpuRunQueue::yield_deadline(Task& task, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    server.left_ns = server.left_ns < 0 ? server.left_ns : 0;
    exhaust(task, now);
}

void CpuRunQueue::wake_deadline(Task& task, u64 now) {
    DeadlineServer& server = *task.deadline_server;
    if (std::exchange(server.just_replenished, false))
        return;
    realtime_used_ns += event_cost_ns_;
    const bool is_constrained = server.parameters.deadline_ns < server.parameters.period_ns;
    if (task.deadline_ns >= now) {
        if (!is_too_dense(task, now))
            return;
        if (is_constrained) // as much as fits before the deadline
            server.left_ns =
                static_cast<i64>(Wide{task.deadline_ns - now} * server.parameters.runtime_ns /
                                 server.parameters.deadline_ns);
        else
            begin_period(task, now);
        return;
    }
    if (!is_constrained || next_period(task) <= now) {
        begin_period(task, now);
        return;
    }
    server.left_ns = 0;
    server.replenished_at_ns = next_period(task);
    wait_for_period(task);
    join_fair(task);
}

bool CpuRunQueue::owes_fair(u64 now) const {
    return realtime_used_ns >= realtime_share_ns && now - realtime_since_ns < realtime_period_ns &&
           (!fair.empty() || (current != idle && is_fair(*current)));
}

// Many short periods, or many wake-ups, could take more of a CPU in interrupts and switches than
// the tasks in run time. That is counted as their class's time: as long as it took to get here
// since it was due, and about as much again for the switch there and back. A virtual machine's
// interrupts differ too much in cost to know it beforehand.
void CpuRunQueue::charge_overhead(u64 due, u64 now) {
    constexpr u64 least = 10'000, most = 1'000'000; // more: it was not this that took so long
    const u64 from = due > overhead_until_ns_ ? due : overhead_until_ns_;
    overhead_until_ns_ = now;
    u64 cost = now > from ? now - from : 0;
    cost = cost < least ? least : cost > most ? most : cost;
    event_cost_ns_ = (event_cost_ns_ * 7 + cost) / 8;
    realtime_used_ns += cost + event_cost_ns_;
}

void CpuRunQueue::note_deadline(Task& task, u64 now) {
    if (task.deadline_state != DeadlineState::Eligible) {
        running_deadline_ns = no_deadline;
        return;
    }
    running_deadline_ns = task.deadline_ns;
    const u64 own = time_left(*task.deadline_server);
    const u64 share = realtime_left_ns();
    const u64 until = now + (own < share ? own : share);
    if (!slice_timer.pending() || slice_timer.deadline() > until)
        slice_timer.arm(until);
}

void CpuRunQueue::join_fair(Task& task) {
    const u64 least = (task.in_transit ? 0 : min_virtual_runtime) - sleeper_credit_ns;
    if (static_cast<i64>(task.virtual_runtime - least) < 0)
        task.virtual_runtime = least;
}

} // namespace kernel
