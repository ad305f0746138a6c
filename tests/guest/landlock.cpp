// landlock(7): rulesets, what they allow, stacking and inheritance.
#include <csignal>
#include <cstdint>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/landlock.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

namespace {

long create(const landlock_ruleset_attr* attributes, size_t size, unsigned flags) {
    return syscall(SYS_landlock_create_ruleset, attributes, size, flags);
}
long add(long ruleset, unsigned type, const void* rule, unsigned flags) {
    return syscall(SYS_landlock_add_rule, ruleset, type, rule, flags);
}
long restrict_self(long ruleset, unsigned flags) {
    return syscall(SYS_landlock_restrict_self, ruleset, flags);
}

constexpr uint64_t everything = (LANDLOCK_ACCESS_FS_REFER << 1) - 1;
constexpr uint64_t reading =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;

std::string root;

std::string at(const char* name) {
    return root + name;
}

long ruleset_of(uint64_t handled) {
    landlock_ruleset_attr attributes{};
    attributes.handled_access_fs = handled;
    const long ruleset = create(&attributes, sizeof attributes, 0);
    CHECK(ruleset >= 0);
    return ruleset;
}

void allow(long ruleset, const std::string& path, uint64_t access) {
    landlock_path_beneath_attr rule{};
    rule.allowed_access = access;
    rule.parent_fd = open(path.c_str(), O_PATH | O_CLOEXEC);
    CHECK(rule.parent_fd >= 0);
    CHECK(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0);
    close(rule.parent_fd);
}

void enforce(long ruleset) {
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(restrict_self(ruleset, 0) == 0);
    close(static_cast<int>(ruleset));
}

void touch(const std::string& path) {
    const int file = open(path.c_str(), O_CREAT | O_WRONLY, 0644);
    CHECK(file >= 0 && write(file, "x", 1) == 1);
    close(file);
}

void arguments() {
    CHECK_FAILS(create(nullptr, 1, LANDLOCK_CREATE_RULESET_VERSION), EINVAL);
    landlock_ruleset_attr attributes{};
    CHECK_FAILS(create(&attributes, 1, 0), EINVAL);
    CHECK_FAILS(create(&attributes, sizeof attributes, 1u << 31), EINVAL);
    CHECK_FAILS(create(&attributes, sizeof attributes, 0), ENOMSG);
    CHECK_FAILS(create(nullptr, sizeof attributes, 0), EFAULT);
    attributes.handled_access_fs = uint64_t{1} << 63;
    CHECK_FAILS(create(&attributes, sizeof attributes, 0), EINVAL);
    const long ruleset = ruleset_of(everything);
    landlock_path_beneath_attr rule{};
    rule.parent_fd = -1;
    CHECK_FAILS(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), ENOMSG);
    rule.allowed_access = reading;
    CHECK_FAILS(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), EBADF);
    CHECK_FAILS(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 1), EINVAL);
    CHECK_FAILS(add(ruleset, 99, &rule, 0), EINVAL);
    CHECK_FAILS(add(-1, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), EBADF);
    CHECK_FAILS(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, nullptr, 0), EFAULT);
    rule.parent_fd = open(at("/in/file").c_str(), O_PATH);
    CHECK_FAILS(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), EINVAL); // READ_DIR of a file
    CHECK_FAILS(add(rule.parent_fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0), EBADF);
    close(rule.parent_fd);
    CHECK_FAILS(restrict_self(ruleset, 1u << 31), EINVAL);
    const int other = open("/dev/null", O_RDONLY);
    in_child([&] {
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        CHECK_FAILS(restrict_self(other, 0), EBADFD);
        CHECK_FAILS(restrict_self(-1, 0), EBADF);
    });
    close(other);
    close(static_cast<int>(ruleset));
}

