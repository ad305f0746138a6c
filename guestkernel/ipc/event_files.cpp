#include "guestkernel/ipc/event_files.hpp"

#include <linux/errno.h>
#include <linux/signal.h>
#include <linux/signalfd.h>
#include <linux/time.h>

#include "guestkernel/fs/fdinfo.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/signal.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u64 counter_limit = ~u64{0} - 1; // eventfd(2): the largest value it holds
constexpr u32 private_mode = 0600;

// Sleeps until ready() or a signal; EAGAIN at once for non-blocking files.
template <typename Ready>
Result<void> wait_for(WaitQueue& queue, bool non_blocking, Ready&& ready) {
    if (non_blocking)
        return fail(EAGAIN);
    if (wait_until(queue, ready) == WaitOutcome::Interrupted)
        return fail(restart_syscall);
    return {};
}

// What the kernel tells of an event, by whose signal that is (sigaction(2)).
void describe_event(const SignalInfo& info, signalfd_siginfo& record) {
    switch (info.signo) {
    case SIGCHLD:
        record.ssi_pid = static_cast<u32>(info.child.pid);
        record.ssi_uid = info.child.uid;
        record.ssi_status = info.child.status;
        record.ssi_utime = static_cast<u64>(info.child.user_ticks);
        record.ssi_stime = static_cast<u64>(info.child.system_ticks);
        break;
    case SIGILL:
    case SIGFPE:
    case SIGSEGV:
    case SIGBUS:
    case SIGTRAP:
        record.ssi_addr = info.fault.address;
        break;
    case SIGSYS:
        record.ssi_call_addr = info.system_call.address;
        record.ssi_syscall = info.system_call.number;
        record.ssi_arch = info.system_call.architecture;
        break;
    default: // SIGIO, or another one by F_SETSIG
        record.ssi_band = static_cast<u32>(info.poll.band);
        record.ssi_fd = info.poll.fd;
    }
}

// signalfd(2): the members of siginfo_t side by side, of which the code says which there are.
signalfd_siginfo record_of(const SignalInfo& info) {
    signalfd_siginfo record{};
    record.ssi_signo = static_cast<u32>(info.signo);
    record.ssi_errno = info.error;
    record.ssi_code = info.code;
    if (info.code > SI_USER && info.code < SI_KERNEL) {
        describe_event(info, record);
        return record;
    }
    u64 value = info.sender.value;
    if (info.code == SI_TIMER) {
        record.ssi_tid = static_cast<u32>(info.timer.timer);
        record.ssi_overrun = static_cast<u32>(info.timer.overrun);
        value = info.timer.value;
    } else {
        record.ssi_pid = static_cast<u32>(info.sender.pid);
        record.ssi_uid = info.sender.uid;
    }
    if (info.code < SI_USER) {
        record.ssi_int = static_cast<i32>(value);
        record.ssi_ptr = value;
    }
    return record;
}

// Of TFD_TIMER_CANCEL_ON_SET; outside of the files' spin locks.
constinit Mutex cancel_mutex;

} // namespace

constinit base::IntrusiveList<TimerFile, &TimerFile::cancel_node_> TimerFile::canceled_when_set;

bool AnonymousFile::describe(String& out) {
    return out.append("anon_inode:[").has_value() && out.append(type_name()).has_value() &&
           out.append("]").has_value();
}

Result<usize> EventFile::read(IoBuffer& out, u64) {
    if (out.remaining() < sizeof(u64))
        return fail(EINVAL);
    for (;;) {
        u64 value = 0;
        {
            SpinGuard guard(lock_);
            if (count_ > 0) {
                value = semaphore_ ? 1 : count_;
                count_ = count_ - value;
            }
        }
        if (value != 0) {
            waiters_.wake_all(poll_out | poll_wrnorm);
            if (out.copy_out(&value, sizeof value) != sizeof value)
                return fail(EFAULT);
            return sizeof value;
        }
        TRY(wait_for(waiters_, non_blocking(), [&] { return count_ > 0; }));
    }
}

Result<usize> EventFile::write(IoBuffer& in, u64) {
    u64 value = 0;
    if (in.remaining() < sizeof value)
        return fail(EINVAL);
    if (in.copy_in(&value, sizeof value) != sizeof value)
        return fail(EFAULT);
    if (value == ~u64{0})
        return fail(EINVAL);
    for (;;) {
        bool added = false;
        {
            SpinGuard guard(lock_);
            if (value <= counter_limit - count_) {
                count_ = count_ + value;
                added = true;
            }
        }
        if (added) {
            waiters_.wake_all(poll_in | poll_rdnorm);
            return sizeof value;
        }
        TRY(wait_for(waiters_, non_blocking(), [&] { return value <= counter_limit - count_; }));
    }
}

