// The kernel's log, and calls about the machine: syslog(2), /dev/kmsg, reboot(2), sysfs(2),
// swapon(2), quotactl(2), iopl(2), ioperm(2), vhangup(2), modify_ldt(2), and what Linux refuses.
#include <csignal>
#include <cstdint>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/quota.h>
#include <linux/reboot.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <sys/swap.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

// Runs as somebody without any privilege.
template <typename F>
void unprivileged(F&& function) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(2);
        function();
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

bool refused(long result) {
    return result == -1 && (errno == EPERM || errno == ENOSYS);
}

bool in_joey() {
    utsname names{};
    CHECK(uname(&names) == 0);
    return strstr(names.version, "Joey") != nullptr;
}

void kernel_log() {
    CHECK_FAILS(klogctl(99, nullptr, 0), EINVAL);
    const int size = klogctl(10, nullptr, 0);
    if (size < 0)
        return; // a container's filter
    CHECK(size > 0);
    CHECK_FAILS(klogctl(3, nullptr, 10), EINVAL);
    const int log = open("/dev/kmsg", O_RDWR | O_NONBLOCK);
    if (log < 0)
        return;
    CHECK(lseek(log, 0, SEEK_END) == 0);
    const std::string line = "joey-test " + std::to_string(getpid());
    const std::string with_level = "<5>" + line + "\n";
    CHECK(write(log, with_level.data(), with_level.size()) ==
          static_cast<ssize_t>(with_level.size()));
    char record[8192] = {};
    bool seen = false;
    while (!seen) {
        const ssize_t got = read(log, record, sizeof record - 1);
        CHECK(got > 0);
        record[got] = 0;
        seen = strstr(record, line.c_str()) != nullptr;
    }
    CHECK(strncmp(record, "13,", 3) == 0 && strchr(record, ';') != nullptr); // facility 1, level 5
    CHECK_FAILS(read(log, record, sizeof record), EAGAIN);
    CHECK_FAILS(lseek(log, 1, SEEK_SET), ESPIPE);
    CHECK(lseek(log, 0, SEEK_SET) == 0);
    CHECK_FAILS(read(log, record, 1), EINVAL);
    close(log);
    std::string all(static_cast<size_t>(size), 0);
    const int got = klogctl(3, all.data(), size);
    CHECK(got > 0 && all.substr(0, static_cast<size_t>(got)).find(line) != std::string::npos);
    unprivileged([] { CHECK_FAILS(klogctl(5, nullptr, 0), EPERM); });
}

void reboot_and_swap() {
    unprivileged([] {
        CHECK_FAILS(syscall(SYS_reboot, 1, 2, 3, nullptr), EPERM);
        CHECK_FAILS(reboot(RB_POWER_OFF), EPERM);
        CHECK_FAILS(swapon("/dev/null", 0), EPERM);
        CHECK_FAILS(swapoff("/dev/null"), EPERM);
        CHECK_FAILS(vhangup(), EPERM);
        // EPERM, or ENOSYS of a kernel that is built without.
        CHECK(refused(syscall(SYS_init_module, nullptr, 0, "")));
        CHECK(refused(syscall(SYS_delete_module, "none", 0)));
        CHECK(refused(syscall(SYS_finit_module, 0, "", 0)));
        CHECK(refused(syscall(SYS_kexec_load, 0, 0, nullptr, 0)));
        CHECK(refused(syscall(SYS_iopl, 3)));
        CHECK(refused(syscall(SYS_ioperm, 0x80, 1, 1)));
    });
    if (in_joey()) {
        CHECK_FAILS(syscall(SYS_reboot, 1, 2, 3, nullptr), EINVAL);
        CHECK_FAILS(syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, 7, nullptr),
                    EINVAL);
        CHECK_FAILS(swapon("/dev/null", 0), EINVAL);
        CHECK_FAILS(swapon("/no/such/file", 0), ENOENT);
        CHECK_FAILS(swapoff("/dev/null"), EINVAL);
    }
}

