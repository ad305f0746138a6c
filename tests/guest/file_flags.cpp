// FS_IOC_SETFLAGS and FS_IOC_FSSETXATTR (chattr(1)) on a file system in memory, which keeps flags
// since Linux 6.6: what is immutable or append-only, and for whom. ioctl_iflags(2).
#include <sched.h>
#include <string>
#include <utime.h>
#include <vector>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

int set_flags(const std::string& name, unsigned flags) {
    const int fd = open(name.c_str(), O_RDONLY);
    CHECK(fd >= 0);
    const int result = ioctl(fd, FS_IOC_SETFLAGS, &flags);
    const int error = errno;
    close(fd);
    errno = error;
    return result;
}
unsigned flags_of(const std::string& name) {
    unsigned flags = ~0u;
    const int fd = open(name.c_str(), O_RDONLY | O_NONBLOCK);
    CHECK(fd >= 0 && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0 && close(fd) == 0);
    return flags;
}
unsigned long long attributes_of(const std::string& name) {
    struct statx s = {};
    CHECK(statx(AT_FDCWD, name.c_str(), 0, STATX_BASIC_STATS, &s) == 0);
    constexpr unsigned told = STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND | STATX_ATTR_NODUMP;
    CHECK((s.stx_attributes_mask & told) == told);
    return s.stx_attributes & told;
}

bool kept_here() {
    utsname names = {};
    CHECK(uname(&names) == 0);
    int major = 0, minor = 0;
    CHECK(sscanf(names.release, "%d.%d", &major, &minor) == 2);
    return major > 6 || (major == 6 && minor >= 6) || strstr(names.release, "joey") != nullptr;
}

// What nothing may be done with, whatever the flag.
void expect_frozen(const ScratchDirectory& dir, const std::string& name) {
    const char* const n = name.c_str();
    const utimbuf times = {1, 1};
    CHECK_FAILS(truncate(n, 3), EPERM);
    CHECK_FAILS(open(n, O_RDWR), EPERM);
    CHECK_FAILS(open(n, O_RDONLY | O_TRUNC), EPERM);
    CHECK_FAILS(chmod(n, 0600), EPERM);
    CHECK_FAILS(chown(n, 0, 0), EPERM);
    CHECK(chown(n, static_cast<uid_t>(-1), static_cast<gid_t>(-1)) == 0);
    CHECK_FAILS(utime(n, &times), EPERM);
    CHECK_FAILS(link(n, dir.path("link").c_str()), EPERM);
    CHECK_FAILS(rename(n, dir.path("moved").c_str()), EPERM);
    CHECK_FAILS(rename(dir.path("other").c_str(), n), EPERM);
    CHECK_FAILS(unlink(n), EPERM);
    CHECK_FAILS(setxattr(n, "trusted.x", "1", 1, 0), EPERM);
    CHECK_FAILS(removexattr(n, "trusted.x"), EPERM);
}

// A mapping made before the flag came.
void expect_no_holes(void* at) {
    CHECK_FAILS(madvise(at, 4096, MADV_REMOVE), EPERM);
    CHECK(munmap(at, 4096) == 0);
}

void immutable(const ScratchDirectory& dir) {
    const std::string name = dir.path("immutable");
    make_file(name, "hello");
    const int fd = open(name.c_str(), O_RDWR);
    void* const mapped = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(set_flags(name, FS_IMMUTABLE_FL) == 0 && flags_of(name) == FS_IMMUTABLE_FL);
    CHECK(attributes_of(name) == STATX_ATTR_IMMUTABLE);
    expect_frozen(dir, name);
    CHECK_FAILS(access(name.c_str(), W_OK), EPERM);
    CHECK_FAILS(open(name.c_str(), O_WRONLY | O_APPEND), EPERM);
    CHECK_FAILS(utime(name.c_str(), nullptr), EPERM);
    CHECK_FAILS(fallocate(fd, 0, 0, 10), EPERM);
    CHECK_FAILS(fchmod(fd, 0600), EPERM);
    expect_no_holes(mapped);
    // Whoever had it open goes on.
    CHECK(write(fd, "H", 1) == 1 && contents_of(name) == "Hello");
    CHECK(set_flags(name, 0) == 0 && close(fd) == 0 && unlink(name.c_str()) == 0);
}