void files() {
    in_child([] {
        const long ruleset = ruleset_of(everything);
        allow(ruleset, at("/in"), everything);
        allow(ruleset, at("/read"), reading);
        allow(ruleset, at("/one/file"), LANDLOCK_ACCESS_FS_READ_FILE);
        const int before = open(at("/out/file").c_str(), O_RDONLY);
        enforce(ruleset);
        // What is open stays so.
        char byte = 0;
        CHECK(read(before, &byte, 1) == 1);
        CHECK_FAILS(open(at("/out/file").c_str(), O_RDONLY), EACCES);
        CHECK_FAILS(open(at("/out").c_str(), O_RDONLY | O_DIRECTORY), EACCES);
        CHECK(open(at("/out/file").c_str(), O_PATH) >= 0); // a place is no access
        struct stat status {};
        CHECK(stat(at("/out/file").c_str(), &status) == 0);
        CHECK(open(at("/in/file").c_str(), O_RDWR) >= 0);
        CHECK(open(at("/read/file").c_str(), O_RDONLY) >= 0);
        CHECK_FAILS(open(at("/read/file").c_str(), O_WRONLY), EACCES);
        CHECK(open(at("/one/file").c_str(), O_RDONLY) >= 0);
        CHECK_FAILS(open(at("/one/file").c_str(), O_RDWR), EACCES);
        CHECK_FAILS(open(at("/one/other").c_str(), O_RDONLY), EACCES);
        CHECK_FAILS(open(at("/read/new").c_str(), O_CREAT | O_WRONLY, 0600), EACCES);
        CHECK_FAILS(mkdir(at("/read/new").c_str(), 0700), EACCES);
        CHECK_FAILS(symlink("x", at("/read/new").c_str()), EACCES);
        CHECK_FAILS(mknod(at("/read/new").c_str(), S_IFIFO | 0600, 0), EACCES);
        CHECK_FAILS(unlink(at("/read/file").c_str()), EACCES);
        CHECK_FAILS(rmdir(at("/read/folder").c_str()), EACCES);
        CHECK(mkdir(at("/in/new").c_str(), 0700) == 0);
        touch(at("/in/new/file"));
        CHECK(rename(at("/in/new/file").c_str(), at("/in/new/moved").c_str()) == 0);
        CHECK(rename(at("/in/new/moved").c_str(), at("/in/moved").c_str()) == 0);
        CHECK(link(at("/in/moved").c_str(), at("/in/new/linked").c_str()) == 0);
        CHECK(unlink(at("/in/new/linked").c_str()) == 0);
        CHECK(unlink(at("/in/moved").c_str()) == 0);
        CHECK(rmdir(at("/in/new").c_str()) == 0);
        CHECK_FAILS(rename(at("/in/file").c_str(), at("/read/file").c_str()), EACCES);
        CHECK_FAILS(rename(at("/read/file").c_str(), at("/in/stolen").c_str()), EACCES);
        CHECK_FAILS(link(at("/read/file").c_str(), at("/in/stolen").c_str()), EXDEV);
        CHECK_FAILS(mount("none", at("/in").c_str(), "tmpfs", 0, nullptr), EPERM);
        // Pipes have no place that could be forbidden.
        int ends[2];
        CHECK(pipe(ends) == 0);
        in_child([] { CHECK_FAILS(open(at("/out/file").c_str(), O_RDONLY), EACCES); });
    });
}

void unhandled() {
    in_child([] {
        // Only writing is handled: reading stays free.
        enforce(ruleset_of(LANDLOCK_ACCESS_FS_WRITE_FILE));
        CHECK(open(at("/out/file").c_str(), O_RDONLY) >= 0);
        CHECK_FAILS(open(at("/out/file").c_str(), O_WRONLY), EACCES);
        CHECK(mkdir(at("/in/free").c_str(), 0700) == 0);
        CHECK(rmdir(at("/in/free").c_str()) == 0);
        // Moving between directories always needs the right.
        CHECK_FAILS(rename(at("/in/file").c_str(), at("/out/moved").c_str()), EXDEV);
    });
}

