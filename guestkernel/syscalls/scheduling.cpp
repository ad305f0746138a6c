// Policies, priorities, affinity.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/sched/types.h>

#include "guestkernel/cgroup/cpuset.hpp"
#include "guestkernel/sched/deadline.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/futex_pi.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr int max_rt_priority = 99;
constexpr u64 known_sched_flags = SCHED_FLAG_ALL;
constexpr u64 deadline_sched_flags = SCHED_FLAG_RECLAIM | SCHED_FLAG_DL_OVERRUN;
// From linux/ioprio.h, which is not valid C++.
constexpr int io_class_shift = 13, io_class_realtime = 1, io_class_idle = 3;
constexpr int io_who_process = 1, io_who_user = 3;

Result<Ref<Task>> task_by_pid(i32 pid) {
    if (pid < 0)
        return fail(EINVAL);
    Ref<Task> task = pid == 0 ? Ref<Task>::share(arch::current()) : find_task(global_pid(pid));
    if (!task)
        return fail(ESRCH);
    return task;
}

bool is_owner(const Credentials& other) {
    const Credentials& own = *current_task().credentials;
    return own.euid == other.uid || own.euid == other.euid;
}

// Policies are the whole system's affair, whoever's the task is.
bool may_change_policy(Task& target) {
    const Ref<const Credentials> other = credentials_of(target);
    return !other || is_owner(*other) || capable(CAP_SYS_NICE);
}

// ... and where it runs, and how nice it is, its user namespace's.
bool may_change(const Credentials* other) {
    return other == nullptr || is_owner(*other) || capable_over(other->user_space(), CAP_SYS_NICE);
}

bool is_realtime_policy(int policy) {
    return policy == SCHED_FIFO || policy == SCHED_RR;
}

bool known_policy(int policy) {
    return is_realtime_policy(policy) || policy == SCHED_NORMAL || policy == SCHED_BATCH ||
           policy == SCHED_IDLE;
}

u64 online_mask() {
    u64 mask = 0;
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        if (arch::cpu_online(cpu))
            mask |= u64{1} << cpu;
    return mask;
}

bool may_nice(Process& process, i32 from, i32 to) {
    // RLIMIT_NICE: 20 - nice, see getrlimit(2).
    return to >= from || static_cast<u64>(20 - to) <= process.limits[RLIMIT_NICE].soft ||
           capable(CAP_SYS_NICE);
}

Result<void> set_deadline_policy(Task& target, const sched_attr& wanted, bool reset_on_fork) {
    DeadlineParameters parameters = {wanted.sched_runtime, wanted.sched_deadline,
                                     wanted.sched_period,
                                     wanted.sched_flags & deadline_sched_flags};
    if (parameters.period_ns == 0)
        parameters.period_ns = parameters.deadline_ns;
    if (wanted.sched_priority != 0 || !valid_deadline(parameters))
        return fail(EINVAL);
    if (!capable(CAP_SYS_NICE))
        return fail(EPERM);
    TRY(set_deadline(target, parameters, online_mask()));
    target.reset_on_fork = reset_on_fork;
    pi_priority_changed(target);
    return {};
}

Result<void> set_policy(Task& target, int policy, i32 priority, i32 nice, bool reset_on_fork) {
    if (!known_policy(policy))
        return fail(EINVAL);
    if (is_realtime_policy(policy) ? priority < 1 || priority > max_rt_priority : priority != 0)
        return fail(EINVAL);
    if (!may_change_policy(target))
        return fail(EPERM);
    if (target.process != nullptr && is_realtime_policy(policy) && !capable(CAP_SYS_NICE) &&
        static_cast<u64>(priority) > target.process->limits[RLIMIT_RTPRIO].soft &&
        (priority > target.rt_priority || !is_realtime_policy(static_cast<int>(target.policy))))
        return fail(EPERM);
    if (target.reset_on_fork && !reset_on_fork && !capable(CAP_SYS_NICE))
        return fail(EPERM);
    target.reset_on_fork = reset_on_fork;
    set_scheduling(target, static_cast<u32>(policy), priority, nice);
    pi_priority_changed(target);
    return {};
}

} // namespace

Result<long> sys_sched_yield(Task&) {
    yield();
    return 0;
}

