// One spin lock guards all of it: contended locks are few. The word is changed under it, with
// faults off; a word that is not there is read without the lock, and the step repeated.
#include "guestkernel/task/futex_pi.hpp"

#include <linux/errno.h>
#include <linux/futex.h>

#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/sched/lend.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/futex.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

using Key = AddressSpace::FutexKey;

struct PiLock {
    base::ListNode node;
    Key key{};
    Task* owner = nullptr; // null: it ended; cleared before the task goes
    base::IntrusiveList<PiWaiter, &PiWaiter::node>
        waiters; // by falling priority; never empty between steps
    PiLock* next_owned = nullptr;
};

namespace {

constexpr unsigned longest_chain = 1024; // as kernel.max_lock_depth of Linux
constexpr usize bucket_count = 64;
constexpr u64 retry_delay_ns = 100'000;

// Taken under the locks of futex buckets and of the process tree: any rank below theirs and above a
// run queue's does.
constinit SpinLock pi_lock{LockRank::Terminal};
constinit base::IntrusiveList<PiLock, &PiLock::node> pi_locks[bucket_count];

auto& bucket_of(const Key& key) {
    return pi_locks[hash_mix(reinterpret_cast<u64>(key.object) * 31 + key.offset) % bucket_count];
}

// All below require pi_lock.

PiLock* find_lock(const Key& key) {
    for (PiLock& lock : bucket_of(key))
        if (lock.key == key)
            return &lock;
    return nullptr;
}

// The order of waiters: real-time by priority, then all others alike; first come first served among
// equals.
void insert_waiter(PiLock& lock, PiWaiter& waiter) {
    const i32 priority = urgency(*waiter.task);
    PiWaiter* before = nullptr;
    for (PiWaiter& other : lock.waiters)
        if (urgency(*other.task) < priority) {
            before = &other;
            break;
        }
    if (before != nullptr)
        lock.waiters.insert_before(*before, waiter);
    else
        lock.waiters.push_back(waiter);
    waiter.lock = &lock;
    waiter.task->pi_waits_for = &lock;
}

void take_out(PiWaiter& waiter) {
    waiter.node.unlink();
    waiter.lock = nullptr;
    waiter.task->pi_waits_for = nullptr;
}

PiWaiter* waiter_of(PiLock& lock, const Task& task) {
    for (PiWaiter& waiter : lock.waiters)
        if (waiter.task == &task)
            return &waiter;
    return nullptr;
}

void set_owner(PiLock& lock, Task* owner) {
    if (Task* old = lock.owner) {
        PiLock** at = &old->pi_owned;
        while (*at != &lock)
            at = &(*at)->next_owned;
        *at = lock.next_owned;
    }
    lock.owner = owner;
    lock.next_owned = nullptr;
    if (owner != nullptr) {
        lock.next_owned = owner->pi_owned;
        owner->pi_owned = &lock;
    }
}

// What the waiters of its locks lend a task now; on along the chain if that changes its place among
// the waiters of the lock that it waits for itself.
void adjust(Task* task) {
    for (unsigned depth = 0; task != nullptr && depth < longest_chain; depth++) {
        i32 priority = 0, nice = 20;
        for (PiLock* lock = task->pi_owned; lock != nullptr; lock = lock->next_owned)
            for (const PiWaiter& waiter : lock->waiters) {
                const i32 lent = urgency(*waiter.task);
                const i32 lent_nice = effective_nice(*waiter.task);
                priority = lent > priority ? lent : priority;
                nice = lent_nice < nice ? lent_nice : nice;
            }
        if (priority == task->lent_rt_priority && nice == task->lent_nice)
            return;
        lend_priority(*task, priority, nice);
        PiLock* above = task->pi_waits_for;
        if (above == nullptr)
            return;
        if (PiWaiter* waiter = waiter_of(*above, *task)) {
            waiter->node.unlink();
            insert_waiter(*above, *waiter);
        }
        task = above->owner;
    }
}

// The lock has no waiters any more; the caller deletes it without pi_lock.
PiLock* retire_if_unused(PiLock& lock) {
    if (!lock.waiters.empty())
        return nullptr;
    set_owner(lock, nullptr);
    lock.node.unlink();
    return &lock;
}

// Whether `task`, waiting for a lock of `owner`, would wait for itself.
bool closes_circle(const Task& task, const Task* owner) {
    for (unsigned depth = 0; owner != nullptr; depth++) {
        if (owner == &task || depth == longest_chain)
            return true;
        owner = owner->pi_waits_for != nullptr ? owner->pi_waits_for->owner : nullptr;
    }
    return false;
}

enum class Exchange : u8 { Done, Changed, Fault };
Exchange exchange_word(u64 address, u32 expected, u32 wanted) {
    Task& task = current_task();
    u32 found = 0;
    task.faults_disabled++;
    const bool readable = arch::compare_exchange_user(address, expected, wanted, found);
    task.faults_disabled--;
    if (!readable)
        return Exchange::Fault;
    return found == expected ? Exchange::Done : Exchange::Changed;
}

// Without pi_lock: reads the word, and makes it writable.
Result<u32> word_at(u64 address) {
    for (;;) {
        TRY(const u32 value, UserPtr<const u32>(address).copy_in());
        u32 found = 0;
        if (!arch::compare_exchange_user(address, value, value, found))
            return fail(EFAULT);
        if (found == value)
            return value;
    }
}

// Who holds the lock by its word: ESRCH if no such thread lives and nobody knows of it here.
Result<Ref<Task>> owner_of(u32 word, const Key& key) {
    const u32 tid = word & FUTEX_TID_MASK;
    if (tid == 0)
        return Ref<Task>();
    Ref<Task> owner = find_task(global_pid(static_cast<i32>(tid)));
    if (owner)
        return owner;
    SpinGuard guard(pi_lock);
    if (find_lock(key) == nullptr)
        return fail(ESRCH);
    return owner;
}

u32 number_of(const Task& task) {
    return static_cast<u32>(task.own_tid);
}

enum class Step : u8 { Taken, Queued, Again, Fault, Busy, Deadlock, Invalid };

// Takes a free lock for the waiter's task, or queues it. Requires: pi_lock. `word` and `owner` were
// looked up before.
Step take_or_queue(PiWaiter& waiter, u64 address, const Key& key, u32 word, Task* owner,
                   Owned<PiLock>& fresh, bool may_queue, bool mark_waiters) {
    const auto again = [](Exchange exchanged) {
        return exchanged == Exchange::Fault ? Step::Fault : Step::Again;
    };
    Task& task = *waiter.task;
    PiLock* lock = find_lock(key);
    if ((word & FUTEX_TID_MASK) == 0) {
        // Free, by unlocking or by its owner's death.
        const u32 taken = number_of(task) | (word & FUTEX_OWNER_DIED) |
                          (lock != nullptr || mark_waiters ? u32{FUTEX_WAITERS} : 0);
        if (const Exchange exchanged = exchange_word(address, word, taken);
            exchanged != Exchange::Done)
            return again(exchanged);
        if (lock != nullptr) {
            set_owner(*lock, &task);
            adjust(&task);
        }
        return Step::Taken;
    }
    if (owner == &task)
        return Step::Deadlock;
    if (!may_queue)
        return Step::Busy;
    if (lock == nullptr && (owner == nullptr || owner->exiting))
        return Step::Again; // its end decides
    if (lock != nullptr && lock->owner != nullptr && lock->owner != owner) {
        // The word was tampered with, unless the lock has changed hands since it was read.
        const Exchange unchanged = exchange_word(address, word, word);
        return unchanged == Exchange::Done ? Step::Invalid : again(unchanged);
    }
    if (lock == nullptr && !fresh)
        return Step::Again;
    if (closes_circle(task, lock != nullptr ? lock->owner : owner))
        return Step::Deadlock;
    if (const Exchange exchanged = exchange_word(address, word, word | FUTEX_WAITERS);
        exchanged != Exchange::Done)
        return again(exchanged);
    if (lock == nullptr) {
        lock = fresh.leak();
        lock->key = key;
        bucket_of(key).push_back(*lock);
        set_owner(*lock, owner);
    }
    insert_waiter(*lock, waiter);
    adjust(lock->owner);
    return Step::Queued;
}

// The waiter is the heir of an owner that ended: takes the lock. False: somebody else was faster,
// it waits on.
Result<bool> inherit(PiWaiter& waiter, u64 address) {
    for (;;) {
        TRY(const u32 word, word_at(address));
        PiLock* unused = nullptr;
        {
            SpinGuard guard(pi_lock);
            if (waiter.granted)
                return true;
            PiLock& lock = *waiter.lock;
            waiter.orphaned = false;
            if (lock.owner != nullptr)
                return false;
            const u32 wanted = number_of(*waiter.task) | FUTEX_WAITERS | FUTEX_OWNER_DIED;
            if (exchange_word(address, word, wanted) != Exchange::Done) {
                waiter.orphaned = true;
                continue;
            }
            take_out(waiter);
            set_owner(lock, waiter.task);
            unused = retire_if_unused(lock);
            adjust(waiter.task);
            waiter.granted = true;
        }
        delete unused;
        return true;
    }
}

// Gives up waiting. Returns whether the lock had come meanwhile.
bool leave_lock(PiWaiter& waiter) {
    PiLock* unused = nullptr;
    {
        SpinGuard guard(pi_lock);
        if (waiter.granted)
            return true;
        PiLock& lock = *waiter.lock;
        take_out(waiter);
        PiWaiter* next = lock.waiters.front();
        if (lock.owner == nullptr && next != nullptr) {
            next->orphaned = true;
            wake(*next->task);
        }
        Task* owner = lock.owner;
        unused = retire_if_unused(lock);
        adjust(owner);
    }
    delete unused;
    return false;
}

} // namespace

