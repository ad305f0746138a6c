// Overlays that a program mounts: lowerdir, upperdir, workdir. overlayfs.rst; mount(8).
// As root, in mount namespaces of its own, on tmpfs.
#include <algorithm>
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

// A tmpfs with two lower layers, an upper one, and the overlay on "m".
void begin() {
    CHECK(unshare(CLONE_NEWNS) == 0);
    CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
    CHECK(mount("base", "/tmp", "tmpfs", 0, "size=16m,mode=0755") == 0);
    CHECK(chdir("/tmp") == 0);
    umask(022);
    for (const char* name : {"l1", "l2", "u", "w", "m", "l1/d", "l2/d", "l2/only", "l2/only/deep"})
        CHECK(mkdir(name, 0755) == 0);
    make_file("l1/top", "top of l1");
    make_file("l2/top", "top of l2");
    make_file("l2/low", "low");
    make_file("l1/d/a", "a of l1");
    make_file("l2/d/a", "a of l2");
    make_file("l2/d/b", "b of l2");
    make_file("l2/only/deep/file", "deep");
    CHECK(symlink("low", "l2/link") == 0);
}

void mount_it(const char* options = "lowerdir=/tmp/l1:/tmp/l2,upperdir=/tmp/u,workdir=/tmp/w") {
    CHECK(mount("overlay", "/tmp/m", "overlay", 0, options) == 0);
}

void again() {
    CHECK(umount("/tmp/m") == 0);
    mount_it();
}

std::string names(const std::string& directory) {
    DIR* open = opendir(directory.c_str());
    CHECK(open != nullptr);
    std::vector<std::string> found;
    while (const dirent* entry = readdir(open)) {
        const std::string name = entry->d_name;
        if (name == "." || name == "..")
            continue;
        found.push_back(name);
        struct stat status = stat_of(directory + "/" + name);
        CHECK(status.st_ino == entry->d_ino);
    }
    closedir(open);
    std::sort(found.begin(), found.end());
    std::string all;
    for (const std::string& name : found)
        all += (all.empty() ? "" : " ") + name;
    return all;
}

bool exists(const std::string& name) {
    struct stat status {};
    return lstat(name.c_str(), &status) == 0;
}

bool is_whiteout(const std::string& name) {
    struct stat status {};
    return lstat(name.c_str(), &status) == 0 && S_ISCHR(status.st_mode) && status.st_rdev == 0;
}

std::string attribute(const std::string& name, const char* which) {
    char value[256];
    const ssize_t got = lgetxattr(name.c_str(), which, value, sizeof value);
    return got < 0 ? "none" : std::string(value, static_cast<size_t>(got));
}

std::string attributes(const std::string& name) {
    char list[1024];
    const ssize_t got = llistxattr(name.c_str(), list, sizeof list);
    CHECK(got >= 0);
    std::string out;
    for (ssize_t at = 0; at < got; at += static_cast<ssize_t>(std::strlen(list + at)) + 1)
        if (std::strncmp(list + at, "security.", 9) != 0)
            out += std::string(list + at) + " ";
    return out;
}

void errors() {
    in_child([] {
        begin();
        const auto fails = [](const char* options, int error) {
            CHECK_FAILS(mount("overlay", "m", "overlay", 0, options), error);
        };
        fails("", EINVAL);
        fails("lowerdir=/tmp/l1", EINVAL);
        fails("lowerdir=/tmp/l1,upperdir=/tmp/u", EINVAL);
        fails("lowerdir=/tmp/nowhere,upperdir=/tmp/u,workdir=/tmp/w", ENOENT);
        fails("lowerdir=/tmp/l1,upperdir=/tmp/u,workdir=/tmp/u", EINVAL);
        fails("lowerdir=/tmp/l1,upperdir=/tmp/u,workdir=/dev/shm", EINVAL);
        fails("lowerdir=/tmp/l1,upperdir=/tmp/u,workdir=/tmp/w,nosuch=1", EINVAL);
    });
}

