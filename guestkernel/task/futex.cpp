// Futexes. The word is user memory and reading it may fault, so it is never read under a bucket's
// lock: a waiter queues up unconfirmed, reads the word, and confirms. A waker passes over
// unconfirmed waiters but marks them, and a marked one reads the word again: so either the waiter
// sees the new value or the waker sees the waiter, and no wake-up is spent on somebody who would
// not have slept.
#include "guestkernel/task/futex.hpp"

#include <linux/errno.h>
#include <linux/futex.h>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/futex_pi.hpp"
#include "guestkernel/task/futex_queue.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constinit FutexTable table;

using Key = AddressSpace::FutexKey;

} // namespace

Result<Key> futex_key_of(u64 address, bool is_private) {
    if (address % sizeof(u32) != 0)
        return fail(EINVAL);
    if (!user_range_ok(address, sizeof(u32)))
        return fail(EFAULT);
    AddressSpace& space = *current_task().address_space;
    if (is_private)
        return Key{&space, address};
    return space.futex_key(VirtAddr(address), true);
}

namespace {

Result<u32> read_word(u64 address) {
    return UserPtr<const u32>(address).copy_in();
}

// Confirms a queued waiter against the word. EAGAIN: the word differs, the waiter is out of the
// queue.
Result<void> confirm(FutexWaiter& waiter, u64 address, u32 expected) {
    for (;;) {
        auto value = read_word(address);
        if (!value || *value != expected) {
            table.remove(waiter);
            return fail(value ? EAGAIN : EFAULT);
        }
        if (table.confirm(waiter))
            return {};
    }
}

enum class Slept : u8 { Woken, TimedOut, Interrupted };

// Sleeps until any of the waiters is woken.
Slept sleep(std::span<FutexWaiter> waiters, u64 deadline_ns) {
    const auto woken = [&] {
        for (FutexWaiter& waiter : waiters)
            if (waiter.woken)
                return true;
        return false;
    };
    Slept result = Slept::Woken;
    for (;;) {
        set_state(TaskState::Interruptible);
        if (woken())
            break;
        if (signal_pending()) {
            result = Slept::Interrupted;
            break;
        }
        if (!schedule_until(deadline_ns)) {
            result = Slept::TimedOut;
            break;
        }
    }
    set_state(TaskState::Running);
    return result;
}

struct WaiterArray {
    explicit WaiterArray(u32 count) : waiters(new (std::nothrow) FutexWaiter[count]) {}
    WaiterArray(const WaiterArray&) = delete;
    WaiterArray& operator=(const WaiterArray&) = delete;
    ~WaiterArray() { delete[] waiters; }
    FutexWaiter* waiters;
};

long restart_wait(Task& task);

Result<long> interrupted_wait(u64 address, u32 expected, u32 bitset, u64 deadline_ns,
                              bool is_private) {
    if (deadline_ns == no_deadline)
        return fail(restart_syscall);
    SignalState& state = *current_task().signals;
    state.restart = restart_wait;
    const u64 data[] = {address, expected, bitset, deadline_ns, is_private ? u64{1} : u64{0}};
    for (unsigned i = 0; i < 5; i++)
        state.restart_data[i] = data[i];
    return fail(restart_with_block);
}

long restart_wait(Task& task) {
    const u64* data = task.signals->restart_data;
    const auto result = futex_wait(data[0], static_cast<u32>(data[1]), static_cast<u32>(data[2]),
                                   data[3], data[4] != 0);
    return result ? *result : -long{result.error().code};
}

} // namespace

Result<long> futex_wait(u64 address, u32 expected, u32 bitset, u64 deadline_ns, bool is_private) {
    if (bitset == 0)
        return fail(EINVAL);
    TRY(const Key key, futex_key_of(address, is_private));
    // Most waits that do not wait end here.
    TRY(const u32 value, read_word(address));
    if (value != expected)
        return fail(EAGAIN);
    FutexWaiter waiter;
    waiter.task = arch::current();
    waiter.bitset = bitset;
    table.add(waiter, key);
    TRY(confirm(waiter, address, expected));
    const Slept slept = sleep(std::span(&waiter, 1), deadline_ns);
    if (table.remove(waiter)) // woken, however the sleep ended
        return 0;
    if (slept == Slept::TimedOut)
        return fail(ETIMEDOUT);
    return interrupted_wait(address, expected, bitset, deadline_ns, is_private);
}

Result<long> futex_wake(u64 address, u32 count, u32 bitset, bool is_private) {
    if (bitset == 0)
        return fail(EINVAL);
    TRY(const Key key, futex_key_of(address, is_private));
    const long woken = table.wake(key, count, bitset);
    if (woken < 0)
        return fail(EINVAL);
    return woken;
}

