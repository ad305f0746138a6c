// When memory is exhausted: the process that holds most of it ends, so that the rest can go on.
#include <linux/signal.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

// A process that has not ended after this long is waited for no longer: it may wait for a lock of
// somebody who waits for memory, or for a tracer.
constexpr u64 patience_ns = 2'000'000'000;
// wait_for_memory(): about half a minute in all, if there is always somebody to wait for.
constexpr unsigned attempts_per_victim = 32;
constexpr unsigned most_attempts = 30'000;
constexpr u64 pause_ns = 1'000'000;

constinit base::Atomic<u64> kills{0};

// Resident pages, shifted by the adjustment: a thousandth of memory per point.
i64 badness(Process& process, u64 total_pages) {
    Task* task = process.first_task();
    if (task == nullptr || !task->address_space || process.oom_score_adj <= never_for_memory)
        return 0;
    const AddressSpace::Usage usage = task->address_space->usage();
    const auto pages = static_cast<i64>(usage.resident_anonymous + usage.resident_file +
                                        usage.resident_shared + usage.table_pages);
    const i64 adjusted = pages + process.oom_score_adj * static_cast<i64>(total_pages / 1000);
    return adjusted > 0 ? adjusted : 1;
}

// Whether it is on its way out, so that its memory comes soon. Requires: tree lock.
bool ends_soon(Process& process, u64 now_ns) {
    if (process.state != ProcessState::Alive || !process.group_exiting)
        return false;
    const Task* task = process.first_task();
    if (task == nullptr || !task->address_space)
        return false;
    if (process.memory_awaited_ns == 0)
        process.memory_awaited_ns = now_ns;
    return now_ns - process.memory_awaited_ns < patience_ns;
}

// Requires: tree lock.
bool charged_to(Process& process, const MemoryGroup& within) {
    const Task* task = process.first_task();
    const MemoryGroup* group =
        task == nullptr ? nullptr : memory_group_by_number(task->memory_owner);
    return group != nullptr && group->is_below(within);
}

// memory.oom.group: the topmost group that says so, up to the one whose limit was hit, ends as one.
bool kill_whole_group(MemoryGroup& of, const MemoryGroup* within) {
    MemoryGroup* whole = nullptr;
    for (MemoryGroup* at = &of; at != nullptr; at = at == within ? nullptr : at->parent)
        if (at->oom_group)
            whole = at;
    // The victim may have ended meanwhile, and its group with it.
    const Ref<Cgroup> group = whole == nullptr ? Ref<Cgroup>() : cgroup_of(*whole);
    if (!group)
        return false;
    note_memory_event(*whole, EventOomGroupKill);
    kill_members(*group, KillMembers::NotProtected);
    return true;
}

} // namespace

u64 killed_for_memory() {
    return kills.load(base::Order::Relaxed);
}

bool kill_for_memory(MemoryGroup* within) {
    const u64 total_pages = memory_stats().total;
    const u64 now_ns = monotonic_ns();
    Ref<Process> victim;
    i32 pid = 0;
    u64 pages = 0;
    MemoryGroup* group = nullptr;
    {
        SpinGuard tree(process_tree_lock());
        i64 worst = 0;
        bool dying = false;
        for_each_process_locked([&](Process& process) {
            if (within != nullptr && !charged_to(process, *within))
                return;
            dying |= ends_soon(process, now_ns);
            const i64 score = process.group_exiting ? 0 : badness(process, total_pages);
            if (score > worst) {
                worst = score;
                victim = Ref<Process>::share(&process);
            }
        });
        if (dying)
            return true;
        if (!victim)
            return false;
        pid = victim->pid;
        group = memory_group_by_number(victim->first_task()->memory_owner);
        pages = static_cast<u64>(worst);
    }
    kills.fetch_add(1, base::Order::Relaxed);
    log::warning("out of memory: killing process {} ({} KiB)", pid, pages * (page_size / 1024));
    if (group != nullptr) {
        note_memory_event(*group, EventOomKill);
        if (kill_whole_group(*group, within))
            return true;
    }
    SignalInfo info = kernel_signal(SIGKILL);
    (void)send_signal_info(*victim, info);
    return true;
}

bool wait_for_memory(MemoryGroup* within, unsigned attempt) {
    if (fatal_signal_pending() || attempt >= most_attempts)
        return false;
    if (attempt % attempts_per_victim == 0 && !kill_for_memory(within))
        return false;
    if (attempt < attempts_per_victim) {
        yield(); // most victims need no more than a CPU
        return true;
    }
    // The victim may wait for the host, or have less priority than this task.
    WaitQueue nobody;
    (void)wait_until(
        nobody, [] { return false; }, monotonic_ns() + pause_ns, TaskState::Killable);
    return true;
}

} // namespace kernel