void lookups() {
    in_child([] {
        begin();
        mount_it();
        struct statfs status {};
        CHECK(statfs("m", &status) == 0 && status.f_type == OVERLAYFS_SUPER_MAGIC);
        CHECK(contents_of("m/top") == "top of l1");
        CHECK(contents_of("m/low") == "low");
        CHECK(contents_of("m/link") == "low");
        CHECK(contents_of("m/d/a") == "a of l1");
        CHECK(contents_of("m/d/b") == "b of l2");
        CHECK(names("m") == "d link low only top");
        CHECK(names("m/d") == "a b");
        CHECK(stat_of("m/d").st_nlink == 1);
        CHECK(stat_of("m/only/deep").st_dev == stat_of("m").st_dev);
    });
    in_child([] {
        begin();
        // Without an upper directory it cannot be written.
        mount_it("lowerdir=/tmp/l1:/tmp/l2");
        CHECK(contents_of("m/d/b") == "b of l2");
        CHECK_FAILS(open("m/new", O_CREAT | O_WRONLY, 0644), EROFS);
        CHECK_FAILS(open("m/low", O_WRONLY), EROFS);
        CHECK_FAILS(unlink("m/low"), EROFS);
    });
}

void copy_up() {
    in_child([] {
        begin();
        CHECK(chmod("l2/only/deep/file", 0640) == 0);
        CHECK(chown("l2/only/deep/file", 12, 34) == 0);
        CHECK(chmod("l2/only/deep", 0711) == 0);
        CHECK(setxattr("l2/only/deep/file", "trusted.mine", "kept", 4, 0) == 0);
        const timespec times[2] = {{1000, 5}, {2000, 7}};
        CHECK(utimensat(AT_FDCWD, "l2/only/deep/file", times, 0) == 0);
        CHECK(utimensat(AT_FDCWD, "l2/only/deep", times, 0) == 0);
        mount_it();
        const struct stat before = stat_of("m/only/deep/file");
        CHECK(chmod("m/only/deep/file", 0600) == 0);
        const struct stat after = stat_of("m/only/deep/file");
        CHECK(after.st_ino == before.st_ino && after.st_mode == (S_IFREG | 0600));
        CHECK(after.st_mtim.tv_sec == 2000 && after.st_mtim.tv_nsec == 7);
        CHECK(after.st_uid == 12 && after.st_gid == 34);
        CHECK(contents_of("u/only/deep/file") == "deep");
        CHECK(attribute("u/only/deep/file", "trusted.mine") == "kept");
        CHECK(attribute("m/only/deep/file", "trusted.mine") == "kept");
        CHECK(stat_of("u/only/deep").st_mode == (S_IFDIR | 0711));
        CHECK(stat_of("u/only/deep").st_mtim.tv_sec == 2000);
        CHECK(stat_of("l2/only/deep/file").st_mode == (S_IFREG | 0640));

        // Contents come with the open for writing; who had it open for reading goes over to them.
        const int reader = open("m/low", O_RDONLY);
        CHECK(reader >= 0 && !exists("u/low"));
        const int writer = open("m/low", O_RDWR | O_APPEND);
        CHECK(writer >= 0 && contents_of("u/low") == "low");
        CHECK(write(writer, "er", 2) == 2);
        char text[16] = {};
        CHECK(pread(reader, text, sizeof text, 0) == 5);
        CHECK(pread(writer, text, sizeof text, 0) == 5 && std::string(text) == "lower");
        CHECK(lseek(writer, 0, SEEK_END) == 5);
        CHECK(contents_of("m/low") == "lower" && contents_of("l2/low") == "low");
        CHECK(fsync(writer) == 0);
        void* mapped = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, writer, 0);
        CHECK(mapped != MAP_FAILED);
        std::memcpy(mapped, "LOWER", 5);
        CHECK(contents_of("m/low") == "LOWER");
        CHECK(munmap(mapped, 4096) == 0);
        CHECK(ftruncate(writer, 2) == 0 && contents_of("u/low") == "LO");
        CHECK(close(reader) == 0 && close(writer) == 0);

        CHECK(truncate("m/top", 0) == 0);
        CHECK(stat_of("u/top").st_size == 0 && contents_of("l1/top") == "top of l1");
        CHECK(lchown("m/link", 1, 1) == 0);
        CHECK(S_ISLNK(stat_of("u/link").st_mode) && stat_of("u/link").st_uid == 1);
        CHECK(setxattr("m/d/b", "trusted.new", "1", 1, 0) == 0);
        CHECK(attribute("u/d/b", "trusted.new") == "1");
        again();
        CHECK(contents_of("m/low") == "LO" && contents_of("m/only/deep/file") == "deep");
        CHECK(names("m") == "d link low only top");
    });
    in_child([] {
        begin();
        const int sparse = open("l2/sparse", O_CREAT | O_RDWR, 0644);
        CHECK(sparse >= 0 && pwrite(sparse, "x", 1, 1 << 20) == 1 &&
              ftruncate(sparse, 2 << 20) == 0);
        close(sparse);
        mount_it();
        CHECK(chmod("m/sparse", 0600) == 0);
        const struct stat status = stat_of("u/sparse");
        CHECK(status.st_size == 2 << 20 && status.st_mode == (S_IFREG | 0600));
        const int fd = open("m/sparse", O_RDONLY);
        char byte = 0;
        CHECK(pread(fd, &byte, 1, 1 << 20) == 1 && byte == 'x');
        close(fd);
    });
}

