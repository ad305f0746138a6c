// Handlers: Linux AIO. They are in ipc/aio.cpp, beside their objects.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_io_setup(Task& task, u32 events, UserPtr<u64> context);
Result<long> sys_io_destroy(Task& task, u64 context);
Result<long> sys_io_submit(Task& task, u64 context, i64 count, UserPtr<const u64> requests);
Result<long> sys_io_cancel(Task& task, u64 context, u64 request, u64 result);
Result<long> sys_io_getevents(Task& task, u64 context, i64 least, i64 most, u64 events,
                              u64 timeout);
Result<long> sys_io_pgetevents(Task& task, u64 context, i64 least, i64 most, u64 events,
                               u64 timeout, u64 mask);

} // namespace kernel
