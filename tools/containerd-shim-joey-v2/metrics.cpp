#include "tools/containerd-shim-joey-v2/metrics.hpp"

#include "tools/containerd-shim-joey-v2/protocol/metrics.pb.h"

namespace shim {

namespace {

namespace agent = joey::agent::v1;
namespace cgroups = ::io::containerd::cgroups::v2;

template <typename Map>
std::uint64_t number(const Map& map, const char* name) {
    const auto found = map.find(name);
    return found == map.end() ? 0 : found->second;
}

// The names are memory.stat's.
struct MemoryCounter {
    const char* name;
    void (cgroups::MemoryStat::*set)(std::uint64_t);
};
constexpr MemoryCounter memory_counters[] = {
    {"anon", &cgroups::MemoryStat::set_anon},
    {"file", &cgroups::MemoryStat::set_file},
    {"kernel_stack", &cgroups::MemoryStat::set_kernel_stack},
    {"slab", &cgroups::MemoryStat::set_slab},
    {"sock", &cgroups::MemoryStat::set_sock},
    {"shmem", &cgroups::MemoryStat::set_shmem},
    {"file_mapped", &cgroups::MemoryStat::set_file_mapped},
    {"file_dirty", &cgroups::MemoryStat::set_file_dirty},
    {"file_writeback", &cgroups::MemoryStat::set_file_writeback},
    {"anon_thp", &cgroups::MemoryStat::set_anon_thp},
    {"inactive_anon", &cgroups::MemoryStat::set_inactive_anon},
    {"active_anon", &cgroups::MemoryStat::set_active_anon},
    {"inactive_file", &cgroups::MemoryStat::set_inactive_file},
    {"active_file", &cgroups::MemoryStat::set_active_file},
    {"unevictable", &cgroups::MemoryStat::set_unevictable},
    {"slab_reclaimable", &cgroups::MemoryStat::set_slab_reclaimable},
    {"slab_unreclaimable", &cgroups::MemoryStat::set_slab_unreclaimable},
    {"pgfault", &cgroups::MemoryStat::set_pgfault},
    {"pgmajfault", &cgroups::MemoryStat::set_pgmajfault},
    {"workingset_refault", &cgroups::MemoryStat::set_workingset_refault},
    {"workingset_activate", &cgroups::MemoryStat::set_workingset_activate},
    {"workingset_nodereclaim", &cgroups::MemoryStat::set_workingset_nodereclaim},
    {"pgrefill", &cgroups::MemoryStat::set_pgrefill},
    {"pgscan", &cgroups::MemoryStat::set_pgscan},
    {"pgsteal", &cgroups::MemoryStat::set_pgsteal},
    {"pgactivate", &cgroups::MemoryStat::set_pgactivate},
    {"pgdeactivate", &cgroups::MemoryStat::set_pgdeactivate},
    {"pglazyfree", &cgroups::MemoryStat::set_pglazyfree},
    {"pglazyfreed", &cgroups::MemoryStat::set_pglazyfreed},
    {"thp_fault_alloc", &cgroups::MemoryStat::set_thp_fault_alloc},
    {"thp_collapse_alloc", &cgroups::MemoryStat::set_thp_collapse_alloc},
};

void add_memory(const agent::MemoryStats& from, cgroups::Metrics& out) {
    cgroups::MemoryStat& memory = *out.mutable_memory();
    for (const MemoryCounter& counter : memory_counters)
        (memory.*counter.set)(number(from.stat(), counter.name));
    memory.set_usage(from.usage());
    memory.set_usage_limit(from.limit());
    memory.set_swap_usage(from.swap_usage());
    memory.set_swap_limit(from.swap_limit());
    cgroups::MemoryEvents& events = *out.mutable_memory_events();
    events.set_low(number(from.events(), "low"));
    events.set_high(number(from.events(), "high"));
    events.set_max(number(from.events(), "max"));
    events.set_oom(number(from.events(), "oom"));
    events.set_oom_kill(number(from.events(), "oom_kill"));
}

} // namespace

wellknown::Any metrics_of(const agent::StatsResponse& stats) {
    cgroups::Metrics out;
    out.mutable_pids()->set_current(stats.pids().current());
    // Here a limit that is not there is 0, as containerd reads "max".
    constexpr std::uint64_t none = ~std::uint64_t{0};
    out.mutable_pids()->set_limit(stats.pids().limit() == none ? 0 : stats.pids().limit());
    cgroups::CPUStat& cpu = *out.mutable_cpu();
    cpu.set_usage_usec(stats.cpu().usage_usec());
    cpu.set_user_usec(stats.cpu().user_usec());
    cpu.set_system_usec(stats.cpu().system_usec());
    cpu.set_nr_periods(stats.cpu().periods());
    cpu.set_nr_throttled(stats.cpu().throttled_periods());
    cpu.set_throttled_usec(stats.cpu().throttled_usec());
    add_memory(stats.memory(), out);
    for (const agent::IoStats& device : stats.io()) {
        cgroups::IOEntry& entry = *out.mutable_io()->add_usage();
        entry.set_major(device.major());
        entry.set_minor(device.minor());
        entry.set_rbytes(number(device.counters(), "rbytes"));
        entry.set_wbytes(number(device.counters(), "wbytes"));
        entry.set_rios(number(device.counters(), "rios"));
        entry.set_wios(number(device.counters(), "wios"));
    }
    return any_of(out);
}

} // namespace shim