void removals() {
    in_child([] {
        begin();
        mount_it();
        CHECK(unlink("m/low") == 0);
        CHECK(!exists("m/low") && is_whiteout("u/low") && exists("l2/low"));
        CHECK_FAILS(open("m/low", O_RDONLY), ENOENT);
        CHECK(names("m") == "d link only top");
        make_file("m/low", "anew");
        CHECK(contents_of("u/low") == "anew");
        CHECK(unlink("m/low") == 0 && is_whiteout("u/low"));
        // What was never below leaves nothing.
        make_file("m/fresh");
        CHECK(unlink("m/fresh") == 0 && !exists("u/fresh"));

        CHECK_FAILS(rmdir("m/d"), ENOTEMPTY);
        CHECK(unlink("m/d/a") == 0 && unlink("m/d/b") == 0);
        CHECK(names("m/d").empty());
        CHECK(rmdir("m/d") == 0 && is_whiteout("u/d"));
        CHECK(mkdir("m/d", 0750) == 0);
        CHECK(names("m/d").empty());
        CHECK(attribute("u/d", "trusted.overlay.opaque") == "y");
        CHECK(attribute("m/d", "trusted.overlay.opaque") == "none");
        CHECK(attributes("m/d").empty());
        make_file("m/d/own", "own");
        again();
        CHECK(names("m/d") == "own" && names("m") == "d link only top");
        CHECK(unlink("m/d/own") == 0 && rmdir("m/d") == 0 && is_whiteout("u/d"));
        // An open file outlives its name, and can still be changed.
        const int fd = open("m/only/deep/file", O_RDONLY);
        CHECK(fd >= 0 && unlink("m/only/deep/file") == 0);
        char text[8] = {};
        CHECK(pread(fd, text, sizeof text, 0) == 4);
        struct stat status {};
        CHECK(fstat(fd, &status) == 0);
        close(fd);
        // A whiteout is no file that a program could make.
        CHECK_FAILS(mknod("m/white", S_IFCHR | 0600, 0), EPERM);
    });
    in_child([] {
        begin();
        // What layers below hide and end.
        CHECK(mknod("l1/low", S_IFCHR, 0) == 0);
        CHECK(setxattr("l1/d", "trusted.overlay.opaque", "y", 1, 0) == 0);
        mount_it();
        CHECK(!exists("m/low") && !exists("m/d/b") && names("m/d") == "a");
        CHECK(names("m") == "d link only top");
        make_file("m/low", "above");
        CHECK(contents_of("m/low") == "above");
        CHECK(unlink("m/low") == 0 && !exists("m/low"));
    });
}

