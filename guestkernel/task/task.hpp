// Task: what is scheduled. Process: a thread group. Session and process groups: job control.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/speculation.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/sched/wait_queue.hpp"
#include "guestkernel/task/credentials.hpp"
#include "guestkernel/task/keys.hpp"

namespace kernel {

class Process;
class UserAccount;
class UserNamespace;
struct Namespaces;   // namespaces/
class Terminal;      // ipc/terminal.hpp
struct SignalState;  // task/signal.hpp: handlers, queues, masks
class Tracee;        // trace/tracee.hpp
class SeccompFilter; // trace/seccomp.hpp
struct CpuRunQueue;  // sched/
struct DeadlineServer;
class Cgroup; // cgroup/cgroup.hpp

// None: not SCHED_DEADLINE. Exhausted: without runtime until its next period (sched/deadline.hpp).
enum class DeadlineState : u8 { None, Eligible, Exhausted };

// Identified by its number in the initial pid namespace; numbers are reused late.
class Task : public RefCounted {
public:
    Task();
    ~Task() override;

    arch::TaskContext context; // first: assembly knows it

    // --- scheduling; owned by sched/, under the run queue's lock
    volatile u32 state = 0; // TaskState
    volatile u32 on_cpu = 0;
    bool queued = false;
    // Between two run queues: virtual_runtime is the distance from the minimum of the one that it
    // left, until place() has it.
    bool in_transit = false;
    DeadlineState deadline_state = DeadlineState::None;
    u32 cpu = 0;
    u64 virtual_runtime = 0;
    u64 slice_start_ns = 0;   // when it last got the CPU
    u64 exec_start_ns = 0;    // up to here its run time is accounted
    u64 run_time_ns = 0;      // on a CPU, in all
    u64 burst_start_ns = 0;   // run_time_ns when it last woke up
    u64 enqueued_ns = 0;      // when it last became runnable
    u64 waiting_since_ns = 0; // the same, or when it last lost the CPU
    u64 waited_ns = 0;        // runnable without a CPU, in all
    u32 average_burst_ns =
        0; // run time between a wake-up and the next sleep: a short one stays with its waker
    i32 nice = 0;
    u32 policy = 0; // SCHED_*
    i32 rt_priority = 0;
    // Lent by those who wait for a lock of its (task/futex_pi.cpp): a real-time priority (0: none),
    // a nice value (20: none). Only what is above its own counts.
    i32 lent_rt_priority = 0;
    i32 lent_nice = 20;
    u64 affinity = ~u64{0};        // where it may run: what it asked for, within its cpuset
    u64 wanted_affinity = ~u64{0}; // what it asked for
    u64 deadline_ns = 0;           // SCHED_DEADLINE: on the monotonic clock
    DeadlineServer* deadline_server = nullptr; // null: never was SCHED_DEADLINE
    base::ListNode run_node;
    Task* run_left = nullptr;
    Task* run_right = nullptr;
    Ref<Cgroup> cgroup;          // null: the root; changes under the process tree lock as well
    Cgroup* cpu_group = nullptr; // whose share of the CPU it has part in; null: the root's
    u32 counted_weight = 0;      // what it adds to the load of cpu_group on its CPU
    u64 system_told_ns = 0;      // of system_time_ns, what its groups know

    // --- identity
    i32 tid = 0;
    i32 own_tid = 0;            // the same in its own pid namespace
    Process* process = nullptr; // holds a reference while the task lives; null for kernel tasks
    char name[16] = {};         // comm
    bool is_kernel = false;
    bool exiting = false;
    u32 exit_status = 0;
    base::ListNode process_node; // in Process::tasks
    Task* tid_next = nullptr;    // in the table of task numbers

    // --- what it works on; only the task itself replaces these (others read under the process
    // lock)
    Ref<AddressSpace> address_space;
    Ref<FileTable> files;
    Ref<FsContext> fs;
    Ref<const Credentials> credentials;
    Ref<Namespaces> namespaces; // null: the initial ones

    // --- signals (task/signal.hpp)
    SignalState* signals = nullptr;
    volatile u32 interrupt_flags =
        0; // work to do before returning to user mode: see task/return_to_user.cpp

    // --- tracing (trace/)
    volatile u32 entry_work = 0; // what system calls do besides: entry_strace, ...
    Ref<Tracee> trace;           // made once, under the tree lock; null: was never traced

    u8 seccomp_mode = 0;              // SECCOMP_MODE_*; this and the filters under the signal lock
    SeccompFilter* seccomp = nullptr; // the newest filter, with a reference
    // The result of the call is what a filter or its supervisor made up, even where it looks like
    // an order to restart.
    bool result_is_verbatim = false;

