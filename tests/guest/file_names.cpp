// link(2), unlink(2), rename(2), renameat2(2), mkdir(2), rmdir(2), mknod(2), getdents64(2),
// chdir(2), getcwd(2), chroot(2).
#include <algorithm>
#include <dirent.h>
#include <set>
#include <string_view>
#include <vector>

#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include "tests/guest/file_support.hpp"

namespace {

#ifndef RENAME_NOREPLACE
#define RENAME_NOREPLACE 1
#define RENAME_EXCHANGE 2
#define RENAME_WHITEOUT 4
#endif

int rename2(const std::string& from, const std::string& to, unsigned flags) {
    return static_cast<int>(
        syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), flags));
}

bool exists(const std::string& name) {
    struct stat s;
    return lstat(name.c_str(), &s) == 0;
}

void links(const ScratchDirectory& dir) {
    make_file(dir.path("a"), "one");
    CHECK(link(dir.path("a").c_str(), dir.path("b").c_str()) == 0);
    CHECK(stat_of(dir.path("a")).st_nlink == 2);
    CHECK(stat_of(dir.path("a")).st_ino == stat_of(dir.path("b")).st_ino);
    CHECK_FAILS(link(dir.path("a").c_str(), dir.path("b").c_str()), EEXIST);
    CHECK_FAILS(link(dir.path("no").c_str(), dir.path("c").c_str()), ENOENT);
    CHECK_FAILS(link(dir.path("a").c_str(), dir.path("no/c").c_str()), ENOENT);
    CHECK_FAILS(link(dir.path("a").c_str(), dir.path("a/c").c_str()), ENOTDIR);
    CHECK_FAILS(link(dir.path("a").c_str(), dir.path("c/").c_str()), ENOENT);
    CHECK_FAILS(link("/proc/self/status", dir.path("c").c_str()), EXDEV);
    CHECK(mkdir(dir.path("d").c_str(), 0755) == 0);
    CHECK_FAILS(link(dir.path("d").c_str(), dir.path("c").c_str()), EPERM);
    CHECK_FAILS(linkat(AT_FDCWD, dir.path("a").c_str(), AT_FDCWD, dir.path("c").c_str(), 1),
                EINVAL);
    // A hard link of a symbolic link, and what it points to.
    CHECK(symlink("a", dir.path("s").c_str()) == 0);
    CHECK(link(dir.path("s").c_str(), dir.path("s2").c_str()) == 0);
    CHECK(S_ISLNK(stat_of(dir.path("s2")).st_mode) && stat_of(dir.path("s")).st_nlink == 2);
    CHECK(linkat(AT_FDCWD, dir.path("s").c_str(), AT_FDCWD, dir.path("c").c_str(),
                 AT_SYMLINK_FOLLOW) == 0);
    CHECK(stat_of(dir.path("a")).st_nlink == 3);
    // Removal of a file that is open.
    const int fd = open(dir.path("a").c_str(), O_RDWR);
    CHECK(unlink(dir.path("a").c_str()) == 0 && unlink(dir.path("b").c_str()) == 0);
    CHECK(unlink(dir.path("c").c_str()) == 0);
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 0 && s.st_size == 3);
    CHECK(pwrite(fd, "two!", 4, 3) == 4);
    char text[16] = {};
    CHECK(pread(fd, text, 16, 0) == 7 && std::string(text) == "onetwo!");
    make_file(dir.path("a"), "another");
    CHECK(pread(fd, text, 16, 0) == 7);
    CHECK(contents_of("/proc/self/fd/" + std::to_string(fd)) == "onetwo!");
    close(fd);
    CHECK_FAILS(unlink(dir.path("d").c_str()), EISDIR);
    CHECK_FAILS(unlink(dir.path("no").c_str()), ENOENT);
    CHECK_FAILS(unlink(dir.path("a/").c_str()), ENOTDIR);
    CHECK_FAILS(unlinkat(dir.fd(), "a", 1), EINVAL);
    CHECK_FAILS(unlinkat(dir.fd(), "a", AT_REMOVEDIR), ENOTDIR);
    CHECK(unlinkat(dir.fd(), "a", 0) == 0 && unlinkat(dir.fd(), "d", AT_REMOVEDIR) == 0);
    CHECK(unlinkat(dir.fd(), "s", 0) == 0 && unlinkat(dir.fd(), "s2", 0) == 0);
}

