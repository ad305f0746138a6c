// The waiters of all futexes, in buckets by key. Knows nothing of user memory.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/mm/address_space.hpp"

namespace kernel {

class Task;

struct FutexWaiter {
    base::ListNode node;
    Task* task = nullptr;
    AddressSpace::FutexKey key{};
    u32 bitset = ~u32{0};
    u32 bucket = 0;
    bool confirmed = false;        // has seen the expected value
    bool poked = false;            // was passed over by a waker: has to look again
    struct PiWaiter* pi = nullptr; // of FUTEX_WAIT_REQUEUE_PI: can only be moved to its lock
    volatile bool woken = false;
};

class FutexTable {
public:
    void add(FutexWaiter& waiter, const AddressSpace::FutexKey& key);
    // The waiter has read the expected value. False: a waker came by meanwhile, it must read again.
    bool confirm(FutexWaiter& waiter);
    // Takes the waiter out if it is still queued; returns whether it had been woken.
    bool remove(FutexWaiter& waiter);
    // Negative: there are waiters that can only be moved.
    long wake(const AddressSpace::FutexKey& key, u32 count, u32 bitset);
    // What requeue() does: wakes some and moves others to the end of another key's queue.
    struct Requeue {
        AddressSpace::FutexKey from, to;
        u32 wake_count, requeue_count;
        // Asked with both queues locked, so that it must not sleep; false: nothing is done. May be
        // null.
        bool (*check)(void* context);
        void* context;
        long woken = 0;
        u32 requeued = 0;
        bool mixed = false; // ended at a waiter that can only be moved to its lock
    };
    bool requeue(Requeue& request);
    // Moves up to `most` waiters to the priority-inheriting lock that `move` was prepared for.
    struct RequeuePi {
        AddressSpace::FutexKey from, to;
        u64 most;
        u64 address; // of the word that must still have this value, looked at with the queue locked
        u32 expected;
        enum class End : u8 { Done, Again, Mixed, Deadlock };
        long done = 0;
        End end = End::Done;
    };
    u32 count(const AddressSpace::FutexKey& key);
    void requeue_pi(RequeuePi& request, class PiMove& move);

private:
    static constexpr u32 buckets = 256;
    struct Bucket {
        SpinLock lock{LockRank::Futex};
        base::IntrusiveList<FutexWaiter, &FutexWaiter::node> waiters;
    };
    static u32 index(const AddressSpace::FutexKey& key) {
        return static_cast<u32>(hash_mix(reinterpret_cast<u64>(key.object) * 31 + key.offset)) %
               buckets;
    }
    // Locks the bucket that the waiter is in now: a requeue may move it.
    SpinGuard lock_bucket_of(FutexWaiter& waiter);

    Bucket buckets_[buckets];
};

} // namespace kernel
