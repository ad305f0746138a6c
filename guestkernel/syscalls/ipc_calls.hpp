// Handlers: pipes and polling.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

struct DescriptorPair {
    int reader, writer;
};
struct PollRequest { // struct pollfd
    int fd;
    i16 events, ready;
};
struct WaitTime { // struct timespec
    i64 seconds, nanoseconds;
};
struct WaitTimeMicro { // struct timeval
    i64 seconds, microseconds;
};

Result<long> sys_pipe(Task& task, UserPtr<DescriptorPair> out);
Result<long> sys_pipe2(Task& task, UserPtr<DescriptorPair> out, int flags);
Result<long> sys_poll(Task& task, u64 requests, u32 count, int timeout_ms);
Result<long> sys_ppoll(Task& task, u64 requests, u32 count, UserPtr<WaitTime> timeout, UserPtr<const u64> mask, u64 mask_size);
Result<long> sys_select(Task& task, int count, u64 readers, u64 writers, u64 exceptions, UserPtr<WaitTimeMicro> timeout);
Result<long> sys_pselect6(Task& task, int count, u64 readers, u64 writers, u64 exceptions, UserPtr<WaitTime> timeout, u64 mask);

} // namespace kernel