void stacked() {
    in_child([] {
        long ruleset = ruleset_of(LANDLOCK_ACCESS_FS_READ_FILE);
        allow(ruleset, at("/in"), LANDLOCK_ACCESS_FS_READ_FILE);
        allow(ruleset, at("/read"), LANDLOCK_ACCESS_FS_READ_FILE);
        enforce(ruleset);
        CHECK(open(at("/in/file").c_str(), O_RDONLY) >= 0);
        ruleset = ruleset_of(LANDLOCK_ACCESS_FS_READ_FILE);
        // A later layer gives nothing back.
        landlock_path_beneath_attr rule{};
        rule.allowed_access = LANDLOCK_ACCESS_FS_READ_FILE;
        for (const char* name : {"/in", "/out"}) {
            rule.parent_fd = open(at(name).c_str(), O_PATH);
            CHECK(add(ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0);
        }
        enforce(ruleset);
        CHECK(open(at("/in/file").c_str(), O_RDONLY) >= 0);
        CHECK_FAILS(open(at("/read/file").c_str(), O_RDONLY), EACCES);
        CHECK_FAILS(open(at("/out/file").c_str(), O_RDONLY), EACCES);
        for (int layers = 2; layers < 16; layers++) {
            const long more = ruleset_of(LANDLOCK_ACCESS_FS_MAKE_CHAR);
            CHECK(restrict_self(more, 0) == 0);
            close(static_cast<int>(more));
        }
        const long more = ruleset_of(LANDLOCK_ACCESS_FS_MAKE_CHAR);
        CHECK_FAILS(restrict_self(more, 0), E2BIG);
    });
}

// Who is restricted does not get out by the memory of somebody who is not.
void tracing() {
    int go[2];
    CHECK(pipe(go) == 0);
    const pid_t free_one = start([] {
        for (;;)
            pause();
    });
    in_child([&] {
        char byte = 0;
        // Made before the restriction, so without it: may not be traced by its own wish either.
        const pid_t free_child = start([&] {
            CHECK(read(go[0], &byte, 1) == 1);
            CHECK_FAILS(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr), EPERM);
        });
        enforce(ruleset_of(everything));
        CHECK(write(go[1], "g", 1) == 1);
        int status = -1;
        CHECK(waitpid(free_child, &status, 0) == free_child && status == 0);
        CHECK_FAILS(ptrace(PTRACE_ATTACH, free_one, nullptr, nullptr), EPERM);
        CHECK_FAILS(ptrace(PTRACE_SEIZE, free_one, nullptr, nullptr), EPERM);
        // One that is as restricted is another matter.
        const pid_t inside = start([] {
            for (;;)
                pause();
        });
        CHECK(ptrace(PTRACE_SEIZE, inside, nullptr, nullptr) == 0);
        CHECK(kill(inside, SIGKILL) == 0 && waitpid(inside, &status, 0) == inside);
    });
    CHECK(kill(free_one, SIGKILL) == 0 && waitpid(free_one, nullptr, 0) == free_one);
    close(go[0]);
    close(go[1]);
}

void privileges() {
    if (getuid() != 0)
        return;
    in_child([] {
        const long ruleset = ruleset_of(everything);
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        CHECK_FAILS(restrict_self(ruleset, 0), EPERM);
        // Whoever has the right in a user namespace of his own needs no promise either.
        if (unshare(CLONE_NEWUSER) == 0) // not allowed everywhere
            CHECK(restrict_self(ruleset, 0) == 0);
    });
}

