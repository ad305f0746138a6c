// What the hierarchy asks of the controllers.
#pragma once

#include "guestkernel/cgroup/cgroup.hpp"

namespace kernel {

Result<void> init_root_cgroup(); // again is harmless
bool cgroups_exist();
u64 next_cgroup_number();

// Requires, for all of these: hierarchy_mutex().
// Gives a group what the controllers need; all or nothing.
Result<void> enable_controllers(Cgroup& group, u32 which);
// Back to defaults: limits are forgotten.
void disable_controllers(Cgroup& group, u32 which);
// The group is going; charges that outlive it stay with its ancestors.
void retire_controllers(Cgroup& group);
void free_controllers(Cgroup& group); // from the destructor: no lock
// The tasks below look up again which group limits them, for each controller.
void regroup_members(Cgroup& top);
// What a member of `group` is governed by: the nearest group that has the controller; null: root.
Cgroup* governing(Cgroup* group, Controller which);

// Sets what the task is charged to. Requires: tree lock.
void set_task_groups(Task& task, Ref<Cgroup>& group);

} // namespace kernel
