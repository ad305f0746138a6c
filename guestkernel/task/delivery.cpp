// What happens to a pending signal: default actions, stops, handlers, and the restart of
// interrupted calls.
#include <linux/errno.h>
#include <linux/signal.h>
#include <linux/unistd.h>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/job_control.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/task/process_timers.hpp"
#include "guestkernel/task/rseq.hpp"
#include "guestkernel/trace/core_dump.hpp"

namespace kernel {

namespace {

enum class Next : u8 { Nothing, Again, Handler };

struct Chosen {
    int signal = 0;
    SignalAction action;
    SignalInfo info;
};

bool in_syscall(const arch::TrapFrame& frame) {
    return static_cast<i64>(frame.orig_rax) >= 0;
}

constexpr u64 syscall_instruction_bytes = 2;

void repeat_call(arch::TrapFrame& frame, u64 number) {
    frame.rax = number;
    frame.rip -= syscall_instruction_bytes;
}

// A handler is about to run: decides whether the interrupted call goes on after it.
void prepare_restart(arch::TrapFrame& frame, const SignalAction& action) {
    if (!in_syscall(frame))
        return;
    switch (-static_cast<i64>(frame.rax)) {
    case restart_with_block:
    case restart_no_handler:
        frame.rax = static_cast<u64>(-i64{EINTR});
        break;
    case restart_syscall:
        if ((action.flags & SA_RESTART) == 0) {
            frame.rax = static_cast<u64>(-i64{EINTR});
            break;
        }
        repeat_call(frame, frame.orig_rax);
        break;
    case restart_no_interrupt:
        repeat_call(frame, frame.orig_rax);
        break;
    default:
        break;
    }
}

// Nothing ran: the program must not notice that it was interrupted.
void restart_without_handler(arch::TrapFrame& frame) {
    if (!in_syscall(frame))
        return;
    switch (-static_cast<i64>(frame.rax)) {
    case restart_no_handler:
    case restart_syscall:
    case restart_no_interrupt:
        repeat_call(frame, frame.orig_rax);
        break;
    case restart_with_block:
        repeat_call(frame, __NR_restart_syscall);
        break;
    default:
        break;
    }
}

// The process is to stop: the running task joins, the last one tells the parent. Returns when it
// may go on.
void stop_here(Task& task, Process& process) {
    bool complete = false;
    int signal = 0;
    {
        SpinGuard guard(process.signal_lock);
        if (!process.stop_requested || process.group_exiting || is_traced(task))
            return;
        signal = process.stop_signal;
        complete = join_group_stop_locked(task);
        set_state(TaskState::Stopped);
    }
    if (complete) {
        // Woken meanwhile or not: the state is looked at in schedule().
        notify_parent_of_job_control(process, CLD_STOPPED, signal);
    }
    schedule();
}

// Requires: signal_lock.
void request_stop(Process& process, int signal) {
    process.stop_signal = signal;
    // A tracer may have let one go on whose group is stopped: it stops again.
    current_task().signals->stop_joined = false;
    if (process.stop_requested)
        return;
    process.stop_requested = true;
    process.stopped_tasks = 0;
    for (Task& task : process.tasks) {
        task.signals->stop_joined = false;
        if (is_traced(task) && task.trace->seized && &task != arch::current()) {
            task.trace->trap_notify = true;
            wake_tracee_locked(task, task.trace->listening);
        }
        __atomic_fetch_or(&task.interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
        if (&task != arch::current() && !wake(task, static_cast<u32>(TaskState::Interruptible)) &&
            task.on_cpu != 0)
            arch::kick_cpu(task.cpu);
    }
}

bool stop_allowed(Process& process, int signal) {
    if (signal == SIGSTOP)
        return true;
    SpinGuard guard(process_tree_lock());
    return process.group && !group_orphaned_locked(*process.group, nullptr);
}

// Takes one step: an exit, a stop, a signal.
Next next_step(Task& task, Process& process, Chosen& chosen) {
    QueuedSignal* entry = nullptr;
    {
        SpinGuard guard(process.signal_lock);
        if (process.group_exiting) {
            const u32 status = process.group_exit_status;
            guard.unlock();
            exit_task(status);
        }
        if (process.exec_task != nullptr && process.exec_task != &task) {
            guard.unlock();
            exit_task(0);
        }
        if (process.continue_notice) {
            process.continue_notice = false;
            guard.unlock();
            notify_parent_of_job_control(process, CLD_CONTINUED, SIGCONT);
            return Next::Again;
        }
        const bool traced = is_traced(task);
        if (process.stop_requested && !traced) {
            guard.unlock();
            stop_here(task, process);
            return Next::Again;
        }
        if (traced && (trap_due(task) || (process.stop_requested && !task.signals->stop_joined))) {
            guard.unlock();
            trap_here(task);
            return Next::Again;
        }
        const u64 allowed = ~task.signals->blocked;
        chosen.signal = task.signals->pending.take(allowed, chosen.info, entry);
        if (chosen.signal == 0)
            chosen.signal = process.pending.take(allowed, chosen.info, entry);
        if (chosen.signal == 0) {
            recalculate_pending(task);
            return Next::Nothing;
        }
        task.signals->may_stop = true; // if that is what it leads to: a tracer may exchange it
    }
    if (entry != nullptr)
        finish_queued_signal(*entry, chosen.info);
    free_queued_signal(entry);
    chosen.action = process.handlers->get(chosen.signal);
    const bool final = (chosen.action.flags & action_is_final) != 0;
    if (chosen.signal != SIGKILL && is_traced(task) && !final) {
        chosen.signal = trace_signal(task, chosen.signal, chosen.info);
        if (chosen.signal == 0)
            return Next::Again;
        chosen.action = process.handlers->get(chosen.signal);
    }
    if (chosen.action.handler == reinterpret_cast<u64>(SIG_IGN))
        return Next::Again;
    if (chosen.action.handler != reinterpret_cast<u64>(SIG_DFL))
        return Next::Handler;
    // What the first process of a pid namespace had blocked does not end it either; its faults do.
    if (process.is_namespace_init && chosen.info.code <= 0 && chosen.signal != SIGSTOP && !final)
        return Next::Again;
    switch (default_action(chosen.signal)) {
    case DefaultAction::Ignore:
    case DefaultAction::Continue:
        return Next::Again;
    case DefaultAction::Stop:
        if (stop_allowed(process, chosen.signal)) {
            SpinGuard guard(process.signal_lock);
            // A SIGCONT in between has won.
            if (!process.group_exiting && task.signals->may_stop)
                request_stop(process, chosen.signal);
        }
        return Next::Again;
    case DefaultAction::Terminate:
    case DefaultAction::Core:
        break;
    }
    u32 status = static_cast<u32>(chosen.signal);
    if (default_action(chosen.signal) == DefaultAction::Core) {
        tell_process_event(ProcessEvent::Core, current_task());
        status |= dump_core(chosen.info);
    }
    exit_process(status);
}

void run_handler(arch::TrapFrame& frame, Task& task, const Chosen& chosen) {
    Process& process = *task.process;
    SignalState& state = *task.signals;
    prepare_restart(frame, chosen.action);
    abort_rseq(task, frame);
    const u64 restored = state.restore_saved ? state.saved_blocked : state.blocked;
    const bool stepped = end_single_step(task);
    if ((chosen.action.flags & SA_RESETHAND) != 0)
        process.handlers->exchange(chosen.signal, SignalAction{});
    if (!push_signal_frame(frame, chosen.signal, chosen.action, chosen.info, restored)) {
        // No stack to run on. SIGSEGV for SIGSEGV would never end.
        if (chosen.signal == SIGSEGV)
            process.handlers->exchange(SIGSEGV, SignalAction{});
        force_signal(SIGSEGV, SI_KERNEL, 0);
        return;
    }
    state.restore_saved = false;
    u64 blocked = state.blocked | chosen.action.mask;
    if ((chosen.action.flags & SA_NODEFER) == 0)
        blocked |= signal_bit(chosen.signal);
    set_blocked(blocked);
    if (stepped)
        trace_handler_entry(task);
}

} // namespace

bool join_group_stop_locked(Task& task) {
    Process& process = *task.process;
    if (!process.stop_requested || process.group_exiting || task.signals->stop_joined)
        return false;
    task.signals->stop_joined = true;
    process.stopped_tasks++;
    if (process.stopped || process.stopped_tasks < process.live_tasks)
        return false;
    process.stopped = process.stop_unreported = true;
    process.continue_unreported = false;
    return true;
}

void deliver_signals(arch::TrapFrame& frame) {
    Task& task = current_task();
    Process& process = *task.process;
    for (;;) {
        Chosen chosen;
        const Next next = next_step(task, process, chosen);
        if (next == Next::Again)
            continue;
        if (next == Next::Nothing)
            break;
        run_handler(frame, task, chosen);
        // More signals nest: the last handler set up runs first.
        if ((task.interrupt_flags & interrupt_signal) == 0)
            return;
    }
    restart_without_handler(frame);
    if (task.signals->restore_saved) {
        task.signals->restore_saved = false;
        set_blocked(task.signals->saved_blocked);
    }
}

void join_stop_on_exit(Task& task) {
    Process& process = *task.process;
    bool complete = false;
    int signal = 0;
    {
        SpinGuard guard(process.signal_lock);
        if (process.stop_requested && !process.stopped && !process.group_exiting &&
            process.live_tasks != 0 && process.stopped_tasks >= process.live_tasks) {
            process.stopped = process.stop_unreported = complete = true;
            signal = process.stop_signal;
        }
    }
    if (complete)
        notify_parent_of_job_control(process, CLD_STOPPED, signal);
}

void notify_parent_of_job_control(Process& child, i32 code, int status) {
    SpinGuard tree(process_tree_lock());
    notify_parent_of_job_control_locked(child, code, status);
}

void notify_parent_of_job_control_locked(Process& child, i32 code, int status) {
    Process* parent = child.parent;
    if (parent == nullptr)
        return;
    SignalInfo info;
    info.signo = SIGCHLD;
    info.code = code;
    info.child = {};
    info.child.pid = pid_in(pid_namespace_of(*parent), child.pid);
    if (const Task* first = child.first_task(); first != nullptr && first->credentials)
        info.child.uid = uid_for_locked(*parent, first->credentials->uid);
    info.child.status = status;
    const SignalAction action = parent->handlers ? parent->handlers->get(SIGCHLD) : SignalAction{};
    if (action.handler != reinterpret_cast<u64>(SIG_IGN) && (action.flags & SA_NOCLDSTOP) == 0)
        send_child_signal_locked(*parent, info);
    parent->child_events.wake_all();
}

} // namespace kernel