void append_only(const ScratchDirectory& dir) {
    const std::string name = dir.path("log");
    make_file(name, "hello");
    const int fd = open(name.c_str(), O_RDWR);
    void* const mapped = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(set_flags(name, FS_APPEND_FL) == 0 && attributes_of(name) == STATX_ATTR_APPEND);
    expect_frozen(dir, name);
    const int end = open(name.c_str(), O_WRONLY | O_APPEND);
    CHECK(end >= 0 && write(end, "!", 1) == 1 && contents_of(name) == "hello!");
    CHECK_FAILS(open(name.c_str(), O_WRONLY | O_APPEND | O_TRUNC), EPERM);
    CHECK_FAILS(fcntl(end, F_SETFL, 0), EPERM);
    CHECK_FAILS(ftruncate(fd, 300), EPERM);
    CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10) == 0);
    CHECK_FAILS(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 10), EPERM);
    expect_no_holes(mapped);
    CHECK(access(name.c_str(), W_OK) == 0 && utime(name.c_str(), nullptr) == 0);
    errno = 0;
    CHECK(mmap(nullptr, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
    void* const copy = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(copy != MAP_FAILED && munmap(copy, 4096) == 0);
    CHECK(set_flags(name, 0) == 0 && close(fd) == 0 && close(end) == 0);
    CHECK(unlink(name.c_str()) == 0);
}

void directories(const ScratchDirectory& dir) {
    const std::string name = dir.path("directory"), inside = name + "/x", fresh = name + "/new";
    CHECK(mkdir(name.c_str(), 0755) == 0);
    make_file(inside);
    CHECK(set_flags(name, FS_IMMUTABLE_FL) == 0);
    CHECK_FAILS(open(fresh.c_str(), O_CREAT | O_WRONLY, 0600), EPERM);
    CHECK_FAILS(mkdir(fresh.c_str(), 0700), EPERM);
    CHECK_FAILS(unlink(inside.c_str()), EPERM);
    CHECK_FAILS(rename(inside.c_str(), dir.path("y").c_str()), EPERM);
    CHECK_FAILS(rename(dir.path("other").c_str(), fresh.c_str()), EPERM);
    CHECK_FAILS(link(dir.path("other").c_str(), fresh.c_str()), EPERM);
    CHECK_FAILS(open(name.c_str(), O_TMPFILE | O_RDWR, 0600), EPERM);
    CHECK_FAILS(rmdir(name.c_str()), EPERM);
    CHECK_FAILS(rename(name.c_str(), dir.path("z").c_str()), EPERM);
    CHECK(close(open(inside.c_str(), O_RDWR)) == 0); // what is in it is not
    // Names come and stay.
    CHECK(set_flags(name, FS_APPEND_FL) == 0);
    make_file(fresh);
    CHECK_FAILS(unlink(fresh.c_str()), EPERM);
    CHECK_FAILS(rename(fresh.c_str(), (name + "/newer").c_str()), EPERM);
    CHECK(link(dir.path("other").c_str(), (name + "/linked").c_str()) == 0);
    CHECK(mkdir((name + "/below").c_str(), 0700) == 0);
    CHECK_FAILS(rmdir((name + "/below").c_str()), EPERM);
    // Only harmless flags are passed on.
    CHECK(set_flags(name, FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL) == 0);
    make_file(name + "/heir");
    CHECK(mkdir((name + "/heirs").c_str(), 0700) == 0);
    CHECK(flags_of(name + "/heir") == (FS_NODUMP_FL | FS_NOATIME_FL));
    CHECK(flags_of(name + "/heirs") == (FS_NODUMP_FL | FS_NOATIME_FL));
    CHECK(set_flags(name, 0) == 0);
}

void extended(const std::string& name) {
    const int fd = open(name.c_str(), O_RDONLY);
    CHECK(set_flags(name, FS_APPEND_FL | FS_NODUMP_FL) == 0);
    fsxattr x;
    std::memset(&x, 0xee, sizeof x);
    CHECK(ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0);
    CHECK(x.fsx_xflags == (FS_XFLAG_APPEND | FS_XFLAG_NODUMP) && x.fsx_extsize == 0 &&
          x.fsx_nextents == 0 && x.fsx_projid == 0 && x.fsx_cowextsize == 0 && x.fsx_pad[0] == 0);
    x = {};
    x.fsx_xflags = FS_XFLAG_NOATIME;
    CHECK(ioctl(fd, FS_IOC_FSSETXATTR, &x) == 0 && flags_of(name) == FS_NOATIME_FL);
    x.fsx_projid = 5;
    CHECK_FAILS(ioctl(fd, FS_IOC_FSSETXATTR, &x), EOPNOTSUPP);
    x.fsx_projid = 0;
    x.fsx_extsize = 4096;
    CHECK_FAILS(ioctl(fd, FS_IOC_FSSETXATTR, &x), EOPNOTSUPP);
    x.fsx_extsize = 0;
    x.fsx_xflags = 0x10'0000;
    CHECK_FAILS(ioctl(fd, FS_IOC_FSSETXATTR, &x), EOPNOTSUPP);
    CHECK_FAILS(ioctl(fd, FS_IOC_FSSETXATTR, 8), EFAULT);
    CHECK_FAILS(ioctl(fd, FS_IOC_GETFLAGS, 8), EFAULT);
    CHECK_FAILS(ioctl(fd, FS_IOC_SETFLAGS, 8), EFAULT);
    CHECK(set_flags(name, 0) == 0 && close(fd) == 0);
}

void rights(const ScratchDirectory& dir, const std::string& name) {
    for (const unsigned flag : {unsigned{FS_SYNC_FL}, unsigned{FS_COMPR_FL}, 0x8000'0000u})
        CHECK_FAILS(set_flags(name, flag), EOPNOTSUPP);
    const std::string own = dir.path("own");
    make_file(own);
    CHECK(chown(own.c_str(), 1000, 1000) == 0);
    in_child([&] {
        CHECK(setresgid(1000, 1000, 1000) == 0 && setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(set_flags(name, FS_NODUMP_FL), EPERM);
        CHECK(set_flags(own, FS_NODUMP_FL) == 0 && flags_of(own) == FS_NODUMP_FL);
        CHECK_FAILS(set_flags(own, FS_IMMUTABLE_FL), EPERM);
        CHECK_FAILS(set_flags(own, FS_SYNC_FL | FS_APPEND_FL), EPERM);
        CHECK_FAILS(set_flags(own, FS_SYNC_FL), EOPNOTSUPP);
    });
    const std::string fifo = dir.path("fifo");
    CHECK(mkfifo(fifo.c_str(), 0600) == 0);
    const int fd = open(fifo.c_str(), O_RDONLY | O_NONBLOCK);
    unsigned flags = 0;
    CHECK_FAILS(ioctl(fd, FS_IOC_GETFLAGS, &flags), ENOTTY);
    close(fd);
}

// What is left of a check that fails could not be removed: it goes with its file system. Where that
// is not to be had, it is made where it is.
void own_file_system() {
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0)
        CHECK(mount("flags", "/dev/shm", "tmpfs", 0, "size=4m") == 0);
}

} // namespace

int main() {
    umask(022);
    own_file_system();
    const ScratchDirectory dir("/dev/shm");
    const std::string other = dir.path("other");
    make_file(other);
    if (set_flags(other, 0) != 0) {
        CHECK(errno == ENOTTY && !kept_here());
        return 0;
    }
    if (!is_root())
        return 0;
    if (set_flags(other, FS_IMMUTABLE_FL) != 0) { // no CAP_LINUX_IMMUTABLE
        CHECK(errno == EPERM);
        return 0;
    }
    CHECK(set_flags(other, 0) == 0);
    immutable(dir);
    append_only(dir);
    directories(dir);
    extended(other);
    rights(dir, other);
}
