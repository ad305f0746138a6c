// kill and its family, handlers, masks, alternate stacks, waiting for signals.
#include <linux/errno.h>
#include <linux/signal.h>

#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr u64 unblockable = signal_bit(SIGKILL) | signal_bit(SIGSTOP);
constexpr u64 minimum_stack = 2048; // MINSIGSTKSZ
constexpr u32 ss_onstack = 1, ss_disable = 2, ss_autodisarm = u32{1} << 31;

struct UserStack { // stack_t
    u64 base;
    u32 flags;
    u32 padding;
    u64 size;
};

Result<void> check_set_size(u64 size) {
    if (size != sizeof(u64))
        return fail(EINVAL);
    return {};
}

Result<void> check_signal(int signal) {
    if (signal < 0 || signal > signal_count)
        return fail(EINVAL);
    return {};
}

// To one process that is kept alive by the tree lock. Requires: the tree lock.
Result<void> kill_locked(Process& process, int signal, const SignalInfo& info) {
    if (&process == kernel_init_process)
        return {};
    Task* task = process.first_task();
    if (task == nullptr)
        return {}; // a zombie takes any signal
    if (!may_signal_locked(*task, signal))
        return fail(EPERM);
    if (signal != 0)
        send_child_signal_locked(process, info);
    return {};
}

Result<long> kill_many(i32 pid, int signal) {
    const SignalInfo info = user_signal(signal, SI_USER);
    Process& self = current_process();
    bool any = false;
    bool success = false;
    int error = ESRCH;
    const auto send = [&](Process& process) {
        any = true;
        if (auto done = kill_locked(process, signal, info); done)
            success = true;
        else
            error = done.error().code;
    };
    SpinGuard tree(process_tree_lock());
    if (pid == -1) {
        for_each_process_locked([&](Process& process) {
            if (&process != &self && &process != kernel_init_process &&
                visible_pid(process.pid) > (current_pid_namespace() == nullptr ? 0 : 1))
                send(process);
        });
    } else {
        ProcessGroup* group = pid == 0 ? self.group.get() : find_group_locked(global_pid(-pid));
        if (group == nullptr)
            return fail(ESRCH);
        for (Process& process : group->members)
            send(process);
    }
    if (success || (pid == -1 && any && error == ESRCH))
        return 0;
    return fail(error);
}

Result<long> kill_thread(i32 pid, i32 tid, const SignalInfo& info) {
    const int signal = info.signo;
    if (tid <= 0 || (pid != 0 && pid <= 0))
        return fail(EINVAL);
    TRY(check_signal(signal));
    const Ref<Task> target = find_task(global_pid(tid));
    if (!target || target->process == nullptr ||
        (pid > 0 && target->process->pid != global_pid(pid)))
        return fail(ESRCH);
    if (!may_signal(*target, signal))
        return fail(EPERM);
    if (signal != 0)
        TRY(send_signal_info(*target, SignalTarget::Thread, info));
    return 0;
}

// What a program says about a signal that it queues: it may not speak for the kernel or for
// kill(2).
Result<SignalInfo> copy_in_info(u64 address, int signal, i32 pid) {
    TRY(SignalInfo info, UserPtr<const SignalInfo>(address).copy_in());
    if ((info.code >= 0 || info.code == SI_TKILL) && pid != current_process().own_pid)
        return fail(EPERM);
    info.signo = signal;
    return info;
}

} // namespace

Result<long> sys_rt_sigaction(Task& task, int signal, u64 action, u64 old, u64 set_size) {
    TRY(check_set_size(set_size));
    if (signal < 1 || signal > signal_count)
        return fail(EINVAL);
    Process& process = *task.process;
    SignalAction before = process.handlers->get(signal);
    if (action != 0) {
        if ((signal_bit(signal) & unblockable) != 0)
            return fail(EINVAL);
        // struct kernel_sigaction: handler, flags, restorer, mask.
        TRY(SignalAction fresh, UserPtr<const SignalAction>(action).copy_in());
        fresh.mask &= ~unblockable;
        constexpr u64 known = SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_ONSTACK | SA_RESTART |
                              SA_NODEFER | SA_RESETHAND | SA_RESTORER;
        fresh.flags &=
            known; // as since Linux 5.11: what is not there after a look back is not supported
        before = process.handlers->exchange(signal, fresh);
        if ((before.flags & action_is_final) != 0)
            return fail(EINVAL);
        // POSIX 2.4.3: what is ignored from now on is not pending either.
        if (process.handlers->ignored(signal))
            discard_signal(process, signal);
    }
    if (old != 0)
        TRY(UserPtr<SignalAction>(old).copy_out(before));
    return 0;
}

Result<long> sys_rt_sigprocmask(Task& task, int how, u64 set, u64 old, u64 set_size) {
    TRY(check_set_size(set_size));
    const u64 before = task.signals->blocked;
    if (set != 0) {
        TRY(const u64 mask, UserPtr<const u64>(set).copy_in());
        switch (how) {
        case SIG_BLOCK:
            set_blocked(before | mask);
            break;
        case SIG_UNBLOCK:
            set_blocked(before & ~mask);
            break;
        case SIG_SETMASK:
            set_blocked(mask);
            break;
        default:
            return fail(EINVAL);
        }
    }
    if (old != 0)
        TRY(UserPtr<u64>(old).copy_out(before));
    return 0;
}

Result<long> sys_rt_sigreturn(Task& task) {
    arch::TrapFrame& frame = arch::user_frame(task);
    pop_signal_frame(frame);
    // dispatch stores the result in RAX: it must be what the frame said.
    return static_cast<long>(frame.rax);
}