void EventFile::signal(u64 count) {
    {
        SpinGuard guard(lock_);
        const u64 room = ~u64{0} - count_;
        count_ = count_ + (count < room ? count : room);
    }
    waiters_.wake_all(poll_in | poll_rdnorm);
}

u32 EventFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(waiters_);
    SpinGuard guard(lock_);
    return (count_ > 0 ? poll_in | poll_rdnorm : 0) |
           (count_ < counter_limit ? poll_out | poll_wrnorm : 0);
}

TimerFile::TimerFile(Ref<Inode> inode, u32 flags, int clock)
    : AnonymousFile(std::move(inode), flags), clock_(clock) {}

TimerFile::~TimerFile() {
    {
        MutexGuard guard(cancel_mutex);
        if (cancel_node_.linked())
            cancel_node_.unlink();
    }
    timer_.cancel();
}

u64 TimerFile::clock_now() const {
    return on_wall_clock_ ? static_cast<u64>(realtime_ns()) : monotonic_ns();
}

void TimerFile::arm() {
    timer_.arm(on_wall_clock_ ? wall_deadline(deadline_) : deadline_);
}

void TimerFile::expire(Timer& timer, void* self) {
    auto& file = *static_cast<TimerFile*>(self);
    {
        SpinGuard guard(file.lock_);
        file.fired_ = file.deadline_ != 0 && !timer.pending(); // else it was armed anew meanwhile
    }
    file.waiters_.wake_all(poll_in | poll_rdnorm);
}

// Whoever is woken may run on a CPU whose clock is a little behind that of the one that the timer
// expired on, and would not be woken again.
bool TimerFile::is_due() const {
    return deadline_ != 0 && (fired_ || clock_now() >= deadline_);
}

// How often it has expired since it was last read; moves the deadline on.
u64 TimerFile::take_expirations_locked() {
    if (!is_due())
        return 0;
    u64 now = clock_now();
    now = now > deadline_ ? now : deadline_;
    fired_ = false;
    if (interval_ == 0) {
        deadline_ = 0;
        return 1;
    }
    const u64 count = 1 + (now - deadline_) / interval_;
    deadline_ += count * interval_;
    return count;
}

Result<usize> TimerFile::read(IoBuffer& out, u64) {
    if (out.remaining() < sizeof(u64))
        return fail(EINVAL);
    const auto expired = [&] { return canceled_ || is_due(); };
    for (;;) {
        u64 count = 0;
        {
            SpinGuard guard(lock_);
            if (canceled_) {
                canceled_ = false;
                return fail(ECANCELED);
            }
            count = take_expirations_locked();
            if (count != 0 && deadline_ != 0)
                arm();
        }
        if (count != 0) {
            if (out.copy_out(&count, sizeof count) != sizeof count)
                return fail(EFAULT);
            return sizeof count;
        }
        TRY(wait_for(waiters_, non_blocking(), expired));
    }
}

u32 TimerFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(waiters_);
    SpinGuard guard(lock_);
    return canceled_ || is_due() ? poll_in | poll_rdnorm : 0;
}

void wall_clock_was_set() {
    recheck_wall_timers();
    MutexGuard guard(cancel_mutex);
    for (TimerFile& file : TimerFile::canceled_when_set) {
        {
            SpinGuard file_guard(file.lock_);
            file.canceled_ = true;
        }
        file.waiters_.wake_all(poll_in | poll_rdnorm);
    }
}

TimerFile::Setting TimerFile::get() {
    SpinGuard guard(lock_);
    const u64 now = clock_now();
    if (deadline_ == 0)
        return {interval_, 0};
    if (deadline_ > now)
        return {interval_, deadline_ - now};
    // Expired and not read: what is left until the next expiry.
    return {interval_, interval_ == 0 ? 0 : interval_ - (now - deadline_) % interval_};
}

