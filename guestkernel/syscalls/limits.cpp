// Resource limits and usage.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/resource.h>

#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/syscalls/usage_values.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_timers.hpp"

namespace kernel {

namespace {

struct UserLimit { // struct rlimit64
    u64 soft, hard;
};

// Address spaces keep copies of the limits that they check.
void copy_to_address_space(Process& process, u32 resource) {
    Ref<AddressSpace> space;
    {
        SpinGuard tree(process_tree_lock());
        if (Task* task = process.first_task())
            space = task->address_space;
    }
    if (!space)
        return;
    const u64 soft = process.limits[resource].soft;
    switch (resource) {
    case RLIMIT_AS:
        space->limits.address_space = soft;
        break;
    case RLIMIT_DATA:
        space->limits.data = soft;
        break;
    case RLIMIT_STACK:
        space->limits.stack = soft;
        break;
    case RLIMIT_MEMLOCK:
        space->limits.locked = soft;
        break;
    default:
        break;
    }
}

Result<void> change_limit(Process& process, u32 resource, UserLimit wanted) {
    constexpr u64 max_descriptors = 1024 * 1024; // fs.nr_open
    if (wanted.soft > wanted.hard)
        return fail(EINVAL);
    if (resource == RLIMIT_NOFILE && wanted.hard > max_descriptors)
        return fail(EPERM);
    if (wanted.hard > process.limits[resource].hard && !capable(CAP_SYS_RESOURCE))
        return fail(EPERM);
    {
        SpinGuard tree(process_tree_lock());
        process.limits[resource] = {wanted.soft, wanted.hard};
        // The timers go with the process's end, after its last thread is on its way.
        if (resource == RLIMIT_CPU && process.live_tasks != 0)
            watch_cpu_limit(process);
    }
    copy_to_address_space(process, resource);
    return {};
}

Result<Ref<Process>> process_for_limits(Task& self, i32 pid) {
    if (pid == 0)
        return Ref<Process>::share(self.process);
    const Ref<Task> task = find_task(global_pid(pid));
    if (!task || task->process == nullptr)
        return fail(ESRCH);
    if (task->process != self.process) {
        const Credentials& own = *self.credentials;
        const Ref<const Credentials> other = credentials_of(*task);
        if (!other)
            return fail(ESRCH);
        const bool same = own.uid == other->euid && own.uid == other->suid &&
                          own.uid == other->uid && own.gid == other->egid &&
                          own.gid == other->sgid && own.gid == other->gid;
        if (!same && !capable_over(other->user_space(), CAP_SYS_RESOURCE))
            return fail(EPERM);
    }
    return Ref<Process>::share(task->process);
}

} // namespace

Result<long> sys_getrlimit(Task& task, u32 resource, u64 limit) {
    if (resource >= resource_limit_count)
        return fail(EINVAL);
    const ResourceLimit& current = task.process->limits[resource];
    TRY(UserPtr<UserLimit>(limit).copy_out({current.soft, current.hard}));
    return 0;
}

Result<long> sys_setrlimit(Task& task, u32 resource, u64 limit) {
    if (resource >= resource_limit_count)
        return fail(EINVAL);
    TRY(const UserLimit wanted, UserPtr<const UserLimit>(limit).copy_in());
    TRY(change_limit(*task.process, resource, wanted));
    return 0;
}

Result<long> sys_prlimit64(Task& task, i32 pid, u32 resource, u64 fresh, u64 old) {
    if (resource >= resource_limit_count)
        return fail(EINVAL);
    UserLimit wanted = {};
    if (fresh != 0) {
        TRY(wanted, UserPtr<const UserLimit>(fresh).copy_in());
    }
    TRY(Ref<Process> process, process_for_limits(task, pid));
    const UserLimit before = {process->limits[resource].soft, process->limits[resource].hard};
    if (fresh != 0)
        TRY(change_limit(*process, resource, wanted));
    if (old != 0)
        TRY(UserPtr<UserLimit>(old).copy_out(before));
    return 0;
}

Result<long> sys_getrusage(Task& task, int who, u64 usage) {
    Process::Usage sum;
    Process& process = *task.process;
    switch (who) {
    case RUSAGE_SELF: {
        SpinGuard tree(process_tree_lock());
        sum = process.usage();
        break;
    }
    case RUSAGE_THREAD:
        sum = task_usage(task);
        break;
    case RUSAGE_CHILDREN: {
        SpinGuard tree(process_tree_lock());
        sum = process.waited_children;
        break;
    }
    default:
        return fail(EINVAL);
    }
    if (who != RUSAGE_CHILDREN) {
        const u64 peak = task.address_space->usage().peak_resident;
        sum.peak_pages = peak > sum.peak_pages ? peak : sum.peak_pages;
    }
    TRY(UserPtr<rusage>(usage).copy_out(usage_value(sum)));
    return 0;
}

} // namespace kernel
