// The tables of numbers, and snapshots of what tasks may replace.
#include "guestkernel/core/panic.hpp"
#include "guestkernel/sched/deadline.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr i32 first_reused_pid = 300;

constinit SpinLock tree_lock{LockRank::ProcessTree};
constinit HashTable<Task, &Task::tid_next, 1024> tasks;
constinit HashTable<Process, &Process::pid_next, 1024> processes;
constinit HashTable<ProcessGroup, &ProcessGroup::next, 256> groups;
constinit HashTable<Session, &Session::next, 64> sessions;
constinit HashTable<Tracee, &Tracee::number_next, 64> ended_threads;
constinit SpinLock account_lock{LockRank::Leaf};
constinit HashTable<UserAccount, &UserAccount::next, 64> accounts;
i32 last_number = 0;
u32 total = 0;

constexpr u64 hash(i32 number) {
    return static_cast<u32>(number); // consecutive numbers spread best as they are
}

template <typename T>
Ref<T> snapshot(const Ref<T>& member) {
    SpinGuard guard(tree_lock);
    return member;
}

} // namespace

SpinLock& process_tree_lock() {
    return tree_lock;
}

Process* find_process_locked(i32 pid) {
    return processes.find(hash(pid), [&](const Process& process) { return process.pid == pid; });
}
Task* find_task_locked(i32 tid) {
    return tasks.find(hash(tid), [&](const Task& task) { return task.tid == tid; });
}
ProcessGroup* find_group_locked(i32 id) {
    return groups.find(hash(id), [&](const ProcessGroup& group) { return group.id == id; });
}
Session* find_session_locked(i32 id) {
    return sessions.find(hash(id), [&](const Session& session) { return session.id == id; });
}

Session* find_session_of_terminal_locked(const Terminal& terminal) {
    Session* found = nullptr;
    sessions.for_each([&](Session& session) {
        if (session.terminal == &terminal)
            found = &session;
    });
    return found;
}

Ref<Process> find_process(i32 pid) {
    SpinGuard guard(tree_lock);
    return Ref<Process>::share(find_process_locked(pid));
}
Ref<Task> find_task(i32 tid) {
    SpinGuard guard(tree_lock);
    return Ref<Task>::share(find_task_locked(tid));
}

void visit_processes_locked(void (*visit)(Process&, void*), void* context) {
    processes.for_each([&](Process& process) { visit(process, context); });
}

i32 next_pid(i32 after) {
    i32 next = 0;
    SpinGuard guard(tree_lock);
    processes.for_each([&](const Process& process) {
        if (process.pid > after && (next == 0 || process.pid < next))
            next = process.pid;
    });
    return next;
}

i32 next_tid(Process& process, i32 after) {
    i32 next = 0;
    SpinGuard guard(tree_lock);
    for (const Task& task : process.tasks)
        if (task.tid > after && (next == 0 || task.tid < next))
            next = task.tid;
    return next;
}

i32 next_pid_in(const PidNamespace* space, i32 after) {
    i32 next = 0;
    SpinGuard guard(tree_lock);
    processes.for_each([&](const Process& process) {
        const i32 pid = pid_in(space, process.pid);
        if (pid > after && (next == 0 || pid < next))
            next = pid;
    });
    return next;
}

i32 next_tid_in(const PidNamespace* space, Process& process, i32 after) {
    i32 next = 0;
    SpinGuard guard(tree_lock);
    for (const Task& task : process.tasks) {
        const i32 tid = pid_in(space, task.tid);
        if (tid > after && (next == 0 || tid < next))
            next = tid;
    }
    return next;
}

bool number_used_locked(i32 number) {
    return find_task_locked(number) != nullptr || find_process_locked(number) != nullptr ||
           find_group_locked(number) != nullptr || find_session_locked(number) != nullptr ||
           ended_threads.find(hash(number),
                              [&](const Tracee& ended) { return ended.tid == number; }) != nullptr;
}

