// The cpuset controller: which CPUs the tasks of a group may use.
#pragma once

#include "guestkernel/cgroup/cgroup.hpp"

namespace kernel {

// Requires: hierarchy_mutex().
void set_cpuset(Cgroup& group, u64 cpus); // 0: as the parent
void refresh_cpusets(Cgroup& top);        // after controllers came or went
// The CPUs among `wanted` that the task's group has, or all of those if there are none.
u64 affinity_in_cpuset(Task& task, u64 wanted);
// 0: none of them, for sched_setaffinity(2).
u64 allowed_by_cpuset(Task& task, u64 wanted);
// The task was moved. No spin lock held.
void apply_cpuset(Task& task);

} // namespace kernel
