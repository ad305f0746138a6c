// Control groups version 2: the hierarchy, membership, types, freezing, killing, events; and the
// controllers, where the machine offers them to version 2 (inside it does; hosts with version 1
// beside it keep them there).
//
// Works in a mount namespace of its own and in groups below the one it was started in.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string>
#include <time.h>
#include <unistd.h>

#include <linux/sched.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "tests/guest/cgroup_support.hpp"

namespace {

std::string base; // the test's own group

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

std::string make(const std::string& name) {
    const std::string path = base + "/" + name;
    CHECK(mkdir(path.c_str(), 0755) == 0);
    return path;
}

void remove_group(const std::string& path) {
    // A task leaves its group a moment before its parent can tell, or a moment after.
    for (int i = 0; i < 1000 && rmdir(path.c_str()) != 0; i++) {
        CHECK(errno == EBUSY);
        usleep(1000);
    }
    CHECK(access(path.c_str(), F_OK) == -1);
}

template <typename F>
bool soon(F&& condition) {
    for (int i = 0; i < 5000; i++) {
        if (condition())
            return true;
        usleep(1000);
    }
    return false;
}

// A child that does `work` and never returns; in `group` from its start if that is not empty.
template <typename F>
pid_t spawn(const std::string& group, F&& work) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (!group.empty() && put(group + "/cgroup.procs", "0") != 0)
            _exit(99);
        work();
        _exit(0);
    }
    return pid;
}

void sleep_for_ever() {
    for (;;)
        pause();
}

