// ptrace(2) from the inside: what is known of a traced thread, and where threads stop for their
// tracer. stops.cpp has the stops, attach.cpp the ties between tracer and tracee, requests.cpp the
// system call, registers.cpp what debuggers see of a thread.
//
// Two locks, as for processes: the ties (tracer, lists, ends) are under process_tree_lock(), the
// state of a stop under the tracee's Process::signal_lock.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

class Process;
class Task;
struct WaitReport;  // task/wait.hpp
struct WaitRequest; // task/wait.hpp

// Bits of Task::entry_work: what a system call does besides the call.
inline constexpr u32 entry_strace = 1;    // --strace prints it
inline constexpr u32 entry_seccomp = 2;   // filters are asked
inline constexpr u32 entry_trace = 4;     // PTRACE_SYSCALL: stops before and after
inline constexpr u32 entry_emulate = 8;   // PTRACE_SYSEMU: stops before, does nothing
inline constexpr u32 entry_step = 16;     // PTRACE_SINGLESTEP: the call is one step
inline constexpr u32 entry_dispatch = 32; // the program serves calls itself: call_dispatch.hpp

inline constexpr u64 debug_status_idle = 0xffff0ff0; // DR6 when nothing has happened

// What a thread that is or was traced carries; made at the first attachment and kept until the
// thread ends. One that ends while traced stays in its tracer's list until it was waited for.
class Tracee : public RefCounted {
public:
    Tracee(Task& thread, Ref<Process> of);
    ~Tracee() override;

    // --- under the tree lock
    i32 tid;
    const Ref<Process> process;
    Task* task;                    // null once the thread has ended
    Task* tracer = nullptr;        // the thread that traces; null: nobody
    base::ListNode node;           // in the tracer's Process::tracees, which holds a reference
    u32 end_status = 0;            // when the thread has ended
    Tracee* number_next = nullptr; // in the table of the numbers of ended threads
    bool tracer_capable = false;   // had CAP_SYS_PTRACE: set-id programs keep their privilege

    // --- under the signal lock
    bool seized = false; // PTRACE_SEIZE: group stops are reported as such
    u32 options = 0;     // PTRACE_O_*
    bool stopped = false;
    bool reported = false;    // wait(2) has told of the stop
    bool listening = false;   // PTRACE_LISTEN
    bool frozen = false;      // the tracer works on its registers: not even SIGKILL runs it
    bool trap_stop = false;   // is to stop: PTRACE_INTERRUPT, a group stop, attached while stopped
    bool trap_notify = false; // seized: the group stop began or ended
    bool single_step = false;
    bool trap_flag_forced = false; // RFLAGS.TF is ours, not the program's
    u32 stop_code = 0;             // signal, event << 8
    int resume_signal = 0;
    u64 message = 0; // PTRACE_GETEVENTMSG
    bool has_info = false;
    SignalInfo info;                                                   // PTRACE_GETSIGINFO
    u64 debug_registers[8] = {0, 0, 0, 0, 0, 0, debug_status_idle, 0}; // as the tracer sees them
    u8 breakpoints_made = 0;       // bit n: DR n has been given an address, or was enabled
    arch::Breakpoints breakpoints; // of the enabled ones
};

// --- stops of the running task (stops.cpp)
bool is_traced(const Task& task);
// A signal is about to be acted on. Returns the one that the tracer lets through, 0 for none;
// `info` follows.
int trace_signal(Task& task, int signal, SignalInfo& info);
// PTRACE_EVENT_*: stops if the tracer asked for it.
void trace_event(Task& task, unsigned event, u64 message);
bool trace_event_enabled(const Task& task, unsigned event);
// The number of a task as the running task's tracer knows it, for messages of events.
i32 number_for_tracer(i32 tid);
// The new program runs: an event, or the SIGTRAP of old. `old_tid`: from number_for_tracer().
void trace_exec(Task& task, i32 old_tid);
// The thread is about to end with this wait status.
void trace_exit(Task& task, u32 status);
// Before and after a system call. False: the call is not to be made.
bool trace_syscall_entry(Task& task);
void trace_syscall_exit(Task& task, u32 work);
// Before a handler's frame is built, which must not show the tracer's trap flag; true: the thread
// was single-stepping, so trace_handler_entry() follows when the frame is there.
bool end_single_step(Task& task);
void trace_handler_entry(Task& task);
// Whether the task is to stop for its tracer; and the stop. Requires (first): signal_lock.
bool trap_due(const Task& task);
void trap_here(Task& task);
// seccomp's SECCOMP_RET_TRACE: false when there is no tracer that listens.
bool trace_seccomp(Task& task, u32 data);

// Makes a tracee look at what it is to do; `from_trap`: even out of a stop. Requires: signal_lock.
void wake_tracee_locked(Task& task, bool from_trap);

// --- ties (attach.cpp)
Result<void> trace_attach(i32 tid, bool seize, u64 options);
// PTRACE_O_SUSPEND_SECCOMP: not for who is under a filter himself, whose children would get rid of
// it by that.
bool may_suspend_seccomp();
Result<void> trace_me();
// Requires: the tree lock; `tracee` is traced and held by the caller.
void detach_locked(Tracee& tracee);
// clone(2): prepares and links what is to be traced from its start.
Result<void> prepare_trace(Task& child, Ref<Process> process, bool wanted);
void inherit_trace_locked(Task& child);
// The thread has left its process; its number is about to be given up. Requires: the tree lock.
void trace_ended_locked(Task& task);
// The process is a zombie; whether a tracer that is not its parent hears of it first.
bool tracer_reaps_first_locked(Process& process);
// execve gave the thread its process's number.
void trace_renumber_locked(Task& task);
// Of its first thread; null: not traced.
Tracee* leader_trace_locked(Process& process);
i32 tracer_of_locked(const Task& task); // TracerPid
void notify_tracer_locked(Tracee& tracee, i32 why, i32 status);

// The process is reaped: nobody asks for its leader's record any more.
void forget_ended_leader_locked(Process& process);

// --- wait(2) (tracer_wait.cpp)
// Looks for something to tell of the running task's tracees; `any`: there are some that match.
// `reaped` gets a process that is gone now, with the table's reference. Requires: the tree lock.
void scan_tracees_locked(const WaitRequest& request, WaitReport& report, bool& any,
                         Process*& reaped);

} // namespace kernel
