// mount(2), umount2(2), pivot_root(2), chroot(2), propagation. mount_namespaces(7).
// As root, in mount namespaces of its own.
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/magic.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "tests/guest/file_support.hpp"

namespace {

// The last line of mountinfo about a place, from its options on; empty: none.
std::string info(const std::string& place) {
    const std::string all = contents_of("/proc/self/mountinfo");
    std::string found;
    for (size_t at = 0; at < all.size();) {
        const size_t end = all.find('\n', at);
        const std::string line = all.substr(at, end - at);
        const size_t here = line.find(" " + place + " ");
        if (here != std::string::npos)
            found = line.substr(here + place.size() + 2);
        at = end + 1;
    }
    return found;
}

bool has(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// A private namespace with a tmpfs to work in; goes with the process.
constexpr const char* base = "/tmp";
void begin() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("base", base, "tmpfs", 0, "size=1m,mode=0755") == 0);
    CHECK(chdir(base) == 0);
    for (const char* name : {"a", "b", "c", "d"})
        CHECK(mkdir(name, 0755) == 0);
    make_file("file");
}

void errors() {
    in_child([] {
        begin();
        CHECK_FAILS(mount("none", "nowhere", "tmpfs", 0, nullptr), ENOENT);
        CHECK_FAILS(mount("none", "a", "nosuchfs", 0, nullptr), ENODEV);
        CHECK_FAILS(mount("none", "file", "tmpfs", 0, nullptr), ENOTDIR);
        CHECK_FAILS(mount("none", "a", "tmpfs", 0, "size=lots"), EINVAL);
        CHECK_FAILS(mount("none", "a", "tmpfs", 0, "nosuchoption=1"), EINVAL);
        CHECK_FAILS(mount("none", "a", nullptr, 0, nullptr), EINVAL);
        CHECK_FAILS(mount(nullptr, "a", nullptr, MS_BIND, nullptr), EINVAL);
        CHECK_FAILS(mount("nowhere", "a", nullptr, MS_BIND, nullptr), ENOENT);
        CHECK_FAILS(mount("file", "a", nullptr, MS_BIND, nullptr), ENOTDIR);
        CHECK_FAILS(mount("a", "file", nullptr, MS_BIND, nullptr), ENOTDIR);
        CHECK_FAILS(mount("a", "b", nullptr, MS_MOVE, nullptr), EINVAL); // no mount
        CHECK_FAILS(mount("none", "a", nullptr, MS_REMOUNT, nullptr), EINVAL);
        CHECK_FAILS(mount("none", "a", nullptr, MS_SHARED, nullptr), EINVAL);
        CHECK_FAILS(mount("none", ".", nullptr, MS_SHARED | MS_PRIVATE, nullptr), EINVAL);
        CHECK_FAILS(mount("none", ".", nullptr, MS_SHARED | MS_NOSUID, nullptr), EINVAL);
        CHECK_FAILS(umount("a"), EINVAL);
        CHECK_FAILS(umount("nowhere"), ENOENT);
        CHECK_FAILS(umount2("a", 0x100), EINVAL);
        CHECK_FAILS(umount2("a", MNT_EXPIRE | MNT_DETACH), EINVAL);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(mount("none", "a", "tmpfs", 0, nullptr), EPERM);
        CHECK_FAILS(umount(base), EPERM);
        CHECK_FAILS(chroot("a"), EPERM);
        CHECK_FAILS(syscall(SYS_pivot_root, ".", "."), EPERM);
    });
}

