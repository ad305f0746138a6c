// Who a process is: user and group ids, supplementary groups, capabilities, securebits, and what
// prctl(2) keeps. credentials(7), capabilities(7), setresuid(2), capset(2), prctl(2),
// personality(2).
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

std::string self;

template <typename F>
int run(F&& body) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        body();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

template <typename F>
void in_child(F&& body) {
    CHECK(run(body) == 0);
}

struct Capabilities {
    unsigned long effective, permitted, inheritable;
};

Capabilities capabilities() {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    CHECK(syscall(SYS_capget, &header, data) == 0);
    const auto both = [&](unsigned __user_cap_data_struct::*field) {
        return data[0].*field | static_cast<unsigned long>(data[1].*field) << 32;
    };
    return {both(&__user_cap_data_struct::effective), both(&__user_cap_data_struct::permitted),
            both(&__user_cap_data_struct::inheritable)};
}

int set_capabilities(const Capabilities& wanted) {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    for (unsigned i = 0; i < 2; i++)
        data[i] = {static_cast<unsigned>(wanted.effective >> 32 * i),
                   static_cast<unsigned>(wanted.permitted >> 32 * i),
                   static_cast<unsigned>(wanted.inheritable >> 32 * i)};
    return static_cast<int>(syscall(SYS_capset, &header, data));
}

constexpr unsigned long bit(int capability) {
    return 1ul << capability;
}

void expect_users(uid_t real, uid_t effective, uid_t saved) {
    uid_t r = 0;
    uid_t e = 0;
    uid_t s = 0;
    CHECK(syscall(SYS_getresuid, &r, &e, &s) == 0);
    CHECK(r == real && e == effective && s == saved);
    CHECK(getuid() == real && geteuid() == effective);
}

void expect_groups(gid_t real, gid_t effective, gid_t saved) {
    gid_t r = 0;
    gid_t e = 0;
    gid_t s = 0;
    CHECK(syscall(SYS_getresgid, &r, &e, &s) == 0);
    CHECK(r == real && e == effective && s == saved);
    CHECK(getgid() == real && getegid() == effective);
}

// The raw calls: the C library's would change all threads.
long setresuid_raw(int r, int e, int s) {
    return syscall(SYS_setresuid, r, e, s);
}

void users() {
    in_child([] { // setuid by root is for good
        CHECK(syscall(SYS_setuid, 1000) == 0);
        expect_users(1000, 1000, 1000);
        CHECK_FAILS(syscall(SYS_setuid, 0), EPERM);
        CHECK_FAILS(syscall(SYS_setuid, 1001), EPERM);
        CHECK(syscall(SYS_setuid, 1000) == 0);
        CHECK_FAILS(syscall(SYS_setreuid, 0, -1), EPERM);
        CHECK_FAILS(setresuid_raw(-1, -1, 0), EPERM);
        CHECK(setresuid_raw(-1, -1, -1) == 0);
        const Capabilities now = capabilities();
        CHECK(now.effective == 0 && now.permitted == 0);
    });
    in_child([] { // the saved id brings the old one back
        CHECK(setresuid_raw(1000, 1001, 0) == 0);
        expect_users(1000, 1001, 0);
        CHECK(capabilities().effective == 0 && capabilities().permitted != 0);
        CHECK_FAILS(syscall(SYS_setuid, 1002), EPERM);
        CHECK(setresuid_raw(-1, 0, -1) == 0);
        expect_users(1000, 0, 0);
        CHECK(capabilities().effective == capabilities().permitted);
        CHECK(syscall(SYS_setuid, 1003) == 0);
        expect_users(1003, 1003, 1003);
    });
    in_child([] { // setreuid's saved id
        CHECK(syscall(SYS_setreuid, 1000, -1) == 0);
        expect_users(1000, 0, 0);
        CHECK(syscall(SYS_setreuid, -1, 1000) == 0);
        expect_users(1000, 1000, 0);
        CHECK(syscall(SYS_setreuid, 1000, 0) == 0);
        CHECK(syscall(SYS_setreuid, -1, 1001) == 0);
        expect_users(1000, 1001, 1001);
        CHECK(syscall(SYS_setreuid, 1001, 1000) == 0); // exchanged
        expect_users(1001, 1000, 1000);
        CHECK_FAILS(syscall(SYS_setreuid, 1002, -1), EPERM);
        CHECK_FAILS(syscall(SYS_setreuid, -1, 1002), EPERM);
    });
    CHECK_FAILS(syscall(SYS_setuid, -1), EINVAL);
    CHECK_FAILS(syscall(SYS_setgid, -1), EINVAL);
    CHECK_FAILS(syscall(SYS_getresuid, 16, 16, 16), EFAULT);
    CHECK_FAILS(syscall(SYS_getresgid, 16, 16, 16), EFAULT);
    in_child([] { // file system ids
        CHECK(setfsuid(1000) == 0);
        CHECK(setfsuid(static_cast<uid_t>(-1)) == 1000);
        CHECK((capabilities().effective & bit(CAP_DAC_OVERRIDE)) == 0);
        CHECK((capabilities().effective & bit(CAP_KILL)) != 0);
        CHECK(setfsuid(0) == 1000);
        CHECK((capabilities().effective & bit(CAP_DAC_OVERRIDE)) != 0);
        CHECK(setfsgid(1000) == 0 && setfsgid(static_cast<gid_t>(-1)) == 1000);
        CHECK(setresuid_raw(1000, 1001, 1002) == 0);
        CHECK(setfsuid(1005) == 1001); // not allowed, and not told
        CHECK(setfsuid(1002) == 1001 && setfsuid(1000) == 1002);
        CHECK(setfsgid(1005) == 1000 && setfsgid(static_cast<gid_t>(-1)) == 1000);
    });
}

