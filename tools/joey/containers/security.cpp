#include "tools/joey/containers/security.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <sched.h>

#include <linux/personality.h>
#include <sys/socket.h>

namespace joey::containers {

namespace {

using pod::Json;

constexpr std::array<std::string_view, 41> known_capabilities = {"CAP_CHOWN",
                                                                 "CAP_DAC_OVERRIDE",
                                                                 "CAP_DAC_READ_SEARCH",
                                                                 "CAP_FOWNER",
                                                                 "CAP_FSETID",
                                                                 "CAP_KILL",
                                                                 "CAP_SETGID",
                                                                 "CAP_SETUID",
                                                                 "CAP_SETPCAP",
                                                                 "CAP_LINUX_IMMUTABLE",
                                                                 "CAP_NET_BIND_SERVICE",
                                                                 "CAP_NET_BROADCAST",
                                                                 "CAP_NET_ADMIN",
                                                                 "CAP_NET_RAW",
                                                                 "CAP_IPC_LOCK",
                                                                 "CAP_IPC_OWNER",
                                                                 "CAP_SYS_MODULE",
                                                                 "CAP_SYS_RAWIO",
                                                                 "CAP_SYS_CHROOT",
                                                                 "CAP_SYS_PTRACE",
                                                                 "CAP_SYS_PACCT",
                                                                 "CAP_SYS_ADMIN",
                                                                 "CAP_SYS_BOOT",
                                                                 "CAP_SYS_NICE",
                                                                 "CAP_SYS_RESOURCE",
                                                                 "CAP_SYS_TIME",
                                                                 "CAP_SYS_TTY_CONFIG",
                                                                 "CAP_MKNOD",
                                                                 "CAP_LEASE",
                                                                 "CAP_AUDIT_WRITE",
                                                                 "CAP_AUDIT_CONTROL",
                                                                 "CAP_SETFCAP",
                                                                 "CAP_MAC_OVERRIDE",
                                                                 "CAP_MAC_ADMIN",
                                                                 "CAP_SYSLOG",
                                                                 "CAP_WAKE_ALARM",
                                                                 "CAP_BLOCK_SUSPEND",
                                                                 "CAP_AUDIT_READ",
                                                                 "CAP_PERFMON",
                                                                 "CAP_BPF",
                                                                 "CAP_CHECKPOINT_RESTORE"};
constexpr std::array<std::string_view, 14> usual_capabilities = {
    "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",     "CAP_MKNOD",
    "CAP_NET_RAW", "CAP_SETGID",       "CAP_SETUID",           "CAP_SETFCAP",    "CAP_SETPCAP",
    "CAP_KILL",    "CAP_SYS_CHROOT",   "CAP_NET_BIND_SERVICE", "CAP_AUDIT_WRITE"};

// What a program may always call.
constexpr const char* allowed =
    "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod "
    "chown "
    "clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect "
    "copy_file_range "
    "creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait "
    "epoll_pwait2 epoll_wait "
    "epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 "
    "fadvise64 fallocate "
    "fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr "
    "flistxattr flock fork "
    "fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait "
    "futex_waitv futex_wake "
    "futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer "
    "getpeername getpgid getpgrp "
    "getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage "
    "getsid getsockname "
    "getsockopt get_thread_area gettid gettimeofday getuid getxattr inotify_add_watch inotify_init "
    "inotify_init1 "
    "inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents ioprio_get ioprio_set "
    "io_setup io_submit "
    "kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link "
    "linkat listen "
    "listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier "
    "memfd_create "
    "memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt "
    "mprotect mq_getsetattr "
    "mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv "
    "msgsnd msync munlock "
    "munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open "
    "pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 "
    "preadv preadv2 "
    "prlimit64 process_mrelease pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink "
    "readlinkat readv recvfrom "
    "recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir "
    "rseq rt_sigaction "
    "rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
    "rt_tgsigqueueinfo "
    "sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min "
    "sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam "
    "sched_setscheduler "
    "sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto "
    "setfsgid setfsuid "
    "setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid "
    "setrlimit set_robust_list "
    "setsid setsockopt set_thread_area set_tid_address setuid setxattr shmat shmctl shmdt shmget "
    "shutdown "
    "sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync "
    "sync_file_range syncfs "
    "sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime "
    "timer_settime timerfd_create "
    "timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime "
    "utimensat utimes vfork vmsplice "
    "wait4 waitid write writev";

struct ByCapability {
    std::string_view capability;
    const char* calls;
};
constexpr std::array by_capability = {
    ByCapability{"CAP_DAC_READ_SEARCH", "open_by_handle_at"},
    ByCapability{"CAP_SYS_ADMIN", "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick "
                                  "lookup_dcookie mount mount_setattr "
                                  "move_mount open_tree perf_event_open quotactl quotactl_fd "
                                  "setdomainname sethostname setns syslog "
                                  "umount2 unshare"},
    ByCapability{"CAP_SYS_BOOT", "reboot"},
    ByCapability{"CAP_SYS_CHROOT", "chroot"},
    ByCapability{"CAP_SYS_MODULE", "delete_module finit_module init_module"},
    ByCapability{"CAP_SYS_PACCT", "acct"},
    ByCapability{"CAP_SYS_PTRACE",
                 "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev"},
    ByCapability{"CAP_SYS_RAWIO", "ioperm iopl"},
    ByCapability{"CAP_SYS_TIME", "clock_settime settimeofday"},
    ByCapability{"CAP_SYS_TTY_CONFIG", "vhangup"},
    ByCapability{"CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"},
    ByCapability{"CAP_SYSLOG", "syslog"},
    ByCapability{"CAP_BPF", "bpf"},
    ByCapability{"CAP_PERFMON", "perf_event_open"},
};

std::vector<std::string> split(std::string_view text) {
    std::vector<std::string> out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(' '), text.size());
        if (end > 0)
            out.emplace_back(text.substr(0, end));
        text.remove_prefix(std::min(end + 1, text.size()));
    }
    return out;
}