void renames() {
    in_child([] {
        begin();
        mount_it();
        CHECK(rename("m/low", "m/moved") == 0);
        CHECK(contents_of("m/moved") == "low" && !exists("m/low") && is_whiteout("u/low"));
        CHECK(rename("m/moved", "m/d/b") == 0);
        CHECK(contents_of("m/d/b") == "low" && !exists("m/moved") && !exists("u/moved"));
        CHECK(names("m/d") == "a b");
        CHECK_FAILS(rename("m/d", "m/e"), EXDEV);
        CHECK_FAILS(rename("m/only", "m/e"), EXDEV);
        CHECK(mkdir("m/new", 0755) == 0);
        make_file("m/new/x", "x");
        CHECK(rename("m/new", "m/e") == 0 && contents_of("m/e/x") == "x" && !exists("u/new"));
        // Over a whiteout, and over an empty directory that is below.
        CHECK(rename("m/e", "m/low") == 0 && contents_of("m/low/x") == "x");
        CHECK(attribute("u/low", "trusted.overlay.opaque") == "y");
        CHECK(unlink("m/only/deep/file") == 0);
        CHECK_FAILS(rename("m/low", "m/only"), ENOTEMPTY);
        CHECK(rename("m/low", "m/only/deep") == 0 && names("m/only/deep") == "x");
        CHECK(!exists("m/low"));
        CHECK(syscall(SYS_renameat2, AT_FDCWD, "m/top", AT_FDCWD, "m/only/deep", 2) == 0);
        CHECK(contents_of("m/only/deep") == "top of l1" && contents_of("m/top/x") == "x");
        CHECK_FAILS(syscall(SYS_renameat2, AT_FDCWD, "m/top", AT_FDCWD, "m/d", 2), EXDEV);
        CHECK_FAILS(syscall(SYS_renameat2, AT_FDCWD, "m/link", AT_FDCWD, "m/d", 1), EEXIST);
        again();
        CHECK(contents_of("m/only/deep") == "top of l1" && names("m/top") == "x");
        CHECK(names("m") == "d link only top");
    });
    in_child([] {
        begin();
        mount_it();
        CHECK(link("m/low", "m/hard") == 0);
        CHECK(stat_of("m/low").st_ino == stat_of("m/hard").st_ino);
        CHECK(stat_of("m/low").st_nlink == 2 && contents_of("u/hard") == "low");
        CHECK(unlink("m/low") == 0 && stat_of("m/hard").st_nlink == 1 && is_whiteout("u/low"));
        CHECK(link("m/hard", "m/low") == 0 && contents_of("m/low") == "low");
        CHECK(rename("m/hard", "m/low") == 0);
        CHECK(exists("m/hard")); // two names of one file: nothing is done
        const int fd = open("m/d", O_TMPFILE | O_RDWR, 0600);
        CHECK(fd >= 0 && write(fd, "tmp", 3) == 3);
        CHECK(linkat(fd, "", AT_FDCWD, "m/d/named", AT_EMPTY_PATH) == 0);
        CHECK(contents_of("u/d/named") == "tmp");
        close(fd);
        CHECK(symlink("d/named", "m/sym") == 0 && contents_of("m/sym") == "tmp");
        CHECK(mkfifo("m/fifo", 0600) == 0 && S_ISFIFO(stat_of("u/fifo").st_mode));
    });
}

// Where there is no room for a whiteout nothing is changed, and by halves neither.
void no_room() {
    in_child([] {
        begin();
        mount_it();
        CHECK(chmod("m/low", 0600) == 0 && chmod("m/top", 0600) == 0);
        CHECK(unlink("m/d/a") == 0 && unlink("m/d/b") == 0);
        CHECK(mkdir("fill", 0755) == 0);
        CHECK(mount("base", "/tmp", nullptr, MS_REMOUNT, "nr_inodes=100") == 0);
        int made = 0;
        for (int fd = 0; fd >= 0; made++) {
            fd = open(("fill/" + std::to_string(made)).c_str(), O_CREAT | O_WRONLY, 0644);
            CHECK(fd >= 0 ? close(fd) == 0 : errno == ENOSPC);
        }
        CHECK_FAILS(rename("m/low", "m/top"), ENOSPC);
        CHECK(contents_of("m/low") == "low" && contents_of("m/top") == "top of l1");
        CHECK_FAILS(rmdir("m/d"), ENOSPC);
        CHECK(names("m/d").empty() && names("m") == "d link low only top");
        for (int i = 0; i < 10; i++)
            CHECK(unlink(("fill/" + std::to_string(i)).c_str()) == 0);
        CHECK(rename("m/low", "m/top") == 0 && rmdir("m/d") == 0);
        CHECK(mkdir("m/new", 0755) == 0 && mkdir("m/new/in", 0755) == 0);
        CHECK(unlink("m/only/deep/file") == 0 && rename("m/new", "m/only/deep") == 0);
        CHECK(names("m/only/deep") == "in");
        again();
        CHECK(contents_of("m/top") == "low" && names("m") == "link only top");
        CHECK(names("m/only/deep") == "in");
    });
}