void groups() {
    in_child([] {
        CHECK(syscall(SYS_setresgid, 10, 20, 30) == 0);
        expect_groups(10, 20, 30);
        CHECK(syscall(SYS_setregid, -1, 40) == 0);
        expect_groups(10, 40, 40);
        CHECK(syscall(SYS_setgid, 50) == 0);
        expect_groups(50, 50, 50);
        CHECK(syscall(SYS_setresgid, 10, 20, 30) == 0);
        CHECK(syscall(SYS_setuid, 1000) == 0);
        CHECK_FAILS(syscall(SYS_setgid, 20), EPERM);
        CHECK(syscall(SYS_setgid, 30) == 0);
        expect_groups(10, 30, 30);
        CHECK(syscall(SYS_setregid, 30, 10) == 0);
        expect_groups(30, 10, 10);
        CHECK_FAILS(syscall(SYS_setresgid, 11, -1, -1), EPERM);
        CHECK_FAILS(syscall(SYS_setregid, 11, -1), EPERM);
    });
    in_child([] {
        std::vector<gid_t> list = {5, 3, 9, 3};
        CHECK(syscall(SYS_setgroups, list.size(), list.data()) == 0);
        CHECK(syscall(SYS_getgroups, 0, nullptr) == 4);
        gid_t back[4] = {};
        CHECK(syscall(SYS_getgroups, 4, back) == 4);
        CHECK(back[0] == 3 && back[1] == 3 && back[2] == 5 && back[3] == 9); // sorted
        CHECK_FAILS(syscall(SYS_getgroups, 3, back), EINVAL);
        CHECK_FAILS(syscall(SYS_getgroups, -1, back), EINVAL);
        CHECK_FAILS(syscall(SYS_getgroups, 4, 16), EFAULT);
        CHECK_FAILS(syscall(SYS_setgroups, 65537, list.data()), EINVAL);
        CHECK_FAILS(syscall(SYS_setgroups, 2, 16), EFAULT);
        list.assign(65536, 77);
        CHECK(syscall(SYS_setgroups, list.size(), list.data()) == 0);
        CHECK(syscall(SYS_getgroups, 0, nullptr) == 65536);
        CHECK(syscall(SYS_setgroups, 0, nullptr) == 0);
        CHECK(syscall(SYS_getgroups, 0, nullptr) == 0);
        CHECK(syscall(SYS_setuid, 1000) == 0);
        CHECK_FAILS(syscall(SYS_setgroups, 0, nullptr), EPERM);
    });
}

