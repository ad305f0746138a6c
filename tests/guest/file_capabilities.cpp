// Capabilities that execve(2) takes from a program's file, and what takes them away again.
// capabilities(7), "File capabilities", "Transformation of capabilities during execve()".
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/auxv.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

constexpr const char* attribute = "security.capability";
constexpr uid_t user = 1000, namespace_root = 12345;

constexpr unsigned bit(int capability) {
    return 1u << capability;
}
constexpr unsigned raw = bit(CAP_NET_RAW), owner = bit(CAP_CHOWN), killer = bit(CAP_KILL);

// What a program that was executed says of itself.
struct Report {
    uid_t real, effective_user;
    unsigned long inheritable, permitted, effective, ambient;
    long secure, dumpable;
};

unsigned long status_line(const std::string& status, const char* name) {
    const size_t at = status.find(name);
    CHECK(at != std::string::npos);
    return std::strtoul(status.c_str() + at + std::strlen(name), nullptr, 16);
}

void tell(int fd) {
    const std::string status = contents_of("/proc/thread-self/status");
    const Report report = {getuid(),
                           geteuid(),
                           status_line(status, "CapInh:"),
                           status_line(status, "CapPrm:"),
                           status_line(status, "CapEff:"),
                           status_line(status, "CapAmb:"),
                           static_cast<long>(getauxval(AT_SECURE)),
                           prctl(PR_GET_DUMPABLE)};
    CHECK(write(fd, &report, sizeof report) == sizeof report);
}

// The error of execve(2) in a child that `prepare` made what it is, or 0 and the report.
template <typename F>
int execute(const std::string& program, Report& report, F&& prepare) {
    int ends[2];
    CHECK(pipe(ends) == 0);
    const std::string number = std::to_string(ends[1]);
    const int status = status_of([&] {
        prepare();
        execl(program.c_str(), "x", "tell", number.c_str(), nullptr);
        _exit(errno);
    });
    CHECK(WIFEXITED(status));
    close(ends[1]);
    if (WEXITSTATUS(status) == 0)
        CHECK(read(ends[0], &report, sizeof report) == sizeof report);
    close(ends[0]);
    return WEXITSTATUS(status);
}

void become_user() {
    CHECK(syscall(SYS_setresgid, user, user, user) == 0);
    CHECK(syscall(SYS_setresuid, user, user, user) == 0);
}

void give(const std::string& name, unsigned permitted, unsigned inheritable, bool effective) {
    vfs_cap_data data{};
    data.magic_etc = VFS_CAP_REVISION_2 | (effective ? VFS_CAP_FLAGS_EFFECTIVE : 0);
    data.data[0] = {permitted, inheritable};
    CHECK(setxattr(name.c_str(), attribute, &data, sizeof data, 0) == 0);
}

bool has_capabilities(const std::string& name) {
    const ssize_t length = getxattr(name.c_str(), attribute, nullptr, 0);
    CHECK(length > 0 || errno == ENODATA);
    return length > 0;
}

void set_inheritable(unsigned wanted) {
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[2] = {};
    CHECK(syscall(SYS_capget, &header, data) == 0);
    data[0].inheritable = wanted;
    data[1].inheritable = 0;
    CHECK(syscall(SYS_capset, &header, data) == 0);
}

std::string copy_of_self(const ScratchDirectory& dir) {
    std::string name = dir.path("program");
    make_file(name, contents_of("/proc/self/exe"), 0755);
    CHECK(chmod(name.c_str(), 0755) == 0);
    return name;
}

// Where the mount is nosuid, capabilities of files count for nothing.
bool gives_no_rights(const ScratchDirectory& dir, const std::string& program) {
    struct statvfs status {};
    CHECK(statvfs(dir.name().c_str(), &status) == 0);
    if ((status.f_flag & ST_NOSUID) == 0)
        return false;
    Report got{};
    give(program, raw, 0, true);
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.permitted == 0 && got.effective == 0 && got.secure == 0 && got.dumpable == 1);
    return true;
}

void gains(const std::string& program) {
    Report got{};
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.permitted == 0 && got.secure == 0 && got.dumpable == 1);
    give(program, raw, 0, true);
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.real == user && got.effective_user == user);
    CHECK(got.permitted == raw && got.effective == raw && got.inheritable == 0);
    CHECK(got.secure == 1 && got.dumpable == 0);
    give(program, raw, 0, false); // for a program that knows what to do with them
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.permitted == raw && got.effective == 0 && got.secure == 1 && got.dumpable == 0);
    give(program, 0, 0, true);
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.permitted == 0 && got.effective == 0 && got.secure == 1 && got.dumpable == 1);
    give(program, raw, owner, true);
    CHECK(execute(program, got, [] {
              set_inheritable(owner | killer);
              become_user();
          }) == 0);
    CHECK(got.permitted == (raw | owner) && got.effective == (raw | owner));
    CHECK(got.inheritable == (owner | killer));
}

