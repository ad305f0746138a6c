// stat(2), statx(2), chmod(2), chown(2), utimensat(2), access(2), faccessat2(2), sticky and set-id
// bits, statfs(2), xattr(7), the protocols of sockets.
#include <cstdint>
#include <ctime>
#include <grp.h>
#include <sched.h>
#include <utility>
#include <utime.h>

#include <linux/capability.h>
#include <netinet/in.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

constexpr uid_t stranger = 12345;

long statx_of(int directory, const char* name, unsigned flags, unsigned mask, struct statx& out) {
    return syscall(SYS_statx, directory, name, flags, mask, &out);
}

// In a child without privileges.
void as_stranger(const std::function<void()>& work, gid_t group = stranger) {
    in_child([&] {
        CHECK(setgroups(0, nullptr) == 0 && setgid(group) == 0 && setuid(stranger) == 0);
        work();
    });
}

mode_t mode_of(const std::string& name) {
    return stat_of(name).st_mode & 07777;
}

void stats(const ScratchDirectory& dir) {
    const std::string name = dir.path("file");
    make_file(name, "12345");
    struct stat s = stat_of(name);
    CHECK(s.st_size == 5 && s.st_nlink == 1 && S_ISREG(s.st_mode) && s.st_uid == geteuid());
    CHECK(s.st_blksize >= 512 && s.st_dev == stat_of(dir.name()).st_dev);
    struct statx x {};
    CHECK(statx_of(AT_FDCWD, name.c_str(), 0, STATX_ALL, x) == 0);
    CHECK((x.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS);
    CHECK(x.stx_ino == s.st_ino && x.stx_size == 5 && x.stx_mode == s.st_mode);
    CHECK(x.stx_mtime.tv_sec == s.st_mtim.tv_sec);
    CHECK(static_cast<long>(x.stx_mtime.tv_nsec) == s.st_mtim.tv_nsec);
    CHECK(makedev(x.stx_dev_major, x.stx_dev_minor) == s.st_dev);
    CHECK(statx_of(dir.fd(), "file", AT_STATX_FORCE_SYNC, STATX_SIZE, x) == 0);
    CHECK(statx_of(dir.fd(), "", AT_EMPTY_PATH, STATX_TYPE, x) == 0 && S_ISDIR(x.stx_mode));
    CHECK_FAILS(statx_of(dir.fd(), "", 0, STATX_TYPE, x), ENOENT);
    CHECK_FAILS(statx_of(dir.fd(), "file", 0, STATX__RESERVED, x), EINVAL);
    CHECK_FAILS(statx_of(dir.fd(), "file", AT_STATX_SYNC_TYPE, 0, x), EINVAL);
    CHECK_FAILS(statx_of(dir.fd(), "file", 1, 0, x), EINVAL);
    CHECK_FAILS(statx_of(999, "file", 0, 0, x), EBADF);
    CHECK_FAILS(syscall(SYS_statx, dir.fd(), "file", 0, 0, 8), EFAULT);
    CHECK_FAILS(fstatat(dir.fd(), "file", &s, 1), EINVAL);
    CHECK(fstatat(dir.fd(), "", &s, AT_EMPTY_PATH) == 0 && S_ISDIR(s.st_mode));
    CHECK_FAILS(stat((name + "/").c_str(), &s), ENOTDIR);
    CHECK_FAILS(stat("", &s), ENOENT);
    CHECK_FAILS(syscall(SYS_stat, name.c_str(), 8), EFAULT);
    CHECK(statx_of(AT_FDCWD, "/", 0, STATX_BASIC_STATS, x) == 0);
    CHECK((x.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0);
    CHECK(statx_of(AT_FDCWD, name.c_str(), 0, STATX_BASIC_STATS, x) == 0);
    CHECK((x.stx_attributes_mask & STATX_ATTR_MOUNT_ROOT) != 0);
    CHECK((x.stx_attributes & STATX_ATTR_MOUNT_ROOT) == 0);
    CHECK(statx_of(AT_FDCWD, name.c_str(), 0, STATX_MNT_ID, x) == 0);
    CHECK((x.stx_mask & STATX_MNT_ID) != 0 && x.stx_mnt_id != 0);

    struct statfs f;
    CHECK(statfs(name.c_str(), &f) == 0 && f.f_bsize >= 512 && f.f_namelen == 255);
    CHECK(f.f_blocks >= f.f_bfree && f.f_bfree >= f.f_bavail);
    struct statfs g;
    CHECK(fstatfs(dir.fd(), &g) == 0 && g.f_type == f.f_type);
    CHECK_FAILS(statfs(dir.path("no").c_str(), &f), ENOENT);
    CHECK_FAILS(fstatfs(999, &f), EBADF);
    CHECK(statfs("/proc", &f) == 0 && f.f_type == 0x9fa0);
    CHECK(statfs("/dev/shm", &f) == 0 && f.f_type == 0x01021994);
    CHECK(statfs("/sys", &f) == 0 && f.f_type == 0x62656572);
    int p[2];
    CHECK(pipe(p) == 0 && fstatfs(p[0], &f) == 0 && f.f_type == 0x50495045);
    close(p[0]);
    close(p[1]);
    CHECK_FAILS(syscall(SYS_ustat, s.st_dev + 12345, &f), EINVAL);
}

void times(const ScratchDirectory& dir) {
    const std::string name = dir.path("times");
    make_file(name, "x");
    timespec t[2] = {{1'000'000'000, 123'456'789}, {1'500'000'000, 5}};
    CHECK(utimensat(AT_FDCWD, name.c_str(), t, 0) == 0);
    struct stat s = stat_of(name);
    CHECK(s.st_atim.tv_sec == 1'000'000'000 && s.st_atim.tv_nsec == 123'456'789);
    CHECK(s.st_mtim.tv_sec == 1'500'000'000 && s.st_mtim.tv_nsec == 5);
    timespec now;
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    CHECK(s.st_ctim.tv_sec >= now.tv_sec - 100 && s.st_ctim.tv_sec <= now.tv_sec + 1);
    t[0].tv_nsec = UTIME_OMIT;
    t[1] = {7, 8};
    CHECK(utimensat(dir.fd(), "times", t, 0) == 0);
    s = stat_of(name);
    CHECK(s.st_atim.tv_sec == 1'000'000'000 && s.st_mtim.tv_sec == 7 && s.st_mtim.tv_nsec == 8);
    t[0].tv_nsec = UTIME_NOW;
    t[1].tv_nsec = UTIME_OMIT;
    CHECK(utimensat(dir.fd(), "times", t, 0) == 0);
    s = stat_of(name);
    CHECK(s.st_atim.tv_sec >= now.tv_sec - 1 && s.st_mtim.tv_sec == 7);
    t[0].tv_nsec = UTIME_OMIT;
    CHECK(utimensat(dir.fd(), "times", t, 0) == 0);
    CHECK(utimensat(AT_FDCWD, "/no/such/file", t, 0) == 0); // nothing to do: not even looked up
    CHECK(utimensat(dir.fd(), "times", nullptr, 0) == 0);
    CHECK(stat_of(name).st_mtim.tv_sec >= now.tv_sec - 1);
    t[0] = {1, 1'000'000'000};
    CHECK_FAILS(utimensat(dir.fd(), "times", t, 0), EINVAL);
    t[0] = {-5, 0};
    t[1] = {-1, 999'999'999};
    CHECK(utimensat(dir.fd(), "times", t, 0) == 0);
    CHECK(stat_of(name).st_atim.tv_sec == -5 && stat_of(name).st_mtim.tv_sec == -1);
    CHECK_FAILS(utimensat(dir.fd(), "times", t, 1), EINVAL);
    const int fd = open(name.c_str(), O_RDONLY);
    t[0] = t[1] = {100, 0};
    CHECK(futimens(fd, t) == 0 && stat_of(name).st_mtim.tv_sec == 100);
    close(fd);
    CHECK(symlink("times", dir.path("tlink").c_str()) == 0);
    t[0] = t[1] = {200, 0};
    CHECK(utimensat(dir.fd(), "tlink", t, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(stat_of(dir.path("tlink")).st_mtim.tv_sec == 200 && stat_of(name).st_mtim.tv_sec == 100);
    const timeval v[2] = {{300, 1}, {301, 2}};
    CHECK(utimes(name.c_str(), v) == 0 && stat_of(name).st_mtim.tv_nsec == 2000);
    const timeval bad[2] = {{300, 1'000'000}, {301, 2}};
    CHECK_FAILS(utimes(name.c_str(), bad), EINVAL);
    const utimbuf u{400, 401};
    CHECK(utime(name.c_str(), &u) == 0 && stat_of(name).st_atim.tv_sec == 400);
    CHECK(chmod(name.c_str(), 0666) == 0);
    if (is_root())
        as_stranger([&] {
            // Now is for who may write, other times are the owner's.
            CHECK(utimensat(dir.fd(), "times", nullptr, 0) == 0);
            CHECK_FAILS(utimensat(dir.fd(), "times", t, 0), EPERM);
            timespec mixed[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
            CHECK_FAILS(utimensat(dir.fd(), "times", mixed, 0), EPERM);
        });
    CHECK(chmod(name.c_str(), 0644) == 0);
    if (is_root())
        as_stranger([&] { CHECK_FAILS(utimensat(dir.fd(), "times", nullptr, 0), EACCES); });

    // What changes which times.
    const std::string d = dir.path("td");
    CHECK(mkdir(d.c_str(), 0755) == 0);
    t[0] = t[1] = {1000, 0};
    const auto touched = [&](const std::string& what) {
        const bool yes = stat_of(what).st_mtim.tv_sec != 1000;
        CHECK(utimensat(AT_FDCWD, what.c_str(), t, 0) == 0);
        return yes;
    };
    touched(d);
    make_file(d + "/f", "x");
    CHECK(touched(d) && touched(d + "/f"));
    CHECK(link((d + "/f").c_str(), (d + "/g").c_str()) == 0 && touched(d) && !touched(d + "/f"));
    CHECK(rename((d + "/f").c_str(), (d + "/h").c_str()) == 0 && touched(d) && !touched(d + "/h"));
    CHECK(chmod((d + "/h").c_str(), 0600) == 0 && !touched(d + "/h") && !touched(d));
    CHECK(truncate((d + "/h").c_str(), 10) == 0 && touched(d + "/h"));
    CHECK(truncate((d + "/h").c_str(), 10) == 0 && touched(d + "/h")); // the same size too
    const int w = open((d + "/h").c_str(), O_RDWR);
    CHECK(write(w, "", 0) == 0 && !touched(d + "/h"));
    CHECK(write(w, "y", 1) == 1 && touched(d + "/h"));
    CHECK(ftruncate(w, 0) == 0 && touched(d + "/h"));
    close(w);
    CHECK(open((d + "/h").c_str(), O_RDONLY | O_CREAT, 0600) >= 0 && !touched(d));
    CHECK(unlink((d + "/g").c_str()) == 0 && touched(d));
    CHECK(symlink("x", (d + "/s").c_str()) == 0 && touched(d));
    CHECK(mkdir((d + "/sub").c_str(), 0700) == 0 && touched(d));
    CHECK(rmdir((d + "/sub").c_str()) == 0 && touched(d));
}

void modes(const ScratchDirectory& dir) {
    const std::string name = dir.path("mode");
    make_file(name);
    CHECK(chmod(name.c_str(), 07777) == 0 && mode_of(name) == 07777);
    CHECK(chmod(name.c_str(), 0100000 | 0640) == 0 && mode_of(name) == 0640);
    CHECK(fchmodat(dir.fd(), "mode", 0600, 0) == 0 && mode_of(name) == 0600);
    CHECK_FAILS(chmod(dir.path("no").c_str(), 0600), ENOENT);
    CHECK_FAILS(syscall(SYS_fchmodat, 999, "x", 0600), EBADF);
    const int fd = open(name.c_str(), O_RDONLY);
    CHECK(fchmod(fd, 0444) == 0 && mode_of(name) == 0444);
    CHECK(fchown(fd, static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0);
    close(fd);
    CHECK_FAILS(fchmod(fd, 0), EBADF);
    CHECK_FAILS(fchownat(dir.fd(), "mode", 0, 0, 1), EINVAL);
    CHECK_FAILS(chown(dir.path("no").c_str(), 0, 0), ENOENT);
    if (!is_root())
        return;
    // chown takes set-id bits away, of executable files, even from root.
    CHECK(chmod(name.c_str(), 06755) == 0 && chown(name.c_str(), 1, 2) == 0);
    CHECK(mode_of(name) == 0755 && stat_of(name).st_uid == 1 && stat_of(name).st_gid == 2);
    CHECK(chmod(name.c_str(), 06745) == 0 && chown(name.c_str(), stranger, 2) == 0);
    CHECK(mode_of(name) == 02745); // set-group-id without group execution is not set-id
    CHECK(chmod(name.c_str(), 04755) == 0);
    CHECK(chown(name.c_str(), static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0);
    CHECK(mode_of(name) == 0755 || mode_of(name) == 04755);
    // Nobody disarms another's set-id program by changing nothing else of it.
    constexpr auto kept = static_cast<uid_t>(-1);
    for (const mode_t bits : {04755, 02755}) {
        CHECK(chown(name.c_str(), 1, 2) == 0 && chmod(name.c_str(), bits) == 0);
        as_stranger([&] {
            CHECK_FAILS(chown(name.c_str(), kept, kept), EPERM);
            const int opened = open(name.c_str(), O_RDONLY);
            CHECK_FAILS(fchown(opened, kept, kept), EPERM);
        });
        CHECK(mode_of(name) == bits);
    }
    CHECK(chown(name.c_str(), stranger, 2) == 0 && mode_of(name) == 0755);
    as_stranger([&] { CHECK(chown(dir.name().c_str(), kept, kept) == 0); });
    CHECK(symlink("mode", dir.path("mlink").c_str()) == 0);
    CHECK(lchown(dir.path("mlink").c_str(), 77, 78) == 0);
    CHECK(stat_of(dir.path("mlink")).st_uid == 77 && stat_of(name).st_uid == stranger);
    CHECK(fchownat(dir.fd(), "mlink", stranger, stranger, 0) == 0 &&
          stat_of(name).st_gid == stranger);
    as_stranger([&] {
        CHECK(chmod(name.c_str(), 0700) == 0);
        CHECK_FAILS(chown(name.c_str(), 0, static_cast<gid_t>(-1)), EPERM);
        CHECK_FAILS(chown(name.c_str(), static_cast<uid_t>(-1), 0), EPERM);
        CHECK(chown(name.c_str(), stranger, stranger) == 0);
        CHECK_FAILS(chmod(dir.name().c_str(), 0700), EPERM);
    });
    // Writing takes them away too, from who has no CAP_FSETID; a foreign group is not given
    // set-group-id.
    CHECK(chown(name.c_str(), stranger, 0) == 0);
    as_stranger([&] {
        CHECK(chmod(name.c_str(), 06777) == 0);
        CHECK(mode_of(name) == 04777);
        const int w = open(name.c_str(), O_WRONLY);
        CHECK(w >= 0 && write(w, "x", 1) == 1 && mode_of(name) == 0777);
        close(w);
        CHECK(chmod(name.c_str(), 04777) == 0);
        CHECK(truncate(name.c_str(), 0) == 0 && mode_of(name) == 0777);
    });
    CHECK(chmod(name.c_str(), 06777) == 0);
    const int w = open(name.c_str(), O_WRONLY);
    CHECK(write(w, "x", 1) == 1 && mode_of(name) == 06777); // CAP_FSETID
    close(w);

    // Set-group-id of a directory is inherited, the group too.
    const std::string d = dir.path("gd");
    CHECK(mkdir(d.c_str(), 0777) == 0 && chown(d.c_str(), 0, 555) == 0);
    CHECK(chmod(d.c_str(), 02777) == 0);
    make_file(d + "/f");
    CHECK(stat_of(d + "/f").st_gid == 555 && mode_of(d + "/f") == 0644);
    CHECK(mkdir((d + "/sub").c_str(), 0700) == 0);
    CHECK(stat_of(d + "/sub").st_gid == 555 && mode_of(d + "/sub") == 02700);
    CHECK(symlink("x", (d + "/s").c_str()) == 0 && stat_of(d + "/s").st_gid == 555);
    CHECK(mkfifo((d + "/p").c_str(), 0600) == 0 && stat_of(d + "/p").st_gid == 555);
    as_stranger([&] {
        umask(0);
        const int fd2 = open((d + "/exec").c_str(), O_CREAT | O_WRONLY, 02775);
        CHECK(fd2 >= 0 && mode_of(d + "/exec") == 0775); // not of the group: no set-group-id
        close(fd2);
    });

    // The sticky bit.
    const std::string t = dir.path("sticky");
    CHECK(mkdir(t.c_str(), 0777) == 0 && chmod(t.c_str(), 01777) == 0);
    make_file(t + "/roots", "", 0666);
    as_stranger([&] {
        make_file(t + "/own");
        CHECK_FAILS(unlink((t + "/roots").c_str()), EPERM);
        CHECK_FAILS(rename((t + "/roots").c_str(), (t + "/x").c_str()), EPERM);
        CHECK_FAILS(rename((t + "/own").c_str(), (t + "/roots").c_str()), EPERM);
        CHECK(rename((t + "/own").c_str(), (t + "/own2").c_str()) == 0);
        CHECK(unlink((t + "/own2").c_str()) == 0);
    });
    CHECK(chown(t.c_str(), stranger, 0) == 0);
    as_stranger([&] { CHECK(unlink((t + "/roots").c_str()) == 0); });
}

void access_checks(const ScratchDirectory& dir) {
    if (!is_root())
        return;
    const std::string name = dir.path("access");
    make_file(name, "data");
    CHECK(chmod(name.c_str(), 0) == 0);
    CHECK(access(name.c_str(), R_OK | W_OK) == 0);
    CHECK_FAILS(access(name.c_str(), X_OK), EACCES);
    CHECK_FAILS(access(name.c_str(), 8), EINVAL);
    CHECK_FAILS(syscall(SYS_faccessat2, dir.fd(), "access", F_OK, 1), EINVAL);
    CHECK(syscall(SYS_faccessat2, dir.fd(), "access", R_OK, AT_EACCESS) == 0);
    CHECK(syscall(SYS_faccessat2, dir.fd(), "", X_OK, AT_EMPTY_PATH) == 0);
    CHECK_FAILS(access(dir.path("no").c_str(), F_OK), ENOENT);
    CHECK_FAILS(access("/proc/version", W_OK) == 0 ? (errno = EACCES, -1) : -1, errno);
    as_stranger([&] {
        CHECK_FAILS(open(name.c_str(), O_RDONLY), EACCES);
        CHECK_FAILS(access(name.c_str(), R_OK), EACCES);
        CHECK(access(name.c_str(), F_OK) == 0);
        CHECK_FAILS(open(dir.path("new").c_str(), O_WRONLY | O_CREAT, 0600), EACCES);
        CHECK_FAILS(unlink(name.c_str()), EACCES);
        CHECK_FAILS(truncate(name.c_str(), 0), EACCES);
        CHECK_FAILS(mkdir(dir.path("new").c_str(), 0700), EACCES);
        CHECK_FAILS(chroot(dir.name().c_str()), EPERM);
    });
    // The first class that fits decides: the owner is not saved by what others may.
    CHECK(chown(name.c_str(), stranger, 777) == 0 && chmod(name.c_str(), 0066) == 0);
    as_stranger([&] { CHECK_FAILS(open(name.c_str(), O_RDONLY), EACCES); });
    CHECK(chown(name.c_str(), 1, stranger) == 0 && chmod(name.c_str(), 0606) == 0);
    as_stranger([&] { CHECK_FAILS(open(name.c_str(), O_RDONLY), EACCES); });
    CHECK(chmod(name.c_str(), 0040) == 0);
    as_stranger([&] { CHECK(open(name.c_str(), O_RDONLY) >= 0); });
    CHECK(chown(name.c_str(), 1, 888) == 0);
    in_child([&] { // a supplementary group
        const gid_t group = 888;
        CHECK(setgroups(1, &group) == 0 && setgid(stranger) == 0 && setuid(stranger) == 0);
        CHECK(open(name.c_str(), O_RDONLY) >= 0);
        CHECK_FAILS(open(name.c_str(), O_RDWR), EACCES);
    });
    // Search permission on the way.
    const std::string d = dir.path("search");
    CHECK(mkdir(d.c_str(), 0755) == 0);
    make_file(d + "/in", "in", 0666);
    CHECK(chmod(d.c_str(), 0744) == 0);
    as_stranger([&] {
        CHECK_FAILS(open((d + "/in").c_str(), O_RDONLY), EACCES);
        CHECK_FAILS(access((d + "/in").c_str(), F_OK), EACCES);
        CHECK_FAILS(chdir(d.c_str()), EACCES);
        CHECK(open(d.c_str(), O_RDONLY) >= 0);
    });
    CHECK(chmod(d.c_str(), 0711) == 0);
    as_stranger([&] {
        CHECK(open((d + "/in").c_str(), O_RDONLY) >= 0);
        CHECK_FAILS(open(d.c_str(), O_RDONLY), EACCES);
        CHECK(open(d.c_str(), O_PATH) >= 0);
    });
    // access(2) asks for the real ids, open(2) for the file system's.
    CHECK(chmod(name.c_str(), 0600) == 0 && chown(name.c_str(), stranger, stranger) == 0);
    in_child([&] {
        CHECK(setgroups(0, nullptr) == 0);
        CHECK(setresgid(stranger, 0, 0) == 0 && setresuid(stranger, 0, 0) == 0);
        CHECK(access(name.c_str(), R_OK) == 0);
        CHECK(chown(name.c_str(), 1, 1) == 0);
        CHECK_FAILS(access(name.c_str(), R_OK), EACCES);
        CHECK(syscall(SYS_faccessat2, AT_FDCWD, name.c_str(), R_OK, AT_EACCESS) == 0);
        // A directory that the real user may not search hides what is in it.
        const std::string closed = dir.path("closed"), inside = closed + "/in";
        CHECK(mkdir(closed.c_str(), 0700) == 0);
        make_file(inside);
        CHECK_FAILS(access(inside.c_str(), R_OK), EACCES);
        CHECK_FAILS(access(inside.c_str(), F_OK), EACCES);
        CHECK(syscall(SYS_faccessat2, AT_FDCWD, inside.c_str(), R_OK, AT_EACCESS) == 0);
        CHECK(geteuid() == 0 && unlink(inside.c_str()) == 0 && rmdir(closed.c_str()) == 0);
    });
    in_child([&] {
        CHECK(chown(name.c_str(), stranger, stranger) == 0);
        CHECK(setfsuid(stranger + 1) == 0 && setfsuid(stranger + 1) == stranger + 1);
        CHECK_FAILS(open(name.c_str(), O_RDONLY), EACCES);
        CHECK(access(name.c_str(), R_OK) == 0); // the real user's capabilities
        CHECK(setfsuid(stranger) == stranger + 1);
        CHECK(open(name.c_str(), O_RDONLY) >= 0);
        CHECK(chmod(dir.path("search").c_str(), 0777) == -1 && errno == EPERM);
    });
    // O_NOATIME is the owner's.
    CHECK(chown(name.c_str(), 1, 1) == 0 && chmod(name.c_str(), 0644) == 0);
    as_stranger([&] {
        CHECK_FAILS(open(name.c_str(), O_RDONLY | O_NOATIME), EPERM);
        const int fd = open(name.c_str(), O_RDONLY);
        CHECK_FAILS(fcntl(fd, F_SETFL, O_NOATIME), EPERM);
    });
}

void attributes(const ScratchDirectory& dir) {
    const std::string name = dir.path("xattr");
    make_file(name);
    const char* n = name.c_str();
    char text[512];
    CHECK_FAILS(getxattr(n, "nonsense", text, sizeof text), EOPNOTSUPP);
    CHECK_FAILS(getxattr(n, "", text, sizeof text), ERANGE);
    CHECK_FAILS(getxattr(n, std::string(256, 'n').c_str(), text, sizeof text), ERANGE);
    CHECK_FAILS(getxattr(dir.path("no").c_str(), "user.a", text, sizeof text), ENOENT);
    CHECK_FAILS(setxattr(n, "user.a", "v", 1, 8), EINVAL);
    if (is_root()) {
        CHECK(setxattr(n, "trusted.joey", "tv", 2, 0) == 0);
        CHECK(getxattr(n, "trusted.joey", text, sizeof text) == 2 && text[0] == 't');
        ssize_t length = listxattr(n, text, sizeof text);
        CHECK(length > 0 &&
              memmem(text, static_cast<size_t>(length), "trusted.joey", 13) != nullptr);
        CHECK(chmod(n, 0666) == 0);
        as_stranger([&] {
            CHECK_FAILS(getxattr(n, "trusted.joey", text, sizeof text), ENODATA);
            CHECK_FAILS(setxattr(n, "trusted.joey", "x", 1, 0), EPERM);
            const ssize_t seen = listxattr(n, text, sizeof text);
            CHECK(seen >= 0 && memmem(text, static_cast<size_t>(seen), "trusted", 7) == nullptr);
            CHECK_FAILS(setxattr(n, "security.joey", "x", 1, 0), EPERM);
        });
        CHECK(setxattr(n, "security.joey", "sv", 2, XATTR_CREATE) == 0);
        CHECK(getxattr(n, "security.joey", text, sizeof text) == 2);
        CHECK(removexattr(n, "security.joey") == 0 && removexattr(n, "trusted.joey") == 0);
    }
    if (setxattr(n, "user.a", "value", 5, XATTR_CREATE) != 0) {
        CHECK(errno == EOPNOTSUPP); // tmpfs before Linux 6.6
        return;
    }
    CHECK_FAILS(setxattr(n, "user.a", "value", 5, XATTR_CREATE), EEXIST);
    CHECK_FAILS(setxattr(n, "user.b", "value", 5, XATTR_REPLACE), ENODATA);
    CHECK(setxattr(n, "user.a", "longer value", 12, XATTR_REPLACE) == 0);
    CHECK(setxattr(n, "user.empty", nullptr, 0, 0) == 0);
    CHECK(getxattr(n, "user.empty", text, sizeof text) == 0);
    CHECK(getxattr(n, "user.a", nullptr, 0) == 12);
    CHECK_FAILS(getxattr(n, "user.a", text, 5), ERANGE);
    CHECK(getxattr(n, "user.a", text, sizeof text) == 12);
    CHECK(std::memcmp(text, "longer value", 12) == 0);
    CHECK_FAILS(getxattr(n, "user.c", text, sizeof text), ENODATA);
    CHECK_FAILS(removexattr(n, "user.c"), ENODATA);
    CHECK_FAILS(setxattr(n, "user.", "v", 1, 0), EINVAL);
    const std::string big(65537, 'b');
    CHECK_FAILS(setxattr(n, "user.big", big.data(), big.size(), 0), E2BIG);
    const ssize_t all = listxattr(n, nullptr, 0);
    CHECK(all >= 18 && listxattr(n, text, sizeof text) == all);
    CHECK(memmem(text, static_cast<size_t>(all), "user.a", 7) != nullptr);
    CHECK(memmem(text, static_cast<size_t>(all), "user.empty", 11) != nullptr);
    CHECK_FAILS(listxattr(n, text, 3), ERANGE);
    const int fd = open(n, O_RDONLY);
    CHECK(fgetxattr(fd, "user.a", text, sizeof text) == 12);
    CHECK(fsetxattr(fd, "user.fd", "1", 1, 0) == 0 && fremovexattr(fd, "user.fd") == 0);
    CHECK(flistxattr(fd, nullptr, 0) == all);
    close(fd);
    CHECK(symlink("xattr", dir.path("xl").c_str()) == 0);
    CHECK(getxattr(dir.path("xl").c_str(), "user.a", text, sizeof text) == 12);
    CHECK_FAILS(lsetxattr(dir.path("xl").c_str(), "user.a", "v", 1, 0), EPERM);
    CHECK_FAILS(lgetxattr(dir.path("xl").c_str(), "user.a", text, sizeof text), ENODATA);
    CHECK(mkfifo(dir.path("xf").c_str(), 0600) == 0);
    CHECK_FAILS(setxattr(dir.path("xf").c_str(), "user.a", "v", 1, 0), EPERM);
    if (is_root())
        as_stranger([&] {
            CHECK(setxattr(n, "user.s", "v", 1, 0) == 0); // mode 0666
            CHECK(chmod(n, 0600) == -1);
        });
    CHECK(chmod(n, 0644) == 0);
    if (is_root())
        as_stranger([&] {
            CHECK_FAILS(setxattr(n, "user.s", "v", 1, 0), EACCES);
            CHECK(getxattr(n, "user.a", text, sizeof text) == 12);
        });
    CHECK(rename(n, dir.path("xattr2").c_str()) == 0);
    CHECK(getxattr(dir.path("xattr2").c_str(), "user.a", text, sizeof text) == 12);
    CHECK(removexattr(dir.path("xattr2").c_str(), "user.a") == 0);
}

void map_root() {
    for (const auto& [name, text] :
         {std::pair("/proc/self/setgroups", "deny"), std::pair("/proc/self/uid_map", "0 12345 1"),
          std::pair("/proc/self/gid_map", "0 12345 1")}) {
        const int fd = open(name, O_WRONLY);
        CHECK(fd >= 0 && write(fd, text, std::strlen(text)) > 0);
        close(fd);
    }
}

// What root of a user namespace gives a program counts in that namespace only: to those outside it
// says so (capabilities(7), "Namespaced file capabilities").
void namespaced_capabilities(const ScratchDirectory& dir) {
    constexpr const char* attribute = "security.capability";
    const std::string name = dir.path("program");
    const char* n = name.c_str();
    constexpr size_t plain = sizeof(vfs_cap_data), namespaced = sizeof(vfs_ns_cap_data);
    vfs_cap_data wanted{};
    wanted.magic_etc = VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE;
    wanted.data[0].permitted = 1u << CAP_SETUID;
    make_file(name);
    CHECK(setxattr(n, attribute, &wanted, plain, 0) == 0);
    vfs_ns_cap_data got{};
    CHECK(getxattr(n, attribute, &got, sizeof got) == plain);
    CHECK(std::memcmp(&got, &wanted, plain) == 0);
    CHECK_FAILS(setxattr(n, attribute, &wanted, plain - 1, 0), EINVAL);
    CHECK(chown(n, stranger, stranger) == 0 && chmod(dir.name().c_str(), 0755) == 0);
    as_stranger([&] {
        CHECK_FAILS(setxattr(n, attribute, &wanted, plain, 0), EPERM);
        CHECK(prctl(PR_SET_DUMPABLE, 1) == 0); // so that the maps are its own to write
        CHECK(unshare(CLONE_NEWUSER) == 0);
        map_root();
        CHECK(setxattr(n, attribute, &wanted, plain, 0) == 0);
        CHECK(getxattr(n, attribute, &got, sizeof got) == plain);
        CHECK(std::memcmp(&got, &wanted, plain) == 0);
    });
    CHECK(getxattr(n, attribute, nullptr, 0) == namespaced);
    CHECK(getxattr(n, attribute, &got, sizeof got) == namespaced);
    CHECK(got.magic_etc == (VFS_CAP_REVISION_3 | VFS_CAP_FLAGS_EFFECTIVE));
    CHECK(got.rootid == stranger && got.data[0].permitted == wanted.data[0].permitted);
    CHECK(unlink(n) == 0);
}

// What strace(1) and lsof(8) tell sockets apart by.
void socket_protocols() {
    constexpr const char* attribute = "system.sockprotoname";
    const struct {
        int family, type;
        std::string name;
    } cases[] = {
        {AF_INET, SOCK_STREAM, "TCP"},         {AF_INET6, SOCK_DGRAM, "UDPv6"},
        {AF_UNIX, SOCK_STREAM, "UNIX-STREAM"}, {AF_UNIX, SOCK_SEQPACKET, "UNIX"},
        {AF_NETLINK, SOCK_RAW, "NETLINK"},
    };
    for (const auto& [family, type, name] : cases) {
        const int fd = socket(family, type, 0);
        CHECK(fd >= 0);
        char text[64] = {};
        const auto length = static_cast<ssize_t>(name.size() + 1); // with its NUL
        CHECK(fgetxattr(fd, attribute, nullptr, 0) == length);
        CHECK_FAILS(fgetxattr(fd, attribute, text, name.size()), ERANGE);
        const std::string path = "/proc/self/fd/" + std::to_string(fd);
        CHECK(getxattr(path.c_str(), attribute, text, sizeof text) == length && text == name);
        const auto listed = static_cast<ssize_t>(std::strlen(attribute) + 1);
        CHECK(flistxattr(fd, text, sizeof text) == listed && text == std::string(attribute));
        CHECK_FAILS(fsetxattr(fd, attribute, "x", 1, 0), EOPNOTSUPP);
        CHECK_FAILS(fremovexattr(fd, attribute), EOPNOTSUPP);
        CHECK_FAILS(fgetxattr(fd, "system.other", text, sizeof text), EOPNOTSUPP);
        CHECK(close(fd) == 0);
    }
    // One that was accepted is of its listener's kind.
    const int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    auto* const place = reinterpret_cast<sockaddr*>(&address);
    CHECK(bind(listener, place, length) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, place, &length) == 0 && connect(client, place, length) == 0);
    const int accepted = accept(listener, nullptr, nullptr);
    char text[8] = {};
    CHECK(fgetxattr(accepted, attribute, text, sizeof text) == 4 && text == std::string("TCP"));
    CHECK(close(accepted) == 0 && close(client) == 0 && close(listener) == 0);
    int ends[2];
    CHECK(pipe(ends) == 0);
    CHECK_FAILS(fgetxattr(ends[0], attribute, text, sizeof text), EOPNOTSUPP);
    CHECK(flistxattr(ends[0], text, sizeof text) == 0);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}

} // namespace

int main() {
    umask(022);
    socket_protocols();
    on_each_file_system([](const ScratchDirectory& dir) {
        stats(dir);
        times(dir);
        modes(dir);
        access_checks(dir);
        attributes(dir);
        if (is_root())
            namespaced_capabilities(dir);
    });
}
