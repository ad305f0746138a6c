#include "guestkernel/sched/wait_queue.hpp"

#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

bool wake_waiter(Waiter& waiter, u32) {
    return wake(*waiter.task);
}

} // namespace

void init_waiter(Waiter& waiter, bool exclusive) {
    waiter.task = arch::current();
    waiter.function = wake_waiter;
    waiter.exclusive = exclusive;
}

void WaitQueue::add(Waiter& waiter) {
    SpinGuard guard(lock_);
    // Those that wait for "any one of us" queue up behind those that want to hear of everything.
    if (waiter.exclusive)
        waiters_.push_back(waiter);
    else
        waiters_.push_front(waiter);
    waiters_empty_ = false;
}

void WaitQueue::remove(Waiter& waiter) {
    SpinGuard guard(lock_);
    if (waiter.node.linked())
        waiter.node.unlink();
    waiters_empty_ = waiters_.empty();
}

void WaitQueue::wake_all(u32 events) {
    // What made the condition true must be visible before the emptiness is read: a waiter adds
    // itself first and looks at the condition afterwards.
    base::fence(base::Order::SeqCst);
    if (waiters_empty_)
        return;
    SpinGuard guard(lock_);
    for (auto it = waiters_.begin(); it != waiters_.end();) {
        Waiter& waiter = *it;
        ++it; // the function may take its waiter out
        waiter.function(waiter, events);
    }
}

void WaitQueue::wake_one(u32 events) {
    base::fence(base::Order::SeqCst);
    if (waiters_empty_)
        return;
    SpinGuard guard(lock_);
    for (auto it = waiters_.begin(); it != waiters_.end();) {
        Waiter& waiter = *it;
        ++it;
        if (waiter.function(waiter, events) && waiter.exclusive)
            return;
    }
}

} // namespace kernel