// An upper limit; a program that relies on what it would have to do without does not run.
void bounds(const std::string& program) {
    Report got{};
    const auto bounded = [] {
        CHECK(prctl(PR_CAPBSET_DROP, CAP_NET_RAW) == 0);
        become_user();
    };
    give(program, raw | owner, 0, true);
    CHECK(execute(program, got, bounded) == EPERM);
    give(program, raw | owner, 0, false);
    CHECK(execute(program, got, bounded) == 0);
    CHECK(got.permitted == owner && got.effective == 0);
    give(program, raw, 0, true);
    CHECK(execute(program, got, [] {
              become_user();
              CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
          }) == 0);
    CHECK(got.permitted == 0 && got.effective == 0);
}

void ambient(const std::string& program) {
    Report got{};
    const auto with_ambient = [] {
        set_inheritable(killer);
        CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
        become_user();
        CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
    };
    CHECK(removexattr(program.c_str(), attribute) == 0);
    CHECK(execute(program, got, with_ambient) == 0);
    CHECK(got.permitted == killer && got.ambient == killer && got.secure == 0);
    give(program, 0, 0, false); // none, and for that the ambient ones go
    CHECK(execute(program, got, with_ambient) == 0);
    CHECK(got.permitted == 0 && got.ambient == 0 && got.inheritable == killer);
}

void root(const std::string& program) {
    Report got{};
    give(program, raw, 0, true);
    CHECK(execute(program, got, [] {}) == 0);
    CHECK((got.permitted & (raw | owner | killer)) == (raw | owner | killer) && got.secure == 0);
    CHECK(execute(program, got, [] { // root that is nobody special
              CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT) == 0);
          }) == 0);
    CHECK(got.permitted == raw && got.effective == raw);
    // A set-user-ID-root program gets what its file says, if that says something.
    CHECK(chmod(program.c_str(), 04755) == 0);
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.real == user && got.effective_user == 0);
    CHECK(got.permitted == raw && got.effective == raw && got.secure == 1 && got.dumpable == 0);
    CHECK(chmod(program.c_str(), 0755) == 0);
}

// Who is looked at, or may be changed, by one with fewer rights gets no more rights.
void watched(const std::string& program) {
    Report got{};
    give(program, raw, 0, true);
    CHECK(execute(program, got, [&] {
              become_user();
              CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
              const pid_t traced = fork();
              CHECK(traced >= 0);
              if (traced == 0) {
                  CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
                  return; // and executes
              }
              int status = 0;
              while (waitpid(traced, &status, 0) == traced && WIFSTOPPED(status))
                  CHECK(ptrace(PTRACE_CONT, traced, nullptr, nullptr) == 0);
              _exit(WEXITSTATUS(status));
          }) == 0);
    CHECK(got.permitted == 0 && got.effective == 0);
    CHECK(execute(program, got, [&] {
              become_user();
              const auto other =
                  static_cast<pid_t>(syscall(SYS_clone, CLONE_FS | SIGCHLD, 0, 0, 0, 0));
              CHECK(other >= 0);
              if (other == 0)
                  return;
              int status = 0;
              CHECK(waitpid(other, &status, 0) == other);
              _exit(WEXITSTATUS(status));
          }) == 0);
    CHECK(got.permitted == 0 && got.effective == 0);
}

void write_text(const char* name, const char* text) {
    const int fd = open(name, O_WRONLY);
    CHECK(fd >= 0 && write(fd, text, std::strlen(text)) > 0);
    close(fd);
}

// With the root of a user namespace: for that one only.
void namespaced(const std::string& program) {
    Report got{};
    vfs_ns_cap_data data{};
    data.magic_etc = VFS_CAP_REVISION_3 | VFS_CAP_FLAGS_EFFECTIVE;
    data.data[0].permitted = raw;
    data.rootid = namespace_root;
    CHECK(setxattr(program.c_str(), attribute, &data, sizeof data, 0) == 0);
    CHECK(execute(program, got, become_user) == 0);
    CHECK(got.permitted == 0 && got.secure == 0);
    const auto inside = [](unsigned first) {
        return [first] {
            int ready[2];
            CHECK(pipe(ready) == 0);
            const pid_t parent = getpid();
            const pid_t mapper = start([&] {
                char byte = 0;
                CHECK(read(ready[0], &byte, 1) == 1);
                const std::string place = "/proc/" + std::to_string(parent);
                const std::string map = "0 " + std::to_string(first) + " 1\n1000 1000 1\n";
                write_text((place + "/uid_map").c_str(), map.c_str());
                write_text((place + "/gid_map").c_str(), map.c_str());
            });
            CHECK(unshare(CLONE_NEWUSER) == 0 && write(ready[1], "", 1) == 1);
            int status = -1;
            CHECK(waitpid(mapper, &status, 0) == mapper && status == 0);
            become_user();
        };
    };
    CHECK(execute(program, got, inside(namespace_root)) == 0);
    CHECK(got.permitted == raw && got.effective == raw && got.secure == 1);
    CHECK(execute(program, got, inside(namespace_root + 1)) == 0);
    CHECK(got.permitted == 0);
    give(program, raw, 0, true); // the first namespace's are for all below it
    CHECK(execute(program, got, inside(namespace_root)) == 0);
    CHECK(got.permitted == raw);
}

