// Wait queues: where tasks sleep until something happens, and where poll and epoll hook in.
#pragma once

#include "base/atomic.hpp"
#include "base/intrusive_list.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/sched/scheduler.hpp"

namespace kernel {

// One entry in one wait queue. The default wake function wakes `task`; epoll supplies its own.
struct Waiter {
    // Called with the queue's lock held and the event bits that became ready (POLLIN ...; 0 = all).
    // Returns whether an exclusive waiter was really woken. Must not take locks of rank WaitQueue
    // or above.
    using WakeFunction = bool (*)(Waiter& waiter, u32 events);
    base::ListNode node;
    WakeFunction function = nullptr;
    Task* task = nullptr;
    void* context = nullptr;
    bool exclusive = false; // wake_one() stops after one of these
};

class WaitQueue {
public:
    WaitQueue() = default;
    constexpr explicit WaitQueue(LockRank rank) : lock_(rank) {}
    void add(Waiter& waiter);
    void remove(Waiter& waiter); // harmless if not queued
    void wake_all(u32 events = 0);
    // Wakes every non-exclusive waiter and one exclusive one.
    void wake_one(u32 events = 0);
    // For whoever has just made true what others may wait for: that is visible before the look, as
    // in wake_all().
    bool has_waiters() const {
        base::fence(base::Order::SeqCst);
        return !waiters_empty_;
    }

private:
    SpinLock lock_{LockRank::WaitQueue};
    base::IntrusiveList<Waiter, &Waiter::node> waiters_;
    volatile bool waiters_empty_ = true;
};

// A Waiter for the running task.
void init_waiter(Waiter& waiter, bool exclusive = false);

enum class WaitOutcome : u8 { Ready, Interrupted, TimedOut };

// Sleeps until `ready()` holds, which is evaluated without locks by this task, at least once.
// Interrupted by signals unless `state` says otherwise.
template <typename Ready>
WaitOutcome wait_until(WaitQueue& queue, Ready&& ready, u64 deadline_ns = no_deadline,
                       TaskState state = TaskState::Interruptible, bool exclusive = false) {
    if (ready())
        return WaitOutcome::Ready;
    Waiter waiter;
    init_waiter(waiter, exclusive);
    queue.add(waiter);
    WaitOutcome outcome = WaitOutcome::Ready;
    for (;;) {
        set_state(state);
        if (ready())
            break;
        if (state == TaskState::Interruptible && signal_pending()) {
            outcome = WaitOutcome::Interrupted;
            break;
        }
        if (state == TaskState::Killable && fatal_signal_pending()) {
            outcome = WaitOutcome::Interrupted;
            break;
        }
        if (deadline_ns == no_deadline) {
            schedule();
        } else if (!schedule_until(deadline_ns)) {
            outcome = ready() ? WaitOutcome::Ready : WaitOutcome::TimedOut;
            break;
        }
    }
    set_state(TaskState::Running);
    queue.remove(waiter);
    return outcome;
}

} // namespace kernel
