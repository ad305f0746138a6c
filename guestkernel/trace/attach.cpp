// Who traces whom: attachment, inheritance by clone(2), release, and what ends bring about.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <linux/signal.h>

#include "guestkernel/fs/landlock.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

// Requires: the tree lock.
void link_locked(Tracee& tracee, Task& tracer) {
    tracee.tracer = &tracer;
    tracee.tracer_capable = tracer.credentials && tracer.credentials->capable(CAP_SYS_PTRACE);
    tracer.process->tracees.push_back(tracee);
    tracee.add_ref(); // the list's
}

// Requires: the tree lock. The list's reference goes: `tracee` must be held by the caller or its
// task.
void unlink_locked(Tracee& tracee) {
    tracee.node.unlink();
    if (tracee.task == nullptr) {
        tracee.tracer->process->child_events.wake_all(); // it may wait for what is gone now
        give_up_number_locked(tracee);
    }
    tracee.tracer = nullptr;
    if (tracee.process->ended_leader == &tracee)
        tracee.process->ended_leader = nullptr;
    tracee.release();
}

Result<void> make_record(Task& task) {
    if (task.trace)
        return {};
    TRY(Ref<Tracee> fresh, make_ref<Tracee>(task, Ref<Process>::share(task.process)));
    SpinGuard tree(process_tree_lock());
    if (!task.trace)
        std::swap(task.trace, fresh);
    return {}; // a loser of the race is dropped after the lock
}

constexpr u64 known_options = PTRACE_O_MASK;

// Whether who is asked to trace the running task could have attached to it by himself, as far as
// privileges go: a program may not give away what it has and its parent does not. Requires: the
// tree lock.
bool may_be_traced_by_locked(const Task& tracer) {
    const Task& self = current_task();
    if (!tracer.credentials || !landlock_may_access_locked(tracer, self))
        return false;
    const Credentials& theirs = *tracer.credentials;
    const Credentials& own = *self.credentials;
    return (theirs.user_space() == own.user_space() &&
            (own.cap_permitted & ~theirs.cap_permitted) == 0) ||
           capable_in(theirs, own.user_space(), CAP_SYS_PTRACE);
}

// Requires: both locks. A stopped thread moves over into a stop for its tracer.
bool attach_locked(Task& target, Tracee& trace, bool seize, u64 options) {
    link_locked(trace, current_task());
    trace.seized = seize;
    trace.options = static_cast<u32>(options);
    trace.trap_notify = trace.single_step = trace.trap_flag_forced = false;
    trace.trap_stop = (target.state & static_cast<u32>(TaskState::Stopped)) != 0;
    if (!trace.trap_stop)
        return false;
    __atomic_fetch_or(&target.interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
    wake(target, static_cast<u32>(TaskState::Stopped));
    return true;
}

} // namespace

Tracee::Tracee(Task& thread, Ref<Process> of)
    : tid(thread.tid), process(std::move(of)), task(&thread) {}
Tracee::~Tracee() = default;

bool may_suspend_seccomp() {
    const Task& self = current_task();
    const bool suspended = is_traced(self) && (self.trace->options & PTRACE_O_SUSPEND_SECCOMP) != 0;
    return capable(CAP_SYS_ADMIN) && self.seccomp_mode == SECCOMP_MODE_DISABLED && !suspended;
}

