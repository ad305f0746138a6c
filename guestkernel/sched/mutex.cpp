#include "guestkernel/sched/mutex.hpp"

#include "guestkernel/core/panic.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// A holder that runs on another CPU is often done sooner than a sleep and a wake-up would take.
constexpr int spins = 200;

} // namespace

bool Mutex::try_lock() {
    Task* none = nullptr;
    return owner_.compare_exchange(none, arch::current(), base::Order::Acquire);
}

void Mutex::lock() {
    if (try_lock())
        return;
    ASSERT(owner_.load(base::Order::Relaxed) != arch::current());
    for (int i = 0; i < spins && arch::cpu_count() > 1; i++) {
        arch::relax();
        if (owner_.load(base::Order::Relaxed) == nullptr && try_lock())
            return;
    }
    (void)wait_until(
        waiters_, [&] { return try_lock(); }, no_deadline, TaskState::Uninterruptible, true);
}

void Mutex::unlock() {
    // SeqCst: a waiter either sees the lock free or is seen here.
    owner_.exchange(nullptr);
    if (waiters_.has_waiters())
        waiters_.wake_one();
}

void RwMutex::lock_shared() {
    const auto take = [&] {
        SpinGuard guard(lock_);
        if (holders_ < 0 || writers_waiting_ != 0)
            return false;
        holders_++;
        return true;
    };
    if (!take())
        (void)wait_until(waiters_, take, no_deadline, TaskState::Uninterruptible);
}

void RwMutex::unlock_shared() {
    bool last = false;
    {
        SpinGuard guard(lock_);
        last = --holders_ == 0;
    }
    if (last && waiters_.has_waiters())
        waiters_.wake_all();
}

bool RwMutex::try_lock() {
    SpinGuard guard(lock_);
    if (holders_ != 0)
        return false;
    holders_ = -1;
    return true;
}

void RwMutex::lock() {
    if (try_lock())
        return;
    {
        SpinGuard guard(lock_);
        writers_waiting_++;
    }
    const auto take = [&] {
        SpinGuard guard(lock_);
        if (holders_ != 0)
            return false;
        holders_ = -1;
        writers_waiting_--;
        return true;
    };
    (void)wait_until(waiters_, take, no_deadline, TaskState::Uninterruptible);
}

void RwMutex::unlock() {
    {
        SpinGuard guard(lock_);
        holders_ = 0;
    }
    if (waiters_.has_waiters())
        waiters_.wake_all();
}

} // namespace kernel
