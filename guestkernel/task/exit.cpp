// The end of threads and processes.
#include <linux/errno.h>
#include <linux/signal.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/exit_observer.hpp"
#include "guestkernel/task/first_program.hpp"
#include "guestkernel/task/futex.hpp"
#include "guestkernel/task/job_control.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/task/process_timers.hpp"
#include "guestkernel/trace/core_dump.hpp"
#include "guestkernel/trace/seccomp.hpp"

namespace kernel {

namespace {

// What the parent is sent. clone(2) takes any number; one that names no signal sends none. A parent
// that has executed another program since asked for nothing: that one may be of other rights, and
// gets from its child what every program gets.
int end_signal(const Process& child) {
    if (child.exit_signal != SIGCHLD && child.parent_executions != child.parent->executions)
        return SIGCHLD;
    return child.exit_signal <= signal_count ? child.exit_signal : 0;
}

SignalInfo child_signal(Process& child, int signal, Task* last) {
    SignalInfo info;
    info.signo = signal;
    const u32 status = child.exit_status;
    info.code = (status & 0x7f) == 0 ? CLD_EXITED : (status & 0x80) != 0 ? CLD_DUMPED : CLD_KILLED;
    info.child = {};
    info.child.pid = pid_in(pid_namespace_of(*child.parent), child.pid);
    const u32 uid = last != nullptr && last->credentials ? last->credentials->uid : 0;
    info.child.uid = uid_for_locked(*child.parent, uid);
    info.child.status = static_cast<i32>((status & 0x7f) == 0 ? status >> 8 & 0xff : status & 0x7f);
    const Process::Usage usage = child.usage();
    constexpr u64 tick_ns = 10'000'000; // USER_HZ = 100
    info.child.user_ticks = static_cast<i64>(usage.user_ns / tick_ns);
    info.child.system_ticks = static_cast<i64>(usage.system_ns / tick_ns);
    return info;
}

// Tells the parent of a zombie. Returns whether nobody will wait for it. Requires: the tree lock.
bool notify_parent_locked(Process& child, Task* last) {
    Process& parent = *child.parent;
    child.exit_events.wake_all();
    if (tracer_reaps_first_locked(child))
        return false;
    if (&parent == kernel_init_process) {
        parent.child_events.wake_all();
        return !is_first_program(child);
    }
    if (parent.is_namespace_init && parent.pid_namespace->dead)
        return true; // it is ending itself and waits for all to be gone
    bool forgotten = false;
    const int signal = end_signal(child);
    bool send = signal != 0;
    if (signal == SIGCHLD) {
        const SignalAction action = parent.handlers->get(SIGCHLD);
        const bool ignored = action.handler == reinterpret_cast<u64>(SIG_IGN);
        forgotten = ignored || (action.flags & SA_NOCLDWAIT) != 0;
        forgotten = forgotten && child.ended_leader == nullptr;
        send = !ignored;
    }
    if (send)
        send_child_signal_locked(parent, child_signal(child, signal, last));
    parent.child_events.wake_all();
    return forgotten;
}

// The nearest subreaper, else the first process, of the same pid namespace.
Process& new_parent_locked(Process& dying) {
    PidNamespace* space = pid_namespace_of(dying);
    const auto alive = [](const Process* process) {
        return process != nullptr && process->state == ProcessState::Alive &&
               process->live_tasks != 0;
    };
    for (Process* ancestor = dying.parent; ancestor != nullptr; ancestor = ancestor->parent) {
        if (pid_namespace_of(*ancestor) != space)
            break;
        if (ancestor->is_subreaper && alive(ancestor))
            return *ancestor;
    }
    for (; space != nullptr; space = space->parent())
        if (space->init != &dying && space->init != nullptr &&
            space->init->state == ProcessState::Alive)
            return *space->init;
    return *kernel_init_process;
}

// A group that lost its last member with a parent outside of it, and has stopped members, is hung
// up (POSIX).
void check_orphaned_locked(ProcessGroup& group, Process* leaving) {
    if (!group_orphaned_locked(group, leaving))
        return;
    bool any_stopped = false;
    for (Process& member : group.members)
        any_stopped = any_stopped || (member.stopped && &member != leaving);
    if (!any_stopped)
        return;
    for (Process& member : group.members) {
        if (&member == leaving)
            continue;
        send_child_signal_locked(member, kernel_signal(SIGHUP));
        send_child_signal_locked(member, kernel_signal(SIGCONT));
    }
}

void reparent_children_locked(Process& dying,
                              base::IntrusiveList<Process, &Process::sibling_node>& dead) {
    if (dying.children.empty())
        return;
    Process& heir = new_parent_locked(dying);
    while (Process* child = dying.children.pop_front()) {
        child->parent = &heir;
        heir.children.push_back(*child);
        // Without a signal too: its new parent waits for ordinary children, and asks when told.
        child->exit_signal = SIGCHLD;
        if (child->state == ProcessState::Zombie) {
            if (notify_parent_locked(*child, nullptr)) {
                child->sibling_node.unlink();
                dead.push_back(*child);
            }
        } else if (child->group && dying.group && child->group != dying.group &&
                   child->group->session == dying.group->session) {
            check_orphaned_locked(*child->group, nullptr);
        }
    }
}

void send_parent_death_signals_locked(Task& task, Process& process) {
    for (Process& child : process.children)
        if (child.parent_death_signal != 0 && child.parent_task == task.tid)
            send_child_signal_locked(child, kernel_signal(child.parent_death_signal));
}

void reap_detached_locked(Process& process) {
    forget_ended_leader_locked(process);
    process.state = ProcessState::Reaped;
    reap_from_cgroup_locked(process);
    remove_process_locked(process);
    process.join_group(nullptr);
}

// The last steps with the number still taken. Returns whether the process is over.
void leave_process(Task& task, Process& process) {
    base::IntrusiveList<Process, &Process::sibling_node> dead;
    {
        SpinGuard tree(process_tree_lock());
        release_tracees_locked(task, dead);
        send_parent_death_signals_locked(task, process);
        {
            SpinGuard signals(process.signal_lock);
            process.tasks.remove(task);
            process.ended_threads.add(task_usage(task));
            process.thread_events.wake_all();
        }
        trace_ended_locked(task); // before the number goes, which its tracer may still need
        remove_task_locked(task);
        leave_cgroup_locked(task, process.tasks.empty());
        if (process.tasks.empty()) {
            process.state = ProcessState::Zombie;
            process.exit_uid = task.credentials->uid;
            process.exit_status =
                process.group_exiting ? process.group_exit_status : task.exit_status;
            if (process.is_namespace_init && process.pid_namespace->end_status != 0)
                process.exit_status = process.pid_namespace->end_status;
            reparent_children_locked(process, dead);
            // Only a parent in another group of the session kept the group from being orphaned: one
            // that was orphaned before is left alone.
            if (process.group && process.parent->group && process.parent->group != process.group &&
                process.parent->group->session == process.group->session)
                check_orphaned_locked(*process.group, &process);
            if (notify_parent_locked(process, &task)) {
                process.sibling_node.unlink();
                dead.push_back(process);
            }
        }
        for (Process& child : dead)
            reap_detached_locked(child);
    }
    while (Process* child = dead.pop_front())
        child->release(); // the table's reference
}

} // namespace

void collect_zombie_locked(Process& process,
                           base::IntrusiveList<Process, &Process::sibling_node>& dead) {
    if (!notify_parent_locked(process, nullptr))
        return;
    process.sibling_node.unlink();
    dead.push_back(process);
}

bool hand_over_zombie_locked(Process& process) {
    if (!notify_parent_locked(process, nullptr))
        return false;
    process.sibling_node.unlink();
    reap_detached_locked(process);
    return true;
}

bool group_orphaned_locked(ProcessGroup& group, Process* leaving) {
    for (Process& member : group.members) {
        if (&member == leaving || member.state != ProcessState::Alive || member.parent == nullptr ||
            member.parent == kernel_init_process)
            continue;
        const Process& parent = *member.parent;
        if (parent.group.get() != &group && parent.session_id() == group.session->id)
            return false;
    }
    return true;
}

void reap_locked(Process& process) {
    Process& parent = *process.parent;
    parent.waited_children.add(process.ended_threads);
    parent.waited_children.add(process.waited_children);
    process.sibling_node.unlink();
    reap_detached_locked(process);
}

void release_address_space_users(Task& task) {
    exit_robust_list(task);
    if (task.clear_child_tid != 0) {
        // Nobody is left to look otherwise, and a write would only copy a page.
        if (task.address_space->users() > 1 || task.vfork_pending) {
            (void)UserPtr<i32>(task.clear_child_tid).copy_out(0);
            // Not as a private one: the word may lie in memory that is shared, and whoever joins
            // the thread waits for it as such (set_tid_address(2)).
            (void)futex_wake(task.clear_child_tid, 1, ~0u, false);
        }
        task.clear_child_tid = 0;
    }
}

void release_vfork_parent(Task& task) {
    if (!task.vfork_pending)
        return;
    task.vfork_pending = false;
    task.vfork_done.wake_all();
}

void reap_zombie_children(Process& process) {
    base::IntrusiveList<Process, &Process::sibling_node> dead;
    {
        SpinGuard tree(process_tree_lock());
        for (Process* child = process.children.front(); child != nullptr;) {
            Process* after = process.children.next(*child);
            if (child->state == ProcessState::Zombie) {
                child->sibling_node.unlink();
                dead.push_back(*child);
                reap_detached_locked(*child);
            }
            child = after;
        }
    }
    while (Process* child = dead.pop_front())
        child->release(); // the table's reference
}

namespace {

// The end of the first process of a pid namespace ends all others: returns when they are gone.
void end_pid_namespace(Process& init) {
    PidNamespace& space = *init.pid_namespace;
    {
        SpinGuard tree(process_tree_lock());
        close_pid_namespace_locked(space);
        for_each_process_locked([&](Process& process) {
            if (&process != &init && in_namespace(space, process.pid))
                send_child_signal_locked(process, kernel_signal(SIGKILL));
        });
    }
    reap_zombie_children(init);
    (void)wait_until(
        space.fewer,
        [&] {
            SpinGuard tree(process_tree_lock());
            return space.processes <= 1;
        },
        no_deadline, TaskState::Uninterruptible);
}

} // namespace

void end_own_pid_namespace(u32 status) {
    {
        SpinGuard tree(process_tree_lock());
        PidNamespace& space = *current_pid_namespace();
        space.end_status = status;
        if (space.init != nullptr)
            send_child_signal_locked(*space.init, kernel_signal(SIGKILL));
    }
    exit_process(0);
}

void exit_task(u32 status) {
    Task& task = current_task();
    Process& process = *task.process;
    park_for_core(task);
    trace_exit(task, status);
    bool last = false;
    {
        SpinGuard tree(process_tree_lock());
        SpinGuard signals(process.signal_lock);
        task.exiting = true;
        task.exit_status = status;
        last = --process.live_tasks == 0;
        if (last && !process.group_exiting) {
            process.group_exiting = true;
            process.group_exit_status = status;
        }
    }
    if (last) {
        u64 peak = 0;
        if (task.address_space)
            peak = task.address_space->usage().peak_resident;
        if (peak > process.ended_threads.peak_pages)
            process.ended_threads.peak_pages = peak;
        destroy_process_timers(process);
        undo_semaphores(process.pid);
        end_io_rings(process);
    }
    if (exit_observer != nullptr)
        exit_observer(task, last);
    tell_process_event(ProcessEvent::Exit, task);
    join_stop_on_exit(task);
    retarget_signals(task);
    release_address_space_users(task);
    leave_address_space();
    sweep_removed_segments();
    release_vfork_parent(task);
    task.io_rings = nullptr;
    Ref<FileTable> files;
    Ref<FsContext> fs;
    Ref<Namespaces> namespaces;
    {
        SpinGuard tree(process_tree_lock());
        files = std::move(task.files);
        fs = std::move(task.fs);
        namespaces = std::move(task.namespaces);
    }
    files = nullptr;
    fs = nullptr;
    namespaces = nullptr;
    if (last && process.is_namespace_init)
        end_pid_namespace(process);
    if (last)
        leave_session(process);
    release_seccomp(task);
    free_pending_signals(task.signals->pending, process);
    if (last)
        free_pending_signals(process.pending, process);
    leave_process(task, process);
    schedule_dead();
}

void exit_process(u32 status) {
    Process& process = current_process();
    {
        SpinGuard guard(process.signal_lock);
        if (process.group_exiting) {
            status = process.group_exit_status;
        } else {
            process.group_exit_status = status;
            kill_threads_locked(process, &current_task());
        }
    }
    exit_task(status);
}

} // namespace kernel
