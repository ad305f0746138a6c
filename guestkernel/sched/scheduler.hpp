// Run queues and sleeping. Fair by virtual run time, one queue per CPU, pulled from when idle.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class AddressSpace;
class Cgroup;
class Task;

enum class TaskState : u32 {
    Running = 0,         // on a CPU or in a run queue
    Interruptible = 1,   // asleep; a wake-up or a signal ends it
    Uninterruptible = 2, // asleep; only a wake-up ends it
    Stopped = 4,         // by job control
    Traced = 8,
    Dead = 16,
    Killable = 32, // asleep; a wake-up or a fatal signal ends it
};

// The sleeping protocol, in this order: set_state(Interruptible); check the condition; schedule()
// if it does not hold; set_state(Running). Whoever makes the condition true calls wake()
// afterwards. WaitQueue wraps it.
void set_state(TaskState state);
// Gives the CPU away: returns when this task is chosen again. Requires: no spin lock held.
void schedule();
// schedule() at most until the deadline (monotonic ns); returns false when the deadline has passed.
bool schedule_until(u64 deadline_ns);
// Makes `task` runnable if its state is one of `states` (bits of TaskState). Returns whether it was
// woken. Any context but an interrupt handler; may be called with locks of rank above RunQueue
// held.
bool wake(Task& task, u32 states = static_cast<u32>(TaskState::Interruptible) |
                                   static_cast<u32>(TaskState::Uninterruptible) |
                                   static_cast<u32>(TaskState::Killable));
// Lets others run if the time slice is used up: long loops in the kernel call it. No spin lock
// held.
void cond_resched();
void yield();
// Puts a new task (state Running, never run) on a run queue. `parent_sleeps`: the caller is about
// to sleep until the new task has got somewhere (vfork), so it inherits this CPU.
void start_task(Task& task, bool parent_sleeps = false);
// The first thing on a new task's stack: completes the switch that led here. Every entry function
// given to arch::init_kernel_stack() calls it first.
void finish_first_switch();
// Builds the run queues; called once by the boot code on the first CPU, with its idle task as
// arch::current() and arch::cpu_count() known, before anything sleeps or starts tasks. The boot
// task itself must never sleep: what boot has to do beyond that runs in a kernel task
// (start_kernel_task), and the boot code goes on to idle_loop().
void init_scheduler();
// Starts the kernel task that frees address spaces; called with the first program.
Result<void> start_reaper();
// At the end of a task: never returns. The scheduler drops its reference once the stack is left.
[[noreturn]] void schedule_dead();
// Called from the timer soft interrupt and at entry from user mode by an interrupt: accounts time.
void scheduler_tick();
// The idle loop of a CPU; does not return.
[[noreturn]] void idle_loop();
// Asked on every return to user mode: tasks have waited here for a while and another CPU has
// nothing to do.
void offer_waiting_tasks();

// --- the address space under the running task
// ------------------------------------------------------------ exec: the running task goes on in
// `fresh`, which is loaded at once. Returns what it worked in before (null: none).
Ref<AddressSpace> replace_address_space(Ref<AddressSpace> fresh);
// exit: the running task has no address space any more; its memory is freed here if it was the last
// user. May sleep.
void leave_address_space();

// --- what /proc and the system calls ask
// ----------------------------------------------------------------------
struct CpuTimes {
    u64 user_ns, nice_ns, system_ns, idle_ns, io_wait_ns;
    u64 switches;
};
CpuTimes cpu_times(unsigned cpu);
// Counts what running tasks have used up to now, for who reads their groups' figures.
void note_run_times();
// Tasks that run or wait for a CPU.
u32 running_tasks();
// The three load averages, in units of 1/65536.
void load_averages(u64 (&out)[3]);
// Run time of a task up to now.
u64 task_run_time(Task& task);
// Parts the run time into user and system time. Entry code may note each entry from user mode; the
// way back accounts.
void account_kernel_entry(Task& task);
void account_kernel_exit(Task& task);
// Takes effect at once: policy (SCHED_*, but SCHED_DEADLINE: deadline.hpp), static priority, nice
// value; the CPUs it may use.
void set_scheduling(Task& task, u32 policy, i32 rt_priority, i32 nice);
void set_nice(Task& task, i32 nice);
void set_affinity(Task& task, u64 mask);
// Which control group it is in and which shares its CPU time; gives back the former group.
void set_groups(Task& task, Ref<Cgroup>& group, Cgroup* cpu_group);
u64 slice_length_ns(Task& task); // sched_rr_get_interval(2)

// Whether a signal (or a fatal one) ends interruptible sleep of the running task; implemented in
// task/.
bool signal_pending();
bool fatal_signal_pending();

} // namespace kernel
