#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include <linux/errno.h>
#include <linux/sched.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/sched/run_queue.hpp"

using namespace kernel;

namespace {

constexpr u64 ram_bytes = u64{16} << 20;

std::vector<std::unique_ptr<Task>> make_tasks(unsigned count) {
    std::vector<std::unique_ptr<Task>> tasks;
    for (unsigned i = 0; i < count; i++)
        tasks.push_back(std::make_unique<Task>());
    return tasks;
}

} // namespace

TEST_CASE("the fair queue hands out tasks by virtual run time, whatever is taken out in between") {
    auto tasks = make_tasks(300);
    std::mt19937 random(7);
    FairQueue queue;
    for (auto& task : tasks) {
        task->virtual_runtime = random() % 1000;
        queue.insert(*task);
    }
    for (unsigned i = 0; i < tasks.size(); i += 3)
        queue.remove(*tasks[i]);
    CHECK(queue.size() == 200);
    std::vector<u64> seen;
    while (Task* first = queue.first()) {
        seen.push_back(first->virtual_runtime);
        queue.remove(*first);
    }
    CHECK(seen.size() == 200);
    CHECK(std::is_sorted(seen.begin(), seen.end()));
    CHECK(queue.empty());
}

TEST_CASE("virtual run times are compared by their distance, so they may wrap") {
    Task early;
    Task late;
    early.virtual_runtime = ~u64{0} - 5;
    late.virtual_runtime = 3;
    FairQueue queue;
    queue.insert(late);
    queue.insert(early);
    CHECK(queue.first() == &early);
    queue.remove(early);
    queue.remove(late);
}

TEST_CASE("the fair queue finds the first task that may move") {
    auto tasks = make_tasks(10);
    FairQueue queue;
    for (unsigned i = 0; i < 10; i++) {
        tasks[i]->virtual_runtime = 10 - i;
        tasks[i]->affinity = i % 2 == 0 ? 1 : 2;
        queue.insert(*tasks[i]);
    }
    CHECK(queue.find([](Task& task) { return task.affinity == 1; }) == tasks[8].get());
    CHECK(queue.find([](Task&) { return false; }) == nullptr);
    for (auto& task : tasks)
        queue.remove(*task);
}

TEST_CASE("real-time tasks go before fair ones, by falling priority, equals in turn") {
    hosted::reset(ram_bytes);
    CpuRunQueue queue;
    auto tasks = make_tasks(4);
    constexpr u32 fifo = 1;
    tasks[0]->virtual_runtime = 0;
    tasks[1]->policy = tasks[2]->policy = tasks[3]->policy = fifo;
    tasks[1]->rt_priority = 5;
    tasks[2]->rt_priority = 50;
    tasks[3]->rt_priority = 5;
    for (auto& task : tasks)
        queue.enqueue(*task);
    CHECK(queue.queued == 4);
    CHECK(queue.pick() == tasks[2].get());
    CHECK(queue.pick() == tasks[1].get());
    CHECK(queue.pick() == tasks[3].get());
    CHECK(queue.pick() == tasks[0].get());
    CHECK(queue.pick() == nullptr);
}

TEST_CASE("a nicer task's virtual time runs faster") {
    hosted::reset(ram_bytes);
    CpuRunQueue queue;
    Task idle;
    Task plain;
    Task nice;
    queue.idle = &idle;
    nice.nice = 5;
    for (Task* task : {&plain, &nice}) {
        queue.current = task;
        task->exec_start_ns = 1000;
        queue.account(1'001'000);
        CHECK(task->run_time_ns == 1'000'000);
    }
    CHECK(plain.virtual_runtime == 1'000'000);
    CHECK(nice.virtual_runtime == u64{1'000'000} * 1024 / 335);
}

TEST_CASE("a woken task preempts only when it is well behind") {
    hosted::reset(ram_bytes);
    CpuRunQueue queue;
    Task idle;
    Task running;
    Task woken;
    queue.idle = &idle;
    queue.current = &running;
    running.virtual_runtime = 10'000'000;
    woken.virtual_runtime = 10'000'000 - wakeup_granularity_ns;
    CHECK_FALSE(queue.should_preempt(woken));
    woken.virtual_runtime -= 1;
    CHECK(queue.should_preempt(woken));
    woken.policy = 3; // SCHED_BATCH never preempts
    CHECK_FALSE(queue.should_preempt(woken));
    queue.current = &idle;
    CHECK(queue.should_preempt(woken));
}

