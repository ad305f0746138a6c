// /proc/sys: what programs read of it. Values that nothing in this kernel would obey cannot be
// written.
#include <linux/capability.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/core/uts.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/leases.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/open_files.hpp"
#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/ipc/fanotify_internal.hpp"
#include "guestkernel/ipc/mqueue.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/page_cache.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/sched/deadline.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/address_layout.hpp"
#include "guestkernel/task/task.hpp"
#include "guestkernel/trace/core_dump.hpp"

namespace kernel::procfs {
namespace {

// A number that may take all 64 bits.
Result<u64> parse_unsigned(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ' || text.back() == '\t'))
        text.remove_suffix(1);
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t'))
        text.remove_prefix(1);
    u64 value = 0;
    for (const char c : text)
        if (c < '0' || c > '9' || __builtin_mul_overflow(value, u64{10}, &value) ||
            __builtin_add_overflow(value, static_cast<u64>(c - '0'), &value))
            return fail(22); // EINVAL
    return text.empty() ? Result<u64>(fail(22)) : Result<u64>(value);
}

constexpr u32 read_only = mode_regular | 0444;
constexpr u32 read_write = mode_regular | 0644;
constexpr u32 for_anybody = mode_regular | 0666; // whose rights are looked at by themselves
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

Result<void> show_randomize_va_space(TextBuilder& out, const TableContext&) {
    out.print("{}\n", address_randomization());
    return {};
}
Result<void> store_randomize_va_space(std::string_view text, const TableContext&) {
    TRY(const i64 number, parse_number(text));
    if (number < INT32_MIN || number > INT32_MAX)
        return fail(22); // EINVAL
    set_address_randomization(static_cast<i32>(number));
    return {};
}

Result<void> show_pid_max(TextBuilder& out, const TableContext&) {
    out.print("{}\n", pid_limit);
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
    {.name = "urandom_min_reseed_secs", .mode = read_only, .text = "60\n"},
    {.name = "uuid", .mode = read_only, .show = show_uuid},
};

Result<void> show_last_pid(TextBuilder& out, const TableContext&) {
    out.print("{}\n", visible_last_pid());
    return {};
}

// 1: page cache, 2: names and inodes and whatever else is kept for the next user, 3: both
// (proc(5)).
Result<void> store_drop_caches(std::string_view text, const TableContext&) {
    TRY(const i64 what, parse_number(text));
    if (what < 1 || what > 7)
        return fail(22); // EINVAL
    if ((what & 2) != 0) {
        while (DentryCache::shrink(256) != 0 && !fatal_signal_pending())
            cond_resched();
        release_kept_page_tables();
    }
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
    {.name = "actions_logged",
     .mode = read_only,
     .text = "kill_process kill_thread trap errno user_notif trace log\n"},
};

// kernel.shmmax and its like: of the running task's namespace.
template <auto Member>
constexpr TableEntry ipc_limit(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", (current_ipc_namespace().limits.*Member).load());
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                using Number = decltype((current_ipc_namespace().limits.*Member).load());
                constexpr u64 most = sizeof(Number) == sizeof(u64) ? ~u64{0} : 0x7fff'ffff;
                TRY(const u64 number, parse_unsigned(text));
                if (number > most)
                    return fail(22); // EINVAL
                (current_ipc_namespace().limits.*Member).store(static_cast<Number>(number));
                return {};
            }};
}
template <auto Table>
constexpr TableEntry ipc_count(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", (current_ipc_namespace().*Table).most.load());
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const u64 number, parse_unsigned(text));
                if (number > SysvTable::limit)
                    return fail(22); // EINVAL
                (current_ipc_namespace().*Table).most.store(static_cast<u32>(number));
                return {};
            }};
}

Result<u32> parse_within(std::string_view text, u32 least, u32 most) {
    TRY(const u64 number, parse_unsigned(text));
    if (number < least || number > most)
        return fail(22); // EINVAL
    return static_cast<u32>(number);
}
// Who may choose the numbers of what is made next: CAP_CHECKPOINT_RESTORE's (capabilities(7)).
bool may_restore(const UserNamespace* space) {
    return capable_over(space, CAP_CHECKPOINT_RESTORE) || capable_over(space, CAP_SYS_ADMIN);
}

