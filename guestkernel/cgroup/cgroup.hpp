// Cgroup: one group of the version 2 hierarchy, with what its controllers count and limit.
#pragma once

#include <string_view>

#include "base/atomic.hpp"
#include "base/intrusive_list.hpp"
#include "guestkernel/cgroup/cpu_group.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel {

class Inode;
class Process;
class Task;
struct Credentials;
struct DevicePrograms;

enum class Controller : u8 { Cpuset, Cpu, Io, Memory, Pids };
inline constexpr unsigned controller_count = 5;
inline constexpr std::string_view controller_names[controller_count] = {"cpuset", "cpu", "io",
                                                                        "memory", "pids"};
constexpr u32 controller_bit(Controller which) {
    return 1u << static_cast<unsigned>(which);
}
inline constexpr u32 all_controllers = (1u << controller_count) - 1;
// Those that can tell the threads of one process apart.
inline constexpr u32 threaded_controllers = controller_bit(Controller::Cpuset) |
                                            controller_bit(Controller::Cpu) |
                                            controller_bit(Controller::Pids);

// Files whose changes are told to poll(2) and inotify(7): bits of Cgroup::pending_events.
enum class CgroupEvent : u8 { None, Events, MemoryEvents, MemoryEventsLocal, PidsEvents, Swap };

inline constexpr u64 no_limit = ~u64{0};

class Cgroup final : public RefCounted {
public:
    Cgroup(Ref<Cgroup> above, u64 number);
    ~Cgroup() override;

    const Ref<Cgroup> parent; // null for the root
    const u64 id;             // its directory's inode number
    const u32 level;
    String name; // never changes

    bool is_root() const { return !parent; }
    // The tasks' view of it: the root is null.
    Cgroup* as_member() { return is_root() ? nullptr : this; }
    bool is_below(const Cgroup& other) const; // or the same

    // --- structure; hierarchy_mutex()
    base::ListNode sibling_node;
    base::IntrusiveList<Cgroup, &Cgroup::sibling_node> children; // by rising numbers
    volatile bool dead = false;
    u32 subtree_control = 0; // controllers that the children have
    u32 controllers() const { return parent ? parent->subtree_control : all_controllers; }
    bool has(Controller which) const { return (controllers() & controller_bit(which)) != 0; }
    bool threaded = false;
    u32 threaded_children = 0;
    u64 max_depth = no_limit, max_descendants = no_limit;
    u64 descendants = 0;
    Cgroup& domain(); // whose resources a threaded group shares

    // --- members; process tree lock
    u32 tasks = 0;           // alive
    u32 populated_below = 0; // children with tasks in them or below
    bool populated() const { return tasks != 0 || populated_below != 0; }

    // --- freezer
    bool freeze_wanted = false;       // hierarchy_mutex()
    base::Atomic<bool> frozen{false}; // it or an ancestor: tasks are held
    bool frozen_told = false;         // as cgroup.events says; the notifier's
    WaitQueue hold_queue;             // where held tasks sleep

    // --- pids (pids.cpp)
    base::Atomic<u64> pids{0}, pids_peak{0}, pids_max{no_limit};
    base::Atomic<u64> pids_refused{0}, pids_refused_local{0};

    CpuGroup cpu;
    struct MemoryGroup* memory = nullptr; // memory_group.cpp; null: not enabled
    struct IoGroup* io = nullptr;         // io.cpp
    u64 cpuset_wanted = 0;                // cpuset.cpus; 0: as the parent
    u64 cpuset_cpus = ~u64{0};            // cpuset.cpus.effective
    bool cpuset_mems_set = false;
    struct PressureGroup* pressure = nullptr; // pressure.cpp
    DevicePrograms* devices = nullptr;        // device_programs.cpp; a reference

    // --- files (cgroupfs.cpp)
    Ref<Inode> directory;
    u32 maker_uid = 0, maker_gid = 0;
    Vector<Ref<Inode>> files;            // by their place in the table; null: not looked up so far
    SpinLock files_lock{LockRank::Leaf}; // of the pointers in `files`
    base::Atomic<u32> pending_events{0};
    base::ListNode notify_node;
};

Mutex& hierarchy_mutex();
Cgroup& root_cgroup();