namespace {

struct CountingWaiter : Waiter {
    unsigned calls = 0;
    bool accepts = true;
};
bool count_call(Waiter& waiter, u32) {
    auto& self = static_cast<CountingWaiter&>(waiter);
    self.calls++;
    return self.accepts;
}

} // namespace

TEST_CASE("wake_one wakes all that want to hear and one of the exclusive") {
    WaitQueue queue;
    CountingWaiter shared;
    CountingWaiter first;
    CountingWaiter second;
    for (CountingWaiter* waiter : {&first, &second, &shared})
        waiter->function = count_call;
    first.exclusive = second.exclusive = true;
    queue.add(first);
    queue.add(second);
    queue.add(shared);
    queue.wake_one();
    CHECK(shared.calls == 1);
    CHECK(first.calls == 1);
    CHECK(second.calls == 0);
    // One that was awake already does not use up the wake-up.
    first.accepts = false;
    queue.wake_one();
    CHECK(second.calls == 1);
    queue.wake_all();
    CHECK(second.calls == 2);
    queue.remove(first);
    queue.remove(second);
    queue.remove(shared);
    queue.remove(shared); // harmless
    CHECK_FALSE(queue.has_waiters());
}

TEST_CASE("a mutex and a reader-writer lock that nobody contends for") {
    Task task;
    hosted::set_current(&task);
    Mutex mutex;
    mutex.lock();
    CHECK(mutex.is_locked());
    CHECK_FALSE(mutex.try_lock());
    mutex.unlock();
    CHECK(mutex.try_lock());
    mutex.unlock();
    RwMutex lock;
    lock.lock_shared();
    lock.lock_shared();
    CHECK_FALSE(lock.try_lock());
    lock.unlock_shared();
    lock.unlock_shared();
    CHECK(lock.try_lock());
    lock.unlock();
    hosted::set_current(nullptr);
}

// --- deadlines

namespace {

constexpr u64 ms = 1'000'000;

// A machine whose first CPU runs `task`.
struct Machine {
    explicit Machine(unsigned cpus = 1) {
        hosted::reset(ram_bytes);
        hosted::set_cpu_count(cpus);
        hosted::set_cpu(0);
        hosted::set_current(&idle);
        init_scheduler();
        queue().current = &task;
        task.exec_start_ns = monotonic_ns();
    }
    ~Machine() {
        for (Task* each : {&task, &other})
            if (each->deadline_state != DeadlineState::None)
                set_scheduling(*each, SCHED_NORMAL, 0, 0);
        hosted::set_current(nullptr);
        hosted::set_cpu_count(1);
    }
    static CpuRunQueue& queue() { return run_queue(0); }
    // Lets `task` have run for so long.
    void run(u64 ns) { queue().account(task.exec_start_ns + ns); }
    void wait_for_next_period() {
        while (task.deadline_state == DeadlineState::Exhausted)
            run_timers();
    }

    Task idle, task, other;
};

int error_of(const Result<void>& result) {
    return result ? 0 : result.error().code;
}

} // namespace

TEST_CASE("tasks with deadlines go before all others, the earliest first") {
    hosted::reset(ram_bytes);
    CpuRunQueue queue;
    auto tasks = make_tasks(4);
    tasks[1]->policy = SCHED_FIFO;
    tasks[1]->rt_priority = 99;
    tasks[2]->deadline_state = tasks[3]->deadline_state = DeadlineState::Eligible;
    tasks[2]->deadline_ns = 2000;
    tasks[3]->deadline_ns = 1000;
    for (auto& task : tasks)
        queue.enqueue(*task);
    CHECK(queue.best_deadline(nullptr) == 1000);
    for (const unsigned next : {3u, 2u, 1u, 0u})
        CHECK(queue.pick() == tasks[next].get());
    CHECK(queue.pick() == nullptr);
    queue.current = tasks[2].get();
    CHECK(queue.should_preempt(*tasks[3]));
    CHECK_FALSE(queue.should_preempt(*tasks[1]));
    queue.current = tasks[3].get();
    CHECK_FALSE(queue.should_preempt(*tasks[2]));
    queue.current = tasks[1].get();
    CHECK(queue.should_preempt(*tasks[2]));
}

