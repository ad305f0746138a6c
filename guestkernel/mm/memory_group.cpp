#include "guestkernel/mm/memory_group.hpp"

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/pressure.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr u32 most_groups = 8192;
constexpr u64 batch = 32;
constexpr u64 most_stocked = 64;

constinit SpinLock charge_lock{LockRank::MemoryCharge};
constinit MemoryGroup** groups = nullptr; // most_groups of them once there is one
constinit u32 group_count = 1;            // 0 stands for none

// Pages that are charged already and not given out; touched by its own CPU in task context only.
struct alignas(64) Stock {
    u16 number = 0;
    u64 pages = 0;
    i64 kinds[frame_kinds] = {};
};
constinit Stock stocks[boot::max_cpus];

// Requires: charge_lock, for the next four.
void add(MemoryGroup* group, u64 pages) {
    for (; group != nullptr; group = group->parent) {
        group->usage += pages;
        if (group->usage > group->peak)
            group->peak = group->usage;
        if (group->usage > group->late_peak)
            group->late_peak = group->usage;
    }
}

void take(MemoryGroup* group, u64 pages) {
    for (; group != nullptr; group = group->parent) {
        ASSERT(group->usage >= pages);
        group->usage -= pages;
    }
}

// The first group without room; null: there is.
MemoryGroup* full_group(MemoryGroup* group, u64 pages) {
    for (; group != nullptr; group = group->parent)
        if (group->usage + pages > group->max)
            return group;
    return nullptr;
}

void flush(Stock& stock) {
    MemoryGroup* group = stock.number == 0 ? nullptr : groups[stock.number];
    if (group == nullptr)
        return;
    take(group, stock.pages);
    stock.pages = 0;
    for (unsigned i = 0; i < frame_kinds; i++) {
        for (MemoryGroup* at = group; at != nullptr; at = at->parent)
            at->kinds[i] += stock.kinds[i];
        stock.kinds[i] = 0;
    }
}

// Whether it may be used for another group.
bool is_spent(const MemoryGroup& group) {
    return !group.online && group.usage == 0 && group.children == 0;
}

} // namespace

MemoryGroup* memory_group_by_number(u16 number) {
    return number == 0 || groups == nullptr ? nullptr : groups[number];
}

bool memory_groups_exist() {
    return group_count > 1;
}

Result<MemoryGroup*> make_memory_group(MemoryGroup* parent, Cgroup& owner) {
    // Serialised by hierarchy_mutex().
    if (groups == nullptr) {
        auto** table = new (std::nothrow) MemoryGroup*[most_groups];
        if (table == nullptr)
            return fail(enomem);
        for (u32 i = 0; i < most_groups; i++)
            table[i] = nullptr;
        groups = table;
    }
    u32 number = 0;
    MemoryGroup* fresh = nullptr;
    {
        SpinGuard guard(charge_lock);
        flush(stocks[arch::cpu_id()]);
        for (u32 i = 1; i < group_count && fresh == nullptr; i++)
            if (is_spent(*groups[i])) {
                fresh = groups[i];
                number = i;
                if (fresh->parent != nullptr)
                    fresh->parent->children--;
            }
    }
    if (fresh == nullptr) {
        if (group_count == most_groups)
            return fail(28); // ENOSPC
        fresh = new (std::nothrow) MemoryGroup();
        if (fresh == nullptr)
            return fail(enomem);
        number = group_count;
    }
    SpinGuard guard(charge_lock);
    *fresh = MemoryGroup();
    fresh->number = static_cast<u16>(number);
    fresh->online = true;
    fresh->parent = parent;
    fresh->cgroup = &owner;
    if (parent != nullptr)
        parent->children++;
    groups[number] = fresh;
    if (number == group_count)
        group_count++;
    return fresh;
}

void retire_memory_group(MemoryGroup& group) {
    SpinGuard guard(charge_lock);
    group.online = false;
    group.cgroup = nullptr;
    // What is still charged must not hold anybody up.
    group.max = group.high = no_page_limit;
    group.min = group.low = 0;
}

u64 memory_group_kind(const MemoryGroup& group, FrameKind kind) {
    const auto index = static_cast<unsigned>(kind);
    i64 pages = group.kinds[index];
    for (const Stock& stock : stocks)
        if (const MemoryGroup* of = memory_group_by_number(stock.number);
            of != nullptr && of->is_below(group))
            pages += stock.kinds[index];
    return pages > 0 ? static_cast<u64>(pages) : 0;
}

u64 restart_peak(MemoryGroup& group) {
    SpinGuard guard(charge_lock);
    group.late_peak = group.usage;
    return group.usage;
}

// Under the lock: a group is retired before its Cgroup goes.
Ref<Cgroup> cgroup_of(MemoryGroup& group) {
    SpinGuard guard(charge_lock);
    if (group.cgroup == nullptr || !group.cgroup->try_add_ref())
        return {};
    return Ref<Cgroup>::adopt(group.cgroup);
}

void note_memory_event(MemoryGroup& group, MemoryEvent event) {
    const auto count = [event](MemoryEvents& in) {
        u64* const counters[] = {&in.low, &in.high,     &in.max,
                                 &in.oom, &in.oom_kill, &in.oom_group_kill};
        ++*counters[event];
    };
    {
        SpinGuard guard(charge_lock);
        count(group.local_events);
        for (MemoryGroup* at = &group; at != nullptr; at = at->parent)
            count(at->events);
    }
    if (const Ref<Cgroup> told = cgroup_of(group)) {
        cgroup_event(*told, CgroupEvent::MemoryEventsLocal);
        for (Cgroup* at = told.get(); at != nullptr; at = at->parent.get())
            cgroup_event(*at, CgroupEvent::MemoryEvents);
    }
}

