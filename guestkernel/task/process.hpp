// Process: a thread group and everything that POSIX says belongs to a process; process groups and
// sessions.
//
// The tree (parents, children, groups, sessions, tables of numbers, lists of threads) is guarded by
// process_tree_lock(); signal state by Process::signal_lock, which comes inside of it. References
// to what other tasks may replace (Task::address_space, files, fs, credentials) are read under the
// tree lock: use the functions below.
#pragma once

#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/task/signal.hpp"
#include "guestkernel/task/task.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

struct ProcessTimers; // task/process_timers.cpp: setitimer and timer_create

// What is counted by user id.
class UserAccount : public RefCounted {
public:
    explicit UserAccount(u32 user) : uid(user) {}
    const u32 uid;
    UserAccount* next = nullptr;
    base::Atomic<u32> tasks{0};           // RLIMIT_NPROC
    base::Atomic<u32> queued_signals{0};  // RLIMIT_SIGPENDING
    base::Atomic<u64> queue_bytes{0};     // RLIMIT_MSGQUEUE
    base::Atomic<u64> ring_bytes{0};      // RLIMIT_MEMLOCK, of io_uring
    base::Atomic<u32> files_in_flight{0}; // RLIMIT_NOFILE once more, of SCM_RIGHTS
    bool listed = false;

protected:
    void last_reference() override;
};
Result<Ref<UserAccount>> user_account(u32 uid);

class Session : public RefCounted {
public:
    explicit Session(i32 number) : id(number) {}
    const i32 id;
    Session* next = nullptr;
    Terminal* terminal = nullptr; // controlling, holds a reference; under the tree lock

protected:
    void last_reference() override;
};

class ProcessGroup;

// Process::oom_score_adj of those that never end for want of memory.
inline constexpr i32 never_for_memory = -1000;

enum class ProcessState : u8 { Alive, Zombie, Reaped };

class Process : public RefCounted {
public:
    explicit Process(i32 number);
    ~Process() override;

    const i32 pid;
    const u64 serial;            // never used again, unlike the pid
    i32 own_pid;                 // the same in its own pid namespace
    Process* pid_next = nullptr; // in the table of processes
    Ref<PidNamespace> pid_namespace;
    bool is_namespace_init = false; // number 1 of a nested pid namespace

    // --- the tree
    ProcessState state = ProcessState::Alive;
    Process* parent = nullptr; // never null while alive, except for process 1
    base::IntrusiveList<Task, &Task::process_node> tasks;
    base::ListNode sibling_node;
    base::IntrusiveList<Process, &Process::sibling_node> children; // oldest first
    Ref<ProcessGroup> group;                                       // null once reaped
    base::ListNode group_node;
    u32 live_tasks = 0;          // that have not begun to exit
    bool has_executed = false;   // setpgid(2) of a child that did is refused
    u32 executions = 0;          // programs that it has executed
    u32 parent_executions = 0;   // ... of its parent's, when that made it
    bool is_subreaper = false;   // PR_SET_CHILD_SUBREAPER
    int exit_signal = 0;         // to the parent; 0: none
    u32 exit_status = 0;         // as wait(2) shows it
    u32 exit_uid = 0;            // of its last thread
    int parent_death_signal = 0; // PR_SET_PDEATHSIG
    i32 parent_task = 0;         // the thread that forked it: its end sends parent_death_signal
    bool dumpable = true;
    // In which its program was started: whose CAP_SYS_PTRACE reaches memory that is not dumpable.
    // It stays when a thread enters another one. Under the tree lock; null: the initial one.
    Ref<UserNamespace> memory_space;
    u32 core_filter = 0x33;                             // /proc/PID/coredump_filter
    bool huge_pages_disabled = false;                   // PR_SET_THP_DISABLE: kept and shown
    base::IntrusiveList<Tracee, &Tracee::node> tracees; // of its threads; holds references
    Tracee* ended_leader = nullptr; // the first thread has ended, its tracer does not know yet
    WaitQueue child_events;         // wait4(2): a child of this process changed
    WaitQueue exit_events;          // pidfd poll: this process ended

    // --- signals, under signal_lock
    SpinLock signal_lock{LockRank::Signal};
    Ref<SignalHandlers> handlers;
    PendingSignals pending;
    WaitQueue signal_events; // signalfd, sigtimedwait
    // exit_group or a fatal signal: every thread ends with this status.
    bool group_exiting = false;
    u32 group_exit_status = 0;
    Task* exec_task = nullptr; // a thread that waits in execve for the others to end
    // Job control: a stop that threads have yet to join, what stopped it, and what the parent was
    // not yet told.
    bool stop_requested = false;
    bool stopped = false;
    u32 stopped_tasks = 0;
    int stop_signal = 0;
    bool stop_unreported = false;
    bool continue_unreported = false;
    bool continue_notice = false; // the parent is yet to get its SIGCHLD for the continuation
    WaitQueue thread_events;      // exec waits for the other threads
    Task* core_dumper = nullptr;  // writes the core file; the others wait for it in core_done
    u32 core_parked = 0;
    WaitQueue core_done;