Result<void> finish_pi_wait(PiWaiter& waiter, u64 address, u64 deadline_ns, bool& interrupted) {
    interrupted = false;
    bool late = false;
    for (;;) {
        set_state(TaskState::Interruptible);
        if (!waiter.granted && !waiter.orphaned && !late) {
            interrupted = signal_pending();
            if (!interrupted) {
                late = !schedule_until(deadline_ns);
                continue;
            }
        }
        set_state(TaskState::Running);
        if (waiter.orphaned && !waiter.granted) {
            const auto inherited = inherit(waiter, address);
            if (!inherited) {
                (void)leave_lock(waiter);
                return fail(inherited.error().code);
            }
            if (!*inherited && !late && !interrupted)
                continue;
        }
        // Even if it was granted: whoever did that is done with this task when pi_lock is free.
        if (leave_lock(waiter))
            return {};
        return fail(late ? ETIMEDOUT : EINTR);
    }
}

Result<long> futex_lock_pi(u64 address, u64 deadline_ns, bool try_only, bool is_private) {
    TRY(const Key key, futex_key_of(address, is_private));
    PiWaiter waiter;
    waiter.task = arch::current();
    for (;;) {
        TRY(const u32 word, word_at(address));
        if ((word & FUTEX_TID_MASK) == number_of(current_task()))
            return fail(EDEADLK);
        TRY(const Ref<Task> owner, owner_of(word, key));
        TRY(Owned<PiLock> fresh, make_owned<PiLock>());
        Step step = Step::Again;
        {
            SpinGuard guard(pi_lock);
            step = take_or_queue(waiter, address, key, word, owner.get(), fresh, !try_only, false);
        }
        switch (step) {
        case Step::Taken:
            return 0;
        case Step::Queued: {
            bool interrupted = false;
            const auto got = finish_pi_wait(waiter, address, deadline_ns, interrupted);
            if (got)
                return 0;
            return fail(interrupted ? restart_no_interrupt : got.error().code);
        }
        case Step::Busy:
            return fail(EAGAIN);
        case Step::Deadlock:
            return fail(EDEADLK);
        case Step::Invalid:
            return fail(EINVAL);
        case Step::Again:
        case Step::Fault:
            // Another thread was faster, or the owner is ending: its end decides.
            if (signal_pending())
                return fail(restart_no_interrupt);
            set_state(TaskState::Interruptible);
            (void)schedule_until(monotonic_ns() + retry_delay_ns);
            set_state(TaskState::Running);
        }
    }
}