Result<long> sys_sched_setparam(Task&, i32 pid, u64 parameters) {
    if (parameters == 0 || pid < 0)
        return fail(EINVAL);
    TRY(const i32 priority, UserPtr<const i32>(parameters).copy_in());
    TRY(Ref<Task> target, task_by_pid(pid));
    TRY(set_policy(*target, static_cast<int>(target->policy), priority, target->nice,
                   target->reset_on_fork));
    return 0;
}

Result<long> sys_sched_getparam(Task&, i32 pid, u64 parameters) {
    if (parameters == 0)
        return fail(EINVAL);
    TRY(Ref<Task> target, task_by_pid(pid));
    TRY(UserPtr<i32>(parameters).copy_out(target->rt_priority));
    return 0;
}

Result<long> sys_sched_setscheduler(Task&, i32 pid, int policy, u64 parameters) {
    if (policy < 0 || parameters == 0 || pid < 0)
        return fail(EINVAL);
    TRY(const i32 priority, UserPtr<const i32>(parameters).copy_in());
    TRY(Ref<Task> target, task_by_pid(pid));
    TRY(set_policy(*target, policy & ~SCHED_RESET_ON_FORK, priority, target->nice,
                   (policy & SCHED_RESET_ON_FORK) != 0));
    return 0;
}

Result<long> sys_sched_getscheduler(Task&, i32 pid) {
    TRY(Ref<Task> target, task_by_pid(pid));
    return static_cast<long>(target->policy | (target->reset_on_fork ? SCHED_RESET_ON_FORK : 0u));
}

Result<long> sys_sched_get_priority_max(Task&, int policy) {
    if (!known_policy(policy) && policy != SCHED_DEADLINE)
        return fail(EINVAL);
    return is_realtime_policy(policy) ? max_rt_priority : 0;
}

Result<long> sys_sched_get_priority_min(Task&, int policy) {
    if (!known_policy(policy) && policy != SCHED_DEADLINE)
        return fail(EINVAL);
    return is_realtime_policy(policy) ? 1 : 0;
}

Result<long> sys_sched_rr_get_interval(Task&, i32 pid, u64 interval) {
    TRY(Ref<Task> target, task_by_pid(pid));
    TRY(UserPtr<UserTimeSpec>(interval).copy_out(to_timespec(slice_length_ns(*target))));
    return 0;
}

Result<long> sys_sched_setaffinity(Task&, i32 pid, u32 bytes, u64 mask) {
    u64 wanted = 0;
    TRY(copy_in_bytes(&wanted, mask, bytes < sizeof wanted ? bytes : sizeof wanted));
    if (pid < 0) // unlike the policies' calls, these two say that nobody has it
        return fail(ESRCH);
    TRY(Ref<Task> target, task_by_pid(pid));
    if (!may_change(credentials_of(*target).get()))
        return fail(EPERM);
    const u64 allowed = allowed_by_cpuset(*target, wanted & online_mask());
    // What was admitted is the time of all CPUs.
    if (target->policy == SCHED_DEADLINE && allowed != online_mask())
        return fail(EBUSY);
    if (allowed == 0)
        return fail(EINVAL);
    target->wanted_affinity = wanted;
    set_affinity(*target, allowed);
    return 0;
}

Result<long> sys_sched_getaffinity(Task&, i32 pid, u32 bytes, u64 mask) {
    if (bytes < sizeof(u64) || bytes % sizeof(u64) != 0)
        return fail(EINVAL);
    if (pid < 0)
        return fail(ESRCH);
    TRY(Ref<Task> target, task_by_pid(pid));
    TRY(UserPtr<u64>(mask).copy_out(target->affinity & online_mask()));
    return sizeof(u64);
}

