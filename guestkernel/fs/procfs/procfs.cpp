// The tree of /proc.
#include <linux/errno.h>
#include <linux/magic.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/procfs/mount_options.hpp"
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/namespaces/namespace_file.hpp"

namespace kernel {
namespace procfs {
namespace {

constexpr u32 for_all = mode_regular | 0444;
constexpr u32 for_owner = mode_regular | 0400;
constexpr u32 directory = mode_directory | 0555;
constexpr u32 owners_directory = mode_directory | 0500;
constexpr u32 symlink = mode_symlink | 0777;

constexpr u32 owners_but_searched = mode_directory | 0511;

constexpr auto owned = subject_owner;
constexpr auto directory_owned = subject_directory_owner;

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
constexpr TableEntry mapping_entry = {.name = "",
                                      .mode = mode_symlink,
                                      .link = link_mapping,
                                      .magic = follow_mapping,
                                      .owner = owned,
                                      .link_mode = mapping_link_mode};
constexpr TableRanges mappings = {next_mapping, find_mapping, &mapping_entry};
constexpr TableEntry fdinfo_entry = {
    .name = "", .mode = for_all, .show = show_fdinfo, .owner = owned};
constexpr TableNumbers fdinfo_numbers = {"", next_descriptor, descriptor_exists, with_descriptor,
                                         &fdinfo_entry};

template <NamespaceKind Kind, bool ForChildren>
Result<Ref<Namespace>> namespace_of(const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    if (!may_access(*task))
        return fail(EACCES);
    Ref<Namespace> space = namespace_of_task(*task, Kind, ForChildren);
    if (!space)
        return fail(ENOENT);
    return space;
}
template <NamespaceKind Kind, bool ForChildren = false>
constexpr TableEntry namespace_entry(std::string_view name) {
    return {.name = name,
            .mode = symlink,
            .link = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                TRY(const Ref<Namespace> space, (namespace_of<Kind, ForChildren>(of)));
                out.append(namespace_name(Kind));
                out.print(":[{}]", space->number());
                return {};
            },
            .magic = [](const TableContext& of) -> Result<Path> {
                TRY(Ref<Namespace> space, (namespace_of<Kind, ForChildren>(of)));
                return path_of_namespace(std::move(space));
            },
            .owner = owned};
}
constexpr TableEntry namespace_entries[] = {
    namespace_entry<NamespaceKind::Cgroup>("cgroup"),
    namespace_entry<NamespaceKind::Ipc>("ipc"),
    namespace_entry<NamespaceKind::Mount>("mnt"),
    namespace_entry<NamespaceKind::Net>("net"),
    namespace_entry<NamespaceKind::Pid>("pid"),
    namespace_entry<NamespaceKind::Pid, true>("pid_for_children"),
    namespace_entry<NamespaceKind::Time>("time"),
    namespace_entry<NamespaceKind::Time, true>("time_for_children"),
    namespace_entry<NamespaceKind::User>("user"),
    namespace_entry<NamespaceKind::Uts>("uts"),
};

// No security module labels processes: there is nothing to read, and nothing may be asked for.
constexpr TableEntry attribute(std::string_view name, u32 mode) {
    return {
        .name = name,
        .mode = mode_regular | mode,
        .show = [](TextBuilder&, const TableContext&) -> Result<void> { return fail(EINVAL); },
        .store = [](std::string_view, const TableContext&) -> Result<void> { return fail(EINVAL); },
        .owner = owned};
}
constexpr TableEntry attribute_entries[] = {
    attribute("current", 0666),   attribute("exec", 0666), attribute("fscreate", 0666),
    attribute("keycreate", 0666), attribute("prev", 0444), attribute("sockcreate", 0666),
};

// --- /proc/PID and /proc/PID/task/TID
// --------------------------------------------------------------

#define COMMON_ENTRIES                                                                             \
    {.name = "attr", .mode = directory, .children = attribute_entries, .owner = directory_owned},  \
        {.name = "auxv",                                                                           \
         .mode = for_owner,                                                                        \
         .show = show_auxv,                                                                        \
         .owner = owned,                                                                           \
         .bind = bind_memory},                                                                     \
        {.name = "cgroup", .mode = for_all, .show = show_cgroup, .owner = owned},                  \
        {.name = "clear_refs",                                                                     \
         .mode = mode_regular | 0200,                                                              \
         .store = store_clear_refs,                                                                \
         .owner = owned},                                                                          \
        {.name = "cmdline", .mode = for_all, .show = show_cmdline, .owner = owned},                \
        {.name = "comm",                                                                           \
         .mode = mode_regular | 0644,                                                              \
         .show = show_comm,                                                                        \
         .store = store_comm,                                                                      \
         .owner = owned},                                                                          \
        {.name = "coredump_filter",                                                                \
         .mode = mode_regular | 0644,                                                              \
         .show = show_core_filter,                                                                 \
         .store = store_core_filter,                                                               \
         .owner = owned},                                                                          \
        {.name = "cpuset", .mode = for_all, .show = show_cpuset, .owner = owned},                  \
        {.name = "cwd", .mode = symlink, .link = link_cwd, .magic = follow_cwd, .owner = owned},   \
        {.name = "environ",                                                                        \
         .mode = for_owner,                                                                        \
         .show = show_environ,                                                                     \
         .owner = owned,                                                                           \
         .bind = bind_memory},                                                                     \
        {.name = "exe", .mode = symlink, .link = link_exe, .magic = follow_exe, .owner = owned},   \
        {.name = "fd",                                                                             \
         .mode = owners_directory,                                                                 \
         .numbers = &fd_numbers,                                                                   \
         .owner = owned,                                                                           \
         .callers_own = is_callers_process},                                                       \
        {.name = "fdinfo",                                                                         \
         .mode = owners_directory,                                                                 \
         .numbers = &fdinfo_numbers,                                                               \
         .owner = owned,                                                                           \
         .callers_own = is_callers_process},                                                       \
        {.name = "gid_map",                                                                        \
         .mode = mode_regular | 0644,                                                              \
         .show = show_gid_map,                                                                     \
         .open = open_id_map,                                                                      \
         .owner = owned},                                                                          \
        {.name = "io", .mode = for_owner, .show = show_io, .owner = owned},                        \
        {.name = "limits", .mode = for_all, .show = show_limits, .owner = owned},                  \
        {.name = "loginuid", .mode = for_all, .text = "4294967295", .owner = owned},               \
        {.name = "maps", .mode = for_all, .show = show_maps, .owner = owned, .bind = bind_memory}, \
        {.name = "mem", .mode = mode_regular | 0600, .open = open_memory, .owner = owned},         \
        {.name = "mountinfo",                                                                      \
         .mode = for_all,                                                                          \
         .show = show_mountinfo,                                                                   \
         .poll = poll_mounts,                                                                      \
         .owner = owned},                                                                          \
        {.name = "mounts",                                                                         \
         .mode = for_all,                                                                          \
         .show = show_mounts,                                                                      \
         .poll = poll_mounts,                                                                      \
         .owner = owned},                                                                          \
        {.name = "mountstats", .mode = for_owner, .show = show_mountstats, .owner = owned},        \
        {.name = "net", .mode = directory, .children = net_entries},                               \
        {.name = "ns",                                                                             \
         .mode = owners_but_searched,                                                              \
         .children = namespace_entries,                                                            \
         .owner = owned},                                                                          \
        {.name = "numa_maps",                                                                      \
         .mode = for_all,                                                                          \
         .show = show_numa_maps,                                                                   \
         .owner = owned,                                                                           \
         .bind = bind_memory},                                                                     \
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
        {.name = "pagemap", .mode = for_owner, .open = open_page_map, .owner = owned},             \
        {.name = "personality", .mode = for_owner, .show = show_personality, .owner = owned},      \
        {.name = "root",                                                                           \
         .mode = symlink,                                                                          \
         .link = link_root,                                                                        \
         .magic = follow_root,                                                                     \
         .owner = owned},                                                                          \
        {.name = "schedstat", .mode = for_all, .show = show_schedstat, .owner = owned},            \
        {.name = "sessionid", .mode = for_all, .text = "4294967295", .owner = owned},              \
        {.name = "setgroups",                                                                      \
         .mode = mode_regular | 0644,                                                              \
         .show = show_setgroups,                                                                   \
         .store = store_setgroups,                                                                 \
         .owner = owned},                                                                          \
        {.name = "smaps",                                                                          \
         .mode = for_all,                                                                          \
         .show = show_smaps,                                                                       \
         .owner = owned,                                                                           \
         .bind = bind_memory},                                                                     \
        {.name = "smaps_rollup",                                                                   \
         .mode = for_all,                                                                          \
         .show = show_smaps_rollup,                                                                \
         .owner = owned,                                                                           \
         .bind = bind_memory},                                                                     \
        {.name = "stack", .mode = for_owner, .show = show_stack, .owner = owned},                  \
        {.name = "stat", .mode = for_all, .show = show_stat, .owner = owned},                      \
        {.name = "statm", .mode = for_all, .show = show_statm, .owner = owned},                    \
        {.name = "status", .mode = for_all, .show = show_status, .owner = owned},                  \
        {.name = "timens_offsets",                                                                 \
         .mode = mode_regular | 0644,                                                              \
         .show = show_timens_offsets,                                                              \
         .store = store_timens_offsets,                                                            \
         .owner = owned},                                                                          \
        {.name = "uid_map",                                                                        \
         .mode = mode_regular | 0644,                                                              \
         .show = show_uid_map,                                                                     \
         .open = open_id_map,                                                                      \
         .owner = owned},                                                                          \
        {.name = "wchan", .mode = for_all, .text = "0", .owner = owned},

// clang-format off: a macro with commas in it
constexpr TableEntry thread_children[] = {
    COMMON_ENTRIES{.name = "children", .mode = for_all, .show = show_children, .owner = owned},
};
// clang-format on

TableContext with_thread(TableContext of, i32 number) {
    of.tid = global_pid_in(of.pids, number);
    return of;
}
Result<void> known_to_caller(const TableContext& of) {
    return is_hidden(of, Hidden::Existence) ? Result<void>(fail(ENOENT)) : Result<void>();
}
constexpr TableEntry thread_entry = {.name = "",
                                     .mode = directory,
                                     .children = thread_children,
                                     .owner = directory_owned,
                                     .known = known_to_caller};
constexpr TableNumbers thread_numbers = {"", next_thread, thread_exists, with_thread,
                                         &thread_entry};

// clang-format off
constexpr TableEntry process_children[] = {
    COMMON_ENTRIES
    {.name = "map_files",
     .mode = owners_directory,
     .ranges = &mappings,
     .owner = owned,
     .callers_own = is_callers_process},
    {.name = "timers", .mode = for_all, .show = show_timers, .owner = owned},
    {.name = "timerslack_ns",
     .mode = mode_regular | 0666,
     .show = show_timer_slack,
     .store = store_timer_slack,
     .owner = owned},
    {.name = "task", .mode = directory, .numbers = &thread_numbers, .owner = directory_owned},
};
// clang-format on

// A thread's number names a directory too, though none that is listed: debuggers use it.
TableContext with_process(TableContext of, i32 number) {
    of.pid = number = global_pid_in(of.pids, number);
    SpinGuard tree(process_tree_lock());
    const Task* thread = find_task_locked(number);
    if (thread != nullptr && thread->process != nullptr && thread->process->pid != number) {
        of.pid = thread->process->pid;
        of.tid = number;
    }
    return of;
}
Result<void> entered_by_caller(const TableContext& of) {
    TRY(known_to_caller(of));
    return is_hidden(of, Hidden::Content) ? Result<void>(fail(EPERM)) : Result<void>();
}
constexpr TableEntry process_entry = {.name = "",
                                      .mode = directory,
                                      .children = process_children,
                                      .owner = directory_owned,
                                      .known = known_to_caller,
                                      .entered = entered_by_caller};
constexpr TableNumbers process_numbers = {"", next_process, process_exists, with_process,
                                          &process_entry};

} // namespace

Result<Ref<Process>> process_of_directory(File& file) {
    const Inode* inode = file.inode();
    if (inode == nullptr || !inode->is_directory() || inode->superblock() == nullptr ||
        std::string_view(inode->superblock()->type()) != "proc")
        return fail(EBADF);
    const auto& node = static_cast<const TableNode&>(*inode);
    if (&node.entry() != &process_entry)
        return fail(EBADF);
    return subject_process(node.context());
}

namespace {

// --- /proc ---------------------------------------------------------------------------------------

// Those that speak of the reader are links to its own directory, as on Linux.
template <char... Name>
Result<void> link_own(TextBuilder& out, const TableContext&) {
    constexpr char name[] = {Name...};
    out.append("self/");
    out.append({name, sizeof name});
    return {};
}

// ps(1) finds the names of terminals here.
constexpr TableEntry tty_entries[] = {
    {.name = "drivers",
     .mode = for_all,
     .text = "/dev/tty             /dev/tty        5       0 system:/dev/tty\n"
             "/dev/console         /dev/console    5       1 system:console\n"
             "/dev/ptmx            /dev/ptmx       5       2 system\n"
             "pty_slave            /dev/pts      136 0-1048575 pty:slave\n"},
    {.name = "ldiscs", .mode = for_all, .text = "n_tty       0\n"},
};

bool in_full(const TableContext& of) {
    return of.options == nullptr || !of.options->load().only_processes;
}

constinit const TableEntry root_children[] = {
    {.name = "buddyinfo", .mode = for_all, .show = show_buddyinfo, .present = in_full},
    {.name = "cgroups", .mode = for_all, .show = show_cgroups, .present = in_full},
    {.name = "cmdline", .mode = for_all, .text = "joey\n", .present = in_full},
    {.name = "cpuinfo", .mode = for_all, .show = show_cpuinfo, .present = in_full},
    {.name = "devices",
     .mode = for_all,
     .text = "Character devices:\n  1 mem\n  5 /dev/tty\n  5 /dev/console\n  5 /dev/ptmx\n 10 "
             "misc\n136 pts\n\nBlock devices:\n",
     .present = in_full},
    {.name = "diskstats", .mode = for_all, .text = "", .present = in_full},
    {.name = "execdomains",
     .mode = for_all,
     .text = "0-0\tLinux           \t[kernel]\n",
     .present = in_full},
    {.name = "filesystems", .mode = for_all, .show = show_filesystems, .present = in_full},
    {.name = "interrupts", .mode = for_all, .show = show_interrupts, .present = in_full},
    {.name = "key-users", .mode = for_all, .show = show_key_users, .present = in_full},
    {.name = "keys", .mode = for_all, .show = show_keys, .present = in_full},
    {.name = "loadavg", .mode = for_all, .show = show_loadavg, .present = in_full},
    {.name = "locks", .mode = for_all, .show = show_locks, .present = in_full},
    {.name = "meminfo", .mode = for_all, .show = show_meminfo, .present = in_full},
    {.name = "misc", .mode = for_all, .text = "258 vsock\n229 fuse\n", .present = in_full},
    {.name = "modules", .mode = for_all, .text = "", .present = in_full},
    {.name = "mounts",
     .mode = symlink,
     .link = link_own<'m', 'o', 'u', 'n', 't', 's'>,
     .present = in_full},
    {.name = "net", .mode = symlink, .link = link_own<'n', 'e', 't'>, .present = in_full},
    {.name = "partitions",
     .mode = for_all,
     .text = "major minor  #blocks  name\n\n",
     .present = in_full},
    {.name = "pressure", .mode = directory, .children = pressure_entries, .present = in_full},
    {.name = "self", .mode = symlink, .link = link_self},
    {.name = "slabinfo", .mode = for_owner, .show = show_slabinfo, .present = in_full},
    {.name = "softirqs", .mode = for_all, .show = show_softirqs, .present = in_full},
    {.name = "stat", .mode = for_all, .show = show_system_stat, .present = in_full},
    {.name = "swaps",
     .mode = for_all,
     .text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
     .present = in_full},
    {.name = "sys", .mode = directory, .children = sysctl_entries, .present = in_full},
    {.name = "sysvipc", .mode = directory, .children = sysvipc_entries, .present = in_full},
    {.name = "sysrq-trigger",
     .mode = mode_regular | 0200,
     .store = store_sysrq,
     .present = in_full},
    {.name = "thread-self", .mode = symlink, .link = link_thread_self},
    {.name = "tty", .mode = directory, .children = tty_entries, .present = in_full},
    {.name = "uptime", .mode = for_all, .show = show_uptime, .present = in_full},
    {.name = "version", .mode = for_all, .show = show_version, .present = in_full},
    {.name = "vmstat", .mode = for_all, .show = show_vmstat, .present = in_full},
    {.name = "zoneinfo", .mode = for_all, .show = show_zoneinfo, .present = in_full},
};
constinit const TableEntry root_entry = {
    .name = "", .mode = directory, .children = root_children, .numbers = &process_numbers};

} // namespace
} // namespace procfs

