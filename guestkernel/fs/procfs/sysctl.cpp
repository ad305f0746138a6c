// /proc/sys: what programs read of it. Values that nothing in this kernel would obey cannot be
// written.
#include "guestkernel/core/random.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/task.hpp"
#include "guestkernel/trace/core_dump.hpp"

namespace kernel::procfs {
namespace {

constexpr u32 read_only = mode_regular | 0444;
constexpr u32 read_write = mode_regular | 0644;
constexpr u32 directory = mode_directory | 0555;

// A version 4 UUID (RFC 4122) of random bytes.
void append_uuid(TextBuilder& out, const u8 (&bytes)[16]) {
    for (usize i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            out.append("-");
        u32 value = bytes[i];
        if (i == 6)
            value = (value & 0x0f) | 0x40;
        if (i == 8)
            value = (value & 0x3f) | 0x80;
        out.hex(value, 2);
    }
    out.append("\n");
}

template <typename Set>
Result<void> store_name(std::string_view text, Set set) {
    if (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    return set(text);
}

} // namespace

Result<void> show_hostname(TextBuilder& out, const TableContext&) {
    char name[uts_length + 1];
    out.append({name, get_hostname(name)});
    out.append("\n");
    return {};
}
Result<void> show_domainname(TextBuilder& out, const TableContext&) {
    char name[uts_length + 1];
    out.append({name, get_domainname(name)});
    out.append("\n");
    return {};
}
Result<void> store_hostname(std::string_view text, const TableContext&) {
    return store_name(text, set_hostname);
}
Result<void> store_domainname(std::string_view text, const TableContext&) {
    return store_name(text, set_domainname);
}

Result<void> show_core_pattern(TextBuilder& out, const TableContext&) {
    char pattern[core_pattern_limit];
    out.append({pattern, core_pattern(pattern)});
    out.append("\n");
    return {};
}
Result<void> store_core_pattern(std::string_view text, const TableContext&) {
    return set_core_pattern(text);
}
Result<void> show_core_uses_pid(TextBuilder& out, const TableContext&) {
    out.append(core_uses_pid() ? "1\n" : "0\n");
    return {};
}
Result<void> store_core_uses_pid(std::string_view text, const TableContext&) {
    TRY(const i64 number, parse_number(text));
    set_core_uses_pid(number != 0);
    return {};
}

Result<void> show_pid_max(TextBuilder& out, const TableContext&) {
    out.append("4194304\n");
    return {};
}
Result<void> show_threads_max(TextBuilder& out, const TableContext&) {
    out.print("{}\n", max_tasks());
    return {};
}

Result<void> show_boot_id(TextBuilder& out, const TableContext&) {
    static constinit SpinLock lock{LockRank::Leaf};
    static constinit bool made = false;
    static constinit u8 id[16] = {};
    u8 fresh[16];
    random_bytes(fresh, sizeof fresh);
    {
        SpinGuard guard(lock);
        if (!made)
            __builtin_memcpy(id, fresh, sizeof id);
        made = true;
        __builtin_memcpy(fresh, id, sizeof id);
    }
    append_uuid(out, fresh);
    return {};
}

Result<void> show_uuid(TextBuilder& out, const TableContext&) {
    u8 bytes[16];
    random_bytes(bytes, sizeof bytes);
    append_uuid(out, bytes);
    return {};
}

namespace {

Result<void> show_osrelease(TextBuilder& out, const TableContext&) {
    out.print("{}\n", uts_release);
    return {};
}
Result<void> show_ostype(TextBuilder& out, const TableContext&) {
    out.print("{}\n", uts_sysname);
    return {};
}
Result<void> show_uts_version(TextBuilder& out, const TableContext&) {
    out.print("{}\n", uts_version);
    return {};
}
// How many files memory would hold, a kilobyte for each in a tenth of it, as Linux reckons.
Result<void> show_file_max(TextBuilder& out, const TableContext&) {
    out.print("{}\n", memory_stats().total * (page_size / 1024) / 10);
    return {};
}

constexpr TableEntry random_entries[] = {
    {.name = "boot_id", .mode = read_only, .show = show_boot_id},
    {.name = "entropy_avail", .mode = read_only, .text = "256\n"},
    {.name = "poolsize", .mode = read_only, .text = "256\n"},
    {.name = "uuid", .mode = read_only, .show = show_uuid},
};

Result<void> show_last_pid(TextBuilder& out, const TableContext&) {
    out.print("{}\n", last_pid());
    return {};
}

// 1: page cache, 2: names and inodes, 3: both (proc(5)).
Result<void> store_drop_caches(std::string_view text, const TableContext&) {
    TRY(const i64 what, parse_number(text));
    if (what < 1 || what > 7)
        return fail(22); // EINVAL
    if ((what & 2) != 0)
        while (DentryCache::shrink(256) != 0 && !fatal_signal_pending())
            cond_resched();
    // Clean pages only: dirty ones would have to be written first.
    if ((what & 1) != 0)
        while (reclaim_clean_pages(1024) != 0 && !fatal_signal_pending())
            cond_resched();
    return {};
}

Result<void> show_pty_count(TextBuilder& out, const TableContext&) {
    out.print("{}\n", pty_count());
    return {};
}
constexpr TableEntry pty_entries[] = {
    {.name = "max", .mode = read_only, .text = "4096\n"},
    {.name = "nr", .mode = read_only, .show = show_pty_count},
    {.name = "reserve", .mode = read_only, .text = "1024\n"},
};

constexpr TableEntry key_entries[] = {
    {.name = "gc_delay", .mode = read_only, .text = "300\n"},
    {.name = "maxbytes", .mode = read_only, .text = "20000\n"},
    {.name = "maxkeys", .mode = read_only, .text = "200\n"},
    {.name = "persistent_keyring_expiry", .mode = read_only, .text = "259200\n"},
    {.name = "root_maxbytes", .mode = read_only, .text = "25000000\n"},
    {.name = "root_maxkeys", .mode = read_only, .text = "1000000\n"},
};
constexpr TableEntry seccomp_entries[] = {
    {.name = "actions_avail",
     .mode = read_only,
     .text = "kill_process kill_thread trap errno user_notif trace log allow\n"},
};

constexpr TableEntry kernel_entries[] = {
    {.name = "arch", .mode = read_only, .text = "x86_64\n"},
    {.name = "cap_last_cap", .mode = read_only, .text = "40\n"},
    {.name = "core_pattern",
     .mode = read_write,
     .show = show_core_pattern,
     .store = store_core_pattern},
    {.name = "core_uses_pid",
     .mode = read_write,
     .show = show_core_uses_pid,
     .store = store_core_uses_pid},
    {.name = "core_pipe_limit", .mode = read_only, .text = "0\n"},
    {.name = "dmesg_restrict", .mode = read_only, .text = "0\n"},
    {.name = "domainname", .mode = read_write, .show = show_domainname, .store = store_domainname},
    {.name = "hostname", .mode = read_write, .show = show_hostname, .store = store_hostname},
    {.name = "io_uring_disabled", .mode = read_only, .text = "0\n"},
    {.name = "io_uring_group", .mode = read_only, .text = "-1\n"},
    {.name = "keys", .mode = directory, .children = key_entries},
    {.name = "kptr_restrict", .mode = read_only, .text = "0\n"},
    {.name = "ns_last_pid", .mode = read_only, .show = show_last_pid},
    {.name = "ngroups_max", .mode = read_only, .text = "65536\n"},
    {.name = "osrelease", .mode = read_only, .show = show_osrelease},
    {.name = "ostype", .mode = read_only, .show = show_ostype},
    {.name = "overflowgid", .mode = read_only, .text = "65534\n"},
    {.name = "overflowuid", .mode = read_only, .text = "65534\n"},
    {.name = "panic", .mode = read_only, .text = "0\n"},
    {.name = "panic_on_oops", .mode = read_only, .text = "1\n"},
    {.name = "printk", .mode = read_only, .text = "4\t4\t1\t7\n"},
    {.name = "sched_rr_timeslice_ms", .mode = read_only, .text = "100\n"},
    {.name = "pid_max", .mode = read_only, .show = show_pid_max},
    {.name = "pty", .mode = directory, .children = pty_entries},
    {.name = "random", .mode = directory, .children = random_entries},
    {.name = "randomize_va_space", .mode = read_only, .text = "2\n"},
    {.name = "sched_rt_runtime_us", .mode = read_only, .text = "-1\n"},
    {.name = "seccomp", .mode = directory, .children = seccomp_entries},
    {.name = "sysctl_writes_strict", .mode = read_only, .text = "1\n"},
    {.name = "tainted", .mode = read_only, .text = "0\n"},
    {.name = "threads-max", .mode = read_only, .show = show_threads_max},
    {.name = "version", .mode = read_only, .show = show_uts_version},
};

constexpr TableEntry vm_entries[] = {
    {.name = "dirty_background_bytes", .mode = read_only, .text = "0\n"},
    {.name = "dirty_background_ratio", .mode = read_only, .text = "10\n"},
    {.name = "dirty_bytes", .mode = read_only, .text = "0\n"},
    {.name = "dirty_expire_centisecs", .mode = read_only, .text = "3000\n"},
    {.name = "dirty_ratio", .mode = read_only, .text = "20\n"},
    {.name = "dirty_writeback_centisecs", .mode = read_only, .text = "500\n"},
    {.name = "drop_caches", .mode = mode_regular | 0200, .store = store_drop_caches},
    {.name = "nr_overcommit_hugepages", .mode = read_only, .text = "0\n"},
    {.name = "oom_kill_allocating_task", .mode = read_only, .text = "0\n"},
    {.name = "overcommit_kbytes", .mode = read_only, .text = "0\n"},
    {.name = "panic_on_oom", .mode = read_only, .text = "0\n"},
    {.name = "max_map_count", .mode = read_only, .text = "65530\n"},
    {.name = "min_free_kbytes", .mode = read_only, .text = "0\n"},
    {.name = "mmap_min_addr", .mode = read_only, .text = "65536\n"},
    {.name = "nr_hugepages", .mode = read_only, .text = "0\n"},
    {.name = "overcommit_memory",
     .mode = read_only,
     .text = "1\n"}, // nothing is refused beforehand
    {.name = "overcommit_ratio", .mode = read_only, .text = "50\n"},
    {.name = "swappiness", .mode = read_only, .text = "0\n"},
};

constexpr TableEntry inotify_entries[] = {
    {.name = "max_queued_events", .mode = read_only, .text = "16384\n"},
    {.name = "max_user_instances", .mode = read_only, .text = "128\n"},
    {.name = "max_user_watches", .mode = read_only, .text = "65536\n"},
};

constexpr TableEntry mqueue_entries[] = {
    {.name = "msg_default", .mode = read_only, .text = "10\n"},
    {.name = "msg_max", .mode = read_only, .text = "10\n"},
    {.name = "msgsize_default", .mode = read_only, .text = "8192\n"},
    {.name = "msgsize_max", .mode = read_only, .text = "8192\n"},
    {.name = "queues_max", .mode = read_only, .text = "256\n"},
};

Result<void> show_dentry_state(TextBuilder& out, const TableContext&) {
    const usize names = DentryCache::count();
    out.print("{}\t{}\t45\t0\t0\t0\n", names, names);
    return {};
}

constexpr TableEntry fs_entries[] = {
    {.name = "dentry-state", .mode = read_only, .show = show_dentry_state},
    {.name = "file-max", .mode = read_only, .show = show_file_max},
    {.name = "inotify", .mode = directory, .children = inotify_entries},
    {.name = "mqueue", .mode = directory, .children = mqueue_entries},
    {.name = "mount-max", .mode = read_only, .text = "16384\n"},
    {.name = "nr_open", .mode = read_only, .text = "1048576\n"},
    {.name = "overflowgid", .mode = read_only, .text = "65534\n"},
    {.name = "overflowuid", .mode = read_only, .text = "65534\n"},
    {.name = "pipe-max-size", .mode = read_only, .text = "1048576\n"},
    {.name = "protected_fifos", .mode = read_only, .text = "0\n"},
    {.name = "protected_hardlinks", .mode = read_only, .text = "0\n"},
    {.name = "protected_regular", .mode = read_only, .text = "0\n"},
    {.name = "protected_symlinks", .mode = read_only, .text = "0\n"},
    {.name = "suid_dumpable", .mode = read_only, .text = "0\n"},
};

// user.max_*_namespaces: those of the reader's user namespace (namespaces(7)).
UserNamespace* own_space() {
    const Credentials* who = current_task().credentials.get();
    return who == nullptr ? initial_user_namespace : who->user_space();
}
template <NamespaceKind Kind>
constexpr TableEntry namespace_limit(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", own_space()->limits[static_cast<usize>(Kind)].load());
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < 0 || number > 0x7fff'ffff)
                    return fail(22); // EINVAL
                own_space()->limits[static_cast<usize>(Kind)].store(static_cast<u32>(number));
                return {};
            }};
}
constexpr TableEntry user_entries[] = {
    namespace_limit<NamespaceKind::Cgroup>("max_cgroup_namespaces"),
    namespace_limit<NamespaceKind::Ipc>("max_ipc_namespaces"),
    namespace_limit<NamespaceKind::Mount>("max_mnt_namespaces"),
    namespace_limit<NamespaceKind::Net>("max_net_namespaces"),
    namespace_limit<NamespaceKind::Pid>("max_pid_namespaces"),
    namespace_limit<NamespaceKind::Time>("max_time_namespaces"),
    namespace_limit<NamespaceKind::User>("max_user_namespaces"),
    namespace_limit<NamespaceKind::Uts>("max_uts_namespaces"),
};

} // namespace

constinit const TableEntry sysctl_entries[5] = {
    {.name = "fs", .mode = directory, .children = fs_entries},
    {.name = "kernel", .mode = directory, .children = kernel_entries},
    {.name = "net", .mode = directory, .children = net_sysctl_entries},
    {.name = "user", .mode = directory, .children = user_entries},
    {.name = "vm", .mode = directory, .children = vm_entries},
};

} // namespace kernel::procfs