void capability_sets() {
    __user_cap_header_struct header = {0, 0};
    __user_cap_data_struct data[2] = {};
    // An unknown version is answered with the known one.
    CHECK_FAILS(syscall(SYS_capget, &header, data), EINVAL);
    CHECK(header.version == _LINUX_CAPABILITY_VERSION_3);
    header.version = 0;
    CHECK(syscall(SYS_capget, &header, nullptr) == 0 &&
          header.version == _LINUX_CAPABILITY_VERSION_3);
    header = {_LINUX_CAPABILITY_VERSION_3, -1};
    CHECK_FAILS(syscall(SYS_capget, &header, data), EINVAL);
    header.pid = 0x3fffffff;
    CHECK_FAILS(syscall(SYS_capget, &header, data), ESRCH);
    header.pid = getppid();
    CHECK_FAILS(syscall(SYS_capset, &header, data), EPERM);
    header = {_LINUX_CAPABILITY_VERSION_1, 0};
    CHECK(syscall(SYS_capget, &header, data) == 0);
    CHECK_FAILS(syscall(SYS_capget, 16, data), EFAULT);
    in_child([] {
        const Capabilities all = capabilities();
        CHECK((all.effective & bit(CAP_SETUID)) != 0);
        // Down, and not up again.
        Capabilities less = {bit(CAP_KILL), bit(CAP_KILL) | bit(CAP_CHOWN) | bit(CAP_SETPCAP), 0};
        CHECK(set_capabilities(less) == 0);
        const Capabilities now = capabilities();
        CHECK(now.effective == less.effective && now.permitted == less.permitted &&
              now.inheritable == 0);
        CHECK_FAILS(set_capabilities(all), EPERM);
        less.effective = bit(CAP_SETUID);
        CHECK_FAILS(set_capabilities(less), EPERM); // effective beyond permitted
        less.effective = bit(CAP_CHOWN);
        CHECK(set_capabilities(less) == 0);
        less.inheritable = bit(CAP_SETUID); // needs CAP_SETPCAP beyond permitted
        CHECK_FAILS(set_capabilities(less), EPERM);
        less.inheritable = bit(CAP_CHOWN);
        CHECK(set_capabilities(less) == 0);
        CHECK_FAILS(syscall(SYS_setgroups, 0, nullptr), EPERM);
    });
    in_child([] { // the bounding set
        CHECK(prctl(PR_CAPBSET_READ, CAP_MKNOD) == 1);
        CHECK(prctl(PR_CAPBSET_DROP, CAP_MKNOD) == 0);
        CHECK(prctl(PR_CAPBSET_READ, CAP_MKNOD) == 0);
        CHECK_FAILS(prctl(PR_CAPBSET_READ, 200), EINVAL);
        CHECK_FAILS(prctl(PR_CAPBSET_DROP, 200), EINVAL);
        Capabilities now = capabilities();
        now.inheritable = bit(CAP_MKNOD); // not in the bounding set: may not be added
        CHECK_FAILS(set_capabilities(now), EPERM);
        now.effective = 0;
        now.inheritable = 0;
        CHECK(set_capabilities(now) == 0);
        CHECK_FAILS(prctl(PR_CAPBSET_DROP, CAP_CHOWN), EPERM);
    });
    in_child([] { // ambient capabilities survive setuid and exec
        Capabilities now = capabilities();
        now.inheritable = bit(CAP_KILL);
        CHECK_FAILS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0), EPERM);
        CHECK(set_capabilities(now) == 0);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0) == 1);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0) == 0);
        CHECK_FAILS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 99, 0, 0), EINVAL);
        CHECK_FAILS(prctl(PR_CAP_AMBIENT, 9, CAP_KILL, 0, 0), EINVAL);
        CHECK_FAILS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 1, 0, 0), EINVAL);
        in_child([] {
            // Dropped from the inheritable set: dropped here.
            Capabilities less = capabilities();
            less.inheritable = 0;
            CHECK(set_capabilities(less) == 0);
            CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0) == 0);
        });
        in_child([] {
            CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0 && prctl(PR_GET_KEEPCAPS) == 1);
            CHECK_FAILS(prctl(PR_SET_KEEPCAPS, 2), EINVAL);
            CHECK(setresuid_raw(1000, 1000, 1000) == 0);
            CHECK(capabilities().effective == 0 && capabilities().permitted != 0);
        });
        CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) == 0);
        CHECK(setresuid_raw(1000, 1000, 1000) == 0);
        CHECK(capabilities().effective != 0);
        CHECK(run([] { execl(self.c_str(), "x", "capabilities", nullptr); }) == 50);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == 0);
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0) == 0);
    });
}

