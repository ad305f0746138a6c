// Run queues and sleeping. Fair by virtual run time, one queue per CPU, pulled from when idle.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;

enum class TaskState : u32 {
    Running = 0,         // on a CPU or in a run queue
    Interruptible = 1,   // asleep; a wake-up or a signal ends it
    Uninterruptible = 2, // asleep; only a wake-up ends it
    Stopped = 4,         // by job control
    Traced = 8,
    Dead = 16,
    Killable = 32,       // asleep; a wake-up or a fatal signal ends it
};

// The sleeping protocol, in this order: set_state(Interruptible); check the condition; schedule() if it does
// not hold; set_state(Running). Whoever makes the condition true calls wake() afterwards. WaitQueue wraps it.
void set_state(TaskState state);
// Gives the CPU away: returns when this task is chosen again. Requires: no spin lock held.
void schedule();
// schedule() at most until the deadline (monotonic ns); returns false when the deadline has passed.
bool schedule_until(u64 deadline_ns);
// Makes `task` runnable if its state is one of `states` (bits of TaskState). Returns whether it was woken.
// Any context but an interrupt handler; may be called with locks of rank above RunQueue held.
bool wake(Task& task, u32 states = static_cast<u32>(TaskState::Interruptible) |
                                   static_cast<u32>(TaskState::Uninterruptible) |
                                   static_cast<u32>(TaskState::Killable));
// Lets others run if the time slice is used up: long loops in the kernel call it. No spin lock held.
void cond_resched();
void yield();
// Puts a new task (state Running, never run) on a run queue.
void start_task(Task& task);
// Called from the timer soft interrupt and at entry from user mode by an interrupt: accounts time.
void scheduler_tick();
// The idle loop of a CPU; does not return.
[[noreturn]] void idle_loop();
// Whether a signal (or a fatal one) ends interruptible sleep of the running task; implemented in task/.
bool signal_pending();
bool fatal_signal_pending();

} // namespace kernel