    // --- odds and ends of the ABI
    u64 set_child_tid = 0; // CLONE_CHILD_SETTID: written by the child itself before it first runs
    volatile bool vfork_pending = false; // its parent waits in vfork_done until exec or exit
    WaitQueue vfork_done;
    Ref<UserAccount> account;   // whose RLIMIT_NPROC it counts against; under the signal lock
    bool reset_on_fork = false; // SCHED_RESET_ON_FORK
    u16 stack_owner = 0;        // the group that its kernel stack is charged to
    u16 memory_owner = 0;       // the group that its memory is charged to (mm/): 0: none
    bool no_new_privileges = false;
    speculation::Wishes speculation; // changed by the task itself
    u8 memory_failure_policy = 2;    // PR_MCE_KILL, PR_MCE_KILL_DEFAULT
    bool over_process_limit = false; // its new user had RLIMIT_NPROC processes: execve(2) tells
    bool io_flusher = false;         // PR_SET_IO_FLUSHER: kept and shown
    u32 memory_policy = 0;           // set_mempolicy(2): MPOL_* and flags, bit 16: node 0 was given
    u64 clear_child_tid = 0;         // set_tid_address
    struct PiLock* pi_waits_for = nullptr; // both under the lock of task/futex_pi.cpp
    struct PiLock* pi_owned = nullptr;     // the contended ones, linked
    u64 robust_list = 0;
    u64 rseq = 0;
    u32 rseq_length = 0, rseq_signature = 0;
    u32 rseq_cpu = ~0u; // what the record says
    u64 user_time_ns = 0, system_time_ns = 0, start_time_ns = 0;
    u64 minor_faults = 0, major_faults = 0, voluntary_switches = 0, involuntary_switches = 0;
    // Above 0: user copies that would fault fail instead, for a look at user memory under a spin
    // lock.
    u32 faults_disabled = 0;
    u64 timer_slack_ns = 50'000, default_slack_ns = 50'000; // PR_SET_TIMERSLACK; of its creator
    u64 read_bytes = 0, written_bytes = 0, reads = 0, writes = 0; // /proc/PID/io
    u64 entered_kernel_ns = 0; // run time at the last entry from user mode; 0: not noted
    u32 syscall_number = 0;
    u32 personality = 0;
    u16 io_priority = 0;
    Ref<KeyObject> session_ring, thread_ring; // keyrings(7): only the task itself uses them
    Ref<RefCounted> landlock;                 // its domain: fs/landlock.cpp; null: not restricted
    Ref<RefCounted> io_rings;                 // what io_uring keeps for it: ipc/io_ring_task.cpp
    // Interruptible sleep ends at once, as if by a signal: io_uring finds out whether a request
    // would wait, and cancels those that do.
    volatile bool refuses_sleep = false;
    // O_NONBLOCK of open files does not count: a request of io_uring waits for its file all the
    // same.
    bool ignores_nonblock = false;
};

// struct rlimit by number (RLIMIT_*).
struct ResourceLimit {
    u64 soft = ~u64{0}, hard = ~u64{0};
};
inline constexpr unsigned resource_limit_count = 16;

// Bit of Task::interrupt_flags: hold_by_cgroup() before user mode (cgroup/hold.cpp).
inline constexpr u32 interrupt_cgroup = 8;
// The same for hold_by_deadline() (sched/deadline.cpp).
inline constexpr u32 interrupt_deadline = 16;

inline Task& current_task() {
    return *arch::current();
}

// RLIMIT_* of the current process.
u64 current_limit(unsigned resource);
// Capability check of the current task (CAP_*).
bool capable(unsigned capability);
// ... over what a user namespace owns; and in the task's own one.
bool capable_over(const UserNamespace* space, unsigned capability);
bool capable_here(unsigned capability);

// --- what others ask of task/
// ----------------------------------------------------------------------

// To the thread, with si_code SI_KERNEL: SIGPIPE and SIGXFSZ are for whoever wrote, and wait for it
// where it blocks them.
void send_signal(Task& task, int signal);
// The same to a process, or to all of a group. ESRCH.
Result<void> send_signal_to_process(i32 pid, int signal);
// Unless the number is that of another session's group by now.
Result<void> send_signal_to_group(i32 session, i32 group, int signal);
// Job control for terminals.
i32 current_pid();
i32 current_group();
i32 current_session();
bool is_session_leader();
bool group_exists(i32 group);
bool group_in_session(i32 group, i32 session);
bool group_is_orphaned(i32 group);
// Whether the running task blocks or ignores a signal (SIGTTIN, SIGTTOU rules).
bool signal_blocked_or_ignored(int signal);
// The controlling terminal of the current session.
Ref<Terminal> controlling_terminal();
Result<void> set_controlling_terminal(Ref<Terminal> terminal); // of a session leader without one
void clear_controlling_terminal(Terminal& terminal); // hang-up: for every process of its session
// Implemented by the terminal layer: the leader of the session that it controlled has ended (or
// given it up with TIOCNOTTY): SIGHUP and SIGCONT to the foreground group, no session from here on.
void session_leader_ended(Terminal& terminal, i32 session);

// A kernel thread; runs `entry(argument)`.
Result<Ref<Task>> start_kernel_task(const char* name, void (*entry)(void*), void* argument);
// Creates process 1 (in the kernel: adopts orphans, reaps them) and process 2 that executes the
// program that the device tree names, with its streams. Called once by the boot code when the root
// is mounted.
Result<void> start_first_program();

} // namespace kernel
