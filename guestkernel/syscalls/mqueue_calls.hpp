// Handlers: POSIX message queues.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_mq_open(Task& task, u64 name, u32 flags, u32 mode, u64 attributes);
Result<long> sys_mq_unlink(Task& task, u64 name);
Result<long> sys_mq_timedsend(Task& task, int queue, u64 text, u64 bytes, u32 priority,
                              u64 timeout);
Result<long> sys_mq_timedreceive(Task& task, int queue, u64 text, u64 bytes, u64 priority,
                                 u64 timeout);
Result<long> sys_mq_notify(Task& task, int queue, u64 notification);
Result<long> sys_mq_getsetattr(Task& task, int queue, u64 fresh, u64 old);

} // namespace kernel
