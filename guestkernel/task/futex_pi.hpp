// Priority-inheriting futexes (futex(2)): the word in user memory holds the owner's thread number;
// as soon as somebody waits, a PiLock here knows the owner, lends it the highest priority of its
// waiters (down a chain of locks), and says who gets the lock next.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/mm/address_space.hpp"

namespace kernel {

class Task;
struct PiLock;

struct PiWaiter {
    base::ListNode node;
    Task* task = nullptr;
    PiLock* lock = nullptr;          // null: not queued
    AddressSpace::FutexKey target{}; // of FUTEX_WAIT_REQUEUE_PI: where it may be moved to
    // The lock is this waiter's, and the word says so.
    volatile bool granted = false;
    // The owner ended: the waiter has to take the lock itself.
    volatile bool orphaned = false;
};

// A request to move a waiter of FUTEX_WAIT_REQUEUE_PI to the lock at `address`; made ready without
// locks.
class PiMove {
public:
    PiMove();
    PiMove(const PiMove&) = delete;
    PiMove& operator=(const PiMove&) = delete;
    ~PiMove();
    // Reads the word, finds its owner. Called again when move() says Again.
    Result<void> prepare(u64 address, const AddressSpace::FutexKey& key);
    enum class Outcome : u8 { Granted, Queued, Again, Fault, Deadlock };
    // No spin lock but those of futex buckets is held; does not sleep.
    Outcome move(PiWaiter& waiter, bool more_follow);

private:
    u64 address_ = 0;
    AddressSpace::FutexKey key_{};
    u32 word_ = 0;
    Ref<Task> owner_;
    Owned<PiLock> fresh_;
};

// Sleeps until the queued waiter has the lock. ETIMEDOUT; `interrupted`: by a signal.
Result<void> finish_pi_wait(PiWaiter& waiter, u64 address, u64 deadline_ns, bool& interrupted);

// A task ends or executes another program: what it holds goes to the next waiters.
void exit_pi_locks(Task& task);
// A waiter's own priority changed. No spin lock of rank Terminal or below is held.
void pi_priority_changed(Task& task);

// futex.cpp: what both need.
Result<AddressSpace::FutexKey> futex_key_of(u64 address, bool is_private);

} // namespace kernel
