// F_SETOWN, F_SETSIG and O_ASYNC (fcntl(2)): who gets a signal when a file becomes ready.
#pragma once

#include "guestkernel/ipc/poll_hook.hpp"
#include "guestkernel/sched/work.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

class FileOwner final : public RefCounted {
public:
    // As F_OWNER_*.
    enum class Kind : u8 { Thread, Process, Group };

    // The file's own, made when it is first needed.
    static Result<FileOwner*> of(File& file);

    // Zero: nobody. ESRCH. Without the right to signal it now, no signal will come; nor if it has
    // become somebody else by then.
    Result<void> set(Kind kind, i32 number);
    void get(Kind& kind, i32& number);
    // The running process, unless there is one: who takes a lease hears of its end.
    Result<void> set_if_none();
    void forget();                                    // nobody, and SIGIO again
    void set_signal(int signal) { signal_ = signal; } // zero: SIGIO without more
    int signal() const { return signal_; }
    // O_ASYNC: from now on, telling of it as `fd`; or no longer.
    Result<void> arm(File& file, int fd);
    void disarm();
    // Urgent data came: SIGURG for the owner, armed or not. Any spin lock may be held.
    static void tell_urgent(File& file);
    // Sends the signal now, about `fd`: a lease is broken, a directory changed (POLL_MSG). May
    // sleep.
    void tell_message(int fd);

private:
    template <typename T, typename... A>
    friend Result<Ref<T>> make_ref(A&&...);
    FileOwner() : hook_(wake, this), work_(deliver, this) {}
    ~FileOwner() override;
    static bool wake(Waiter& waiter, u32 events);
    static void deliver(void* context);
    void tell(u32 events);
    void tell_urgent();
    bool may_tell(const Ref<Process>& process, const Ref<Task>& task);
    bool may_tell(const Credentials& target) const; // Requires: mutex_
    // Requires: mutex_, and that it is a group's. Those of its members that may be told.
    void tell_group(int signal);
    void start_delivery();
    void send(i32 code, i64 band, int fd);

    Mutex mutex_; // who it is, and whether it is armed
    Kind kind_ = Kind::Process;
    i32 number_ = 0;
    bool permitted_ = false;
    bool privileged_ = false; // who set it was, and who that was
    u32 uid_ = 0, euid_ = 0;
    Ref<Process> process_;
    Ref<Task> task_;
    // Not by its number, which is another group's when this one is gone. Given up under the tree
    // lock.
    Ref<ProcessGroup> group_;
    volatile int signal_ = 0;
    volatile int fd_ = -1;
    bool armed_ = false;
    base::Atomic<u32> events_{0}; // since the last signal
    base::Atomic<u32> urgent_{0};
    PollHook hook_;
    Work work_; // holds a reference while it is queued
};

} // namespace kernel