Result<long> futex_unlock_pi(u64 address, bool is_private) {
    TRY(const Key key, futex_key_of(address, is_private));
    Task& task = current_task();
    for (;;) {
        TRY(const u32 word, word_at(address));
        if ((word & FUTEX_TID_MASK) != number_of(task))
            return fail(EPERM);
        PiLock* unused = nullptr;
        {
            SpinGuard guard(pi_lock);
            PiLock* lock = find_lock(key);
            if (lock != nullptr && lock->owner != &task)
                return fail(EINVAL);
            PiWaiter* heir = lock != nullptr ? lock->waiters.front() : nullptr;
            const u32 wanted = heir != nullptr ? number_of(*heir->task) | FUTEX_WAITERS : 0;
            if (exchange_word(address, word, wanted) != Exchange::Done)
                continue;
            if (heir == nullptr)
                return 0;
            take_out(*heir);
            set_owner(*lock, heir->task);
            unused = retire_if_unused(*lock);
            adjust(&task);
            adjust(heir->task);
            Task& next = *heir->task;
            __atomic_store_n(&heir->granted, true, __ATOMIC_SEQ_CST);
            // The task stays: to leave it needs pi_lock.
            wake(next);
        }
        delete unused;
        return 0;
    }
}

PiMove::PiMove() = default;
PiMove::~PiMove() = default;