bool has(const std::vector<std::string>& list, std::string_view wanted) {
    return std::find(list.begin(), list.end(), wanted) != list.end();
}

os::Result<std::string> capability_of(const std::string& word, const char* option) {
    std::string name = word;
    std::transform(name.begin(), name.end(), name.begin(),
                   [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (name == "ALL")
        return name;
    if (!name.starts_with("CAP_"))
        name.insert(0, "CAP_");
    if (std::find(known_capabilities.begin(), known_capabilities.end(), name) ==
        known_capabilities.end())
        return os::fail(os::Code::InvalidArgument, option, " ", word.substr(0, 60),
                        ": there is no such capability; see capabilities(7)");
    return name;
}

Json rule(const std::vector<std::string>& names, const char* action = "SCMP_ACT_ALLOW") {
    return Json{{"names", names}, {"action", action}};
}

Json rule_on(const char* name, unsigned index, std::uint64_t value, const char* op,
             std::uint64_t value_two = 0) {
    Json out = rule({name});
    out["args"] = Json::array(
        {Json{{"index", index}, {"value", value}, {"valueTwo", value_two}, {"op", op}}});
    return out;
}

} // namespace

std::vector<std::string> all_capabilities() {
    return {known_capabilities.begin(), known_capabilities.end()};
}

os::Result<std::vector<std::string>> capabilities(const std::vector<std::string>& add,
                                                  const std::vector<std::string>& drop) {
    std::vector<std::string> added;
    std::vector<std::string> dropped;
    for (const std::string& word : add) {
        TRY(std::string name, capability_of(word, "--cap-add"));
        added.push_back(std::move(name));
    }
    for (const std::string& word : drop) {
        TRY(std::string name, capability_of(word, "--cap-drop"));
        dropped.push_back(std::move(name));
    }
    std::vector<std::string> out;
    for (const std::string_view name : known_capabilities) {
        const bool usual = std::find(usual_capabilities.begin(), usual_capabilities.end(), name) !=
                           usual_capabilities.end();
        // What is named counts more than ALL, and what is added more than what is dropped.
        const bool after_all = has(added, "ALL") || (usual && !has(dropped, "ALL"));
        if (has(added, name) || (after_all && !has(dropped, name)))
            out.emplace_back(name);
    }
    return out;
}

Json usual_seccomp(const std::vector<std::string>& capabilities) {
    Json rules = Json::array({rule(split(allowed))});
    for (const ByCapability& one : by_capability) {
        if (has(capabilities, one.capability))
            rules.push_back(rule(split(one.calls)));
    }
    // Personalities that weaken nothing; 0xffffffff asks for the present one.
    constexpr std::uint64_t ask = 0xffffffff;
    for (const std::uint64_t persona :
         {std::uint64_t{PER_LINUX}, std::uint64_t{PER_LINUX32}, std::uint64_t{UNAME26},
          std::uint64_t{PER_LINUX32} | std::uint64_t{UNAME26}, ask})
        rules.push_back(rule_on("personality", 0, persona, "SCMP_CMP_EQ"));
    // A container has no business with the host's vsock, nor here with the pod's agent.
    rules.push_back(rule_on("socket", 0, AF_VSOCK, "SCMP_CMP_NE"));
    if (!has(capabilities, "CAP_SYS_ADMIN")) {
        // Processes and threads, but no namespaces. clone3 hides its flags in memory: the C library
        // takes ENOSYS for an old kernel, and uses clone.
        constexpr std::uint64_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
                                             CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
                                             CLONE_NEWNET;
        rules.push_back(rule_on("clone", 0, namespaces, "SCMP_CMP_MASKED_EQ", 0));
        Json absent = rule({"clone3"}, "SCMP_ACT_ERRNO");
        absent["errnoRet"] = ENOSYS;
        rules.push_back(std::move(absent));
    }
    return Json{{"defaultAction", "SCMP_ACT_ERRNO"},
                {"defaultErrnoRet", EPERM},
                {"architectures", {"SCMP_ARCH_X86_64"}},
                {"syscalls", std::move(rules)}};
}

std::vector<std::string> masked_paths() {
    return {"/proc/acpi",        "/proc/asound",  "/proc/interrupts",
            "/proc/kcore",       "/proc/keys",    "/proc/latency_stats",
            "/proc/sched_debug", "/proc/scsi",    "/proc/timer_list",
            "/proc/timer_stats", "/sys/firmware", "/sys/devices/virtual/powercap"};
}

std::vector<std::string> read_only_paths() {
    return {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
}

} // namespace joey::containers
