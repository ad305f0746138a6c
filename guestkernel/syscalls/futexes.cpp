#include <linux/errno.h>
#include <linux/futex.h>
#include <linux/time.h>

#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/futex.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_timers.hpp"

namespace kernel {

namespace {

constexpr u64 robust_head_bytes = 24; // sizeof(struct robust_list_head)
constexpr u32 any = FUTEX_BITSET_MATCH_ANY;

// FUTEX_WAIT's timeout is relative, the others' absolute on the clock that the operation names.
Result<u64> wait_deadline(int command, bool realtime, u64 timeout) {
    if (timeout == 0)
        return no_deadline;
    TRY(const u64 ns, copy_in_timespec(timeout));
    if (command == FUTEX_WAIT)
        return monotonic_ns() + ns;
    return deadline_on(realtime ? CLOCK_REALTIME : CLOCK_MONOTONIC, ns);
}

} // namespace

Result<long> sys_futex(Task&, u64 address, int operation, u32 value, u64 timeout, u64 second,
                       u32 third) {
    const int command = operation & FUTEX_CMD_MASK;
    const bool is_private = (operation & FUTEX_PRIVATE_FLAG) != 0;
    const bool realtime = (operation & FUTEX_CLOCK_REALTIME) != 0;
    if (realtime && command != FUTEX_WAIT_BITSET && command != FUTEX_WAIT_REQUEUE_PI &&
        command != FUTEX_LOCK_PI2 && command != FUTEX_WAIT)
        return fail(ENOSYS);
    // Where the fourth argument is no timeout it is a count.
    const auto count = static_cast<u32>(timeout);
    switch (command) {
    case FUTEX_WAIT:
    case FUTEX_WAIT_BITSET: {
        TRY(const u64 deadline, wait_deadline(command, realtime, timeout));
        return futex_wait(address, value, command == FUTEX_WAIT ? any : third, deadline,
                          is_private);
    }
    case FUTEX_WAKE:
        return futex_wake(address, value, any, is_private);
    case FUTEX_WAKE_BITSET:
        return futex_wake(address, value, third, is_private);
    case FUTEX_REQUEUE:
    case FUTEX_CMP_REQUEUE:
        if (static_cast<i32>(value) < 0 || static_cast<i32>(count) < 0)
            return fail(EINVAL);
        return futex_requeue(address, second, value, count,
                             command == FUTEX_CMP_REQUEUE ? &third : nullptr, is_private);
    case FUTEX_WAKE_OP:
        return futex_wake_op(address, second, value, count, third, is_private);
    case FUTEX_LOCK_PI:
    case FUTEX_LOCK_PI2: {
        // FUTEX_LOCK_PI has always been on the real-time clock.
        TRY(const u64 deadline,
            wait_deadline(command, realtime || command == FUTEX_LOCK_PI, timeout));
        return futex_lock_pi(address, deadline, false, is_private);
    }
    case FUTEX_WAIT_REQUEUE_PI: {
        TRY(const u64 deadline, wait_deadline(command, realtime, timeout));
        return futex_wait_requeue_pi(address, value, any, deadline, second, is_private);
    }
    case FUTEX_CMP_REQUEUE_PI:
        if (value != 1 || static_cast<i32>(count) < 0)
            return fail(EINVAL);
        return futex_requeue_pi(address, second, count, third, is_private);
    case FUTEX_TRYLOCK_PI:
        return futex_lock_pi(address, no_deadline, true, is_private);
    case FUTEX_UNLOCK_PI:
        return futex_unlock_pi(address, is_private);
    default:
        return fail(ENOSYS);
    }
}

Result<long> sys_futex_waitv(Task&, u64 waiters, u32 count, u32 flags, u64 timeout, i32 clock) {
    if (flags != 0 || count == 0 || count > FUTEX_WAITV_MAX || waiters == 0)
        return fail(EINVAL);
    u64 deadline = no_deadline;
    if (timeout != 0) {
        if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC)
            return fail(EINVAL);
        TRY(const u64 ns, copy_in_timespec(timeout));
        deadline = deadline_on(clock, ns);
    }
    Vector<FutexWaitSpec> specs;
    TRY(specs.reserve(count));
    for (u32 i = 0; i < count; i++) {
        TRY(const ::futex_waitv waiter, (UserPtr<const ::futex_waitv>(waiters) + i).copy_in());
        if ((waiter.flags & ~u32{FUTEX_32 | FUTEX_PRIVATE_FLAG}) != 0 ||
            (waiter.flags & FUTEX_32) == 0 || waiter.__reserved != 0 || waiter.val > 0xffff'ffff)
            return fail(EINVAL);
        TRY(specs.push_back({waiter.uaddr, static_cast<u32>(waiter.val),
                             (waiter.flags & FUTEX_PRIVATE_FLAG) != 0}));
    }
    return futex_wait_any(specs.data(), count, deadline);
}

Result<long> sys_set_robust_list(Task& task, u64 head, u64 size) {
    if (size != robust_head_bytes)
        return fail(EINVAL);
    task.robust_list = head;
    return 0;
}

Result<long> sys_get_robust_list(Task& task, i32 pid, u64 head, u64 size) {
    u64 found = task.robust_list;
    if (pid != 0) {
        const Ref<Task> other = find_task(global_pid(pid));
        if (!other)
            return fail(ESRCH);
        if (!may_access(*other))
            return fail(EPERM);
        found = other->robust_list;
    }
    TRY(UserPtr<u64>(size).copy_out(robust_head_bytes));
    TRY(UserPtr<u64>(head).copy_out(found));
    return 0;
}

} // namespace kernel