void user_marks() {
    in_child([] {
        begin();
        mount_it("lowerdir=/tmp/l1:/tmp/l2,upperdir=/tmp/u,workdir=/tmp/w,userxattr");
        CHECK(unlink("m/d/a") == 0 && unlink("m/d/b") == 0 && rmdir("m/d") == 0);
        CHECK(mkdir("m/d", 0755) == 0);
        CHECK(attribute("u/d", "user.overlay.opaque") == "y");
        CHECK(attributes("m/d").empty());
        CHECK(setxattr("m/d", "trusted.overlay.opaque", "1", 1, 0) == 0);
        CHECK(attribute("u/d", "trusted.overlay.opaque") == "1");
    });
    // Names that are the overlay's own are kept by longer ones: overlays nest.
    in_child([] {
        begin();
        mount_it();
        CHECK(setxattr("m/d", "trusted.overlay.opaque", "y", 1, 0) == 0);
        CHECK(attribute("m/d", "trusted.overlay.opaque") == "y");
        CHECK(attribute("u/d", "trusted.overlay.overlay.opaque") == "y");
        CHECK(attributes("m/d") == "trusted.overlay.opaque ");
        CHECK(names("m/d") == "a b");
        CHECK(mkdir("u2", 0755) == 0 && mkdir("w2", 0755) == 0 && mkdir("m2", 0755) == 0);
        CHECK(mount("overlay", "m2", "overlay", 0,
                    "lowerdir=/tmp/m,upperdir=/tmp/u2,workdir=/tmp/w2") == 0);
        CHECK(contents_of("m2/d/b") == "b of l2");
        make_file("m2/d/b", "changed");
        CHECK(contents_of("u2/d/b") == "changed" && contents_of("m/d/b") == "b of l2");
        CHECK(unlink("m2/low") == 0 && exists("m/low"));
    });
}

// Becomes a user without rights, and root of a user namespace and a mount namespace of its own.
void become_own_root() {
    constexpr unsigned user = 1000;
    CHECK(setgroups(0, nullptr) == 0);
    CHECK(setresgid(user, user, user) == 0 && setresuid(user, user, user) == 0);
    CHECK(prctl(PR_SET_DUMPABLE, 1) == 0); // its /proc/self is its own again
    CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
    make_file("/proc/self/setgroups", "deny");
    make_file("/proc/self/uid_map", "0 1000 1");
    make_file("/proc/self/gid_map", "0 1000 1");
}

