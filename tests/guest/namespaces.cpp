// Namespaces: clone, clone3, unshare, setns, /proc/PID/ns, ioctl_ns(2), id maps. namespaces(7).
// As root; each case runs in children of its own, so that nothing is left behind.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string>
#include <time.h>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/nsfs.h>
#include <linux/sched.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/guest/file_support.hpp"

namespace {

// 0 or an errno.
int write_file(const std::string& name, const std::string& text) {
    const int fd = open(name.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return errno;
    const ssize_t done = write(fd, text.data(), text.size());
    const int error = done < 0 ? errno : 0;
    close(fd);
    return error;
}

std::string link_of(const std::string& name) {
    char text[128] = {};
    CHECK(readlink(name.c_str(), text, sizeof text - 1) > 0);
    return text;
}

int open_ns(const char* kind) {
    const int fd = open((std::string("/proc/self/ns/") + kind).c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

void map_root() {
    CHECK(write_file("/proc/self/setgroups", "deny") == 0);
    CHECK(write_file("/proc/self/uid_map", "0 0 1") == 0);
    CHECK(write_file("/proc/self/gid_map", "0 0 1") == 0);
}

void links_and_ioctls() {
    constexpr struct {
        const char* name;
        int flag;
    } kinds[] = {{"cgroup", CLONE_NEWCGROUP}, {"ipc", CLONE_NEWIPC}, {"mnt", CLONE_NEWNS},
                 {"net", CLONE_NEWNET},       {"pid", CLONE_NEWPID}, {"time", CLONE_NEWTIME},
                 {"user", CLONE_NEWUSER},     {"uts", CLONE_NEWUTS}};
    for (const auto& kind : kinds) {
        const std::string file = std::string("/proc/self/ns/") + kind.name;
        struct stat status {};
        CHECK(stat(file.c_str(), &status) == 0);
        CHECK(S_ISREG(status.st_mode));
        CHECK(link_of(file) == std::string(kind.name) + ":[" + std::to_string(status.st_ino) + "]");
        const int fd = open_ns(kind.name);
        CHECK(ioctl(fd, NS_GET_NSTYPE) == kind.flag);
        CHECK_FAILS(ioctl(fd, 0xb7ff), ENOTTY);
        CHECK_FAILS(setns(fd, kind.flag == CLONE_NEWUTS ? CLONE_NEWIPC : CLONE_NEWUTS), EINVAL);
        close(fd);
    }
    CHECK(link_of("/proc/self/ns/pid_for_children") == link_of("/proc/self/ns/pid"));
    CHECK(link_of("/proc/self/ns/time_for_children") == link_of("/proc/self/ns/time"));
    const int uts = open_ns("uts");
    CHECK_FAILS(ioctl(uts, NS_GET_PARENT), EINVAL);
    const int owner = ioctl(uts, NS_GET_USERNS);
    CHECK(owner >= 0);
    CHECK(ioctl(owner, NS_GET_NSTYPE) == CLONE_NEWUSER);
    unsigned uid = 1;
    CHECK(ioctl(owner, NS_GET_OWNER_UID, &uid) == 0);
    CHECK_FAILS(ioctl(uts, NS_GET_OWNER_UID, &uid), EINVAL);
    CHECK(fcntl(owner, F_GETFD) == FD_CLOEXEC);
    in_child([] {
        // What lies above the caller's own user namespace is out of its sight.
        CHECK(unshare(CLONE_NEWUSER) == 0);
        const int own = open_ns("user");
        CHECK_FAILS(ioctl(own, NS_GET_PARENT), EPERM);
        const int outer = open_ns("uts");
        CHECK_FAILS(ioctl(outer, NS_GET_USERNS), EPERM);
        CHECK(unshare(CLONE_NEWUTS) == 0);
        const int inner = open_ns("uts");
        const int again = ioctl(inner, NS_GET_USERNS);
        CHECK(again >= 0);
        struct stat a {
        }, b{};
        CHECK(fstat(again, &a) == 0 && fstat(own, &b) == 0);
        CHECK(a.st_ino == b.st_ino && a.st_dev == b.st_dev);
    });
}

void wrong_arguments() {
    CHECK_FAILS(unshare(0x10), EINVAL);
    CHECK_FAILS(setns(-1, 0), EBADF);
    CHECK_FAILS(setns(0x7fffffff, 0), EBADF);
    const int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK_FAILS(setns(null, 0), EINVAL);
    close(null);
    const int uts = open_ns("uts");
    CHECK_FAILS(setns(uts, 1), EINVAL);
    close(uts);
    const int self = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
    CHECK(self >= 0);
    CHECK_FAILS(setns(self, 0), EINVAL);
    close(self);
    clone_args args{};
    args.exit_signal = SIGCHLD;
    args.flags = CLONE_NEWUSER | CLONE_FS;
    CHECK_FAILS(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    args.flags = CLONE_NEWNS | CLONE_FS;
    CHECK_FAILS(syscall(SYS_clone3, &args, sizeof args), EINVAL);
    in_child([] {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(unshare(CLONE_NEWUTS), EPERM);
        CHECK_FAILS(unshare(CLONE_NEWPID), EPERM);
        const int own = open_ns("uts");
        CHECK_FAILS(setns(own, CLONE_NEWUTS), EPERM);
    });
}

void uts() {
    const int outer = open_ns("uts");
    utsname before{};
    CHECK(uname(&before) == 0);
    in_child([&] {
        CHECK(unshare(CLONE_NEWUTS) == 0);
        utsname names{};
        CHECK(uname(&names) == 0 && std::strcmp(names.nodename, before.nodename) == 0);
        CHECK(sethostname("pouch", 5) == 0);
        CHECK(setdomainname("bush", 4) == 0);
        CHECK(uname(&names) == 0);
        CHECK(std::strcmp(names.nodename, "pouch") == 0);
        CHECK(contents_of("/proc/sys/kernel/hostname") == "pouch\n");
        const int inner = open_ns("uts");
        CHECK(setns(outer, CLONE_NEWUTS) == 0);
        CHECK(uname(&names) == 0 && std::strcmp(names.nodename, before.nodename) == 0);
        CHECK(setns(inner, 0) == 0);
        CHECK(uname(&names) == 0 && std::strcmp(names.nodename, "pouch") == 0);
    });
    utsname after{};
    CHECK(uname(&after) == 0 && std::strcmp(after.nodename, before.nodename) == 0);
    close(outer);
}

void ipc() {
    in_child([] {
        CHECK(unshare(CLONE_NEWIPC) == 0);
        const int key = 0x4a6f6579;
        const int queue = msgget(key, IPC_CREAT | IPC_EXCL | 0600);
        CHECK(queue >= 0);
        const int memory = shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600);
        CHECK(memory >= 0);
        CHECK(msgget(key, 0) == queue);
        in_child([key] {
            CHECK(unshare(CLONE_NEWIPC) == 0);
            CHECK_FAILS(msgget(key, 0), ENOENT);
            CHECK_FAILS(shmget(key, 0, 0), ENOENT);
            CHECK(msgget(key, IPC_CREAT | IPC_EXCL | 0600) >= 0);
        });
        CHECK(msgget(key, 0) == queue);
    }); // all of it goes with the namespace
}

void abstract_sockets() {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path, "\0joey-namespaces", 16);
    const socklen_t length = sizeof name.sun_family + 16;
    in_child([&] {
        CHECK(unshare(CLONE_NEWNET) == 0);
        const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK(bind(listener, reinterpret_cast<sockaddr*>(&name), length) == 0);
        CHECK(listen(listener, 1) == 0);
        const int same = socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK_FAILS(bind(same, reinterpret_cast<sockaddr*>(&name), length), EADDRINUSE);
        CHECK(connect(same, reinterpret_cast<sockaddr*>(&name), length) == 0);
        in_child([&] {
            CHECK(unshare(CLONE_NEWNET) == 0);
            const int other = socket(AF_UNIX, SOCK_STREAM, 0);
            CHECK_FAILS(connect(other, reinterpret_cast<sockaddr*>(&name), length), ECONNREFUSED);
            CHECK(bind(other, reinterpret_cast<sockaddr*>(&name), length) == 0);
        });
    });
}

// --- users ---------------------------------------------------------------------------------------

bool effective(unsigned capability) {
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    CHECK(syscall(SYS_capget, &head, data) == 0);
    return (data[capability / 32].effective >> capability % 32 & 1) != 0;
}

void give_up(unsigned capability) {
    __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    CHECK(syscall(SYS_capget, &head, data) == 0);
    data[capability / 32].effective &= ~(1u << capability % 32);
    CHECK(syscall(SYS_capset, &head, data) == 0);
}

// Since Linux 5.12 only who may give files capabilities maps the parent's root, which could then
// give them some that count in the parent.
void maps_of_root() {
    in_child([] {
        give_up(CAP_SETFCAP);
        in_child([] {
            CHECK(unshare(CLONE_NEWUSER) == 0);
            CHECK(effective(CAP_SETFCAP)); // in there
            CHECK(write_file("/proc/self/uid_map", "0 0 1") == EPERM);
            CHECK(write_file("/proc/self/uid_map", "5 0 1") == EPERM);
            CHECK(write_file("/proc/self/setgroups", "deny") == 0);
            CHECK(write_file("/proc/self/gid_map", "0 0 1") == 0); // groups have none
        });
        // Another one's map: the right of who opened the file counts.
        int ready[2], end[2];
        CHECK(pipe(ready) == 0 && pipe(end) == 0);
        const pid_t pid = fork();
        if (pid == 0) {
            char byte = 0;
            close(end[1]);
            CHECK(unshare(CLONE_NEWUSER) == 0 && write(ready[1], "r", 1) == 1);
            _exit(read(end[0], &byte, 1) == 0 ? 0 : 1);
        }
        char byte = 0;
        CHECK(read(ready[0], &byte, 1) == 1);
        const std::string map = "/proc/" + std::to_string(pid) + "/uid_map";
        CHECK(write_file(map, "0 1000 5\n7 0 1") == EPERM);
        CHECK(write_file(map, "0 0 10") == EPERM);
        CHECK(write_file(map, "0 1000 5") == 0);
        close(end[1]);
        int status = -1;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    });
}

void user_maps() {
    in_child([] {
        CHECK(setresgid(1000, 1000, 1000) == 0);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        CHECK(!effective(CAP_SYS_ADMIN));
        CHECK(unshare(CLONE_NEWUSER) == 0);
        // Not mapped: everybody is nobody, with all capabilities.
        CHECK(getuid() == 65534 && getgid() == 65534);
        CHECK(effective(CAP_SYS_ADMIN));
        CHECK(contents_of("/proc/self/uid_map").empty());
        CHECK_FAILS(setuid(0), EINVAL);
        CHECK(write_file("/proc/self/uid_map", "0 1001 1\n") == EPERM); // another's id
        CHECK(write_file("/proc/self/uid_map", "0 1000 2\n") == EPERM);
        CHECK(write_file("/proc/self/uid_map", "0 1000\n") == EINVAL);
        CHECK(write_file("/proc/self/uid_map", "0 1000 0\n") == EINVAL);
        CHECK(write_file("/proc/self/uid_map", "0 1000 1\n0 1000 1\n") == EINVAL);
        CHECK(write_file("/proc/self/uid_map", "0 1000 1\n") == 0);
        CHECK(write_file("/proc/self/uid_map", "0 1000 1\n") == EPERM); // once
        CHECK(write_file("/proc/self/gid_map", "0 1000 1\n") == EPERM); // setgroups first
        CHECK(contents_of("/proc/self/setgroups") == "allow\n");
        CHECK(write_file("/proc/self/setgroups", "perhaps") == EINVAL);
        CHECK(write_file("/proc/self/setgroups", "deny") == 0);
        CHECK(contents_of("/proc/self/setgroups") == "deny\n");
        CHECK(write_file("/proc/self/setgroups", "allow") == EPERM);
        CHECK(write_file("/proc/self/gid_map", "0 1000 1\n") == 0);
        CHECK(contents_of("/proc/self/uid_map") == "         0       1000          1\n");
        CHECK(getuid() == 0 && geteuid() == 0 && getgid() == 0);
        const gid_t group = 0;
        CHECK_FAILS(syscall(SYS_setgroups, 1, &group), EPERM);
        CHECK_FAILS(setuid(1), EINVAL);
        struct stat status {};
        CHECK(stat("/", &status) == 0);
        CHECK(status.st_uid == 65534 && status.st_gid == 65534);
        // Power over one's own namespaces only.
        CHECK_FAILS(sethostname("no", 2), EPERM);
        CHECK_FAILS(mount("none", "/", "tmpfs", 0, ""), EPERM);
        CHECK_FAILS(chown("/", 0, 0), EPERM);
        CHECK(unshare(CLONE_NEWUTS | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET) == 0);
        CHECK(sethostname("mine", 4) == 0);
        // Children of a namespace; capabilities come back with exec for its root only.
        in_child([] {
            CHECK(unshare(CLONE_NEWUSER) == 0);
            CHECK(write_file("/proc/self/uid_map", "5 0 1\n") == 0);
            CHECK(getuid() == 5);
            CHECK(contents_of("/proc/self/uid_map") == "         5          0          1\n");
        });
    });
}

// Runs `inside` in a user namespace whose maps its parent writes; `meanwhile` in the parent, when
// they are written, with the child's directory of /proc.
template <typename F, typename G>
void mapped_by_parent(const char* uids, const char* gids, F&& inside, G&& meanwhile) {
    int ready[2], mapped[2];
    CHECK(pipe(ready) == 0 && pipe(mapped) == 0);
    char byte = 0;
    const pid_t child = start([&] {
        CHECK(unshare(CLONE_NEWUSER) == 0);
        CHECK(write(ready[1], "x", 1) == 1);
        CHECK(read(mapped[0], &byte, 1) == 1);
        inside();
    });
    CHECK(read(ready[0], &byte, 1) == 1);
    const std::string base = "/proc/" + std::to_string(child);
    CHECK(write_file(base + "/uid_map", uids) == 0);
    CHECK(write_file(base + "/gid_map", gids) == 0);
    meanwhile(base);
    CHECK(write(mapped[1], "x", 1) == 1);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
    for (const int fd : {ready[0], ready[1], mapped[0], mapped[1]})
        close(fd);
}

void map_by_parent() {
    mapped_by_parent(
        "0 0 1\n1 100001 9\n", "0 0 1\n1 100001 9\n",
        [] {
            CHECK(getuid() == 0);
            CHECK(setresgid(5, 5, 5) == 0);
            CHECK(setresuid(5, 5, 5) == 0);
            CHECK(getuid() == 5 && getgid() == 5);
            CHECK_FAILS(setuid(10), EINVAL); // not in the map
            CHECK_FAILS(setuid(6), EPERM);
        },
        [](const std::string& base) {
            CHECK(contents_of(base + "/uid_map") ==
                  "         0          0          1\n         1     100001          9\n");
        });
}

// Root of a user namespace is it over the processes there, whatever their ids; but it gives nobody
// more than the whole system's root allows.
void power_over_members() {
    const auto inside = [] {
        CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0); // the mapped one
        int ready[2];
        CHECK(pipe(ready) == 0);
        const pid_t other = start([&] {
            CHECK(setresgid(5, 5, 5) == 0 && setresuid(5, 5, 5) == 0);
            CHECK(write(ready[1], "y", 1) == 1);
            for (;;)
                pause();
        });
        char byte = 0;
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(setpriority(PRIO_PROCESS, static_cast<id_t>(other), 5) == 0);
        CHECK_FAILS(setpriority(PRIO_PROCESS, static_cast<id_t>(other), 4), EACCES);
        cpu_set_t cpus;
        CHECK(sched_getaffinity(other, sizeof cpus, &cpus) == 0);
        CHECK(sched_setaffinity(other, sizeof cpus, &cpus) == 0);
        const sched_param none = {};
        CHECK_FAILS(sched_setscheduler(other, SCHED_BATCH, &none), EPERM);
        rlimit limit = {};
        CHECK(prlimit(other, RLIMIT_NOFILE, nullptr, &limit) == 0);
        limit.rlim_cur = limit.rlim_max = 64;
        CHECK(prlimit(other, RLIMIT_NOFILE, &limit, nullptr) == 0);
        limit.rlim_max = 65;
        CHECK_FAILS(prlimit(other, RLIMIT_NOFILE, &limit, nullptr), EPERM);
        CHECK_FAILS(setpriority(PRIO_PROCESS, static_cast<id_t>(getppid()), 5), EPERM);
        CHECK_FAILS(prlimit(getppid(), RLIMIT_NOFILE, nullptr, &limit), EPERM);
        CHECK(kill(other, SIGKILL) == 0 && waitpid(other, nullptr, 0) == other);
    };
    mapped_by_parent("0 100000 10\n", "0 100000 10\n", inside, [](const std::string&) {});
}

// Whoever comes in from outside and is not dumpable brings what its members must not get at, until
// it executes a program of theirs: container runtimes rely on that.
void entry_behind_closed_doors() {
    int told[2], ready[2];
    CHECK(pipe(told) == 0 && pipe(ready) == 0);
    static volatile int word = 7;
    pid_t guest = -1;
    const auto inside = [&] {
        CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
        CHECK(read(told[0], &guest, sizeof guest) == sizeof guest);
        int value = 0;
        const iovec own = {&value, sizeof value};
        const iovec other = {const_cast<int*>(&word), sizeof word};
        CHECK(effective(CAP_SYS_PTRACE));
        CHECK_FAILS(process_vm_readv(guest, &own, 1, &other, 1, 0), EPERM);
        CHECK_FAILS(ptrace(PTRACE_SEIZE, guest, nullptr, nullptr), EPERM);
        CHECK_FAILS(open(("/proc/" + std::to_string(guest) + "/mem").c_str(), O_RDONLY), EACCES);
    };
    const auto enter = [&](const std::string& base) {
        guest = start([&] {
            const int space = open((base + "/ns/user").c_str(), O_RDONLY);
            CHECK(space >= 0 && setns(space, CLONE_NEWUSER) == 0);
            CHECK(setresgid(0, 0, 0) == 0 && setresuid(0, 0, 0) == 0);
            CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
            CHECK(write(ready[1], "y", 1) == 1);
            for (;;)
                pause();
        });
        char byte = 0;
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(write(told[1], &guest, sizeof guest) == sizeof guest);
    };
    mapped_by_parent("0 100000 10\n", "0 100000 10\n", inside, enter);
    CHECK(kill(guest, SIGKILL) == 0 && waitpid(guest, nullptr, 0) == guest);
    for (const int fd : {told[0], told[1], ready[0], ready[1]})
        close(fd);
}

// A namespace with the ids 0 and 2 cannot give away 0 to 2, though both ends are its own.
void map_over_a_gap() {
    const auto inside = [] {
        int ready[2], mapped[2];
        CHECK(pipe(ready) == 0 && pipe(mapped) == 0);
        char byte = 0;
        const pid_t inner = start([&] {
            CHECK(unshare(CLONE_NEWUSER) == 0);
            CHECK(write(ready[1], "y", 1) == 1);
            CHECK(read(mapped[0], &byte, 1) == 1);
        });
        CHECK(read(ready[0], &byte, 1) == 1);
        const std::string map = "/proc/" + std::to_string(inner) + "/uid_map";
        CHECK(write_file(map, "0 0 3\n") == EPERM);
        CHECK(write_file(map, "0 0 2\n") == EPERM);
        CHECK(write_file(map, "0 0 1\n2 2 1\n") == 0);
        CHECK(write(mapped[1], "x", 1) == 1);
        int status = 0;
        CHECK(waitpid(inner, &status, 0) == inner && status == 0);
    };
    mapped_by_parent("0 0 1\n2 2 1\n", "0 0 1\n", inside, [](const std::string&) {});
}

void user_threads_and_entry() {
    in_child([] {
        pthread_t thread;
        int gate[2];
        CHECK(pipe(gate) == 0);
        CHECK(pthread_create(
                  &thread, nullptr,
                  [](void* fd) -> void* {
                      char byte;
                      CHECK(read(*static_cast<int*>(fd), &byte, 1) == 0);
                      return nullptr;
                  },
                  &gate[0]) == 0);
        CHECK_FAILS(unshare(CLONE_NEWUSER), EINVAL);
        CHECK_FAILS(unshare(CLONE_THREAD), EINVAL);
        close(gate[1]);
        CHECK(pthread_join(thread, nullptr) == 0);
        // A thread that has ended may need a moment to be gone.
        while (unshare(CLONE_NEWUSER) != 0)
            CHECK(errno == EINVAL);
        const int own = open_ns("user");
        CHECK_FAILS(setns(own, CLONE_NEWUSER), EINVAL); // where it is already
    });
}

// To be looked at does not make a process share its working directory.
void entry_while_watched() {
    in_child([] {
        const std::string own = "/proc/" + std::to_string(getpid()) + "/cwd";
        const pid_t watcher = start([&] {
            char text[256];
            while (readlink(own.c_str(), text, sizeof text) > 0) {
            }
        });
        const int space = open_ns("mnt");
        for (int round = 0; round < 20'000; round++)
            CHECK(setns(space, CLONE_NEWNS) == 0);
        CHECK(kill(watcher, SIGKILL) == 0 && waitpid(watcher, nullptr, 0) == watcher);
    });
}

void user_limit() {
    in_child([] {
        CHECK(unshare(CLONE_NEWUSER) == 0);
        map_root();
        if (write_file("/proc/sys/user/max_uts_namespaces", "1") == ENOENT)
            return;
        CHECK(unshare(CLONE_NEWUTS) == 0);
        const int held = open_ns("uts");
        CHECK_FAILS(unshare(CLONE_NEWUTS), ENOSPC);
        close(held);
    });
    // Whoever made the namespace sets its limits, whatever the number he has in it: so sandboxes
    // keep programs from making more of them.
    in_child([] {
        const std::string name = "/proc/sys/user/max_user_namespaces";
        CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        CHECK(write_file(name, "0") == EACCES);
        CHECK(unshare(CLONE_NEWUSER) == 0);
        CHECK(write_file("/proc/self/uid_map", "5 1000 1") == 0);
        CHECK(write_file(name, "0") == 0 && contents_of(name) == "0\n");
        CHECK_FAILS(unshare(CLONE_NEWUSER), ENOSPC);
    });
}

// --- processes -----------------------------------------------------------------------------------

int exit_of(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

void pids() {
    in_child([] {
        CHECK(unshare(CLONE_NEWPID) == 0);
        CHECK(getpid() != 1);
        char text[64];
        CHECK_FAILS(readlink("/proc/self/ns/pid_for_children", text, sizeof text), ENOENT);
        CHECK_FAILS(unshare(CLONE_NEWPID), EINVAL);
        int fds[2];
        CHECK(pipe(fds) == 0);
        const pid_t init = fork();
        CHECK(init >= 0);
        if (init == 0) {
            CHECK(getpid() == 1 && syscall(SYS_gettid) == 1);
            CHECK(getppid() == 0);
            CHECK(getpgid(0) == 0 && getsid(0) == 0); // those of another namespace
            CHECK(setsid() == 1);
            CHECK(getpgrp() == 1 && getsid(0) == 1);
            const pid_t child = fork();
            if (child == 0) {
                CHECK(getpid() == 2 && getppid() == 1);
                CHECK_FAILS(kill(3, 0), ESRCH);
                CHECK(kill(1, 0) == 0);
                // From within, the first process takes only what it handles.
                CHECK(kill(1, SIGKILL) == 0);
                CHECK(kill(1, SIGTERM) == 0);
                const pid_t orphan = fork();
                if (orphan == 0) {
                    prctl(PR_SET_PDEATHSIG, 0);
                    while (getppid() != 1)
                        sched_yield();
                    _exit(7);
                }
                CHECK(orphan == 3);
                _exit(5);
            }
            CHECK(child == 2);
            CHECK(exit_of(2) == 5 << 8);
            CHECK(exit_of(3) == 7 << 8);
            CHECK_FAILS(waitpid(-1, nullptr, 0), ECHILD);
            // The end of the first ends all.
            const pid_t sleeper = fork();
            if (sleeper == 0) {
                close(fds[0]);
                for (;;)
                    pause();
            }
            _exit(3);
        }
        close(fds[1]);
        CHECK(exit_of(init) == 3 << 8);
        char byte = 0;
        CHECK(read(fds[0], &byte, 1) == 0); // the sleeper has gone too
        errno = 0;
        CHECK_FAILS(fork(), ENOMEM); // no more processes there
    });
}

// A call that failed when it had a number already. Linux gives such a namespace up.
void pids_after_failure() {
    in_child([] {
        CHECK(unshare(CLONE_NEWPID) == 0);
        clone_args args{};
        args.flags = CLONE_PIDFD;
        args.pidfd = 16;
        args.exit_signal = SIGCHLD;
        CHECK_FAILS(syscall(SYS_clone3, &args, sizeof args), EFAULT);
        const pid_t init = fork();
        if (init == 0)
            _exit(getpid() == 1 && getppid() == 0 ? 0 : 1);
        CHECK(init > 0 ? exit_of(init) == 0 : errno == ENOMEM);
    });
}

// The number that was given last, at the end of /proc/loadavg and in ns_last_pid: the reader's,
// whatever namespace its /proc is of.
int last_pid_in(const char* path) {
    std::FILE* file = std::fopen(path, "r");
    CHECK(file != nullptr);
    char line[128] = {};
    CHECK(std::fgets(line, sizeof line, file) != nullptr);
    std::fclose(file);
    const char* word = std::strrchr(line, ' ');
    return std::atoi(word == nullptr ? line : word + 1);
}

void last_pids() {
    in_child([] {
        CHECK(unshare(CLONE_NEWPID) == 0);
        const pid_t init = fork();
        CHECK(init >= 0);
        if (init == 0) {
            // A checkpoint needs it, so kernels that make none have no ns_last_pid.
            constexpr char counter[] = "/proc/sys/kernel/ns_last_pid";
            const bool counted = access(counter, R_OK) == 0;
            for (int last = 1; last <= 3; last++) {
                CHECK(last_pid_in("/proc/loadavg") == last);
                CHECK(!counted || last_pid_in(counter) == last);
                const pid_t child = fork();
                if (child == 0)
                    _exit(0);
                CHECK(exit_of(child) == 0);
            }
            _exit(0);
        }
        CHECK(exit_of(init) == 0);
    });
}

// Who restores processes from files says which number the next one gets.
void chosen_pids() {
    static constexpr char counter[] = "/proc/sys/kernel/ns_last_pid";
    if (access(counter, W_OK) != 0)
        return;
    in_child([] {
        CHECK(unshare(CLONE_NEWPID) == 0);
        const pid_t init = fork();
        CHECK(init >= 0);
        if (init == 0) {
            const int fd = open(counter, O_WRONLY);
            CHECK(fd >= 0 && write(fd, "1000\n", 5) == 5 && last_pid_in(counter) == 1000);
            for (pid_t next = 1001; next <= 1002; next++) {
                const pid_t child = fork();
                if (child == 0)
                    _exit(getpid() == next ? 0 : 1);
                CHECK(child == next && exit_of(child) == 0);
            }
            for (const char* bad : {"-1", "4194305", "99999999999", "x"})
                CHECK_FAILS(pwrite(fd, bad, std::strlen(bad), 0), EINVAL);
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
            CHECK_FAILS(pwrite(fd, "2000", 4, 0), EPERM); // however it was opened
            _exit(last_pid_in(counter) == 1002 ? 0 : 1);
        }
        CHECK(exit_of(init) == 0);
    });
}

void pid_kill_from_above() {
    in_child([] {
        clone_args args{};
        args.flags = CLONE_NEWPID;
        args.exit_signal = SIGCHLD;
        const auto init = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
        CHECK(init >= 0);
        if (init == 0) {
            for (;;)
                pause();
        }
        CHECK(kill(init, SIGTERM) == 0); // no handler: ignored even from above
        CHECK(kill(init, SIGSTOP) == 0);
        int status = 0;
        CHECK(waitpid(init, &status, WUNTRACED) == init && WIFSTOPPED(status));
        CHECK(kill(init, SIGCONT) == 0);
        CHECK(kill(init, SIGKILL) == 0);
        CHECK(waitpid(init, &status, 0) == init && WIFSIGNALED(status) &&
              WTERMSIG(status) == SIGKILL);
    });
}

void pid_views() {
    in_child([] {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
        const int on = 1;
        CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) == 0);
        CHECK(unshare(CLONE_NEWPID) == 0);
        const pid_t init = fork();
        if (init == 0) {
            CHECK(unshare(CLONE_NEWNS) == 0);
            CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
            CHECK(mount("proc", "/proc", "proc", 0, nullptr) == 0);
            CHECK(link_of("/proc/self") == "1");
            CHECK(access("/proc/2", F_OK) == -1 && errno == ENOENT);
            const std::string status = contents_of("/proc/self/status");
            CHECK(status.find("\nPid:\t1\n") != std::string::npos);
            CHECK(status.find("\nPPid:\t0\n") != std::string::npos);
            CHECK(status.find("\nNSpid:\t1\n") != std::string::npos);
            CHECK(contents_of("/proc/self/stat").substr(0, 3) == "1 (");
            // A thread-directed signal, and its sender's number.
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGUSR1);
            CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
            const pid_t child = fork();
            if (child == 0) {
                CHECK(kill(1, SIGUSR1) == 0);
                _exit(0);
            }
            siginfo_t info{};
            CHECK(sigwaitinfo(&set, &info) == SIGUSR1);
            CHECK(info.si_pid == 2);
            CHECK(contents_of("/proc/self/task/1/children") == "2 ");
            if (access("/proc/self/sched", F_OK) == 0) // a choice of the kernel's configuration
                CHECK(contents_of("/proc/self/sched").find(" (1, #threads: 1)\n") !=
                      std::string::npos);
            siginfo_t ended{};
            CHECK(waitid(P_PID, 2, &ended, WEXITED) == 0 && ended.si_pid == 2);
            // set_tid: a number of choice.
            clone_args args{};
            pid_t wanted = 77;
            args.exit_signal = SIGCHLD;
            args.set_tid = reinterpret_cast<__u64>(&wanted);
            args.set_tid_size = 1;
            const auto chosen = static_cast<pid_t>(syscall(SYS_clone3, &args, sizeof args));
            CHECK(chosen >= 0);
            if (chosen == 0)
                _exit(getpid() == 77 ? 0 : 1);
            CHECK(chosen == 77 && exit_of(77) == 0);
            CHECK(write(pair[1], "x", 1) == 1);
            pause();
            _exit(0);
        }
        char byte = 0;
        char control[CMSG_SPACE(sizeof(ucred))] = {};
        iovec piece{&byte, 1};
        msghdr message{};
        message.msg_iov = &piece;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        CHECK(recvmsg(pair[0], &message, 0) == 1);
        const cmsghdr* head = CMSG_FIRSTHDR(&message);
        CHECK(head != nullptr && head->cmsg_type == SCM_CREDENTIALS);
        ucred sender{};
        std::memcpy(&sender, CMSG_DATA(head), sizeof sender);
        CHECK(sender.pid == init);
        const std::string status = contents_of("/proc/" + std::to_string(init) + "/status");
        CHECK(status.find("\nNSpid:\t" + std::to_string(init) + "\t1\n") != std::string::npos);
        // Into it by its pidfd: the children are there, the caller stays.
        const int pidfd = static_cast<int>(syscall(SYS_pidfd_open, init, 0));
        in_child([&] {
            CHECK(setns(pidfd, CLONE_NEWPID | CLONE_NEWNS) == 0);
            const pid_t child = fork();
            if (child == 0)
                _exit(access("/proc/1/status", R_OK) == 0 ? 0 : 1);
            CHECK(exit_of(child) == 0);
        });
        CHECK(kill(init, SIGKILL) == 0);
        CHECK(WTERMSIG(exit_of(init)) == SIGKILL);
    });
}

void nested_pids() {
    in_child([] {
        // Three deep: each first process makes the next namespace.
        for (int depth = 0; depth < 3; depth++) {
            CHECK(unshare(CLONE_NEWPID) == 0);
            const pid_t child = fork();
            CHECK(child >= 0);
            if (child > 0) {
                CHECK(exit_of(child) == 0);
                _exit(0);
            }
            CHECK(getpid() == 1);
        }
    });
}

// SCM_CREDENTIALS: 0 or an errno.
int claim_pid(int through, pid_t pid) {
    const ucred claimed{pid, getuid(), getgid()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof claimed)] = {};
    char byte = 'x';
    iovec piece{&byte, 1};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_CREDENTIALS;
    head->cmsg_len = CMSG_LEN(sizeof claimed);
    std::memcpy(CMSG_DATA(head), &claimed, sizeof claimed);
    return sendmsg(through, &message, 0) == 1 ? 0 : errno;
}