void flags() {
    in_child([] {
        begin();
        CHECK(mount("none", "a", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_NOATIME,
                    "size=64k,nr_inodes=10,mode=0700") == 0);
        CHECK(has(info("/tmp/a"), "rw,nosuid,nodev,noexec,noatime"));
        struct statvfs status {};
        CHECK(statvfs("a", &status) == 0);
        CHECK((status.f_flag & (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME)) ==
              (ST_NOSUID | ST_NODEV | ST_NOEXEC | ST_NOATIME));
        CHECK(status.f_blocks * status.f_frsize == 65536 && status.f_files == 10);
        struct stat root {};
        CHECK(stat("a", &root) == 0 && (root.st_mode & 07777) == 0700);
        // noexec, nodev
        const int program = open("a/program", O_CREAT | O_WRONLY | O_CLOEXEC, 0755);
        CHECK(write(program, "#!/bin/sh\n", 10) == 10);
        close(program);
        char* const arguments[] = {const_cast<char*>("program"), nullptr};
        CHECK_FAILS(execve("a/program", arguments, nullptr), EACCES);
        CHECK(mknod("a/null", S_IFCHR | 0666, makedev(1, 3)) == 0);
        CHECK_FAILS(open("a/null", O_RDONLY), EACCES);
        CHECK(mount("none", "a", nullptr, MS_REMOUNT | MS_BIND | MS_NOSUID, nullptr) == 0);
        CHECK(close(open("a/null", O_RDONLY)) == 0);
        CHECK(!has(info("/tmp/a"), "nodev"));
        // read-only, of the mount alone
        CHECK(mount("a", "b", nullptr, MS_BIND, nullptr) == 0);
        CHECK(mount("none", "b", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr) == 0);
        CHECK_FAILS(open("b/new", O_CREAT | O_WRONLY, 0644), EROFS);
        CHECK_FAILS(mkdir("b/new", 0755), EROFS);
        CHECK_FAILS(access("b", W_OK), EROFS);
        CHECK(close(open("a/new", O_CREAT | O_WRONLY, 0644)) == 0);
        // of the file system: all mounts of it
        CHECK(mount("none", "a", nullptr, MS_REMOUNT | MS_RDONLY, nullptr) == 0);
        CHECK_FAILS(open("a/other", O_CREAT | O_WRONLY, 0644), EROFS);
        CHECK(mount("none", "b", nullptr, MS_REMOUNT | MS_BIND, nullptr) == 0);
        CHECK_FAILS(open("b/other", O_CREAT | O_WRONLY, 0644), EROFS);
        CHECK(mount("none", "a", nullptr, MS_REMOUNT, "size=128k") == 0);
        CHECK(statvfs("a", &status) == 0 && status.f_blocks * status.f_frsize == 131072);
        const int writer = open("a/other", O_CREAT | O_WRONLY, 0644);
        CHECK(writer >= 0);
        CHECK_FAILS(mount("none", "a", nullptr, MS_REMOUNT | MS_RDONLY, nullptr), EBUSY);
        CHECK_FAILS(mount("none", "a", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY, nullptr), EBUSY);
        close(writer);
        // inodes run out
        for (int i = 0; i < 20; i++)
            if (mkdir(("a/d" + std::to_string(i)).c_str(), 0755) != 0) {
                CHECK(errno == ENOSPC && i > 2);
                return;
            }
        CHECK(false);
    });
}

