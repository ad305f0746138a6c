// Files that are counters, timers or signals: eventfd(2), timerfd_create(2), signalfd(2).
#pragma once

#include "guestkernel/core/time.hpp"
#include "guestkernel/fs/file.hpp"

namespace kernel {

class AnonymousFile : public File {
public:
    AnonymousFile(Ref<Inode> inode, u32 flags) : File(Path(), std::move(inode), flags) {}
    bool is_stream() const override { return true; }
    // Most have none and say 0, as on Linux; those that refuse are back at File's.
    Result<u64> seek(i64, int) override { return u64{0}; }
    bool describe(String& out) override; // "anon_inode:[type_name()]"
};

class EventFile final : public AnonymousFile {
public:
    EventFile(Ref<Inode> inode, u32 flags, u64 count, bool semaphore)
        : AnonymousFile(std::move(inode), flags), semaphore_(semaphore), count_(count) {}
    static constexpr char file_type[] = "eventfd";
    const char* type_name() const override { return file_type; }
    Result<usize> read(IoBuffer& out, u64) override;
    Result<usize> write(IoBuffer& in, u64) override;
    u32 poll(PollTable* table) override;
    Result<void> describe_state(String& out) override;
    // Adds without waiting, as far as the counter goes: the kernel's own notifications.
    void signal(u64 count);

private:
    bool semaphore_;
    SpinLock lock_{LockRank::Leaf};
    volatile u64 count_;
    WaitQueue waiters_;
};

class TimerFile final : public AnonymousFile {
public:
    TimerFile(Ref<Inode> inode, u32 flags, int clock);
    ~TimerFile() override;
    static constexpr char file_type[] = "timerfd";
    const char* type_name() const override { return file_type; }
    Result<usize> read(IoBuffer& out, u64) override;
    u32 poll(PollTable* table) override;
    Result<void> describe_state(String& out) override;

    struct Setting { // nanoseconds; `first` relative to now, 0: disarmed
        u64 interval, first;
    };
    Setting get();
    // `absolute` is on the file's clock. `cancel_on_set`: reading fails with ECANCELED once the
    // wall clock was set. ECANCELED: it was, and this replaces a timer that nobody has read since.
    Result<Setting> set(u64 interval, u64 first, bool absolute, bool cancel_on_set);
    int clock() const { return clock_; }

private:
    base::ListNode cancel_node_; // in canceled_when_set, under its mutex
    friend void wall_clock_was_set();
    static base::IntrusiveList<TimerFile, &TimerFile::cancel_node_> canceled_when_set;
    u64 clock_now() const; // on the clock of the deadline
    void arm();            // for the deadline. Requires: lock_
    static void expire(Timer& timer, void* self);
    bool is_due() const;
    u64 take_expirations_locked();
    int clock_;
    SpinLock lock_{LockRank::Leaf};
    u64 interval_ = 0;
    u64 deadline_ = 0;            // of the next expiry, monotonic or on the wall clock; 0: disarmed
    bool on_wall_clock_ = false;  // an absolute time was asked for: it follows the clock
    volatile bool fired_ = false; // at that deadline
    bool cancel_on_set_ = false;
    volatile bool canceled_ = false;
    WaitQueue waiters_;
    Timer timer_{expire, this};
};

class SignalFile final : public AnonymousFile {
public:
    SignalFile(Ref<Inode> inode, u32 flags, u64 mask)
        : AnonymousFile(std::move(inode), flags), mask_(mask) {}
    static constexpr char file_type[] = "signalfd";
    const char* type_name() const override { return file_type; }
    Result<usize> read(IoBuffer& out, u64) override;
    u32 poll(PollTable* table) override;
    Result<void> describe_state(String& out) override;
    void set_mask(u64 mask) { mask_.store(mask); }

private:
    base::Atomic<u64> mask_;
};

// Somebody has set the wall clock: timers and sleeps on it end when it says so.
void wall_clock_was_set();

Result<Ref<File>> make_event_file(u64 count, bool semaphore, u32 flags);
Result<Ref<File>> make_timer_file(int clock, u32 flags);
Result<Ref<File>> make_signal_file(u64 mask, u32 flags);

} // namespace kernel
