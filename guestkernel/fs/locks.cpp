#include "guestkernel/fs/locks.hpp"

#include <linux/errno.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/sched/mutex.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

struct HeldLock {
    HeldLock* next = nullptr;
    const void* owner = nullptr; // FileTable (POSIX) or File (flock, OFD)
    bool of_file = false;        // OFD
    RecordLock lock;
};

} // namespace

// Of one inode; all under locks_mutex.
struct LockState {
    HeldLock* whole = nullptr;   // flock(2)
    HeldLock* records = nullptr; // POSIX and OFD; one owner's do not overlap
    WaitQueue waiters;
    base::Atomic<u32> generation{0}; // changes whenever a lock goes away or gets weaker
    const Inode* inode = nullptr;
    base::ListNode all_node;
};

namespace {

// One for all inodes: these locks are rare and short, and deadlocks are looked for across files.
constinit Mutex locks_mutex;
constinit base::IntrusiveList<LockState, &LockState::all_node> all_states;

// Who waits for whom (POSIX locks only): an entry per sleeping task, on its stack.
struct Blocked {
    const void* owner;
    const void* blocker;
    const LockState* state;
    u32 seen; // once the generation is another it does not wait any more, though it may not have
              // run
    Blocked* next;
};
constinit Blocked* blocked_list = nullptr;

bool overlaps(const RecordLock& a, const RecordLock& b) {
    return a.start <= b.end && b.start <= a.end;
}
bool conflicts(LockType a, LockType b) {
    return a == LockType::Exclusive || b == LockType::Exclusive;
}

// fcntl(2), EDEADLK: would waiting for `blocker` close a circle? Bounded, as in Linux, so that
// threads of one process that wait for each other's files cannot keep it going round.
bool would_deadlock(const void* owner, const void* blocker) {
    for (int hops = 0; hops < 10; hops++) {
        if (blocker == owner)
            return true;
        Blocked* entry = blocked_list;
        while (entry != nullptr &&
               (entry->owner != blocker || entry->seen != entry->state->generation.load()))
            entry = entry->next;
        if (entry == nullptr)
            return false;
        blocker = entry->blocker;
    }
    return false;
}

void remove_blocked(Blocked& entry) {
    for (Blocked** at = &blocked_list; *at != nullptr; at = &(*at)->next)
        if (*at == &entry) {
            *at = entry.next;
            return;
        }
}

void wake_waiters(LockState& state) {
    state.generation.fetch_add(1);
    state.waiters.wake_all();
}

Result<LockState*> state_of(Inode& inode) {
    if (inode.file_locks == nullptr) {
        auto* fresh = new (std::nothrow) LockState;
        if (fresh == nullptr)
            return fail(ENOMEM);
        fresh->inode = &inode;
        all_states.push_back(*fresh);
        inode.file_locks = fresh;
    }
    return inode.file_locks;
}

const HeldLock* find_conflict(const LockState& state, const void* owner, const RecordLock& lock) {
    for (const HeldLock* held = state.records; held != nullptr; held = held->next)
        if (held->owner != owner && overlaps(held->lock, lock) &&
            conflicts(held->lock.type, lock.type))
            return held;
    return nullptr;
}

// Takes [start, end] away from the owner's locks; `spare` serves when one is cut in two. Returns
// whether any went.
bool carve(LockState& state, const void* owner, u64 start, u64 end, HeldLock*& spare) {
    bool changed = false;
    for (HeldLock** at = &state.records; *at != nullptr;) {
        HeldLock* held = *at;
        if (held->owner != owner || held->lock.start > end || held->lock.end < start) {
            at = &held->next;
            continue;
        }
        changed = true;
        if (held->lock.start < start && held->lock.end > end) {
            HeldLock* tail = std::exchange(spare, nullptr);
            *tail = *held;
            tail->lock.start = end + 1;
            held->lock.end = start - 1;
            held->next = tail;
            return true;
        }
        if (held->lock.start < start) {
            held->lock.end = start - 1;
            at = &held->next;
        } else if (held->lock.end > end) {
            held->lock.start = end + 1;
            at = &held->next;
        } else {
            *at = held->next;
            delete held;
        }
    }
    return changed;
}

// Joins the lock with its owner's neighbours of the same type.
void merge(LockState& state, HeldLock& fresh) {
    for (HeldLock** at = &state.records; *at != nullptr;) {
        HeldLock* held = *at;
        const bool touches =
            (held->lock.end != lock_to_end && held->lock.end + 1 == fresh.lock.start) ||
            (fresh.lock.end != lock_to_end && fresh.lock.end + 1 == held->lock.start);
        if (held != &fresh && held->owner == fresh.owner && held->lock.type == fresh.lock.type &&
            touches) {
            if (held->lock.start < fresh.lock.start)
                fresh.lock.start = held->lock.start;
            if (held->lock.end > fresh.lock.end)
                fresh.lock.end = held->lock.end;
            *at = held->next;
            delete held;
        } else {
            at = &held->next;
        }
    }
}

// Requires: no conflict.
Result<void> apply(LockState& state, const void* owner, const RecordLock& lock, bool of_file) {
    auto* spare = new (std::nothrow) HeldLock;
    auto* fresh = lock.type == LockType::None ? nullptr : new (std::nothrow) HeldLock;
    if (spare == nullptr || (lock.type != LockType::None && fresh == nullptr)) {
        delete spare;
        delete fresh;
        return fail(ENOLCK);
    }
    const bool changed = carve(state, owner, lock.start, lock.end, spare);
    delete spare;
    if (fresh != nullptr) {
        fresh->owner = owner;
        fresh->of_file = of_file;
        fresh->lock = lock;
        fresh->next = state.records;
        state.records = fresh;
        merge(state, *fresh);
    }
    if (changed)
        wake_waiters(state);
    return {};
}

// Sleeps until some lock of the inode has gone.
Result<void> wait_for_change(LockState& state, u32 seen) {
    const WaitOutcome outcome =
        wait_until(state.waiters, [&] { return state.generation.load() != seen; });
    return outcome == WaitOutcome::Interrupted ? Result<void>(fail(EINTR)) : Result<void>();
}

bool drop_owner(HeldLock*& list, const void* owner) {
    bool changed = false;
    for (HeldLock** at = &list; *at != nullptr;) {
        HeldLock* held = *at;
        if (held->owner != owner) {
            at = &held->next;
            continue;
        }
        *at = held->next;
        delete held;
        changed = true;
    }
    return changed;
}

} // namespace