void binds_and_moves() {
    in_child([] {
        begin();
        CHECK(mount("one", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("a/sub", 0755) == 0);
        CHECK(mount("two", "a/sub", "tmpfs", 0, nullptr) == 0);
        make_file("a/sub/x");
        CHECK(mount("a", "b", nullptr, MS_BIND, nullptr) == 0);
        CHECK(access("b/sub/x", F_OK) != 0);
        CHECK(mount("a", "c", nullptr, MS_BIND | MS_REC, nullptr) == 0);
        CHECK(access("c/sub/x", F_OK) == 0);
        // a part of it, and a file
        CHECK(mount("a/sub", "d", nullptr, MS_BIND, nullptr) == 0);
        CHECK(access("d/x", F_OK) == 0);
        CHECK(mount("a/sub/x", "file", nullptr, MS_BIND, nullptr) == 0);
        struct stat one {
        }, two{};
        CHECK(stat("file", &one) == 0 && stat("a/sub/x", &two) == 0 && one.st_ino == two.st_ino);
        CHECK(umount("file") == 0);
        // moves
        CHECK(mkdir("e", 0755) == 0);
        CHECK(mount("a", "e", nullptr, MS_MOVE, nullptr) == 0);
        CHECK(access("e/sub/x", F_OK) == 0 && access("a/sub", F_OK) != 0);
        CHECK_FAILS(mount("e", "e/sub", nullptr, MS_MOVE, nullptr), ELOOP);
        CHECK_FAILS(mount("e", "file", nullptr, MS_MOVE, nullptr), EINVAL);
        // busy, lazy
        CHECK_FAILS(umount("e"), EBUSY); // holds another mount
        const int held = open("e/sub/x", O_RDONLY | O_CLOEXEC);
        CHECK_FAILS(umount("e/sub"), EBUSY);
        CHECK(umount2("e", MNT_DETACH) == 0);
        CHECK(access("e/sub", F_OK) != 0 && info("/tmp/e").empty());
        char byte = 0;
        CHECK(read(held, &byte, 1) == 0);
        close(held);
        // MNT_EXPIRE: twice, without use in between
        CHECK(mount("three", "e", "tmpfs", 0, nullptr) == 0);
        CHECK_FAILS(umount2("e", MNT_EXPIRE), EAGAIN);
        CHECK(access("e/nothing", F_OK) != 0);
        CHECK_FAILS(umount2("e", MNT_EXPIRE), EAGAIN);
        CHECK(umount2("e", MNT_EXPIRE) == 0);
        // UMOUNT_NOFOLLOW
        CHECK(mount("four", "e", "tmpfs", 0, nullptr) == 0);
        CHECK(symlink("e", "link") == 0);
        CHECK_FAILS(umount2("link", UMOUNT_NOFOLLOW), EINVAL);
        CHECK(umount2("link", 0) == 0);
        // stacked: the last one is on top
        CHECK(mount("five", "e", "tmpfs", 0, nullptr) == 0);
        make_file("e/lower");
        CHECK(mount("six", "e", "tmpfs", 0, nullptr) == 0);
        CHECK(access("e/lower", F_OK) != 0);
        CHECK(umount("e") == 0 && access("e/lower", F_OK) == 0 && umount("e") == 0);
    });
}

// Who stands in a directory that is moved out of what a bind mount shows does not get further up.
void moved_out() {
    in_child([] {
        begin();
        CHECK(mkdir("a/shown", 0755) == 0 && mkdir("a/shown/deep", 0755) == 0);
        make_file("a/hidden");
        CHECK(mount("a/shown", "b", nullptr, MS_BIND, nullptr) == 0);
        CHECK(chdir("b/deep") == 0);
        CHECK(access("..", F_OK) == 0);
        CHECK(rename("/tmp/a/shown/deep", "/tmp/a/deep") == 0);
        CHECK_FAILS(chdir(".."), ENOENT);
        CHECK_FAILS(access("../hidden", F_OK), ENOENT);
        CHECK_FAILS(open("../../file", O_RDONLY), ENOENT);
        CHECK(access(".", F_OK) == 0);
        CHECK(rename("/tmp/a/deep", "/tmp/a/shown/deep") == 0);
        CHECK(chdir("..") == 0 && access("../file", F_OK) == 0);
    });
}

void no_symlinks() {
#ifndef MS_NOSYMFOLLOW
    constexpr unsigned long MS_NOSYMFOLLOW = 256;
#endif
    in_child([] {
        begin();
        CHECK(mount("none", "a", "tmpfs", MS_NOSYMFOLLOW, nullptr) == 0);
        CHECK(symlink("/", "a/root") == 0);
        CHECK_FAILS(open("a/root", O_RDONLY), ELOOP);
        CHECK_FAILS(access("a/root/tmp", F_OK), ELOOP);
        char text[8];
        CHECK(readlink("a/root", text, sizeof text) == 1);
        CHECK(has(info("/tmp/a"), "nosymfollow"));
        // statfs(2), ST_NOSYMFOLLOW: younger than the C library's names.
        constexpr unsigned long without_symlinks = 0x2000;
        struct statfs status {};
        CHECK(statfs("a", &status) == 0);
        CHECK((static_cast<unsigned long>(status.f_flags) & without_symlinks) != 0);
        CHECK(mount(nullptr, "a", nullptr, MS_REMOUNT | MS_BIND, nullptr) == 0);
        CHECK(statfs("a", &status) == 0);
        CHECK((static_cast<unsigned long>(status.f_flags) & without_symlinks) == 0);
    });
}

void propagation() {
    in_child([] {
        begin();
        CHECK(mount("share", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mount("none", "a", nullptr, MS_SHARED, nullptr) == 0);
        CHECK(has(info("/tmp/a"), "shared:"));
        CHECK(mkdir("a/x", 0755) == 0);
        CHECK(mount("a", "b", nullptr, MS_BIND, nullptr) == 0); // a peer
        CHECK(mount("a", "c", nullptr, MS_BIND, nullptr) == 0);
        CHECK(mount("none", "c", nullptr, MS_SLAVE, nullptr) == 0);
        CHECK(has(info("/tmp/c"), "master:") && !has(info("/tmp/c"), "shared:"));
        CHECK(mount("a", "d", nullptr, MS_BIND, nullptr) == 0);
        CHECK(mount("none", "d", nullptr, MS_PRIVATE, nullptr) == 0);
        CHECK(!has(info("/tmp/d"), "shared:"));
        // what is mounted in one comes to its peers and slaves
        CHECK(mount("inner", "a/x", "tmpfs", 0, nullptr) == 0);
        make_file("a/x/f");
        CHECK(access("b/x/f", F_OK) == 0 && access("c/x/f", F_OK) == 0);
        CHECK(access("d/x/f", F_OK) != 0);
        CHECK(has(info("/tmp/a/x"), "shared:") && has(info("/tmp/c/x"), "master:"));
        CHECK(umount("b/x") == 0); // and goes everywhere
        CHECK(access("a/x/f", F_OK) != 0 && access("c/x/f", F_OK) != 0);
        CHECK(info("/tmp/a/x").empty() && info("/tmp/c/x").empty());
        // a slave tells nobody
        CHECK(mount("own", "c/x", "tmpfs", 0, nullptr) == 0);
        make_file("c/x/g");
        CHECK(access("a/x/g", F_OK) != 0);
        CHECK(umount("c/x") == 0);
        // a slave that is shared too
        CHECK(mount("none", "c", nullptr, MS_SHARED, nullptr) == 0);
        CHECK(has(info("/tmp/c"), "master:") && has(info("/tmp/c"), "shared:"));
        CHECK(mkdir("e", 0755) == 0);
        CHECK(mount("c", "e", nullptr, MS_BIND, nullptr) == 0);
        CHECK(mount("inner", "a/x", "tmpfs", 0, nullptr) == 0);
        make_file("a/x/h");
        CHECK(access("e/x/h", F_OK) == 0 && access("c/x/h", F_OK) == 0);
        CHECK(umount("a/x") == 0 && access("e/x/h", F_OK) != 0);
        // the last peer's end makes slaves of its group private
        CHECK(umount("b") == 0 && umount("a") == 0);
        CHECK(!has(info("/tmp/c"), "master:"));
    });
}

void propagation_between_namespaces() {
    in_child([] {
        begin();
        CHECK(mount("share", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("a/x", 0755) == 0 && mkdir("a/y", 0755) == 0);
        CHECK(mount("none", "a", nullptr, MS_SHARED, nullptr) == 0);
        int there[2], back[2];
        CHECK(pipe(there) == 0 && pipe(back) == 0);
        const pid_t child = fork();
        char byte = 0;
        if (child == 0) {
            CHECK(unshare(CLONE_NEWNS) == 0);
            CHECK(has(info("/tmp/a"), "shared:"));
            CHECK(write(back[1], "x", 1) == 1 && read(there[0], &byte, 1) == 1);
            CHECK(access("/tmp/a/x/f", F_OK) == 0);
            CHECK(mount("mine", "/tmp/a/y", "tmpfs", 0, nullptr) == 0);
            make_file("/tmp/a/y/g");
            CHECK(mount("none", "/tmp/a", nullptr, MS_REC | MS_SLAVE, nullptr) == 0);
            CHECK(umount("/tmp/a/x") == 0);
            _exit(0);
        }
        CHECK(read(back[0], &byte, 1) == 1);
        CHECK(mount("inner", "a/x", "tmpfs", 0, nullptr) == 0);
        make_file("a/x/f");
        CHECK(write(there[1], "x", 1) == 1);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(access("a/y/g", F_OK) == 0); // came from the child, and stays
        CHECK(access("a/x/f", F_OK) == 0); // the child's unmount was a slave's
    });
}

void unbindable() {
    in_child([] {
        begin();
        CHECK(mount("one", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("a/sub", 0755) == 0);
        CHECK(mount("two", "a/sub", "tmpfs", 0, nullptr) == 0);
        CHECK(mount("none", "a/sub", nullptr, MS_UNBINDABLE, nullptr) == 0);
        CHECK(has(info("/tmp/a/sub"), "unbindable"));
        CHECK_FAILS(mount("a/sub", "b", nullptr, MS_BIND, nullptr), EINVAL);
        CHECK(mount("a", "b", nullptr, MS_BIND | MS_REC, nullptr) == 0);
        CHECK(info("/tmp/b/sub").empty());
        // moving out of a shared mount, or an unbindable one into one, is refused
        CHECK(mount("none", "b", nullptr, MS_SHARED, nullptr) == 0);
        CHECK_FAILS(mount("a", "b/sub", nullptr, MS_MOVE, nullptr), EINVAL);
        CHECK(mount("three", "b/sub", "tmpfs", 0, nullptr) == 0);
        CHECK_FAILS(mount("b/sub", "c", nullptr, MS_MOVE, nullptr), EINVAL);
    });
}

void roots() {
    in_child([] {
        begin();
        CHECK(mount("root", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("a/old", 0755) == 0 && mkdir("a/dir", 0755) == 0);
        make_file("a/here");
        CHECK_FAILS(syscall(SYS_pivot_root, "b", "b"), EINVAL); // no mount
        CHECK_FAILS(syscall(SYS_pivot_root, "a", "b"), EINVAL); // not below the new root
        CHECK_FAILS(syscall(SYS_pivot_root, "/", "/"), EBUSY);
        CHECK_FAILS(syscall(SYS_pivot_root, "a/here", "a/old"), ENOTDIR);
        CHECK(mount("none", "a", nullptr, MS_SHARED, nullptr) == 0);
        CHECK_FAILS(syscall(SYS_pivot_root, "a", "a/old"), EINVAL); // would propagate
        CHECK(mount("none", "a", nullptr, MS_PRIVATE, nullptr) == 0);
        CHECK(syscall(SYS_pivot_root, "a", "a/old") == 0);
        CHECK(chdir("/") == 0);
        CHECK(access("/here", F_OK) == 0 && access("/old/proc/self/status", F_OK) == 0);
        CHECK(umount2("/old", MNT_DETACH) == 0);
        CHECK(access("/old/proc", F_OK) != 0);
        // a root within the root
        CHECK(chroot("/dir") == 0);
        char here[64];
        CHECK(access("/here", F_OK) != 0);
        CHECK(syscall(SYS_getcwd, here, sizeof here) > 0);
        CHECK(std::string(here) == "(unreachable)/");
        CHECK_FAILS(unshare(CLONE_NEWUSER), EPERM);
    });
    in_child([] { // as container runtimes do it
        begin();
        CHECK(mount("root", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("a/proc", 0755) == 0);
        CHECK(mount("/proc", "a/proc", nullptr, MS_BIND | MS_REC, nullptr) == 0);
        CHECK(chdir("a") == 0);
        CHECK(syscall(SYS_pivot_root, ".", ".") == 0);
        CHECK(umount2(".", MNT_DETACH) == 0);
        CHECK(chdir("/") == 0);
        CHECK(access("/proc/self/status", F_OK) == 0 && access("/usr", F_OK) != 0);
        CHECK(has(contents_of("/proc/self/mountinfo"), " - tmpfs root "));
    });
}

void less_privileged() {
    in_child([] {
        begin();
        CHECK(mount("one", "a", "tmpfs", MS_NODEV, nullptr) == 0);
        CHECK(chmod("a", 0777) == 0);
        CHECK(mount("none", "a", nullptr, MS_SHARED, nullptr) == 0);
        in_child([] { // so that the namespace it came from lives on
            if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
                return; // user namespaces are off
            // What came as a whole stays a whole, and as restricted.
            CHECK(has(info("/tmp/a"), "master:") && !has(info("/tmp/a"), "shared:"));
            CHECK_FAILS(umount("a"), EINVAL);
            CHECK_FAILS(mount("none", "a", nullptr, MS_REMOUNT | MS_BIND, nullptr), EPERM);
            CHECK(mount("none", "a", nullptr, MS_REMOUNT | MS_BIND | MS_NODEV | MS_NOSUID,
                        nullptr) == 0);
            CHECK_FAILS(mount("none", "a", nullptr, MS_REMOUNT | MS_NODEV, nullptr), EPERM);
            CHECK_FAILS(mount(".", "b", nullptr, MS_BIND, nullptr), EINVAL);
            CHECK(mount(".", "b", nullptr, MS_BIND | MS_REC, nullptr) == 0);
            // To leave out what hides something is no way to see it.
            CHECK(mount("none", "a", nullptr, MS_UNBINDABLE, nullptr) == 0);
            CHECK_FAILS(mount(".", "d", nullptr, MS_BIND | MS_REC, nullptr), EPERM);
            CHECK(mount("mine", "c", "tmpfs", 0, nullptr) == 0);
            CHECK_FAILS(mount("none", "d", "devtmpfs", 0, nullptr), EPERM);
            CHECK(umount("c") == 0);
        });
    });
}

// Only who rules the processes, the network, ... of a namespace mounts what shows them.
void namespaces_of_others() {
    in_child([] {
        begin();
        if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
            return; // user namespaces are off
        for (const char* type : {"proc", "sysfs", "mqueue", "cgroup2"})
            CHECK_FAILS(mount("none", "a", type, 0, nullptr), EPERM);
        CHECK(unshare(CLONE_NEWIPC | CLONE_NEWCGROUP) == 0);
        for (const char* type : {"mqueue", "cgroup2"})
            CHECK(mount("none", "a", type, 0, nullptr) == 0 && umount("a") == 0);
    });
}

// Where all that there is of /proc is read-only, so is a new one, and stays it.
void no_more_than_before() {
    const auto in_new_namespaces = [](bool read_only, void (*look)()) {
        in_child([=] {
            begin();
            const unsigned long flags =
                MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY;
            CHECK(!read_only || mount("none", "/proc", nullptr, flags, nullptr) == 0);
            if (unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID) == 0)
                in_child(look);
        });
    };
    static bool* const visible = static_cast<bool*>(
        mmap(nullptr, sizeof(bool), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    in_new_namespaces(false, [] { *visible = mount("none", "a", "proc", 0, nullptr) == 0; });
    if (!*visible)
        return; // user namespaces are off, or something lies over parts of /proc
    in_new_namespaces(true, [] {
        CHECK_FAILS(mount("none", "a", "proc", 0, nullptr), EPERM);
        CHECK_FAILS(mount("none", "a", "proc", MS_RDONLY | MS_NOATIME, nullptr), EPERM);
        CHECK(mount("none", "a", "proc", MS_RDONLY, nullptr) == 0);
        CHECK_FAILS(mount("none", "a", nullptr, MS_REMOUNT | MS_BIND, nullptr), EPERM);
        CHECK(mount("none", "a", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOEXEC, nullptr) ==
              0);
    });
}

// What a locked mount hides stays hidden from who stands in an unmounted tree.
void stays_covered() {
    in_child([] {
        begin();
        make_file("a/hidden");
        CHECK(mount("one", "a", "tmpfs", 0, nullptr) == 0);
        CHECK(mkdir("a/in", 0755) == 0);
        make_file("a/in/hidden");
        CHECK(mount("two", "a/in", "tmpfs", 0, nullptr) == 0);
        in_child([] { // so that the namespace it came from lives on
            if (unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
                return; // user namespaces are off
            const auto covered = [](int top) {
                CHECK_FAILS(faccessat(top, "a/hidden", F_OK, 0), ENOENT);
                CHECK_FAILS(faccessat(top, "a/in/hidden", F_OK, 0), ENOENT);
                CHECK(faccessat(top, "a/in/../../file", F_OK, 0) == 0);
            };
            CHECK(mount(".", "b", nullptr, MS_BIND | MS_REC, nullptr) == 0);
            const int copy = open("b", O_PATH | O_DIRECTORY);
            CHECK(copy >= 0);
            covered(copy);
            CHECK(umount2("b", MNT_DETACH) == 0);
            covered(copy);
            const int middle = openat(copy, "a", O_PATH | O_DIRECTORY);
            close(copy);
            CHECK_FAILS(faccessat(middle, "in/hidden", F_OK, 0), ENOENT);
            close(middle);
            const int old = open(".", O_PATH | O_DIRECTORY);
            CHECK(old >= 0);
            CHECK(unshare(CLONE_NEWNS) == 0); // the last one to leave it
            covered(old);
            close(old);
        });
    });
}

// A tmpfs's root belongs to who mounts it, which in a user namespace is not number 0.
void owned_by_the_mounter() {
    in_child([] {
        begin();
        CHECK(setfsuid(1234) == 0);
        CHECK(setfsgid(4321) == 0);
        CHECK(mount("own", "c", "tmpfs", 0, nullptr) == 0);
        struct stat status {};
        CHECK(stat("c", &status) == 0 && status.st_uid == 1234 && status.st_gid == 4321);
        CHECK(umount("c") == 0);
        CHECK(mount("own", "c", "tmpfs", 0, "uid=7") == 0);
        CHECK(stat("c", &status) == 0 && status.st_uid == 7 && status.st_gid == 4321);
        CHECK(umount("c") == 0);
    });
}

// To mount a file system once more, read-only, does not change it for those who have it already.
void shared_file_systems() {
    in_child([] {
        begin();
        CHECK(unshare(CLONE_NEWIPC) == 0);
        CHECK(mount("q", "a", "mqueue", 0, nullptr) == 0);
        CHECK(mount("q", "b", "mqueue", MS_RDONLY, nullptr) == 0);
        CHECK_FAILS(open("b/one", O_CREAT | O_RDWR, 0600), EROFS);
        CHECK(close(open("a/one", O_CREAT | O_RDWR, 0600)) == 0);
        CHECK(unlink("a/one") == 0);
        CHECK(mount("g", "c", "cgroup2", 0, nullptr) == 0);
        CHECK(mount("g", "d", "cgroup2", MS_RDONLY, nullptr) == 0);
        CHECK_FAILS(mkdir("d/guest-mounts-test", 0755), EROFS);
        CHECK(mkdir("c/guest-mounts-test", 0755) == 0);
        CHECK(rmdir("c/guest-mounts-test") == 0);
    });
}

// What another namespace has mounted on a name keeps nobody from removing it, replacing it or
// moving it; what stood on an object that has no name any more is unmounted.
void mount_points_of_others() {
    in_child([] {
        begin();
        make_file("other", "other");
        for (const char* name : {"new", "replaced", "moves"})
            make_file(name, name);
        int ready[2], done[2];
        CHECK(pipe(ready) == 0 && pipe(done) == 0);
        char byte = 0;
        const pid_t other = start([&] {
            CHECK(unshare(CLONE_NEWNS) == 0);
            for (const char* name : {"file", "replaced", "moves"})
                CHECK(mount("other", name, nullptr, MS_BIND, nullptr) == 0);
            CHECK(mount("none", "a", "tmpfs", 0, nullptr) == 0 && mkdir("a/in", 0755) == 0);
            CHECK(mount("none", "a/in", "tmpfs", 0, nullptr) == 0);
            CHECK(write(ready[1], "r", 1) == 1 && read(done[0], &byte, 1) == 1);
            CHECK_FAILS(open("file", O_RDONLY), ENOENT);
            CHECK_FAILS(open("a", O_RDONLY), ENOENT);
            CHECK(contents_of("replaced") == "new" && contents_of("moved") == "other");
            for (const char* name : {"/file", "/replaced", "/a", "/a/in"})
                CHECK(info(base + std::string(name)).empty());
        });
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(unlink("file") == 0 && rmdir("a") == 0);
        CHECK(rename("new", "replaced") == 0 && rename("moves", "moved") == 0);
        CHECK(write(done[1], "d", 1) == 1);
        int status = -1;
        CHECK(waitpid(other, &status, 0) == other && status == 0);
        // One's own do.
        CHECK(mount("other", "moved", nullptr, MS_BIND, nullptr) == 0);
        CHECK(mount("none", "b", "tmpfs", 0, nullptr) == 0);
        CHECK_FAILS(unlink("moved"), EBUSY);
        CHECK_FAILS(rename("replaced", "moved"), EBUSY);
        CHECK_FAILS(rename("moved", "new"), EBUSY);
        CHECK_FAILS(rmdir("b"), EBUSY);
    });
}

void special_file_systems() {
    in_child([] {
        begin();
        CHECK(mount("proc", "a", "proc", 0, nullptr) == 0);
        struct statfs status {};
        CHECK(statfs("a", &status) == 0 && status.f_type == PROC_SUPER_MAGIC);
        CHECK(access("a/self/status", F_OK) == 0);
        CHECK(mount("sysfs", "b", "sysfs", 0, nullptr) == 0);
        CHECK(statfs("b", &status) == 0 && status.f_type == SYSFS_MAGIC);
        // an overlay of this tmpfs's own directories
        for (const char* name : {"lower", "upper", "work"})
            CHECK(mkdir(name, 0755) == 0);
        make_file("lower/low");
        CHECK_FAILS(mount("o", "c", "overlay", 0, "upperdir=upper,workdir=work"), EINVAL);
        CHECK_FAILS(mount("o", "c", "overlay", 0, "lowerdir=nowhere"), ENOENT);
        CHECK(mount("o", "c", "overlay", 0, "lowerdir=lower,upperdir=upper,workdir=work") == 0);
        make_file("c/high");
        CHECK(unlink("c/low") == 0);
        CHECK(access("c/high", F_OK) == 0 && access("lower/low", F_OK) == 0);
        CHECK(access("c/low", F_OK) != 0);
        // The list of mounts tells of changes.
        const int list = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC);
        pollfd watch{list, POLLPRI, 0};
        char text[64];
        CHECK(read(list, text, sizeof text) > 0);
        CHECK(poll(&watch, 1, 0) == 0);
        CHECK(umount("c") == 0);
        CHECK(poll(&watch, 1, 0) == 1 && (watch.revents & (POLLERR | POLLPRI)) != 0);
        CHECK(has(contents_of("/proc/self/mountstats"), "device sysfs mounted on /tmp/b"));
    });
}

} // namespace

int main() {
    if (geteuid() != 0) {
        std::puts("needs root: nothing tested");
        return 0;
    }
    errors();
    flags();
    binds_and_moves();
    moved_out();
    no_symlinks();
    propagation();
    propagation_between_namespaces();
    unbindable();
    roots();
    less_privileged();
    namespaces_of_others();
    no_more_than_before();
    stays_covered();
    owned_by_the_mounter();
    shared_file_systems();
    mount_points_of_others();
    special_file_systems();
    return 0;
}