TEST_CASE("neither deadlines nor priorities keep a CPU from those who have none") {
    hosted::reset(ram_bytes);
    CpuRunQueue queue;
    Task fair;
    Task urgent;
    urgent.deadline_state = DeadlineState::Eligible;
    queue.enqueue(fair);
    queue.enqueue(urgent);
    queue.realtime_used_ns = realtime_share_ns;
    CHECK(queue.best_deadline(nullptr) == 0); // nor do others come here
    CHECK(queue.pick() == &fair);
    CHECK(queue.pick() == &urgent); // nobody else is there
}

TEST_CASE("periods do not begin while it is the others' turn, which what they cost brings about") {
    hosted::reset(ram_bytes);
    CpuRunQueue queue;
    Task idle;
    Task fair;
    queue.idle = queue.current = &idle;
    for (u64 now = ms; queue.realtime_used_ns < realtime_share_ns; now += ms)
        queue.charge_overhead(now - ms / 10, now);
    CHECK_FALSE(queue.owes_fair(0)); // nobody else is there
    queue.current = &fair;
    CHECK(queue.owes_fair(0));
    CHECK_FALSE(queue.owes_fair(realtime_period_ns)); // a new second
    queue.current = &idle;
    queue.enqueue(fair);
    CHECK(queue.owes_fair(0));
    CHECK(queue.pick() == &fair);
}

TEST_CASE("deadline parameters: runtime within deadline within period, and all of them sane") {
    const u64 shortest_period_ns = u64{shortest_period_us.load()} * 1000;
    const u64 longest_period_ns = u64{longest_period_us.load()} * 1000;
    CHECK(valid_deadline({10 * ms, 20 * ms, 30 * ms}));
    CHECK(valid_deadline({1024, shortest_period_ns, shortest_period_ns}));
    CHECK(valid_deadline({1024, longest_period_ns, longest_period_ns}));
    CHECK_FALSE(valid_deadline({1023, 20 * ms, 30 * ms}));
    CHECK_FALSE(valid_deadline({21 * ms, 20 * ms, 30 * ms}));
    CHECK_FALSE(valid_deadline({10 * ms, 31 * ms, 30 * ms}));
    CHECK_FALSE(valid_deadline({1024, 2000, shortest_period_ns - 1}));
    CHECK_FALSE(valid_deadline({1024, 2000, longest_period_ns + 1}));
    CHECK_FALSE(valid_deadline({1024, u64{1} << 63, ~u64{0}}));
    CHECK_FALSE(valid_deadline({0, 0, 0}));
}

TEST_CASE("no more is admitted than 95 % of all CPUs, and what is given up is there again") {
    Machine machine(2);
    Task third;
    CHECK(error_of(set_deadline(machine.task, {95 * ms, 100 * ms, 100 * ms}, 3)) == 0);
    CHECK(error_of(set_deadline(machine.other, {96 * ms, 100 * ms, 100 * ms}, 3)) == EBUSY);
    CHECK(machine.other.policy == SCHED_NORMAL);
    CHECK(error_of(set_deadline(machine.other, {95 * ms, 100 * ms, 100 * ms}, 3)) == 0);
    CHECK(error_of(set_deadline(third, {1024, 4000 * ms, 4000 * ms}, 3)) == EBUSY);
    CHECK(error_of(set_deadline(machine.task, {96 * ms, 100 * ms, 100 * ms}, 3)) == EBUSY);
    DeadlineParameters kept;
    CHECK(deadline_of(machine.task, kept));
    CHECK(kept.runtime_ns == 95 * ms);
    CHECK(error_of(set_deadline(machine.task, {90 * ms, 100 * ms, 100 * ms}, 3)) == 0);
    CHECK(error_of(set_deadline(third, {5 * ms, 100 * ms, 100 * ms}, 3)) == 0);
    set_scheduling(third, SCHED_NORMAL, 0, 0);
    CHECK_FALSE(deadline_of(third, kept));
    CHECK(error_of(set_deadline(machine.task, {95 * ms, 100 * ms, 100 * ms}, 3)) == 0);
}

TEST_CASE("a task that may not run on all CPUs gets no deadline") {
    Machine machine(2);
    machine.task.affinity = 1;
    CHECK(error_of(set_deadline(machine.task, {10 * ms, 100 * ms, 100 * ms}, 3)) == EPERM);
    CHECK(machine.task.policy == SCHED_NORMAL);
}