// kernel.shm_next_id and its like.
template <auto Table>
constexpr TableEntry next_id(std::string_view name) {
    return {
        .name = name,
        .mode = mode_regular | 0666, // for whoever `admits` lets
        .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
            out.print("{}\n", (current_ipc_namespace().*Table).wanted_id.load());
            return {};
        },
        .store = [](std::string_view text, const TableContext&) -> Result<void> {
            TRY(const u32 number, parse_within(text, 0, 0x7fff'ffff));
            (current_ipc_namespace().*Table).wanted_id.store(static_cast<i32>(number));
            return {};
        },
        .admits = [](const TableContext&) { return may_restore(current_ipc_namespace().owner()); }};
}

// SEMMSL, SEMMNS, SEMOPM, SEMMNI.
Result<void> show_sem(TextBuilder& out, const TableContext&) {
    const IpcNamespace& space = current_ipc_namespace();
    out.print("{}\t{}\t{}\t{}\n", space.limits.set_size.load(), space.limits.semaphores.load(),
              space.limits.operations.load(), space.semaphores.most.load());
    return {};
}
Result<void> store_sem(std::string_view text, const TableContext&) {
    IpcNamespace& space = current_ipc_namespace();
    constexpr std::string_view blanks = " \t\n";
    base::Atomic<u32>* const fields[] = {&space.limits.set_size, &space.limits.semaphores,
                                         &space.limits.operations, &space.semaphores.most};
    static constexpr u64 most[] = {65536, 0x7fff'ffff, 65536, SysvTable::limit};
    for (usize i = 0; i < 4; i++) {
        const usize start = text.find_first_not_of(blanks);
        if (start == std::string_view::npos)
            return {}; // the others stay
        text.remove_prefix(start);
        const std::string_view word = text.substr(0, text.find_first_of(blanks));
        TRY(const u64 number, parse_unsigned(word));
        if (number > most[i])
            return fail(22); // EINVAL
        fields[i]->store(static_cast<u32>(number));
        text.remove_prefix(word.size());
    }
    return {};
}

// The one may not pass the other.
Result<void> show_longest_period(TextBuilder& out, const TableContext&) {
    out.print("{}\n", longest_period_us.load());
    return {};
}
Result<void> store_longest_period(std::string_view text, const TableContext&) {
    TRY(const u32 wanted, parse_within(text, shortest_period_us.load(), ~u32{0}));
    longest_period_us.store(wanted);
    return {};
}
Result<void> show_shortest_period(TextBuilder& out, const TableContext&) {
    out.print("{}\n", shortest_period_us.load());
    return {};
}
Result<void> store_shortest_period(std::string_view text, const TableContext&) {
    TRY(const u32 wanted, parse_within(text, 0, longest_period_us.load()));
    shortest_period_us.store(wanted);
    return {};
}

Result<void> store_last_pid(std::string_view text, const TableContext&) {
    const PidNamespace* space = current_pid_namespace();
    if (!may_restore(space == nullptr ? initial_user_namespace : space->owner()))
        return fail(1); // EPERM
    TRY(const u32 number, parse_within(text, 0, pid_limit));
    set_visible_last_pid(static_cast<i32>(number));
    return {};
}

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
    {.name = "kexec_load_disabled", .mode = read_only, .text = "1\n"},
    {.name = "modules_disabled", .mode = read_only, .text = "1\n"},
    next_id<&IpcNamespace::messages>("msg_next_id"),
    ipc_limit<&SysvLimits::message_bytes>("msgmax"),
    ipc_limit<&SysvLimits::queue_bytes>("msgmnb"),
    ipc_count<&IpcNamespace::messages>("msgmni"),
    {.name = "nmi_watchdog", .mode = read_only, .text = "0\n"},
    {.name = "numa_balancing", .mode = read_only, .text = "0\n"},
    {.name = "ns_last_pid", .mode = for_anybody, .show = show_last_pid, .store = store_last_pid},
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
    {.name = "randomize_va_space",
     .mode = read_write,
     .show = show_randomize_va_space,
     .store = store_randomize_va_space},
    {.name = "sched_deadline_period_max_us",
     .mode = read_write,
     .show = show_longest_period,
     .store = store_longest_period},
    {.name = "sched_deadline_period_min_us",
     .mode = read_write,
     .show = show_shortest_period,
     .store = store_shortest_period},
    {.name = "sched_rt_period_us", .mode = read_only, .text = "1000000\n"},
    {.name = "sched_rt_runtime_us", .mode = read_only, .text = "950000\n"},
    {.name = "seccomp", .mode = directory, .children = seccomp_entries},
    {.name = "sem", .mode = read_write, .show = show_sem, .store = store_sem},
    next_id<&IpcNamespace::semaphores>("sem_next_id"),
    next_id<&IpcNamespace::segments>("shm_next_id"),
    {.name = "shm_rmid_forced", .mode = read_only, .text = "0\n"},
    ipc_limit<&SysvLimits::segment_pages>("shmall"),
    ipc_limit<&SysvLimits::segment_bytes>("shmmax"),
    ipc_count<&IpcNamespace::segments>("shmmni"),
    {.name = "soft_watchdog", .mode = read_only, .text = "0\n"},
    {.name = "sysctl_writes_strict", .mode = read_only, .text = "1\n"},
    {.name = "task_delayacct", .mode = read_only, .text = "0\n"}, // waits for disks are not counted
    {.name = "tainted", .mode = read_only, .text = "0\n"},
    {.name = "threads-max", .mode = read_only, .show = show_threads_max},
    {.name = "unprivileged_bpf_disabled", .mode = read_only, .text = "2\n"},
    {.name = "version", .mode = read_only, .show = show_uts_version},
    {.name = "watchdog", .mode = read_only, .text = "0\n"},
};

constexpr TableEntry vm_entries[] = {
    {.name = "admin_reserve_kbytes", .mode = read_only, .text = "0\n"},
    {.name = "compact_unevictable_allowed", .mode = read_only, .text = "1\n"},
    {.name = "dirty_background_bytes", .mode = read_only, .text = "0\n"},
    {.name = "dirty_background_ratio", .mode = read_only, .text = "10\n"},
    {.name = "dirty_bytes", .mode = read_only, .text = "0\n"},
    {.name = "dirty_expire_centisecs", .mode = read_only, .text = "3000\n"},
    {.name = "dirty_ratio", .mode = read_only, .text = "20\n"},
    {.name = "dirty_writeback_centisecs", .mode = read_only, .text = "500\n"},
    {.name = "dirtytime_expire_seconds", .mode = read_only, .text = "43200\n"},
    {.name = "drop_caches", .mode = mode_regular | 0200, .store = store_drop_caches},
    {.name = "hugetlb_shm_group", .mode = read_only, .text = "0\n"},
    {.name = "laptop_mode", .mode = read_only, .text = "0\n"},
    {.name = "legacy_va_layout", .mode = read_only, .text = "0\n"},
    {.name = "memfd_noexec", .mode = read_only, .text = "0\n"},
    {.name = "mmap_rnd_bits", .mode = read_only, .text = "28\n"},
    {.name = "nr_hugepages_mempolicy", .mode = read_only, .text = "0\n"},
    {.name = "numa_stat", .mode = read_only, .text = "1\n"},
    {.name = "oom_dump_tasks", .mode = read_only, .text = "0\n"},
    {.name = "page-cluster", .mode = read_only, .text = "3\n"},
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
    {.name = "stat_interval", .mode = read_only, .text = "1\n"},
    {.name = "swappiness", .mode = read_only, .text = "0\n"},
    {.name = "unprivileged_userfaultfd", .mode = read_only, .text = "0\n"},
    {.name = "user_reserve_kbytes", .mode = read_only, .text = "0\n"},
    {.name = "vfs_cache_pressure", .mode = read_only, .text = "100\n"},
    {.name = "watermark_scale_factor", .mode = read_only, .text = "10\n"},
    {.name = "zone_reclaim_mode", .mode = read_only, .text = "0\n"},
};

constexpr TableEntry inotify_entries[] = {
    {.name = "max_queued_events", .mode = read_only, .text = "16384\n"},
    {.name = "max_user_instances", .mode = read_only, .text = "128\n"},
    {.name = "max_user_watches", .mode = read_only, .text = "1048576\n"},
};

// mq_overview(7), /proc interfaces: of the running task's namespace.
template <base::Atomic<u32> MqueueLimits::*Limit, u32 Least, u32 Most>
constexpr TableEntry mqueue_limit(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                TRY(const MqueueLimits* limits, current_mqueue_limits());
                out.print("{}\n", (limits->*Limit).load());
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const u32 number, parse_within(text, Least, Most));
                TRY(MqueueLimits * limits, current_mqueue_limits());
                (limits->*Limit).store(number);
                return {};
            }};
}
constexpr u32 most_messages = MqueueLimits::hard_messages;
constexpr u32 largest_message = MqueueLimits::hard_message_size;
constexpr TableEntry mqueue_entries[] = {
    mqueue_limit<&MqueueLimits::default_messages, 1, most_messages>("msg_default"),
    mqueue_limit<&MqueueLimits::messages, 1, most_messages>("msg_max"),
    mqueue_limit<&MqueueLimits::default_message_size, 128, largest_message>("msgsize_default"),
    mqueue_limit<&MqueueLimits::message_size, 128, largest_message>("msgsize_max"),
    mqueue_limit<&MqueueLimits::queues, 0, 0x7fff'ffff>("queues_max"),
};

