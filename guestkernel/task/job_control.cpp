// Sessions, process groups, controlling terminals, and signals to groups.
#include "guestkernel/task/job_control.hpp"

#include <linux/errno.h>
#include <linux/signal.h>

#include "guestkernel/task/process.hpp"

namespace kernel {

Result<void> send_signal_to_process(i32 pid, int signal) {
    SpinGuard tree(process_tree_lock());
    Process* process = find_process_locked(pid);
    if (process == nullptr)
        return fail(ESRCH);
    send_child_signal_locked(*process, kernel_signal(signal));
    return {};
}

Result<void> send_signal_to_group(i32 session, i32 group, int signal) {
    SpinGuard tree(process_tree_lock());
    ProcessGroup* found = find_group_locked(group);
    if (found == nullptr || found->session->id != session)
        return fail(ESRCH);
    for (Process& member : found->members)
        send_child_signal_locked(member, kernel_signal(signal));
    return {};
}

i32 current_pid() {
    const Process* process = current_task().process;
    return process != nullptr ? process->pid : 0;
}

i32 current_group() {
    SpinGuard tree(process_tree_lock());
    const Process* process = current_task().process;
    return process != nullptr ? process->group_id() : 0;
}

i32 current_session() {
    SpinGuard tree(process_tree_lock());
    const Process* process = current_task().process;
    return process != nullptr ? process->session_id() : 0;
}

bool is_session_leader() {
    return current_pid() != 0 && current_session() == current_pid();
}

bool group_exists(i32 group) {
    SpinGuard tree(process_tree_lock());
    return find_group_locked(group) != nullptr;
}

bool group_in_session(i32 group, i32 session) {
    SpinGuard tree(process_tree_lock());
    const ProcessGroup* found = find_group_locked(group);
    return found != nullptr && found->session->id == session;
}

bool group_is_orphaned(i32 group) {
    SpinGuard tree(process_tree_lock());
    ProcessGroup* found = find_group_locked(group);
    return found == nullptr || group_orphaned_locked(*found, nullptr);
}

bool signal_blocked_or_ignored(int signal) {
    const Task& task = current_task();
    return (task.signals->blocked & signal_bit(signal)) != 0 ||
           task.process->handlers->get(signal).handler == reinterpret_cast<u64>(SIG_IGN);
}

Result<long> create_session() {
    Process& process = current_process();
    TRY(Ref<Session> session, make_ref<Session>(process.pid));
    TRY(Ref<ProcessGroup> group, make_ref<ProcessGroup>(process.pid, session));
    SpinGuard tree(process_tree_lock());
    // Objects that nobody listed are dropped under the lock: their tables do not mind.
    if (find_group_locked(process.pid) != nullptr || process.session_id() == process.pid) {
        group = nullptr;
        session = nullptr;
        return fail(EPERM);
    }
    insert_session_locked(*session);
    insert_group_locked(*group);
    process.join_group(std::move(group));
    session = nullptr;
    return process.pid;
}

Result<void> set_process_group(i32 pid, i32 id) {
    Process& self = current_process();
    if (pid == 0)
        pid = self.pid;
    if (id == 0)
        id = pid;
    if (id < 0)
        return fail(EINVAL);
    // In case there is none of this number: made before the lock is taken.
    Ref<ProcessGroup> fresh;
    Ref<Session> session;
    {
        SpinGuard tree(process_tree_lock());
        session = Ref<Session>::share(session_of(self));
    }
    auto made = make_ref<ProcessGroup>(id, session);
    SpinGuard tree(process_tree_lock());
    session = nullptr;
    if (made)
        fresh = std::move(*made);
    const auto attempt = [&]() -> Result<void> {
        Process* target = find_process_locked(pid);
        if (target == nullptr || target->state != ProcessState::Alive)
            return fail(ESRCH);
        if (target->parent == &self) {
            if (target->session_id() != self.session_id())
                return fail(EPERM);
            if (target->has_executed)
                return fail(EACCES);
        } else if (target != &self) {
            return fail(ESRCH);
        }
        if (target->session_id() == target->pid)
            return fail(EPERM); // a session's leader stays
        if (target->group_id() == id)
            return {};
        ProcessGroup* group = find_group_locked(id);
        if (group != nullptr) {
            if (group->session->id != self.session_id())
                return fail(EPERM);
            target->join_group(Ref<ProcessGroup>::share(group));
            return {};
        }
        if (id != pid)
            return fail(EPERM);
        if (!fresh)
            return fail(ENOMEM);
        insert_group_locked(*fresh);
        target->join_group(std::move(fresh));
        return {};
    };
    auto result = attempt();
    fresh = nullptr; // with the lock held
    return result;
}

} // namespace kernel
