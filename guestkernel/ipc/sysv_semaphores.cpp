// System V semaphores: semget(2), semop(2), semctl(2).
#include <linux/errno.h>
#include <linux/sem.h>

#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/syscalls/sysv_calls.hpp"
#include "guestkernel/syscalls/time_values.hpp"

namespace kernel {

namespace {

constexpr int largest_value = 32767;      // SEMVMX
constexpr int largest_adjustment = 32767; // SEMAEM
constexpr u32 may_read = 0444, may_write = 0222;

struct Semaphore {
    i32 value = 0;
    i32 last_pid = 0;
    u32 waiting_for_more = 0, waiting_for_zero = 0;
};

// What the end of a process adds to one semaphore.
struct Undo {
    i32 pid;
    u16 number;
    i32 adjustment;
};

struct SemaphoreSet : SysvObject {
    Vector<Semaphore> semaphores;
    Vector<Undo> undo;
    i64 operation_time = 0, change_time = 0;
    WaitQueue waiters;
    volatile u32 changes = 0; // what waiters watch
};

// The running task's: it does not change while a call of it waits.
SysvTable& table() {
    return current_ipc_namespace().semaphores;
}
constinit base::Atomic<bool> undo_used{false}; // most systems never do

Result<SemaphoreSet*> find_set(i32 id, u32 access) {
    TRY(SysvObject * object, table().find(id));
    TRY(check_sysv_access(*object, access));
    return static_cast<SemaphoreSet*>(object);
}

void changed(SemaphoreSet& set) {
    set.changes = set.changes + 1;
    set.waiters.wake_all();
}

bool is_undone(const sembuf& op) {
    return (op.sem_flg & SEM_UNDO) != 0 && op.sem_op != 0;
}

Undo* find_undo(SemaphoreSet& set, i32 pid, u16 number) {
    for (Undo& entry : set.undo)
        if (entry.pid == pid && entry.number == number)
            return &entry;
    return nullptr;
}

// What SEM_UNDO needs, before anything changes.
Result<void> reserve_undo(SemaphoreSet& set, i32 pid, u16 number) {
    if (find_undo(set, pid, number) != nullptr)
        return {};
    undo_used.store(true);
    return set.undo.push_back({pid, number, 0});
}

// Requires: reserve_undo(). ERANGE: more than the end of the process could take back.
Result<void> adjust_undo(SemaphoreSet& set, u16 number, int by) {
    Undo& entry = *find_undo(set, current_pid(), number);
    if (entry.adjustment + by < -largest_adjustment - 1 ||
        entry.adjustment + by > largest_adjustment)
        return fail(ERANGE);
    entry.adjustment += by;
    return {};
}

void take_back(SemaphoreSet& set, const sembuf& op) {
    set.semaphores[op.sem_num].value -= op.sem_op;
    if (is_undone(op))
        (void)adjust_undo(set, op.sem_num, op.sem_op);
}

// All or none. On EAGAIN `blocked` is the operation that has to wait. Requires: reserve_undo().
Result<void> try_operations(SemaphoreSet& set, std::span<const sembuf> operations, usize& blocked) {
    int error = 0;
    usize done = 0;
    for (; done < operations.size() && error == 0; done++) {
        const sembuf& op = operations[done];
        Semaphore& semaphore = set.semaphores[op.sem_num];
        if (op.sem_op == 0 ? semaphore.value != 0 : semaphore.value + op.sem_op < 0) {
            error = EAGAIN;
            blocked = done;
            break;
        }
        if (semaphore.value + op.sem_op > largest_value ||
            (is_undone(op) && !adjust_undo(set, op.sem_num, -op.sem_op))) {
            error = ERANGE;
            break;
        }
        semaphore.value += op.sem_op;
    }
    if (error != 0) {
        while (done-- > 0)
            take_back(set, operations[done]);
        return fail(error);
    }
    return {};
}

void commit(SemaphoreSet& set, std::span<const sembuf> operations) {
    for (const sembuf& op : operations)
        set.semaphores[op.sem_num].last_pid = current_pid();
    set.operation_time = sysv_time();
    changed(set);
}

Result<long> operate(i32 id, std::span<const sembuf> operations, u64 deadline) {
    u32 access = may_read;
    for (const sembuf& op : operations)
        if (op.sem_op != 0)
            access = may_write;
    MutexGuard first(table().mutex);
    TRY(SemaphoreSet * found, find_set(id, access));
    Ref<SemaphoreSet> set = Ref<SemaphoreSet>::share(found);
    for (const sembuf& op : operations)
        if (op.sem_num >= set->semaphores.size())
            return fail(EFBIG);
    first.unlock();
    for (;;) {
        u32* waiting = nullptr;
        u32 seen = 0;
        {
            MutexGuard guard(table().mutex);
            if (set->removed)
                return fail(EIDRM);
            for (const sembuf& op : operations) // again: another thread may have left the namespace
                if (is_undone(op))
                    TRY(reserve_undo(*set, current_pid(), op.sem_num));
            usize blocked = 0;
            auto done = try_operations(*set, operations, blocked);
            if (done) {
                commit(*set, operations);
                return 0;
            }
            if (done.error().code != EAGAIN || (operations[blocked].sem_flg & IPC_NOWAIT) != 0)
                return fail(done.error().code);
            Semaphore& semaphore = set->semaphores[operations[blocked].sem_num];
            waiting = operations[blocked].sem_op == 0 ? &semaphore.waiting_for_zero
                                                      : &semaphore.waiting_for_more;
            ++*waiting;
            seen = set->changes;
        }
        const auto ready = [&] { return set->removed || set->changes != seen; };
        const WaitOutcome outcome = wait_until(set->waiters, ready, deadline);
        {
            MutexGuard guard(table().mutex);
            --*waiting;
        }
        if (set->removed)
            return fail(EIDRM);
        if (outcome == WaitOutcome::Interrupted)
            return fail(EINTR); // never restarted (signal(7))
        if (outcome == WaitOutcome::TimedOut)
            return fail(EAGAIN);
    }
}

// IPC_INFO: limits; SEM_INFO: two fields tell of use instead. The answer is the last place in use.
Result<long> tell_info(MutexGuard<Mutex>& guard, u64 argument, bool use) {
    seminfo info{};
    const SysvLimits& limits = current_ipc_namespace().limits;
    info.semmni = static_cast<int>(table().most.load());
    info.semmsl = static_cast<int>(limits.set_size.load());
    info.semmns = info.semmap = info.semmnu = static_cast<int>(limits.semaphores.load());
    info.semopm = info.semume = static_cast<int>(limits.operations.load());
    info.semvmx = largest_value;
    info.semusz = use ? table().count() : SEMUSZ;
    info.semaem = use ? 0 : SEMAEM;
    if (use)
        table().for_each([&](SysvObject& object) {
            info.semaem += static_cast<int>(static_cast<SemaphoreSet&>(object).semaphores.size());
        });
    return tell_unlocked(guard, argument, info, table().last_index());
}

Result<long> stat_set(MutexGuard<Mutex>& guard, SemaphoreSet& set, u64 out, long answer) {
    semid64_ds status{};
    fill_sysv_permissions(set, status.sem_perm);
    status.sem_otime = set.operation_time;
    status.sem_ctime = set.change_time;
    status.sem_nsems = set.semaphores.size();
    return tell_unlocked(guard, out, status, answer);
}

// What semctl(2) tells of one semaphore.
Result<long> get_one(SemaphoreSet& set, int number, int command) {
    if (number < 0 || static_cast<usize>(number) >= set.semaphores.size())
        return fail(EINVAL);
    const Semaphore& semaphore = set.semaphores[static_cast<usize>(number)];
    switch (command) {
    case GETVAL:
        return semaphore.value;
    case GETPID:
        return visible_pid(semaphore.last_pid);
    case GETNCNT:
        return static_cast<long>(semaphore.waiting_for_more);
    default:
        return static_cast<long>(semaphore.waiting_for_zero);
    }
}

void forget_undo(SemaphoreSet& set, u16 number) {
    for (Undo& entry : set.undo)
        if (entry.number == number)
            entry.adjustment = 0;
}

Result<long> set_one(SemaphoreSet& set, int number, int value) {
    if (number < 0 || static_cast<usize>(number) >= set.semaphores.size())
        return fail(EINVAL);
    if (value < 0 || value > largest_value)
        return fail(ERANGE);
    Semaphore& semaphore = set.semaphores[static_cast<usize>(number)];
    semaphore.value = value;
    semaphore.last_pid = current_pid();
    forget_undo(set, static_cast<u16>(number));
    set.change_time = sysv_time();
    changed(set);
    return 0;
}

Result<long> get_all(int id, u64 array) {
    Vector<u16> values;
    {
        MutexGuard guard(table().mutex);
        TRY(const SemaphoreSet* set, find_set(id, may_read));
        TRY(values.resize(set->semaphores.size()));
        for (usize i = 0; i < values.size(); i++)
            values[i] = static_cast<u16>(set->semaphores[i].value);
    }
    TRY(copy_out_bytes(array, values.data(), values.size() * sizeof(u16)));
    return 0;
}

// How many values there are only the set says; while they are copied it may go (EIDRM).
Result<long> set_all(int id, u64 array) {
    Ref<SemaphoreSet> set;
    {
        MutexGuard guard(table().mutex);
        TRY(SemaphoreSet * found, find_set(id, may_write));
        set = Ref<SemaphoreSet>::share(found);
    }
    Vector<u16> values;
    TRY(values.resize(set->semaphores.size()));
    TRY(copy_in_bytes(values.data(), array, values.size() * sizeof(u16)));
    for (const u16 value : values)
        if (value > largest_value)
            return fail(ERANGE);
    MutexGuard guard(table().mutex);
    if (set->removed)
        return fail(EIDRM);
    for (usize i = 0; i < values.size(); i++) {
        set->semaphores[i].value = values[i];
        set->semaphores[i].last_pid = current_pid();
        forget_undo(*set, static_cast<u16>(i));
    }
    set->change_time = sysv_time();
    changed(*set);
    return 0;
}

} // namespace

Result<long> sys_semget(Task&, int key, int count, u32 flags) {
    if (count < 0 || static_cast<u32>(count) > current_ipc_namespace().limits.set_size.load())
        return fail(EINVAL);
    const auto fits = [&](SysvObject& object) -> Result<void> {
        if (static_cast<usize>(count) > static_cast<SemaphoreSet&>(object).semaphores.size())
            return fail(EINVAL);
        return {};
    };
    const auto make = [&]() -> Result<Ref<SysvObject>> {
        if (count == 0)
            return fail(EINVAL);
        u64 all = static_cast<u64>(count);
        table().for_each([&](SysvObject& object) {
            all += static_cast<SemaphoreSet&>(object).semaphores.size();
        });
        if (all > current_ipc_namespace().limits.semaphores.load())
            return fail(ENOSPC);
        TRY(Ref<SemaphoreSet> set, make_ref<SemaphoreSet>());
        TRY(set->semaphores.resize(static_cast<usize>(count)));
        set->change_time = sysv_time();
        return Ref<SysvObject>(std::move(set));
    };
    return sysv_get(table(), key, flags, fits, make);
}

Result<long> sys_semtimedop(Task&, int id, u64 operations, u32 count, u64 timeout) {
    if (count == 0 || id < 0)
        return fail(EINVAL);
    if (count > current_ipc_namespace().limits.operations.load())
        return fail(E2BIG);
    TRY(const u64 deadline, copy_in_timeout(timeout));
    Vector<sembuf> list;
    TRY(list.resize(count));
    TRY(copy_in_bytes(list.data(), operations, count * sizeof(sembuf)));
    return operate(id, list.span(), deadline);
}

Result<long> sys_semop(Task& task, int id, u64 operations, u32 count) {
    return sys_semtimedop(task, id, operations, count, 0);
}

Result<long> sys_semctl(Task&, int id, int number, int command, u64 argument) {
    if (command == GETALL)
        return get_all(id, argument);
    if (command == SETALL)
        return set_all(id, argument);
    semid64_ds wanted{};
    if (command == IPC_SET)
        TRY(copy_in_bytes(&wanted, argument, sizeof wanted));
    MutexGuard guard(table().mutex);
    switch (command) {
    case IPC_STAT: {
        TRY(SemaphoreSet * set, find_set(id, may_read));
        return stat_set(guard, *set, argument, 0);
    }
    case IPC_INFO:
    case SEM_INFO:
        return tell_info(guard, argument, command == SEM_INFO);
    case SEM_STAT:
    case SEM_STAT_ANY: {
        TRY(SysvObject * object, table().at_index(id));
        if (command == SEM_STAT)
            TRY(check_sysv_access(*object, may_read));
        return stat_set(guard, static_cast<SemaphoreSet&>(*object), argument, object->id);
    }
    case GETVAL:
    case GETPID:
    case GETNCNT:
    case GETZCNT: {
        TRY(SemaphoreSet * set, find_set(id, may_read));
        return get_one(*set, number, command);
    }
    case SETVAL: {
        TRY(SemaphoreSet * set, find_set(id, may_write));
        return set_one(*set, number, static_cast<int>(argument));
    }
    case IPC_SET:
    case IPC_RMID: {
        TRY(SemaphoreSet * set, find_set(id, 0));
        TRY(check_sysv_owner(*set));
        if (command == IPC_SET) {
            TRY(set_sysv_permissions(*set, wanted.sem_perm));
            set->change_time = sysv_time();
            return 0;
        }
        Ref<SysvObject> last = table().remove(*set);
        set->waiters.wake_all();
        return 0;
    }
    default:
        return fail(EINVAL);
    }
}

void undo_semaphores(i32 pid) {
    if (!undo_used.load(base::Order::Relaxed))
        return;
    MutexGuard guard(table().mutex);
    table().for_each([&](SysvObject& object) {
        auto& set = static_cast<SemaphoreSet&>(object);
        bool any = false;
        for (usize i = set.undo.size(); i-- > 0;) {
            const Undo entry = set.undo[i];
            if (entry.pid != pid)
                continue;
            Semaphore& semaphore = set.semaphores[entry.number];
            const i32 value = semaphore.value + entry.adjustment;
            semaphore.value = value < 0 ? 0 : value > largest_value ? largest_value : value;
            if (entry.adjustment != 0)
                semaphore.last_pid = pid;
            any = any || entry.adjustment != 0;
            set.undo.erase(i);
        }
        if (any)
            changed(set);
    });
}

bool has_semaphore_undo(i32 pid) {
    if (!undo_used.load(base::Order::Relaxed))
        return false;
    bool any = false;
    MutexGuard guard(table().mutex);
    table().for_each([&](SysvObject& object) {
        for (const Undo& entry : static_cast<SemaphoreSet&>(object).undo)
            any = any || entry.pid == pid;
    });
    guard.unlock();
    return any;
}

void each_semaphore_set(void (*tell)(const SysvView& view, void* context), void* context) {
    MutexGuard guard(table().mutex);
    table().for_each([&](SysvObject& object) {
        const auto& set = static_cast<SemaphoreSet&>(object);
        tell({object, 0, set.semaphores.size(), 0, 0, 0, {set.operation_time, set.change_time, 0}},
             context);
    });
}

} // namespace kernel
