// The memory.* files.
#include <linux/errno.h>

#include "guestkernel/cgroup/cgroup_file.hpp"
#include "guestkernel/mm/memory_group.hpp"

namespace kernel {

namespace {

using List = Result<void>;

void show_bytes(TextBuilder& out, u64 pages) {
    if (pages >= no_page_limit)
        out.append("max\n");
    else
        out.print("{}\n", pages * page_size);
}

// Bytes with an optional K, M, G or T; rounded down to pages.
Result<u64> parse_bytes(std::string_view text) {
    text = strip(text);
    if (text == "max")
        return no_page_limit;
    unsigned shift = 0;
    if (!text.empty()) {
        switch (text.back() | 0x20) {
        case 'k':
            shift = 10;
            break;
        case 'm':
            shift = 20;
            break;
        case 'g':
            shift = 30;
            break;
        case 't':
            shift = 40;
            break;
        default:
            break;
        }
        if (shift != 0)
            text.remove_suffix(1);
    }
    TRY(const u64 value, parse_limit(text));
    const u64 pages = value >> page_shift;
    if (shift == 0)
        return pages < no_page_limit ? pages : no_page_limit;
    if (value > (no_page_limit >> shift))
        return no_page_limit;
    return (value << shift) >> page_shift;
}

template <u64 MemoryGroup::*Member>
List show_figure(TextBuilder& out, Cgroup& group) {
    show_bytes(out, group.memory->*Member);
    return {};
}

template <u64 MemoryGroup::*Member>
List store_figure(Cgroup& group, std::string_view text) {
    TRY(group.memory->*Member, parse_bytes(text));
    return {};
}

List store_max(Cgroup& group, std::string_view text) {
    TRY(group.memory->max, parse_bytes(text));
    enforce_memory_limit(*group.memory);
    return {};
}

List store_high(Cgroup& group, std::string_view text) {
    TRY(group.memory->high, parse_bytes(text));
    (void)reclaim_memory_group(*group.memory, group.memory->beyond(group.memory->high));
    return {};
}

List store_reclaim(Cgroup& group, std::string_view text) {
    TRY(const u64 wanted, parse_bytes(next_word(text)));
    return reclaim_memory_group(*group.memory, wanted) >= wanted ? List() : List(fail(EAGAIN));
}

void show_counts(TextBuilder& out, const MemoryEvents& events) {
    out.print("low {}\nhigh {}\nmax {}\noom {}\noom_kill {}\noom_group_kill {}\n", events.low,
              events.high, events.max, events.oom, events.oom_kill, events.oom_group_kill);
}

List show_memory_events(TextBuilder& out, Cgroup& group) {
    show_counts(out, group.memory->events);
    return {};
}

List show_memory_events_local(TextBuilder& out, Cgroup& group) {
    show_counts(out, group.memory->local_events);
    return {};
}

List show_oom_group(TextBuilder& out, Cgroup& group) {
    out.append(group.memory->oom_group ? "1\n" : "0\n");
    return {};
}

List store_oom_group(Cgroup& group, std::string_view text) {
    if (text != "0" && text != "1")
        return fail(EINVAL);
    group.memory->oom_group = text == "1";
    return {};
}

List show_memory_stat(TextBuilder& out, Cgroup& group) {
    u64 anonymous = 0, file = 0, shared = 0, tables = 0, stacks = 0, kernel = 0;
    if (group.is_root()) {
        const MemoryStats m = memory_stats();
        anonymous = m.anonymous, file = m.cached, shared = m.shared;
        tables = m.page_tables, stacks = m.kernel_stacks, kernel = m.slab;
    } else {
        const MemoryGroup& of = *group.memory;
        anonymous = memory_group_kind(of, FrameKind::Anonymous);
        file = memory_group_kind(of, FrameKind::File);
        shared = memory_group_kind(of, FrameKind::Shared);
        tables = memory_group_kind(of, FrameKind::PageTable);
        stacks = memory_group_kind(of, FrameKind::Stack);
        kernel = memory_group_kind(of, FrameKind::Kernel);
    }
    const auto line = [&](std::string_view name, u64 pages) {
        out.append(name);
        out.print(" {}\n", pages * page_size);
    };
    line("anon", anonymous);
    line("file", file + shared);
    line("kernel", kernel + tables + stacks);
    line("kernel_stack", stacks);
    line("pagetables", tables);
    line("sec_pagetables", 0);
    line("percpu", 0);
    line("sock", 0);
    line("vmalloc", 0);
    line("shmem", shared);
    line("file_mapped", 0);
    line("file_dirty", 0);
    line("file_writeback", 0);
    line("swapcached", 0);
    line("inactive_anon", shared);
    line("active_anon", anonymous);
    line("inactive_file", file);
    line("active_file", 0);
    line("unevictable", 0);
    line("slab_reclaimable", 0);
    line("slab_unreclaimable", kernel);
    line("slab", kernel);
    return {};
}

// All memory is node 0's.
List show_numa_stat(TextBuilder& out, Cgroup& group) {
    TextBuilder all;
    TRY(show_memory_stat(all, group));
    std::string_view text = all.view();
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(line.size() + 1);
        const usize blank = line.find(' ');
        static constexpr std::string_view by_node[] = {"anon",
                                                       "file",
                                                       "kernel_stack",
                                                       "pagetables",
                                                       "sec_pagetables",
                                                       "shmem",
                                                       "file_mapped",
                                                       "file_dirty",
                                                       "file_writeback",
                                                       "swapcached",
                                                       "inactive_anon",
                                                       "active_anon",
                                                       "inactive_file",
                                                       "active_file",
                                                       "unevictable",
                                                       "slab_reclaimable",
                                                       "slab_unreclaimable"};
        for (const std::string_view name : by_node)
            if (line.substr(0, blank) == name) {
                out.append(name);
                out.append(" N0=");
                out.append(line.substr(blank + 1));
                out.append("\n");
            }
    }
    return {};
}

u64 restart_memory_peak(Cgroup& group) {
    return restart_peak(*group.memory);
}
u64 late_memory_peak(Cgroup& group) {
    return group.memory->late_peak;
}

// There is no swap: nothing is ever there, and limits limit nothing.
List restart_nothing(Cgroup&, std::string_view) {
    return {};
}
List show_nothing(TextBuilder& out, Cgroup&) {
    out.append("0\n");
    return {};
}
List show_swap_max(TextBuilder& out, Cgroup&) {
    out.append("max\n");
    return {};
}
List store_swap_limit(Cgroup&, std::string_view text) {
    TRY(parse_bytes(text));
    return {};
}
List show_swap_events(TextBuilder& out, Cgroup&) {
    out.append("high 0\nmax 0\nfail 0\n");
    return {};
}

constexpr u32 memory_bit = controller_bit(Controller::Memory);
constexpr auto not_in_root = CgroupFileType::NotInRoot;

#define MEMORY_READ(file, show_it)                                                                 \
    { .name = file, .mode = 0444, .controller = memory_bit, .show = show_it, .where = not_in_root }
#define MEMORY_WRITE(file, show_it, store_it)                                                      \
    {                                                                                              \
        .name = file, .mode = 0644, .controller = memory_bit, .show = show_it, .store = store_it,  \
        .where = not_in_root                                                                       \
    }
constexpr CgroupFileType memory_table[] = {
    MEMORY_READ("memory.current", show_figure<&MemoryGroup::usage>),
    {.name = "memory.events",
     .mode = 0444,
     .controller = memory_bit,
     .show = show_memory_events,
     .event = CgroupEvent::MemoryEvents,
     .where = not_in_root},
    {.name = "memory.events.local",
     .mode = 0444,
     .controller = memory_bit,
     .show = show_memory_events_local,
     .event = CgroupEvent::MemoryEventsLocal,
     .where = not_in_root},
    MEMORY_WRITE("memory.high", show_figure<&MemoryGroup::high>, store_high),
    MEMORY_WRITE("memory.low", show_figure<&MemoryGroup::low>, store_figure<&MemoryGroup::low>),
    MEMORY_WRITE("memory.max", show_figure<&MemoryGroup::max>, store_max),
    MEMORY_WRITE("memory.min", show_figure<&MemoryGroup::min>, store_figure<&MemoryGroup::min>),
    {.name = "memory.numa_stat", .mode = 0444, .controller = memory_bit, .show = show_numa_stat},
    MEMORY_WRITE("memory.oom.group", show_oom_group, store_oom_group),
    {.name = "memory.peak",
     .mode = 0644,
     .controller = memory_bit,
     .show = show_figure<&MemoryGroup::peak>,
     .where = not_in_root,
     .restart = restart_memory_peak,
     .since_restart = late_memory_peak},
    {.name = "memory.reclaim",
     .mode = 0200,
     .controller = memory_bit,
     .store = store_reclaim,
     .where = not_in_root},
    {.name = "memory.stat", .mode = 0444, .controller = memory_bit, .show = show_memory_stat},
    MEMORY_READ("memory.swap.current", show_nothing),
    MEMORY_READ("memory.swap.events", show_swap_events),
    MEMORY_WRITE("memory.swap.high", show_swap_max, store_swap_limit),
    MEMORY_WRITE("memory.swap.max", show_swap_max, store_swap_limit),
    MEMORY_WRITE("memory.swap.peak", show_nothing, restart_nothing),
};
#undef MEMORY_READ
#undef MEMORY_WRITE

} // namespace

std::span<const CgroupFileType> memory_files() {
    return memory_table;
}

} // namespace kernel