// A ruleset, or who is restricted by one, does not keep a file system mounted.
void unmounting() {
    if (geteuid() != 0)
        return;
    in_child([] {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
        const std::string place = at("/mounted");
        CHECK(mkdir(place.c_str(), 0755) == 0);
        CHECK(mount("t", place.c_str(), "tmpfs", 0, nullptr) == 0);
        touch(place + "/file");
        const long ruleset = ruleset_of(everything);
        for (const std::string& of : {std::string("/"), place, place + "/file"})
            allow(ruleset, of, LANDLOCK_ACCESS_FS_READ_FILE);
        int ready[2], go[2];
        CHECK(pipe(ready) == 0 && pipe(go) == 0);
        const pid_t restricted = start([&] {
            enforce(ruleset);
            CHECK(close(open((place + "/file").c_str(), O_RDONLY)) == 0);
            CHECK(write(ready[1], "", 1) == 1);
            char byte;
            CHECK(read(go[0], &byte, 1) == 1);
            // What the rules were about is gone.
            CHECK_FAILS(open((place + "/file").c_str(), O_RDONLY), ENOENT);
            CHECK_FAILS(open((place + "/other").c_str(), O_WRONLY), EACCES);
        });
        char byte;
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(umount(place.c_str()) == 0);
        CHECK(mount("t", place.c_str(), "tmpfs", 0, nullptr) == 0);
        touch(place + "/other");
        CHECK(write(go[1], "", 1) == 1);
        int status = -1;
        CHECK(waitpid(restricted, &status, 0) == restricted && status == 0);
        CHECK(umount(place.c_str()) == 0 && rmdir(place.c_str()) == 0);
        close(static_cast<int>(ruleset));
    });
}

// Many rules in many layers, asked about deep down in the tree.
void many_rules() {
    constexpr int rules = 1200, layers = 16, depth = 400, looks = 100;
    const std::string base = at("/many");
    CHECK(mkdir(base.c_str(), 0755) == 0);
    const auto file = [&](int number) { return base + "/f" + std::to_string(number); };
    for (int i = 0; i < rules; i++)
        CHECK(close(open(file(i).c_str(), O_CREAT | O_WRONLY, 0644)) == 0);
    in_child([&] {
        const long ruleset = ruleset_of(LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_READ_FILE);
        for (int i = 1; i < rules; i++)
            allow(ruleset, file(i), LANDLOCK_ACCESS_FS_READ_FILE);
        CHECK(chdir(base.c_str()) == 0);
        for (int i = 0; i < depth; i++)
            CHECK(mkdir("d", 0755) == 0 && chdir("d") == 0);
        CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        for (int i = 0; i < layers; i++)
            CHECK(restrict_self(ruleset, 0) == 0);
        for (int i = 0; i < looks; i++)
            CHECK_FAILS(open(".", O_RDONLY | O_DIRECTORY), EACCES);
        for (const int i : {1, 2, rules / 2, rules - 1})
            CHECK(close(open(file(i).c_str(), O_RDONLY)) == 0);
        CHECK_FAILS(open(file(0).c_str(), O_RDONLY), EACCES);
    });
    CHECK(chdir(base.c_str()) == 0);
    for (int i = 0; i < depth; i++)
        CHECK(chdir("d") == 0);
    for (int i = 0; i < depth; i++)
        CHECK(chdir("..") == 0 && rmdir("d") == 0);
    CHECK(chdir("/") == 0);
    for (int i = 0; i < rules; i++)
        CHECK(unlink(file(i).c_str()) == 0);
    CHECK(rmdir(base.c_str()) == 0);
}

} // namespace

int main() {
    const long version = create(nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (version < 0 && (errno == ENOSYS || errno == EOPNOTSUPP || errno == EPERM))
        return 0; // not here
    CHECK(version >= 2);
    char place[] = "/tmp/joey-landlock-XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    root = place;
    for (const char* name : {"/in", "/out", "/read", "/one"}) {
        CHECK(mkdir(at(name).c_str(), 0755) == 0);
        touch(at(name) + "/file");
    }
    touch(at("/one/other"));
    CHECK(mkdir(at("/read/folder").c_str(), 0755) == 0);
    arguments();
    files();
    unhandled();
    stacked();
    tracing();
    privileges();
    unmounting();
    many_rules();
    CHECK(rmdir(at("/read/folder").c_str()) == 0 && unlink(at("/one/other").c_str()) == 0);
    for (const char* name : {"/in", "/out", "/read", "/one"})
        CHECK(unlink((at(name) + "/file").c_str()) == 0 && rmdir(at(name).c_str()) == 0);
    CHECK(rmdir(place) == 0);
    return 0;
}
