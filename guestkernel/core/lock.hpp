// Spin locks. The kernel is interruptible but never preempted, and interrupt handlers take no
// locks, so a holder always runs on: no interrupt masking is needed. Nothing may sleep while one is
// held.
#pragma once

#include <utility>

#include "base/atomic.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

// A lock may be taken only while every lock already held by this CPU has a HIGHER rank: the low
// ranks are the innermost. Checked in debug builds (lock.cpp). Sleeping locks (sched/mutex.hpp)
// come outside all of these and have an order of their own, written where they are declared.
enum class LockRank : u8 {
    Log = 1,
    FrameAllocator = 4,
    MemoryCharge = 5,
    Slab = 6,
    Timer = 8,
    Bandwidth = 9, // of a group's CPU time
    RunQueue = 10,
    Nested = 11, // not checked: epoll's, which nest in each other as their files do, never in a
                 // circle (ELOOP)
    WaitQueue = 12,
    NetQueue = 13, // of packets: to a device, or received and not yet looked at
    Leaf = 14,     // a lock under which no other lock is taken except the ones above
    NetNeighbour = 15,
    PageCache = 16,
    PageTable = 18,
    MappingList = 19, // of a page cache: the mappings of its pages
    Signal = 20,
    NetTable = 21, // of ports, connections, reassembly
    FileTable = 22,
    NetStack = 23, // interfaces, addresses, routes of a network namespace
    Dentry = 24,
    Inode = 26,
    SuperBlock = 28,
    MountTable = 30,
    Pipe = 32,
    Socket = 34,
    NetListener = 35, // of a listening socket, outside of its connections' own
    Epoll = 36,
    Terminal = 38,
    Futex = 40,
    ProcessTree = 44, // tasks, parents, groups, sessions
    Device = 48,
};

// Whether this CPU holds any (debug builds): nothing may sleep then.
bool spin_locks_held();

class SpinLock {
public:
    constexpr explicit SpinLock(LockRank rank) : rank_(rank) {}
    SpinLock(const SpinLock&) = delete;
    SpinLock& operator=(const SpinLock&) = delete;

    void lock();
    bool try_lock();
    void unlock();
    bool is_locked() const { return state_.load(base::Order::Relaxed) != 0; }

private:
    base::Atomic<u32> state_{0};
    LockRank rank_;
};

class SpinGuard {
public:
    explicit SpinGuard(SpinLock& lock) : lock_(&lock) { lock.lock(); }
    SpinGuard(SpinGuard&& other) noexcept : lock_(std::exchange(other.lock_, nullptr)) {}
    SpinGuard& operator=(SpinGuard&&) = delete;
    ~SpinGuard() { unlock(); }
    void unlock() {
        if (lock_ != nullptr)
            std::exchange(lock_, nullptr)->unlock();
    }

private:
    SpinLock* lock_;
};

// Data that can be reached only with its lock held.
template <typename T, LockRank Rank>
class Guarded {
public:
    class Access {
    public:
        T* operator->() const { return value_; }
        T& operator*() const { return *value_; }
        void unlock() { guard_.unlock(); }

    private:
        friend class Guarded;
        Access(SpinLock& lock, T& value) : guard_(lock), value_(&value) {}
        SpinGuard guard_;
        T* value_;
    };

    template <typename... A>
    constexpr explicit Guarded(A&&... arguments) : value_(std::forward<A>(arguments)...) {}

    [[nodiscard]] Access lock() { return Access(lock_, value_); }
    template <typename F>
    decltype(auto) with(F&& function) {
        SpinGuard guard(lock_);
        return std::forward<F>(function)(value_);
    }
    // Without the lock, for an object that only its maker knows so far.
    T& unlocked() { return value_; }
    // The lock itself, to hand to WaitQueue waits that drop it while they sleep.
    SpinLock& raw_lock() { return lock_; }

private:
    SpinLock lock_{Rank};
    T value_;
};

} // namespace kernel