Result<long> futex_requeue(u64 address, u64 target, u32 wake_count, u32 requeue_count,
                           const u32* expected, bool is_private) {
    TRY(const Key from, futex_key_of(address, is_private));
    TRY(const Key to, futex_key_of(target, is_private));
    // The comparison and the move are one step: nobody may queue up for a newer value in between.
    struct Comparison {
        u64 address;
        u32 expected;
        u32 found = 0;
        bool readable = true;
    } comparison{address, expected != nullptr ? *expected : 0};
    const auto compare = [](void* raw) {
        auto& it = *static_cast<Comparison*>(raw);
        Task& task = current_task();
        task.faults_disabled++;
        const auto value = read_word(it.address);
        task.faults_disabled--;
        it.readable = static_cast<bool>(value);
        it.found = it.readable ? *value : 0;
        return it.readable && it.found == it.expected;
    };
    for (;;) {
        FutexTable::Requeue request{from, to, wake_count, requeue_count, nullptr, nullptr};
        if (expected != nullptr) {
            TRY(read_word(address)); // the page is there, most likely
            request.check = compare;
            request.context = &comparison;
        }
        const bool done = table.requeue(request);
        if (request.mixed)
            return fail(EINVAL);
        if (done)
            return expected != nullptr ? request.woken + request.requeued : request.woken;
        if (comparison.readable)
            return fail(EAGAIN);
        if (fatal_signal_pending())
            return fail(EINTR);
    }
}

Result<long> futex_wake_op(u64 address, u64 second, u32 count, u32 second_count, u32 operation,
                           bool is_private) {
    TRY(const Key first_key, futex_key_of(address, is_private));
    TRY(const Key second_key, futex_key_of(second, is_private));
    // futex(2): op, comparison, two signed 12-bit arguments.
    const u32 op = operation >> 28 & 7;
    const u32 compare = operation >> 24 & 15;
    i32 argument = static_cast<i32>(operation << 8) >> 20;
    const i32 compare_argument = static_cast<i32>(operation << 20) >> 20;
    if ((operation >> 28 & FUTEX_OP_OPARG_SHIFT) != 0)
        argument = static_cast<i32>(u32{1} << (argument & 31));
    const auto operand = static_cast<u32>(argument);
    TRY(u32 old, read_word(second));
    for (;;) {
        u32 fresh = 0;
        switch (op) {
        case FUTEX_OP_SET:
            fresh = operand;
            break;
        case FUTEX_OP_ADD:
            fresh = old + operand;
            break;
        case FUTEX_OP_OR:
            fresh = old | operand;
            break;
        case FUTEX_OP_ANDN:
            fresh = old & ~operand;
            break;
        case FUTEX_OP_XOR:
            fresh = old ^ operand;
            break;
        default:
            return fail(ENOSYS);
        }
        u32 found = 0;
        if (!arch::compare_exchange_user(second, old, fresh, found))
            return fail(EFAULT);
        if (found == old)
            break;
        old = found;
    }
    const auto value = static_cast<i32>(old);
    bool holds = false;
    switch (compare) {
    case FUTEX_OP_CMP_EQ:
        holds = value == compare_argument;
        break;
    case FUTEX_OP_CMP_NE:
        holds = value != compare_argument;
        break;
    case FUTEX_OP_CMP_LT:
        holds = value < compare_argument;
        break;
    case FUTEX_OP_CMP_GE:
        holds = value >= compare_argument;
        break;
    case FUTEX_OP_CMP_LE:
        holds = value <= compare_argument;
        break;
    case FUTEX_OP_CMP_GT:
        holds = value > compare_argument;
        break;
    default:
        return fail(ENOSYS);
    }
    const long woken = table.wake(first_key, count, FUTEX_BITSET_MATCH_ANY);
    const long more = holds ? table.wake(second_key, second_count, FUTEX_BITSET_MATCH_ANY) : 0;
    if (woken < 0 || more < 0)
        return fail(EINVAL);
    return woken + more;
}

Result<long> futex_wait_any(const FutexWaitSpec* specs, u32 count, u64 deadline_ns) {
    const WaiterArray array(count);
    if (array.waiters == nullptr)
        return fail(ENOMEM);
    const std::span<FutexWaiter> waiters(array.waiters, count);
    u32 queued = 0;
    const auto leave = [&]() -> i32 {
        i32 woken = -1;
        for (u32 i = 0; i < queued; i++)
            if (table.remove(waiters[i]) && woken < 0)
                woken = static_cast<i32>(i);
        return woken;
    };
    for (; queued < count; queued++) {
        const FutexWaitSpec& spec = specs[queued];
        auto key = futex_key_of(spec.address, spec.is_private);
        int error = key ? 0 : key.error().code;
        if (error == 0) {
            FutexWaiter& waiter = waiters[queued];
            waiter.task = arch::current();
            table.add(waiter, *key);
            if (auto done = confirm(waiter, spec.address, spec.expected); !done)
                error = done.error().code;
        }
        if (error != 0) {
            const i32 woken = leave();
            return woken >= 0 ? Result<long>(woken) : Result<long>(fail(error));
        }
    }
    const Slept slept = sleep(waiters, deadline_ns);
    if (const i32 woken = leave(); woken >= 0)
        return woken;
    return fail(slept == Slept::TimedOut ? ETIMEDOUT : restart_syscall);
}

// --- condition variables of priority-inheriting locks