    // --- limits and times
    ResourceLimit limits[resource_limit_count];
    u64 start_time_ns = 0;
    // Of threads that ended, and of children that were waited for.
    struct Usage {
        u64 user_ns = 0, system_ns = 0, minor_faults = 0, major_faults = 0, voluntary_switches = 0,
            involuntary_switches = 0, peak_pages = 0;
        u64 read_bytes = 0, written_bytes = 0, reads = 0, writes = 0; // read(2), write(2)
        void add(const Usage& other);
    };
    Usage ended_threads, waited_children;
    i32 oom_score_adj = 0;
    i32 oom_score_adj_least = 0; // how far down it may be set without CAP_SYS_RESOURCE
    u64 memory_awaited_ns = 0;   // since when somebody waits for what its end frees; 0: nobody does
    ProcessTimers* timers = nullptr;
    Ref<KeyObject> process_ring; // under keys_mutex()
    Ref<Cgroup> zombie_group;    // of its last thread: counted there until it is reaped

    // The whole process's usage so far. Requires: the tree lock.
    Usage usage();
    // Any live thread, the first one preferably; null for a zombie. Requires: the tree lock.
    Task* first_task() { return tasks.front(); }
    i32 group_id() const;   // 0 once reaped
    i32 session_id() const; // 0 once reaped
    // Leaves its group for another one, or for none. Requires: the tree lock.
    void join_group(Ref<ProcessGroup> fresh);
};

// References to groups and sessions are given up only with the tree lock held.
class ProcessGroup : public RefCounted {
public:
    ProcessGroup(i32 number, Ref<Session> of) : id(number), session(std::move(of)) {}
    const i32 id;
    const Ref<Session> session;
    ProcessGroup* next = nullptr;
    base::IntrusiveList<Process, &Process::group_node> members;

protected:
    void last_reference() override;
};

SpinLock& process_tree_lock();

// --- numbers (pid_table.cpp). The *_locked ones require the tree lock, the others take it.
Process* find_process_locked(i32 pid);
Task* find_task_locked(i32 tid);
ProcessGroup* find_group_locked(i32 id);
Session* find_session_locked(i32 id);
Session* find_session_of_terminal_locked(const Terminal& terminal);
// Calls for every process, zombies included. Requires: the tree lock.
void visit_processes_locked(void (*visit)(Process&, void*), void* context);
template <typename F>
void for_each_process_locked(F&& function) {
    visit_processes_locked(
        [](Process& process, void* f) { (*static_cast<std::remove_reference_t<F>*>(f))(process); },
        &function);
}
Ref<Process> find_process(i32 pid);
Ref<Task> find_task(i32 tid);
// The least pid greater than `after` (0 at first), or 0: to walk /proc. Zombies are included,
// reaped ones not.
i32 next_pid(i32 after);
// The least tid of a process greater than `after`, or 0.
i32 next_tid(Process& process, i32 after);
// ... by their numbers in a namespace.
i32 next_pid_in(const PidNamespace* space, i32 after);
i32 next_tid_in(const PidNamespace* space, Process& process, i32 after);
// A free number; requires the tree lock. 0: none left.
i32 allocate_pid_locked();
bool number_used_locked(i32 number); // requires the tree lock
// A traced thread that has ended has its number until its tracer was told.
void keep_number_locked(Tracee& ended);
void give_up_number_locked(Tracee& ended);
void insert_task_locked(Task& task);
void remove_task_locked(Task& task);
void insert_process_locked(Process& process);
void remove_process_locked(Process& process);
void insert_group_locked(ProcessGroup& group);
void remove_group_locked(ProcessGroup& group);
void insert_session_locked(Session& session);
u32 task_total(); // tasks that exist
u32 max_tasks();  // and how many may, by the size of memory
i32 last_pid();
void set_last_pid(i32 number);              // ns_last_pid: the next one comes after this
inline constexpr i32 pid_limit = 4'194'304; // as Linux's on 64-bit machines

// Snapshots of what a task may replace; null when it is gone. (The running task reads its own
// members directly.)
Ref<AddressSpace> address_space_of(Task& task);
Ref<FileTable> files_of(Task& task);
Ref<FsContext> fs_of(Task& task);
Ref<const Credentials> credentials_of(Task& task);
// R, S, D, T, Z, X as /proc/PID/stat shows it.
char task_state_letter(Task& task);

inline Session* session_of(const Process& process) {
    return process.group ? process.group->session.get() : nullptr;
}
inline Process& current_process() {
    return *current_task().process;
}

