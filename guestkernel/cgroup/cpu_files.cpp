// The cpu.* and cpuset.* files.
#include <linux/errno.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/cgroup/controllers.hpp"
#include "guestkernel/cgroup/cpuset.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/sched/scheduler.hpp"

namespace kernel {

namespace {

using List = Result<void>;
constexpr u64 ns_per_us = 1000;
constexpr u64 shortest_period_us = 1000;
constexpr u64 longest_period_us = 1'000'000;
constexpr u64 least_quota_us = 1000;

// nice n is worth as much as this weight (sched(7)); a weight shows as the nearest nice value.
constexpr u32 weights_of_nice[40] = {
    8668, 7008, 5516, 4519, 3580, 2849, 2274, 1826, 1460, 1164, 932, 744, 596, 479,
    381,  305,  244,  194,  155,  125,  100,  80,   64,   52,   41,  33,  27,  21,
    17,   13,   11,   8,    7,    5,    4,    4,    3,    2,    2,   1,
};

List show_cpu_stat(TextBuilder& out, Cgroup& group) {
    note_run_times();
    u64 usage = group.cpu.usage_ns.load();
    u64 system = group.cpu.system_ns.load();
    u64 nice = group.cpu.nice_ns.load();
    if (group.is_root()) {
        usage = system = nice = 0;
        for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
            const CpuTimes times = cpu_times(cpu);
            usage += times.user_ns + times.nice_ns + times.system_ns;
            system += times.system_ns;
            nice += times.nice_ns;
        }
    }
    system = system < usage ? system : usage;
    out.print("usage_usec {}\nuser_usec {}\nsystem_usec {}\nnice_usec {}\n", usage / ns_per_us,
              (usage - system) / ns_per_us, system / ns_per_us, nice / ns_per_us);
    if (group.is_root() || !group.has(Controller::Cpu))
        return {};
    SpinGuard guard(group.cpu.lock);
    const CpuGroup& cpu = group.cpu;
    u64 throttled = cpu.throttled_ns;
    const u64 now = monotonic_ns();
    if (cpu.throttled.load() && now > cpu.throttled_since_ns)
        throttled += now - cpu.throttled_since_ns;
    const u64 figures[] = {cpu.periods, cpu.throttled_periods, throttled / ns_per_us, cpu.bursts,
                           cpu.burst_used_ns / ns_per_us};
    guard.unlock();
    out.print("nr_periods {}\nnr_throttled {}\nthrottled_usec {}\nnr_bursts {}\nburst_usec {}\n",
              figures[0], figures[1], figures[2], figures[3], figures[4]);
    return {};
}

List show_cpu_weight(TextBuilder& out, Cgroup& group) {
    out.print("{}\n", group.cpu.idle ? 0 : group.cpu.weight);
    return {};
}

List store_cpu_weight(Cgroup& group, std::string_view text) {
    TRY(const i64 value, parse_number(text));
    if (value < 1 || value > 10'000)
        return fail(ERANGE);
    group.cpu.set_weight(static_cast<u32>(value), false);
    return {};
}

List show_cpu_weight_nice(TextBuilder& out, Cgroup& group) {
    i32 best = 0;
    u32 least = ~0u;
    for (i32 i = 0; i < 40; i++) {
        const u32 at = weights_of_nice[i];
        const u32 distance = at > group.cpu.weight ? at - group.cpu.weight : group.cpu.weight - at;
        if (distance < least) {
            least = distance;
            best = i - 20;
        }
    }
    out.print("{}\n", best);
    return {};
}

List store_cpu_weight_nice(Cgroup& group, std::string_view text) {
    TRY(const i64 value, parse_number(text));
    if (value < -20 || value > 19)
        return fail(ERANGE);
    group.cpu.set_weight(weights_of_nice[value + 20], false);
    return {};
}

List show_cpu_idle(TextBuilder& out, Cgroup& group) {
    out.append(group.cpu.idle ? "1\n" : "0\n");
    return {};
}

List store_cpu_idle(Cgroup& group, std::string_view text) {
    TRY(const i64 value, parse_number(text));
    if (value != 0 && value != 1)
        return fail(EINVAL);
    group.cpu.set_weight(100, value == 1);
    return {};
}

List show_cpu_max(TextBuilder& out, Cgroup& group) {
    const u64 quota = group.cpu.quota_ns.load();
    if (quota == no_limit_ns)
        out.append("max");
    else
        out.number(quota / ns_per_us);
    out.print(" {}\n", group.cpu.period_ns / ns_per_us);
    return {};
}

List store_cpu_max(Cgroup& group, std::string_view text) {
    TRY(const u64 quota, parse_limit(next_word(text)));
    u64 period = group.cpu.period_ns / ns_per_us;
    const std::string_view second = next_word(text);
    if (!second.empty()) {
        TRY(const i64 value, parse_number(second));
        if (value < 0)
            return fail(EINVAL);
        period = static_cast<u64>(value);
    }
    if (!strip(text).empty() || period < shortest_period_us || period > longest_period_us ||
        (quota != no_limit && (quota < least_quota_us || quota > (u64{1} << 40))))
        return fail(EINVAL);
    if (quota != no_limit && group.cpu.burst_ns > quota * ns_per_us)
        return fail(EINVAL);
    group.cpu.set_limit(quota == no_limit ? no_limit_ns : quota * ns_per_us, period * ns_per_us,
                        group.cpu.burst_ns);
    return {};
}

List show_cpu_burst(TextBuilder& out, Cgroup& group) {
    out.print("{}\n", group.cpu.burst_ns / ns_per_us);
    return {};
}

List store_cpu_burst(Cgroup& group, std::string_view text) {
    TRY(const i64 value, parse_number(text));
    const u64 quota = group.cpu.quota_ns.load();
    if (value < 0 || value > (i64{1} << 40) ||
        (value != 0 && static_cast<u64>(value) * ns_per_us > quota))
        return fail(EINVAL);
    group.cpu.set_limit(quota, group.cpu.period_ns, static_cast<u64>(value) * ns_per_us);
    return {};
}

constexpr auto not_in_root = CgroupFileType::NotInRoot;
constexpr u32 cpu_bit = controller_bit(Controller::Cpu);

#define CPU_FILE(file, show_it, store_it)                                                          \
    {                                                                                              \
        .name = file, .mode = 0644, .controller = cpu_bit, .show = show_it, .store = store_it,     \
        .where = not_in_root                                                                       \
    }
constexpr CgroupFileType cpu_table[] = {
    CPU_FILE("cpu.idle", show_cpu_idle, store_cpu_idle),
    CPU_FILE("cpu.max", show_cpu_max, store_cpu_max),
    CPU_FILE("cpu.max.burst", show_cpu_burst, store_cpu_burst),
    {.name = "cpu.stat", .mode = 0444, .show = show_cpu_stat},
    CPU_FILE("cpu.weight", show_cpu_weight, store_cpu_weight),
    CPU_FILE("cpu.weight.nice", show_cpu_weight_nice, store_cpu_weight_nice),
};
#undef CPU_FILE

// --- cpuset --------------------------------------------------------------------------------------

u64 present_cpus() {
    const unsigned count = arch::cpu_count();
    return count >= 64 ? ~u64{0} : (u64{1} << count) - 1;
}

List show_cpus(TextBuilder& out, Cgroup& group) {
    out.bits(group.cpuset_wanted);
    out.append("\n");
    return {};
}
List store_cpus(Cgroup& group, std::string_view text) {
    TRY(const u64 mask, parse_list(text));
    if ((mask & ~present_cpus()) != 0)
        return fail(EINVAL);
    set_cpuset(group, mask);
    return {};
}
List show_effective_cpus(TextBuilder& out, Cgroup& group) {
    out.bits(group.cpuset_cpus & present_cpus());
    out.append("\n");
    return {};
}
List show_mems(TextBuilder& out, Cgroup& group) {
    out.append(group.cpuset_mems_set ? "0\n" : "\n");
    return {};
}
List store_mems(Cgroup& group, std::string_view text) {
    TRY(const u64 mask, parse_list(text)); // there is one node
    if ((mask & ~u64{1}) != 0)
        return fail(EINVAL);
    group.cpuset_mems_set = mask != 0;
    return {};
}
List show_effective_mems(TextBuilder& out, Cgroup&) {
    out.append("0\n");
    return {};
}
List show_partition(TextBuilder& out, Cgroup&) {
    out.append("member\n");
    return {};
}
// Partitions of their own need CPUs taken away from everybody else: only membership is offered.
List store_partition(Cgroup&, std::string_view text) {
    return text == "member" ? List() : List(fail(EINVAL));
}

constexpr u32 cpuset_bit = controller_bit(Controller::Cpuset);
constexpr CgroupFileType cpuset_table[] = {
    {.name = "cpuset.cpus",
     .mode = 0644,
     .controller = cpuset_bit,
     .show = show_cpus,
     .store = store_cpus,
     .where = not_in_root},
    {.name = "cpuset.cpus.effective",
     .mode = 0444,
     .controller = cpuset_bit,
     .show = show_effective_cpus},
    {.name = "cpuset.cpus.partition",
     .mode = 0644,
     .controller = cpuset_bit,
     .show = show_partition,
     .store = store_partition,
     .where = not_in_root},
    {.name = "cpuset.mems",
     .mode = 0644,
     .controller = cpuset_bit,
     .show = show_mems,
     .store = store_mems,
     .where = not_in_root},
    {.name = "cpuset.mems.effective",
     .mode = 0444,
     .controller = cpuset_bit,
     .show = show_effective_mems},
};

} // namespace

std::span<const CgroupFileType> cpu_files() {
    return cpu_table;
}
std::span<const CgroupFileType> cpuset_files() {
    return cpuset_table;
}

} // namespace kernel
