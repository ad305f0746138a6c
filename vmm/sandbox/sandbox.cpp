#include "vmm/sandbox/sandbox.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <iterator>
#include <new>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

#include <asm/unistd_64.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/sanitizers.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "vmm/sandbox/filters.inc"
#include "vmm/sandbox/own_process.hpp"

namespace vmm {
namespace {

// ---- capabilities
// --------------------------------------------------------------------------------

constexpr std::uint64_t bit(unsigned capability) {
    return std::uint64_t{1} << capability;
}

// capabilities(7). Reading: root inside sees every file, as root outside does.
constexpr std::uint64_t reading_capabilities = bit(CAP_DAC_READ_SEARCH);
// Writing: the guest's kernel has checked its own users; the server then acts for any of them.
constexpr std::uint64_t writing_capabilities = reading_capabilities | bit(CAP_DAC_OVERRIDE) |
                                               bit(CAP_CHOWN) | bit(CAP_FOWNER) | bit(CAP_FSETID) |
                                               bit(CAP_SETFCAP) | bit(CAP_SETUID) | bit(CAP_SETGID);

// CAP_MKNOD only where nodes may be made (an overlay's whiteouts need none, Linux 5.8): one of a
// disk would be the way to all of it.
std::uint64_t capabilities_of(const SandboxPolicy& policy) {
    if (!policy.writable())
        return reading_capabilities;
    return writing_capabilities | (policy.device_nodes ? bit(CAP_MKNOD) : 0);
}

Result<void> limit_capabilities(std::uint64_t keep) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};
    if (::syscall(SYS_capget, &header, sets) != 0)
        return fail(errno, "read capabilities");
    if ((sets[0].permitted | sets[1].permitted) == 0)
        return {}; // an ordinary user; no-new-privileges sees to it that this stays so
    for (unsigned capability = 0; capability <= CAP_LAST_CAP; ++capability) {
        // Without CAP_SETPCAP the bounding set stays, harmlessly: nothing can be gained from it.
        if ((keep & bit(capability)) == 0)
            ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    }
    ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (unsigned half = 0; half < _LINUX_CAPABILITY_U32S_3; ++half) {
        const auto wanted = static_cast<std::uint32_t>(keep >> (32 * half));
        sets[half].permitted &= wanted;
        sets[half].effective = sets[half].permitted;
        sets[half].inheritable = 0;
    }
    if (::syscall(SYS_capset, &header, sets) != 0)
        return fail(errno, "drop capabilities");
    return {};
}

// ---- paths: Landlock (landlock(7))
// ---------------------------------------------------------------

constexpr std::uint64_t landlock_read_file = LANDLOCK_ACCESS_FS_READ_FILE;
constexpr std::uint64_t landlock_read = landlock_read_file | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr std::uint64_t landlock_write_file = LANDLOCK_ACCESS_FS_WRITE_FILE;
// ABI 1: everything up to MAKE_SYM; 2 adds REFER, 3 adds TRUNCATE (bit 14; absent from 6.1
// headers).
constexpr std::uint64_t landlock_abi1 = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1;
constexpr std::uint64_t landlock_refer = std::uint64_t{1} << 13;
constexpr std::uint64_t landlock_truncate = std::uint64_t{1} << 14;

std::uint64_t landlock_handled(long abi) {
    return landlock_abi1 | (abi >= 2 ? landlock_refer : 0) | (abi >= 3 ? landlock_truncate : 0);
}

