// fork, exec, exit, wait; process numbers; descriptors of processes.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/kcmp.h>
#include <linux/pidfd.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/wait.h>

#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/syscalls/usage_values.hpp"
#include "guestkernel/task/clone.hpp"
#include "guestkernel/task/exec.hpp"
#include "guestkernel/task/job_control.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/task/wait.hpp"

namespace kernel {

namespace {

constexpr usize path_limit = 4096;

Result<long> exec(int directory, u64 path, u64 arguments, u64 environment, u32 flags) {
    ExecRequest request;
    request.directory = directory;
    request.at_flags = flags;
    TRY(request.path, copy_in_string(path, path_limit));
    // execve(2): a quarter of the stack limit, at least 128 KiB, at most three quarters of 8 MiB.
    constexpr u64 least = 128 * 1024;
    constexpr u64 most = u64{6} << 20;
    const u64 quarter = current_limit(RLIMIT_STACK) / 4;
    request.strings.set_limit(quarter < least ? least : quarter > most ? most : quarter);
    TRY(request.strings.add_user_vector(arguments));
    request.strings.begin_environment();
    TRY(request.strings.add_user_vector(environment));
    TRY(exec_program(request));
    return 0;
}

Result<void> store_usage(u64 to, const Process::Usage& usage) {
    if (to == 0)
        return {};
    return UserPtr<rusage>(to).copy_out(usage_value(usage));
}

// clone3's set_tid: innermost namespace first; capabilities over each of them.
Result<void> take_wanted_tids(const clone_args& args, CloneRequest& request) {
    PidNamespace* space = current_namespaces()->pid_for_children.get();
    const u32 levels = level_of(space) + ((args.flags & CLONE_NEWPID) != 0 ? 1 : 0);
    if (args.set_tid_size > levels + 1)
        return fail(EINVAL);
    request.wanted_count = static_cast<u32>(args.set_tid_size);
    for (u32 i = 0; i < request.wanted_count; i++) {
        TRY(request.wanted_tids[i], (UserPtr<const i32>(args.set_tid) + i).copy_in());
        const bool fresh = i == 0 && (args.flags & CLONE_NEWPID) != 0;
        const bool first = fresh || (level_of(space) != 0 && !space->begun);
        if (request.wanted_tids[i] <= 0 || (request.wanted_tids[i] == 1) != first)
            return fail(EINVAL);
        if (fresh)
            continue;
        if (!capable_over(space->owner(), 40) && !capable_over(space->owner(), CAP_SYS_ADMIN))
            return fail(EPERM); // 40: CAP_CHECKPOINT_RESTORE
        space = space->parent();
    }
    return {};
}

Result<Ref<Process>> process_by_pid(i32 pid) {
    Ref<Process> process =
        pid == 0 ? Ref<Process>::share(&current_process()) : find_process(global_pid(pid));
    if (!process)
        return fail(ESRCH);
    return process;
}

} // namespace

Result<long> sys_clone(Task&, u64 flags, u64 stack, u64 parent_tid, u64 child_tid, u64 tls) {
    CloneRequest request;
    constexpr u64 signal_mask = CSIGNAL;
    request.flags = (flags & 0xffff'ffff & ~signal_mask) & ~u64{CLONE_DETACHED};
    request.exit_signal = static_cast<int>(flags & signal_mask);
    request.stack = stack;
    request.parent_tid = parent_tid;
    request.child_tid = child_tid;
    request.tls = tls;
    request.pidfd = parent_tid; // the old call has no argument of its own for it
    if ((flags & CLONE_PIDFD) != 0 && (flags & CLONE_PARENT_SETTID) != 0)
        return fail(EINVAL);
    return clone_task(request);
}

Result<long> sys_clone3(Task&, u64 arguments, u64 size) {
    clone_args args = {};
    if (size < CLONE_ARGS_SIZE_VER0)
        return fail(EINVAL);
    if (size > page_size)
        return fail(E2BIG);
    // Later versions are longer: what this one does not know must be zero.
    for (u64 at = sizeof args; at < size; at++) {
        TRY(const u8 byte, UserPtr<const u8>(arguments + at).copy_in());
        if (byte != 0)
            return fail(E2BIG);
    }
    TRY(copy_in_bytes(&args, arguments, size < sizeof args ? size : sizeof args));
    if ((args.flags & (CSIGNAL | CLONE_DETACHED)) != 0 || (args.exit_signal & ~u64{CSIGNAL}) != 0 ||
        args.exit_signal > signal_count)
        return fail(EINVAL);
    if ((args.flags & (CLONE_THREAD | CLONE_PARENT)) != 0 && args.exit_signal != 0)
        return fail(EINVAL);
    if ((args.stack == 0) != (args.stack_size == 0))
        return fail(EINVAL);
    if (args.set_tid_size > PidNamespace::deepest + 1 ||
        (args.set_tid == 0) != (args.set_tid_size == 0))
        return fail(EINVAL);
    CloneRequest request;
    request.flags = args.flags;
    request.exit_signal = static_cast<int>(args.exit_signal);
    request.stack = args.stack + args.stack_size;
    request.parent_tid = args.parent_tid;
    request.child_tid = args.child_tid;
    request.tls = args.tls;
    request.pidfd = args.pidfd;
    request.cgroup = args.cgroup;
    TRY(take_wanted_tids(args, request));
    return clone_task(request);
}

Result<long> sys_fork(Task&) {
    CloneRequest request;
    request.exit_signal = SIGCHLD;
    return clone_task(request);
}

Result<long> sys_vfork(Task&) {
    CloneRequest request;
    request.flags = CLONE_VFORK | CLONE_VM;
    request.exit_signal = SIGCHLD;
    return clone_task(request);
}

Result<long> sys_execve(Task&, u64 path, u64 arguments, u64 environment) {
    return exec(at_fdcwd, path, arguments, environment, 0);
}

Result<long> sys_execveat(Task&, int directory, u64 path, u64 arguments, u64 environment,
                          u32 flags) {
    if ((flags & ~u32{AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW}) != 0)
        return fail(EINVAL);
    return exec(directory, path, arguments, environment, flags);
}

Result<long> sys_exit(Task&, int status) {
    exit_task((static_cast<u32>(status) & 0xff) << 8);
}

Result<long> sys_exit_group(Task&, int status) {
    exit_process((static_cast<u32>(status) & 0xff) << 8);
}

Result<long> sys_wait4(Task&, i32 pid, u64 status, u32 options, u64 usage) {
    if ((options & ~u32{WNOHANG | WUNTRACED | WCONTINUED | __WNOTHREAD | __WCLONE | __WALL}) != 0)
        return fail(EINVAL);
    WaitRequest request;
    request.options = options | WEXITED;
    if (pid < -1) {
        if (pid == -0x7fffffff - 1)
            return fail(ESRCH);
        request.kind = WaitFor::Group;
        request.id = global_pid(-pid);
    } else if (pid == 0) {
        request.kind = WaitFor::Group;
        request.id = current_group();
    } else if (pid > 0) {
        request.kind = WaitFor::Pid;
        request.id = global_pid(pid);
    }
    TRY(const WaitReport report, wait_for_child(request));
    if (report.pid == 0)
        return 0;
    if (status != 0)
        TRY(UserPtr<u32>(status).copy_out(report.status));
    TRY(store_usage(usage, report.usage));
    return report.pid;
}

Result<long> sys_waitid(Task&, u32 kind, i32 id, u64 info, u32 options, u64 usage) {
    constexpr u32 states = WEXITED | WSTOPPED | WCONTINUED;
    if ((options & ~(states | WNOHANG | WNOWAIT | __WNOTHREAD | __WCLONE | __WALL)) != 0 ||
        (options & states) == 0)
        return fail(EINVAL);
    WaitRequest request;
    request.options = options;
    request.id = id;
    switch (kind) {
    case P_ALL:
        break;
    case P_PID:
        if (id <= 0)
            return fail(EINVAL);
        request.kind = WaitFor::Pid;
        request.id = global_pid(id);
        break;
    case P_PGID:
        if (id < 0)
            return fail(EINVAL);
        request.kind = WaitFor::Group;
        request.id = id == 0 ? current_group() : global_pid(id);
        break;
    case P_PIDFD: {
        if (id < 0)
            return fail(EINVAL);
        TRY(Ref<Process> process, process_of_pidfd(id));
        request.kind = WaitFor::Pid;
        request.id = process->pid;
        TRY(Ref<File> file, current_task().files->get(id));
        if (file->non_blocking())
            request.options |= WNOHANG;
        break;
    }
    default:
        return fail(EINVAL);
    }
    TRY(const WaitReport report, wait_for_child(request));
    if (kind == P_PIDFD && report.pid == 0 && (options & WNOHANG) == 0)
        return fail(EAGAIN);
    if (report.pid != 0)
        TRY(store_usage(usage, report.usage));
    if (info == 0)
        return 0;
    SignalInfo out;
    if (report.pid != 0) {
        out.signo = SIGCHLD;
        out.code = report.code;
        out.child = {};
        out.child.pid = report.pid;
        out.child.uid = report.uid;
        const u32 status = report.status;
        out.child.status = static_cast<i32>(report.code == CLD_EXITED      ? status >> 8 & 0xff
                                            : report.code == CLD_STOPPED   ? status >> 8 & 0xff
                                            : report.code == CLD_TRAPPED   ? status >> 8
                                            : report.code == CLD_CONTINUED ? u32{SIGCONT}
                                                                           : status & 0x7f);
    }
    // Only the members that waitid(2) names are written; the rest of the caller's siginfo stays.
    constexpr usize written = 28;
    TRY(copy_out_bytes(info, &out, written));
    return 0;
}

Result<long> sys_getpid(Task& task) {
    return task.process->own_pid;
}
Result<long> sys_gettid(Task& task) {
    return task.own_tid;
}
Result<long> sys_getppid(Task& task) {
    SpinGuard tree(process_tree_lock());
    return visible_pid(task.process->parent->pid);
}
Result<long> sys_getpgrp(Task&) {
    return visible_pid(current_group());
}

Result<long> sys_getpgid(Task&, i32 pid) {
    TRY(Ref<Process> process, process_by_pid(pid));
    SpinGuard tree(process_tree_lock());
    return process->group ? Result<long>(visible_pid(process->group_id()))
                          : Result<long>(fail(ESRCH));
}

Result<long> sys_setpgid(Task&, i32 pid, i32 group) {
    TRY(set_process_group(global_pid(pid), global_pid(group)));
    return 0;
}

Result<long> sys_getsid(Task&, i32 pid) {
    TRY(Ref<Process> process, process_by_pid(pid));
    SpinGuard tree(process_tree_lock());
    return process->group ? Result<long>(visible_pid(process->session_id()))
                          : Result<long>(fail(ESRCH));
}

Result<long> sys_setsid(Task&) {
    TRY(const long session, create_session());
    if (const Ref<Task> leader = find_task(current_process().pid))
        tell_process_event(ProcessEvent::Session, *leader);
    return visible_pid(static_cast<i32>(session));
}

Result<long> sys_set_tid_address(Task& task, u64 address) {
    task.clear_child_tid = address;
    return task.own_tid;
}

Result<long> sys_pidfd_open(Task& task, i32 pid, u32 flags) {
    if ((flags & ~u32{PIDFD_NONBLOCK}) != 0 || pid <= 0)
        return fail(EINVAL);
    pid = global_pid(pid);
    Ref<Process> process = find_process(pid);
    if (!process)
        return fail(find_task(pid) ? EINVAL : ESRCH);
    TRY(Ref<File> file, make_pidfd(std::move(process), flags));
    TRY(const int number, task.files->install(std::move(file), true));
    return number;
}

Result<long> sys_pidfd_send_signal(Task&, int fd, int signal, u64 info, u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    // From the time before pidfd_open(2): /proc/PID stands for a process too.
    TRY(Ref<File> file, usable_file(current_task(), fd));
    TRY(Ref<Process> process, file_as<PidFile>(*file) != nullptr
                                  ? process_of_pidfd(fd)
                                  : procfs::process_of_directory(*file));
    if (signal < 0 || signal > signal_count)
        return fail(EINVAL);
    Ref<Task> target; // null: a zombie, which takes any signal
    {
        SpinGuard tree(process_tree_lock());
        if (process->state == ProcessState::Reaped)
            return fail(ESRCH);
        // A descriptor that came from outside of the pid namespace gives no way out of it.
        if (visible_pid(process->pid) == 0)
            return fail(EINVAL);
        target = Ref<Task>::share(process->first_task());
    }
    SignalInfo sent = user_signal(signal, SI_USER);
    if (info != 0) {
        TRY(sent, UserPtr<const SignalInfo>(info).copy_in());
        if (sent.signo != signal)
            return fail(EINVAL);
        // Only the kernel and kill(2) speak with these codes.
        if ((sent.code >= 0 || sent.code == SI_TKILL) && process.get() != &current_process())
            return fail(EPERM);
    }
    if (target && !may_signal(*target, signal))
        return fail(EPERM);
    if (signal != 0)
        TRY(send_signal_info(*process, sent));
    return 0;
}

Result<long> sys_pidfd_getfd(Task& task, int fd, int target, u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    TRY(Ref<Process> process, process_of_pidfd(fd));
    Ref<Task> other;
    {
        SpinGuard tree(process_tree_lock());
        other = Ref<Task>::share(process->first_task());
    }
    if (!other)
        return fail(ESRCH);
    const Ref<FileTable> files = files_of(*other);
    auto file = files ? files->get(target) : Result<Ref<File>>(fail(ESRCH));
    // Not before: a program of more rights, executed in between, may have opened it since.
    if (!may_access(*other))
        return fail(EPERM);
    if (!file)
        return fail(file.error().code);
    TRY(const int number, task.files->install(std::move(*file), true));
    return number;
}

} // namespace kernel