TEST_CASE("who has used up the runtime is held until the next period") {
    Machine machine;
    Task& task = machine.task;
    CHECK(error_of(set_deadline(task, {20'000, 200'000, 200'000}, 1)) == 0);
    const u64 deadline = task.deadline_ns;
    task.exec_start_ns = deadline - 200'000;
    machine.run(19'999);
    CHECK(task.deadline_state == DeadlineState::Eligible);
    machine.run(1);
    CHECK(task.deadline_state == DeadlineState::Exhausted);
    CHECK(task.deadline_server->replenished_at_ns == deadline);
    CHECK((task.interrupt_flags & interrupt_deadline) != 0);
    // What it still does in the kernel counts as everybody's.
    const u64 before = task.virtual_runtime;
    machine.run(1000);
    CHECK(task.virtual_runtime > before);
    machine.wait_for_next_period();
    CHECK(monotonic_ns() >= deadline);
    CHECK(task.deadline_ns >= deadline + 200'000);
    CHECK(task.deadline_server->left_ns > 0);
}

TEST_CASE("a late tick costs one period more at most, whatever the parameters were before") {
    Machine machine;
    Task& task = machine.task;
    CHECK(error_of(set_deadline(task, {50 * ms, 100 * ms, 100 * ms}, 1)) == 0);
    const u64 deadline = task.deadline_ns;
    task.exec_start_ns = deadline - 100 * ms;
    machine.run(10'000 * ms);
    CHECK(task.deadline_server->left_ns == 50 * ms); // the next period began long ago
    task.exec_start_ns = task.deadline_ns - 100 * ms;
    machine.run(99 * ms);
    CHECK(task.deadline_state == DeadlineState::Exhausted);
    CHECK(task.deadline_server->left_ns == -49 * i64{ms});
    CHECK(error_of(set_deadline(task, {1024, 100'000, 100'000}, 1)) == 0);
    CHECK(task.deadline_server->left_ns == -1024);
}

TEST_CASE("neither new parameters nor another class for a while renew the runtime") {
    Machine machine;
    Task& task = machine.task;
    CHECK(error_of(set_deadline(task, {50 * ms, 2000 * ms, 2000 * ms}, 1)) == 0);
    const u64 deadline = task.deadline_ns;
    task.exec_start_ns = deadline - 2000 * ms;
    machine.run(40 * ms);
    task.exec_start_ns = monotonic_ns();
    CHECK(error_of(set_deadline(task, {60 * ms, 2000 * ms, 2000 * ms}, 1)) == 0);
    CHECK(task.deadline_server->left_ns <= 10 * i64{ms});
    set_scheduling(task, SCHED_NORMAL, 0, 0);
    CHECK(error_of(set_deadline(task, {60 * ms, 2000 * ms, 2000 * ms}, 1)) == 0);
    CHECK(task.deadline_server->left_ns <= 10 * i64{ms});
    CHECK(task.deadline_ns == deadline);
    machine.run(20 * ms);
    CHECK(task.deadline_state == DeadlineState::Exhausted);
    set_scheduling(task, SCHED_NORMAL, 0, 0);
    CHECK(task.deadline_state == DeadlineState::None);
    CHECK(error_of(set_deadline(task, {60 * ms, 2000 * ms, 2000 * ms}, 1)) == 0);
    CHECK(task.deadline_state == DeadlineState::Exhausted);
    CHECK(task.deadline_server->timer.pending());
}

TEST_CASE("a task that leaves the class while it is held goes on") {
    Machine machine;
    Task& task = machine.task;
    CHECK(error_of(set_deadline(task, {50 * ms, 2000 * ms, 2000 * ms}, 1)) == 0);
    machine.queue().yield_deadline(task, monotonic_ns());
    task.deadline_server->held = true; // as hold_by_deadline() leaves it
    task.state = static_cast<u32>(TaskState::Killable);
    machine.queue().current = &machine.idle;
    set_scheduling(task, SCHED_NORMAL, 0, 0);
    CHECK(task.state == static_cast<u32>(TaskState::Running));
    CHECK(machine.queue().pick() == &task);
}

TEST_CASE("sched_yield gives up what is left of the period") {
    Machine machine;
    Task& task = machine.task;
    CHECK(error_of(set_deadline(task, {50 * ms, 2000 * ms, 2000 * ms}, 1)) == 0);
    machine.queue().yield_deadline(task, monotonic_ns());
    CHECK(task.deadline_state == DeadlineState::Exhausted);
    CHECK_FALSE(task.deadline_server->overran);
}

TEST_CASE("a task that reclaims uses its runtime up as slowly as others leave room for") {
    Machine machine(2);
    Task& task = machine.task;
    CHECK(error_of(set_deadline(task, {10 * ms, 1000 * ms, 1000 * ms, SCHED_FLAG_RECLAIM}, 3)) ==
          0);
    task.exec_start_ns = task.deadline_ns - 1000 * ms;
    machine.run(95 * ms); // 1 % is its own, of 95 % that may be used
    CHECK(task.deadline_server->left_ns > 8 * i64{ms});
    CHECK(task.deadline_server->left_ns < 10 * i64{ms});
    CHECK(error_of(set_deadline(machine.other, {900 * ms, 1000 * ms, 1000 * ms}, 3)) == 0);
    const i64 left = task.deadline_server->left_ns;
    task.exec_start_ns = task.deadline_ns - 900 * ms;
    machine.run(2 * ms); // half of the other's on each CPU
    CHECK(left - task.deadline_server->left_ns > 9 * i64{ms} / 10);
    CHECK(left - task.deadline_server->left_ns < 11 * i64{ms} / 10);
}

TEST_CASE("who wakes up goes on with the period only as fast as it is entitled to") {
    Machine machine;
    Task& task = machine.task;
    CpuRunQueue& queue = machine.queue();
    CHECK(error_of(set_deadline(task, {40 * ms, 100 * ms, 100 * ms}, 1)) == 0);
    const u64 begin = task.deadline_ns - 100 * ms;
    task.deadline_server->left_ns = 20 * ms;
    queue.wake_deadline(task, begin + 50 * ms); // 20 of 50 are 40 %
    CHECK(task.deadline_server->left_ns == 20 * ms);
    CHECK(task.deadline_ns == begin + 100 * ms);
    queue.wake_deadline(task, begin + 51 * ms);
    CHECK(task.deadline_server->left_ns == 40 * ms);
    CHECK(task.deadline_ns == begin + 151 * ms);
    queue.wake_deadline(task, begin + 500 * ms);
    CHECK(task.deadline_ns == begin + 600 * ms);
}

TEST_CASE("a deadline shorter than its period: what fits before it, then nothing until the next") {
    Machine machine;
    Task& task = machine.task;
    CpuRunQueue& queue = machine.queue();
    CHECK(error_of(set_deadline(task, {20 * ms, 50 * ms, 3000 * ms}, 1)) == 0);
    const u64 begin = task.deadline_ns - 50 * ms;
    queue.wake_deadline(task, begin + 25 * ms);
    CHECK(task.deadline_server->left_ns == 10 * ms);
    CHECK(task.deadline_ns == begin + 50 * ms);
    queue.wake_deadline(task, begin + 60 * ms);
    CHECK(task.deadline_state == DeadlineState::Exhausted);
    CHECK(task.deadline_server->replenished_at_ns == begin + 3000 * ms);
}

TEST_CASE("a task that has been real-time has no claim on what the others got meanwhile") {
    Machine machine;
    Task& task = machine.task;
    CpuRunQueue& queue = machine.queue();
    set_scheduling(task, SCHED_FIFO, 1, 0);
    queue.min_virtual_runtime += 1000 * ms;
    set_scheduling(task, SCHED_NORMAL, 0, 0);
    CHECK(task.virtual_runtime >= queue.min_virtual_runtime - sleeper_credit_ns);
}

TEST_CASE("a task between two queues that is real-time no more gets the minimum once") {
    Machine machine;
    Task& task = machine.other;
    CpuRunQueue& queue = machine.queue();
    set_scheduling(task, SCHED_FIFO, 1, 0);
    queue.min_virtual_runtime = 1000 * ms;
    task.virtual_runtime = 400 * ms;
    queue.send_off(task);
    set_scheduling(task, SCHED_NORMAL, 0, 0);
    place(task, 0, false);
    CHECK_FALSE(task.in_transit);
    CHECK(task.virtual_runtime == queue.min_virtual_runtime - sleeper_credit_ns);
    queue.dequeue(task);
    queue.slice_timer.cancel();
}

TEST_CASE("a task between two queues goes by the affinity that it was given meanwhile") {
    Machine machine(2);
    Task& task = machine.other;
    run_queue(1).idle = run_queue(1).current = &machine.idle;
    machine.queue().send_off(task);
    set_affinity(task, 2);
    CHECK_FALSE(task.queued);
    place(task, 0, true);
    CHECK(task.cpu == 1);
    CHECK(run_queue(1).fair.first() == &task);
    CHECK(machine.queue().queued == 0);
    run_queue(1).dequeue(task);
}