// The layers are changed with the rights of who mounted them, wherever the options lead.
void rights_of_the_mounter() {
    in_child([] {
        begin();
        for (const char* name : {"sys", "sys2", "sys2/work", "own", "own/l", "own/u", "own/w"})
            CHECK(mkdir(name, 0755) == 0);
        make_file("sys2/work/precious", "of root");
        make_file("own/l/profile", "of the user");
        for (const char* name : {"own", "own/l", "own/u", "own/w", "own/l/profile"})
            CHECK(chown(name, 1000, 1000) == 0);
        in_child([] {
            become_own_root();
            // Linux mounts it read-only: it finds no place to work in.
            if (mount("overlay", "m", "overlay", 0,
                      "userxattr,lowerdir=own/l,upperdir=own/u,workdir=sys2") == 0) {
                CHECK_FAILS(mkdir("m/new", 0755), EROFS);
                CHECK(umount("m") == 0);
            }
            mount_it("userxattr,lowerdir=own/l,upperdir=sys,workdir=own/w");
            CHECK(contents_of("m/profile") == "of the user");
            CHECK_FAILS(open("m/profile", O_WRONLY), EACCES);
            CHECK_FAILS(chmod("m/profile", 0600), EACCES);
        });
        CHECK(contents_of("sys2/work/precious") == "of root");
        CHECK(!exists("sys/profile"));
        // What is one's own all through can be written, and mounted again.
        in_child([] {
            become_own_root();
            for (const char* text : {"first", "second"}) {
                mount_it("userxattr,lowerdir=own/l,upperdir=own/u,workdir=own/w");
                make_file("m/profile", text);
                CHECK(contents_of("own/u/profile") == text);
                CHECK(umount("m") == 0);
            }
        });
    });
}

// What a container engine does: the layers' paths in steps, a root to pivot into.
void steps() {
    in_child([] {
        begin();
        const int fs = static_cast<int>(syscall(SYS_fsopen, "overlay", 0));
        CHECK(fs >= 0);
        const auto set = [fs](const char* key, const char* value) {
            return syscall(SYS_fsconfig, fs, 1, key, value, 0);
        };
        CHECK(set("lowerdir+", "/tmp/l1") == 0 && set("lowerdir+", "/tmp/l2") == 0);
        CHECK(set("upperdir", "/tmp/u") == 0 && set("workdir", "/tmp/w") == 0);
        CHECK(syscall(SYS_fsconfig, fs, 6, nullptr, nullptr, 0) == 0);
        const int mounted = static_cast<int>(syscall(SYS_fsmount, fs, 0, 0));
        CHECK(mounted >= 0);
        CHECK(syscall(SYS_move_mount, mounted, "", AT_FDCWD, "/tmp/m", 4) == 0);
        CHECK(contents_of("m/d/b") == "b of l2" && contents_of("m/top") == "top of l1");
        make_file("m/d/c", "c");
        CHECK(contents_of("u/d/c") == "c");
        CHECK(mkdir("m/old", 0755) == 0);
        CHECK(mount("m", "m", nullptr, MS_BIND, nullptr) == 0);
        CHECK(chdir("m") == 0 && syscall(SYS_pivot_root, ".", "old") == 0);
        CHECK(umount2("/old", MNT_DETACH) == 0);
        CHECK(contents_of("/d/c") == "c" && names("/") == "d link low old only top");
    });
}

// Changes behind the overlay's back may be lost or refused, but a directory does not become part of
// itself.
void layers_that_move() {
    in_child([] {
        begin();
        for (const char* name : {"u/a", "u/b"})
            CHECK(mkdir(name, 0755) == 0);
        mount_it();
        const int a = open("m/a", O_RDONLY | O_DIRECTORY);
        const int b = open("m/b", O_RDONLY | O_DIRECTORY);
        CHECK(a >= 0 && b >= 0);
        CHECK(rename("u/b", "u/a/b") == 0);
        CHECK_FAILS(renameat(AT_FDCWD, "m/a", b, "a"), ESTALE);
        CHECK(exists("u/a/b") && !exists("u/a/b/a"));
        // Whatever else walks up from there comes to an end.
        CHECK(mkdir("u/a/b/c", 0755) == 0);
        CHECK(rename("u/a/b/c", "u/c") == 0);
        close(a);
        close(b);
    });
}

int set_flags(const char* name, unsigned flags) {
    const int fd = open(name, O_RDONLY);
    const int result = ioctl(fd, FS_IOC_SETFLAGS, &flags);
    close(fd);
    return result;
}

