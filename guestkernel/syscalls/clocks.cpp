// Clocks and sleeping.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/time.h>
#include <linux/times.h>
#include <linux/timex.h>

#include "guestkernel/core/clock_discipline.hpp"
#include "guestkernel/core/vdso.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_timers.hpp"

namespace kernel {

namespace {

constexpr u64 tick_ns = 10'000'000; // USER_HZ = 100
constexpr i32 most_minutes_west = 15 * 60;

struct TimeZone { // struct timezone
    i32 minutes_west;
    i32 daylight_saving;
};

// Kept for gettimeofday(2) and for nothing else: the wall clock is UTC.
constinit base::Atomic<u64> time_zone{0};

// Returns whether the deadline was reached (and not a signal).
bool sleep_until(u64 deadline_ns) {
    bool interrupted = false;
    for (;;) {
        set_state(TaskState::Interruptible);
        if (signal_pending()) {
            interrupted = true;
            break;
        }
        if (!schedule_until(deadline_ns))
            break;
    }
    set_state(TaskState::Running);
    return !interrupted;
}

constexpr u64 saturating_sum(u64 a, u64 b) {
    return a > no_deadline - 1 - b ? no_deadline - 1 : a + b;
}

long restart_sleep(Task& task);

Result<long> sleep_or_restart(u64 deadline_ns, u64 remaining) {
    if (sleep_until(deadline_ns))
        return 0;
    const u64 now = monotonic_ns();
    if (now >= deadline_ns)
        return 0;
    if (remaining != 0)
        TRY(UserPtr<UserTimeSpec>(remaining).copy_out(to_timespec(deadline_ns - now)));
    SignalState& state = *current_task().signals;
    state.restart = restart_sleep;
    state.restart_data[0] = deadline_ns;
    state.restart_data[1] = remaining;
    return fail(restart_with_block);
}

long restart_sleep(Task& task) {
    const auto result =
        sleep_or_restart(task.signals->restart_data[0], task.signals->restart_data[1]);
    return result ? *result : -long{result.error().code};
}

long restart_cpu_sleep(Task& task);

// Until a process or thread has used so much CPU time. Nothing tells of that moment: it is looked
// for, at most as often as its nearness asks for.
Result<long> sleep_on_cpu_clock(i32 clock, u64 deadline, bool absolute, u64 remaining) {
    constexpr u64 least = 1'000'000, most = 10'000'000;
    for (;;) {
        TRY(const u64 now, clock_now_ns(clock));
        if (now >= deadline)
            return 0;
        const u64 left = deadline - now;
        if (sleep_until(monotonic_ns() + (left < least ? least : left > most ? most : left)))
            continue;
        if (absolute)
            return fail(restart_no_handler);
        if (remaining != 0)
            TRY(UserPtr<UserTimeSpec>(remaining).copy_out(to_timespec(left)));
        SignalState& state = *current_task().signals;
        state.restart = restart_cpu_sleep;
        state.restart_data[0] = deadline;
        state.restart_data[1] = remaining;
        state.restart_data[2] = static_cast<u32>(clock);
        return fail(restart_with_block);
    }
}

long restart_cpu_sleep(Task& task) {
    const u64* data = task.signals->restart_data;
    const auto result = sleep_on_cpu_clock(static_cast<i32>(data[2]), data[0], false, data[1]);
    return result ? *result : -long{result.error().code};
}

// The own thread's CPU time, by its number, stands still while it sleeps.
bool is_own_thread(i32 clock) {
    const i32 id = ~(clock >> 3);
    return clock < 0 && (clock & 4) != 0 && (id == 0 || id == current_task().tid);
}

Result<void> set_clock(u64 now_ns) {
    if (now_ns >= wall_clock_end_ns)
        return fail(EINVAL);
    if (!capable(CAP_SYS_TIME))
        return fail(EPERM);
    // The boot must not come to lie before the Epoch.
    if (now_ns < monotonic_ns())
        return fail(EINVAL);
    set_realtime_ns(static_cast<i64>(now_ns));
    update_vdso_clock();
    wall_clock_was_set();
    return {};
}

Result<void> set_time_zone(u64 packed) {
    if (!capable(CAP_SYS_TIME))
        return fail(EPERM);
    const i32 west = __builtin_bit_cast(TimeZone, packed).minutes_west;
    if (west > most_minutes_west || west < -most_minutes_west)
        return fail(EINVAL);
    time_zone.store(packed);
    return {};
}

Result<long> steer_clock(u64 address) {
    TRY(::__kernel_timex timex, UserPtr<::__kernel_timex>(address).copy_in());
    TRY(const int answer, discipline_clock(timex, capable(CAP_SYS_TIME)));
    TRY(UserPtr<::__kernel_timex>(address).copy_out(timex));
    return answer;
}

} // namespace

Result<long> sys_nanosleep(Task&, u64 request, u64 remaining) {
    TRY(const u64 ns, copy_in_timespec(request));
    return sleep_or_restart(monotonic_ns() + ns, remaining);
}

Result<long> sys_clock_nanosleep(Task&, i32 clock, int flags, u64 request, u64 remaining) {
    if (is_own_thread(clock))
        return fail(EINVAL);
    const bool cpu = is_cpu_clock(clock);
    if (!has_timers(clock) || clock == CLOCK_THREAD_CPUTIME_ID)
        return fail(clock_now_ns(clock) ? EOPNOTSUPP : EINVAL);
    TRY(const u64 ns, copy_in_timespec(request));
    if (cpu) {
        const bool absolute = (flags & TIMER_ABSTIME) != 0;
        TRY(const u64 now, clock_now_ns(clock));
        return sleep_on_cpu_clock(clock, absolute ? ns : saturating_sum(now, ns), absolute,
                                  remaining);
    }
    if ((flags & TIMER_ABSTIME) == 0)
        return sleep_or_restart(monotonic_ns() + ns, remaining);
    if (!sleep_until(deadline_on(clock, ns)))
        return fail(restart_no_handler); // an absolute deadline can be waited for as it is
    return 0;
}

Result<long> sys_clock_gettime(Task&, i32 clock, u64 time) {
    TRY(const u64 now, clock_now_ns(clock));
    TRY(UserPtr<UserTimeSpec>(time).copy_out(to_timespec(now)));
    return 0;
}

Result<long> sys_clock_getres(Task&, i32 clock, u64 resolution) {
    TRY(clock_now_ns(clock));
    const bool coarse = clock == CLOCK_REALTIME_COARSE || clock == CLOCK_MONOTONIC_COARSE;
    if (resolution != 0)
        TRY(UserPtr<UserTimeSpec>(resolution).copy_out({0, coarse ? 4'000'000 : 1}));
    return 0;
}

Result<long> sys_clock_settime(Task&, i32 clock, u64 time) {
    if (clock < 0) { // CPU time of somebody who must be there all the same
        TRY(clock_now_ns(clock));
        return fail(EPERM);
    }
    if (clock != CLOCK_REALTIME)
        return fail(EINVAL);
    TRY(const u64 ns, copy_in_timespec(time));
    TRY(set_clock(ns));
    return 0;
}

Result<long> sys_clock_adjtime(Task&, i32 clock, u64 timex) {
    if (clock != CLOCK_REALTIME)
        return fail(clock_now_ns(clock) ? EOPNOTSUPP : EINVAL);
    return steer_clock(timex);
}

Result<long> sys_adjtimex(Task&, u64 timex) {
    return steer_clock(timex);
}

Result<long> sys_gettimeofday(Task&, u64 time, u64 zone) {
    if (time != 0)
        TRY(UserPtr<UserTimeVal>(time).copy_out(to_timeval(static_cast<u64>(realtime_ns()))));
    if (zone != 0)
        TRY(UserPtr<u64>(zone).copy_out(time_zone.load()));
    return 0;
}

Result<long> sys_settimeofday(Task&, u64 time, u64 zone) {
    u64 wanted_ns = 0;
    if (time != 0) {
        TRY(const UserTimeVal value, UserPtr<const UserTimeVal>(time).copy_in());
        TRY(wanted_ns, ns_of(value));
    }
    if (zone != 0) {
        TRY(const u64 packed, UserPtr<const u64>(zone).copy_in());
        TRY(set_time_zone(packed));
    }
    if (time != 0)
        TRY(set_clock(wanted_ns));
    return 0;
}

Result<long> sys_time(Task&, u64 time) {
    const long now = realtime_ns() / i64{nanoseconds_per_second};
    if (time != 0)
        TRY(UserPtr<i64>(time).copy_out(now));
    return now;
}

Result<long> sys_times(Task& task, u64 times) {
    if (times != 0) {
        Process::Usage own;
        Process::Usage children;
        {
            SpinGuard tree(process_tree_lock());
            own = task.process->usage();
            children = task.process->waited_children;
        }
        const tms out = {
            static_cast<__kernel_clock_t>(own.user_ns / tick_ns),
            static_cast<__kernel_clock_t>(own.system_ns / tick_ns),
            static_cast<__kernel_clock_t>(children.user_ns / tick_ns),
            static_cast<__kernel_clock_t>(children.system_ns / tick_ns),
        };
        TRY(UserPtr<tms>(times).copy_out(out));
    }
    return static_cast<long>(monotonic_ns() / tick_ns);
}

} // namespace kernel