void secure_bits() {
    in_child([] {
        CHECK(prctl(PR_GET_SECUREBITS) == 0);
        CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED) == 0);
        CHECK(prctl(PR_GET_SECUREBITS) == (SECBIT_NOROOT | SECBIT_NOROOT_LOCKED));
        CHECK_FAILS(prctl(PR_SET_SECUREBITS, 0), EPERM); // locked
        CHECK_FAILS(prctl(PR_SET_SECUREBITS, 0x1000), EPERM);
        // Without root's specialty exec leaves nothing.
        CHECK(run([] { execl(self.c_str(), "x", "none", nullptr); }) == 51);
    });
    in_child([] {
        CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NO_CAP_AMBIENT_RAISE) == 0);
        Capabilities now = capabilities();
        now.inheritable = bit(CAP_KILL);
        CHECK(set_capabilities(now) == 0);
        CHECK_FAILS(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), EPERM);
        CHECK(syscall(SYS_setuid, 1000) == 0);
        CHECK_FAILS(prctl(PR_SET_SECUREBITS, 0), EPERM);
    });
    in_child([] { // SECBIT_KEEP_CAPS is PR_SET_KEEPCAPS
        CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
        CHECK(prctl(PR_GET_SECUREBITS) == SECBIT_KEEP_CAPS);
        CHECK(prctl(PR_SET_SECUREBITS, SECBIT_KEEP_CAPS_LOCKED) == 0);
        CHECK(prctl(PR_GET_KEEPCAPS) == 0);
        CHECK_FAILS(prctl(PR_SET_KEEPCAPS, 1), EPERM);
    });
}

void set_id_programs() {
    char name[] = "/tmp/joey-setuid-XXXXXX";
    const int fd = mkstemp(name);
    CHECK(fd >= 0);
    const int original = open(self.c_str(), O_RDONLY);
    char block[65536];
    for (ssize_t got = 0; (got = read(original, block, sizeof block)) > 0;)
        CHECK(write(fd, block, static_cast<size_t>(got)) == got);
    close(original);
    CHECK(fchown(fd, 1234, 4321) == 0 && fchmod(fd, 06755) == 0);
    close(fd);
    const std::string path = name;
    // Some machines mount /tmp nosuid: then the ids stay.
    const int taken = run([&] { execl(path.c_str(), "x", "ids", nullptr); });
    CHECK(taken == 52 || taken == 53);
    if (taken == 52) {
        CHECK(run([&] {
                  CHECK(syscall(SYS_setresgid, 7, 7, 7) == 0 && setresuid_raw(7, 7, 7) == 0);
                  execl(path.c_str(), "x", "ids", nullptr);
              }) == 52);
        // no_new_privs.
        CHECK(run([&] {
                  CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
                  CHECK_FAILS(prctl(PR_GET_NO_NEW_PRIVS, 1, 0, 0, 0), EINVAL);
                  CHECK_FAILS(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
                  CHECK_FAILS(prctl(PR_SET_NO_NEW_PRIVS, 1, 1, 0, 0), EINVAL);
                  CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
                  CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
                  execl(path.c_str(), "x", "ids", nullptr);
              }) == 53);
        // Whose working directory and umask another process has and may change: no ids.
        const auto shared = [&] {
            const auto child =
                static_cast<pid_t>(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0));
            CHECK(child >= 0);
            if (child == 0) {
                execl(path.c_str(), "x", "ids", nullptr);
                _exit(1);
            }
            int status = 0;
            CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
            _exit(WEXITSTATUS(status));
        };
        CHECK(run(shared) == 52); // root could set them itself
        CHECK(run([&] {
                  CHECK(syscall(SYS_setresgid, 7, 7, 7) == 0 && setresuid_raw(7, 7, 7) == 0);
                  shared();
              }) == 53);
    }
    CHECK(unlink(name) == 0);
}

uid_t owner_of(const std::string& name) {
    struct stat status = {};
    CHECK(lstat(("/proc/self/" + name).c_str(), &status) == 0);
    return status.st_uid;
}

