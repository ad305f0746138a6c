// The machine as a whole; proc(5).
#include <linux/errno.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/counters.hpp"
#include "guestkernel/cgroup/view.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/sched/scheduler.hpp"

namespace kernel::procfs {
namespace {

constexpr u64 nanoseconds_per_tick = nanoseconds_per_second / clock_ticks;

CpuTimes& operator+=(CpuTimes& sum, const CpuTimes& more) {
    sum.user_ns += more.user_ns;
    sum.nice_ns += more.nice_ns;
    sum.system_ns += more.system_ns;
    sum.idle_ns += more.idle_ns;
    sum.io_wait_ns += more.io_wait_ns;
    sum.switches += more.switches;
    return sum;
}

void show_times(TextBuilder& out, const CpuTimes& times) {
    for (const u64 ns :
         {times.user_ns, times.nice_ns, times.system_ns, times.idle_ns, times.io_wait_ns})
        out.print(" {}", ns / nanoseconds_per_tick);
    out.append(" 0 0 0 0 0\n"); // interrupts are not told apart from what they interrupt
}

void show_seconds(TextBuilder& out, u64 ns) {
    out.number(ns / nanoseconds_per_second);
    out.append(".");
    out.number(ns % nanoseconds_per_second / (nanoseconds_per_second / 100), 2, '0');
}

CpuTimes all_times() {
    CpuTimes sum{};
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        if (arch::cpu_online(cpu))
            sum += cpu_times(cpu);
    return sum;
}

} // namespace

Result<void> show_meminfo(TextBuilder& out, const TableContext&) {
    MemoryStats m = memory_stats();
    if (const ResourceView view = resource_view(); view.memory) {
        const u64 room = view.memory_total - view.memory_used;
        m = {.total = view.memory_total,
             .free = room < m.free ? room : m.free,
             .cached = view.file,
             .dirty = m.dirty < view.file ? m.dirty : view.file,
             .anonymous = view.anonymous,
             .slab = view.kernel,
             .page_tables = view.tables,
             .kernel_stacks = view.stacks,
             .shared = view.shared};
    }
    constexpr usize label = 16;
    const u64 kernel = m.slab + m.page_tables + m.kernel_stacks;
    // Clean cached pages can be given up at once.
    const u64 clean = m.cached > m.dirty ? m.cached - m.dirty : 0;
    const u64 committed = m.anonymous + m.shared;
    out.kilobytes("MemTotal:", label, m.total);
    out.kilobytes("MemFree:", label, m.free);
    out.kilobytes("MemAvailable:", label, m.free + clean);
    out.kilobytes("Buffers:", label, 0);
    out.kilobytes("Cached:", label, m.cached + m.shared);
    out.kilobytes("SwapCached:", label, 0);
    out.kilobytes("Active:", label, m.anonymous + m.cached);
    out.kilobytes("Inactive:", label, 0);
    out.kilobytes("Active(anon):", label, m.anonymous);
    out.kilobytes("Inactive(anon):", label, 0);
    out.kilobytes("Active(file):", label, m.cached);
    out.kilobytes("Inactive(file):", label, 0);
    out.kilobytes("Unevictable:", label, 0);
    out.kilobytes("Mlocked:", label, 0);
    out.kilobytes("SwapTotal:", label, 0);
    out.kilobytes("SwapFree:", label, 0);
    out.kilobytes("Dirty:", label, m.dirty);
    out.kilobytes("Writeback:", label, 0);
    out.kilobytes("AnonPages:", label, m.anonymous);
    out.kilobytes("Mapped:", label, 0);
    out.kilobytes("Shmem:", label, m.shared);
    out.kilobytes("KReclaimable:", label, 0);
    out.kilobytes("Slab:", label, m.slab);
    out.kilobytes("SReclaimable:", label, 0);
    out.kilobytes("SUnreclaim:", label, m.slab);
    out.kilobytes("KernelStack:", label, m.kernel_stacks);
    out.kilobytes("PageTables:", label, m.page_tables);
    out.kilobytes("NFS_Unstable:", label, 0);
    out.kilobytes("Bounce:", label, 0);
    out.kilobytes("WritebackTmp:", label, 0);
    out.kilobytes("CommitLimit:", label, m.total > kernel ? m.total - kernel : 0);
    out.kilobytes("Committed_AS:", label, committed);
    out.append("VmallocTotal:   34359738367 kB\n");
    out.kilobytes("VmallocUsed:", label, 0);
    out.kilobytes("VmallocChunk:", label, 0);
    out.kilobytes("Percpu:", label, 0);
    out.kilobytes("AnonHugePages:", label, 0);
    out.append("HugePages_Total:       0\nHugePages_Free:        0\nHugePages_Rsvd:        0\n"
               "HugePages_Surp:        0\nHugepagesize:       2048 kB\n");
    return {};
}

namespace {

// A group's times, spread over the CPUs that it may use.
CpuTimes group_times(const ResourceView& view, u64 cpus) {
    const u64 alive = (monotonic_ns() - view.born_ns) * cpus;
    const u64 system = view.system_ns < view.usage_ns ? view.system_ns : view.usage_ns;
    const u64 user = view.usage_ns - system;
    const u64 nice = view.nice_ns < user ? view.nice_ns : user;
    return {user - nice, nice, system, alive > view.usage_ns ? alive - view.usage_ns : 0, 0, 0};
}

void show_cpu_lines(TextBuilder& out, const ResourceView& view) {
    out.append("cpu ");
    if (!view.limited) {
        show_times(out, all_times());
        for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
            if (arch::cpu_online(cpu)) {
                out.print("cpu{}", cpu);
                show_times(out, cpu_times(cpu));
            }
        return;
    }
    const auto cpus = static_cast<u64>(__builtin_popcountll(view.cpus));
    const CpuTimes all = group_times(view, cpus);
    show_times(out, all);
    // They are numbered from 0, as the machine's are.
    for (u64 cpu = 0; cpu < cpus; cpu++) {
        out.print("cpu{}", cpu);
        show_times(out, {all.user_ns / cpus, all.nice_ns / cpus, all.system_ns / cpus,
                         all.idle_ns / cpus, 0, 0});
    }
}

} // namespace

Result<void> show_system_stat(TextBuilder& out, const TableContext&) {
    const ResourceView view = resource_view();
    show_cpu_lines(out, view);
    // As CLOCK_BOOTTIME of the reader's time namespace has it.
    const i64 up_ns = static_cast<i64>(monotonic_ns() - view.born_ns) + clock_offset_ns(7);
    const i64 boot = (realtime_ns() - up_ns) / static_cast<i64>(nanoseconds_per_second);
    out.print("intr 0\nctxt {}\nbtime {}\nprocesses {}\nprocs_running {}\nprocs_blocked 0\n",
              all_times().switches, boot, last_pid(), running_tasks());
    out.append("softirq 0 0 0 0 0 0 0 0 0 0 0\n");
    return {};
}

Result<void> show_loadavg(TextBuilder& out, const TableContext&) {
    const ResourceView view = resource_view(true);
    u64 averages[3];
    load_averages(averages);
    if (view.limited)
        __builtin_memcpy(averages, view.load, sizeof averages);
    for (const u64 average : averages) {
        const u64 hundredths = (average * 100 + 32768) >> 16;
        out.number(hundredths / 100);
        out.append(".");
        out.number(hundredths % 100, 2, '0');
        out.append(" ");
    }
    out.print("{}/{} {}\n", view.limited ? view.running : running_tasks(),
              view.limited ? view.tasks : task_total(), visible_last_pid());
    return {};
}

Result<void> show_uptime(TextBuilder& out, const TableContext&) {
    const ResourceView view = resource_view();
    show_seconds(out, monotonic_ns() + static_cast<u64>(clock_offset_ns(7)) -
                          view.born_ns); // CLOCK_BOOTTIME
    out.append(" ");
    show_seconds(out,
                 view.limited
                     ? group_times(view, static_cast<u64>(__builtin_popcountll(view.cpus))).idle_ns
                     : all_times().idle_ns);
    out.append("\n");
    return {};
}

Result<void> show_version(TextBuilder& out, const TableContext&) {
    out.print("{} version {} (joey) {}\n", uts_sysname, uts_release, uts_version);
    return {};
}

Result<void> show_vmstat(TextBuilder& out, const TableContext&) {
    const MemoryStats m = memory_stats();
    out.print("nr_free_pages {}\nnr_inactive_anon 0\nnr_active_anon {}\n", m.free, m.anonymous);
    out.print("nr_inactive_file 0\nnr_active_file {}\nnr_unevictable 0\nnr_mlock 0\n", m.cached);
    out.print("nr_anon_pages {}\nnr_mapped 0\nnr_file_pages {}\nnr_dirty {}\nnr_writeback 0\n",
              m.anonymous, m.cached + m.shared, m.dirty);
    out.print("nr_slab_unreclaimable {}\nnr_page_table_pages {}\nnr_kernel_stack {}\nnr_shmem {}\n",
              m.slab, m.page_tables, m.kernel_stacks * (page_size / 1024), m.shared);
    u64 minor = 0, major = 0;
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++) {
        minor += arch::counters(cpu).minor_faults;
        major += arch::counters(cpu).major_faults;
    }
    out.print("pgpgin 0\npgpgout 0\npswpin 0\npswpout 0\npgfault {}\npgmajfault {}\noom_kill {}\n",
              minor + major, major, killed_for_memory());
    return {};
}

Result<void> show_interrupts(TextBuilder& out, const TableContext&) {
    out.append("           ");
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        if (arch::cpu_online(cpu))
            out.print("CPU{}       ", cpu);
    out.append("\n");
    return {};
}

Result<void> link_self(TextBuilder& out, const TableContext& of) {
    const i32 pid = pid_in(of.pids, current_pid());
    if (pid == 0)
        return fail(ENOENT);
    out.print("{}", pid);
    return {};
}

Result<void> link_thread_self(TextBuilder& out, const TableContext& of) {
    const i32 pid = pid_in(of.pids, current_pid());
    if (pid == 0)
        return fail(ENOENT);
    out.print("{}/task/{}", pid, pid_in(of.pids, current_task().tid));
    return {};
}

// admin-guide/sysrq.rst: the commands that have a meaning here; others do nothing.
Result<void> store_sysrq(std::string_view text, const TableContext&) {
    switch (text.empty() ? '\0' : text[0]) {
    case 'b':
    case 'o':
        arch::power_off(0);
    case 'c':
        PANIC("sysrq triggered crash");
    case 's':
        write_back_all();
        break;
    default:
        break;
    }
    return {};
}

} // namespace kernel::procfs
