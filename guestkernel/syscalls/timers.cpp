// Interval timers and POSIX timers.
#include <linux/errno.h>
#include <linux/signal.h>
#include <linux/time.h>

#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_timers.hpp"

namespace kernel {

namespace {

struct UserIntervalSpec { // struct __kernel_itimerspec
    UserTimeSpec interval, value;
};
struct UserIntervalVal { // struct itimerval
    UserTimeVal interval, value;
};
struct UserEvent { // struct sigevent
    u64 value;
    i32 signal;
    i32 notify;
    i32 tid;
    i32 padding[11];
};
static_assert(sizeof(UserEvent) == 64);

UserTimeVal rounded_up(u64 ns) {
    return to_timeval(ns + 999); // never to a zero that would mean disarmed
}

Result<void> check_which(int which) {
    if (which < ITIMER_REAL || which > ITIMER_PROF)
        return fail(EINVAL);
    return {};
}

} // namespace

Result<long> sys_alarm(Task& task, u32 seconds) {
    TRY(const TimerSetting old,
        set_interval_timer(*task.process, ITIMER_REAL, {0, u64{seconds} * nanoseconds_per_second}));
    if (old.value_ns == 0)
        return 0;
    // Rounded to the nearest, but never to "none".
    const u64 left = (old.value_ns + nanoseconds_per_second / 2) / nanoseconds_per_second;
    return left == 0 ? 1 : static_cast<long>(left);
}

Result<long> sys_getitimer(Task& task, int which, u64 value) {
    TRY(check_which(which));
    const TimerSetting now = get_interval_timer(*task.process, which);
    TRY(UserPtr<UserIntervalVal>(value).copy_out(
        {rounded_up(now.interval_ns), rounded_up(now.value_ns)}));
    return 0;
}

Result<long> sys_setitimer(Task& task, int which, u64 value, u64 old) {
    TRY(check_which(which));
    TimerSetting setting;
    if (value != 0) {
        TRY(const UserIntervalVal wanted, UserPtr<const UserIntervalVal>(value).copy_in());
        TRY(setting.interval_ns, ns_of(wanted.interval));
        TRY(setting.value_ns, ns_of(wanted.value));
    }
    TRY(const TimerSetting before, set_interval_timer(*task.process, which, setting));
    if (old != 0)
        TRY(UserPtr<UserIntervalVal>(old).copy_out(
            {rounded_up(before.interval_ns), rounded_up(before.value_ns)}));
    return 0;
}

Result<long> sys_timer_create(Task&, i32 clock, u64 event, u64 id) {
    PosixTimerRequest request;
    request.clock = clock;
    request.notify = SIGEV_SIGNAL;
    request.signal = SIGALRM;
    bool value_is_id = true;
    if (event != 0) {
        TRY(const UserEvent given, UserPtr<const UserEvent>(event).copy_in());
        request.notify = given.notify;
        request.signal = given.signal;
        request.value = given.value;
        value_is_id = false;
        if (given.notify == SIGEV_THREAD_ID) { // SIGEV_SIGNAL, which is 0, to a thread
            request.notify = SIGEV_SIGNAL;
            request.tid = global_pid(given.tid);
            if (given.tid <= 0)
                return fail(EINVAL);
        }
        if (request.notify != SIGEV_SIGNAL && request.notify != SIGEV_NONE &&
            request.notify != SIGEV_THREAD)
            return fail(EINVAL);
    }
    request.value_is_id = value_is_id;
    TRY(const i32 fresh, create_posix_timer(request));
    if (auto told = UserPtr<i32>(id).copy_out(fresh); !told) {
        (void)delete_posix_timer(fresh);
        return fail(EFAULT);
    }
    return 0;
}

Result<long> sys_timer_settime(Task&, i32 id, int flags, u64 setting, u64 old) {
    if (setting == 0)
        return fail(EINVAL);
    TRY(const UserIntervalSpec wanted, UserPtr<const UserIntervalSpec>(setting).copy_in());
    if (!valid(wanted.interval) || !valid(wanted.value))
        return fail(EINVAL);
    TRY(const TimerSetting before,
        set_posix_timer(id, {to_ns(wanted.interval), to_ns(wanted.value)},
                        (flags & TIMER_ABSTIME) != 0));
    if (old != 0)
        TRY(UserPtr<UserIntervalSpec>(old).copy_out(
            {to_timespec(before.interval_ns), to_timespec(before.value_ns)}));
    return 0;
}

Result<long> sys_timer_gettime(Task&, i32 id, u64 setting) {
    TRY(const TimerSetting now, get_posix_timer(id));
    TRY(UserPtr<UserIntervalSpec>(setting).copy_out(
        {to_timespec(now.interval_ns), to_timespec(now.value_ns)}));
    return 0;
}

Result<long> sys_timer_getoverrun(Task&, i32 id) {
    TRY(const i32 overrun, posix_timer_overrun(id));
    return overrun;
}

Result<long> sys_timer_delete(Task&, i32 id) {
    TRY(delete_posix_timer(id));
    return 0;
}

} // namespace kernel
