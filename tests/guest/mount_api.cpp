// Mounting in steps: fsopen(2), fsconfig(2), fsmount(2), fspick(2), open_tree(2), move_mount(2),
// mount_setattr(2). As root, in mount namespaces of its own.
#include <atomic>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

extern "C" int mount(const char* source, const char* target, const char* type, unsigned long flags,
                     const void* data); // sys/mount.h and linux/mount.h do not agree
extern "C" int umount2(const char* target, int flags);

namespace {

constexpr int umount_detach = 2;
constexpr unsigned recursive = 0x8000; // AT_RECURSIVE

template <typename F>
void in_child(F&& body) {
    std::fflush(nullptr);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
        CHECK(mount("base", "/tmp", "tmpfs", 0, "size=1m,mode=0755") == 0);
        CHECK(chdir("/tmp") == 0);
        for (const char* name : {"a", "b", "c"})
            CHECK(mkdir(name, 0755) == 0);
        body();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int fsopen(const char* type, unsigned flags) {
    return static_cast<int>(syscall(SYS_fsopen, type, flags));
}
int fsconfig(int fd, unsigned command, const char* key, const void* value, int aux) {
    return static_cast<int>(syscall(SYS_fsconfig, fd, command, key, value, aux));
}
int fsmount(int fd, unsigned flags, unsigned attributes) {
    return static_cast<int>(syscall(SYS_fsmount, fd, flags, attributes));
}
int fspick(int directory, const char* name, unsigned flags) {
    return static_cast<int>(syscall(SYS_fspick, directory, name, flags));
}
int open_tree(int directory, const char* name, unsigned flags) {
    return static_cast<int>(syscall(SYS_open_tree, directory, name, flags));
}
int move_mount(int from, const char* from_name, int to, const char* to_name, unsigned flags) {
    return static_cast<int>(syscall(SYS_move_mount, from, from_name, to, to_name, flags));
}
int mount_setattr(int directory, const char* name, unsigned flags, mount_attr* attributes,
                  size_t size) {
    return static_cast<int>(syscall(SYS_mount_setattr, directory, name, flags, attributes, size));
}

unsigned long flags_of(const char* place) {
    struct statvfs status {};
    CHECK(statvfs(place, &status) == 0);
    return status.f_flag;
}

void new_file_system() {
    CHECK_FAILS(fsopen("nosuchfs", 0), ENODEV);
    CHECK_FAILS(fsopen("tmpfs", 0x100), EINVAL);
    const int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
    CHECK(context >= 0 && fcntl(context, F_GETFD) == FD_CLOEXEC);
    CHECK_FAILS(fsmount(context, 0, 0), EINVAL); // not made yet
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_STRING, nullptr, "x", 0), EINVAL);
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_STRING, "size", nullptr, 0), EINVAL);
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_FLAG, "ro", "x", 0), EINVAL);
    CHECK_FAILS(fsconfig(context, 99, nullptr, nullptr, 0), EOPNOTSUPP);
    CHECK_FAILS(fsconfig(-1, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), EINVAL);
    CHECK_FAILS(fsconfig(1000, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), EBADF);
    CHECK(fsconfig(context, FSCONFIG_SET_STRING, "source", "here", 0) == 0);
    CHECK(fsconfig(context, FSCONFIG_SET_STRING, "size", "64k", 0) == 0);
    CHECK(fsconfig(context, FSCONFIG_SET_STRING, "mode", "0700", 0) == 0);
    CHECK(fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
    CHECK_FAILS(fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0), EBUSY);
    CHECK_FAILS(fsmount(context, 0x100, 0), EINVAL);
    CHECK_FAILS(fsmount(context, 0, 0x4000'0000), EINVAL);
    const int tree = fsmount(context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    CHECK(tree >= 0 && fcntl(tree, F_GETFD) == FD_CLOEXEC);
    close(context);
    // It can be used before it is anywhere.
    const int file = openat(tree, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    CHECK(file >= 0);
    close(file);
    CHECK(access("a/file", F_OK) != 0);
    CHECK_FAILS(move_mount(tree, "", AT_FDCWD, "a", 0), ENOENT);
    CHECK_FAILS(move_mount(tree, "", AT_FDCWD, "a", 0x8000'0000), EINVAL);
    CHECK(move_mount(tree, "", AT_FDCWD, "a", MOVE_MOUNT_F_EMPTY_PATH) == 0);
    CHECK(access("a/file", F_OK) == 0);
    CHECK((flags_of("a") & (ST_NODEV | ST_NOEXEC | ST_NOSUID)) == (ST_NODEV | ST_NOEXEC));
    struct stat status {};
    CHECK(stat("a", &status) == 0 && (status.st_mode & 07777) == 0700);
    // The descriptor stands for the mount still.
    CHECK(move_mount(tree, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH) == 0);
    CHECK(access("b/file", F_OK) == 0 && access("a/file", F_OK) != 0);
    close(tree);
    CHECK(access("b/file", F_OK) == 0);
    CHECK(umount2("b", 0) == 0);
}

// fsopen(2): what is wrong with a parameter can be read.
void complaints() {
    const int context = fsopen("tmpfs", 0);
    char text[128];
    CHECK_FAILS(read(context, text, sizeof text), ENODATA);
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_STRING, "nonsense", "1", 0), EINVAL);
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_STRING, "mode", "9", 0), EINVAL);
    CHECK(fsconfig(context, FSCONFIG_SET_STRING, "size", "1m", 0) == 0);
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_FLAG, "size", nullptr, 0), EINVAL);
    for (const std::string expected :
         {"e tmpfs: Unknown parameter 'nonsense'\n", "e tmpfs: Bad value for 'mode'\n",
          "e tmpfs: Bad value for 'size'\n"})
        CHECK(read(context, text, sizeof text) == static_cast<ssize_t>(expected.size()) &&
              expected.compare(0, expected.size(), text, expected.size()) == 0);
    CHECK_FAILS(read(context, text, sizeof text), ENODATA);
    CHECK_FAILS(fsconfig(context, FSCONFIG_SET_FLAG, "other", nullptr, 0), EINVAL);
    CHECK_FAILS(read(context, text, 5), EMSGSIZE);
    // The context is as good as before.
    CHECK(fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
    close(context);
}