// A process that has changed its ids is not dumpable: its files in /proc are root's, but for what
// anybody may see, and it may still look at its own descriptors.
void files_of_the_undumpable() {
    in_child([] {
        const int opened = open("/proc/self/maps", O_RDONLY);
        CHECK(opened >= 0);
        CHECK(syscall(SYS_setresgid, 1000, 1000, 1000) == 0 &&
              setresuid_raw(1000, 1000, 1000) == 0);
        CHECK(prctl(PR_GET_DUMPABLE) == 0);
        for (const char* name : {"", "task", "attr"})
            CHECK(owner_of(name) == 1000);
        for (const char* name : {"fd", "fd/0", "ns", "status", "mem", "comm", "map_files"})
            CHECK(owner_of(name) == 0);
        for (const char* name : {"fd", "map_files", "fdinfo", "fdinfo/0", "status", "ns/net"})
            CHECK(close(open((std::string("/proc/self/") + name).c_str(), O_RDONLY)) == 0);
        for (const char* name : {"mem", "environ", "auxv", "ns"})
            CHECK_FAILS(open((std::string("/proc/self/") + name).c_str(), O_RDONLY), EACCES);
        CHECK_FAILS(open("/proc/self/comm", O_WRONLY), EACCES);
        // To another process of the same user it is closed.
        const std::string parent = "/proc/" + std::to_string(getpid());
        in_child([&] {
            CHECK_FAILS(open((parent + "/fd").c_str(), O_RDONLY), EACCES);
            CHECK_FAILS(open((parent + "/fd/0").c_str(), O_RDONLY), EACCES);
            // Though their modes let everybody in; and what is open stays so.
            for (const char* name : {"/maps", "/smaps", "/smaps_rollup"})
                CHECK_FAILS(open((parent + name).c_str(), O_RDONLY), EACCES);
            char byte = 0;
            CHECK(read(opened, &byte, 1) == 1);
            CHECK_FAILS(ptrace(PTRACE_ATTACH, getppid(), nullptr, nullptr), EPERM);
        });
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        for (const char* name : {"fd", "status", "mem", "comm"})
            CHECK(owner_of(name) == 1000);
        const int fd = open("/proc/self/comm", O_WRONLY);
        CHECK(fd >= 0 && write(fd, "renamed", 7) == 7);
        close(fd);
    });
    in_child([] { CHECK(setfsuid(1000) == 0 && prctl(PR_GET_DUMPABLE) == 0); });
}

// A program that may be executed and not read is not to be read in memory either.
void unreadable_programs() {
    char name[] = "/tmp/joey-unreadable-XXXXXX";
    const int fd = mkstemp(name);
    const int from = open(self.c_str(), O_RDONLY);
    CHECK(fd >= 0 && from >= 0);
    static char piece[65536];
    for (ssize_t got = 0; (got = read(from, piece, sizeof piece)) > 0;)
        CHECK(write(fd, piece, static_cast<size_t>(got)) == got);
    close(from);
    close(fd);
    const auto dumpable = [&](mode_t mode, int user) {
        CHECK(chmod(name, mode) == 0);
        return run([&] {
            CHECK(syscall(SYS_setresgid, user, user, user) == 0 &&
                  setresuid_raw(user, user, user) == 0);
            execl(name, "x", "dumpable", nullptr);
            _exit(1);
        });
    };
    CHECK(dumpable(0755, 1000) == 57);
    CHECK(dumpable(0711, 1000) == 56);
    CHECK(dumpable(0711, 0) == 57); // root can read it
    CHECK(unlink(name) == 0);
}

void signal_permissions() {
    const pid_t other = fork();
    CHECK(other >= 0);
    if (other == 0) {
        for (;;)
            pause();
    }
    in_child([other] {
        CHECK(setresuid_raw(1000, 1000, 1000) == 0);
        CHECK_FAILS(kill(other, SIGTERM), EPERM);
        CHECK_FAILS(kill(other, 0), EPERM);
        CHECK(kill(other, SIGCONT) == 0); // of the same session
        CHECK_FAILS(syscall(SYS_tgkill, other, other, SIGTERM), EPERM);
        sigval value = {};
        CHECK_FAILS(sigqueue(other, SIGTERM, value), EPERM);
        const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, other, 0));
        CHECK(pidfd >= 0);
        CHECK_FAILS(syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, nullptr, 0), EPERM);
        CHECK_FAILS(syscall(SYS_pidfd_getfd, pidfd, 0, 0), EPERM);
    });
    CHECK(kill(other, SIGKILL) == 0 && waitpid(other, nullptr, 0) == other);
}

