// Handlers: io_uring.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_io_uring_setup(Task& task, u32 entries, u64 parameters);
Result<long> sys_io_uring_enter(Task& task, u32 ring, u32 submit, u32 least, u32 flags,
                                u64 argument, u64 size);
Result<long> sys_io_uring_register(Task& task, u32 ring, u32 operation, u64 argument, u32 count);

} // namespace kernel
