#include "guestkernel/namespaces/pid_namespace.hpp"

#include <linux/errno.h>
#include <linux/signal.h>

#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

// A task's number in one nested namespace.
struct Entry {
    struct Numbers* home = nullptr;
    Entry* next = nullptr;
    Ref<PidNamespace> space;
    i32 number = 0;
};
struct Numbers {
    Numbers* next = nullptr;
    i32 global = 0;
    Vector<Entry> levels; // of level 1, 2, ...
};

constinit SpinLock lock{LockRank::Leaf};
constinit HashTable<Numbers, &Numbers::next, 1024> by_global;
constinit HashTable<Entry, &Entry::next, 1024> by_number;
constinit base::Atomic<u32> count{0};

u64 entry_hash(const PidNamespace& space, i32 number) {
    return hash_mix(reinterpret_cast<u64>(&space)) + static_cast<u32>(number);
}

Numbers* find_global(i32 global) {
    return by_global.find(static_cast<u32>(global),
                          [&](const Numbers& numbers) { return numbers.global == global; });
}

Entry* find_number(const PidNamespace& space, i32 number) {
    return by_number.find(entry_hash(space, number), [&](const Entry& entry) {
        return entry.number == number && entry.space.get() == &space;
    });
}

i32 next_number(PidNamespace& space) {
    for (i32 tries = 0; tries < pid_limit; tries++) {
        space.last_number = space.last_number + 1 < pid_limit ? space.last_number + 1 : 2;
        if (find_number(space, space.last_number) == nullptr)
            return space.last_number;
    }
    return 0;
}

// The number in one namespace. Requires: `lock`.
Result<i32> choose(PidNamespace& space, i32 wanted) {
    if (space.dead)
        return fail(ENOMEM);
    if (wanted != 0) {
        if (wanted >= pid_limit || (wanted != 1 && !space.begun))
            return fail(EINVAL);
        if (find_number(space, wanted) != nullptr || (wanted == 1 && space.begun))
            return fail(EEXIST);
        return wanted;
    }
    const i32 number = next_number(space);
    if (number == 0)
        return fail(EAGAIN);
    return number;
}

// Number 1 is for the first process of the namespace, also when the first attempt to make one has
// failed, by a signal that wants to be handled first for example. Requires: `lock`.
void give_back(Entry& entry) {
    by_number.remove(entry_hash(*entry.space, entry.number), entry);
    if (!entry.space->begun)
        entry.space->last_number = 0;
}

void drop(i32 global) {
    SpinGuard guard(lock);
    Numbers* numbers = find_global(global);
    if (numbers == nullptr)
        return;
    by_global.remove(static_cast<u32>(global), *numbers);
    for (Entry& entry : numbers->levels)
        if (entry.home != nullptr)
            give_back(entry);
    guard.unlock();
    count.fetch_sub(1);
    delete numbers;
}

} // namespace

PidNamespace::PidNamespace(Ref<UserNamespace> owner, Ref<PidNamespace> parent, bool counted)
    : Namespace(NamespaceKind::Pid, std::move(owner), counted), parent_(std::move(parent)),
      level_(parent_ ? parent_->level() + 1 : 0) {}

PidNamespace* pid_namespace_of(const Process& process) {
    return level_of(process.pid_namespace.get()) == 0 ? nullptr : process.pid_namespace.get();
}

PidNamespace* current_pid_namespace() {
    const Process* process = current_task().process;
    return process == nullptr ? nullptr : pid_namespace_of(*process);
}

i32 pid_in(const PidNamespace* space, i32 global) {
    if (level_of(space) == 0 || global <= 0)
        return global;
    SpinGuard guard(lock);
    Numbers* numbers = find_global(global);
    if (numbers == nullptr || numbers->levels.size() < space->level())
        return 0;
    const Entry& entry = numbers->levels[space->level() - 1];
    return entry.space.get() == space ? entry.number : 0;
}

i32 global_pid_in(const PidNamespace* space, i32 number) {
    if (level_of(space) == 0 || number <= 0)
        return number;
    SpinGuard guard(lock);
    const Entry* entry = find_number(*space, number);
    return entry == nullptr ? no_pid : entry->home->global;
}

