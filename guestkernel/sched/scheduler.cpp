#include "guestkernel/sched/scheduler.hpp"

#include <linux/sched.h>

#include "boot/protocol/layout.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/sched/requeue.hpp"
#include "guestkernel/sched/run_queue.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

namespace {

// Storage without construction at start-up; init_scheduler() builds as many as there are CPUs.
alignas(64) u8 queue_storage[boot::max_cpus][sizeof(CpuRunQueue)];

constexpr u32 any_sleep =
    static_cast<u32>(TaskState::Interruptible) | static_cast<u32>(TaskState::Uninterruptible) |
    static_cast<u32>(TaskState::Killable) | static_cast<u32>(TaskState::Stopped) |
    static_cast<u32>(TaskState::Traced);

// Loads what `next` works in. Requires: queue.lock held; called on the queue's CPU.
void load_address_space(CpuRunQueue& queue, AddressSpace* next) {
    const u64 bit = u64{1} << queue.cpu;
    if (next == nullptr) {
        // Kernel tasks borrow what is loaded. Changes to it need not interrupt, nor wake, this CPU.
        if (queue.loaded && !queue.borrows) {
            queue.borrows = true;
            queue.loaded->active_cpus.fetch_and(~bit);
        }
        return;
    }
    const bool same = next == queue.loaded.get();
    if (same && !queue.borrows)
        return;
    // The bit first: a flush that does not see it has been counted already.
    next->active_cpus.fetch_or(bit);
    const u64 generation = next->flush_generation.load();
    if (!same || generation != queue.loaded_generation)
        arch::load_page_table(next->root_table(), same);
    queue.loaded_generation = generation;
    if (!same) {
        if (queue.loaded && !queue.borrows)
            queue.loaded->active_cpus.fetch_and(~bit);
        queue.unloaded = std::move(queue.loaded);
        queue.loaded = Ref<AddressSpace>::share(next);
    }
    queue.borrows = false;
}

// Completes a switch on the new task's stack: the old task is off this CPU from here on.
void finish_switch() {
    CpuRunQueue& queue = this_run_queue();
    Task& previous = *queue.previous;
    queue.previous = nullptr;
    previous.on_cpu = 0;
    const bool dead = previous.state == static_cast<u32>(TaskState::Dead);
    const bool migrates = std::exchange(queue.migrates, false);
    unsigned target = 0;
    if (migrates) {
        queue.send_off(previous);
        target = choose_cpu(previous, previous.cpu, false);
        previous.cpu = target;
    }
    Ref<AddressSpace> unloaded = std::move(queue.unloaded);
    queue.lock.unlock();
    if (unloaded)
        drop_address_space(std::move(unloaded));
    if (migrates)
        place(previous, target, false);
    if (dead)
        previous.release();
}

// Pulls a task from another CPU if this one is about to have nothing to do, or somebody's deadline
// may be earlier than all here. Requires: queue.lock held; when it returns true, it was released.
inline bool look_elsewhere(CpuRunQueue& queue, const Task& task, bool sleeps) {
    const bool out_of_work = (sleeps || &task == queue.idle) && queue.queued == 0;
    const bool deadlines_wait = waiting_deadline_tasks.load(base::Order::Relaxed) != 0;
    if ((!out_of_work && !deadlines_wait) || arch::cpu_count() == 1)
        return false;
    const u64 best = deadlines_wait ? queue.best_deadline(sleeps ? nullptr : &task) : 0;
    // Still `current`, so a wake-up in the meantime only sets the state back.
    queue.lock.unlock();
    if (out_of_work)
        pull_task(queue);
    else
        pull_deadline(queue, best);
    return true;
}

void note_sleep(Task& task) {
    const u64 burst = task.run_time_ns - task.burst_start_ns;
    const u64 capped = burst < 1'000'000'000 ? burst : 1'000'000'000;
    task.average_burst_ns = static_cast<u32>((u64{task.average_burst_ns} * 3 + capped) / 4);
    task.burst_start_ns = task.run_time_ns;
    task.voluntary_switches++;
}

// Returns whether there is something to do.
bool poll_for_work(CpuRunQueue& queue, u64 now) {
    if (queue.poll_ns == 0)
        return false;
    queue.polling.store(true);
    const u64 end = now + queue.poll_ns;
    bool found = false;
    while (!found && monotonic_ns() < end) {
        for (int i = 0; i < 10; i++)
            arch::relax();
        found = queue.queued != 0 || queue.asked.load(base::Order::Relaxed) || arch::work_pending();
    }
    // SeqCst: who enqueues after this sees it and sends an interrupt, who enqueued before is seen
    // by the caller.
    queue.polling.store(false);
    return found;
}

// Work that comes within the time of a halt and a wake-up is worth waiting for awake.
void adapt_polling(CpuRunQueue& queue, u64 idled) {
    if (idled <= 2 * max_poll_ns)
        queue.poll_ns = max_poll_ns;
    else if (idled > 10 * max_poll_ns || queue.poll_ns < max_poll_ns / 8)
        queue.poll_ns = 0;
    else
        queue.poll_ns /= 2;
}

} // namespace