// In a nested pid namespace reboot(2) kills the first process, and its parent sees by which signal
// what was asked for. The machine runs on.
void reboot_of_namespace() {
    const struct {
        int command, signal;
    } cases[] = {
        {RB_AUTOBOOT, SIGHUP}, {RB_POWER_OFF, SIGINT}, {static_cast<int>(RB_HALT_SYSTEM), SIGINT}};
    for (const auto& each : cases)
        for (const bool itself : {false, true}) {
            const auto init =
                static_cast<pid_t>(syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWPID | SIGCHLD,
                                           nullptr, nullptr, nullptr, nullptr));
            CHECK(init >= 0);
            if (init == 0) {
                if (getpid() != 1)
                    _exit(2);
                CHECK_FAILS(reboot(RB_ENABLE_CAD), EINVAL);
                if (itself || fork() == 0) {
                    reboot(each.command);
                    _exit(3);
                }
                for (;;)
                    pause();
            }
            int status = 0;
            CHECK(waitpid(init, &status, 0) == init);
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == each.signal);
        }
}

void ports() {
    if (syscall(SYS_iopl, 0) == -1 && errno == ENOSYS)
        return; // a kernel that is built without
    CHECK_FAILS(syscall(SYS_iopl, 4), EINVAL);
    CHECK(syscall(SYS_iopl, 0) == 0);
    CHECK_FAILS(syscall(SYS_ioperm, 0x10000, 1, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_ioperm, 1, 0, 0), EINVAL);
    CHECK(syscall(SYS_ioperm, 0x80, 1, 0) == 0);
}

// Of a kernel that has segments of its own for programs, or has none.
void local_segments() {
    char table[256];
    if (syscall(SYS_modify_ldt, 0, table, sizeof table) == -1) {
        CHECK(errno == ENOSYS);
        return;
    }
    CHECK(syscall(SYS_modify_ldt, 0, table, sizeof table) == 0);
    // The error comes in 32 bits, which the C library does not take for one.
    CHECK(static_cast<int>(syscall(SYS_modify_ldt, 0x55, table, sizeof table)) == -ENOSYS);
    CHECK(static_cast<int>(syscall(SYS_modify_ldt, 1, table, 3)) == -EINVAL);
}

void old_interfaces() {
    const long count = syscall(SYS_sysfs, 3);
    CHECK(count > 3);
    char name[64];
    CHECK(syscall(SYS_sysfs, 2, 0, name) == 0);
    CHECK(syscall(SYS_sysfs, 1, name) == 0);
    CHECK_FAILS(syscall(SYS_sysfs, 2, count, name), EINVAL);
    CHECK_FAILS(syscall(SYS_sysfs, 1, "no-such-type"), EINVAL);
    CHECK_FAILS(syscall(SYS_sysfs, 4), EINVAL);
    // Never there, or not any more.
    for (const long number :
         {SYS__sysctl, SYS_create_module, SYS_get_kernel_syms, SYS_query_module, SYS_nfsservctl,
          SYS_getpmsg, SYS_putpmsg, SYS_afs_syscall, SYS_tuxcall, SYS_security, SYS_set_thread_area,
          SYS_get_thread_area, SYS_epoll_ctl_old, SYS_epoll_wait_old, SYS_vserver})
        CHECK_FAILS(syscall(number, 0, 0, 0, 0, 0, 0), ENOSYS);
}

void quotas() {
    if (!in_joey()) {
        // Linux may be built without, and its file systems may have quotas.
        CHECK(syscall(SYS_quotactl, QCMD(Q_SYNC, USRQUOTA), nullptr, 0, nullptr) == 0 ||
              errno == ENOSYS);
        CHECK(syscall(SYS_quotactl_fd, -1, QCMD(Q_SYNC, USRQUOTA), 0, nullptr) == -1);
        CHECK(errno == EBADF || errno == ENOSYS);
        return;
    }
    CHECK(syscall(SYS_quotactl, QCMD(Q_SYNC, USRQUOTA), nullptr, 0, nullptr) == 0);
    CHECK_FAILS(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "/dev/null", 0, nullptr),
                ENOTBLK);
    CHECK_FAILS(syscall(SYS_quotactl, QCMD(Q_GETQUOTA, USRQUOTA), "/no/such", 0, nullptr), ENOENT);
    CHECK_FAILS(syscall(SYS_quotactl, QCMD(Q_SYNC, 7), nullptr, 0, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_quotactl_fd, -1, QCMD(Q_SYNC, USRQUOTA), 0, nullptr), EBADF);
}

} // namespace

int main() {
    kernel_log();
    reboot_and_swap();
    reboot_of_namespace();
    ports();
    local_segments();
    old_interfaces();
    quotas();
    return 0;
}