namespace {

// struct sched_attr of any version: shorter ones end in zeros, longer ones must.
Result<sched_attr> copy_in_attributes(u64 address) {
    sched_attr wanted = {};
    TRY(u32 size, UserPtr<const u32>(address).copy_in());
    size = size == 0 ? u32{SCHED_ATTR_SIZE_VER0} : size;
    bool fits = size >= SCHED_ATTR_SIZE_VER0 && size <= page_size;
    for (u64 at = sizeof wanted; fits && at < size; at++) {
        TRY(const u8 byte, UserPtr<const u8>(address + at).copy_in());
        fits = byte == 0;
    }
    if (!fits) {
        (void)UserPtr<u32>(address).copy_out(u32{sizeof wanted}); // what is known here
        return fail(E2BIG);
    }
    TRY(copy_in_bytes(&wanted, address, size < sizeof wanted ? size : sizeof wanted));
    return wanted;
}

// SCHED_FLAG_KEEP_PARAMS: those of its present policy.
void keep_parameters(Task& target, sched_attr& wanted) {
    DeadlineParameters deadline;
    if (deadline_of(target, deadline)) {
        wanted.sched_priority = 0;
        wanted.sched_runtime = deadline.runtime_ns;
        wanted.sched_deadline = deadline.deadline_ns;
        wanted.sched_period = deadline.period_ns;
        wanted.sched_flags = (wanted.sched_flags & ~deadline_sched_flags) | deadline.flags;
    } else if (is_realtime_policy(static_cast<int>(target.policy))) {
        wanted.sched_priority = static_cast<u32>(target.rt_priority);
    } else {
        wanted.sched_nice = target.nice;
    }
}

} // namespace

Result<long> sys_sched_setattr(Task&, i32 pid, u64 attributes, u32 flags) {
    if (attributes == 0 || pid < 0 || flags != 0)
        return fail(EINVAL);
    TRY(sched_attr wanted, copy_in_attributes(attributes));
    if ((wanted.sched_flags & ~known_sched_flags) != 0 || static_cast<i32>(wanted.sched_policy) < 0)
        return fail(EINVAL);
    TRY(Ref<Task> target, task_by_pid(pid));
    const bool keeps_policy = (wanted.sched_flags & SCHED_FLAG_KEEP_POLICY) != 0;
    const auto policy =
        keeps_policy ? static_cast<int>(target->policy) : static_cast<int>(wanted.sched_policy);
    const bool reset_on_fork =
        keeps_policy ? target->reset_on_fork : (wanted.sched_flags & SCHED_FLAG_RESET_ON_FORK) != 0;
    if ((wanted.sched_flags & SCHED_FLAG_KEEP_PARAMS) != 0)
        keep_parameters(*target, wanted);
    if (policy == SCHED_DEADLINE) {
        TRY(set_deadline_policy(*target, wanted, reset_on_fork));
        return 0;
    }
    i32 nice = wanted.sched_nice;
    nice = nice < -20 ? -20 : nice > 19 ? 19 : nice;
    if (is_realtime_policy(policy))
        nice = target->nice;
    else if (target->process != nullptr && !may_nice(*target->process, target->nice, nice))
        return fail(EPERM);
    TRY(set_policy(*target, policy, static_cast<i32>(wanted.sched_priority), nice, reset_on_fork));
    return 0;
}

Result<long> sys_sched_getattr(Task&, i32 pid, u64 attributes, u32 size, u32 flags) {
    if (attributes == 0 || pid < 0 || flags != 0 || size < SCHED_ATTR_SIZE_VER0 || size > page_size)
        return fail(EINVAL);
    TRY(Ref<Task> target, task_by_pid(pid));
    sched_attr out = {};
    out.size = size < sizeof out ? size : static_cast<u32>(sizeof out);
    out.sched_policy = target->policy;
    out.sched_flags = target->reset_on_fork ? SCHED_FLAG_RESET_ON_FORK : 0;
    DeadlineParameters deadline;
    if (deadline_of(*target, deadline)) {
        out.sched_flags |= deadline.flags;
        out.sched_runtime = deadline.runtime_ns;
        out.sched_deadline = deadline.deadline_ns;
        out.sched_period = deadline.period_ns;
    } else if (is_realtime_policy(static_cast<int>(target->policy))) {
        out.sched_priority = static_cast<u32>(target->rt_priority);
    } else {
        out.sched_nice = target->nice;
    }
    TRY(copy_out_bytes(attributes, &out, out.size));
    return 0;
}

