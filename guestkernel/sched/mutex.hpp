// Sleeping locks, for what may wait for I/O or for user memory. Never taken in soft interrupts or
// with a spin lock held.
#pragma once

#include <utility>

#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

class Mutex {
public:
    Mutex() = default;
    void lock();
    bool try_lock();
    void unlock();
    bool is_locked() const { return owner_.load(base::Order::Relaxed) != nullptr; }

private:
    base::Atomic<Task*> owner_{nullptr};
    WaitQueue waiters_;
};

// Many readers or one writer; waiting writers hold back new readers.
class RwMutex {
public:
    RwMutex() = default;
    void lock_shared();
    void unlock_shared();
    void lock();
    bool try_lock();
    void unlock();

private:
    SpinLock lock_{LockRank::Leaf};
    i32 holders_ = 0; // readers, or -1
    u32 writers_waiting_ = 0;
    WaitQueue waiters_;
};

template <typename M>
class MutexGuard {
public:
    explicit MutexGuard(M& mutex) : mutex_(&mutex) { mutex.lock(); }
    MutexGuard(MutexGuard&& other) noexcept : mutex_(std::exchange(other.mutex_, nullptr)) {}
    MutexGuard& operator=(MutexGuard&&) = delete;
    ~MutexGuard() { unlock(); }
    void unlock() {
        if (mutex_ != nullptr)
            std::exchange(mutex_, nullptr)->unlock();
    }

private:
    M* mutex_;
};
class SharedGuard {
public:
    explicit SharedGuard(RwMutex& mutex) : mutex_(&mutex) { mutex.lock_shared(); }
    SharedGuard(const SharedGuard&) = delete;
    SharedGuard& operator=(const SharedGuard&) = delete;
    ~SharedGuard() { unlock(); }
    void unlock() {
        if (mutex_ != nullptr)
            std::exchange(mutex_, nullptr)->unlock_shared();
    }

private:
    RwMutex* mutex_;
};

} // namespace kernel