Result<TimerFile::Setting> TimerFile::set(u64 interval, u64 first, bool absolute,
                                          bool cancel_on_set) {
    const Setting old = get();
    timer_.cancel();
    const bool on_wall_clock =
        absolute && first != 0 && (clock_ == CLOCK_REALTIME || clock_ == CLOCK_REALTIME_ALARM);
    u64 deadline = 0;
    if (first != 0) {
        if (!absolute)
            deadline = monotonic_ns() + first;
        else
            deadline = on_wall_clock ? first : without_clock_offset(clock_, first);
        deadline = deadline == 0 ? 1 : deadline;
    }
    MutexGuard cancel_guard(cancel_mutex);
    bool was_canceled = false;
    {
        SpinGuard guard(lock_);
        interval_ = interval;
        deadline_ = deadline;
        on_wall_clock_ = on_wall_clock;
        fired_ = false;
        cancel_on_set_ = on_wall_clock && cancel_on_set;
        was_canceled = canceled_;
        canceled_ = false;
        if (deadline != 0)
            arm();
    }
    if (cancel_node_.linked() && !cancel_on_set_)
        cancel_node_.unlink();
    else if (!cancel_node_.linked() && cancel_on_set_)
        canceled_when_set.push_back(*this);
    if (was_canceled && cancel_on_set_)
        return fail(ECANCELED);
    return old;
}

Result<usize> SignalFile::read(IoBuffer& out, u64) {
    if (out.remaining() < sizeof(signalfd_siginfo))
        return fail(EINVAL);
    usize done = 0;
    while (out.remaining() >= sizeof(signalfd_siginfo)) {
        SignalInfo info;
        if (!take_signal(mask_.load(), info)) {
            if (done > 0)
                break;
            TRY(wait_for(signal_wait_queue(current_task()), non_blocking(),
                         [&] { return (pending_signals(current_task()) & mask_.load()) != 0; }));
            continue;
        }
        const signalfd_siginfo record = record_of(info);
        if (out.copy_out(&record, sizeof record) != sizeof record) {
            if (done > 0)
                break;
            return fail(EFAULT);
        }
        done += sizeof record;
    }
    return done;
}

u32 SignalFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(signal_wait_queue(current_task()));
    return (pending_signals(current_task()) & mask_.load()) != 0 ? poll_in | poll_rdnorm : 0;
}

Result<Ref<File>> make_event_file(u64 count, bool semaphore, u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(private_mode));
    TRY(Ref<EventFile> file, make_ref<EventFile>(std::move(inode), flags, count, semaphore));
    return Ref<File>(std::move(file));
}

Result<Ref<File>> make_timer_file(int clock, u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(private_mode));
    TRY(Ref<TimerFile> file, make_ref<TimerFile>(std::move(inode), flags, clock));
    return Ref<File>(std::move(file));
}

Result<Ref<File>> make_signal_file(u64 mask, u32 flags) {
    TRY(Ref<Inode> inode, make_anonymous_inode(private_mode));
    TRY(Ref<SignalFile> file, make_ref<SignalFile>(std::move(inode), flags, mask));
    return Ref<File>(std::move(file));
}

Result<void> EventFile::describe_state(String& out) {
    TRY(out.append("eventfd-count: "));
    TRY(append_padded(out, count_, 16, 16, ' '));
    return append_line(out, "\neventfd-id: {}\neventfd-semaphore: {}\n", inode()->number(),
                       semaphore_ ? 1 : 0);
}

Result<void> TimerFile::describe_state(String& out) {
    const Setting setting = get();
    u64 ticks = 0;
    {
        SpinGuard guard(lock_);
        const u64 now = clock_now();
        if (deadline_ != 0 && now >= deadline_)
            ticks = interval_ == 0 ? 1 : 1 + (now - deadline_) / interval_;
    }
    const u32 flags = (on_wall_clock_ ? 1u : 0u) | (cancel_on_set_ ? 2u : 0u);
    TRY(append_line(out, "clockid: {}\nticks: {}\nsettime flags: 0{}\n", clock_, ticks, flags));
    TRY(append_line(out, "it_value: ({}, {})\n", setting.first / nanoseconds_per_second,
                    setting.first % nanoseconds_per_second));
    return append_line(out, "it_interval: ({}, {})\n", setting.interval / nanoseconds_per_second,
                       setting.interval % nanoseconds_per_second);
}

Result<void> SignalFile::describe_state(String& out) {
    TRY(out.append("sigmask:\t"));
    TRY(append_padded(out, mask_.load(), 16, 16, '0'));
    return out.append("\n");
}

} // namespace kernel
