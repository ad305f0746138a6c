#include "guestkernel/core/lock.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/panic.hpp"

namespace kernel {

namespace {

// The ranks of the spin locks that each CPU holds, as bits. The kernel is not preempted, so a CPU's
// word is its own.
constinit u64 held_ranks[64] = {};
#ifdef NDEBUG
constexpr bool check_ranks = false;
#else
constexpr bool check_ranks = true;
#endif

void note_lock(LockRank rank) {
    if (check_ranks && rank != LockRank::Nested) {
        u64& held = held_ranks[arch::cpu_id()];
        const u64 bit = u64{1} << static_cast<unsigned>(rank);
        if ((held & (bit | (bit - 1))) != 0) {
            held = 0; // the report itself takes locks
            PANIC("spin lock taken out of order");
        }
        held |= bit;
    }
}

} // namespace

bool spin_locks_held() {
    return check_ranks && held_ranks[arch::cpu_id()] != 0;
}

void SpinLock::lock() {
    note_lock(rank_);
    while (state_.exchange(1, base::Order::Acquire) != 0)
        while (state_.load(base::Order::Relaxed) != 0)
            arch::relax();
}

bool SpinLock::try_lock() {
    if (state_.exchange(1, base::Order::Acquire) != 0)
        return false;
    // Whoever only tries cannot wait for a holder, so the order does not matter.
    if (check_ranks && rank_ != LockRank::Nested)
        held_ranks[arch::cpu_id()] |= u64{1} << static_cast<unsigned>(rank_);
    return true;
}

void SpinLock::unlock() {
    if (check_ranks && rank_ != LockRank::Nested)
        held_ranks[arch::cpu_id()] &= ~(u64{1} << static_cast<unsigned>(rank_));
    state_.store(0, base::Order::Release);
}

} // namespace kernel