Result<long> sys_rt_sigpending(Task& task, u64 set, u64 set_size) {
    if (set_size > sizeof(u64))
        return fail(EINVAL);
    const u64 pending = pending_signals(task) & task.signals->blocked;
    TRY(copy_out_bytes(set, &pending, set_size));
    return 0;
}

Result<long> sys_rt_sigtimedwait(Task& task, u64 set, u64 info, u64 timeout, u64 set_size) {
    TRY(check_set_size(set_size));
    TRY(u64 mask, UserPtr<const u64>(set).copy_in());
    mask &= ~unblockable;
    TRY(const u64 deadline, copy_in_timeout(timeout));
    SignalInfo taken;
    bool found = take_signal(mask, taken);
    bool interrupted = false; // EAGAIN means that the time is over
    if (!found && deadline > monotonic_ns()) {
        interrupted = true;
        set_waited_for(mask);
        set_state(TaskState::Interruptible);
        // A signal of the set interrupts like any other, and is then there to be taken, unless
        // another thread was faster.
        if (!signal_pending() && (pending_signals(task) & mask) == 0)
            interrupted = schedule_until(deadline);
        set_state(TaskState::Running);
        set_waited_for(0);
        found = take_signal(mask, taken);
    }
    if (!found)
        return fail(interrupted ? EINTR : EAGAIN);
    if (info != 0)
        TRY(UserPtr<SignalInfo>(info).copy_out(taken));
    return taken.signo;
}

Result<long> sys_rt_sigqueueinfo(Task&, i32 pid, int signal, u64 info) {
    TRY(check_signal(signal));
    TRY(const SignalInfo sent, copy_in_info(info, signal, pid));
    SpinGuard tree(process_tree_lock());
    Process* process = find_process_locked(global_pid(pid));
    if (process == nullptr)
        return fail(ESRCH);
    if (Task* task = process->first_task(); task != nullptr && !may_signal_locked(*task, signal))
        return fail(EPERM);
    if (signal != 0)
        TRY(send_signal_info(*process, sent));
    return 0;
}

Result<long> sys_rt_tgsigqueueinfo(Task&, i32 pid, i32 tid, int signal, u64 info) {
    if (pid <= 0)
        return fail(EINVAL);
    TRY(const SignalInfo sent, copy_in_info(info, signal, pid));
    return kill_thread(pid, tid, sent);
}

Result<long> sys_rt_sigsuspend(Task&, u64 set, u64 set_size) {
    TRY(check_set_size(set_size));
    TRY(const u64 mask, UserPtr<const u64>(set).copy_in());
    set_temporary_mask(mask);
    set_state(TaskState::Interruptible);
    while (!signal_pending()) {
        schedule();
        set_state(TaskState::Interruptible);
    }
    set_state(TaskState::Running);
    return fail(restart_no_handler);
}

Result<long> sys_sigaltstack(Task& task, u64 stack, u64 old) {
    SignalState& state = *task.signals;
    const u64 stack_pointer = arch::user_frame(task).rsp;
    UserStack before = {};
    before.base = state.alternate_stack;
    before.size = state.alternate_size;
    before.flags =
        alternate_stack_flags(state, stack_pointer) | (state.alternate_flags & ss_autodisarm);
    if (stack != 0) {
        TRY(const UserStack wanted, UserPtr<const UserStack>(stack).copy_in());
        if ((alternate_stack_flags(state, stack_pointer) & ss_onstack) != 0)
            return fail(EPERM);
        const u32 mode = wanted.flags & ~ss_autodisarm;
        if (mode != 0 && mode != ss_onstack && mode != ss_disable)
            return fail(EINVAL);
        if (mode == ss_disable) {
            state.alternate_stack = state.alternate_size = 0;
            state.alternate_flags = ss_disable;
        } else {
            if (wanted.size < minimum_stack)
                return fail(ENOMEM);
            state.alternate_stack = wanted.base;
            state.alternate_size = wanted.size;
            state.alternate_flags = wanted.flags & ss_autodisarm;
        }
    }
    if (old != 0)
        TRY(UserPtr<UserStack>(old).copy_out(before));
    return 0;
}

Result<long> sys_kill(Task&, i32 pid, int signal) {
    TRY(check_signal(signal));
    if (pid == -0x7fffffff - 1)
        return fail(ESRCH);
    if (pid <= 0)
        return kill_many(pid, signal);
    const SignalInfo info = user_signal(signal, SI_USER);
    pid = global_pid(pid);
    SpinGuard tree(process_tree_lock());
    Process* process = find_process_locked(pid);
    if (process == nullptr) {
        // A thread's number stands for its process.
        const Task* thread = find_task_locked(pid);
        process = thread != nullptr ? thread->process : nullptr;
    }
    if (process == nullptr)
        return fail(ESRCH);
    TRY(kill_locked(*process, signal, info));
    return 0;
}

Result<long> sys_tkill(Task&, i32 tid, int signal) {
    return kill_thread(0, tid, user_signal(signal, SI_TKILL));
}

Result<long> sys_tgkill(Task&, i32 pid, i32 tid, int signal) {
    if (pid <= 0)
        return fail(EINVAL);
    return kill_thread(pid, tid, user_signal(signal, SI_TKILL));
}

Result<long> sys_pause(Task&) {
    set_state(TaskState::Interruptible);
    while (!signal_pending()) {
        schedule();
        set_state(TaskState::Interruptible);
    }
    set_state(TaskState::Running);
    return fail(restart_no_handler);
}

Result<long> sys_restart_syscall(Task& task) {
    const auto restart = std::exchange(task.signals->restart, nullptr);
    if (restart == nullptr)
        return fail(EINTR);
    const long result = restart(task);
    if (result < 0)
        return fail(static_cast<int>(-result));
    return result;
}

} // namespace kernel
