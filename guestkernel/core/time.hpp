// Clocks and one-shot timers. Nanoseconds everywhere; deadlines are on the monotonic clock, or
// marked as ones on the wall clock.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr u64 nanoseconds_per_second = 1'000'000'000;
inline constexpr u64 no_deadline = ~u64{0};

u64 monotonic_ns(); // since boot
i64 realtime_ns();  // since the Epoch: monotonic_ns() + an offset that clock_settime changes
void set_realtime_ns(i64 now);
// The wall clock ends where 30 years of uptime still fit into 64 bits of nanoseconds, as on Linux.
inline constexpr u64 wall_clock_end_ns = 8'277'292'036 * nanoseconds_per_second;
// Deadlines on the wall clock, which follow it when it is set, have a range of their own. Below it
// is what the monotonic clock reaches in 18 years, with the longest timeout (2^63) on top; beyond
// it is never.
inline constexpr u64 first_wall_deadline = (u64{1} << 63) + (u64{1} << 59);
constexpr u64 wall_deadline(u64 when) {
    return first_wall_deadline + (when < wall_clock_end_ns ? when : wall_clock_end_ns);
}
constexpr bool is_wall_deadline(u64 deadline) {
    return deadline >= first_wall_deadline && deadline <= first_wall_deadline + wall_clock_end_ns;
}
bool deadline_passed(u64 deadline); // of either kind
// Who has set the wall clock calls this: the timers on it are looked at anew, on every CPU.
void recheck_wall_timers();
u64 tsc_to_monotonic_ns(u64 tsc);
u64 monotonic_ns_to_tsc(u64 ns);

// Calls `expire` once at or after the deadline, on the CPU that armed it, in task context with no
// locks held (from the idle loop, the return to user mode, schedule() or cond_resched()): the
// callback must not sleep, may take spin locks of any rank, may re-arm itself, and wakes tasks.
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
    bool on_wall_clock() const { return is_wall_deadline(deadline_); }
    Timer* left_ = nullptr; // links of the per-CPU pairing heap
    Timer* right_ = nullptr;
    Timer* parent_ = nullptr;
    u32 cpu_ = 0;
    volatile bool queued_ = false;
    volatile u32 running_ = 0; // callbacks under way
};

// Deferred work: runs once in task context soon (idle loop, return to user mode, schedule(),
// cond_resched()), on the CPU that queued it; may be queued from interrupt handlers (it is a bit in
// an atomic word).
enum class Softirq : u32 { Timers = 0, Devices = 1, Rcu = 2, Network = 3 };
// What Softirq::Network runs (net/backlog.cpp).
void set_network_softirq(void (*run)());

} // namespace kernel