void renames(const ScratchDirectory& dir) {
    const std::string a = dir.path("a"), b = dir.path("b"), d = dir.path("d"), e = dir.path("e");
    make_file(a, "A");
    make_file(b, "B");
    CHECK_FAILS(rename2(a, b, RENAME_NOREPLACE), EEXIST);
    CHECK(rename2(a, b, RENAME_EXCHANGE) == 0 && contents_of(a) == "B" && contents_of(b) == "A");
    CHECK_FAILS(rename2(a, dir.path("no"), RENAME_EXCHANGE), ENOENT);
    CHECK_FAILS(rename2(a, b, RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
    CHECK_FAILS(rename2(a, b, RENAME_EXCHANGE | RENAME_WHITEOUT), EINVAL);
    CHECK_FAILS(rename2(a, b, 64), EINVAL);
    CHECK(rename(a.c_str(), b.c_str()) == 0 && !exists(a) && contents_of(b) == "B");
    CHECK(rename2(b, a, RENAME_NOREPLACE) == 0);
    CHECK(rename(a.c_str(), a.c_str()) == 0 && contents_of(a) == "B");
    // Two names of one file: nothing happens.
    CHECK(link(a.c_str(), b.c_str()) == 0 && rename(a.c_str(), b.c_str()) == 0);
    CHECK(exists(a) && exists(b) && unlink(b.c_str()) == 0);
    CHECK_FAILS(rename(dir.path("no").c_str(), b.c_str()), ENOENT);
    CHECK_FAILS(rename(a.c_str(), dir.path("no/b").c_str()), ENOENT);
    CHECK_FAILS(rename(a.c_str(), dir.path("b/").c_str()), ENOTDIR);
    CHECK_FAILS(rename2(a, b + "/", RENAME_NOREPLACE), ENOTDIR);
    // Directories.
    CHECK(mkdir(d.c_str(), 0755) == 0 && mkdir(e.c_str(), 0755) == 0);
    make_file(e + "/x", "X");
    CHECK_FAILS(rename(a.c_str(), d.c_str()), EISDIR);
    CHECK_FAILS(rename(d.c_str(), a.c_str()), ENOTDIR);
    CHECK_FAILS(rename(d.c_str(), e.c_str()), ENOTEMPTY);
    CHECK_FAILS(rename(d.c_str(), (d + "/in").c_str()), EINVAL);
    CHECK_FAILS(rename((d + "/.").c_str(), b.c_str()), EBUSY);
    CHECK_FAILS(rename(d.c_str(), (d + "/..").c_str()), EBUSY);
    CHECK_FAILS(rename2(e, e + "/x", RENAME_EXCHANGE), EINVAL);
    CHECK_FAILS(rename2(e + "/x", e, RENAME_EXCHANGE), EINVAL);
    CHECK(rename2(a, e, RENAME_EXCHANGE) == 0);
    CHECK(contents_of(e) == "B" && contents_of(a + "/x") == "X");
    CHECK(stat_of(dir.name()).st_nlink == 4);
    CHECK(rename2(a, e, RENAME_EXCHANGE) == 0);
    CHECK(rename(e.c_str(), (d + "/").c_str()) == 0 && contents_of(d + "/x") == "X");
    CHECK(mkdir((d + "/deep").c_str(), 0755) == 0);
    CHECK(stat_of(d).st_nlink == 3);
    CHECK(rename((d + "/deep").c_str(), e.c_str()) == 0);
    CHECK(stat_of(d).st_nlink == 2 && stat_of(dir.name()).st_nlink == 4);
    CHECK(rename(e.c_str(), (d + "/deep").c_str()) == 0);
    // ".." follows.
    CHECK(stat_of(d + "/deep/..").st_ino == stat_of(d).st_ino);
    // The working directory moves with its directory.
    in_child([&] {
        CHECK(chdir((d + "/deep").c_str()) == 0);
        CHECK(rename(d.c_str(), e.c_str()) == 0);
        char where[1024];
        CHECK(getcwd(where, sizeof where) != nullptr && std::string(where) == e + "/deep");
        CHECK(rename(e.c_str(), d.c_str()) == 0);
    });
    // An open file whose name gets another file.
    make_file(b, "old");
    const int fd = open(b.c_str(), O_RDONLY);
    CHECK(rename(a.c_str(), b.c_str()) == 0);
    char text[8] = {};
    CHECK(read(fd, text, 8) == 3 && std::string(text) == "old");
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 0);
    close(fd);
    if (is_root() && rename2(b, a, RENAME_WHITEOUT) == 0) {
        s = stat_of(b);
        CHECK(S_ISCHR(s.st_mode) && s.st_rdev == 0 && contents_of(a) == "B");
        CHECK(unlink(b.c_str()) == 0 && rename(a.c_str(), b.c_str()) == 0);
        // Anybody may leave one, and it is his own.
        CHECK(chmod(dir.name().c_str(), 01777) == 0 && chown(b.c_str(), 1000, 1000) == 0);
        in_child([&] {
            CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
            CHECK(rename2(b, a, RENAME_WHITEOUT) == 0 && stat_of(b).st_uid == 1000);
            CHECK(unlink(b.c_str()) == 0 && rename(a.c_str(), b.c_str()) == 0);
        });
        CHECK(chmod(dir.name().c_str(), 0755) == 0);
    }
    CHECK_FAILS(rename(b.c_str(), "/proc/x"), EXDEV);
    CHECK_FAILS(rename(b.c_str(), "/dev/shm/../null/x"), ENOTDIR);
    CHECK(unlink(b.c_str()) == 0 && unlink((d + "/x").c_str()) == 0);
    CHECK(rmdir((d + "/deep").c_str()) == 0 && rmdir(d.c_str()) == 0);
    CHECK(stat_of(dir.name()).st_nlink == 2);
}

void directories(const ScratchDirectory& dir) {
    const std::string d = dir.path("d");
    CHECK(mkdir((d + "/").c_str(), 01777) == 0);
    CHECK((stat_of(d).st_mode & 07777) == 01755);
    CHECK_FAILS(mkdir(d.c_str(), 0700), EEXIST);
    CHECK_FAILS(mkdir((d + "/a/b").c_str(), 0700), ENOENT);
    CHECK_FAILS(mkdir((d + "/.").c_str(), 0700), EEXIST);
    CHECK_FAILS(mkdir("/", 0700), EEXIST);
    CHECK_FAILS(mkdir("", 0700), ENOENT);
    CHECK(mkdirat(dir.fd(), "d/sub", 0700) == 0);
    CHECK_FAILS(rmdir(d.c_str()), ENOTEMPTY);
    CHECK_FAILS(rmdir((d + "/sub/.").c_str()), EINVAL);
    CHECK_FAILS(rmdir((d + "/sub/..").c_str()), ENOTEMPTY);
    CHECK_FAILS(rmdir("/"), EBUSY);
    make_file(d + "/file");
    CHECK_FAILS(rmdir((d + "/file").c_str()), ENOTDIR);
    CHECK(unlink((d + "/file").c_str()) == 0);
    // A directory that somebody uses can be removed; nothing can be made in it any more.
    const int fd = open((d + "/sub").c_str(), O_RDONLY | O_DIRECTORY);
    CHECK(rmdir((d + "/sub/").c_str()) == 0);
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 0);
    CHECK_FAILS(openat(fd, "x", O_RDWR | O_CREAT, 0600), ENOENT);
    CHECK_FAILS(mkdirat(fd, "x", 0700), ENOENT);
    CHECK_FAILS(symlinkat("y", fd, "x"), ENOENT);
    CHECK_FAILS(openat(fd, "x", O_RDONLY), ENOENT);
    char buffer[1024];
    const long got = syscall(SYS_getdents64, fd, buffer, sizeof buffer);
    CHECK(got == 0 || (got == -1 && errno == ENOENT));
    in_child([&] {
        CHECK(fchdir(fd) == 0);
        char where[512];
        CHECK(getcwd(where, sizeof where) == nullptr && errno == ENOENT);
        CHECK(open(".", O_RDONLY) >= 0);
        CHECK(chdir("..") == 0 && getcwd(where, sizeof where) != nullptr);
        CHECK(std::string(where) == d);
        CHECK(readlink("/proc/self/cwd", where, sizeof where) == static_cast<long>(d.size()));
        CHECK(fchdir(fd) == 0);
        const long length = readlink("/proc/self/cwd", where, sizeof where);
        CHECK(std::string(where, static_cast<size_t>(length)) == d + "/sub (deleted)");
    });
    close(fd);
    in_child([&] {
        CHECK_FAILS(chdir(dir.path("no").c_str()), ENOENT);
        CHECK_FAILS(chdir("/dev/null"), ENOTDIR);
        CHECK(chdir(d.c_str()) == 0);
        char where[512];
        CHECK_FAILS(syscall(SYS_getcwd, where, 3), ERANGE);
        CHECK(syscall(SYS_getcwd, where, sizeof where) == static_cast<long>(d.size() + 1));
        if (!is_root())
            return;
        CHECK_FAILS(chroot(dir.path("no").c_str()), ENOENT);
        CHECK_FAILS(chroot("/dev/null"), ENOTDIR);
        make_file(d + "/inside", "in");
        CHECK(chroot(d.c_str()) == 0);
        CHECK(contents_of("/inside") == "in" && contents_of("/../../inside") == "in");
        CHECK(getcwd(where, sizeof where) != nullptr && std::string(where) == "/");
        CHECK(fchdir(dir.fd()) == 0);
        // Outside of the root now.
        CHECK(syscall(SYS_getcwd, where, sizeof where) > 0);
        CHECK(std::string_view(where).substr(0, 13) == "(unreachable)");
        CHECK(unlink("/inside") == 0);
    });
    CHECK(rmdir(d.c_str()) == 0);
}

