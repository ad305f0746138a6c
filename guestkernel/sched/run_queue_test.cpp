#include <algorithm>
#include <memory>
#include <random>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
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