Result<void> trace_attach(i32 tid, bool seize, u64 options) {
    const Ref<Task> target = find_task(tid);
    if (!target)
        return fail(ESRCH);
    if ((options & ~known_options) != 0)
        return fail(EIO);
    const Task& self = current_task();
    if (target->is_kernel || target->signals == nullptr || target->process == self.process ||
        target->process == kernel_init_process)
        return fail(EPERM);
    if ((options & PTRACE_O_SUSPEND_SECCOMP) != 0 && !may_suspend_seccomp())
        return fail(EPERM);
    const Ref<const Credentials> seen = credentials_of(*target);
    const bool seen_dumpable = target->process->dumpable;
    if (!may_attach(*target))
        return fail(EPERM);
    TRY(make_record(*target));
    Tracee& trace = *target->trace;
    bool was_stopped = false;
    {
        SpinGuard tree(process_tree_lock());
        if (trace.task == nullptr || target->exiting || trace.tracer != nullptr)
            return fail(EPERM);
        // It executes another program, or becomes somebody else, just now.
        if (target->credentials != seen || target->process->dumpable != seen_dumpable)
            return fail(EPERM);
        SpinGuard guard(target->process->signal_lock);
        was_stopped = attach_locked(*target, trace, seize, options);
    }
    if (!seize)
        (void)send_signal_info(*target, SignalTarget::Thread, kernel_signal(SIGSTOP));
    // wait(2) with WNOHANG must find the stop that was there.
    if (was_stopped)
        (void)wait_until(
            self.process->child_events, [&] { return trace.stopped || trace.task == nullptr; },
            no_deadline, TaskState::Killable);
    tell_process_event(ProcessEvent::Traced, *target);
    return {};
}

Result<void> trace_me() {
    Task& self = current_task();
    TRY(make_record(self));
    SpinGuard tree(process_tree_lock());
    Tracee& trace = *self.trace;
    Process* parent = self.process->parent;
    if (trace.tracer != nullptr || parent == nullptr || parent == kernel_init_process)
        return fail(EPERM);
    // The thread that forked this process, if it still is.
    Task* tracer = find_task_locked(self.process->parent_task);
    if (tracer == nullptr || tracer->process != parent)
        tracer = parent->first_task();
    if (tracer == nullptr || tracer->exiting)
        return {}; // about to be adopted: nobody traces
    if (!may_be_traced_by_locked(*tracer))
        return fail(EPERM);
    SpinGuard guard(self.process->signal_lock);
    link_locked(trace, *tracer);
    trace.seized = trace.trap_stop = trace.trap_notify = false;
    trace.single_step = trace.trap_flag_forced = false;
    trace.options = 0;
    return {};
}

void detach_locked(Tracee& tracee) {
    Task* task = tracee.task;
    if (task == nullptr)
        return unlink_locked(tracee);
    Process& process = *tracee.process;
    constexpr u64 trap_flag = 0x100;
    __atomic_fetch_and(&task->entry_work, ~(entry_trace | entry_emulate | entry_step),
                       __ATOMIC_SEQ_CST);
    SpinGuard guard(process.signal_lock);
    if (tracee.stopped && tracee.trap_flag_forced)
        arch::user_frame(*task).rflags &= ~trap_flag;
    tracee.trap_stop = tracee.trap_notify = tracee.single_step = tracee.trap_flag_forced = false;
    tracee.frozen = tracee.listening = false;
    tracee.options = 0;
    unlink_locked(tracee);
    if (tracee.stopped || process.stop_requested) {
        // It stops again with its group if that is stopped.
        __atomic_fetch_or(&task->interrupt_flags, interrupt_signal, __ATOMIC_SEQ_CST);
        wake(*task, static_cast<u32>(TaskState::Traced));
    }
}

Result<void> prepare_trace(Task& child, Ref<Process> process, bool wanted) {
    if (!wanted)
        return {};
    TRY(child.trace, make_ref<Tracee>(child, std::move(process)));
    return {};
}

void inherit_trace_locked(Task& child) {
    const Task& parent = current_task();
    if (!child.trace || !is_traced(parent))
        return;
    Tracee& trace = *child.trace;
    const Tracee& from = *parent.trace;
    trace.tid = child.tid;
    link_locked(trace, *from.tracer);
    trace.tracer_capable = from.tracer_capable;
    trace.seized = from.seized;
    trace.options = from.options;
    if (trace.seized)
        trace.trap_stop = true;
    else
        child.signals->pending.add(SIGSTOP, nullptr);
    child.interrupt_flags = child.interrupt_flags | interrupt_signal;
}