struct Entry {
    std::string name;
    ino64_t inode;
    unsigned char type;
    off64_t next;
};

std::vector<Entry> read_some(int fd, size_t bytes) {
    std::vector<char> buffer(bytes);
    const long got = syscall(SYS_getdents64, fd, buffer.data(), bytes);
    CHECK(got >= 0);
    std::vector<Entry> out;
    for (long at = 0; at < got;) {
        const auto* entry = reinterpret_cast<const dirent64*>(buffer.data() + at);
        CHECK(entry->d_reclen % 8 == 0);
        out.push_back({entry->d_name, entry->d_ino, entry->d_type, entry->d_off});
        at += entry->d_reclen;
    }
    return out;
}

void listing(const ScratchDirectory& dir) {
    const std::string d = dir.path("list");
    CHECK(mkdir(d.c_str(), 0755) == 0);
    std::set<std::string> expected{".", ".."};
    for (int i = 0; i < 500; i++) {
        const std::string name = "entry-" + std::to_string(i) + std::string(i % 40, 'x');
        make_file(d + "/" + name);
        expected.insert(name);
    }
    const int fd = open(d.c_str(), O_RDONLY | O_DIRECTORY);
    std::set<std::string> seen;
    std::vector<Entry> all;
    for (;;) {
        const auto some = read_some(fd, 1000);
        if (some.empty())
            break;
        for (const Entry& entry : some) {
            CHECK(seen.insert(entry.name).second); // each once
            all.push_back(entry);
            if (entry.name[0] == 'e')
                CHECK(entry.type == DT_REG && entry.inode == stat_of(d + "/" + entry.name).st_ino);
            else
                CHECK(entry.type == DT_DIR);
        }
    }
    CHECK(seen == expected);
    CHECK(read_some(fd, 1000).empty()); // stays at the end
    // From any position that was told, the same entries follow.
    for (size_t i = 0; i < all.size(); i += 61) {
        CHECK(lseek(fd, all[i].next, SEEK_SET) == all[i].next);
        const auto some = read_some(fd, 1000);
        CHECK(i + 1 == all.size() ? some.empty() : some[0].name == all[i + 1].name);
    }
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && lseek(fd, 0, SEEK_CUR) == 0);
    CHECK(read_some(fd, 1000)[0].name == all[0].name);
    CHECK_FAILS(syscall(SYS_getdents64, fd, d.data(), 10), EINVAL);
    char byte;
    CHECK_FAILS(read(fd, &byte, 1), EISDIR);
    CHECK_FAILS(pread(fd, &byte, 1, 0), EISDIR);
    CHECK_FAILS(write(fd, &byte, 1), EBADF);

    // Entries that stay are seen exactly once, whatever comes and goes meanwhile.
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    std::set<std::string> left, met;
    int i = 0;
    for (const std::string& name : expected)
        if (i++ % 2 == 0)
            left.insert(name);
    bool changed = false;
    for (int rounds = 0;; rounds++) {
        const auto some = read_some(fd, 2000);
        if (some.empty())
            break;
        for (const Entry& entry : some)
            if (left.count(entry.name) != 0)
                CHECK(met.insert(entry.name).second);
        if (!changed)
            for (const std::string& name : expected)
                if (left.count(name) == 0 && name[0] == 'e')
                    CHECK(unlink((d + "/" + name).c_str()) == 0);
        changed = true;
        if (rounds < 20)
            for (int k = 0; k < 10; k++)
                make_file(d + "/fresh" + std::to_string(rounds * 10 + k));
    }
    for (const std::string& name : left)
        CHECK(met.count(name) == 1);
    // rm -r: read, remove, read on.
    DIR* stream = opendir(d.c_str());
    while (const dirent* entry = readdir(stream))
        if (entry->d_name[0] != '.')
            CHECK(unlinkat(dirfd(stream), entry->d_name, 0) == 0);
    closedir(stream);
    CHECK(rmdir(d.c_str()) == 0);
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    close(fd);
}