// Replaces the running task's credentials.
void set_credentials(Ref<const Credentials> fresh);
// Gives the running task other ones for as long as this lives, once take() was called.
class BorrowedCredentials {
public:
    BorrowedCredentials() : own_(current_task().credentials) {}
    BorrowedCredentials(const BorrowedCredentials&) = delete;
    BorrowedCredentials& operator=(const BorrowedCredentials&) = delete;
    ~BorrowedCredentials() {
        if (current_task().credentials != own_)
            set_credentials(std::move(own_));
    }
    void take(Ref<const Credentials> others) { set_credentials(std::move(others)); }

private:
    Ref<const Credentials> own_;
};
// An id of the whole system as the running task, or the process, knows it.
u32 visible_uid(u32 global);
u32 uid_for_locked(Process& reader, u32 global); // Requires: the tree lock
// Whether another task has the same root, working directory and umask as this one, for example one
// that a thread shares them with (CLONE_FS). The count of references does not tell: who looks at
// them by way of /proc holds one for a moment.
enum class Among : u8 { AllTasks, OtherProcesses };
bool shares_places(const Task& task, Among among);
bool shares_places_locked(const Task& task, Among among); // Requires: the tree lock
// A child that ended or was forgotten by its parent disappears. Requires: the tree lock; `process`
// is a zombie and the caller holds a reference.
void reap_locked(Process& process);
// ... and so do all children of a process that have ended: nobody will wait for them.
void reap_zombie_children(Process& process);

// --- ends
// exit(2) of the running task, with a wait status; does not return.
[[noreturn]] void exit_task(u32 status);
// exit_group(2) and fatal signals.
[[noreturn]] void exit_process(u32 status);
// Ends the process's pid namespace, a nested one: its first process has ended with `status`.
[[noreturn]] void end_own_pid_namespace(u32 status);
// Begins the end of a process: every thread but `except` is to exit. Requires: signal_lock.
void kill_threads_locked(Process& process, Task* except);
// execve: the other threads are to end. Requires: signal_lock.
void end_other_threads_locked(Process& process, Task& survivor);
// SIGCHLD for a child that stopped or continued (CLD_* code), and wakes its waiting parent. Takes
// the tree lock.
void notify_parent_of_job_control(Process& child, i32 code, int status);
void notify_parent_of_job_control_locked(Process& child, i32 code, int status);
// A zombie whose tracer has heard of it is its parent's now. True: nobody will wait for it; the
// caller drops the table's reference. Requires: the tree lock.
bool hand_over_zombie_locked(Process& process);
// The same, but adds what nobody will wait for to a list of what is to be reaped.
void collect_zombie_locked(Process& process,
                           base::IntrusiveList<Process, &Process::sibling_node>& dead);
// The running thread ends: its tracees go free. Requires: the tree lock.
void release_tracees_locked(Task& tracer,
                            base::IntrusiveList<Process, &Process::sibling_node>& dead);
// Counts the running task as stopped with its group if that is to stop; true: all have. Requires:
// signal_lock.
bool join_group_stop_locked(Task& task);
// A signal to a process found in the tree. Requires: the tree lock.
void send_child_signal_locked(Process& process, const SignalInfo& info);
void retarget_signals(Task& task);
// Forgets a signal that is ignored from now on.
void discard_signal(Process& process, int signal);
// sigtimedwait: these signals end its sleep though they are blocked. 0: no more.
void set_waited_for(u64 mask);
void free_pending_signals(PendingSignals& pending, Process& process);
void free_queued_signal(QueuedSignal* entry);
// A thread that ends may have been the last one that a stop waits for.
void join_stop_on_exit(Task& task);
// The parent that waits in vfork(2) may go on.
void release_vfork_parent(Task& task);
// What the robust list, clear_child_tid and a waiting vfork parent are told when the address space
// is left: at exit and in execve.
void release_address_space_users(Task& task);
// PR_SET_PDEATHSIG, orphaned groups: no member's parent is in another group of the same session.
bool group_orphaned_locked(ProcessGroup& group, Process* leaving);

// May the running task send signals to / inspect that task? (kill(2), prlimit(2), ...)
bool may_signal(Task& target, int signal);
bool may_signal_locked(Task& target, int signal); // Requires: the tree lock
bool may_access(Task& target);                    // ptrace-like access: same ids and no more
                                                  // capabilities, or CAP_SYS_PTRACE
bool may_attach(Task& target);                    // ptrace(2): by the real ids
// Not dumpable, and not for these either: nobody's memory to look into or to change.
bool memory_closed(Process& process, const Credentials& own);

Process::Usage task_usage(Task& task);

// A task with nothing but its number missing: stack, FPU area (`user`), signal state. Kernel tasks
// have none of the latter.
Result<Ref<Task>> allocate_task(bool user);
Result<Ref<Process>> allocate_process(i32 pid);
// Starts a prepared task as a kernel task.
Result<void> run_as_kernel_task(Task& task, const char* name, void (*entry)(void*), void* argument);

extern Process* kernel_init_process; // process 1

} // namespace kernel
