// The stops of a traced thread, ptrace(2), "Stopped states".
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <linux/signal.h>

#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

constexpr u32 syscall_good = 0x80; // PTRACE_O_TRACESYSGOOD marks system-call stops by it

bool killed(const Task& task) {
    return (task.interrupt_flags & interrupt_fatal) != 0;
}

// Puts the running task to rest until its tracer lets it go on (or leaves, or SIGKILL comes).
// Returns the signal to go on with.
// `otherwise`: that signal when the tracer ends without having heard of the stop.
int stop(Task& task, u32 code, i32 why, u64 message, const SignalInfo* info, int otherwise = 0) {
    Process& process = *task.process;
    Tracee& trace = *task.trace;
    {
        SpinGuard tree(process_tree_lock());
        bool stop_complete = false;
        {
            SpinGuard guard(process.signal_lock);
            if (trace.tracer == nullptr || killed(task))
                return otherwise;
            trace.stopped = true;
            trace.reported = trace.listening = false;
            trace.stop_code = code;
            trace.resume_signal = otherwise;
            trace.message = message;
            trace.has_info = info != nullptr;
            if (info != nullptr)
                trace.info = *info;
            trace.trap_stop = false;
            if (code >> 8 == PTRACE_EVENT_STOP)
                trace.trap_notify = false;
            if (why == CLD_STOPPED)
                stop_complete = join_group_stop_locked(task);
            set_state(TaskState::Traced);
        }
        notify_tracer_locked(trace, why, static_cast<i32>(code & 0x7f));
        if (stop_complete && trace.tracer->process != process.parent)
            notify_parent_of_job_control_locked(process, CLD_STOPPED, process.stop_signal);
    }
    schedule();
    SpinGuard guard(process.signal_lock);
    const int signal = trace.resume_signal;
    trace.stopped = trace.listening = trace.has_info = false;
    trace.resume_signal = 0;
    recalculate_pending(task);
    return signal;
}

// As the running task knows them.
void set_sender(SignalInfo& info, i32 number, u32 uid) {
    info.sender = {visible_pid(number), visible_uid(uid), 0};
}

SignalInfo notice(i32 code) {
    SignalInfo info = user_signal(SIGTRAP, code);
    set_sender(info, current_task().tid, current_task().credentials->uid);
    return info;
}

int notify(Task& task, u32 code, u64 message) {
    const SignalInfo info = notice(static_cast<i32>(code));
    return stop(task, code, CLD_TRAPPED, message, &info);
}

constexpr u64 trap_flag = 0x100;

// ptrace(2): the tracer's answer to a system-call stop may be a signal.
void report_syscall(Task& task, u64 message) {
    const bool good = (task.trace->options & PTRACE_O_TRACESYSGOOD) != 0;
    const int signal = notify(task, SIGTRAP | (good ? syscall_good : 0), message);
    if (signal != 0 && !killed(task))
        (void)send_signal_info(task, SignalTarget::Thread, kernel_signal(signal));
}

} // namespace

bool is_traced(const Task& task) {
    return task.trace && task.trace->tracer != nullptr;
}

int trace_signal(Task& task, int signal, SignalInfo& info) {
    const int chosen = stop(task, static_cast<u32>(signal), CLD_TRAPPED, 0, &info, signal);
    if (chosen == 0)
        return 0;
    // The tracer may have changed it by PTRACE_SETSIGINFO.
    info = task.trace->info;
    if (chosen != info.signo) {
        info = user_signal(chosen, SI_USER);
        SpinGuard tree(process_tree_lock());
        const Task* tracer = task.trace->tracer;
        set_sender(info, tracer != nullptr ? tracer->process->pid : 0,
                   tracer != nullptr && tracer->credentials ? tracer->credentials->uid : 0);
    }
    // One that is blocked meanwhile waits its turn.
    if ((task.signals->blocked & signal_bit(chosen)) != 0 && !killed(task)) {
        (void)send_signal_info(task, SignalTarget::Thread, info);
        return 0;
    }
    return chosen;
}

i32 number_for_tracer(i32 tid) {
    const Task& self = current_task();
    SpinGuard tree(process_tree_lock());
    return is_traced(self) ? pid_in(pid_namespace_of(*self.trace->tracer->process), tid)
                           : visible_pid(tid);
}

bool trace_event_enabled(const Task& task, unsigned event) {
    return is_traced(task) && (task.trace->options >> event & 1) != 0;
}

void trace_event(Task& task, unsigned event, u64 message) {
    if (trace_event_enabled(task, event))
        (void)notify(task, event << 8 | SIGTRAP, message);
}

void trace_exec(Task& task, i32 old_tid) {
    if (!is_traced(task))
        return;
    if (trace_event_enabled(task, PTRACE_EVENT_EXEC))
        trace_event(task, PTRACE_EVENT_EXEC, static_cast<u64>(old_tid));
    else if (!task.trace->seized)
        (void)send_signal_info(task, SignalTarget::Thread, user_signal(SIGTRAP, SI_USER));
}

void trace_exit(Task& task, u32 status) {
    if (!trace_event_enabled(task, PTRACE_EVENT_EXIT))
        return;
    // What ends the thread is done with; only another SIGKILL cuts the stop short.
    __atomic_fetch_and(&task.interrupt_flags, ~interrupt_fatal, __ATOMIC_SEQ_CST);
    trace_event(task, PTRACE_EVENT_EXIT, status);
}

bool trace_syscall_entry(Task& task) {
    const u32 work = task.entry_work;
    if (is_traced(task))
        report_syscall(task, PTRACE_EVENTMSG_SYSCALL_ENTRY);
    return (work & entry_emulate) == 0 && !killed(task);
}

void trace_syscall_exit(Task& task, u32 work) {
    if (!is_traced(task) || killed(task))
        return;
    if ((task.entry_work & entry_trace) != 0 && (work & entry_emulate) == 0)
        report_syscall(task, PTRACE_EVENTMSG_SYSCALL_EXIT);
    else if ((task.entry_work & entry_step) != 0)
        force_signal(SIGTRAP, TRAP_BRKPT, arch::user_frame(task).rip);
}

bool end_single_step(Task& task) {
    if (!is_traced(task) || !task.trace->single_step)
        return false;
    __atomic_fetch_and(&task.entry_work, ~entry_step, __ATOMIC_SEQ_CST);
    if (task.trace->trap_flag_forced)
        arch::user_frame(task).rflags &= ~trap_flag;
    task.trace->single_step = task.trace->trap_flag_forced = false;
    return true;
}

void trace_handler_entry(Task& task) {
    if (is_traced(task))
        (void)notify(task, SIGTRAP, 0);
}

bool trap_due(const Task& task) {
    return is_traced(task) && (task.trace->trap_stop || task.trace->trap_notify);
}

void trap_here(Task& task) {
    const Process& process = *task.process;
    int signal = process.stop_signal;
    if (!task.trace->seized) {
        (void)stop(task, static_cast<u32>(signal), CLD_STOPPED, 0, nullptr);
        return;
    }
    if (!process.stop_requested)
        signal = SIGTRAP;
    const u32 code = static_cast<u32>(signal) | PTRACE_EVENT_STOP << 8;
    SignalInfo info = notice(static_cast<i32>(code));
    info.signo = signal;
    (void)stop(task, code, CLD_STOPPED, 0, &info);
}

bool trace_seccomp(Task& task, u32 data) {
    if (!trace_event_enabled(task, PTRACE_EVENT_SECCOMP))
        return false;
    trace_event(task, PTRACE_EVENT_SECCOMP, data);
    return true;
}

} // namespace kernel
