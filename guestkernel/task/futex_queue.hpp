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
    bool confirmed = false; // has seen the expected value
    bool poked = false;     // was passed over by a waker: has to look again
    bool is_pi = false;
    volatile bool woken = false;
};

class FutexTable {
public:
    void add(FutexWaiter& waiter, const AddressSpace::FutexKey& key);
    // The waiter has read the expected value. False: a waker came by meanwhile, it must read again.
    bool confirm(FutexWaiter& waiter);
    // Takes the waiter out if it is still queued; returns whether it had been woken.
    bool remove(FutexWaiter& waiter);
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
    };
    bool requeue(Requeue& request);
    u32 count(const AddressSpace::FutexKey& key);
    i32 first_pi_waiter(const AddressSpace::FutexKey& key); // its tid, or 0

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
