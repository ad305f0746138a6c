// The tree of /proc.
#include <linux/magic.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"

namespace kernel {
namespace procfs {
namespace {

constexpr u32 for_all = mode_regular | 0444;
constexpr u32 for_owner = mode_regular | 0400;
constexpr u32 directory = mode_directory | 0555;
constexpr u32 owners_directory = mode_directory | 0500;
constexpr u32 symlink = mode_symlink | 0777;

constexpr auto owned = subject_owner;

// --- /proc/PID/fd, fdinfo, ns
// ----------------------------------------------------------------------

TableContext with_descriptor(TableContext of, i32 number) {
    of.fd = number;
    return of;
}
constexpr TableEntry fd_entry = {.name = "",
                                 .mode = mode_symlink,
                                 .link = link_fd,
                                 .magic = follow_fd,
                                 .owner = owned,
                                 .link_mode = fd_link_mode};
constexpr TableNumbers fd_numbers = {"", next_descriptor, descriptor_exists, with_descriptor,
                                     &fd_entry};
constexpr TableEntry fdinfo_entry = {
    .name = "", .mode = for_owner, .show = show_fdinfo, .owner = owned};
constexpr TableNumbers fdinfo_numbers = {"", next_descriptor, descriptor_exists, with_descriptor,
                                         &fdinfo_entry};

// There is one namespace of each kind, with the number that Linux gives the first one
// (linux/proc_ns.h is not exported).
#define NAMESPACE(kind, number)                                                                    \
    {                                                                                              \
        .name = kind, .mode = symlink,                                                             \
        .link = [](TextBuilder& out, const TableContext&) -> Result<void> {                        \
            out.append(kind ":[" number "]");                                                      \
            return {};                                                                             \
        },                                                                                         \
        .owner = owned                                                                             \
    }
constexpr TableEntry namespace_entries[] = {
    NAMESPACE("cgroup", "4026531835"), NAMESPACE("ipc", "4026531839"),
    NAMESPACE("mnt", "4026531841"),    NAMESPACE("net", "4026531840"),
    NAMESPACE("pid", "4026531836"),    NAMESPACE("user", "4026531837"),
    NAMESPACE("uts", "4026531838"),
};
#undef NAMESPACE

// Networks: unix sockets are the only ones there are.
constexpr TableEntry net_entries[] = {
    {.name = "unix", .mode = for_all, .show = show_net_unix},
};

// --- /proc/PID and /proc/PID/task/TID
// --------------------------------------------------------------

constexpr std::string_view identity_map = "         0          0 4294967295\n";

#define COMMON_ENTRIES                                                                             \
    {.name = "auxv", .mode = for_owner, .show = show_auxv, .owner = owned},                        \
        {.name = "cgroup", .mode = for_all, .show = show_cgroup, .owner = owned},                  \
        {.name = "cmdline", .mode = for_all, .show = show_cmdline, .owner = owned},                \
        {.name = "comm",                                                                           \
         .mode = mode_regular | 0644,                                                              \
         .show = show_comm,                                                                        \
         .store = store_comm,                                                                      \
         .owner = owned},                                                                          \
        {.name = "cwd", .mode = symlink, .link = link_cwd, .magic = follow_cwd, .owner = owned},   \
        {.name = "environ", .mode = for_owner, .show = show_environ, .owner = owned},              \
        {.name = "exe", .mode = symlink, .link = link_exe, .magic = follow_exe, .owner = owned},   \
        {.name = "fd", .mode = owners_directory, .numbers = &fd_numbers, .owner = owned},          \
        {.name = "fdinfo", .mode = owners_directory, .numbers = &fdinfo_numbers, .owner = owned},  \
        {.name = "gid_map", .mode = for_all, .text = identity_map, .owner = owned},                \
        {.name = "io", .mode = for_owner, .show = show_io, .owner = owned},                        \
        {.name = "limits", .mode = for_all, .show = show_limits, .owner = owned},                  \
        {.name = "loginuid", .mode = for_all, .text = "4294967295", .owner = owned},               \
        {.name = "maps", .mode = for_all, .show = show_maps, .owner = owned},                      \
        {.name = "mem", .mode = mode_regular | 0600, .open = open_memory, .owner = owned},         \
        {.name = "mountinfo", .mode = for_all, .show = show_mountinfo, .owner = owned},            \
        {.name = "mounts", .mode = for_all, .show = show_mounts, .owner = owned},                  \
        {.name = "net", .mode = directory, .children = net_entries},                               \
        {.name = "ns", .mode = directory, .children = namespace_entries, .owner = owned},          \
        {.name = "oom_adj",                                                                        \
         .mode = mode_regular | 0644,                                                              \
         .show = show_oom_adj,                                                                     \
         .store = store_oom_adj,                                                                   \
         .owner = owned},                                                                          \
        {.name = "sched", .mode = for_all, .show = show_sched, .owner = owned},                    \
        {.name = "syscall", .mode = for_owner, .show = show_syscall, .owner = owned},              \
        {.name = "oom_score", .mode = for_all, .show = show_oom_score, .owner = owned},            \
        {.name = "oom_score_adj",                                                                  \
         .mode = mode_regular | 0644,                                                              \
         .show = show_oom_score_adj,                                                               \
         .store = store_oom_score_adj,                                                             \
         .owner = owned},                                                                          \
        {.name = "personality", .mode = for_owner, .show = show_personality, .owner = owned},      \
        {.name = "root",                                                                           \
         .mode = symlink,                                                                          \
         .link = link_root,                                                                        \
         .magic = follow_root,                                                                     \
         .owner = owned},                                                                          \
        {.name = "schedstat", .mode = for_all, .show = show_schedstat, .owner = owned},            \
        {.name = "sessionid", .mode = for_all, .text = "4294967295", .owner = owned},              \
        {.name = "setgroups", .mode = for_all, .text = "allow\n", .owner = owned},                 \
        {.name = "smaps", .mode = for_all, .show = show_smaps, .owner = owned},                    \
        {.name = "smaps_rollup", .mode = for_all, .show = show_smaps_rollup, .owner = owned},      \
        {.name = "stat", .mode = for_all, .show = show_stat, .owner = owned},                      \
        {.name = "statm", .mode = for_all, .show = show_statm, .owner = owned},                    \
        {.name = "status", .mode = for_all, .show = show_status, .owner = owned},                  \
        {.name = "uid_map", .mode = for_all, .text = identity_map, .owner = owned},                \
        {.name = "wchan", .mode = for_all, .text = "0", .owner = owned},

// clang-format off: a macro with commas in it
constexpr TableEntry thread_children[] = {
    COMMON_ENTRIES{.name = "children", .mode = for_all, .show = show_children, .owner = owned},
};
// clang-format on

TableContext with_thread(TableContext of, i32 number) {
    of.tid = number;
    return of;
}
constexpr TableEntry thread_entry = {
    .name = "", .mode = directory, .children = thread_children, .owner = owned};
constexpr TableNumbers thread_numbers = {"", next_thread, thread_exists, with_thread,
                                         &thread_entry};

// clang-format off
constexpr TableEntry process_children[] = {
    COMMON_ENTRIES
    {.name = "timerslack_ns",
     .mode = mode_regular | 0666,
     .show = show_timer_slack,
     .store = store_timer_slack,
     .owner = owned},
    {.name = "task", .mode = directory, .numbers = &thread_numbers, .owner = owned},
};
// clang-format on

// A thread's number names a directory too, though none that is listed: debuggers use it.
TableContext with_process(TableContext of, i32 number) {
    of.pid = number;
    SpinGuard tree(process_tree_lock());
    const Task* thread = find_task_locked(number);
    if (thread != nullptr && thread->process != nullptr && thread->process->pid != number) {
        of.pid = thread->process->pid;
        of.tid = number;
    }
    return of;
}
constexpr TableEntry process_entry = {
    .name = "", .mode = directory, .children = process_children, .owner = owned};
constexpr TableNumbers process_numbers = {"", next_process, process_exists, with_process,
                                          &process_entry};

// --- /proc ---------------------------------------------------------------------------------------

// Those that speak of the reader are links to its own directory, as on Linux.
template <char... Name>
Result<void> link_own(TextBuilder& out, const TableContext&) {
    constexpr char name[] = {Name...};
    out.append("self/");
    out.append({name, sizeof name});
    return {};
}

constinit const TableEntry root_children[] = {
    {.name = "buddyinfo", .mode = for_all, .show = show_buddyinfo},
    {.name = "cgroups", .mode = for_all, .show = show_cgroups},
    {.name = "cmdline", .mode = for_all, .text = "joey\n"},
    {.name = "cpuinfo", .mode = for_all, .show = show_cpuinfo},
    {.name = "devices",
     .mode = for_all,
     .text = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n136 "
             "pts\n\nBlock devices:\n"},
    {.name = "diskstats", .mode = for_all, .text = ""},
    {.name = "execdomains", .mode = for_all, .text = "0-0\tLinux           \t[kernel]\n"},
    {.name = "filesystems", .mode = for_all, .show = show_filesystems},
    {.name = "interrupts", .mode = for_all, .show = show_interrupts},
    {.name = "loadavg", .mode = for_all, .show = show_loadavg},
    {.name = "meminfo", .mode = for_all, .show = show_meminfo},
    {.name = "misc", .mode = for_all, .text = ""},
    {.name = "modules", .mode = for_all, .text = ""},
    {.name = "mounts", .mode = symlink, .link = link_own<'m', 'o', 'u', 'n', 't', 's'>},
    {.name = "net", .mode = symlink, .link = link_own<'n', 'e', 't'>},
    {.name = "partitions", .mode = for_all, .text = "major minor  #blocks  name\n\n"},
    {.name = "pressure", .mode = directory, .children = pressure_entries},
    {.name = "self", .mode = symlink, .link = link_self},
    {.name = "softirqs", .mode = for_all, .show = show_softirqs},
    {.name = "stat", .mode = for_all, .show = show_system_stat},
    {.name = "swaps",
     .mode = for_all,
     .text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"},
    {.name = "sys", .mode = directory, .children = sysctl_entries},
    {.name = "sysrq-trigger", .mode = mode_regular | 0200, .store = store_sysrq},
    {.name = "thread-self", .mode = symlink, .link = link_thread_self},
    {.name = "uptime", .mode = for_all, .show = show_uptime},
    {.name = "version", .mode = for_all, .show = show_version},
    {.name = "vmstat", .mode = for_all, .show = show_vmstat},
    {.name = "zoneinfo", .mode = for_all, .show = show_zoneinfo},
};
constinit const TableEntry root_entry = {
    .name = "", .mode = directory, .children = root_children, .numbers = &process_numbers};

} // namespace
} // namespace procfs

Result<Ref<Superblock>> make_procfs() {
    TRY(auto fs, make_ref<TableSuperblock>("proc", u64{PROC_SUPER_MAGIC}));
    TRY(fs->init(procfs::root_entry));
    return Ref<Superblock>(std::move(fs));
}

} // namespace kernel