void release_tracees_locked(Task& tracer,
                            base::IntrusiveList<Process, &Process::sibling_node>& dead) {
    auto& list = tracer.process->tracees;
    for (auto it = list.begin(); it != list.end();) {
        Tracee& tracee = *it;
        ++it;
        if (tracee.tracer != &tracer)
            continue;
        Process& process = *tracee.process;
        if (tracee.task != nullptr && (tracee.options & PTRACE_O_EXITKILL) != 0)
            send_child_signal_locked(process, kernel_signal(SIGKILL));
        const bool was_leader = process.ended_leader == &tracee;
        const Ref<Tracee> keep = Ref<Tracee>::share(&tracee);
        detach_locked(tracee);
        // Its parent was kept waiting.
        if (was_leader && process.state == ProcessState::Zombie)
            collect_zombie_locked(process, dead);
    }
}

void trace_ended_locked(Task& task) {
    if (!task.trace)
        return;
    Tracee& trace = *task.trace;
    trace.task = nullptr;
    trace.end_status =
        task.process->group_exiting ? task.process->group_exit_status : task.exit_status;
    if (trace.tracer == nullptr)
        return;
    if (trace.tid != trace.process->pid) {
        keep_number_locked(trace);
        // execve has no use for the threads it ended, and nobody else will ask.
        notify_tracer_locked(trace, (trace.end_status & 0x7f) == 0 ? CLD_EXITED : CLD_KILLED,
                             static_cast<i32>((trace.end_status & 0x7f) == 0
                                                  ? trace.end_status >> 8 & 0xff
                                                  : trace.end_status & 0x7f));
        return;
    }
    trace.process->ended_leader = &trace;
}

void forget_ended_leader_locked(Process& process) {
    if (process.ended_leader != nullptr)
        unlink_locked(*process.ended_leader);
}

bool tracer_reaps_first_locked(Process& process) {
    Tracee* trace = process.ended_leader;
    if (trace == nullptr)
        return false;
    if (trace->tracer->process == process.parent)
        return false;
    trace->end_status = process.exit_status;
    const u32 status = process.exit_status;
    notify_tracer_locked(
        *trace,
        (status & 0x7f) == 0   ? CLD_EXITED
        : (status & 0x80) != 0 ? CLD_DUMPED
                               : CLD_KILLED,
        static_cast<i32>((status & 0x7f) == 0 ? status >> 8 & 0xff : status & 0x7f));
    return true;
}

void trace_renumber_locked(Task& task) {
    if (Tracee* leader = task.process->ended_leader)
        unlink_locked(*leader);
    if (task.trace)
        task.trace->tid = task.tid;
}

Tracee* leader_trace_locked(Process& process) {
    if (process.ended_leader != nullptr)
        return process.ended_leader;
    const Task* first = process.tasks.front();
    return first != nullptr && first->tid == process.pid && is_traced(*first) ? first->trace.get()
                                                                              : nullptr;
}

i32 tracer_of_locked(const Task& task) {
    return is_traced(task) ? task.trace->tracer->process->pid : 0;
}

void notify_tracer_locked(Tracee& tracee, i32 why, i32 status) {
    if (tracee.tracer == nullptr)
        return;
    Process& tracer = *tracee.tracer->process;
    SignalInfo info;
    info.signo = SIGCHLD;
    info.code = why;
    info.child = {};
    info.child.pid = pid_in(pid_namespace_of(tracer), tracee.tid);
    if (tracee.task != nullptr && tracee.task->credentials)
        info.child.uid = uid_for_locked(tracer, tracee.task->credentials->uid);
    info.child.status = status;
    const bool stop = why != CLD_EXITED && why != CLD_KILLED && why != CLD_DUMPED;
    const SignalAction action = tracer.handlers->get(SIGCHLD);
    if (action.handler != reinterpret_cast<u64>(SIG_IGN) &&
        (!stop || (action.flags & SA_NOCLDSTOP) == 0))
        send_child_signal_locked(tracer, info);
    tracer.child_events.wake_all();
}

} // namespace kernel
