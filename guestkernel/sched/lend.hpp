// Priority inheritance: who waits for a task's locks lends it what it has (task/futex_pi.cpp).
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;

// `rt_priority` 0 and `nice` 20: nothing. Takes effect at once.
void lend_priority(Task& task, i32 rt_priority, i32 nice);
// The task's own or what is lent to it, whichever is more: a real-time priority or 0; a nice value.
i32 effective_rt_priority(const Task& task);
i32 effective_nice(const Task& task);
// For queues of waiters, and what they lend: above all real-time priorities for SCHED_DEADLINE,
// whether it has runtime left or not.
inline constexpr i32 urgency_of_deadlines = 100;
i32 urgency(const Task& task);

} // namespace kernel
