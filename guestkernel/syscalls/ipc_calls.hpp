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
Result<long> sys_ppoll(Task& task, u64 requests, u32 count, UserPtr<WaitTime> timeout,
                       UserPtr<const u64> mask, u64 mask_size);
Result<long> sys_select(Task& task, int count, u64 readers, u64 writers, u64 exceptions,
                        UserPtr<WaitTimeMicro> timeout);
Result<long> sys_pselect6(Task& task, int count, u64 readers, u64 writers, u64 exceptions,
                          UserPtr<WaitTime> timeout, u64 mask);

Result<long> sys_eventfd(Task& task, u32 count);
Result<long> sys_eventfd2(Task& task, u32 count, int flags);
struct TimerTimes { // struct itimerspec
    WaitTime interval, value;
};
Result<long> sys_timerfd_create(Task& task, int clock, int flags);
Result<long> sys_timerfd_settime(Task& task, int fd, int flags, UserPtr<const TimerTimes> wanted,
                                 UserPtr<TimerTimes> old);
Result<long> sys_timerfd_gettime(Task& task, int fd, UserPtr<TimerTimes> out);
Result<long> sys_signalfd(Task& task, int fd, UserPtr<const u64> mask, u64 mask_size);
Result<long> sys_signalfd4(Task& task, int fd, UserPtr<const u64> mask, u64 mask_size, int flags);
struct [[gnu::packed]] EpollEvent { // struct epoll_event
    u32 events;
    u64 data;
};
Result<long> sys_epoll_create(Task& task, int size);
Result<long> sys_epoll_create1(Task& task, int flags);
Result<long> sys_epoll_ctl(Task& task, int epoll, int operation, int fd,
                           UserPtr<const EpollEvent> event);
Result<long> sys_epoll_wait(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                            int timeout_ms);
Result<long> sys_epoll_pwait(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                             int timeout_ms, UserPtr<const u64> mask, u64 mask_size);
Result<long> sys_epoll_pwait2(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                              UserPtr<const WaitTime> timeout, UserPtr<const u64> mask,
                              u64 mask_size);

} // namespace kernel
