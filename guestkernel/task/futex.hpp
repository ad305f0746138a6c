// Futexes: where threads wait for a word of user memory to change.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;

// Everything below works in the running task's address space.
// Sleeps while *address == expected. EAGAIN: it differs; ETIMEDOUT; interrupted: a restart code.
Result<long> futex_wait(u64 address, u32 expected, u32 bitset, u64 deadline_ns, bool is_private);
// Wakes up to `count` waiters whose bitset meets `bitset`; returns how many.
Result<long> futex_wake(u64 address, u32 count, u32 bitset, bool is_private);
// Wakes `wake_count` and moves up to `requeue_count` others to `target`. `expected` (if any):
// EAGAIN unless the word has it.
Result<long> futex_requeue(u64 address, u64 target, u32 wake_count, u32 requeue_count,
                           const u32* expected, bool is_private);
Result<long> futex_wake_op(u64 address, u64 second, u32 count, u32 second_count, u32 operation,
                           bool is_private);
// Priority-inheriting locks: futex_pi.cpp.
Result<long> futex_lock_pi(u64 address, u64 deadline_ns, bool try_only, bool is_private);
Result<long> futex_unlock_pi(u64 address, bool is_private);
// FUTEX_WAIT_REQUEUE_PI: as futex_wait(), and returns with the lock at `target`;
// FUTEX_CMP_REQUEUE_PI moves one and `requeue_count` more such waiters there.
Result<long> futex_wait_requeue_pi(u64 address, u32 expected, u32 bitset, u64 deadline_ns,
                                   u64 target, bool is_private);
Result<long> futex_requeue_pi(u64 address, u64 target, u32 requeue_count, u32 expected,
                              bool is_private);

struct FutexWaitSpec {
    u64 address;
    u32 expected;
    bool is_private;
};
// Waits on several; returns the index of one that was woken.
Result<long> futex_wait_any(const FutexWaitSpec* specs, u32 count, u64 deadline_ns);

// Marks the locks on the task's robust list as having lost their owner, and passes on those that
// others wait for.
void exit_robust_list(Task& task);

} // namespace kernel
