// Which calls --strace shows: names, %groups as strace(1) has them, with ! for all but these.
#include <asm/unistd_64.h>
#include <linux/errno.h>

#include "base/atomic.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/syscalls/strace.hpp"

namespace kernel {

namespace {

constexpr usize words = syscall_limit / 64;
constinit u64 wanted[words] = {};
constinit bool only_missing = false;
constinit base::Atomic<u64> told[words] = {};

constexpr u32 process_calls[] = {
    __NR_clone,   __NR_fork,   __NR_vfork,      __NR_execve,     __NR_exit,
    __NR_wait4,   __NR_waitid, __NR_exit_group, __NR_kill,       __NR_tkill,
    __NR_tgkill,  __NR_clone3, __NR_execveat,   __NR_pidfd_open, __NR_pidfd_send_signal,
    __NR_unshare, __NR_setns,  __NR_arch_prctl};
constexpr u32 network_calls[] = {
    __NR_sendfile,   __NR_socket,      __NR_connect,     __NR_accept,     __NR_sendto,
    __NR_recvfrom,   __NR_sendmsg,     __NR_recvmsg,     __NR_shutdown,   __NR_bind,
    __NR_listen,     __NR_getsockname, __NR_getpeername, __NR_socketpair, __NR_setsockopt,
    __NR_getsockopt, __NR_accept4,     __NR_recvmmsg,    __NR_sendmmsg};
constexpr u32 signal_calls[] = {__NR_rt_sigaction,
                                __NR_rt_sigprocmask,
                                __NR_rt_sigreturn,
                                __NR_pause,
                                __NR_kill,
                                __NR_rt_sigpending,
                                __NR_rt_sigtimedwait,
                                __NR_rt_sigqueueinfo,
                                __NR_rt_sigsuspend,
                                __NR_sigaltstack,
                                __NR_tkill,
                                __NR_tgkill,
                                __NR_signalfd,
                                __NR_signalfd4,
                                __NR_rt_tgsigqueueinfo,
                                __NR_pidfd_send_signal};
constexpr u32 memory_calls[] = {__NR_mmap,   __NR_mprotect, __NR_munmap,   __NR_brk,
                                __NR_mremap, __NR_msync,    __NR_mincore,  __NR_madvise,
                                __NR_mlock,  __NR_munlock,  __NR_mlockall, __NR_munlockall,
                                __NR_mlock2, __NR_shmat,    __NR_shmdt,    __NR_memfd_create};
constexpr u32 ipc_calls[] = {__NR_shmget, __NR_shmat,  __NR_shmctl, __NR_shmdt,
                             __NR_semget, __NR_semop,  __NR_semctl, __NR_semtimedop,
                             __NR_msgget, __NR_msgsnd, __NR_msgrcv, __NR_msgctl};

void set(u32 number, bool on) {
    const u64 bit = u64{1} << number % 64;
    wanted[number / 64] = on ? wanted[number / 64] | bit : wanted[number / 64] & ~bit;
}

template <typename Holds>
void set_where(bool on, Holds&& holds) {
    for (u32 number = 0; number < syscall_limit; number++)
        if (find_syscall(number) != nullptr && holds(number))
            set(number, on);
}

template <usize Count>
void set_list(bool on, const u32 (&list)[Count]) {
    for (const u32 number : list)
        set(number, on);
}

bool has_kind(u32 number, ArgumentKind first, ArgumentKind second) {
    for (usize i = 0; i < 6; i++) {
        const ArgumentKind kind = argument_kind(number, i);
        if (kind == first || kind == second)
            return true;
    }
    return false;
}

bool set_group(std::string_view name, bool on) {
    using enum ArgumentKind;
    if (name == "file")
        set_where(on, [](u32 number) { return has_kind(number, Path, Path); });
    else if (name == "desc")
        set_where(on, [](u32 number) { return has_kind(number, Fd, Dirfd); });
    else if (name == "process")
        set_list(on, process_calls);
    else if (name == "network" || name == "net")
        set_list(on, network_calls);
    else if (name == "signal")
        set_list(on, signal_calls);
    else if (name == "memory")
        set_list(on, memory_calls);
    else if (name == "ipc")
        set_list(on, ipc_calls);
    else
        return false;
    return true;
}

bool set_named(std::string_view name, bool on) {
    if (name == "all") {
        set_where(on, [](u32) { return true; });
        return true;
    }
    if (!name.empty() && name.front() == '%')
        return set_group(name.substr(1), on);
    bool found = false;
    set_where(on, [&](u32 number) {
        const bool same = name == find_syscall(number)->name;
        found = found || same;
        return same;
    });
    return found;
}

} // namespace

void set_strace_filter(std::string_view what) {
    // Without anything that is wanted, all is but what is not.
    if (what.empty() || what.front() == '!')
        for (u64& word : wanted)
            word = ~u64{0};
    while (!what.empty()) {
        const usize comma = what.find(',');
        std::string_view word = what.substr(0, comma);
        what = comma == std::string_view::npos ? std::string_view() : what.substr(comma + 1);
        const bool on = word.empty() || word.front() != '!';
        if (!on)
            word.remove_prefix(1);
        if (word == "missing")
            only_missing = true;
        else if (!set_named(word, on))
            log::warning("--strace: there is no call or group named {}", word);
    }
}

bool strace_wants(u32 number) {
    return number >= syscall_limit || (wanted[number / 64] >> number % 64 & 1) != 0;
}

bool strace_only_missing() {
    return only_missing;
}

bool strace_tells_missing(u32 number, const SyscallEntry* entry, long result) {
    const bool none = entry == nullptr || entry->support == Support::Missing ||
                      entry->support == Support::Refused;
    // What a partial call refuses, it refuses by one of these.
    const bool part = entry != nullptr && entry->support == Support::Partial &&
                      (result == -ENOSYS || result == -EINVAL || result == -EOPNOTSUPP ||
                       result == -ENODEV || result == -ENOTTY);
    if (!none && !part)
        return false;
    if (number >= syscall_limit)
        return true;
    const u64 bit = u64{1} << number % 64;
    return (told[number / 64].fetch_or(bit) & bit) == 0;
}

} // namespace kernel
