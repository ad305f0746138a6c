#include "guestkernel/task/clone.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <linux/resource.h>
#include <linux/sched.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/task/process_timers.hpp"
#include "guestkernel/trace/seccomp.hpp"

namespace kernel {

namespace {

constexpr u32 alternate_stack_disabled = 2; // SS_DISABLE
constexpr int child_signal = 17;            // SIGCHLD
constexpr u64 trap_flag = 0x100;

Result<void> check_flags(const CloneRequest& request) {
    const u64 flags = request.flags;
    constexpr u64 last_flag = CLONE_INTO_CGROUP; // CLONE_NEWTIME sits below the others
    if (flags >= last_flag << 1)
        return fail(EINVAL);
    const auto has = [&](u64 flag) { return (flags & flag) != 0; };
    if ((has(CLONE_SIGHAND) && !has(CLONE_VM)) || (has(CLONE_THREAD) && !has(CLONE_SIGHAND)))
        return fail(EINVAL);
    if (has(CLONE_SIGHAND) && has(CLONE_CLEAR_SIGHAND))
        return fail(EINVAL);
    if (has(CLONE_FS) && (has(CLONE_NEWNS) || has(CLONE_NEWUSER)))
        return fail(EINVAL);
    if (has(CLONE_PARENT) && current_process().parent == nullptr)
        return fail(EINVAL);
    if (has(CLONE_PIDFD) && (has(CLONE_THREAD) || has(CLONE_DETACHED)))
        return fail(EINVAL);
    // A thread lives where its process does; and so that its clock does not change, with its
    // memory.
    const Namespaces& own = *current_namespaces();
    if (has(CLONE_THREAD) && (has(CLONE_NEWUSER) || has(CLONE_NEWPID) ||
                              own.pid_for_children != current_process().pid_namespace))
        return fail(EINVAL);
    if ((has(CLONE_THREAD) || (has(CLONE_VM) && !has(CLONE_VFORK))) &&
        own.time != own.time_for_children)
        return fail(EINVAL);
    if (has(CLONE_NEWIPC) && has(CLONE_SYSVSEM))
        return fail(EINVAL);
    // The first process of a namespace has no siblings: nobody there would wait for them.
    if (has(CLONE_PARENT) && current_process().is_namespace_init)
        return fail(EINVAL);
    // WRFSBASE faults on an address that is not canonical, and that would be in the kernel's switch
    // to the new task.
    if (has(CLONE_SETTLS) && request.tls >= user_max)
        return fail(EPERM);
    return {};
}

// Counts the new task against the user's limit; gives it back unless released.
Result<void> charge_user(Task& child) {
    Task& parent = current_task();
    UserAccount& account = *parent.account;
    const u32 before = account.tasks.fetch_add(1);
    child.account = parent.account;
    const u64 limit = current_limit(RLIMIT_NPROC);
    if (before >= limit && account.uid != 0 && !capable(CAP_SYS_RESOURCE) &&
        !capable(CAP_SYS_ADMIN))
        return fail(EAGAIN);
    parent.over_process_limit = false; // it is within its limit again
    return {};
}

void start_user_task(void*) {
    finish_first_switch();
    const Task& task = current_task();
    // Failure is not told to anybody, as in Linux.
    if (task.set_child_tid != 0)
        (void)UserPtr<i32>(task.set_child_tid).copy_out(task.own_tid);
}

void copy_registers(Task& child, const CloneRequest& request) {
    Task& parent = current_task();
    arch::save_fpu(parent);
    __builtin_memcpy(child.context.fpu, parent.context.fpu, arch::fpu_state_size());
    child.context.fs_base =
        (request.flags & CLONE_SETTLS) != 0 ? request.tls : arch::get_fs_base(parent);
    child.context.gs_base = arch::get_gs_base(parent);
    arch::init_kernel_stack(child, start_user_task, nullptr);
    arch::TrapFrame& frame = arch::user_frame(child);
    frame = arch::user_frame(parent);
    frame.rax = 0;
    if (parent.trace && parent.trace->trap_flag_forced)
        frame.rflags &= ~trap_flag; // the step is the parent's
    if (request.stack != 0)
        frame.rsp = request.stack;
}

void copy_attributes(Task& child, const CloneRequest& request) {
    const Task& parent = current_task();
    const u64 flags = request.flags;
    __builtin_memcpy(child.name, parent.name, sizeof child.name);
    child.nice = parent.nice;
    child.policy = parent.policy;
    child.rt_priority = parent.rt_priority;
    child.memory_policy = parent.memory_policy;
    if (parent.reset_on_fork) { // sched(7)
        const bool privileged = parent.rt_priority != 0 || child.policy == SCHED_DEADLINE;
        child.nice = child.nice < 0 || privileged ? 0 : child.nice;
        child.policy = privileged ? u32{SCHED_NORMAL} : child.policy;
        child.rt_priority = 0;
    }
    child.io_priority = parent.io_priority;
    child.affinity = parent.affinity;
    child.wanted_affinity = parent.wanted_affinity;
    child.credentials = parent.credentials;
    child.timer_slack_ns = child.default_slack_ns = parent.timer_slack_ns;
    child.personality = parent.personality;
    child.entry_work = parent.entry_work & entry_strace;
    child.no_new_privileges = parent.no_new_privileges;
    child.speculation = parent.speculation;
    child.memory_failure_policy = parent.memory_failure_policy;
    child.session_ring = parent.session_ring;
    child.landlock = parent.landlock;
    child.syscall_number = parent.syscall_number;
    child.signals->blocked = parent.signals->blocked;
    // A thread cannot share its creator's alternate stack; a vfork child borrows everything.
    if ((flags & CLONE_VM) == 0 || (flags & CLONE_VFORK) != 0) {
        child.signals->alternate_stack = parent.signals->alternate_stack;
        child.signals->alternate_size = parent.signals->alternate_size;
        child.signals->alternate_flags = parent.signals->alternate_flags;
    } else {
        child.signals->alternate_flags = alternate_stack_disabled;
    }
    if ((flags & CLONE_VM) == 0) {
        child.rseq = parent.rseq;
        child.rseq_length = parent.rseq_length;
        child.rseq_signature = parent.rseq_signature;
        child.rseq_cpu = parent.rseq_cpu;
        child.interrupt_flags = child.rseq != 0 ? interrupt_rseq : 0;
    }
    if ((flags & CLONE_CHILD_CLEARTID) != 0)
        child.clear_child_tid = request.child_tid;
    if ((flags & CLONE_CHILD_SETTID) != 0)
        child.set_child_tid = request.child_tid;
}

Result<void> copy_resources(Task& child, u64 flags) {
    Task& parent = current_task();
    if ((flags & CLONE_FS) != 0) {
        child.fs = parent.fs;
    } else {
        TRY(child.fs, parent.fs->clone());
    }
    if ((flags & CLONE_FILES) != 0) {
        child.files = parent.files;
    } else {
        TRY(child.files, parent.files->clone());
    }
    if ((flags & CLONE_VM) != 0) {
        child.address_space = parent.address_space;
    } else {
        TRY(child.address_space, parent.address_space->clone());
    }
    child.address_space->add_user();
    return {};
}

// CLONE_INTO_CGROUP: the directory's group, if the child may be put there (clone(2)).
Result<Ref<Cgroup>> requested_cgroup(u64 descriptor) {
    TRY(Ref<File> file, current_task().files->get(static_cast<int>(descriptor)));
    TRY(Ref<Cgroup> group, cgroup_of_file(*file));
    const Ref<Cgroup> from = cgroup_of(current_task());
    MutexGuard guard(hierarchy_mutex());
    TRY(check_cgroup_entry(*from, *group));
    return group;
}

Result<void> copy_namespaces(Task& child, u64 request_flags) {
    Task& parent = current_task();
    const auto flags = static_cast<u32>(request_flags & all_namespace_flags);
    child.namespaces = parent.namespaces;
    if ((flags & CLONE_NEWUSER) != 0) {
        TRY(Ref<Credentials> fresh, parent.credentials->clone());
        TRY(const Ref<UserNamespace> made, make_user_namespace(*fresh));
        child.credentials = std::move(fresh);
    }
    const u32 others = flags & ~u32{CLONE_NEWUSER};
    const Namespaces& own = *current_namespaces();
    // A child that has memory of its own enters the time namespace that was made for it.
    const bool enters_time = own.time != own.time_for_children && (flags & CLONE_VM) == 0;
    if (others == 0 && !enters_time)
        return {};
    TRY(Ref<Namespaces> fresh,
        others != 0 ? unshare_namespaces(own, others, *child.credentials) : own.clone());
    if ((others & CLONE_NEWNS) != 0) {
        TRY(fresh->mount,
            MountNamespace::copy(*current_mount_namespace(),
                                 Ref<UserNamespace>::share(child.credentials->user_space()),
                                 child.fs.get()));
    }
    if (enters_time || (others & CLONE_NEWTIME) != 0) {
        fresh->time = fresh->time_for_children;
        fresh->time->frozen.store(true);
    }
    if (enters_time)
        TRY(use_clock_offsets(*child.address_space, *fresh->time));
    child.namespaces = std::move(fresh);
    return {};
}

Result<Ref<Process>> copy_process(const CloneRequest& request, const Task& child) {
    Process& parent = current_process();
    TRY(Ref<Process> process, allocate_process(child.tid));
    if ((request.flags & CLONE_SIGHAND) != 0) {
        process->handlers = parent.handlers;
    } else if ((request.flags & CLONE_CLEAR_SIGHAND) != 0) {
        TRY(process->handlers, parent.handlers->clone());
        process->handlers->reset_for_exec();
    } else {
        TRY(process->handlers, parent.handlers->clone());
    }
    for (unsigned i = 0; i < resource_limit_count; i++)
        process->limits[i] = parent.limits[i];
    process->pid_namespace =
        (child.namespaces ? *child.namespaces : *initial_namespaces).pid_for_children;
    process->own_pid = child.own_tid;
    process->exit_signal = request.exit_signal;
    process->oom_score_adj = parent.oom_score_adj;
    process->oom_score_adj_least = parent.oom_score_adj_least;
    process->dumpable = parent.dumpable;
    {
        SpinGuard tree(process_tree_lock());
        process->memory_space = parent.memory_space;
    }
    process->core_filter = parent.core_filter;
    process->huge_pages_disabled = parent.huge_pages_disabled;
    process->parent_task = current_task().tid;
    return process;
}

// Makes the child visible. Fails if the parent is to die or to handle a signal first.
Result<void> publish(Task& child, Ref<Process> fresh, const CloneRequest& request, ForkPlan& plan) {
    Process& parent = current_process();
    SpinGuard tree(process_tree_lock());
    SpinGuard signals(parent.signal_lock);
    // A signal that was sent to the group before this moment must not miss the child, nor one now.
    if (parent.group_exiting || (current_task().interrupt_flags & interrupt_signal) != 0)
        return fail(restart_no_interrupt);
    // The pid namespace may have ended since the child got its number there. What ends it has gone
    // through the table already, or waits for all that came before.
    for (const PidNamespace* space = fresh ? pid_namespace_of(*fresh) : nullptr; space != nullptr;
         space = space->parent())
        if (space->dead)
            return fail(ENOMEM);
    TRY(join_cgroup_locked(child, plan));
    inherit_seccomp(child, current_task());
    if (!fresh) {
        Ref<Process> process = Ref<Process>::share(&parent);
        child.process = process.leak();
        parent.tasks.push_back(child);
        parent.live_tasks++;
        if (parent.stop_requested)
            child.interrupt_flags = child.interrupt_flags | interrupt_signal;
    } else {
        Process& process = *fresh;
        Process* adopter = (request.flags & CLONE_PARENT) != 0 ? parent.parent : &parent;
        process.parent_executions = parent.executions;
        if (adopter != &parent) {
            process.exit_signal = parent.exit_signal;
            process.parent_executions = parent.parent_executions;
        }
        process.parent = adopter;
        adopter->children.push_back(process);
        process.join_group(parent.group);
        process.tasks.push_back(child);
        process.live_tasks = 1;
        fresh->add_ref(); // the table's, until it is reaped
        insert_process_locked(process);
        child.process = fresh.leak();
        watch_cpu_limit(process);
    }
    inherit_trace_locked(child);
    insert_task_locked(child);
    child.add_ref(); // the scheduler's
    return {};
}

Result<i32> choose_tid(i32 wanted) {
    SpinGuard guard(process_tree_lock());
    if (wanted != 0) {
        if (number_used_locked(wanted))
            return fail(EEXIST);
        return wanted;
    }
    const i32 tid = allocate_pid_locked();
    if (tid == 0)
        return fail(EAGAIN);
    return tid;
}

Result<void> prepare(Task& child, const CloneRequest& request) {
    if (task_total() >= max_tasks())
        return fail(EAGAIN);
    copy_attributes(child, request);
    if (child.policy == SCHED_DEADLINE) // nothing was admitted for it: sched(7)
        return fail(EAGAIN);
    TRY(copy_resources(child, request.flags));
    TRY(copy_namespaces(child, request.flags));
    copy_registers(child, request);
    return {};
}

bool wait_for_vfork(Task& child) {
    return wait_until(
               child.vfork_done, [&] { return !child.vfork_pending; }, no_deadline,
               TaskState::Killable) == WaitOutcome::Ready;
}

// The event that a tracer wants to have of this call; 0: none.
unsigned traced_event(const CloneRequest& request) {
    if ((request.flags & CLONE_UNTRACED) != 0)
        return 0;
    const unsigned event = (request.flags & CLONE_VFORK) != 0    ? PTRACE_EVENT_VFORK
                           : request.exit_signal != child_signal ? PTRACE_EVENT_CLONE
                                                                 : PTRACE_EVENT_FORK;
    return trace_event_enabled(current_task(), event) ? event : 0;
}

} // namespace

Result<long> clone_task(const CloneRequest& request) {
    const u64 flags = request.flags;
    TRY(check_flags(request));
    Ref<Cgroup> into;
    if ((flags & CLONE_INTO_CGROUP) != 0) {
        TRY(into, requested_cgroup(request.cgroup));
    }
    TRY(Ref<Task> child, allocate_task(true));
    if (auto charged = charge_user(*child); !charged)
        return fail(charged.error().code); // ~Task gives the charge back
    TRY(prepare(*child, request));
    // clone3's set_tid names the numbers from the innermost namespace outwards: one more than there
    // are nested levels reaches the initial one.
    PidNamespace* space =
        (child->namespaces ? *child->namespaces : *initial_namespaces).pid_for_children.get();
    const u32 levels = level_of(space);
    TRY(child->tid, choose_tid(request.wanted_count > levels ? request.wanted_tids[levels] : 0));
    PidNumbers numbers;
    TRY(numbers.take(space, child->tid, request.wanted_tids, request.wanted_count));
    child->own_tid = numbers.own();
    const i32 tid = visible_pid(child->tid);
    Ref<Process> process;
    if ((flags & CLONE_THREAD) == 0) {
        TRY(process, copy_process(request, *child));
    }
    const unsigned event = traced_event(request);
    TRY(prepare_trace(*child, process ? process : Ref<Process>::share(&current_process()),
                      event != 0 || (flags & CLONE_PTRACE) != 0));
    int pidfd = -1;
    Ref<File> pidfd_file;
    FileTable& files = *current_task().files;
    if ((flags & CLONE_PIDFD) != 0) {
        TRY(pidfd_file, make_pidfd(process, 0));
        TRY(pidfd, files.reserve());
        if (auto told = UserPtr<i32>(request.pidfd).copy_out(pidfd); !told) {
            files.unreserve(pidfd);
            return fail(EFAULT);
        }
    }
    ForkPlan plan;
    if (auto planned = plan_fork(plan, std::move(into)); !planned) {
        if (pidfd >= 0)
            files.unreserve(pidfd);
        return fail(planned.error().code);
    }
    child->vfork_pending = (flags & CLONE_VFORK) != 0;
    if ((flags & CLONE_PARENT_SETTID) != 0)
        (void)UserPtr<i32>(request.parent_tid).copy_out(tid);
    if (auto published = publish(*child, std::move(process), request, plan); !published) {
        cancel_fork(plan);
        if (pidfd >= 0)
            files.unreserve(pidfd);
        return fail(published.error().code);
    }
    numbers.keep();
    if (pidfd >= 0)
        files.fill(pidfd, std::move(pidfd_file), true);
    // Before it may end: it has a number until then only.
    const i32 told = is_traced(current_task()) ? number_for_tracer(child->tid) : tid;
    tell_process_event(ProcessEvent::Fork, *child);
    start_task(*child, (flags & CLONE_VFORK) != 0);
    if (event != 0)
        trace_event(current_task(), event, static_cast<u64>(told));
    if ((flags & CLONE_VFORK) != 0 && wait_for_vfork(*child))
        trace_event(current_task(), PTRACE_EVENT_VFORK_DONE, static_cast<u64>(told));
    return tid;
}

} // namespace kernel