// Root of a new user namespace is not who it likes among the processes outside; it may be among
// those whose numbers are its namespace's.
void claimed_pids() {
    in_child([] {
        int pair[2];
        CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
        const pid_t other = getppid();
        CHECK(claim_pid(pair[0], other) == 0);
        CHECK(unshare(CLONE_NEWUSER) == 0);
        map_root();
        CHECK(claim_pid(pair[0], other) == EPERM);
        CHECK(claim_pid(pair[0], getpid()) == 0);
        CHECK(unshare(CLONE_NEWPID) == 0);
        in_child([&] {
            CHECK(getpid() == 1);
            in_child([&] {
                CHECK(claim_pid(pair[0], 1) == 0);
                CHECK(claim_pid(pair[0], 99) == ESRCH);
            });
        });
    });
}

// --- time ----------------------------------------------------------------------------------------

long long now_s(int clock) {
    timespec now{};
    CHECK(syscall(SYS_clock_gettime, clock, &now) == 0);
    return now.tv_sec;
}

// The C library's way, by the vDSO.
long long fast_now_s(int clock) {
    timespec now{};
    CHECK(clock_gettime(clock, &now) == 0);
    return now.tv_sec;
}

long long boot_time() {
    const std::string text = contents_of("/proc/stat");
    return std::strtoll(text.c_str() + text.find("btime ") + 6, nullptr, 10);
}

