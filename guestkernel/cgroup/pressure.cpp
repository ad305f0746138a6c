#include "guestkernel/cgroup/pressure.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/poll.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/fs/file.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/sched/run_queue.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

constexpr u64 sample_ns = 2 * nanoseconds_per_second;
constexpr u64 unit = 1u << 11;
// exp(-2s / 10s, 60s, 300s) in units of 1/2048.
constexpr u64 decay[3] = {1677, 1981, 2034};
constexpr u64 shortest_window_ns = 500'000'000;
constexpr u64 longest_window_ns = 10'000'000'000;
constexpr u64 checks_per_window = 10;

// One of "some" and "full".
struct Line {
    u64 total_ns = 0;
    u64 since_ns = 0; // 0: not now
    // Averages in per cent, times `unit`; and what they knew last.
    u64 averages[3] = {};
    u64 sampled_total_ns = 0;

    void set(bool on, u64 now) {
        if (on == (since_ns != 0))
            return;
        if (!on && now > since_ns)
            total_ns += now - since_ns;
        since_ns = on ? now : 0;
    }
    u64 total(u64 now) const {
        return total_ns + (since_ns != 0 && now > since_ns ? now - since_ns : 0);
    }
};

struct Kind {
    u32 stalled = 0;
    Line some, full;
    u64 sampled_ns = 0;
};

} // namespace

struct PressureGroup {
    SpinLock lock{LockRank::Leaf};
    Kind kinds[pressure_kinds];
    base::Atomic<bool> hidden{false}; // cgroup.pressure
};

struct PressureTrigger {
    PressureTrigger(Ref<Cgroup> of, PressureKind which, bool is_full, u64 threshold, u64 window);
    Ref<Cgroup> group; // null: the machine
    PressureKind kind;
    bool full;
    u64 threshold_ns, window_ns;
    u64 window_start_ns, window_total_ns;
    volatile bool fired = false;
    WaitQueue queue;
    SpinLock arming{LockRank::Leaf}; // by whoever polls, and by the timer itself
    Timer timer;
};

namespace {

constinit PressureGroup the_machine;

PressureGroup& figures(Cgroup* group) {
    return group == nullptr || group->pressure == nullptr ? the_machine : *group->pressure;
}

// Nobody gets anything done: of the machine, no CPU has a task; of a group, all its tasks wait.
bool is_full(const PressureGroup& group, const Kind& kind, const Cgroup* of) {
    if (kind.stalled == 0)
        return false;
    return &group == &the_machine ? running_tasks() <= 1 : kind.stalled >= of->tasks;
}

void change(PressureGroup& group, const Cgroup* of, PressureKind which, i32 by) {
    SpinGuard guard(group.lock);
    Kind& kind = group.kinds[static_cast<unsigned>(which)];
    kind.stalled += static_cast<u32>(by);
    const u64 now = monotonic_ns();
    kind.some.set(kind.stalled != 0, now);
    kind.full.set(is_full(group, kind, of), now);
}

void change_all(Cgroup* group, PressureKind which, i32 by) {
    change(the_machine, nullptr, which, by);
    for (Cgroup* at = group; at != nullptr && at->parent; at = at->parent.get())
        if (at->pressure != nullptr)
            change(*at->pressure, at, which, by);
}

// Waiting for a CPU is counted by the run queues.
u64 cpu_wait_ns(Cgroup* group, u64 now) {
    u64 most = 0;
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
        const CpuRunQueue& queue = run_queue(cpu);
        u64 waited = 0;
        if (group == nullptr) {
            const u64 since = queue.waiting_since_ns;
            waited = queue.waited_ns + (since != 0 && now > since ? now - since : 0);
        } else {
            waited = group->cpu.per_cpu[cpu].waited_ns;
        }
        most = waited > most ? waited : most;
    }
    return most;
}