namespace {

// Takes `pages` from the stock or charges them. Returns the group without room, or null. `high` is
// set if a group has come past memory.high.
MemoryGroup* try_charge(u16 number, u64 pages, bool force, MemoryGroup*& high) {
    Stock& stock = stocks[arch::cpu_id()];
    if (stock.number == number && stock.pages >= pages) {
        stock.pages -= pages;
        return nullptr;
    }
    SpinGuard guard(charge_lock);
    if (stock.number != number) {
        flush(stock);
        stock.number = number;
    }
    MemoryGroup* group = groups[number];
    const u64 wanted = pages > batch ? pages : batch;
    MemoryGroup* full = full_group(group, wanted);
    if (full == nullptr) {
        add(group, wanted);
        stock.pages += wanted - pages;
    } else {
        // Near the limit every page counts, those in stock too.
        take(group, stock.pages);
        stock.pages = 0;
        full = full_group(group, pages);
        if (full != nullptr && !force)
            return full;
        add(group, pages);
    }
    for (MemoryGroup* at = group; at != nullptr; at = at->parent)
        if (at->usage > at->high)
            high = at;
    return nullptr;
}

} // namespace

bool charge_frames(u16 number, u64 pages, bool may_wait, Charge how) {
    MemoryGroup* high = nullptr;
    MemoryGroup* full = try_charge(number, pages, how == Charge::Force, high);
    if (high != nullptr) [[unlikely]]
        __atomic_fetch_or(&current_task().interrupt_flags, interrupt_cgroup, __ATOMIC_SEQ_CST);
    if (full == nullptr)
        return true;
    if (!may_wait)
        return false;
    PressureStall stall(PressureKind::Memory);
    unsigned in_vain = 0;
    while (full != nullptr) {
        note_memory_event(*full, EventMax);
        bool go_on = !fatal_signal_pending();
        if (go_on && reclaim_memory_group(*full, batch) == 0) {
            if (in_vain == 0)
                note_memory_event(*full, EventOom);
            go_on = wait_for_memory(full, in_vain++);
        }
        // Who is about to end, or the last one, is not kept from doing so.
        if (!go_on)
            return try_charge(number, pages, true, high) == nullptr;
        full = try_charge(number, pages, false, high);
    }
    return true;
}

void uncharge_frames(u16 number, u64 pages, FrameKind kind) {
    Stock& stock = stocks[arch::cpu_id()];
    if (stock.number == number) {
        stock.pages += pages;
        stock.kinds[static_cast<unsigned>(kind)] -= static_cast<i64>(pages);
        if (stock.pages > most_stocked) {
            SpinGuard guard(charge_lock);
            take(groups[number], stock.pages - batch);
            stock.pages = batch;
        }
        return;
    }
    SpinGuard guard(charge_lock);
    MemoryGroup* group = groups[number];
    take(group, pages);
    for (; group != nullptr; group = group->parent)
        group->kinds[static_cast<unsigned>(kind)] -= static_cast<i64>(pages);
}

void give_back_charge(u16 number, u64 pages) {
    SpinGuard guard(charge_lock);
    take(groups[number], pages);
}

void note_frame_kind(u16 number, FrameKind kind, i64 by) {
    Stock& stock = stocks[arch::cpu_id()];
    if (stock.number == number) {
        stock.kinds[static_cast<unsigned>(kind)] += by;
        return;
    }
    SpinGuard guard(charge_lock);
    for (MemoryGroup* group = groups[number]; group != nullptr; group = group->parent)
        group->kinds[static_cast<unsigned>(kind)] += by;
}

bool memory_protected(u16 number, bool also_low) {
    for (const MemoryGroup* at = memory_group_by_number(number); at != nullptr; at = at->parent) {
        const u64 protection = also_low && at->low > at->min ? at->low : at->min;
        if (protection != 0 && at->usage <= protection)
            return true;
    }
    return false;
}

void enforce_memory_limit(MemoryGroup& group) {
    unsigned in_vain = 0;
    while (!fatal_signal_pending()) {
        const u64 beyond = group.beyond(group.max);
        if (beyond == 0)
            return;
        if (reclaim_memory_group(group, beyond) != 0)
            continue;
        if (in_vain == 0)
            note_memory_event(group, EventOom);
        if (!wait_for_memory(&group, in_vain++))
            return;
    }
}

void slow_down_for_memory(Task& task) {
    for (MemoryGroup* at = memory_group_by_number(task.memory_owner); at != nullptr;
         at = at->parent) {
        if (at->beyond(at->high) == 0)
            continue;
        note_memory_event(*at, EventHigh);
        PressureStall stall(PressureKind::Memory);
        (void)reclaim_memory_group(*at, at->beyond(at->high));
        const u64 excess = at->beyond(at->high);
        if (excess == 0)
            continue;
        // The further beyond, the longer; bounded, as in Linux, so that everything stays killable.
        const u64 share = excess * 1000 / (at->high + 1);
        const u64 delay_ns = 1'000'000 * (share < 5 ? 5 : share > 1000 ? 1000 : share);
        WaitQueue nobody;
        (void)wait_until(
            nobody, [&] { return at->usage <= at->high; }, monotonic_ns() + delay_ns,
            TaskState::Killable);
        return;
    }
}

} // namespace kernel