// `withheld`: of what a writable directory would allow.
Result<void> allow_path(int ruleset, const SharedPath& share, std::uint64_t handled,
                        std::uint64_t withheld = 0) {
    struct stat status {};
    if (::fstat(share.fd, &status) != 0)
        return fail(errno, "examine a path for the sandbox");
    const bool directory = S_ISDIR(status.st_mode);
    std::uint64_t access = directory ? landlock_read : landlock_read_file;
    if (share.writable)
        access |= directory ? handled & ~(LANDLOCK_ACCESS_FS_EXECUTE | withheld)
                            : handled & (landlock_write_file | landlock_truncate);
    landlock_path_beneath_attr rule{access, share.fd};
    if (::syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
        return fail(errno, "allow a share in the sandbox");
    return {};
}

// What joey itself still opens: /dev/kvm, the kernel image, and its standard streams anew.
Result<void> allow_own_files(int ruleset, const SandboxPolicy& policy, std::uint64_t handled) {
    std::string kernel = policy.kernel_path;
    if (kernel.empty()) {
        TRY(kernel, find_kernel());
    }
    std::vector<std::pair<const char*, bool>> files = {{"/dev/kvm", true}, {kernel.c_str(), false}};
    if (policy.reads_resolver)
        files.emplace_back("/etc/resolv.conf", false);
    for (const auto& [path, writable] : files) {
        const virtio::UniqueFd fd(::open(path, O_PATH | O_CLOEXEC));
        if (fd.get() >= 0) // else the machine will say what is wrong with it
            TRY(allow_path(ruleset, {fd.get(), writable}, handled));
    }
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        // Pipes and sockets have no path, and need no rule.
        static_cast<void>(allow_path(ruleset, {stream, true}, handled).has_value());
    }
    return {};
}

// Where the host's kernel has no Landlock, the shares' own descriptors and openat2 remain.
Result<void> limit_paths(const SandboxPolicy& policy) {
    const long abi =
        ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return {};
    landlock_ruleset_attr attributes{};
    attributes.handled_access_fs = landlock_handled(abi);
    const virtio::UniqueFd ruleset(static_cast<int>(::syscall(
        SYS_landlock_create_ruleset, &attributes, sizeof attributes.handled_access_fs, 0)));
    if (!ruleset)
        return fail(errno, "make the sandbox's path rules");
    const std::uint64_t withheld = policy.device_nodes ? 0 : LANDLOCK_ACCESS_FS_MAKE_BLOCK;
    for (const SharedPath& share : policy.shares)
        TRY(allow_path(ruleset.get(), share, attributes.handled_access_fs, withheld));
    TRY(allow_own_files(ruleset.get(), policy, attributes.handled_access_fs));
    if (::syscall(SYS_landlock_restrict_self, ruleset.get(), 0) != 0)
        return fail(errno, "put the sandbox's path rules in force");
    return {};
}

// ---- memory
// --------------------------------------------------------------------------------

// Address spaces of sanitizers are no measure.
constexpr bool measurable = JOEY_WATCHES_MEMORY == 0;

// Called when there is no more memory.
[[noreturn]] void on_exhaustion() {
    constexpr std::string_view line = "joey: what the VM's process keeps for its guest has reached "
                                      "its bound; the VM was ended\n";
    static_cast<void>(!::write(STDERR_FILENO, line.data(), line.size()));
    ::_exit(125);
}

// RLIMIT_DATA: private memory, and so not the guest's, which is shared.
Result<void> limit_memory(std::uint64_t most) {
    if (most == 0 || !measurable)
        return {};
    rlimit limit{};
    if (::getrlimit(RLIMIT_DATA, &limit) != 0)
        return fail(errno, "read the limit of memory");
    limit.rlim_cur = limit.rlim_max = std::min<rlim_t>(limit.rlim_cur, most);
    if (::setrlimit(RLIMIT_DATA, &limit) != 0)
        return fail(errno, "limit memory");
    std::set_new_handler(on_exhaustion);
    return {};
}

// ---- system calls
// --------------------------------------------------------------------------------

using Program = std::span<const sock_filter>;

struct ClassInfo {
    Program program;
    const char* name;
};