CpuRunQueue& run_queue(unsigned cpu) {
    // SAFETY: constructed by init_scheduler() before anybody asks.
    return *reinterpret_cast<CpuRunQueue*>(queue_storage[cpu]);
}

void init_scheduler() {
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        (::new (static_cast<void*>(queue_storage[cpu])) CpuRunQueue())->cpu = cpu;
    CpuRunQueue& queue = this_run_queue();
    queue.idle = queue.current = arch::current();
}

void set_state(TaskState state) {
    // A full barrier: the condition must be read after the state can be seen.
    __atomic_exchange_n(&current_task().state, static_cast<u32>(state), __ATOMIC_SEQ_CST);
}

void schedule() {
    arch::run_softirqs();
    Task& task = current_task();
    CpuRunQueue* queue = &this_run_queue();
    bool pulled = false;
    Task* next = nullptr;
    u64 now = 0;
    for (;;) {
        queue->lock.lock();
        now = monotonic_ns();
        queue->account(now);
        const bool sleeps = task.state != static_cast<u32>(TaskState::Running);
        if (!pulled && look_elsewhere(*queue, task, sleeps)) {
            pulled = true;
            continue;
        }
        if (sleeps) {
            note_sleep(task);
            if (task.counted_weight != 0)
                uncount_runnable(task, queue->cpu);
        } else if ((task.affinity >> queue->cpu & 1) == 0 && &task != queue->idle) {
            queue->migrates = true; // finish_switch() places it elsewhere
            if (task.counted_weight != 0)
                uncount_runnable(task, queue->cpu);
        } else if (&task != queue->idle) {
            task.waiting_since_ns = now;
            queue->enqueue(task);
        }
        break;
    }
    arch::clear_need_resched();
    next = queue->pick();
    if (next == nullptr)
        next = queue->idle;
    else if (next->cgroup) [[unlikely]]
        note_group_waited(*next, queue->cpu, now);
    queue->note_waiting(now);
    if (deadline_tasks.load(base::Order::Relaxed) != 0) [[unlikely]]
        queue->note_deadline(*next, now);
    if (next == &task) {
        if (queue->queued != 0)
            queue->arm_slice(now);
        if (task.cgroup) [[unlikely]]
            queue->arm_bandwidth(task, now);
        queue->lock.unlock();
        return;
    }
    if (task.state == static_cast<u32>(TaskState::Running) && &task != queue->idle)
        task.involuntary_switches++;
    if (task.rseq != 0)
        __atomic_fetch_or(&task.interrupt_flags, interrupt_rseq, __ATOMIC_RELAXED);
    next->waited_ns += now > next->waiting_since_ns ? now - next->waiting_since_ns : 0;
    next->on_cpu = 1;
    next->exec_start_ns = next->slice_start_ns = now;
    queue->current = next;
    queue->previous = &task;
    queue->switches++;
    if (queue->queued != 0 && next != queue->idle)
        queue->arm_slice(now);
    if (next->cgroup) [[unlikely]]
        queue->arm_bandwidth(*next, now);
    load_address_space(*queue, next->address_space.get());
    arch::switch_to(task, *next);
    finish_switch();
}

void finish_first_switch() {
    finish_switch();
}

