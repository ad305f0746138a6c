// Names of flags and values for --strace, from the UAPI headers.
#include <asm/ioctls.h>
#include <asm/prctl.h>
#include <asm/signal.h>
#include <linux/errno.h>
#include <linux/eventpoll.h>
#include <linux/fcntl.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/time.h>
#include <linux/wait.h>

#include "guestkernel/syscalls/strace_values.hpp"

namespace kernel {

namespace {

#define N(name)                                                                                    \
    { static_cast<u64>(name), #name }

constexpr ValueName open_flags[] = {
    N(O_WRONLY),    N(O_RDWR),     N(O_CREAT),   N(O_EXCL),    N(O_NOCTTY), N(O_TRUNC),
    N(O_APPEND),    N(O_NONBLOCK), N(O_SYNC),    N(O_DSYNC),   N(O_DIRECT), N(O_TMPFILE),
    N(O_DIRECTORY), N(O_NOFOLLOW), N(O_NOATIME), N(O_CLOEXEC), N(O_PATH)};
constexpr ValueName protections[] = {N(PROT_READ), N(PROT_WRITE), N(PROT_EXEC), N(PROT_GROWSDOWN)};
constexpr ValueName map_flags[] = {N(MAP_SHARED_VALIDATE), N(MAP_SHARED),         N(MAP_PRIVATE),
                                   N(MAP_FIXED),           N(MAP_ANONYMOUS),      N(MAP_GROWSDOWN),
                                   N(MAP_DENYWRITE),       N(MAP_LOCKED),         N(MAP_NORESERVE),
                                   N(MAP_POPULATE),        N(MAP_NONBLOCK),       N(MAP_STACK),
                                   N(MAP_HUGETLB),         N(MAP_FIXED_NOREPLACE)};
constexpr ValueName access_modes[] = {{4, "R_OK"}, {2, "W_OK"}, {1, "X_OK"}};
constexpr ValueName at_flags[] = {N(AT_SYMLINK_NOFOLLOW), N(AT_REMOVEDIR), N(AT_SYMLINK_FOLLOW),
                                  N(AT_NO_AUTOMOUNT), N(AT_EMPTY_PATH)};
constexpr ValueName signals[] = {
    N(SIGHUP),  N(SIGINT),    N(SIGQUIT), N(SIGILL),  N(SIGTRAP),   N(SIGABRT), N(SIGBUS),
    N(SIGFPE),  N(SIGKILL),   N(SIGUSR1), N(SIGSEGV), N(SIGUSR2),   N(SIGPIPE), N(SIGALRM),
    N(SIGTERM), N(SIGSTKFLT), N(SIGCHLD), N(SIGCONT), N(SIGSTOP),   N(SIGTSTP), N(SIGTTIN),
    N(SIGTTOU), N(SIGURG),    N(SIGXCPU), N(SIGXFSZ), N(SIGVTALRM), N(SIGPROF), N(SIGWINCH),
    N(SIGIO),   N(SIGPWR),    N(SIGSYS)};
constexpr ValueName mask_ways[] = {N(SIG_BLOCK), N(SIG_UNBLOCK), N(SIG_SETMASK)};
constexpr ValueName clone_flags[] = {N(CLONE_VM),
                                     N(CLONE_FS),
                                     N(CLONE_FILES),
                                     N(CLONE_SIGHAND),
                                     N(CLONE_PIDFD),
                                     N(CLONE_PTRACE),
                                     N(CLONE_VFORK),
                                     N(CLONE_PARENT),
                                     N(CLONE_THREAD),
                                     N(CLONE_NEWNS),
                                     N(CLONE_SYSVSEM),
                                     N(CLONE_SETTLS),
                                     N(CLONE_PARENT_SETTID),
                                     N(CLONE_CHILD_CLEARTID),
                                     N(CLONE_UNTRACED),
                                     N(CLONE_CHILD_SETTID),
                                     N(CLONE_NEWCGROUP),
                                     N(CLONE_NEWUTS),
                                     N(CLONE_NEWIPC),
                                     N(CLONE_NEWUSER),
                                     N(CLONE_NEWPID),
                                     N(CLONE_NEWNET),
                                     N(CLONE_IO),
                                     {SIGCHLD, "SIGCHLD"}};
constexpr ValueName wait_options[] = {N(WNOHANG), N(WUNTRACED),   N(WEXITED), N(WCONTINUED),
                                      N(WNOWAIT), N(__WNOTHREAD), N(__WALL),  N(__WCLONE)};
constexpr ValueName clocks[] = {N(CLOCK_REALTIME),           N(CLOCK_MONOTONIC),
                                N(CLOCK_PROCESS_CPUTIME_ID), N(CLOCK_THREAD_CPUTIME_ID),
                                N(CLOCK_MONOTONIC_RAW),      N(CLOCK_REALTIME_COARSE),
                                N(CLOCK_MONOTONIC_COARSE),   N(CLOCK_BOOTTIME)};
constexpr ValueName whences[] = {
    {0, "SEEK_SET"}, {1, "SEEK_CUR"}, {2, "SEEK_END"}, {3, "SEEK_DATA"}, {4, "SEEK_HOLE"}};
constexpr ValueName fcntls[] = {
    N(F_DUPFD),         N(F_GETFD),     N(F_SETFD),     N(F_GETFL),      N(F_SETFL),
    N(F_GETLK),         N(F_SETLK),     N(F_SETLKW),    N(F_SETOWN),     N(F_GETOWN),
    N(F_DUPFD_CLOEXEC), N(F_SETLEASE),  N(F_GETLEASE),  N(F_SETPIPE_SZ), N(F_GETPIPE_SZ),
    N(F_ADD_SEALS),     N(F_GET_SEALS), N(F_OFD_GETLK), N(F_OFD_SETLK),  N(F_OFD_SETLKW)};
constexpr ValueName futex_operations[] = {
    N(FUTEX_WAIT),        N(FUTEX_WAKE),        N(FUTEX_REQUEUE),         N(FUTEX_CMP_REQUEUE),
    N(FUTEX_WAKE_OP),     N(FUTEX_LOCK_PI),     N(FUTEX_UNLOCK_PI),       N(FUTEX_TRYLOCK_PI),
    N(FUTEX_WAIT_BITSET), N(FUTEX_WAKE_BITSET), N(FUTEX_WAIT_REQUEUE_PI), N(FUTEX_CMP_REQUEUE_PI),
    N(FUTEX_LOCK_PI2)};
constexpr ValueName domains[] = {{0, "AF_UNSPEC"}, {1, "AF_UNIX"},     {2, "AF_INET"},
                                 {10, "AF_INET6"}, {16, "AF_NETLINK"}, {17, "AF_PACKET"},
                                 {40, "AF_VSOCK"}};
constexpr ValueName socket_types[] = {
    {1, "SOCK_STREAM"}, {2, "SOCK_DGRAM"}, {3, "SOCK_RAW"}, {5, "SOCK_SEQPACKET"}};
constexpr ValueName limits[] = {
    N(RLIMIT_CPU),      N(RLIMIT_FSIZE), N(RLIMIT_DATA),   N(RLIMIT_STACK),
    N(RLIMIT_CORE),     N(RLIMIT_RSS),   N(RLIMIT_NPROC),  N(RLIMIT_NOFILE),
    N(RLIMIT_MEMLOCK),  N(RLIMIT_AS),    N(RLIMIT_LOCKS),  N(RLIMIT_SIGPENDING),
    N(RLIMIT_MSGQUEUE), N(RLIMIT_NICE),  N(RLIMIT_RTPRIO), N(RLIMIT_RTTIME)};
constexpr ValueName advices[] = {
    N(MADV_NORMAL),     N(MADV_RANDOM),   N(MADV_SEQUENTIAL), N(MADV_WILLNEED), N(MADV_DONTNEED),
    N(MADV_FREE),       N(MADV_REMOVE),   N(MADV_DONTFORK),   N(MADV_DOFORK),   N(MADV_HUGEPAGE),
    N(MADV_NOHUGEPAGE), N(MADV_DONTDUMP), N(MADV_DODUMP),     N(MADV_COLD),     N(MADV_PAGEOUT)};
constexpr ValueName arch_prctls[] = {N(ARCH_SET_GS), N(ARCH_SET_FS),    N(ARCH_GET_FS),
                                     N(ARCH_GET_GS), N(ARCH_GET_CPUID), N(ARCH_SET_CPUID)};
constexpr ValueName epoll_operations[] = {N(EPOLL_CTL_ADD), N(EPOLL_CTL_DEL), N(EPOLL_CTL_MOD)};
constexpr ValueName ioctls[] = {N(TCGETS),     N(TCSETS),     N(TCSETSW),   N(TCSETSF),
                                N(TIOCGWINSZ), N(TIOCSWINSZ), N(TIOCGPGRP), N(TIOCSPGRP),
                                N(TIOCSCTTY),  N(TIOCNOTTY),  N(FIONREAD),  N(FIONBIO),
                                N(FIOCLEX),    N(FIONCLEX),   N(TIOCGPTN),  N(TIOCSPTLCK)};

constexpr ValueName errors[] = {N(EPERM),
                                N(ENOENT),
                                N(ESRCH),
                                N(EINTR),
                                N(EIO),
                                N(ENXIO),
                                N(E2BIG),
                                N(ENOEXEC),
                                N(EBADF),
                                N(ECHILD),
                                N(EAGAIN),
                                N(ENOMEM),
                                N(EACCES),
                                N(EFAULT),
                                N(ENOTBLK),
                                N(EBUSY),
                                N(EEXIST),
                                N(EXDEV),
                                N(ENODEV),
                                N(ENOTDIR),
                                N(EISDIR),
                                N(EINVAL),
                                N(ENFILE),
                                N(EMFILE),
                                N(ENOTTY),
                                N(ETXTBSY),
                                N(EFBIG),
                                N(ENOSPC),
                                N(ESPIPE),
                                N(EROFS),
                                N(EMLINK),
                                N(EPIPE),
                                N(EDOM),
                                N(ERANGE),
                                N(EDEADLK),
                                N(ENAMETOOLONG),
                                N(ENOLCK),
                                N(ENOSYS),
                                N(ENOTEMPTY),
                                N(ELOOP),
                                N(ENOMSG),
                                N(EIDRM),
                                N(ENODATA),
                                N(ETIME),
                                N(EPROTO),
                                N(EBADMSG),
                                N(EOVERFLOW),
                                N(EBADFD),
                                N(EILSEQ),
                                N(EUSERS),
                                N(ENOTSOCK),
                                N(EDESTADDRREQ),
                                N(EMSGSIZE),
                                N(EPROTOTYPE),
                                N(ENOPROTOOPT),
                                N(EPROTONOSUPPORT),
                                N(ESOCKTNOSUPPORT),
                                N(EOPNOTSUPP),
                                N(EPFNOSUPPORT),
                                N(EAFNOSUPPORT),
                                N(EADDRINUSE),
                                N(EADDRNOTAVAIL),
                                N(ENETDOWN),
                                N(ENETUNREACH),
                                N(ENETRESET),
                                N(ECONNABORTED),
                                N(ECONNRESET),
                                N(ENOBUFS),
                                N(EISCONN),
                                N(ENOTCONN),
                                N(ESHUTDOWN),
                                N(ETIMEDOUT),
                                N(ECONNREFUSED),
                                N(EHOSTDOWN),
                                N(EHOSTUNREACH),
                                N(EALREADY),
                                N(EINPROGRESS),
                                N(ESTALE),
                                N(EDQUOT),
                                N(ECANCELED),
                                N(ENOKEY),
                                N(EKEYEXPIRED),
                                N(EKEYREVOKED),
                                N(EKEYREJECTED),
                                N(EOWNERDEAD),
                                N(ENOTRECOVERABLE),
                                {restart_syscall, "ERESTARTSYS"},
                                {restart_no_interrupt, "ERESTARTNOINTR"},
                                {restart_no_handler, "ERESTARTNOHAND"},
                                {restart_with_block, "ERESTART_RESTARTBLOCK"}};

template <usize Count>
constexpr NameTable flags(const ValueName (&names)[Count]) {
    return {names, Count, true};
}
template <usize Count>
constexpr NameTable values(const ValueName (&names)[Count]) {
    return {names, Count, false};
}

} // namespace

NameTable name_table(ArgumentKind kind) {
    switch (kind) {
    case ArgumentKind::OpenFlags:
        return flags(open_flags);
    case ArgumentKind::Protection:
        return flags(protections);
    case ArgumentKind::MapFlags:
        return flags(map_flags);
    case ArgumentKind::Access:
        return flags(access_modes);
    case ArgumentKind::AtFlags:
        return flags(at_flags);
    case ArgumentKind::Signal:
        return values(signals);
    case ArgumentKind::SigHow:
        return values(mask_ways);
    case ArgumentKind::CloneFlags:
        return flags(clone_flags);
    case ArgumentKind::WaitOptions:
        return flags(wait_options);
    case ArgumentKind::Clock:
        return values(clocks);
    case ArgumentKind::Whence:
        return values(whences);
    case ArgumentKind::Fcntl:
        return values(fcntls);
    case ArgumentKind::FutexOp:
        return values(futex_operations);
    case ArgumentKind::Domain:
        return values(domains);
    case ArgumentKind::SocketType:
        return values(socket_types);
    case ArgumentKind::Limit:
        return values(limits);
    case ArgumentKind::Advice:
        return values(advices);
    case ArgumentKind::ArchPrctl:
        return values(arch_prctls);
    case ArgumentKind::EpollOp:
        return values(epoll_operations);
    case ArgumentKind::Ioctl:
        return values(ioctls);
    default:
        return {nullptr, 0, false};
    }
}

std::string_view error_name(int number) {
    for (const ValueName& entry : errors)
        if (entry.value == static_cast<u64>(number))
            return entry.name;
    return "error";
}

} // namespace kernel
