#include "guestkernel/sched/work.hpp"

#include "guestkernel/core/log.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// Nested: wake functions come here with another queue's lock held.
constinit SpinLock work_lock{LockRank::Nested};
constinit base::IntrusiveList<Work, &Work::node> pending;
constinit WaitQueue waiters{LockRank::Nested};
constinit volatile bool work_waits = false;
constinit Mutex start_mutex;
constinit base::Atomic<bool> started{false};
constinit base::Atomic<bool> complained{false};

Work* take_work() {
    SpinGuard guard(work_lock);
    Work* work = pending.pop_front();
    if (work != nullptr)
        work->queued = false;
    else
        work_waits = false;
    return work;
}

[[noreturn]] void work_loop(void*) {
    for (;;) {
        wait_until(
            waiters, [] { return work_waits; }, no_deadline, TaskState::Uninterruptible);
        while (Work* work = take_work()) {
            work->run(work->context);
            cond_resched();
        }
    }
}

} // namespace

Result<void> start_work_queue() {
    if (started.load(base::Order::Acquire))
        return {};
    MutexGuard guard(start_mutex);
    if (started.load(base::Order::Acquire))
        return {};
    TRY(start_kernel_task("kworker", work_loop, nullptr));
    started.store(true, base::Order::Release);
    return {};
}

bool queue_work(Work& work) {
    // It would lie there for ever, and whoever counts on it would wait without a word. Starting the
    // task here is not possible: the caller may hold locks, and memory is needed.
    if (!started.load(base::Order::Acquire)) [[unlikely]] {
        if (!complained.exchange(true))
            log::error("work is refused: nobody has started the queue for it");
        return false;
    }
    {
        SpinGuard guard(work_lock);
        if (work.queued)
            return false;
        work.queued = true;
        pending.push_back(work);
        work_waits = true;
    }
    waiters.wake_all();
    return true;
}

void testing::stand_in_for_worker(bool is_started) {
    started.store(is_started, base::Order::Release);
}

void testing::run_queued_work() {
    while (Work* work = take_work())
        work->run(work->context);
}

} // namespace kernel