void schedule_dead() {
    // Under the lock: a late wake-up must not bring it back.
    {
        CpuRunQueue& queue = this_run_queue();
        SpinGuard guard(queue.lock);
        Task& task = current_task();
        task.state = static_cast<u32>(TaskState::Dead);
        if (task.deadline_state != DeadlineState::None)
            (void)leave_deadline(task, queue);
    }
    schedule();
    PANIC("a dead task was scheduled");
}

bool schedule_until(u64 deadline_ns) {
    if (deadline_ns == no_deadline) {
        schedule();
        return true;
    }
    if (deadline_passed(deadline_ns))
        return false;
    Timer timer([](Timer&, void* task) { wake(*static_cast<Task*>(task)); }, &current_task());
    timer.arm(deadline_ns);
    schedule();
    timer.cancel();
    return !deadline_passed(deadline_ns);
}

bool wake(Task& task, u32 states) {
    for (;;) {
        const unsigned home = __atomic_load_n(&task.cpu, __ATOMIC_RELAXED);
        CpuRunQueue& queue = run_queue(home);
        SpinGuard guard(queue.lock);
        if (task.cpu != home)
            continue;
        if ((task.state & states & any_sleep) == 0)
            return false;
        task.state = static_cast<u32>(TaskState::Running);
        if (queue.current == &task)
            return true; // on its way to sleep: schedule() sees the state
        // Nobody else moves it now: it is Running and in no queue.
        queue.send_off(task);
        const unsigned target = choose_cpu(task, home, false);
        task.cpu = target;
        guard.unlock();
        place(task, target, true);
        return true;
    }
}

void start_task(Task& task, bool parent_sleeps) {
    const Task& parent = current_task();
    unsigned target = arch::cpu_id();
    {
        // Others know it by its number already, and may change how it is scheduled.
        const SpinGuard guard = lock_run_queue_of(task);
        task.state = static_cast<u32>(TaskState::Running);
        task.virtual_runtime = 0;
        task.in_transit = true;
        task.average_burst_ns = parent.average_burst_ns;
        if (!parent_sleeps || (task.affinity >> target & 1) == 0)
            target = choose_cpu(task, target, true);
        task.cpu = target;
    }
    place(task, target, false);
}

void scheduler_tick() {
    CpuRunQueue& queue = this_run_queue();
    u64 allowed = 0;
    {
        SpinGuard guard(queue.lock);
        if (queue.current == nullptr || queue.current == queue.idle)
            return;
        const u64 now = monotonic_ns();
        Task& task = *queue.current;
        if (task.cgroup) [[unlikely]] {
            queue.account(now);
            queue.arm_bandwidth(task, now);
        }
        const bool had_deadline = task.deadline_state == DeadlineState::Eligible;
        if (queue.queued == 0 && !had_deadline)
            return;
        queue.account(now); // which says so if its runtime is used up
        const bool has_deadline = had_deadline && task.deadline_state == DeadlineState::Eligible;
        if (Task* first = queue.fair.first())
            allowed = first->affinity;
        const bool fifo = task.policy == SCHED_FIFO;
        if ((has_deadline || is_realtime(task)) && queue.realtime_exhausted())
            arch::set_need_resched();
        else if (has_deadline) [[unlikely]]
            queue.note_deadline(task, now);
        else if (!fifo && now - task.slice_start_ns >= time_slice_ns)
            arch::set_need_resched();
        else if (!fifo)
            queue.slice_timer.arm(task.slice_start_ns + time_slice_ns);
        else // who waits gets the rest of the period
            queue.slice_timer.arm(now + queue.realtime_left_ns());
        note_load(now);
    }
    if (allowed != 0 && idle_cpus.load(base::Order::Relaxed) != 0)
        wake_idle_cpu(allowed);
}

void cond_resched() {
    // That the time slice is used up is for a timer to say, and timers are soft interrupts: nobody
    // else would run them before the loop has ended.
    arch::run_softirqs();
    if (arch::need_resched())
        schedule();
}

void yield() {
    CpuRunQueue& queue = this_run_queue();
    {
        SpinGuard guard(queue.lock);
        Task& task = current_task();
        const u64 now = monotonic_ns();
        queue.account(now);
        if (task.deadline_state == DeadlineState::Eligible) [[unlikely]]
            queue.yield_deadline(task, now);
        // Behind whoever waits longest; real-time tasks go behind their equals by being queued
        // again.
        if (Task* first = queue.fair.first();
            first != nullptr && is_fair(task) && FairQueue::before(task, *first))
            task.virtual_runtime = first->virtual_runtime + 1;
    }
    schedule();
}