ClassInfo info_of(ThreadClass thread_class, bool writable) {
    switch (thread_class) {
    case ThreadClass::EventLoop:
        return {event_loop_filter, "the event loop"};
    case ThreadClass::Vcpu:
        return {writable ? Program(vcpu_write_filter) : Program(vcpu_read_filter), "a virtual CPU"};
    case ThreadClass::Net:
        return {net_filter, "a network thread"};
    case ThreadClass::UserNet:
        return {user_net_filter, "the user-mode network thread"};
    case ThreadClass::FsWorker:
        break;
    }
    return {writable ? Program(worker_write_filter) : Program(worker_read_filter),
            "a file-system worker"};
}

thread_local const char* confined_as = nullptr;

// SIGSYS, signal-safe: a system call without a row in rules.def. The call was not made.
[[noreturn]] void on_violation(int, siginfo_t* info, void*) {
    const auto number = static_cast<std::size_t>(static_cast<unsigned>(info->si_syscall));
    const char* name = syscall_name(number);
    char line[256];
    std::size_t length = 0;
    const auto append = [&](const char* text) {
        for (; *text != '\0' && length < sizeof line; ++text)
            line[length++] = *text;
    };
    char digits[16];
    char* digit = digits + sizeof digits - 1;
    *digit = '\0';
    for (std::size_t rest = number; rest != 0 || *digit == '\0'; rest /= 10)
        *--digit = static_cast<char>('0' + rest % 10);
    append("joey: sandbox: ");
    append(confined_as == nullptr ? "a thread" : confined_as);
    append(" made the system call ");
    append(name);
    append(" (");
    append(digit);
    append("), which it must not; the VM was ended. Please report this\n");
    static_cast<void>(!::write(STDERR_FILENO, line, length));
    ::_exit(125);
}

Result<void> catch_violations() {
    struct sigaction action {};
    action.sa_sigaction = [](int signal, siginfo_t* info, void* context) {
        on_violation(signal, info, context);
    };
    action.sa_flags = SA_SIGINFO;
    ::sigfillset(&action.sa_mask);
    if (::sigaction(SIGSYS, &action, nullptr) != 0)
        return fail(errno, "handle SIGSYS");
    return {};
}

} // namespace

Result<void> give_up_privileges(const SandboxPolicy& policy) {
    const rlimit no_core{0, 0};
    if (::setrlimit(RLIMIT_CORE, &no_core) != 0)
        return fail(errno, "forbid core dumps");
    TRY(limit_memory(policy.most_memory));
    TRY(limit_capabilities(capabilities_of(policy)));
    if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return fail(errno, "set no-new-privileges");
    TRY(limit_paths(policy));
    // Last: it takes the ownership of /proc/self away, which an ordinary user needs until here.
    // Guest memory is in this process; nobody else may look at it through ptrace or a core dump.
    if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0)
        return fail(errno, "make the process undumpable");
    return catch_violations();
}

Result<void> confine_thread(ThreadClass thread_class, bool writable) {
    const ClassInfo info = info_of(thread_class, writable);
    confined_as = info.name;
    // A blocked SIGSYS would kill without a word.
    sigset_t violation;
    ::sigemptyset(&violation);
    ::sigaddset(&violation, SIGSYS);
    ::pthread_sigmask(SIG_UNBLOCK, &violation, nullptr);
    // seccomp(2): threads inherit; a second filter would only make each call dearer.
    if (::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == SECCOMP_MODE_FILTER)
        return {};
    std::vector<sock_filter> steps(info.program.begin(), info.program.end());
    for (sock_filter& step : steps) {
        if (step.code == (BPF_JMP | BPF_JEQ | BPF_K) && step.k == own_process)
            step.k = static_cast<std::uint32_t>(::getpid());
    }
    const sock_fprog program{static_cast<unsigned short>(steps.size()), steps.data()};
    if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0)
        return fail(errno, "install the filter of system calls");
    return {};
}

const char* syscall_name(std::size_t number) {
    return number < std::size(syscall_names) ? syscall_names[number] : "";
}

} // namespace vmm
