#include "guestkernel/syscalls/strace.hpp"

#include <asm/unistd_64.h>
#include <linux/errno.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

// Which arguments (bit n) are NUL-terminated strings.
u8 string_arguments(u32 number) {
    switch (number) {
    case __NR_open:
    case __NR_stat:
    case __NR_lstat:
    case __NR_access:
    case __NR_execve:
    case __NR_chdir:
    case __NR_mkdir:
    case __NR_rmdir:
    case __NR_creat:
    case __NR_unlink:
    case __NR_readlink:
    case __NR_chmod:
    case __NR_chown:
    case __NR_lchown:
    case __NR_statfs:
    case __NR_chroot:
    case __NR_truncate:
    case __NR_mknod:
    case __NR_utime:
    case __NR_utimes:
    case __NR_memfd_create:
    case __NR_getxattr:
    case __NR_lgetxattr:
    case __NR_umount2:
        return 1;
    case __NR_rename:
    case __NR_link:
    case __NR_symlink:
    case __NR_pivot_root:
    case __NR_mount:
        return 3;
    case __NR_openat:
    case __NR_mkdirat:
    case __NR_mknodat:
    case __NR_fchownat:
    case __NR_newfstatat:
    case __NR_unlinkat:
    case __NR_readlinkat:
    case __NR_fchmodat:
    case __NR_faccessat:
    case __NR_faccessat2:
    case __NR_utimensat:
    case __NR_statx:
    case __NR_openat2:
    case __NR_execveat:
    case __NR_inotify_add_watch:
    case __NR_futimesat:
        return 2;
    case __NR_renameat:
    case __NR_renameat2:
    case __NR_linkat:
        return 0b1010;
    case __NR_symlinkat:
        return 0b101;
    default:
        return 0;
    }
}

struct ErrorName {
    int number;
    const char* name;
};
constexpr ErrorName names[] = {
#define E(name)                                                                                    \
    { name, #name }
    E(EPERM),
    E(ENOENT),
    E(ESRCH),
    E(EINTR),
    E(EIO),
    E(ENXIO),
    E(E2BIG),
    E(ENOEXEC),
    E(EBADF),
    E(ECHILD),
    E(EAGAIN),
    E(ENOMEM),
    E(EACCES),
    E(EFAULT),
    E(ENOTBLK),
    E(EBUSY),
    E(EEXIST),
    E(EXDEV),
    E(ENODEV),
    E(ENOTDIR),
    E(EISDIR),
    E(EINVAL),
    E(ENFILE),
    E(EMFILE),
    E(ENOTTY),
    E(ETXTBSY),
    E(EFBIG),
    E(ENOSPC),
    E(ESPIPE),
    E(EROFS),
    E(EMLINK),
    E(EPIPE),
    E(EDOM),
    E(ERANGE),
    E(EDEADLK),
    E(ENAMETOOLONG),
    E(ENOLCK),
    E(ENOSYS),
    E(ENOTEMPTY),
    E(ELOOP),
    E(ENODATA),
    E(ETIME),
    E(EPROTO),
    E(EOVERFLOW),
    E(ENOTSOCK),
    E(EDESTADDRREQ),
    E(EMSGSIZE),
    E(EPROTOTYPE),
    E(ENOPROTOOPT),
    E(EPROTONOSUPPORT),
    E(EOPNOTSUPP),
    E(EAFNOSUPPORT),
    E(EADDRINUSE),
    E(EADDRNOTAVAIL),
    E(ENETDOWN),
    E(ENETUNREACH),
    E(ECONNABORTED),
    E(ECONNRESET),
    E(ENOBUFS),
    E(EISCONN),
    E(ENOTCONN),
    E(ETIMEDOUT),
    E(ECONNREFUSED),
    E(EALREADY),
    E(EINPROGRESS),
    E(ESTALE),
    E(ECANCELED),
    {restart_syscall, "ERESTARTSYS"},
    {restart_no_interrupt, "ERESTARTNOINTR"},
    {restart_no_handler, "ERESTARTNOHAND"},
    {restart_with_block, "ERESTART_RESTARTBLOCK"},
#undef E
};

std::string_view error_name(int number) {
    for (const ErrorName& entry : names)
        if (entry.number == number)
            return entry.name;
    return "error";
}

bool never_returns(u32 number) {
    return number == __NR_exit || number == __NR_exit_group || number == __NR_rt_sigreturn;
}

} // namespace

void StraceLine::put(std::string_view text) {
    for (const char c : text)
        if (length_ < sizeof text_)
            text_[length_++] = c;
}

void StraceLine::put_argument(u32 number, usize index, u64 value) {
    char buffer[64];
    if ((string_arguments(number) >> index & 1) != 0 && value != 0) {
        if (auto text = copy_in_string(value, 4096)) {
            put("\"");
            put(text->view().substr(0, 160));
            put(text->size() > 160 ? "\"..." : "\"");
            return;
        }
    }
    const bool small = static_cast<i64>(value) > -4096 && static_cast<i64>(value) < 65536;
    // A descriptor or an int: the upper half of the register is not part of it.
    if (!small && static_cast<i32>(value) < 0 && static_cast<i32>(value) > -4096)
        put(std::string_view(buffer,
                             log::format(buffer, sizeof buffer, "{}", static_cast<i32>(value))));
    else
        put(std::string_view(
            buffer, small ? log::format(buffer, sizeof buffer, "{}", static_cast<i64>(value))
                          : log::format(buffer, sizeof buffer, "0x{x}", value)));
}

StraceLine::StraceLine(Task& task, u32 number, const SyscallEntry* entry, const SyscallArgs& args) {
    char buffer[64];
    put(std::string_view(buffer, log::format(buffer, sizeof buffer, "[{} {}] ", task.tid,
                                             static_cast<const char*>(task.name))));
    if (entry != nullptr)
        put(entry->name);
    else
        put(std::string_view(buffer, log::format(buffer, sizeof buffer, "syscall_{}", number)));
    put("(");
    const usize count = entry != nullptr ? entry->argument_count : 6;
    for (usize i = 0; i < count; i++) {
        if (i != 0)
            put(", ");
        put_argument(number, i, args[i]);
    }
    put(")");
    if (never_returns(number))
        log::write_line(boot::LogLevel::Strace, std::string_view(text_, length_));
}

void StraceLine::finish(long result, const SyscallEntry* entry) {
    char buffer[96];
    if (result < 0 && result > -4096)
        put(std::string_view(buffer,
                             log::format(buffer, sizeof buffer, " = -1 {}{}",
                                         error_name(static_cast<int>(-result)),
                                         entry == nullptr || entry->support == Support::Missing
                                             ? " (not implemented)"
                                             : "")));
    else if (result >= 0 && result < 65536)
        put(std::string_view(buffer, log::format(buffer, sizeof buffer, " = {}", result)));
    else
        put(std::string_view(
            buffer, log::format(buffer, sizeof buffer, " = 0x{x}", static_cast<u64>(result))));
    log::write_line(boot::LogLevel::Strace, std::string_view(text_, length_));
}

} // namespace kernel