// Requires: the lock.
void refresh(PressureGroup& figures_of, Cgroup* group, PressureKind which, u64 now) {
    Kind& kind = figures_of.kinds[static_cast<unsigned>(which)];
    if (which == PressureKind::Cpu)
        kind.some.total_ns = cpu_wait_ns(group, now);
    if (kind.sampled_ns == 0) {
        kind.sampled_ns = now;
        for (Line* line : {&kind.some, &kind.full})
            line->sampled_total_ns = line->total(now);
        return;
    }
    u64 periods = (now - kind.sampled_ns) / sample_ns;
    if (periods == 0)
        return;
    const u64 elapsed = now - kind.sampled_ns;
    kind.sampled_ns = now;
    periods = periods < 1000 ? periods : 1000; // by then it has converged
    for (Line* line : {&kind.some, &kind.full}) {
        const u64 total = line->total(now);
        const u64 grown = total > line->sampled_total_ns ? total - line->sampled_total_ns : 0;
        line->sampled_total_ns = total;
        const u64 share = (grown < elapsed ? grown : elapsed) * 100 * unit / elapsed;
        for (u64 i = 0; i < periods; i++)
            for (unsigned n = 0; n < 3; n++)
                line->averages[n] =
                    (line->averages[n] * decay[n] + share * (unit - decay[n])) / unit;
    }
}

void show_line(TextBuilder& out, std::string_view label, const Line& line, u64 now) {
    constexpr const char* names[3] = {" avg10=", " avg60=", " avg300="};
    out.append(label);
    for (unsigned n = 0; n < 3; n++) {
        const u64 hundredths = line.averages[n] * 100 / unit;
        out.append(names[n]);
        out.number(hundredths / 100);
        out.append(".");
        out.number(hundredths % 100, 2, '0');
    }
    out.print(" total={}\n", line.total(now) / 1000);
}

u64 trigger_total(PressureTrigger& trigger, u64 now) {
    PressureGroup& group = figures(trigger.group.get());
    SpinGuard guard(group.lock);
    refresh(group, trigger.group.get(), trigger.kind, now);
    const Kind& kind = group.kinds[static_cast<unsigned>(trigger.kind)];
    return (trigger.full ? kind.full : kind.some).total(now);
}

// Looks a few times per window, as long as somebody waits.
void watch_trigger(PressureTrigger& trigger, u64 now) {
    SpinGuard guard(trigger.arming);
    if (!trigger.timer.pending())
        trigger.timer.arm(now + trigger.window_ns / checks_per_window);
}

void check_trigger(Timer&, void* self) {
    auto& trigger = *static_cast<PressureTrigger*>(self);
    const u64 now = monotonic_ns();
    const u64 total = trigger_total(trigger, now);
    if (total - trigger.window_total_ns >= trigger.threshold_ns) {
        trigger.fired = true;
        trigger.window_start_ns = now;
        trigger.window_total_ns = total;
        trigger.queue.wake_all(POLLPRI);
    } else if (now - trigger.window_start_ns >= trigger.window_ns) {
        trigger.window_start_ns = now;
        trigger.window_total_ns = total;
    }
    if (trigger.queue.has_waiters())
        watch_trigger(trigger, now);
}

} // namespace

PressureTrigger::PressureTrigger(Ref<Cgroup> of, PressureKind which, bool is_full, u64 threshold,
                                 u64 window)
    : group(std::move(of)), kind(which), full(is_full), threshold_ns(threshold), window_ns(window),
      window_start_ns(monotonic_ns()), window_total_ns(0), timer(check_trigger, this) {}

PressureStall::PressureStall(PressureKind kind) : kind_(kind) {
    Task& task = current_task();
    if (task.cgroup)
        group_ = cgroup_of(task);
    change_all(group_.get(), kind_, 1);
}

PressureStall::~PressureStall() {
    change_all(group_.get(), kind_, -1);
}

Result<PressureGroup*> make_pressure_group(Cgroup&) {
    auto* group = new (std::nothrow) PressureGroup();
    if (group == nullptr)
        return fail(ENOMEM);
    return group;
}