namespace {

// It shows the processes of the pid namespace of who mounts it.
class ProcSuperblock final : public TableSuperblock {
public:
    ProcSuperblock(Ref<PidNamespace> pids)
        : TableSuperblock("proc", u64{PROC_SUPER_MAGIC}), pids_(std::move(pids)) {
        own_rules = true;
    }
    Result<void> init() {
        TableContext context;
        context.pids = pids_.get();
        context.options = &options_;
        return TableSuperblock::init(procfs::root_entry, context);
    }
    Result<void> describe_options(String& out) override {
        return procfs::describe_mount_options(options_.load(), out);
    }
    Result<void> reconfigure(std::string_view options) override {
        return change_options(options, user_ns.get());
    }
    // All of them or none. Of two at once the later one's are kept.
    Result<void> change_options(std::string_view options, const UserNamespace* space) {
        procfs::MountOptions wanted = options_.load();
        String complaint;
        auto parsed = procfs::parse_mount_options(options, space, wanted, complaint);
        if (parsed)
            options_.store(wanted);
        else
            log::info("{}", complaint.view());
        return parsed;
    }

private:
    const Ref<PidNamespace> pids_;
    procfs::CurrentOptions options_;
};

} // namespace

Result<Ref<Superblock>> make_procfs(std::string_view options) {
    TRY(auto fs, make_ref<ProcSuperblock>(Ref<PidNamespace>::share(current_pid_namespace())));
    const Credentials* mounter = current_credentials();
    TRY(fs->change_options(options, mounter == nullptr ? nullptr : mounter->user_ns.get()));
    TRY(fs->init());
    return Ref<Superblock>(std::move(fs));
}

} // namespace kernel
