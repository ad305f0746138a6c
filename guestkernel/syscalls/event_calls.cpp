// eventfd(2), timerfd_create(2), signalfd(2), epoll(7).
#include <linux/errno.h>
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/time.h>
#include <linux/timerfd.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/epoll.hpp"
#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/lib/vector.hpp"
#include "guestkernel/syscalls/ipc_calls.hpp"
#include "guestkernel/syscalls/wait_helpers.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 efd_semaphore = 1;
constexpr u64 sigkill_and_sigstop = u64{1} << 8 | u64{1} << 18;

template <typename T>
Result<Ref<File>> file_of_type(Task& task, int fd) {
    TRY(Ref<File> file, task.files->get(fd));
    if (file_as<T>(*file) == nullptr)
        return fail(EINVAL);
    return file;
}

Result<u64> to_ns(const WaitTime& time) {
    if (time.seconds < 0 || time.nanoseconds < 0 ||
        static_cast<u64>(time.nanoseconds) >= nanoseconds_per_second)
        return fail(EINVAL);
    constexpr i64 most = i64{1} << 33;
    const i64 seconds = time.seconds < most ? time.seconds : most;
    return static_cast<u64>(seconds) * nanoseconds_per_second + static_cast<u64>(time.nanoseconds);
}

WaitTime from_ns(u64 ns) {
    return {static_cast<i64>(ns / nanoseconds_per_second),
            static_cast<i64>(ns % nanoseconds_per_second)};
}

Result<long> epoll_wait_until(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                              u64 deadline) {
    constexpr int most = 0x7fffffff / static_cast<int>(sizeof(EpollEvent));
    if (capacity <= 0 || capacity > most)
        return fail(EINVAL);
    TRY(Ref<File> file, file_of_type<EpollFile>(task, epoll));
    if (!user_range_ok(events.raw(), static_cast<u64>(capacity) * sizeof(EpollEvent)))
        return fail(EFAULT);
    auto& list = *file_as<EpollFile>(*file);
    EpollFile::Ready few[64];
    std::span<EpollFile::Ready> ready(few);
    // As many as there are, and as the caller has room for; without memory they come with the
    // next calls.
    const auto room = static_cast<usize>(capacity);
    const usize wanted = list.ready_count() < room ? list.ready_count() : room;
    Vector<EpollFile::Ready> many;
    if (wanted > ready.size() && many.resize(wanted))
        ready = many.span();
    else if (room < ready.size())
        ready = ready.first(room);
    TRY(const usize count, list.wait(ready, deadline));
    for (usize i = 0; i < count; i++)
        TRY((events + i).copy_out({ready[i].events, ready[i].data}));
    return static_cast<long>(count);
}

} // namespace

Result<long> sys_eventfd2(Task& task, u32 count, int flags) {
    if ((static_cast<u32>(flags) & ~(efd_semaphore | O_CLOEXEC | O_NONBLOCK)) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, make_event_file(count, (static_cast<u32>(flags) & efd_semaphore) != 0,
                                        O_RDWR | (static_cast<u32>(flags) & O_NONBLOCK)));
    TRY(const int fd, task.files->install(std::move(file), (flags & O_CLOEXEC) != 0));
    return fd;
}

Result<long> sys_eventfd(Task& task, u32 count) {
    return sys_eventfd2(task, count, 0);
}

Result<long> sys_timerfd_create(Task& task, int clock, int flags) {
    if ((flags & ~(O_CLOEXEC | O_NONBLOCK)) != 0)
        return fail(EINVAL);
    if (clock != CLOCK_REALTIME && clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME &&
        clock != CLOCK_REALTIME_ALARM && clock != CLOCK_BOOTTIME_ALARM)
        return fail(EINVAL);
    constexpr unsigned cap_wake_alarm = 35;
    if ((clock == CLOCK_REALTIME_ALARM || clock == CLOCK_BOOTTIME_ALARM) &&
        !capable(cap_wake_alarm))
        return fail(EPERM);
    TRY(Ref<File> file, make_timer_file(clock, O_RDWR | static_cast<u32>(flags & O_NONBLOCK)));
    TRY(const int fd, task.files->install(std::move(file), (flags & O_CLOEXEC) != 0));
    return fd;
}