void controls() {
    char name[17] = {};
    CHECK(prctl(PR_SET_NAME, "a name that is too long") == 0);
    CHECK(prctl(PR_GET_NAME, name) == 0 && std::strcmp(name, "a name that is ") == 0);
    CHECK_FAILS(prctl(PR_SET_NAME, 16), EFAULT);
    CHECK_FAILS(prctl(PR_GET_NAME, 16), EFAULT);
    in_child([] {
        CHECK(prctl(PR_GET_DUMPABLE) == 1);
        CHECK(prctl(PR_SET_DUMPABLE, 0) == 0 && prctl(PR_GET_DUMPABLE) == 0);
        CHECK_FAILS(prctl(PR_SET_DUMPABLE, 2), EINVAL);
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0 && prctl(PR_GET_DUMPABLE) == 1);
    });
    // Who becomes somebody else is not dumpable, and does not end with its parent.
    for (const bool of_files : {false, true})
        in_child([of_files] {
            int asked = 0;
            CHECK(prctl(PR_SET_PDEATHSIG, SIGTERM) == 0);
            CHECK(prctl(PR_GET_PDEATHSIG, &asked) == 0 && asked == SIGTERM);
            if (of_files)
                (void)setfsuid(1000);
            else
                CHECK(setresuid_raw(-1, 1000, -1) == 0);
            CHECK(prctl(PR_GET_DUMPABLE) == 0);
            CHECK(prctl(PR_GET_PDEATHSIG, &asked) == 0 && asked == 0);
        });
    CHECK(prctl(PR_GET_TIMERSLACK) == 50'000);
    in_child([] {
        CHECK(prctl(PR_SET_TIMERSLACK, 1) == 0 && prctl(PR_GET_TIMERSLACK) == 1);
        // The child's default is the slack of its creator.
        in_child([] {
            CHECK(prctl(PR_SET_TIMERSLACK, 99) == 0 && prctl(PR_SET_TIMERSLACK, 0) == 0);
            CHECK(prctl(PR_GET_TIMERSLACK) == 1);
        });
    });
    int value = 0;
    CHECK(prctl(PR_GET_TSC, &value) == 0 && value == PR_TSC_ENABLE);
    CHECK(prctl(PR_GET_TIMING) == PR_TIMING_STATISTICAL);
    CHECK_FAILS(prctl(PR_SET_TIMING, PR_TIMING_TIMESTAMP), EINVAL);
    CHECK_FAILS(prctl(9999), EINVAL);
    CHECK_FAILS(prctl(PR_GET_UNALIGN, &value), EINVAL);
    CHECK_FAILS(prctl(PR_GET_ENDIAN, &value), EINVAL);
    in_child([] {
        CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0);
        CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
        CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
        CHECK_FAILS(prctl(PR_GET_THP_DISABLE, 1, 0, 0, 0), EINVAL);
    });
    CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) == PR_MCE_KILL_DEFAULT);
    CHECK_FAILS(prctl(PR_MCE_KILL_GET, 1, 0, 0, 0), EINVAL);
    in_child([] { CHECK(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 0 || errno == EPERM); });
    // personality(2) is kept, inherited, and reported in the old value's place.
    const int before = personality(0xffffffff);
    CHECK(before >= 0);
    in_child([before] {
        CHECK(personality(ADDR_NO_RANDOMIZE | static_cast<unsigned>(before)) == before);
        CHECK((personality(0xffffffff) & ADDR_NO_RANDOMIZE) != 0);
        in_child([] { CHECK((personality(0xffffffff) & ADDR_NO_RANDOMIZE) != 0); });
    });
}

// Root's program file would give it all of the bounding set; no-new-privileges keeps that from it.
void kept_from_gaining() {
    for (const bool kept : {false, true}) {
        CHECK(run([kept] {
                  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
                  __user_cap_data_struct data[2] = {};
                  data[0].effective = data[0].permitted = 1U << CAP_CHOWN;
                  CHECK(syscall(SYS_capset, &header, data) == 0);
                  if (kept)
                      CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
                  execl(self.c_str(), "x", "gained", nullptr);
              }) == (kept ? 55 : 54));
    }
}

