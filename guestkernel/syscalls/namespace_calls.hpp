// System calls of namespaces, and those that mount in steps.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_unshare(Task& task, u64 flags);
Result<long> sys_setns(Task& task, int fd, u32 flags);
Result<long> sys_fsopen(Task& task, u64 type, u32 flags);
Result<long> sys_fsconfig(Task& task, int fd, u32 command, u64 key, u64 value, int auxiliary);
Result<long> sys_fsmount(Task& task, int fd, u32 flags, u32 attributes);
Result<long> sys_fspick(Task& task, int directory, u64 name, u32 flags);
Result<long> sys_open_tree(Task& task, int directory, u64 name, u32 flags);
Result<long> sys_move_mount(Task& task, int from_directory, u64 from_name, int to_directory,
                            u64 to_name, u32 flags);
Result<long> sys_mount_setattr(Task& task, int directory, u64 name, u32 flags, u64 attributes,
                               u64 size);

} // namespace kernel