Result<long> futex_wait_requeue_pi(u64 address, u32 expected, u32 bitset, u64 deadline_ns,
                                   u64 target, bool is_private) {
    if (bitset == 0 || address == target)
        return fail(EINVAL);
    TRY(const Key key, futex_key_of(address, is_private));
    PiWaiter pi;
    pi.task = arch::current();
    TRY(pi.target, futex_key_of(target, is_private));
    FutexWaiter waiter;
    waiter.task = arch::current();
    waiter.bitset = bitset;
    waiter.pi = &pi;
    table.add(waiter, key);
    TRY(confirm(waiter, address, expected));
    const Slept slept = sleep(std::span(&waiter, 1), deadline_ns);
    if (!table.remove(waiter)) // still where it queued up
        return fail(slept == Slept::TimedOut ? ETIMEDOUT : restart_no_interrupt);
    bool interrupted = false;
    if (auto got = finish_pi_wait(pi, target, deadline_ns, interrupted); !got)
        return fail(interrupted ? EAGAIN
                                : got.error().code); // futex(2): not restarted, it has moved
    return 0;
}

Result<long> futex_requeue_pi(u64 address, u64 target, u32 requeue_count, u32 expected,
                              bool is_private) {
    if (address == target)
        return fail(EINVAL);
    TRY(const Key from, futex_key_of(address, is_private));
    TRY(const Key to, futex_key_of(target, is_private));
    long done = 0;
    PiMove move;
    for (;;) {
        const auto prepared = move.prepare(target, to);
        const auto value = read_word(address);
        if (!prepared || !value || *value != expected) {
            if (done != 0)
                return done;
            return fail(!prepared ? prepared.error().code : !value ? EFAULT : EAGAIN);
        }
        FutexTable::RequeuePi request{from, to, u64{requeue_count} + 1 - static_cast<u64>(done),
                                      address, expected};
        table.requeue_pi(request, move);
        done += request.done;
        switch (request.end) {
        case FutexTable::RequeuePi::End::Done:
            return done;
        case FutexTable::RequeuePi::End::Mixed:
            return fail(EINVAL);
        case FutexTable::RequeuePi::End::Deadlock:
            return fail(EDEADLK);
        case FutexTable::RequeuePi::End::Again:
            if (fatal_signal_pending())
                return fail(EINTR);
            yield();
        }
    }
}

// --- robust lists
// ---------------------------------------------------------------------------------------------------

namespace {

// The lock at `address` was held by the ending task: says so in the word and lets somebody else in.
void mark_owner_died(u64 address, bool is_pi, bool is_pending, u32 tid) {
    if (address % sizeof(u32) != 0)
        return;
    auto value = read_word(address);
    for (;;) {
        if (!value)
            return;
        const u32 old = *value;
        if (is_pending && !is_pi && old == 0) {
            // It had unlocked but not yet woken the next one.
            (void)futex_wake(address, 1, FUTEX_BITSET_MATCH_ANY, false);
            (void)futex_wake(address, 1, FUTEX_BITSET_MATCH_ANY, true);
            return;
        }
        if ((old & FUTEX_TID_MASK) != tid)
            return;
        const u32 fresh = (old & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
        u32 found = 0;
        if (!arch::compare_exchange_user(address, old, fresh, found))
            return;
        if (found != old) {
            value = found;
            continue;
        }
        // Of a priority-inheriting lock, exit_pi_locks() wakes the heir.
        if ((old & FUTEX_WAITERS) != 0 && !is_pi) {
            (void)futex_wake(address, 1, FUTEX_BITSET_MATCH_ANY, false);
            (void)futex_wake(address, 1, FUTEX_BITSET_MATCH_ANY, true);
        }
        return;
    }
}

void walk_robust_list(Task& task) {
    const u64 head_at = std::exchange(task.robust_list, 0);
    if (head_at == 0)
        return;
    struct Head { // struct robust_list_head
        u64 first;
        i64 offset;
        u64 pending;
    };
    const auto head = UserPtr<const Head>(head_at).copy_in();
    if (!head)
        return;
    const auto tid = static_cast<u32>(task.own_tid);
    constexpr u64 pi_bit = 1;
    constexpr u32 limit = 2048; // ROBUST_LIST_LIMIT: the list is the program's and may be a circle
    const auto word = [&](u64 entry) { return (entry & ~pi_bit) + static_cast<u64>(head->offset); };
    u64 entry = head->first;
    for (u32 i = 0; i < limit && (entry & ~pi_bit) != head_at && entry != 0; i++) {
        // Read on before the lock is let go: its memory may then be freed.
        const auto next = UserPtr<const u64>(entry & ~pi_bit).copy_in();
        if (entry != head->pending)
            mark_owner_died(word(entry), (entry & pi_bit) != 0, false, tid);
        if (!next)
            return;
        entry = *next;
    }
    if (head->pending != 0)
        mark_owner_died(word(head->pending), (head->pending & pi_bit) != 0, true, tid);
}

} // namespace

void exit_robust_list(Task& task) {
    walk_robust_list(task);
    exit_pi_locks(task);
}

} // namespace kernel