// What chattr(1) forbids in a layer, no overlay over it allows; nor what it forbids later.
void guarded() {
    in_child([] {
        begin();
        for (const char* name : {"u/fixed", "u/log", "u/later", "l2/fixed-below"})
            make_file(name, "text");
        CHECK(mkdir("u/full", 0755) == 0);
        make_file("u/full/inside", "text");
        if (set_flags("u/fixed", FS_IMMUTABLE_FL) != 0)
            return; // Linux before 6.6, or no CAP_LINUX_IMMUTABLE
        CHECK(set_flags("u/full", FS_IMMUTABLE_FL) == 0 && set_flags("u/log", FS_APPEND_FL) == 0);
        CHECK(set_flags("l2/fixed-below", FS_IMMUTABLE_FL) == 0);
        mount_it();
        CHECK(contents_of("m/later") == "text" && set_flags("u/later", FS_IMMUTABLE_FL) == 0);
        for (const char* name : {"m/fixed", "m/fixed-below", "m/later"}) {
            CHECK_FAILS(open(name, O_WRONLY | O_APPEND), EPERM);
            CHECK_FAILS(truncate(name, 0), EPERM);
            CHECK_FAILS(unlink(name), EPERM);
            CHECK_FAILS(rename(name, "m/moved"), EPERM);
            CHECK_FAILS(rename("m/top", name), EPERM);
            CHECK_FAILS(link(name, "m/linked"), EPERM);
            CHECK_FAILS(chmod(name, 0600), EPERM);
            CHECK_FAILS(chown(name, 1000, 1000), EPERM);
            CHECK_FAILS(utimensat(AT_FDCWD, name, nullptr, 0), EPERM);
            CHECK_FAILS(setxattr(name, "trusted.x", "1", 1, 0), EPERM);
            CHECK(contents_of(name) == "text");
        }
        CHECK_FAILS(open("m/full/new", O_WRONLY | O_CREAT, 0600), EPERM);
        CHECK_FAILS(unlink("m/full/inside"), EPERM);
        CHECK_FAILS(open("m/log", O_WRONLY), EPERM);
        CHECK_FAILS(unlink("m/log"), EPERM);
        const int log = open("m/log", O_RDWR | O_APPEND);
        CHECK(log >= 0 && write(log, "!", 1) == 1 && contents_of("u/log") == "text!");
        CHECK_FAILS(ftruncate(log, 0), EPERM);
        CHECK_FAILS(fcntl(log, F_SETFL, 0), EPERM);
        CHECK(close(log) == 0);
    });
}

// Two overlays over each other, as Linux has it: a third would be one more of who knows how many.
void stacks() {
    in_child([] {
        begin();
        for (const char* name : {"m2", "m3", "u3", "w3"})
            CHECK(mkdir(name, 0755) == 0);
        mount_it();
        CHECK(mount("overlay", "m2", "overlay", 0, "lowerdir=/tmp/m:/tmp/l2") == 0);
        CHECK(contents_of("m2/d/a") == "a of l1");
        CHECK_FAILS(mount("overlay", "m3", "overlay", 0, "lowerdir=/tmp/m2:/tmp/l2"), EINVAL);
        CHECK_FAILS(mount("overlay", "m3", "overlay", 0,
                          "lowerdir=/tmp/l1:/tmp/m2,upperdir=/tmp/u3,workdir=/tmp/w3"),
                    EINVAL);
    });
}

void many() {
    in_child([] {
        begin();
        for (int i = 0; i < 300; i++)
            make_file("l2/d/f" + std::to_string(i), std::to_string(i));
        mount_it();
        for (int i = 0; i < 300; i += 3)
            CHECK(unlink(("m/d/f" + std::to_string(i)).c_str()) == 0);
        for (int i = 1; i < 300; i += 3)
            make_file("m/d/f" + std::to_string(i), "new");
        const std::string all = names("m/d");
        CHECK(std::count(all.begin(), all.end(), ' ') == 201); // 202 names with a and b
        CHECK(std::system("rm -r m/d") == 0);
        CHECK(!exists("m/d"));
    });
}

} // namespace

int main() {
    if (!is_root()) {
        std::fprintf(stderr, "this test needs root\n");
        return 1;
    }
    errors();
    lookups();
    copy_up();
    removals();
    renames();
    no_room();
    user_marks();
    rights_of_the_mounter();
    steps();
    layers_that_move();
    guarded();
    stacks();
    many();
    return 0;
}