Result<long> sys_timerfd_settime(Task& task, int fd, int flags, UserPtr<const TimerTimes> wanted,
                                 UserPtr<TimerTimes> old) {
    if ((flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) != 0)
        return fail(EINVAL);
    TRY(const TimerTimes times, wanted.copy_in());
    TRY(const u64 interval, to_ns(times.interval));
    TRY(const u64 first, to_ns(times.value));
    TRY(Ref<File> file, file_of_type<TimerFile>(task, fd));
    TRY(const TimerFile::Setting before,
        file_as<TimerFile>(*file)->set(interval, first, (flags & TFD_TIMER_ABSTIME) != 0,
                                       (flags & TFD_TIMER_CANCEL_ON_SET) != 0));
    if (old)
        TRY(old.copy_out({from_ns(before.interval), from_ns(before.first)}));
    return 0;
}

Result<long> sys_timerfd_gettime(Task& task, int fd, UserPtr<TimerTimes> out) {
    TRY(Ref<File> file, file_of_type<TimerFile>(task, fd));
    const auto now = file_as<TimerFile>(*file)->get();
    TRY(out.copy_out({from_ns(now.interval), from_ns(now.first)}));
    return 0;
}

Result<long> sys_signalfd4(Task& task, int fd, UserPtr<const u64> mask, u64 mask_size, int flags) {
    if ((flags & ~(O_CLOEXEC | O_NONBLOCK)) != 0 || mask_size != sizeof(u64))
        return fail(EINVAL);
    TRY(u64 wanted, mask.copy_in());
    wanted &= ~sigkill_and_sigstop;
    if (fd != -1) {
        TRY(Ref<File> file, file_of_type<SignalFile>(task, fd));
        file_as<SignalFile>(*file)->set_mask(wanted);
        return fd;
    }
    TRY(Ref<File> file, make_signal_file(wanted, O_RDWR | static_cast<u32>(flags & O_NONBLOCK)));
    TRY(const int fresh, task.files->install(std::move(file), (flags & O_CLOEXEC) != 0));
    return fresh;
}

Result<long> sys_signalfd(Task& task, int fd, UserPtr<const u64> mask, u64 mask_size) {
    return sys_signalfd4(task, fd, mask, mask_size, 0);
}

Result<long> sys_epoll_create1(Task& task, int flags) {
    if ((flags & ~O_CLOEXEC) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, make_epoll_file());
    TRY(const int fd, task.files->install(std::move(file), (flags & O_CLOEXEC) != 0));
    return fd;
}

Result<long> sys_epoll_create(Task& task, int size) {
    if (size <= 0)
        return fail(EINVAL);
    return sys_epoll_create1(task, 0);
}

Result<long> sys_epoll_ctl(Task& task, int epoll, int operation, int fd,
                           UserPtr<const EpollEvent> event) {
    EpollEvent wanted{};
    if (operation != EPOLL_CTL_DEL) {
        TRY(wanted, event.copy_in());
    }
    TRY(Ref<File> holder, task.files->get(epoll));
    TRY(Ref<File> file, task.files->get(fd));
    if (!file->can_wait())
        return fail(EPERM);
    auto* list = file_as<EpollFile>(*holder);
    if (list == nullptr || holder == file)
        return fail(EINVAL);
    if (operation == EPOLL_CTL_DEL) {
        TRY(list->remove(fd, *file));
    } else if (operation == EPOLL_CTL_ADD) {
        TRY(list->add(fd, *file, wanted.events, wanted.data));
    } else if (operation == EPOLL_CTL_MOD) {
        TRY(list->modify(fd, *file, wanted.events, wanted.data));
    } else {
        return fail(EINVAL);
    }
    return 0;
}

Result<long> sys_epoll_wait(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                            int timeout_ms) {
    return epoll_wait_until(task, epoll, events, capacity, deadline_after_ms(timeout_ms));
}

Result<long> sys_epoll_pwait(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                             int timeout_ms, UserPtr<const u64> mask, u64 mask_size) {
    return with_signal_mask(mask, mask_size, [&] {
        return epoll_wait_until(task, epoll, events, capacity, deadline_after_ms(timeout_ms));
    });
}

Result<long> sys_epoll_pwait2(Task& task, int epoll, UserPtr<EpollEvent> events, int capacity,
                              UserPtr<const WaitTime> timeout, UserPtr<const u64> mask,
                              u64 mask_size) {
    u64 deadline = no_deadline;
    if (timeout) {
        TRY(const WaitTime time, timeout.copy_in());
        TRY(deadline, deadline_after(time.seconds, time.nanoseconds));
    }
    return with_signal_mask(
        mask, mask_size, [&] { return epoll_wait_until(task, epoll, events, capacity, deadline); });
}

} // namespace kernel
