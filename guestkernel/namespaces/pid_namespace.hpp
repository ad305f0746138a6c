// Pid namespaces (pid_namespaces(7)). Inside of the kernel processes have the numbers of the
// initial namespace; a task of a nested one has a number of its own in it and in each one above it,
// found in tables by either. Numbers are translated where a program says or reads them.
#pragma once

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

class Process;
class Task;

class PidNamespace : public Namespace {
public:
    static constexpr u32 deepest = 32;
    PidNamespace(Ref<UserNamespace> owner, Ref<PidNamespace> parent, bool counted);

    u32 level() const { return level_; } // 0: the initial one
    PidNamespace* parent() const { return parent_.get(); }

    // --- under the process tree lock
    Process* init = nullptr; // its first process, while it lives
    bool begun = false;      // had a first process
    bool dead = false;       // it is ending or has ended: no more processes
    u32 processes = 0;       // in it and below, zombies included
    WaitQueue fewer;         // the count went down
    i32 last_number = 0;
    u32 end_status = 0; // of its first process, after reboot(2); 0: its own

private:
    const Ref<PidNamespace> parent_;
    const u32 level_;
};

inline u32 level_of(const PidNamespace* space) {
    return space == nullptr ? 0 : space->level();
}

inline constexpr i32 no_pid = 0x7fff'ffff; // finds nothing

// The pid namespace of a process or of the running one; null for the initial one.
PidNamespace* pid_namespace_of(const Process& process);
PidNamespace* current_pid_namespace();

// From a number of the initial namespace to that of another one (0: not visible there) and back
// (no_pid: there is no such). Zero and negative numbers stay.
i32 pid_in(const PidNamespace* space, i32 global);
i32 global_pid_in(const PidNamespace* space, i32 number);
i32 visible_pid(i32 global); // as the running task sees it
i32 global_pid(i32 number);  // what the running task means
// The number that was given last, of those that the running task sees.
i32 visible_last_pid();
void set_visible_last_pid(i32 number); // the next one comes after this
// The same with the sign that names a group.
inline i32 global_pid_or_group(i32 number) {
    return number < -1 ? -global_pid(-number) : global_pid(number);
}
// All numbers from the outermost namespace that `space` shows down to the task's own, for NSpid.
Result<void> numbers_below(const PidNamespace* space, i32 global, Vector<i32>& out);
// The namespace in which the number was given, if it is not the initial one.
bool in_namespace(const PidNamespace& space, i32 global);

// The numbers of a task to be, in the nested namespaces; taken back unless kept.
class PidNumbers {
public:
    PidNumbers() = default;
    ~PidNumbers();
    // `wanted`, innermost first, for as many levels as there are; zero: any. Requires: the tree
    // lock not held. EEXIST, EAGAIN, ENOMEM (the namespace has ended), EINVAL.
    Result<void> take(PidNamespace* space, i32 global, const i32* wanted, u32 wanted_count);
    i32 own() const { return own_; }
    void keep() { global_ = 0; }

private:
    i32 global_ = 0, own_ = 0;
};
// Gives the number up if it is not used (number_used_locked()) any more. Requires: the tree lock.
void forget_pid_locked(i32 global);

Result<Ref<PidNamespace>> make_pid_namespace(PidNamespace* parent, Ref<UserNamespace> owner);
// The process was entered into or taken from the tables. Requires: the tree lock.
void enter_pid_namespace_locked(Process& process);
void leave_pid_namespace_locked(Process& process);
// No more processes come into it. Requires: the tree lock.
void close_pid_namespace_locked(PidNamespace& space);

} // namespace kernel