Result<void> lock_whole_file(File& file, LockType type, bool wait) {
    for (;;) {
        MutexGuard guard(locks_mutex);
        TRY(LockState * state, state_of(*file.inode()));
        HeldLock* own = state->whole;
        while (own != nullptr && own->owner != &file)
            own = own->next;
        if (own != nullptr && own->lock.type == type)
            return {};
        // flock(2): a conversion gives the old lock up first, and may lose it to another.
        if (own != nullptr) {
            drop_owner(state->whole, &file);
            wake_waiters(*state);
        }
        if (type == LockType::None)
            return {};
        bool busy = false;
        for (const HeldLock* held = state->whole; held != nullptr; held = held->next)
            busy = busy || conflicts(held->lock.type, type);
        if (!busy) {
            auto* fresh = new (std::nothrow) HeldLock;
            if (fresh == nullptr)
                return fail(ENOLCK);
            fresh->owner = &file;
            fresh->lock.type = type;
            fresh->lock.pid = current_pid();
            fresh->next = state->whole;
            state->whole = fresh;
            return {};
        }
        if (!wait)
            return fail(EWOULDBLOCK);
        const u32 seen = state->generation.load();
        guard.unlock();
        TRY(wait_for_change(*state, seen));
    }
}

Result<void> lock_records(File& file, const void* owner, const RecordLock& lock, bool wait,
                          bool of_file) {
    for (;;) {
        MutexGuard guard(locks_mutex);
        if (lock.type == LockType::None && file.inode()->file_locks == nullptr)
            return {};
        TRY(LockState * state, state_of(*file.inode()));
        const HeldLock* other =
            lock.type == LockType::None ? nullptr : find_conflict(*state, owner, lock);
        if (other == nullptr)
            return apply(*state, owner, lock, of_file);
        if (!wait)
            return fail(EAGAIN);
        const u32 seen = state->generation.load();
        Blocked entry{owner, other->owner, state, seen, nullptr};
        if (!of_file) {
            if (would_deadlock(owner, other->owner))
                return fail(EDEADLK);
            entry.next = blocked_list;
            blocked_list = &entry;
        }
        guard.unlock();
        auto woken = wait_for_change(*state, seen);
        if (!of_file) {
            MutexGuard again(locks_mutex);
            remove_blocked(entry);
        }
        if (!woken)
            return woken;
    }
}

Result<RecordLock> test_records(File& file, const void* owner, const RecordLock& lock) {
    MutexGuard guard(locks_mutex);
    RecordLock out;
    if (file.inode()->file_locks == nullptr)
        return out;
    const HeldLock* other = find_conflict(*file.inode()->file_locks, owner, lock);
    if (other != nullptr) {
        out = other->lock;
        if (other->of_file)
            out.pid = -1;
    }
    return out;
}

void release_posix_locks(Inode& inode, const FileTable* owner) {
    MutexGuard guard(locks_mutex);
    LockState* state = inode.file_locks;
    if (state != nullptr && drop_owner(state->records, owner))
        wake_waiters(*state);
}

void release_file_locks(File& file) {
    MutexGuard guard(locks_mutex);
    LockState* state = file.inode()->file_locks;
    if (state == nullptr)
        return;
    const bool whole = drop_owner(state->whole, &file);
    const bool records = drop_owner(state->records, &file);
    if (whole || records)
        wake_waiters(*state);
}

void free_lock_state(LockState* state) {
    if (state == nullptr)
        return;
    {
        MutexGuard guard(locks_mutex);
        state->all_node.unlink();
    }
    delete state;
}

void each_file_lock(void (*tell)(const LockView& lock, void* context), void* context) {
    MutexGuard guard(locks_mutex);
    for (LockState& state : all_states) {
        for (const HeldLock* held = state.records; held != nullptr; held = held->next)
            tell({held->of_file ? LockView::Kind::OfFile : LockView::Kind::Posix, held->owner,
                  state.inode, held->lock},
                 context);
        for (const HeldLock* held = state.whole; held != nullptr; held = held->next)
            tell({LockView::Kind::Whole, held->owner, state.inode, held->lock}, context);
    }
}

} // namespace kernel