Result<void> PiMove::prepare(u64 address, const Key& key) {
    address_ = address;
    key_ = key;
    TRY(word_, word_at(address));
    TRY(owner_, owner_of(word_, key));
    if (!fresh_) {
        TRY(fresh_, make_owned<PiLock>());
    }
    return {};
}

PiMove::Outcome PiMove::move(PiWaiter& waiter, bool more_follow) {
    if ((word_ & FUTEX_TID_MASK) == number_of(*waiter.task))
        return Outcome::Deadlock;
    SpinGuard guard(pi_lock);
    switch (take_or_queue(waiter, address_, key_, word_, owner_.get(), fresh_, true, more_follow)) {
    case Step::Taken:
        // Those who follow wait for this one.
        word_ = number_of(*waiter.task) | (word_ & FUTEX_OWNER_DIED) |
                (find_lock(key_) != nullptr || more_follow ? u32{FUTEX_WAITERS} : 0);
        owner_ = Ref<Task>::share(waiter.task);
        __atomic_store_n(&waiter.granted, true, __ATOMIC_SEQ_CST);
        return Outcome::Granted;
    case Step::Queued:
        word_ |= FUTEX_WAITERS;
        return Outcome::Queued;
    case Step::Again:
        return Outcome::Again;
    case Step::Fault:
        return Outcome::Fault;
    default:
        return Outcome::Deadlock;
    }
}

void exit_pi_locks(Task& task) {
    SpinGuard guard(pi_lock);
    while (PiLock* lock = task.pi_owned) {
        set_owner(*lock, nullptr);
        if (PiWaiter* heir = lock->waiters.front()) {
            __atomic_store_n(&heir->orphaned, true, __ATOMIC_SEQ_CST);
            wake(*heir->task);
        }
    }
    adjust(&task);
}

void pi_priority_changed(Task& task) {
    SpinGuard guard(pi_lock);
    PiLock* lock = task.pi_waits_for;
    if (lock == nullptr)
        return;
    if (PiWaiter* waiter = waiter_of(*lock, task)) {
        waiter->node.unlink();
        insert_waiter(*lock, *waiter);
    }
    adjust(lock->owner);
}

} // namespace kernel