// Open files, none of which wait to be used again, and how many there may be.
Result<void> show_file_nr(TextBuilder& out, const TableContext&) {
    out.print("{}\t0\t{}\n", open_files.load(), memory_stats().total * (page_size / 1024) / 10);
    return {};
}
// Every name that is remembered keeps an inode.
Result<void> show_inode_nr(TextBuilder& out, const TableContext&) {
    out.print("{}\t0\n", DentryCache::count());
    return {};
}
Result<void> show_inode_state(TextBuilder& out, const TableContext&) {
    out.print("{}\t0\t0\t0\t0\t0\t0\n", DentryCache::count());
    return {};
}
constexpr TableEntry epoll_entries[] = {
    {.name = "max_user_watches", .mode = read_only, .text = "1048576\n"},
};

Result<void> show_dentry_state(TextBuilder& out, const TableContext&) {
    const usize names = DentryCache::count();
    out.print("{}\t{}\t45\t0\t0\t0\n", names, names);
    return {};
}

// A number that a program may set, and that something obeys: `Value` says which.
template <base::Atomic<u32>& (*Value)(), u32 Most>
constexpr TableEntry setting_of(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", Value().load());
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < 0 || number > i64{Most})
                    return fail(22); // EINVAL
                Value().store(static_cast<u32>(number));
                return {};
            }};
}
template <base::Atomic<u32>& Value>
base::Atomic<u32>& variable() {
    return Value;
}
template <base::Atomic<u32>& Value, u32 Most = 0x7fff'ffff>
constexpr TableEntry setting(std::string_view name) {
    return setting_of<variable<Value>, Most>(name);
}
template <base::Atomic<u32> FanotifyLimits::*Limit>
base::Atomic<u32>& limit_of_fanotify() {
    return fanotify_limits.*Limit;
}
template <base::Atomic<u32> FanotifyLimits::*Limit>
constexpr TableEntry fanotify_limit(std::string_view name) {
    return setting_of<limit_of_fanotify<Limit>, 0x7fff'ffff>(name);
}
constexpr TableEntry fanotify_entries[] = {
    fanotify_limit<&FanotifyLimits::events>("max_queued_events"),
    fanotify_limit<&FanotifyLimits::groups>("max_user_groups"),
    fanotify_limit<&FanotifyLimits::marks>("max_user_marks"),
};

