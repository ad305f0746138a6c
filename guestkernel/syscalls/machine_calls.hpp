// Handlers: the machine as such, and what remains of older interfaces.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_reboot(Task& task, u32 magic1, u32 magic2, u32 command, u64 argument);
Result<long> sys_vhangup(Task& task);
Result<long> sys_iopl(Task& task, u32 level);
Result<long> sys_ioperm(Task& task, u64 from, u64 count, int on);
Result<long> sys_modify_ldt(Task& task, int function, u64 buffer, u64 bytes);
Result<long> sys_swapon(Task& task, u64 name, u32 flags);
Result<long> sys_swapoff(Task& task, u64 name);
Result<long> sys_quotactl(Task& task, u32 command, u64 special, u32 id, u64 address);
Result<long> sys_quotactl_fd(Task& task, u32 fd, u32 command, u32 id, u64 address);
Result<long> sys_sysfs(Task& task, int option, u64 first, u64 second);

} // namespace kernel