void on_mounts(const ScratchDirectory& dir, const std::string& program) {
    Report got{};
    give(program, raw, 0, true);
    in_child([&] {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
        const char* d = dir.name().c_str();
        CHECK(mount(d, d, nullptr, MS_BIND, nullptr) == 0);
        CHECK(execute(program, got, become_user) == 0 && got.permitted == raw);
        CHECK(mount(nullptr, d, nullptr, MS_REMOUNT | MS_BIND | MS_NOSUID, nullptr) == 0);
        CHECK(execute(program, got, become_user) == 0);
        CHECK(got.permitted == 0 && got.secure == 0);
    });
}

// What lies in another mount namespace, here come to by a descriptor from there, gives no rights.
void from_another_namespace(const std::string& program) {
    Report got{};
    give(program, raw, 0, true);
    CHECK(chmod(program.c_str(), 06755) == 0);
    const int fd = open(program.c_str(), O_PATH);
    CHECK(fd >= 0);
    const std::string name = "/proc/self/fd/" + std::to_string(fd);
    CHECK(execute(name, got, become_user) == 0);
    CHECK(got.effective_user == 0 && got.permitted == raw && got.secure == 1);
    CHECK(execute(name, got, [] {
              CHECK(unshare(CLONE_NEWNS) == 0);
              become_user();
          }) == 0);
    CHECK(got.effective_user == user && got.permitted == 0 && got.secure == 0);
    close(fd);
    CHECK(chmod(program.c_str(), 0755) == 0);
}

void through_overlay(const ScratchDirectory& dir, const std::string& program) {
    Report got{};
    give(program, raw, 0, true);
    in_child([&] {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
        const char* lower = dir.name().c_str();
        const std::string top = "/mnt";
        CHECK(mount("t", top.c_str(), "tmpfs", 0, nullptr) == 0);
        for (const char* name : {"/upper", "/work", "/all"})
            CHECK(mkdir((top + name).c_str(), 0755) == 0);
        const std::string options =
            std::string("lowerdir=") + lower + ",upperdir=/mnt/upper,workdir=/mnt/work";
        CHECK(mount("o", "/mnt/all", "overlay", 0, options.c_str()) == 0);
        const std::string shown = "/mnt/all/program";
        CHECK(execute(shown, got, become_user) == 0 && got.permitted == raw);
        const int fd = open(shown.c_str(), O_WRONLY | O_APPEND);
        CHECK(fd >= 0);
        CHECK(has_capabilities(shown)); // copied up with the rest
        CHECK(write(fd, "x", 1) == 1 && close(fd) == 0);
        CHECK(!has_capabilities(shown) && has_capabilities(program));
        CHECK(execute(shown, got, become_user) == 0 && got.permitted == 0);
    });
}

void killed(const ScratchDirectory& dir) {
    const std::string name = dir.path("changed");
    const char* n = name.c_str();
    make_file(name, "contents");
    const int fd = open(n, O_RDWR);
    CHECK(fd >= 0);
    const auto takes = [&](auto&& change) {
        give(name, raw, 0, true);
        CHECK(has_capabilities(name));
        change();
        return !has_capabilities(name);
    };
    CHECK(takes([&] { CHECK(write(fd, "x", 1) == 1); })); // root's write, too
    CHECK(!takes([&] { CHECK(write(fd, "", 0) == 0); }));
    CHECK(takes([&] { CHECK(ftruncate(fd, 8) == 0); }));
    CHECK(takes([&] { CHECK(truncate(n, 3) == 0); }));
    CHECK(takes([&] { CHECK(close(open(n, O_WRONLY | O_TRUNC)) == 0); }));
    CHECK(takes([&] { CHECK(fallocate(fd, 0, 0, 4096) == 0); }));
    CHECK(takes([&] { CHECK(chown(n, user, user) == 0); }));
    CHECK(takes([&] { CHECK(fchown(fd, 0, -1) == 0); }));
    CHECK(takes([&] { CHECK(chown(n, -1, -1) == 0); }));
    // Anybody's, too, that changes nothing.
    CHECK(takes([&] {
        in_child([&] {
            CHECK(setresgid(user, user, user) == 0 && setresuid(user, user, user) == 0);
            CHECK(chown(n, -1, -1) == 0);
        });
    }));
    CHECK(!takes([&] { CHECK(chmod(n, 0700) == 0); }));
    CHECK(!takes([&] { CHECK(rename(n, n) == 0 && utimensat(AT_FDCWD, n, nullptr, 0) == 0); }));
    close(fd);
}

} // namespace

int main(int argc, char** argv) {
    if (argc == 3) {
        tell(std::atoi(argv[2]));
        return 0;
    }
    if (!is_root())
        return 0;
    umask(022);
    on_each_file_system([](const ScratchDirectory& dir) {
        killed(dir);
        const std::string program = copy_of_self(dir);
        if (gives_no_rights(dir, program))
            return; // /dev/shm is mounted so on many machines
        gains(program);
        bounds(program);
        ambient(program);
        root(program);
        watched(program);
        namespaced(program);
        on_mounts(dir, program);
        from_another_namespace(program);
        through_overlay(dir, program);
    });
    return 0;
}