void idle_loop() {
    CpuRunQueue& queue = this_run_queue();
    const u64 bit = u64{1} << queue.cpu;
    {
        SpinGuard guard(queue.lock);
        queue.idle = queue.current = arch::current();
        queue.idle->cpu = queue.cpu;
        queue.idle->on_cpu = 1;
    }
    for (;;) {
        arch::run_softirqs();
        if (queue.queued != 0 || arch::need_resched()) {
            schedule();
            continue;
        }
        if (pull_task(queue))
            continue;
        // The last user of the borrowed address space is gone: let go of its memory.
        if (queue.loaded && queue.loaded->ref_count() == 1)
            leave_address_space();
        idle_cpus.fetch_or(bit);
        const u64 before = monotonic_ns();
        queue.idle_since_ns = before;
        if (!poll_for_work(queue, before) && queue.queued == 0 && !queue.asked.load() &&
            !arch::need_resched())
            arch::halt_until_work();
        idle_cpus.fetch_and(~bit);
        queue.asked.store(false);
        const u64 now = monotonic_ns();
        const u64 idled = now > before ? now - before : 0;
        {
            SpinGuard guard(queue.lock); // who reads them sees both or neither
            queue.idle_ns += idled;
            queue.idle_since_ns = 0;
        }
        adapt_polling(queue, idled);
        note_load(now);
    }
}

// --- the address space under the running task
// ------------------------------------------------------------

Ref<AddressSpace> replace_address_space(Ref<AddressSpace> fresh) {
    CpuRunQueue& queue = this_run_queue();
    Task& task = current_task();
    Ref<AddressSpace> unloaded;
    if (fresh)
        fresh->add_user();
    {
        SpinGuard tree(process_tree_lock()); // for who looks from outside: address_space_of()
        SpinGuard guard(queue.lock);
        std::swap(task.address_space, fresh);
        load_address_space(queue, task.address_space.get());
        unloaded = std::move(queue.unloaded);
    }
    if (fresh && fresh->drop_user())
        fresh->release_memory();
    return fresh; // the caller's reference outlives `unloaded`
}

void leave_address_space() {
    CpuRunQueue& queue = this_run_queue();
    Task& task = current_task();
    Ref<AddressSpace> own;
    Ref<AddressSpace> unloaded;
    {
        // As in replace_address_space(): a reference that is read meanwhile must be one in time.
        SpinGuard tree(process_tree_lock());
        SpinGuard guard(queue.lock);
        own = std::move(task.address_space);
        const bool is_loaded = queue.loaded && (!own || queue.loaded == own);
        // Nobody else works in it when only this CPU and this task hold it: free the memory now, on
        // this stack, which needs another page table first. Otherwise the CPU goes on borrowing it.
        if (is_loaded && queue.loaded->ref_count() <= (own ? 2u : 1u)) {
            arch::load_page_table(PhysAddr(boot::kernel_root_table_phys));
            queue.loaded->active_cpus.fetch_and(~(u64{1} << queue.cpu));
            queue.borrows = false;
            unloaded = std::move(queue.loaded);
        }
    }
    // A CPU that still borrows it keeps no more than the page table.
    if (own && own->drop_user())
        own->release_memory();
    if (unloaded) {
        if (&task == queue.idle) // must not sleep
            drop_address_space(std::move(unloaded));
        return;
    }
    if (own)
        drop_address_space(std::move(own));
}

void AddressSpace::flush(VirtAddr start, usize pages, bool skip_own) {
    CpuRunQueue& queue = this_run_queue();
    const u64 own = u64{1} << queue.cpu;
    // After the stores to the entries, before the look at who works here: a CPU that sets its bit
    // later sees the new generation, or the new entries.
    const u64 generation = flush_generation.fetch_add(1) + 1;
    const u64 cpus = active_cpus.load();
    if (const u64 asked = skip_own ? cpus & ~own : cpus; asked != 0)
        arch::flush_on_cpus(asked, root_, start, pages);
    if ((cpus & own) != 0 && queue.loaded.get() == this &&
        queue.loaded_generation == generation - 1)
        queue.loaded_generation = generation;
}

} // namespace kernel