// Of two processes with the same ids the one with fewer capabilities does not get at the memory and
// the descriptors of the other: it would have them by that.
void weaker_processes() {
    static volatile int word = 1;
    const pid_t strong = fork();
    CHECK(strong >= 0);
    if (strong == 0)
        for (;;)
            pause();
    const auto outcome = [&](bool write) {
        int value = 2;
        const iovec own = {&value, sizeof value};
        const iovec other = {const_cast<int*>(&word), sizeof word};
        errno = 0;
        return write ? process_vm_writev(strong, &own, 1, &other, 1, 0)
                     : process_vm_readv(strong, &own, 1, &other, 1, 0);
    };
    const auto open_file = [&](const char* name) {
        return open(("/proc/" + std::to_string(strong) + name).c_str(), O_RDONLY | O_CLOEXEC);
    };
    CHECK(outcome(false) == sizeof(int) && outcome(true) == sizeof(int));
    in_child([&] {
        const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, strong, 0));
        CHECK(pidfd >= 0 && open_file("/mem") >= 0);
        __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        __user_cap_data_struct none[2] = {};
        CHECK(syscall(SYS_capset, &header, none) == 0);
        CHECK_FAILS(outcome(false), EPERM);
        CHECK_FAILS(outcome(true), EPERM);
        CHECK_FAILS(open_file("/mem"), EACCES);
        CHECK_FAILS(syscall(SYS_pidfd_getfd, pidfd, 0, 0), EPERM);
        constexpr int kcmp_vm = 1;
        CHECK_FAILS(syscall(SYS_kcmp, strong, getpid(), kcmp_vm, 0, 0), EPERM);
    });
    CHECK(kill(strong, SIGKILL) == 0 && waitpid(strong, nullptr, 0) == strong);
}

void old_machine() {
    in_child([] {
        CHECK(personality(PER_LINUX32) >= 0);
        utsname names = {};
        CHECK(uname(&names) == 0);
        CHECK(std::string(names.machine) == "i686");
    });
}

int called(const std::string& word) {
    if (word == "gained")
        return capabilities().permitted == 1UL << CAP_CHOWN ? 55 : 54;
    if (word == "capabilities") {
        const Capabilities now = capabilities();
        return now.effective == bit(CAP_KILL) && now.permitted == bit(CAP_KILL) ? 50 : 1;
    }
    if (word == "none")
        return capabilities().effective == 0 && capabilities().permitted == 0 ? 51 : 1;
    if (word == "dumpable") {
        const int dumpable = prctl(PR_GET_DUMPABLE);
        return owner_of("status") == (dumpable == 1 ? geteuid() : 0) ? 56 + dumpable : 1;
    }
    if (word == "ids")
        return geteuid() == 1234 && getegid() == 4321           ? 52
               : geteuid() == getuid() && getegid() == getgid() ? 53
                                                                : 1;
    return 99;
}

// Queued signals count against the real user, who changes while they are sent: none gets lost.
void signals_while_ids_change() {
    in_child([] {
        constexpr int many = 400;
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGRTMIN);
        CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
        const pid_t sender = fork();
        CHECK(sender >= 0);
        if (sender == 0) {
            for (int i = 0; i < many; i++)
                CHECK(sigqueue(getppid(), SIGRTMIN, {.sival_int = i}) == 0);
            _exit(0);
        }
        int status = -1;
        for (int user = 2001; waitpid(sender, &status, WNOHANG) == 0; user ^= 3)
            CHECK(setresuid_raw(user, 0, 0) == 0);
        CHECK(status == 0);
        constexpr timespec no_time = {};
        siginfo_t info = {};
        for (int i = 0; i < many; i++)
            CHECK(sigtimedwait(&set, &info, &no_time) == SIGRTMIN && info.si_value.sival_int == i);
        CHECK_FAILS(sigtimedwait(&set, &info, &no_time), EAGAIN);
    });
}

} // namespace

int main(int argc, char** argv) {
    char path[4096] = {};
    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    self = path;
    if (argc > 1)
        return called(argv[1]);
    if (getuid() != 0)
        return 0; // all of this is about what root may give up
    users();
    groups();
    capability_sets();
    secure_bits();
    set_id_programs();
    files_of_the_undumpable();
    unreadable_programs();
    signal_permissions();
    controls();
    kept_from_gaining();
    weaker_processes();
    old_machine();
    signals_while_ids_change();
    return 0;
}