i32 allocate_pid_locked() {
    for (i32 tries = 0; tries < pid_limit; tries++) {
        last_number = last_number + 1 < pid_limit ? last_number + 1 : first_reused_pid;
        const i32 number = last_number;
        if (!number_used_locked(number))
            return number;
    }
    return 0;
}

void insert_task_locked(Task& task) {
    tasks.insert(hash(task.tid), task);
    total++;
}
void remove_task_locked(Task& task) {
    if (!tasks.remove(hash(task.tid), task))
        return;
    total--;
    forget_pid_locked(task.tid);
}
void keep_number_locked(Tracee& ended) {
    ended_threads.insert(hash(ended.tid), ended);
}
void give_up_number_locked(Tracee& ended) {
    if (ended_threads.remove(hash(ended.tid), ended))
        forget_pid_locked(ended.tid);
}
void insert_process_locked(Process& process) {
    processes.insert(hash(process.pid), process);
    enter_pid_namespace_locked(process);
}
void remove_process_locked(Process& process) {
    processes.remove(hash(process.pid), process);
    forget_pid_locked(process.pid);
    leave_pid_namespace_locked(process);
}
void insert_group_locked(ProcessGroup& group) {
    groups.insert(hash(group.id), group);
}
void remove_group_locked(ProcessGroup& group) {
    if (groups.remove(hash(group.id), group))
        forget_pid_locked(group.id);
}
void insert_session_locked(Session& session) {
    sessions.insert(hash(session.id), session);
}
u32 task_total() {
    return total;
}
i32 last_pid() {
    return last_number;
}
void set_last_pid(i32 number) {
    SpinGuard guard(tree_lock);
    last_number = number;
}

// Under the tree lock, which whoever gave up the reference holds.
void ProcessGroup::last_reference() {
    remove_group_locked(*this);
    delete this;
}

void Session::last_reference() {
    if (sessions.remove(hash(id), *this))
        forget_pid_locked(id);
    delete this;
}

Result<Ref<UserAccount>> user_account(u32 uid) {
    const auto find = [&] {
        return accounts.find(uid, [&](const UserAccount& account) { return account.uid == uid; });
    };
    {
        SpinGuard guard(account_lock);
        if (UserAccount* known = find(); known != nullptr && known->try_add_ref())
            return Ref<UserAccount>::adopt(known);
    }
    TRY(Ref<UserAccount> fresh, make_ref<UserAccount>(uid));
    SpinGuard guard(account_lock);
    if (UserAccount* known = find(); known != nullptr && known->try_add_ref())
        return Ref<UserAccount>::adopt(known); // `fresh`, in no table, is dropped after the lock
    accounts.insert(uid, *fresh);
    fresh->listed = true;
    return fresh;
}

void UserAccount::last_reference() {
    if (listed) {
        SpinGuard guard(account_lock);
        accounts.remove(uid, *this);
    }
    delete this;
}

Ref<AddressSpace> address_space_of(Task& task) {
    return snapshot(task.address_space);
}
Ref<FileTable> files_of(Task& task) {
    return snapshot(task.files);
}
Ref<FsContext> fs_of(Task& task) {
    return snapshot(task.fs);
}
Ref<const Credentials> credentials_of(Task& task) {
    return snapshot(task.credentials);
}

char task_state_letter(Task& task) {
    if (task.exiting)
        return 'X';
    switch (static_cast<TaskState>(task.state)) {
    case TaskState::Running:
        return 'R';
    case TaskState::Interruptible:
        return task.is_kernel ? 'I' : 'S';
    case TaskState::Stopped:
        return 'T';
    case TaskState::Traced:
        return 't';
    case TaskState::Dead:
        return 'X';
    case TaskState::Killable:
        // Waits for a CPU, as far as programs know: it has used up its runtime.
        if (task.deadline_state == DeadlineState::Exhausted && task.deadline_server->held)
            return 'R';
        break;
    case TaskState::Uninterruptible:
        break;
    }
    return task.is_kernel ? 'I' : 'D';
}

} // namespace kernel
