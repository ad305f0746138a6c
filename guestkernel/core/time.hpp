// Clocks and one-shot timers. Nanoseconds everywhere; deadlines are on the monotonic clock.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr u64 nanoseconds_per_second = 1'000'000'000;
inline constexpr u64 no_deadline = ~u64{0};

u64 monotonic_ns(); // since boot
i64 realtime_ns();  // since the Epoch: monotonic_ns() + an offset that clock_settime changes
void set_realtime_ns(i64 now);
u64 tsc_to_monotonic_ns(u64 tsc);
u64 monotonic_ns_to_tsc(u64 ns);

// Calls `expire` once at or after the deadline, on the CPU that armed it, in task context with no
// locks held (from the idle loop, the return to user mode, or schedule()): the callback must not
// sleep, may take spin locks of any rank, may re-arm itself, and wakes tasks.
class Timer {
public:
    using Callback = void (*)(Timer& timer, void* argument);
    Timer(Callback callback, void* argument) : callback_(callback), argument_(argument) {}
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;
    ~Timer() { cancel(); }

    // (Re-)arms. Past deadlines fire soon. Callers see to it that no two arm it at the same time.
    void arm(u64 deadline_ns);
    // Ensures: when it returns, the callback neither runs nor will run. Returns true if it was
    // pending. Must not be called with a lock held that the callback takes.
    bool cancel();
    bool pending() const { return queued_; }
    u64 deadline() const { return deadline_; }

private:
    friend class TimerQueue;
    bool take_out();
    Callback callback_;
    void* argument_;
    u64 deadline_ = 0;
    Timer* left_ = nullptr; // links of the per-CPU pairing heap
    Timer* right_ = nullptr;
    Timer* parent_ = nullptr;
    u32 cpu_ = 0;
    volatile bool queued_ = false;
    volatile u32 running_ = 0; // callbacks under way
};

// Deferred work: runs once in task context soon (idle loop, return to user mode, schedule()), on
// the CPU that queued it; may be queued from interrupt handlers (it is a bit in an atomic word).
enum class Softirq : u32 { Timers = 0, Devices = 1, Rcu = 2, Network = 3 };
// What Softirq::Network runs (net/backlog.cpp).
void set_network_softirq(void (*run)());

} // namespace kernel
