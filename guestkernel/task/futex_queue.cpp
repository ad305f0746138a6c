#include "guestkernel/task/futex_queue.hpp"

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/sched/lend.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/futex_pi.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// Requires: the bucket's lock. Afterwards the waiter's memory may go away at any moment.
void wake_waiter(FutexWaiter& waiter) {
    waiter.node.unlink();
    Task& task = *waiter.task;
    // The task stays: it cannot leave remove() before the bucket's lock is free.
    __atomic_store_n(&waiter.woken, true, __ATOMIC_SEQ_CST);
    wake(task);
}

} // namespace

SpinGuard FutexTable::lock_bucket_of(FutexWaiter& waiter) {
    for (;;) {
        const u32 at = __atomic_load_n(&waiter.bucket, __ATOMIC_ACQUIRE);
        SpinGuard guard(buckets_[at].lock);
        if (waiter.bucket == at)
            return guard;
    }
}

void FutexTable::add(FutexWaiter& waiter, const AddressSpace::FutexKey& key) {
    waiter.key = key;
    waiter.bucket = index(key);
    Bucket& bucket = buckets_[waiter.bucket];
    SpinGuard guard(bucket.lock);
    // Real-time tasks are woken first, by priority.
    FutexWaiter* before = nullptr;
    if (const i32 priority = urgency(*waiter.task); priority > 0)
        for (FutexWaiter& other : bucket.waiters)
            if (urgency(*other.task) < priority) {
                before = &other;
                break;
            }
    if (before != nullptr)
        bucket.waiters.insert_before(*before, waiter);
    else
        bucket.waiters.push_back(waiter);
}

bool FutexTable::confirm(FutexWaiter& waiter) {
    const SpinGuard guard = lock_bucket_of(waiter);
    if (std::exchange(waiter.poked, false))
        return false;
    waiter.confirmed = true;
    return true;
}

bool FutexTable::remove(FutexWaiter& waiter) {
    const SpinGuard guard = lock_bucket_of(waiter);
    if (waiter.woken)
        return true;
    waiter.node.unlink();
    return false;
}

long FutexTable::wake(const AddressSpace::FutexKey& key, u32 count, u32 bitset) {
    Bucket& bucket = buckets_[index(key)];
    long woken = 0;
    // Whoever queues up later reads the word later, and sees what the caller wrote before it came
    // here.
    base::fence(base::Order::SeqCst);
    SpinGuard guard(bucket.lock);
    for (auto it = bucket.waiters.begin(); it != bucket.waiters.end();) {
        FutexWaiter& waiter = *it;
        ++it;
        if (!(waiter.key == key) || (waiter.bitset & bitset) == 0)
            continue;
        if (!waiter.confirmed) {
            waiter.poked = true;
            continue;
        }
        if (woken >= static_cast<long>(count))
            continue; // the rest may still have to be poked
        if (waiter.pi != nullptr)
            return -1;
        wake_waiter(waiter);
        woken++;
    }
    return woken;
}

bool FutexTable::requeue(Requeue& request) {
    const u32 source = index(request.from);
    const u32 target = index(request.to);
    base::fence(base::Order::SeqCst); // as in wake()
    // Two buckets: their rank is the same, so the second is taken by trying.
    for (;;) {
        SpinGuard first(buckets_[source].lock);
        if (target != source && !buckets_[target].lock.try_lock()) {
            first.unlock();
            arch::relax();
            continue;
        }
        const bool agreed = request.check == nullptr || request.check(request.context);
        auto& waiters = buckets_[source].waiters;
        // What is moved within one bucket goes to its end: stop at what was the end before.
        FutexWaiter* last = waiters.back();
        for (FutexWaiter* at = agreed ? waiters.front() : nullptr; at != nullptr;) {
            FutexWaiter& waiter = *at;
            at = &waiter == last ? nullptr : waiters.next(waiter);
            if (!(waiter.key == request.from))
                continue;
            if (!waiter.confirmed) {
                waiter.poked = true;
            } else if (waiter.pi != nullptr) {
                request.mixed = true;
                break;
            } else if (request.woken < static_cast<long>(request.wake_count)) {
                wake_waiter(waiter);
                request.woken++;
            } else if (request.requeued < request.requeue_count) {
                waiter.node.unlink();
                waiter.key = request.to;
                __atomic_store_n(&waiter.bucket, target, __ATOMIC_RELEASE);
                buckets_[target].waiters.push_back(waiter);
                request.requeued++;
            }
        }
        if (target != source)
            buckets_[target].lock.unlock();
        return agreed;
    }
}

u32 FutexTable::count(const AddressSpace::FutexKey& key) {
    Bucket& bucket = buckets_[index(key)];
    SpinGuard guard(bucket.lock);
    u32 count = 0;
    for (const FutexWaiter& waiter : bucket.waiters)
        if (waiter.key == key)
            count++;
    return count;
}

void FutexTable::requeue_pi(RequeuePi& request, PiMove& move) {
    using End = RequeuePi::End;
    base::fence(base::Order::SeqCst); // as in wake()
    Bucket& bucket = buckets_[index(request.from)];
    SpinGuard guard(bucket.lock);
    Task& task = current_task();
    task.faults_disabled++;
    const auto value = UserPtr<const u32>(request.address).copy_in();
    task.faults_disabled--;
    if (!value || *value != request.expected) {
        request.end = End::Again; // the caller looks what it is
        return;
    }
    for (auto it = bucket.waiters.begin(); it != bucket.waiters.end();) {
        FutexWaiter& waiter = *it;
        ++it;
        if (!(waiter.key == request.from))
            continue;
        if (!waiter.confirmed) {
            waiter.poked = true;
            continue;
        }
        if (static_cast<u64>(request.done) >= request.most)
            continue;
        if (waiter.pi == nullptr || !(waiter.pi->target == request.to)) {
            request.end = End::Mixed;
            return;
        }
        const auto moved = move.move(*waiter.pi, request.most > 1);
        if (moved != PiMove::Outcome::Granted && moved != PiMove::Outcome::Queued) {
            request.end = moved == PiMove::Outcome::Deadlock ? End::Deadlock : End::Again;
            return;
        }
        request.done++;
        waiter.node.unlink();
        Task& sleeper = *waiter.task;
        __atomic_store_n(&waiter.woken, true, __ATOMIC_SEQ_CST);
        if (moved == PiMove::Outcome::Granted)
            kernel::wake(sleeper);
    }
}

} // namespace kernel