void nodes(const ScratchDirectory& dir) {
    CHECK(mknod(dir.path("regular").c_str(), S_IFREG | 0666, 0) == 0);
    CHECK(S_ISREG(stat_of(dir.path("regular")).st_mode));
    CHECK((stat_of(dir.path("regular")).st_mode & 0777) == 0644);
    CHECK(mknod(dir.path("untyped").c_str(), 0600, 0) == 0);
    CHECK(S_ISREG(stat_of(dir.path("untyped")).st_mode));
    CHECK(mknod(dir.path("fifo").c_str(), S_IFIFO | 0600, 0) == 0);
    CHECK(mknod(dir.path("socket").c_str(), S_IFSOCK | 0600, 0) == 0);
    CHECK(S_ISSOCK(stat_of(dir.path("socket")).st_mode));
    CHECK_FAILS(mknod(dir.path("dir").c_str(), S_IFDIR | 0600, 0), EPERM);
    CHECK_FAILS(mknod(dir.path("odd").c_str(), S_IFLNK | 0600, 0), EINVAL);
    CHECK_FAILS(mknod(dir.path("regular").c_str(), S_IFREG | 0600, 0), EEXIST);
    if (is_root() && mknod(dir.path("null").c_str(), S_IFCHR | 0666, makedev(1, 3)) == 0) {
        const struct stat s = stat_of(dir.path("null"));
        CHECK(S_ISCHR(s.st_mode) && s.st_rdev == makedev(1, 3));
        CHECK(mknod(dir.path("block").c_str(), S_IFBLK | 0600, makedev(300, 70000)) == 0);
        CHECK(S_ISBLK(stat_of(dir.path("block")).st_mode));
        CHECK(stat_of(dir.path("block")).st_rdev == makedev(300, 70000));
        struct statvfs fs;
        CHECK(statvfs(dir.name().c_str(), &fs) == 0);
        const bool devices = (fs.f_flag & ST_NODEV) == 0;
        CHECK_FAILS(open(dir.path("block").c_str(), O_RDONLY), devices ? ENXIO : EACCES);
        CHECK(mknod(dir.path("unknown").c_str(), S_IFCHR | 0600, makedev(300, 7)) == 0);
        if (devices) {
            const int fd = open(dir.path("null").c_str(), O_RDWR);
            CHECK(fd >= 0 && write(fd, "x", 1) == 1);
            close(fd);
            CHECK_FAILS(open(dir.path("unknown").c_str(), O_RDONLY), ENXIO);
        } else {
            CHECK_FAILS(open(dir.path("null").c_str(), O_RDONLY), EACCES);
        }
    }
}

} // namespace

int main() {
    umask(022);
    on_each_file_system([](const ScratchDirectory& dir) {
        links(dir);
        renames(dir);
        directories(dir);
        listing(dir);
        nodes(dir);
    });
}