void never_attached() {
    const int context = fsopen("tmpfs", 0);
    CHECK(fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
    const int tree = fsmount(context, 0, 0);
    CHECK(tree >= 0);
    CHECK(mkdirat(tree, "x", 0755) == 0);
    close(context);
    close(tree); // and it is gone
    const int bad = fsopen("tmpfs", 0);
    CHECK(fsconfig(bad, FSCONFIG_SET_FLAG, "ro", nullptr, 0) == 0);
    CHECK(fsconfig(bad, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
    const int read_only = fsmount(bad, 0, 0);
    CHECK(read_only >= 0);
    CHECK_FAILS(mkdirat(read_only, "x", 0755), EROFS);
}

void change_by_pick() {
    CHECK(mount("none", "a", "tmpfs", 0, "size=64k") == 0);
    CHECK_FAILS(fspick(AT_FDCWD, "b", 0), EINVAL); // no mount
    CHECK_FAILS(fspick(AT_FDCWD, "nowhere", 0), ENOENT);
    CHECK_FAILS(fspick(AT_FDCWD, "a", 0x100), EINVAL);
    const int context = fspick(AT_FDCWD, "a", FSPICK_CLOEXEC);
    CHECK(context >= 0);
    CHECK(fsconfig(context, FSCONFIG_SET_STRING, "size", "128k", 0) == 0);
    CHECK(fsconfig(context, FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) == 0);
    struct statvfs status {};
    CHECK(statvfs("a", &status) == 0 && status.f_blocks * status.f_frsize == 131072);
    CHECK(fsconfig(context, FSCONFIG_SET_FLAG, "ro", nullptr, 0) == 0);
    CHECK(fsconfig(context, FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) == 0);
    CHECK_FAILS(mkdir("a/x", 0755), EROFS);
    CHECK(fsconfig(context, FSCONFIG_SET_FLAG, "rw", nullptr, 0) == 0);
    CHECK(fsconfig(context, FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) == 0);
    CHECK(mkdir("a/x", 0755) == 0);
    close(context);
    // What a mount has for itself is not the file system's, which another one shows too.
    CHECK(mount("a", "b", nullptr, MS_BIND, nullptr) == 0);
    CHECK(mount("none", "b", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID, nullptr) == 0);
    const int bound = fspick(AT_FDCWD, "b", 0);
    CHECK(fsconfig(bound, FSCONFIG_SET_STRING, "size", "64k", 0) == 0);
    CHECK(fsconfig(bound, FSCONFIG_CMD_RECONFIGURE, nullptr, nullptr, 0) == 0);
    close(bound);
    CHECK(mkdir("a/y", 0755) == 0);
    CHECK_FAILS(mkdir("b/z", 0755), EROFS);
    CHECK((flags_of("b") & ST_NOSUID) != 0);
}

void trees() {
    CHECK(mount("one", "a", "tmpfs", 0, nullptr) == 0);
    CHECK(mkdir("a/sub", 0755) == 0);
    CHECK(mount("two", "a/sub", "tmpfs", 0, nullptr) == 0);
    CHECK(mkdir("a/sub/deep", 0755) == 0);
    CHECK_FAILS(open_tree(AT_FDCWD, "a", recursive), EINVAL); // only with a copy
    CHECK_FAILS(open_tree(AT_FDCWD, "a", 0x4000'0000), EINVAL);
    CHECK_FAILS(open_tree(AT_FDCWD, "nowhere", 0), ENOENT);
    // As O_PATH: the mount itself
    const int place = open_tree(AT_FDCWD, "a", OPEN_TREE_CLOEXEC);
    CHECK(place >= 0);
    CHECK(move_mount(place, "", AT_FDCWD, "b", MOVE_MOUNT_F_EMPTY_PATH) == 0);
    CHECK(access("b/sub/deep", F_OK) == 0);
    close(place);
    // A copy, alone and with what is mounted below
    const int single = open_tree(AT_FDCWD, "b", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    CHECK(single >= 0 && faccessat(single, "sub/deep", F_OK, 0) != 0);
    const int whole = open_tree(AT_FDCWD, "b", OPEN_TREE_CLONE | recursive);
    CHECK(whole >= 0 && faccessat(whole, "sub/deep", F_OK, 0) == 0);
    CHECK(move_mount(whole, "", AT_FDCWD, "c", MOVE_MOUNT_F_EMPTY_PATH) == 0);
    CHECK(access("c/sub/deep", F_OK) == 0);
    close(single);
    close(whole);
    CHECK(access("c/sub/deep", F_OK) == 0);
    CHECK_FAILS(move_mount(AT_FDCWD, "c", AT_FDCWD, "c/sub", 0), ELOOP);
    CHECK_FAILS(move_mount(AT_FDCWD, "a", AT_FDCWD, "b", 0), EINVAL);
    CHECK(umount2("c", umount_detach) == 0 && umount2("b", umount_detach) == 0);
}

void attributes() {
    CHECK(mount("one", "a", "tmpfs", 0, nullptr) == 0);
    CHECK(mkdir("a/sub", 0755) == 0);
    CHECK(mount("two", "a/sub", "tmpfs", MS_NOEXEC, nullptr) == 0);
    mount_attr wanted{};
    CHECK_FAILS(mount_setattr(AT_FDCWD, "a", 0, &wanted, 8), EINVAL);
    CHECK_FAILS(mount_setattr(AT_FDCWD, "a", 0x4000'0000, &wanted, sizeof wanted), EINVAL);
    CHECK(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted) == 0);
    wanted.attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID;
    CHECK_FAILS(mount_setattr(AT_FDCWD, "b", 0, &wanted, sizeof wanted), EINVAL); // no mount
    CHECK_FAILS(mount_setattr(AT_FDCWD, "nowhere", 0, &wanted, sizeof wanted), ENOENT);
    CHECK(mount_setattr(AT_FDCWD, "a", recursive, &wanted, sizeof wanted) == 0);
    CHECK((flags_of("a") & (ST_RDONLY | ST_NOSUID)) == (ST_RDONLY | ST_NOSUID));
    CHECK((flags_of("a/sub") & (ST_RDONLY | ST_NOSUID | ST_NOEXEC)) ==
          (ST_RDONLY | ST_NOSUID | ST_NOEXEC));
    wanted = {};
    wanted.attr_clr = MOUNT_ATTR_RDONLY;
    CHECK(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted) == 0);
    CHECK((flags_of("a") & ST_RDONLY) == 0 && (flags_of("a/sub") & ST_RDONLY) != 0);
    // The times are one setting.
    wanted = {};
    wanted.attr_set = MOUNT_ATTR_NOATIME;
    CHECK_FAILS(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted), EINVAL);
    wanted.attr_clr = MOUNT_ATTR__ATIME;
    CHECK(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted) == 0);
    CHECK((flags_of("a") & (ST_NOATIME | ST_RELATIME)) == ST_NOATIME);
    // All or nothing: somebody writes below.
    const int writer = open("a/x", O_CREAT | O_WRONLY, 0644);
    CHECK(writer >= 0);
    wanted = {};
    wanted.attr_set = MOUNT_ATTR_RDONLY;
    CHECK_FAILS(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted), EBUSY);
    close(writer);
    wanted = {};
    wanted.propagation = MS_SHARED;
    CHECK(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted) == 0);
    CHECK(mount("a", "b", nullptr, MS_BIND, nullptr) == 0);
    CHECK(umount2("a/sub", 0) == 0);
    CHECK(mount("three", "a/sub", "tmpfs", 0, nullptr) == 0);
    CHECK(mkdir("a/sub/seen", 0755) == 0 && access("b/sub/seen", F_OK) == 0);
    wanted.propagation = MS_SHARED | MS_PRIVATE;
    CHECK_FAILS(mount_setattr(AT_FDCWD, "a", 0, &wanted, sizeof wanted), EINVAL);
}

// What another thread does with a number each time that it is given one.
class Beside {
public:
    explicit Beside(void (*act)(int)) : act_(act) {
        CHECK(pthread_create(&thread_, nullptr, run, this) == 0);
    }
    ~Beside() {
        give(ended);
        CHECK(pthread_join(thread_, nullptr) == 0);
    }
    Beside(const Beside&) = delete;
    Beside& operator=(const Beside&) = delete;
    void give(int number) { number_.store(number); }
    void wait() const {
        while (number_.load() != nothing)
            sched_yield();
    }

private:
    static constexpr int nothing = -1, ended = -2;
    static void* run(void* self) {
        auto& own = *static_cast<Beside*>(self);
        for (int number; (number = own.number_.load()) != ended;) {
            if (number == nothing) {
                sched_yield();
                continue;
            }
            own.act_(number);
            own.number_.store(nothing);
        }
        return nullptr;
    }
    void (*const act_)(int);
    std::atomic<int> number_{nothing};
    pthread_t thread_{};
};

// One thread hangs a tree up while another one closes its only descriptor.
void closed_meanwhile() {
    Beside closer([](int fd) { close(fd); });
    for (int round = 0; round < 1000; round++) {
        const int context = fsopen("tmpfs", 0);
        CHECK(fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0);
        const int tree = fsmount(context, 0, 0);
        CHECK(tree >= 0 && close(context) == 0);
        closer.give(tree);
        const bool moved = move_mount(tree, "", AT_FDCWD, "a", MOVE_MOUNT_F_EMPTY_PATH) == 0;
        CHECK(moved || errno == EBADF || errno == EINVAL || errno == ENOENT);
        closer.wait();
        if (moved)
            CHECK(umount2("a", umount_detach) == 0);
    }
}

// One thread changes a mount, and mounts in it, while another one takes it away.
void unmounted_meanwhile() {
    Beside remover([](int) { CHECK(umount2("b", umount_detach) == 0); });
    for (int round = 0; round < 1000; round++) {
        CHECK(mount("none", "b", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("b/in", 0755) == 0);
        remover.give(0);
        CHECK(mount("none", "b", nullptr, MS_SHARED, nullptr) == 0 || errno == EINVAL);
        CHECK(mount("none", "b/in", "tmpfs", 0, nullptr) == 0 || errno == EINVAL ||
              errno == ENOENT);
        remover.wait();
    }
    CHECK_FAILS(umount2("b", 0), EINVAL);
    // The groups are as they were.
    CHECK(mount("none", "/tmp", nullptr, MS_SHARED, nullptr) == 0);
    CHECK(mount("none", "c", "tmpfs", 0, nullptr) == 0 && umount2("c", 0) == 0);
}

// The same of a tree in which a locked mount stays where it is, to hide what is below it.
void copied_meanwhile() {
    CHECK(mount("none", "a", "tmpfs", 0, nullptr) == 0);
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return; // user namespaces are off
    Beside remover([](int) { CHECK(umount2("b", umount_detach) == 0); });
    for (int round = 0; round < 60; round++) {
        CHECK(mount(".", "b", nullptr, MS_BIND | MS_REC, nullptr) == 0);
        const int tree = open("b", O_PATH | O_DIRECTORY | O_CLOEXEC);
        CHECK(tree >= 0);
        remover.give(0);
        mount_attr wanted{};
        wanted.attr_set = MOUNT_ATTR_NOSUID;
        CHECK(mount_setattr(tree, "", AT_EMPTY_PATH | recursive, &wanted, sizeof wanted) == 0 ||
              errno == EINVAL);
        const int copy = open_tree(tree, "", OPEN_TREE_CLONE | recursive | AT_EMPTY_PATH);
        CHECK(copy >= 0 || errno == EINVAL);
        if (copy >= 0)
            close(copy);
        remover.wait();
        close(tree);
    }
}

void without_rights() {
    CHECK(setresuid(1000, 1000, 1000) == 0);
    CHECK_FAILS(fsopen("tmpfs", 0), EPERM);
    CHECK_FAILS(fspick(AT_FDCWD, "/tmp", 0), EPERM);
    CHECK_FAILS(open_tree(AT_FDCWD, "/tmp", OPEN_TREE_CLONE), EPERM);
    CHECK_FAILS(move_mount(AT_FDCWD, "a", AT_FDCWD, "b", 0), EPERM);
    CHECK(close(open_tree(AT_FDCWD, "/tmp", 0)) == 0);
    CHECK_FAILS(syscall(SYS_fsmount, 0, 0, 0), EPERM);
}

} // namespace

int main() {
    if (geteuid() != 0) {
        std::puts("needs root: nothing tested");
        return 0;
    }
    in_child(new_file_system);
    in_child(complaints);
    in_child(never_attached);
    in_child(change_by_pick);
    in_child(trees);
    in_child(attributes);
    in_child(closed_meanwhile);
    in_child(unmounted_meanwhile);
    in_child(copied_meanwhile);
    in_child(without_rights);
    return 0;
}