i32 visible_pid(i32 global) {
    return pid_in(current_pid_namespace(), global);
}
i32 global_pid(i32 number) {
    return global_pid_in(current_pid_namespace(), number);
}
i32 visible_last_pid() {
    const PidNamespace* space = current_pid_namespace();
    if (space == nullptr)
        return last_pid();
    SpinGuard guard(lock);
    return space->last_number;
}

void set_visible_last_pid(i32 number) {
    PidNamespace* space = current_pid_namespace();
    if (space == nullptr) {
        set_last_pid(number);
        return;
    }
    SpinGuard guard(lock);
    space->last_number = number;
}

bool in_namespace(const PidNamespace& space, i32 global) {
    return pid_in(&space, global) != 0;
}

Result<void> numbers_below(const PidNamespace* space, i32 global, Vector<i32>& out) {
    const u32 first = level_of(space);
    TRY(out.reserve(PidNamespace::deepest + 1));
    SpinGuard guard(lock);
    if (first == 0)
        TRY(out.push_back(global));
    const Numbers* numbers = find_global(global);
    if (numbers == nullptr)
        return {};
    for (u32 level = first == 0 ? 1 : first; level <= numbers->levels.size(); level++)
        TRY(out.push_back(i32{numbers->levels[level - 1].number}));
    return {};
}

Result<void> PidNumbers::take(PidNamespace* space, i32 global, const i32* wanted,
                              u32 wanted_count) {
    own_ = global;
    const u32 levels = level_of(space);
    if (levels == 0)
        return {};
    auto fresh = make_owned<Numbers>();
    if (!fresh || !(*fresh)->levels.resize(levels))
        return fail(ENOMEM);
    Numbers& numbers = **fresh;
    numbers.global = global;
    PidNamespace* at = space;
    for (u32 level = levels; level > 0; level--, at = at->parent())
        numbers.levels[level - 1].space = Ref<PidNamespace>::share(at);
    {
        SpinGuard guard(lock);
        for (u32 level = levels; level > 0; level--) {
            Entry& entry = numbers.levels[level - 1];
            const u32 index = levels - level;
            auto number = choose(*entry.space, index < wanted_count ? wanted[index] : 0);
            if (!number) {
                for (Entry& taken : numbers.levels)
                    if (taken.home != nullptr)
                        give_back(taken);
                return fail(number.error().code);
            }
            entry.number = *number;
            entry.home = &numbers;
            by_number.insert(entry_hash(*entry.space, entry.number), entry);
        }
        by_global.insert(static_cast<u32>(global), numbers);
    }
    count.fetch_add(1);
    own_ = numbers.levels[levels - 1].number;
    global_ = global;
    (void)fresh->leak();
    return {};
}

PidNumbers::~PidNumbers() {
    if (global_ != 0)
        drop(global_);
}

void forget_pid_locked(i32 global) {
    if (count.load(base::Order::Relaxed) != 0 && !number_used_locked(global))
        drop(global);
}

Result<Ref<PidNamespace>> make_pid_namespace(PidNamespace* parent, Ref<UserNamespace> owner) {
    if (level_of(parent) + 1 > PidNamespace::deepest)
        return fail(ENOSPC);
    TRY(charge_namespace(NamespaceKind::Pid, owner.get()));
    auto space = make_ref<PidNamespace>(owner, Ref<PidNamespace>::share(parent), true);
    if (!space)
        uncharge_namespace(NamespaceKind::Pid, owner.get());
    return space;
}

void enter_pid_namespace_locked(Process& process) {
    PidNamespace* space = pid_namespace_of(process);
    if (space != nullptr && !space->begun) {
        space->begun = true;
        space->init = &process;
        process.is_namespace_init = true;
    }
    for (; level_of(space) != 0; space = space->parent())
        space->processes++;
}

void close_pid_namespace_locked(PidNamespace& space) {
    SpinGuard guard(lock); // nobody gets a number from here on
    space.dead = true;
}

void leave_pid_namespace_locked(Process& process) {
    PidNamespace* space = pid_namespace_of(process);
    if (space != nullptr && space->init == &process) {
        space->init = nullptr;
        space->dead = true;
    }
    for (; level_of(space) != 0; space = space->parent()) {
        space->processes--;
        space->fewer.wake_all();
    }
}

} // namespace kernel