void times() {
    in_child([] {
        const long long boot = boot_time();
        const long long before = now_s(CLOCK_MONOTONIC), booted = now_s(CLOCK_BOOTTIME);
        CHECK(unshare(CLONE_NEWTIME) == 0);
        CHECK(write_file("/proc/self/timens_offsets", "monotonic 1000 0") == 0);
        CHECK(write_file("/proc/self/timens_offsets", "boottime 5000 5") == 0);
        CHECK(write_file("/proc/self/timens_offsets", "realtime 1 0") == EINVAL);
        CHECK(write_file("/proc/self/timens_offsets", "monotonic -99999999999 0") == ERANGE);
        const std::string offsets = contents_of("/proc/self/timens_offsets");
        CHECK(offsets.find("monotonic") == 0 && offsets.find("1000") != std::string::npos);
        CHECK(now_s(CLOCK_MONOTONIC) < before + 900); // not its own
        in_child([&] {
            CHECK(now_s(CLOCK_MONOTONIC) >= before + 1000);
            CHECK(now_s(CLOCK_BOOTTIME) >= booted + 5000);
            CHECK(fast_now_s(CLOCK_MONOTONIC) >= before + 1000);
            CHECK(fast_now_s(CLOCK_BOOTTIME) >= booted + 5000);
            CHECK(std::abs(time(nullptr) - now_s(CLOCK_REALTIME)) <= 1);
            CHECK(std::strtoll(contents_of("/proc/uptime").c_str(), nullptr, 10) >= booted + 5000);
            CHECK(std::abs(boot_time() - (boot - 5000)) <= 2);
            timespec soon{};
            CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &soon) == 0);
            soon.tv_nsec += 1'000'000;
            if (soon.tv_nsec >= 1'000'000'000)
                soon.tv_sec++, soon.tv_nsec -= 1'000'000'000;
            CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &soon, nullptr) == 0);
        });
        CHECK(write_file("/proc/self/timens_offsets", "monotonic 1 0") == EACCES); // in use
        const int own = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
        CHECK(own >= 0 && setns(own, CLONE_NEWTIME) == 0);
        CHECK(now_s(CLOCK_MONOTONIC) >= before + 1000);
        CHECK(fast_now_s(CLOCK_MONOTONIC) >= before + 1000);
        close(own);
    });
}