int wait_for(pid_t pid) {
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

void end(pid_t pid) {
    CHECK(kill(pid, SIGKILL) == 0);
    const int status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

bool in_group(pid_t pid, const std::string& name) {
    return has(slurp("/proc/" + std::to_string(pid) + "/cgroup"), "0::") &&
           has(slurp("/proc/" + std::to_string(pid) + "/cgroup"), name + "\n");
}

// --- the hierarchy ------------------------------------------------------------------------------

void test_tree() {
    struct statfs fs = {};
    CHECK(statfs(base.c_str(), &fs) == 0 && fs.f_type == 0x63677270);
    const std::string a = make("a");
    CHECK_FAILS(mkdir(a.c_str(), 0755), EEXIST);
    CHECK_FAILS(mkdir((base + "/cgroup.procs").c_str(), 0755), EEXIST);
    CHECK_FAILS(mkdir((base + "/x\ny").c_str(), 0755), EINVAL);
    CHECK_FAILS(unlink((a + "/cgroup.procs").c_str()), EPERM);
    CHECK_FAILS(rmdir((a + "/cgroup.procs").c_str()), ENOTDIR);
    CHECK(open((a + "/new").c_str(), O_CREAT | O_WRONLY, 0644) == -1);
    CHECK(slurp(a + "/cgroup.type") == "domain\n");
    CHECK(slurp(a + "/cgroup.events") == "populated 0\nfrozen 0\n");
    CHECK(slurp(a + "/cgroup.max.depth") == "max\n");
    CHECK(slurp(a + "/cgroup.max.descendants") == "max\n");
    CHECK(slurp(a + "/cgroup.procs").empty());
    CHECK(slurp(a + "/cgroup.subtree_control") == "\n" ||
          slurp(a + "/cgroup.subtree_control").empty());
    CHECK(figure(a + "/cgroup.stat", "nr_descendants") == 0);
    CHECK(figure(a + "/cpu.stat", "usage_usec") == 0);

    CHECK(mkdir((a + "/b").c_str(), 0755) == 0);
    CHECK(mkdir((a + "/b/c").c_str(), 0755) == 0);
    CHECK(figure(a + "/cgroup.stat", "nr_descendants") == 2);
    CHECK_FAILS(rmdir(a.c_str()), EBUSY);
    CHECK(put(a + "/cgroup.max.depth", "2") == 0);
    CHECK_FAILS(mkdir((a + "/b/c/d").c_str(), 0755), EAGAIN);
    CHECK(put(a + "/cgroup.max.descendants", "2") == 0);
    CHECK_FAILS(mkdir((a + "/e").c_str(), 0755), EAGAIN);
    CHECK(put(a + "/cgroup.max.descendants", "max") == 0);
    CHECK_FAILS(put(a + "/cgroup.max.depth", "-1"), ERANGE);
    CHECK_FAILS(put(a + "/cgroup.max.depth", "many"), EINVAL);
    CHECK_FAILS(put(a + "/cgroup.subtree_control", "+nothing"), EINVAL);
    CHECK_FAILS(put(a + "/cgroup.subtree_control", "pids"), EINVAL);

    // An open file of a group that has gone.
    const int events = open((a + "/b/c/cgroup.events").c_str(), O_RDONLY);
    CHECK(events >= 0);
    CHECK(rmdir((a + "/b/c").c_str()) == 0);
    char byte = 0;
    CHECK_FAILS(read(events, &byte, 1), ENODEV);
    close(events);
    CHECK(rmdir((a + "/b").c_str()) == 0);
    CHECK(rmdir(a.c_str()) == 0);
    CHECK_FAILS(rmdir(a.c_str()), ENOENT);
}

void test_members() {
    const std::string a = make("a");
    const std::string b = make("b");
    const pid_t child = spawn(a, sleep_for_ever);
    const std::string number = std::to_string(child) + "\n";
    CHECK(soon([&] { return slurp(a + "/cgroup.procs") == number; }));
    CHECK(slurp(a + "/cgroup.threads") == number);
    CHECK(in_group(child, "/a"));
    CHECK(has(slurp(a + "/cgroup.events"), "populated 1"));
    CHECK(has(slurp(base + "/cgroup.events"), "populated 1"));
    CHECK_FAILS(rmdir(a.c_str()), EBUSY);
    CHECK(put(b + "/cgroup.procs", number) == 0);
    CHECK(slurp(a + "/cgroup.procs").empty() && slurp(b + "/cgroup.procs") == number);
    CHECK(rmdir(a.c_str()) == 0);
    CHECK_FAILS(put(b + "/cgroup.procs", "999999999"), ESRCH);
    CHECK_FAILS(put(b + "/cgroup.procs", "-5"), EINVAL);
    CHECK_FAILS(put(b + "/cgroup.procs", "x"), EINVAL);
    end(child);
    CHECK(soon([&] { return has(slurp(b + "/cgroup.events"), "populated 0"); }));
    remove_group(b);

    // A zombie's group can be removed under it.
    const std::string z = make("z");
    const pid_t zombie = spawn(z, [] {});
    siginfo_t info = {};
    CHECK(waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT) == 0);
    remove_group(z);
    CHECK(in_group(zombie, "/z (deleted)"));
    CHECK(wait_for(zombie) == 0);
}

// What counts is who opened the file: its descriptor may be the output of a set-id program.
void test_opener() {
    if (getuid() != 0)
        return;
    const std::string a = make("a");
    CHECK(chown((a + "/cgroup.procs").c_str(), 1000, 1000) == 0);
    CHECK(chown((a + "/cgroup.threads").c_str(), 1000, 1000) == 0);
    const pid_t child = spawn("", [&] {
        for (const char* name : {"/cgroup.procs", "/cgroup.threads"}) {
            CHECK(seteuid(1000) == 0);
            const int file = open((a + name).c_str(), O_WRONLY);
            CHECK(file >= 0 && seteuid(0) == 0);
            CHECK_FAILS(write(file, "0", 1), EACCES);
            close(file);
        }
        CHECK(put(a + "/cgroup.procs", "0") == 0);
        _exit(0);
    });
    CHECK(wait_for(child) == 0);
    remove_group(a);
}

void test_clone_into() {
    const std::string a = make("a");
    const int directory = open(a.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(directory >= 0);
    clone_args args = {};
    args.flags = CLONE_INTO_CGROUP;
    args.exit_signal = SIGCHLD;
    args.cgroup = static_cast<__u64>(directory);
    const long pid = syscall(SYS_clone3, &args, sizeof args);
    CHECK(pid >= 0);
    if (pid == 0)
        sleep_for_ever();
    CHECK(in_group(static_cast<pid_t>(pid), "/a"));
    end(static_cast<pid_t>(pid));
    args.cgroup = 9999;
    CHECK_FAILS(syscall(SYS_clone3, &args, sizeof args), EBADF);
    const int other = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    args.cgroup = static_cast<__u64>(other);
    CHECK_FAILS(syscall(SYS_clone3, &args, sizeof args), EBADF);
    close(other);
    remove_group(a);
    args.cgroup = static_cast<__u64>(directory);
    CHECK_FAILS(syscall(SYS_clone3, &args, sizeof args), ENOENT);
    close(directory);
}

// --- threads ------------------------------------------------------------------------------------

struct ThreadPlan {
    int ready[2], go[2];
};

void* idle_thread(void* raw) {
    auto* plan = static_cast<ThreadPlan*>(raw);
    const pid_t tid = static_cast<pid_t>(syscall(SYS_gettid));
    CHECK(write(plan->ready[1], &tid, sizeof tid) == sizeof tid);
    char byte = 0;
    (void)!read(plan->go[0], &byte, 1);
    return nullptr;
}

void test_threaded() {
    const std::string d = make("d");
    CHECK(mkdir((d + "/t1").c_str(), 0755) == 0);
    CHECK(mkdir((d + "/t2").c_str(), 0755) == 0);
    CHECK_FAILS(put(d + "/t1/cgroup.type", "domain"), EINVAL);
    CHECK(put(d + "/t1/cgroup.type", "threaded") == 0);
    CHECK(slurp(d + "/t1/cgroup.type") == "threaded\n");
    CHECK(slurp(d + "/cgroup.type") == "domain threaded\n");
    CHECK(slurp(d + "/t2/cgroup.type") == "domain invalid\n");
    CHECK(put(d + "/t1/cgroup.type", "threaded") == 0);

    ThreadPlan plan = {};
    CHECK(pipe(plan.ready) == 0 && pipe(plan.go) == 0);
    const pid_t child = spawn(d, [&] {
        pthread_t thread;
        CHECK(pthread_create(&thread, nullptr, idle_thread, &plan) == 0);
        pthread_join(thread, nullptr);
    });
    pid_t tid = 0;
    CHECK(read(plan.ready[0], &tid, sizeof tid) == sizeof tid);
    CHECK_FAILS(put(d + "/t2/cgroup.threads", std::to_string(tid)), EOPNOTSUPP);
    CHECK(put(d + "/t1/cgroup.threads", std::to_string(tid)) == 0);
    CHECK(slurp(d + "/t1/cgroup.threads") == std::to_string(tid) + "\n");
    CHECK(slurp(d + "/cgroup.threads") == std::to_string(child) + "\n");
    CHECK(slurp(d + "/cgroup.procs") == std::to_string(child) + "\n");
    const int procs = open((d + "/t1/cgroup.procs").c_str(), O_RDONLY);
    char byte = 0;
    CHECK_FAILS(read(procs, &byte, 1), EOPNOTSUPP);
    close(procs);
    CHECK(has(slurp("/proc/" + std::to_string(child) + "/task/" + std::to_string(tid) + "/cgroup"),
              "/d/t1\n"));
    CHECK_FAILS(put(d + "/t1/cgroup.kill", "1"), EOPNOTSUPP);
    CHECK(write(plan.go[1], "x", 1) == 1);
    CHECK(wait_for(child) == 0);
    for (const int fd : {plan.ready[0], plan.ready[1], plan.go[0], plan.go[1]})
        close(fd);
    remove_group(d + "/t1");
    remove_group(d + "/t2");
    CHECK(slurp(d + "/cgroup.type") == "domain\n");
    remove_group(d);
}

// --- freezing, killing, events ------------------------------------------------------------------

void test_freezer() {
    const std::string a = make("a");
    CHECK(mkdir((a + "/b").c_str(), 0755) == 0);
    auto* counter = static_cast<volatile unsigned long*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    CHECK(counter != MAP_FAILED);
    const pid_t busy = spawn(a + "/b", [&] {
        for (;;)
            *counter = *counter + 1;
    });
    const pid_t idle = spawn(a, sleep_for_ever);
    CHECK(soon([&] { return *counter > 1000 && in_group(idle, "/a"); }));
    CHECK_FAILS(put(a + "/cgroup.freeze", "2"), ERANGE);
    CHECK(put(a + "/cgroup.freeze", "1") == 0);
    CHECK(slurp(a + "/cgroup.freeze") == "1\n" && slurp(a + "/b/cgroup.freeze") == "0\n");
    CHECK(soon([&] { return has(slurp(a + "/cgroup.events"), "frozen 1"); }));
    CHECK(soon([&] { return has(slurp(a + "/b/cgroup.events"), "frozen 1"); }));
    const unsigned long before = *counter;
    usleep(30'000);
    CHECK(*counter == before);
    // A child's own setting does not thaw it.
    CHECK(put(a + "/b/cgroup.freeze", "0") == 0);
    usleep(5'000);
    CHECK(*counter == before);
    // Out of the frozen group it runs.
    CHECK(put(base + "/run/cgroup.procs", std::to_string(busy)) == 0);
    CHECK(soon([&] { return *counter != before; }));
    CHECK(put(a + "/b/cgroup.procs", std::to_string(busy)) == 0);
    CHECK(soon([&] { return has(slurp(a + "/b/cgroup.events"), "frozen 1"); }));
    const unsigned long again = *counter;
    CHECK(put(a + "/cgroup.freeze", "0") == 0);
    CHECK(soon([&] { return *counter != again; }));
    CHECK(soon([&] { return has(slurp(a + "/cgroup.events"), "frozen 0"); }));
    // Frozen tasks can be killed.
    CHECK(put(a + "/cgroup.freeze", "1") == 0);
    CHECK(soon([&] { return has(slurp(a + "/cgroup.events"), "frozen 1"); }));
    end(busy);
    end(idle);
    munmap(const_cast<unsigned long*>(counter), 4096);
    remove_group(a + "/b");
    remove_group(a);
}

void test_kill() {
    const std::string a = make("a");
    CHECK(mkdir((a + "/b").c_str(), 0755) == 0);
    const pid_t one = spawn(a, sleep_for_ever);
    const pid_t two = spawn(a + "/b", [] {
        // Forks all the time: none may escape.
        signal(SIGCHLD, SIG_IGN);
        for (;;)
            if (fork() == 0)
                _exit(0);
    });
    CHECK(soon([&] { return in_group(one, "/a") && in_group(two, "/a/b"); }));
    CHECK_FAILS(put(a + "/cgroup.kill", "0"), ERANGE);
    CHECK(put(a + "/cgroup.kill", "1") == 0);
    for (const pid_t pid : {one, two}) {
        const int status = wait_for(pid);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    CHECK(soon([&] { return has(slurp(a + "/cgroup.events"), "populated 0"); }));
    remove_group(a + "/b");
    remove_group(a);
}

void test_events() {
    const std::string a = make("a");
    const std::string file = a + "/cgroup.events";
    const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    char text[128];
    CHECK(pread(fd, text, sizeof text, 0) > 0);
    pollfd wait = {fd, POLLPRI, 0};
    CHECK(poll(&wait, 1, 0) == 0);
    const int watch = inotify_init1(IN_CLOEXEC);
    CHECK(watch >= 0 && inotify_add_watch(watch, file.c_str(), IN_MODIFY) > 0);
    const pid_t child = spawn(a, sleep_for_ever);
    CHECK(poll(&wait, 1, 10'000) == 1 &&
          (wait.revents & (POLLPRI | POLLERR)) == (POLLPRI | POLLERR));
    CHECK(pread(fd, text, sizeof text, 0) > 0 && has(text, "populated 1"));
    inotify_event event = {};
    CHECK(read(watch, &event, sizeof event) == sizeof event && event.mask == IN_MODIFY);
    end(child);
    CHECK(poll(&wait, 1, 10'000) == 1);
    CHECK(pread(fd, text, sizeof text, 0) > 0 && has(text, "populated 0"));
    close(watch);
    close(fd);
    remove_group(a);
}

// --- delegation ---------------------------------------------------------------------------------

void test_delegation() {
    const std::string a = make("a");
    const std::string b = make("b");
    for (const char* name : {"", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control"})
        CHECK(chown((a + name).c_str(), 12345, 12345) == 0);
    const int status = wait_for(spawn(a, [&] {
        CHECK(setresgid(12345, 12345, 12345) == 0 && setresuid(12345, 12345, 12345) == 0);
        CHECK(mkdir((a + "/own").c_str(), 0755) == 0);
        struct stat info = {};
        CHECK(stat((a + "/own/cgroup.procs").c_str(), &info) == 0 && info.st_uid == 12345);
        CHECK(put(a + "/own/cgroup.procs", "0") == 0);
        CHECK(put(a + "/cgroup.procs", "0") == 0);
        CHECK(rmdir((a + "/own").c_str()) == 0);
        CHECK_FAILS(mkdir((b + "/other").c_str(), 0755), EACCES);
        CHECK_FAILS(put(b + "/cgroup.procs", "0"), EACCES);
        CHECK_FAILS(put(a + "/cgroup.freeze", "1"), EACCES);
    }));
    CHECK(status == 0);
    // Write permission on the target alone is not enough: the common ancestor's is needed.
    CHECK(chown((b + "/cgroup.procs").c_str(), 12345, 12345) == 0);
    CHECK(wait_for(spawn(a, [&] {
              CHECK(setresgid(12345, 12345, 12345) == 0 && setresuid(12345, 12345, 12345) == 0);
              CHECK_FAILS(put(b + "/cgroup.procs", "0"), EACCES);
          })) == 0);
    remove_group(a);
    remove_group(b);
}

// --- namespaces (cgroup_namespaces(7)) ----------------------------------------------------------

// In namespaces of all three kinds: numbers of processes and groups are those that are seen there.
void look_from_inside(const std::string& group, pid_t parent) {
    CHECK(unshare(CLONE_NEWCGROUP) == 0);
    CHECK(slurp("/proc/self/cgroup") == "0::/\n" || has(slurp("/proc/self/cgroup"), "\n0::/\n"));
    // Who is above the root, or beside it.
    CHECK(in_group(parent, "0::/../.."));
    CHECK(unshare(CLONE_NEWNS | CLONE_NEWPID) == 0);
    CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    const pid_t inner = fork();
    CHECK(inner >= 0);
    if (inner > 0) {
        const int status = wait_for(inner);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        return;
    }
    CHECK(getpid() == 1);
    CHECK(mount("proc", "/proc", "proc", 0, nullptr) == 0);
    CHECK(mount("cgroup2", "/mnt", "cgroup2", 0, nullptr) == 0);
    CHECK(has(slurp("/proc/self/mountinfo"), " / /mnt "));
    // The process outside of the namespace of numbers has none here.
    const std::string members = slurp("/mnt/cgroup.procs");
    CHECK(members == "0\n1\n" || members == "1\n0\n");
    CHECK(mkdir("/mnt/x", 0755) == 0 && mkdir("/mnt/x/y", 0755) == 0);
    CHECK(access((group + "/x/y").c_str(), F_OK) == 0);
    CHECK_FAILS(put("/mnt/x/y/cgroup.procs", std::to_string(parent)), ESRCH);
    CHECK(put("/mnt/x/y/cgroup.procs", "1") == 0);
    CHECK(slurp("/mnt/x/y/cgroup.procs") == "1\n" && slurp("/mnt/x/y/cgroup.threads") == "1\n");
    CHECK(in_group(1, "0::/x/y"));
    CHECK(slurp("/mnt/cgroup.procs") == "0\n");
    CHECK(slurp("/mnt/cgroup.type") == "domain\n"); // it is no hierarchy's root
    CHECK(put("/mnt/cgroup.procs", "0") == 0);
    CHECK(in_group(1, "0::/"));
    CHECK(rmdir("/mnt/x/y") == 0);
    CHECK(access((group + "/x/y").c_str(), F_OK) != 0);
    // Another namespace below: its root is the group that its maker is in.
    CHECK(put("/mnt/x/cgroup.procs", "1") == 0);
    CHECK(unshare(CLONE_NEWCGROUP) == 0 && in_group(1, "0::/"));
    CHECK(has(slurp("/proc/self/mountinfo"), " /.. /mnt "));
    CHECK(put("/mnt/cgroup.procs", "1") == 0 && in_group(1, "0::/.."));
    CHECK(rmdir("/mnt/x") == 0);
    _exit(0);
}

void test_namespaces() {
    const std::string a = make("a");
    const pid_t self = getpid();
    CHECK(wait_for(spawn(a, [&] { look_from_inside(a, self); })) == 0);
    remove_group(a);
}

// --- pressure -----------------------------------------------------------------------------------

// Many wait for one trigger at once: what looks for them is set up by whoever comes first.
void test_shared_trigger(int fd) {
    constexpr int watchers = 4, rounds = 500;
    pid_t children[watchers];
    for (pid_t& child : children) {
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            pollfd wait = {fd, POLLPRI, 0};
            for (int i = 0; i < rounds; i++)
                if (poll(&wait, 1, 1) < 0)
                    _exit(1);
            _exit(0);
        }
    }
    for (const pid_t child : children)
        CHECK(wait_for(child) == 0);
}

void test_pressure() {
    if (access("/proc/pressure/cpu", F_OK) != 0)
        return;
    for (const char* name : {"cpu", "io", "memory"}) {
        const std::string text = slurp(std::string("/proc/pressure/") + name);
        CHECK(has(text, "some avg10=") && has(text, " avg300=") && has(text, " total="));
    }
    const std::string a = make("a");
    CHECK(has(slurp(a + "/memory.pressure"), "full avg10=0.00 avg60=0.00 avg300=0.00 total=0"));
    // They can be hidden, group by group.
    CHECK(slurp(a + "/cgroup.pressure") == "1\n");
    CHECK(put(a + "/cgroup.pressure", "0") == 0);
    CHECK(slurp(a + "/cgroup.pressure") == "0\n");
    CHECK_FAILS(access((a + "/memory.pressure").c_str(), F_OK), ENOENT);
    CHECK_FAILS(put(a + "/cgroup.pressure", "x"), EINVAL);
    CHECK_FAILS(put(a + "/cgroup.pressure", "2"), ERANGE);
    CHECK(put(a + "/cgroup.pressure", "1") == 0);
    CHECK(access((a + "/memory.pressure").c_str(), F_OK) == 0);
    const int fd = open((a + "/memory.pressure").c_str(), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    const auto ask = [fd](const char* text) { return write(fd, text, strlen(text)); };
    CHECK_FAILS(ask("some 1000"), EINVAL);
    CHECK_FAILS(ask("all 1000 1000000"), EINVAL);
    CHECK_FAILS(ask("some 1000 100"), EINVAL);
    CHECK_FAILS(ask("some 100000 100000000"), EINVAL);
    CHECK(ask("some 100000 2000000") > 0);
    CHECK_FAILS(ask("some 100000 2000000"), EBUSY);
    pollfd wait = {fd, POLLPRI, 0};
    CHECK(poll(&wait, 1, 0) == 0);
    test_shared_trigger(fd);
    close(fd);
    remove_group(a);
}

} // namespace

int main() {
    const bool own_mounts = unshare(CLONE_NEWNS) == 0;
    std::string root = "/sys/fs/cgroup";
    char place[] = "/tmp/guest-cgroup-XXXXXX";
    bool mounted = false;
    if (access((root + "/cgroup.procs").c_str(), F_OK) != 0) {
        CHECK(mkdtemp(place) != nullptr);
        if (!own_mounts || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            mount("cgroup2", place, "cgroup2", 0, nullptr) != 0) {
            rmdir(place);
            printf("cgroup2 cannot be mounted here: nothing tested\n");
            return 0;
        }
        mounted = true;
        root = place;
    }
    // Below the group we are in, which must not get controllers here: it has members.
    std::string own = slurp("/proc/self/cgroup");
    const size_t at = own.find("0::");
    CHECK(at != std::string::npos);
    own = own.substr(at + 3, own.find('\n', at) - at - 3);
    base = root + (own == "/" ? "" : own) + "/guest-test-" + std::to_string(getpid());
    CHECK(mkdir(base.c_str(), 0755) == 0);
    make("run");
    test_tree();
    test_members();
    test_opener();
    test_clone_into();
    test_threaded();
    test_freezer();
    test_kill();
    test_events();
    test_delegation();
    test_namespaces();
    test_pressure();
    CHECK(rmdir((base + "/run").c_str()) == 0);
    CHECK(rmdir(base.c_str()) == 0);
    if (mounted) {
        CHECK(umount2(place, MNT_DETACH) == 0);
        CHECK(rmdir(place) == 0);
    }
    printf("ok\n");
    return 0;
}
