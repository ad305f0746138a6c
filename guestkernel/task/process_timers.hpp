// Interval timers of a process (setitimer) and POSIX timers (timer_create).
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/core/types.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

class Process;
class Task;
struct QueuedSignal;
struct SignalInfo;

// Nanoseconds; 0: disarmed, not periodic.
struct TimerSetting {
    u64 interval_ns = 0;
    u64 value_ns = 0;
};

// `which`: ITIMER_REAL 0, ITIMER_VIRTUAL 1, ITIMER_PROF 2.
TimerSetting get_interval_timer(Process& process, int which);
Result<TimerSetting> set_interval_timer(Process& process, int which, TimerSetting setting);

// RLIMIT_CPU has changed, or came with a new process: it is watched from now on. Requires: the tree
// lock, a process that lives.
void watch_cpu_limit(Process& process);

struct PosixTimerRequest {
    i32 clock = 0;
    int notify = 0; // SIGEV_*
    int signal = 0;
    u64 value = 0;
    i32 tid = 0;              // SIGEV_THREAD_ID
    bool value_is_id = false; // no sigevent was given: si_value is the number of the timer
};
Result<i32> create_posix_timer(const PosixTimerRequest& request);
// `absolute`: value_ns is on the timer's clock.
Result<TimerSetting> set_posix_timer(i32 id, TimerSetting setting, bool absolute);
Result<TimerSetting> get_posix_timer(i32 id);
Result<i32> posix_timer_overrun(i32 id);
Result<void> delete_posix_timer(i32 id);
struct PosixTimerListing {
    i32 id;
    PosixTimerRequest request;
};
// Of any process, for /proc/PID/timers.
Result<void> list_posix_timers(Process& process, Vector<PosixTimerListing>& out);

void destroy_process_timers(Process& process); // at the end of the process
void delete_posix_timers(Process& process);    // exec
// A timer's signal is about to be delivered: fills in the overrun count and lets the timer queue
// the next one.
void finish_queued_signal(QueuedSignal& entry, SignalInfo& info);
// It was forgotten instead. May be called with spin locks held.
void drop_queued_signal(QueuedSignal& entry);

// Now, on a clock of clock_gettime(2). EINVAL: no such clock, or its thread or process is gone.
Result<u64> clock_now_ns(i32 clock);
// A time of that clock as a deadline. Requires: the clock is one that sleeping works with, and
// counts no CPU time.
u64 deadline_on(i32 clock, u64 value_ns);
bool is_cpu_clock(i32 clock);
// Whether timer_create(2) works with it; the raw and the coarse clocks are only read.
bool has_timers(i32 clock);

} // namespace kernel