void free_pressure_group(PressureGroup* group) {
    delete group;
}

void show_pressure(TextBuilder& out, Cgroup* group, PressureKind kind) {
    if (group != nullptr && group->is_root())
        group = nullptr;
    PressureGroup& of = figures(group);
    const u64 now = monotonic_ns();
    Line some;
    Line full;
    {
        SpinGuard guard(of.lock);
        refresh(of, group, kind, now);
        some = of.kinds[static_cast<unsigned>(kind)].some;
        full = of.kinds[static_cast<unsigned>(kind)].full;
    }
    show_line(out, "some", some, now);
    show_line(out, "full", full, now);
}

Result<PressureTrigger*> make_pressure_trigger(Cgroup* group, PressureKind kind,
                                               std::string_view text) {
    const std::string_view which = next_word(text);
    TRY(const i64 threshold, parse_number(next_word(text)));
    TRY(const i64 window, parse_number(next_word(text)));
    if ((which != "some" && which != "full") || !strip(text).empty() || threshold <= 0 ||
        window <= 0 || threshold > window || window > 10'000'000)
        return fail(EINVAL);
    const u64 window_ns = static_cast<u64>(window) * 1000;
    if (window_ns < shortest_window_ns || window_ns > longest_window_ns)
        return fail(EINVAL);
    if (!capable(CAP_SYS_RESOURCE) && window_ns % sample_ns != 0)
        return fail(EINVAL);
    auto* trigger = new (std::nothrow)
        PressureTrigger(Ref<Cgroup>::share(group != nullptr && !group->is_root() ? group : nullptr),
                        kind, which == "full", static_cast<u64>(threshold) * 1000, window_ns);
    if (trigger == nullptr)
        return fail(ENOMEM);
    trigger->window_total_ns = trigger_total(*trigger, trigger->window_start_ns);
    return trigger;
}

void free_pressure_trigger(PressureTrigger* trigger) {
    trigger->timer.cancel();
    delete trigger;
}

u32 poll_pressure_trigger(PressureTrigger* trigger, PollTable* table) {
    if (trigger == nullptr)
        return POLLERR | POLLPRI;
    if (table != nullptr) {
        table->watch(trigger->queue);
        watch_trigger(*trigger, monotonic_ns());
    }
    if (!trigger->fired)
        return 0;
    trigger->fired = false;
    return POLLPRI;
}

namespace {

template <PressureKind Which>
Result<void> show_one(TextBuilder& out, Cgroup& group) {
    show_pressure(out, &group, Which);
    return {};
}

Result<void> show_shown(TextBuilder& out, Cgroup& group) {
    out.append(figures(&group).hidden.load() ? "0\n" : "1\n");
    return {};
}

// What is hidden is not watched any more; its files come back as new ones.
Result<void> store_shown(Cgroup& group, std::string_view text) {
    if (text != "0" && text != "1")
        return fail(text.size() == 1 && text[0] >= '2' && text[0] <= '9' ? ERANGE : EINVAL);
    figures(&group).hidden.store(text == "0");
    if (text == "0")
        drop_pressure_files(group);
    return {};
}

constexpr CgroupFileType pressure_table[] = {
    {.name = "cgroup.pressure",
     .mode = 0644,
     .show = show_shown,
     .store = store_shown,
     .where = CgroupFileType::NotInRoot},
    {.name = "cpu.pressure", .mode = 0644, .show = show_one<PressureKind::Cpu>, .pressure = 3},
    {.name = "io.pressure", .mode = 0644, .show = show_one<PressureKind::Io>, .pressure = 1},
    {.name = "memory.pressure",
     .mode = 0644,
     .show = show_one<PressureKind::Memory>,
     .pressure = 2},
};

} // namespace

bool pressure_shown(Cgroup& group) {
    return group.is_root() || group.pressure == nullptr || !group.pressure->hidden.load();
}

std::span<const CgroupFileType> pressure_files() {
    return pressure_table;
}

} // namespace kernel