// --- tree.cpp
// Requires, for these: hierarchy_mutex().
Result<Ref<Cgroup>> make_cgroup(Cgroup& parent, std::string_view name);
Result<void> remove_cgroup(Cgroup& group);
Cgroup* find_child(Cgroup& parent, std::string_view name);
Result<void> set_subtree_control(Cgroup& group, u32 enable, u32 disable);
// Every group below and including `top`, parents first.
Cgroup* next_below(Cgroup& top, Cgroup& at);
template <typename F>
void for_each_below(Cgroup& top, F&& function) {
    for (Cgroup* at = &top; at != nullptr; at = next_below(top, *at))
        function(*at);
}

// --- domains and threads
bool is_valid_domain(Cgroup& group);
bool is_thread_root(Cgroup& group);
Result<void> make_threaded(Cgroup& group);
// Whether processes (or threads) may be put here: EOPNOTSUPP, EBUSY, ENODEV.
Result<void> check_destination(Cgroup& group);

// --- members.cpp
// The group of a task; the root's object when it is in the root. Any context without the tree lock.
Ref<Cgroup> cgroup_of(Task& task);
Ref<Cgroup> cgroup_of_locked(Task& task);
// Moves all threads of a process, or one thread. Requires: hierarchy_mutex(), checked destination.
Result<void> move_process(Process& process, Cgroup& to);
Result<void> move_thread(Task& thread, Cgroup& to);
// A new task joins. Requires: tree lock. `into`: CLONE_INTO_CGROUP, else null.
struct ForkPlan {
    Ref<Cgroup> group; // where the child goes
    bool explicitly = false;
    bool charged = false;   // against pids.max
    Ref<Cgroup> moved_from; // dropped without the lock
};
// Before the child is made; EAGAIN: no number left in some group.
Result<void> plan_fork(ForkPlan& plan, Ref<Cgroup> into);
void cancel_fork(ForkPlan& plan);
// ENODEV: the group that was asked for is gone. Requires: tree lock.
Result<void> join_cgroup_locked(Task& child, ForkPlan& plan);
void join_root_cgroup_locked(); // the first programs
// The task ends; its number stays charged if a zombie keeps it. Requires: tree lock.
void leave_cgroup_locked(Task& task, bool becomes_zombie);
void reap_from_cgroup_locked(Process& process);
// SIGKILL to everything below; for want of memory, not to who is protected from that.
enum class KillMembers : u8 { All, NotProtected };
void kill_members(Cgroup& group, KillMembers which);

// Which cgroup a descriptor of a cgroup directory is: EBADF.
class File;
Result<Ref<Cgroup>> cgroup_of_file(File& file);
// May they (null: a kernel task) put `from`'s members into `to`? EACCES.
Result<void> check_migration(Cgroup& from, Cgroup& to, const Credentials* who);
// The same for a new task of the running one's, with write permission on the group itself and
// check_destination().
Result<void> check_cgroup_entry(Cgroup& from, Cgroup& to);

// "/a/b", seen from `root` (null: the real root): "/../x" when it lies outside.
Result<void> append_cgroup_path(String& out, const Cgroup& group, const Cgroup* root = nullptr);

// What is seen of the group by the running task, in its cgroup namespace.
Result<void> append_visible_path(String& out, const Cgroup& group);
// The same for the group whose directory a mount shows.
Result<void> append_shown_group(String& out, Inode& directory);

// --- hold.cpp
// On the way to user mode: sleeps while the task's group is frozen or out of CPU time.
void hold_by_cgroup(Task& task);
// Marks the task for hold_by_cgroup() and interrupts it if it runs elsewhere.
void request_hold(Task& task);
void set_frozen_below(Cgroup& top); // after freeze_wanted changed. Requires: hierarchy_mutex()
bool must_hold(const Cgroup* group);

// --- notify.cpp
// Any context in which a task may be woken.
void cgroup_event(Cgroup& group, CgroupEvent event);
// Frozen states may have changed: the notifier looks.
void recheck_frozen();
Result<void> start_cgroup_notifier();

class Superblock;
// Seen from the running task's cgroup namespace: its root is the namespace's.
Result<Ref<Superblock>> make_cgroupfs();

} // namespace kernel
