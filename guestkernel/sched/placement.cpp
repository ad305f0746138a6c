// Which CPU a task runs on. Waking a halted virtual CPU costs 40 us and more, a running one 20 us,
// so a task that was woken by one that is about to sleep itself stays with its waker; and whoever
// waits too long is offered to idle CPUs.
#include <linux/sched.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/sched/run_queue.hpp"

namespace kernel {

constinit base::Atomic<u64> idle_cpus{0};

namespace {

u64 online_mask() {
    const unsigned count = arch::cpu_count();
    return count >= 64 ? ~u64{0} : (u64{1} << count) - 1;
}

u32 load_of(unsigned cpu) {
    const CpuRunQueue& queue = run_queue(cpu);
    return queue.queued + (queue.current != queue.idle ? 1 : 0);
}

// Takes an idle CPU out of the mask, so that two wakers do not choose the same one.
bool claim(unsigned cpu) {
    const u64 bit = u64{1} << cpu;
    return (idle_cpus.fetch_and(~bit) & bit) != 0;
}

bool will_sleep_soon(const Task& task) {
    if (task.exiting)
        return true; // whom it wakes is its parent, as a rule
    const u64 burst =
        task.run_time_ns + (monotonic_ns() - task.exec_start_ns) - task.burst_start_ns;
    return task.average_burst_ns < short_burst_ns && burst < short_burst_ns;
}

// Where it runs at once: on an idle CPU, one without deadlines, or that of the latest deadline.
unsigned choose_by_deadline(unsigned home, u64 allowed) {
    const unsigned here = arch::cpu_id();
    if ((allowed >> here & 1) != 0 && run_queue(here).current == run_queue(here).idle)
        return here;
    for (u64 idle = idle_cpus.load() & allowed; idle != 0; idle &= idle - 1)
        if (const auto cpu = static_cast<unsigned>(__builtin_ctzll(idle)); claim(cpu))
            return cpu;
    unsigned best =
        (allowed >> home & 1) != 0 ? home : static_cast<unsigned>(__builtin_ctzll(allowed));
    u64 latest = run_queue(best).running_deadline_ns;
    for (u64 rest = allowed; rest != 0 && latest != no_deadline; rest &= rest - 1) {
        const auto cpu = static_cast<unsigned>(__builtin_ctzll(rest));
        const u64 other = run_queue(cpu).running_deadline_ns;
        if (!arch::cpu_online(cpu) || other <= latest)
            continue;
        best = cpu;
        latest = other;
    }
    return best;
}

// Where it may run nowhere, it may anywhere.
bool may_run_on(const Task& task, unsigned cpu) {
    return (task.affinity >> cpu & 1) != 0 || (task.affinity & online_mask()) == 0;
}

// Locks the queue of a task in transit, which is that of a CPU that it may run on: meanwhile
// set_affinity() saw it in none.
SpinGuard lock_destination(Task& task, unsigned& target) {
    for (;;) {
        SpinGuard guard(run_queue(target).lock);
        if (may_run_on(task, target))
            return guard;
        target = choose_cpu(task, target, false);
        task.cpu = target;
    }
}

// Requires: `other.lock` held, which is released; the task waits there.
void move_here(Task& task, CpuRunQueue& other, CpuRunQueue& queue) {
    other.dequeue(task);
    if (task.counted_weight != 0)
        uncount_runnable(task, other.cpu);
    other.send_off(task);
    task.cpu = queue.cpu;
    other.lock.unlock();
    {
        SpinGuard guard(queue.lock);
        if (may_run_on(task, queue.cpu)) {
            queue.receive(task);
            queue.enqueue(task);
            return;
        }
    }
    place(task, queue.cpu, false);
}

} // namespace

unsigned choose_cpu(const Task& task, unsigned home, bool is_new) {
    const unsigned here = arch::cpu_id();
    const u64 online = online_mask();
    if (online == 1)
        return here;
    const u64 allowed = (task.affinity & online) != 0 ? task.affinity & online : online;
    if (task.deadline_state == DeadlineState::Eligible) [[unlikely]]
        return choose_by_deadline(home, allowed);
    const u64 here_bit = u64{1} << here;
    if ((allowed & here_bit) != 0) {
        const CpuRunQueue& queue = run_queue(here);
        if (queue.current == queue.idle && queue.queued == 0)
            return here; // awake and free: an interrupt's work is done in its idle task
        if (queue.queued == 0 && is_new)
            return here;
        // Tasks that hardly run before they sleep are through sooner here, one after the other.
        const bool brief = task.average_burst_ns < short_burst_ns / 4;
        if (queue.queued < (brief ? 4 : 1) && will_sleep_soon(*queue.current))
            return here;
    }
    u64 idle = idle_cpus.load() & allowed;
    if ((idle >> home & 1) != 0 && claim(home))
        return home;
    while (idle != 0) {
        const auto cpu = static_cast<unsigned>(__builtin_ctzll(idle));
        if (claim(cpu))
            return cpu;
        idle &= idle - 1;
    }
    unsigned best =
        (allowed >> home & 1) != 0 ? home : static_cast<unsigned>(__builtin_ctzll(allowed));
    for (u64 rest = allowed; rest != 0; rest &= rest - 1) {
        const auto cpu = static_cast<unsigned>(__builtin_ctzll(rest));
        if (arch::cpu_online(cpu) && load_of(cpu) + 1 < load_of(best))
            best = cpu;
    }
    return best;
}

void place(Task& task, unsigned target, bool waking) {
    bool kick = false;
    {
        const SpinGuard guard = lock_destination(task, target);
        CpuRunQueue& queue = run_queue(target);
        const u64 now = monotonic_ns();
        const auto credit = static_cast<i64>(sleeper_credit_ns);
        if (waking && static_cast<i64>(task.virtual_runtime) < -credit)
            task.virtual_runtime = static_cast<u64>(-credit);
        queue.receive(task);
        task.enqueued_ns = task.waiting_since_ns = now;
        if (waking && task.deadline_state == DeadlineState::Eligible) [[unlikely]]
            queue.wake_deadline(task, now);
        queue.bring_up_to_date(now);
        queue.enqueue(task);
        queue.note_waiting(now);
        const bool preempt = queue.current == nullptr || queue.should_preempt(task);
        if (target == arch::cpu_id()) {
            if (preempt)
                arch::set_need_resched();
            else
                queue.arm_slice(now);
        } else {
            // A CPU that ran alone has no tick armed: it must come and arm one.
            kick = preempt || !queue.slice_timer.pending();
        }
    }
    // A polling CPU sees the queue; it stops polling before it looks for the last time (idle_loop).
    base::fence(base::Order::SeqCst);
    if (kick && !run_queue(target).polling.load())
        arch::kick_cpu(target);
}

void wake_idle_cpu(u64 allowed) {
    for (u64 idle = idle_cpus.load() & allowed; idle != 0; idle &= idle - 1) {
        const auto cpu = static_cast<unsigned>(__builtin_ctzll(idle));
        if (claim(cpu)) {
            CpuRunQueue& queue = run_queue(cpu);
            queue.asked.store(true);
            if (!queue.polling.load())
                arch::kick_cpu(cpu);
            return;
        }
    }
}

bool pull_deadline(CpuRunQueue& queue, u64 before) {
    const u64 bit = u64{1} << queue.cpu;
    const unsigned count = arch::cpu_count();
    for (unsigned step = 1; step < count && before != 0; step++) {
        CpuRunQueue& other = run_queue((queue.cpu + step) % count);
        if (other.deadlines.empty())
            continue;
        other.lock.lock();
        Task* found = other.deadlines.find([&](Task& task) { return (task.affinity & bit) != 0; });
        if (found != nullptr && found->deadline_ns < before) {
            move_here(*found, other, queue);
            return true;
        }
        other.lock.unlock();
    }
    return false;
}

bool pull_task(CpuRunQueue& queue) {
    if (waiting_deadline_tasks.load(base::Order::Relaxed) != 0 && pull_deadline(queue, no_deadline))
        [[unlikely]]
        return true;
    const u64 now = monotonic_ns();
    const u64 bit = u64{1} << queue.cpu;
    const unsigned count = arch::cpu_count();
    for (unsigned step = 1; step < count; step++) {
        CpuRunQueue& other = run_queue((queue.cpu + step) % count);
        if (other.queued == 0 || other.current == nullptr || !other.lock.try_lock())
            continue;
        // A lone task that has just been woken there is about to run there: its waker goes to sleep
        // soon.
        const bool several = other.queued > 1;
        const auto movable = [&](Task& task) {
            return (task.affinity & bit) != 0 &&
                   (several || now - task.enqueued_ns > short_burst_ns);
        };
        Task* found = nullptr;
        for (Task& task : other.realtime)
            if (found == nullptr && movable(task))
                found = &task;
        if (found == nullptr)
            found = other.fair.find(movable);
        if (found == nullptr) {
            other.lock.unlock();
            continue;
        }
        move_here(*found, other, queue);
        return true;
    }
    return false;
}

void offer_waiting_tasks() {
    CpuRunQueue& queue = this_run_queue();
    if (queue.queued == 0 || idle_cpus.load(base::Order::Relaxed) == 0)
        return;
    u64 allowed = 0;
    {
        SpinGuard guard(queue.lock);
        const u64 now = monotonic_ns();
        if (Task* first = queue.fair.first();
            first != nullptr && now - first->enqueued_ns > offer_delay_ns)
            allowed = first->affinity;
    }
    if (allowed != 0)
        wake_idle_cpu(allowed);
}

} // namespace kernel