// Settings are those of the writer's network namespace or of the one where the file was opened, but
// who may write one's may not write the other's by that.
void network_settings() {
    const std::string name = "/proc/sys/net/ipv4/ip_default_ttl";
    const std::string before = contents_of(name);
    int ready[2], done[2];
    CHECK(pipe(ready) == 0 && pipe(done) == 0);
    in_child([&] {
        CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        // What keeps others out of a process's files after setuid(2) would keep it from its maps.
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
        // With the descriptors of this one, which stays where it is.
        const auto child =
            static_cast<pid_t>(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
        CHECK(child >= 0);
        if (child == 0) {
            CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
            CHECK(write_file("/proc/self/setgroups", "deny") == 0);
            CHECK(write_file("/proc/self/uid_map", "0 1000 1") == 0);
            CHECK(write_file("/proc/self/gid_map", "0 1000 1") == 0);
            CHECK(write_file(name, "77") == 0 && contents_of(name) == "77\n");
            struct stat seen {};
            CHECK(stat(name.c_str(), &seen) == 0);
            int fd = open(name.c_str(), O_WRONLY);
            CHECK(fd >= 0 && write(ready[1], &fd, sizeof fd) == sizeof fd);
            char end = 0;
            CHECK(read(done[0], &end, 1) == 1);
            _exit(0);
        }
        int fd = -1;
        CHECK(read(ready[0], &fd, sizeof fd) == sizeof fd && fd >= 0);
        CHECK(write_file(name, "66") == EACCES);
        (void)!write(fd, "66", 2);
        CHECK(contents_of(name) == before);
        CHECK(write(done[1], "x", 1) == 1);
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    });
    CHECK(contents_of(name) == before);
    for (const int fd : {ready[0], ready[1], done[0], done[1]})
        close(fd);
}

} // namespace

int main() {
    if (geteuid() != 0) {
        std::puts("needs root: nothing tested");
        return 0;
    }
    wrong_arguments();
    links_and_ioctls();
    uts();
    ipc();
    abstract_sockets();
    user_maps();
    maps_of_root();
    map_by_parent();
    power_over_members();
    entry_behind_closed_doors();
    map_over_a_gap();
    user_threads_and_entry();
    entry_while_watched();
    user_limit();
    network_settings();
    pids();
    pids_after_failure();
    last_pids();
    chosen_pids();
    pid_kill_from_above();
    pid_views();
    nested_pids();
    claimed_pids();
    times();
    return 0;
}
