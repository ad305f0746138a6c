#include <bit>

#include <linux/magic.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/core/speculation.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/table_fs.hpp"
#include "guestkernel/fs/sysfs/net_devices.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/netlink/uevent.hpp"

namespace kernel {
namespace sysfs {
namespace {

constexpr u32 file = mode_regular | 0444;
constexpr u32 directory = mode_directory | 0755;

// "0" or "0-3".
Result<void> show_all_cpus(TextBuilder& out, const TableContext&) {
    out.append("0");
    if (const unsigned count = arch::cpu_count(); count > 1)
        out.print("-{}", count - 1);
    out.append("\n");
    return {};
}

Result<void> show_online(TextBuilder& out, const TableContext&) {
    out.ranges(arch::cpu_count(), [](u32 cpu) { return arch::cpu_online(cpu); });
    out.append("\n");
    return {};
}

void append_mask(TextBuilder& out, u64 mask) {
    if (arch::cpu_count() > 32) {
        out.hex(mask >> 32, 8);
        out.append(",");
        out.hex(mask & 0xffff'ffff, 8);
    } else {
        out.hex(mask);
    }
    out.append("\n");
}

u64 all_mask() {
    const unsigned count = arch::cpu_count();
    return count >= 64 ? ~u64{0} : (u64{1} << count) - 1;
}

// One package of cores without hyper-threads.
Result<void> show_core_id(TextBuilder& out, const TableContext& of) {
    out.print("{}\n", of.cpu);
    return {};
}
Result<void> show_own_mask(TextBuilder& out, const TableContext& of) {
    append_mask(out, u64{1} << of.cpu);
    return {};
}
Result<void> show_package_mask(TextBuilder& out, const TableContext&) {
    append_mask(out, all_mask());
    return {};
}
Result<void> show_cpu_online(TextBuilder& out, const TableContext& of) {
    out.append(arch::cpu_online(static_cast<unsigned>(of.cpu)) ? "1\n" : "0\n");
    return {};
}

constexpr TableEntry topology_entries[] = {
    {.name = "core_id", .mode = file, .show = show_core_id},
    {.name = "core_cpus", .mode = file, .show = show_own_mask},
    {.name = "core_cpus_list", .mode = file, .show = show_core_id},
    {.name = "core_siblings", .mode = file, .show = show_package_mask},
    {.name = "core_siblings_list", .mode = file, .show = show_all_cpus},
    {.name = "die_cpus", .mode = file, .show = show_package_mask},
    {.name = "die_cpus_list", .mode = file, .show = show_all_cpus},
    {.name = "die_id", .mode = file, .text = "0\n"},
    {.name = "package_cpus", .mode = file, .show = show_package_mask},
    {.name = "package_cpus_list", .mode = file, .show = show_all_cpus},
    {.name = "physical_package_id", .mode = file, .text = "0\n"},
    {.name = "thread_siblings", .mode = file, .show = show_own_mask},
    {.name = "thread_siblings_list", .mode = file, .show = show_core_id},
};

// Caches as CPUID tells of them (leaf 4, on AMD 0x8000001d: the same format); Intel SDM 2A.
struct CacheFacts {
    u32 type = 0, level = 0, line = 0, partitions = 0, ways = 0, sets = 0, sharing = 0;
    u64 bytes() const { return u64{line} * partitions * ways * sets; }
};

CacheFacts cache_facts(i32 index) {
    const arch::CpuidLeaf basic = arch::cpuid(0);
    const bool amd = basic.ebx == 0x68747541; // "Auth"
    if (amd ? arch::cpuid(0x8000'0000).eax < 0x8000'001d : basic.eax < 4)
        return {};
    const auto [a, b, c, d] = arch::cpuid(amd ? 0x8000'001d : 4, static_cast<u32>(index));
    if ((a & 0x1f) == 0)
        return {};
    return {.type = a & 0x1f,
            .level = a >> 5 & 7,
            .line = (b & 0xfff) + 1,
            .partitions = (b >> 12 & 0x3ff) + 1,
            .ways = (b >> 22) + 1,
            .sets = c + 1,
            .sharing = (a >> 14 & 0xfff) + 1};
}

// The CPUs that share it: their numbers agree but for the last bits.
u64 sharing_mask(const TableContext& of) {
    const CacheFacts facts = cache_facts(of.fd);
    u64 mask = 0;
    const u32 group = facts.sharing == 0 ? 1 : std::bit_ceil(facts.sharing);
    for (unsigned cpu = 0; cpu < arch::cpu_count(); cpu++)
        if (cpu / group == static_cast<u32>(of.cpu) / group)
            mask |= u64{1} << cpu;
    return mask;
}

template <u32 CacheFacts::*Member>
Result<void> show_cache_fact(TextBuilder& out, const TableContext& of) {
    out.print("{}\n", cache_facts(of.fd).*Member);
    return {};
}
Result<void> show_cache_type(TextBuilder& out, const TableContext& of) {
    const u32 type = cache_facts(of.fd).type;
    out.append(type == 1 ? "Data\n" : type == 2 ? "Instruction\n" : "Unified\n");
    return {};
}
Result<void> show_cache_size(TextBuilder& out, const TableContext& of) {
    out.print("{}K\n", cache_facts(of.fd).bytes() / 1024);
    return {};
}
Result<void> show_cache_mask(TextBuilder& out, const TableContext& of) {
    append_mask(out, sharing_mask(of));
    return {};
}
Result<void> show_cache_list(TextBuilder& out, const TableContext& of) {
    out.bits(sharing_mask(of));
    out.append("\n");
    return {};
}

constexpr TableEntry cache_entries[] = {
    {.name = "coherency_line_size", .mode = file, .show = show_cache_fact<&CacheFacts::line>},
    {.name = "level", .mode = file, .show = show_cache_fact<&CacheFacts::level>},
    {.name = "number_of_sets", .mode = file, .show = show_cache_fact<&CacheFacts::sets>},
    {.name = "physical_line_partition",
     .mode = file,
     .show = show_cache_fact<&CacheFacts::partitions>},
    {.name = "shared_cpu_list", .mode = file, .show = show_cache_list},
    {.name = "shared_cpu_map", .mode = file, .show = show_cache_mask},
    {.name = "size", .mode = file, .show = show_cache_size},
    {.name = "type", .mode = file, .show = show_cache_type},
    {.name = "ways_of_associativity", .mode = file, .show = show_cache_fact<&CacheFacts::ways>},
};
constexpr TableEntry cache_entry = {.name = "", .mode = directory, .children = cache_entries};
// The number of a cache stands where descriptors have theirs.
i32 next_cache(const TableContext&, i32 after) {
    return after < 7 && cache_facts(after + 1).type != 0 ? after + 1 : -1;
}
bool cache_exists(const TableContext& of) {
    return of.fd < 8 && cache_facts(of.fd).type != 0;
}
TableContext with_cache(TableContext of, i32 number) {
    of.fd = number;
    return of;
}
constexpr TableNumbers cache_numbers = {"index", next_cache, cache_exists, with_cache,
                                        &cache_entry};

constexpr TableEntry cpu_children[] = {
    {.name = "cache", .mode = directory, .numbers = &cache_numbers},
    {.name = "online", .mode = file, .show = show_cpu_online},
    {.name = "topology", .mode = directory, .children = topology_entries},
};
constexpr TableEntry cpu_entry = {.name = "", .mode = directory, .children = cpu_children};

i32 next_cpu(const TableContext&, i32 after) {
    return after + 1 < static_cast<i32>(arch::cpu_count()) ? after + 1 : -1;
}
bool cpu_exists(const TableContext& of) {
    return of.cpu < static_cast<i32>(arch::cpu_count());
}
TableContext with_cpu(TableContext of, i32 number) {
    of.cpu = number;
    return of;
}
constexpr TableNumbers cpu_numbers = {"cpu", next_cpu, cpu_exists, with_cpu, &cpu_entry};

constexpr TableEntry smt_entries[] = {
    {.name = "active", .mode = file, .text = "0\n"},
    {.name = "control", .mode = file, .text = "notsupported\n"},
};
template <speculation::Weakness W>
Result<void> show_weakness(TextBuilder& out, const TableContext&) {
    speculation::describe(out, W);
    return {};
}
template <speculation::Weakness W>
constexpr TableEntry weakness_entry() {
    return {.name = speculation::name_of(W), .mode = file, .show = show_weakness<W>};
}
using speculation::Weakness;
constexpr TableEntry weakness_entries[] = {
    weakness_entry<Weakness::L1tf>(),        weakness_entry<Weakness::Mds>(),
    weakness_entry<Weakness::Meltdown>(),    weakness_entry<Weakness::MmioStaleData>(),
    weakness_entry<Weakness::Retbleed>(),    weakness_entry<Weakness::ReturnStack>(),
    weakness_entry<Weakness::StoreBypass>(), weakness_entry<Weakness::SpectreV1>(),
    weakness_entry<Weakness::SpectreV2>(),   weakness_entry<Weakness::TsxAbort>(),
};
constexpr TableEntry cpus_entries[] = {
    {.name = "isolated", .mode = file, .text = "\n"},
    {.name = "kernel_max", .mode = file, .text = "63\n"},
    {.name = "offline", .mode = file, .text = "\n"},
    {.name = "online", .mode = file, .show = show_online},
    {.name = "possible", .mode = file, .show = show_all_cpus},
    {.name = "present", .mode = file, .show = show_all_cpus},
    {.name = "smt", .mode = directory, .children = smt_entries},
    {.name = "vulnerabilities", .mode = directory, .children = weakness_entries},
};
Result<void> show_node_meminfo(TextBuilder& out, const TableContext&) {
    const MemoryStats m = memory_stats();
    const auto line = [&](std::string_view name, u64 pages) {
        out.append("Node 0 ");
        out.kilobytes(name, 16, pages);
    };
    line("MemTotal:", m.total);
    line("MemFree:", m.free);
    line("MemUsed:", m.total > m.free ? m.total - m.free : 0);
    line("Active(anon):", m.anonymous);
    line("Active(file):", m.cached);
    line("Dirty:", m.dirty);
    line("FilePages:", m.cached + m.shared);
    line("AnonPages:", m.anonymous);
    line("Shmem:", m.shared);
    line("KernelStack:", m.kernel_stacks);
    line("PageTables:", m.page_tables);
    line("Slab:", m.slab);
    return {};
}

constexpr TableEntry node0_entries[] = {
    {.name = "meminfo", .mode = file, .show = show_node_meminfo},
    {.name = "cpulist", .mode = file, .show = show_all_cpus},
    {.name = "cpumap", .mode = file, .show = show_package_mask},
    {.name = "distance", .mode = file, .text = "10\n"},
};
constexpr TableEntry node_entries[] = {
    {.name = "has_cpu", .mode = file, .text = "0\n"},
    {.name = "has_memory", .mode = file, .text = "0\n"},
    {.name = "has_normal_memory", .mode = file, .text = "0\n"},
    {.name = "node0", .mode = directory, .children = node0_entries},
    {.name = "online", .mode = file, .text = "0\n"},
    {.name = "possible", .mode = file, .text = "0\n"},
};
constexpr TableEntry clock_entries[] = {
    {.name = "available_clocksource", .mode = file, .text = "tsc \n"},
    {.name = "current_clocksource", .mode = file, .text = "tsc\n"},
};
constexpr TableEntry clocks_entries[] = {
    {.name = "clocksource0", .mode = directory, .children = clock_entries},
};
constexpr TableEntry system_entries[] = {
    {.name = "clocksource", .mode = directory, .children = clocks_entries},
    {.name = "cpu", .mode = directory, .children = cpus_entries, .numbers = &cpu_numbers},
    {.name = "node", .mode = directory, .children = node_entries},
};

constexpr TableEntry huge_page_entries[] = {
    {.name = "defrag", .mode = file, .text = "always defer defer+madvise madvise [never]\n"},
    {.name = "enabled", .mode = file, .text = "always madvise [never]\n"},
    {.name = "hpage_pmd_size", .mode = file, .text = "2097152\n"},
    {.name = "shmem_enabled",
     .mode = file,
     .text = "always within_size advise [never] deny force\n"},
    {.name = "use_zero_page", .mode = file, .text = "0\n"},
};
constexpr TableEntry mm_entries[] = {
    {.name = "hugepages", .mode = directory},
    {.name = "transparent_hugepage", .mode = directory, .children = huge_page_entries},
};
// What of a delegated group's files its new owner may be given (cgroups(7)).
constexpr TableEntry cgroup_entries[] = {
    {.name = "delegate",
     .mode = file,
     .text = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\nmemory.oom.group\n"
             "memory.reclaim\n"},
    {.name = "features", .mode = file, .text = "nsdelegate\n"},
};
Result<void> show_uevent_number(TextBuilder& out, const TableContext&) {
    out.print("{}\n", net::netlink::last_uevent());
    return {};
}
constexpr TableEntry kernel_entries[] = {
    {.name = "cgroup", .mode = directory, .children = cgroup_entries},
    {.name = "mm", .mode = directory, .children = mm_entries},
    {.name = "uevent_seqnum", .mode = file, .show = show_uevent_number},
};
constexpr TableEntry fs_entries[] = {
    {.name = "cgroup", .mode = directory},
};
constexpr TableEntry class_entries[] = {
    {.name = "net", .mode = directory, .numbers = &net_class_links},
};
constexpr TableEntry virtual_entries[] = {
    {.name = "net", .mode = directory, .numbers = &net_device_directories},
};

constexpr TableEntry devices_entries[] = {
    {.name = "system", .mode = directory, .children = system_entries},
    {.name = "virtual", .mode = directory, .children = virtual_entries},
};

constexpr TableEntry dev_entries[] = {
    {.name = "block", .mode = directory},
    {.name = "char", .mode = directory},
};

constexpr TableEntry root_children[] = {
    {.name = "block", .mode = directory},
    {.name = "bus", .mode = directory},
    {.name = "class", .mode = directory, .children = class_entries},
    {.name = "dev", .mode = directory, .children = dev_entries},
    {.name = "devices", .mode = directory, .children = devices_entries},
    {.name = "firmware", .mode = directory},
    {.name = "fs", .mode = directory, .children = fs_entries},
    {.name = "kernel", .mode = directory, .children = kernel_entries},
    {.name = "module", .mode = directory},
};
constexpr TableEntry root_entry = {
    .name = "", .mode = mode_directory | 0555, .children = root_children};

} // namespace
} // namespace sysfs

Result<Ref<Superblock>> make_sysfs() {
    TRY(auto fs, make_ref<TableSuperblock>("sysfs", u64{SYSFS_MAGIC}));
    // Interfaces are those of whoever mounts it.
    TableContext context;
    context.network = &net::stack_of(current_net_namespace());
    TRY(fs->init(sysfs::root_entry, context, Ref<net::Stack>::share(context.network)));
    return Ref<Superblock>(std::move(fs));
}

} // namespace kernel