constexpr TableEntry fs_entries[] = {
    {.name = "aio-max-nr", .mode = read_only, .text = "65536\n"},
    {.name = "dentry-state", .mode = read_only, .show = show_dentry_state},
    {.name = "dir-notify-enable", .mode = read_only, .text = "1\n"},
    {.name = "epoll", .mode = directory, .children = epoll_entries},
    {.name = "fanotify", .mode = directory, .children = fanotify_entries},
    {.name = "file-max", .mode = read_only, .show = show_file_max},
    {.name = "file-nr", .mode = read_only, .show = show_file_nr},
    {.name = "inode-nr", .mode = read_only, .show = show_inode_nr},
    {.name = "inode-state", .mode = read_only, .show = show_inode_state},
    {.name = "inotify", .mode = directory, .children = inotify_entries},
    setting<lease_break_seconds>("lease-break-time"),
    setting<leases_enabled, 1>("leases-enable"),
    {.name = "mqueue", .mode = directory, .children = mqueue_entries},
    {.name = "mount-max", .mode = read_only, .text = "16384\n"},
    {.name = "nr_open", .mode = read_only, .text = "1048576\n"},
    {.name = "overflowgid", .mode = read_only, .text = "65534\n"},
    {.name = "overflowuid", .mode = read_only, .text = "65534\n"},
    {.name = "pipe-max-size", .mode = read_only, .text = "1048576\n"},
    {.name = "pipe-user-pages-hard", .mode = read_only, .text = "0\n"},
    {.name = "pipe-user-pages-soft", .mode = read_only, .text = "0\n"},
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
// Those of a user namespace are for whoever has CAP_SYS_RESOURCE in it, whatever the ids.
bool may_set_limits(const TableContext&) {
    return capable_here(CAP_SYS_RESOURCE);
}
void limits_owner(const TableContext& of, u32& uid, u32& gid) {
    const bool mine = may_set_limits(of);
    uid = mine ? current_fsuid() : 0;
    gid = mine ? current_fsgid() : 0;
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
            },
            .owner = limits_owner,
            .admits = may_set_limits};
}
constexpr TableEntry user_entries[] = {
    fanotify_limit<&FanotifyLimits::groups>("max_fanotify_groups"),
    fanotify_limit<&FanotifyLimits::marks>("max_fanotify_marks"),
    {.name = "max_inotify_instances", .mode = read_only, .text = "128\n"},
    {.name = "max_inotify_watches", .mode = read_only, .text = "1048576\n"},
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