namespace {

// Calls for each task that getpriority(2) and setpriority(2) mean. Requires: the tree lock.
template <typename F>
Result<void> for_each_meant(int which, i32 who, F&& function) {
    bool any = false;
    const auto visit_process = [&](Process& process) {
        for (Task& task : process.tasks) {
            any = true;
            function(task);
        }
    };
    switch (which) {
    case PRIO_PROCESS: {
        Task* task = who == 0 ? arch::current() : find_task_locked(global_pid(who));
        if (task == nullptr)
            return fail(ESRCH);
        function(*task);
        return {};
    }
    case PRIO_PGRP: {
        ProcessGroup* group =
            who == 0 ? current_process().group.get() : find_group_locked(global_pid(who));
        if (group == nullptr)
            return fail(ESRCH);
        for (Process& process : group->members)
            visit_process(process);
        break;
    }
    case PRIO_USER: {
        const u32 uid = who == 0 ? current_task().credentials->uid
                                 : to_global_id(current_task().credentials->user_ns.get(), false,
                                                static_cast<u32>(who));
        // Of those that the caller has numbers for: the same user's in other containers are not
        // meant.
        for_each_process_locked([&](Process& process) {
            const Task* first = process.first_task();
            if (first != nullptr && first->credentials && first->credentials->uid == uid &&
                visible_pid(process.pid) != 0)
                visit_process(process);
        });
        break;
    }
    default:
        return fail(EINVAL);
    }
    if (!any)
        return fail(ESRCH);
    return {};
}

} // namespace

Result<long> sys_getpriority(Task&, int which, i32 who) {
    long best = 0; // 20 - nice: 1..40
    SpinGuard tree(process_tree_lock());
    TRY(for_each_meant(which, who, [&](const Task& task) {
        const long value = 20 - task.nice;
        best = value > best ? value : best;
    }));
    return best;
}

Result<long> sys_setpriority(Task&, int which, i32 who, int nice) {
    nice = nice < -20 ? -20 : nice > 19 ? 19 : nice;
    int error = 0;
    SpinGuard tree(process_tree_lock());
    TRY(for_each_meant(which, who, [&](Task& target) {
        if (!may_change(target.credentials.get())) {
            error = EPERM;
            return;
        }
        if (target.process != nullptr && !may_nice(*target.process, target.nice, nice)) {
            error = EACCES;
            return;
        }
        set_nice(target, nice);
        pi_priority_changed(target);
    }));
    if (error != 0)
        return fail(error);
    return 0;
}

Result<long> sys_getcpu(Task&, u64 cpu, u64 node) {
    if (cpu != 0)
        TRY(UserPtr<u32>(cpu).copy_out(arch::cpu_id()));
    if (node != 0)
        TRY(UserPtr<u32>(node).copy_out(0));
    return 0;
}

Result<long> sys_ioprio_get(Task&, int which, i32 who) {
    if (which < io_who_process || which > io_who_user)
        return fail(EINVAL);
    if (which == io_who_process && who != 0) {
        const Ref<Task> target = find_task(global_pid(who));
        return target ? Result<long>(target->io_priority) : Result<long>(fail(ESRCH));
    }
    return current_task().io_priority;
}

namespace {

// ioprio_set(2): by the real user id, unlike the policies.
bool may_change_io_priority(Task& target) {
    const Ref<const Credentials> other = credentials_of(target);
    const Credentials& own = *current_task().credentials;
    return !other || other->uid == own.euid || other->uid == own.uid || capable(CAP_SYS_NICE);
}

} // namespace

Result<long> sys_ioprio_set(Task& task, int which, i32 who, int priority) {
    const int io_class = priority >> io_class_shift;
    if (which < io_who_process || which > io_who_user || io_class < 0 || io_class > io_class_idle)
        return fail(EINVAL);
    if (io_class == io_class_realtime && !capable(CAP_SYS_ADMIN))
        return fail(EPERM);
    // There is one queue to the host: the value is kept and shown, no more.
    Ref<Task> target = Ref<Task>::share(&task);
    if (which == io_who_process && who != 0) {
        target = find_task(global_pid(who));
        if (!target)
            return fail(ESRCH);
    }
    if (!may_change_io_priority(*target))
        return fail(EPERM);
    target->io_priority = static_cast<u16>(priority);
    return 0;
}

} // namespace kernel
