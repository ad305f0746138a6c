// The stack's clock and timers: the kernel's own, or one that a unit test moves by hand.
#pragma once

#include "guestkernel/core/time.hpp"

namespace kernel::net {

class NetTimer;

// Time for stacks under test: nothing moves but by advance_to(). One thread.
class VirtualClock {
public:
    u64 now() const { return now_; }
    // The earliest deadline of an armed timer; no_deadline: none.
    u64 next_deadline() const;
    // Moves on to `when`, calling timers in the order of their deadlines.
    void advance_to(u64 when);

private:
    friend class NetTimer;
    u64 now_ = nanoseconds_per_second;
    NetTimer* first_ = nullptr; // sorted
};

// What a stack reads the time from. Copied freely.
class StackClock {
public:
    constexpr StackClock() = default; // the kernel's
    constexpr explicit StackClock(VirtualClock& test) : virtual_(&test) {}
    u64 now() const { return virtual_ == nullptr ? monotonic_ns() : virtual_->now(); }
    i64 wall_time() const {
        return virtual_ == nullptr ? realtime_ns() : static_cast<i64>(virtual_->now());
    }
    VirtualClock* virtual_clock() const { return virtual_; }

private:
    VirtualClock* virtual_ = nullptr;
};

// As kernel::Timer, with the same rules: the callback runs in soft-interrupt context with no locks
// held; cancel() must not be called with a lock held that the callback takes; arm() may.
class NetTimer {
public:
    using Callback = void (*)(NetTimer& timer, void* argument);
    NetTimer(const StackClock& clock, Callback callback, void* argument);
    NetTimer(const NetTimer&) = delete;
    NetTimer& operator=(const NetTimer&) = delete;
    ~NetTimer() { cancel(); }
    void arm(u64 deadline_ns);
    bool cancel();
    bool pending() const { return virtual_ == nullptr ? timer_.pending() : queued_; }
    u64 deadline() const { return virtual_ == nullptr ? timer_.deadline() : deadline_; }

private:
    friend class VirtualClock;
    static void expired(Timer& timer, void* argument);
    Timer timer_;
    VirtualClock* const virtual_;
    const Callback callback_;
    void* const argument_;
    NetTimer* next_ = nullptr;
    u64 deadline_ = 0;
    bool queued_ = false;
};

} // namespace kernel::net
