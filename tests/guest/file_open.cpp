// open(2), openat(2), openat2(2), creat(2), O_TMPFILE, close(2), dup(2), truncation at open, name
// limits, loops.
#include <csignal>
#include <cstdint>
#include <sched.h>

#include <linux/openat2.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "tests/guest/file_support.hpp"

namespace {

long openat2(int directory, const char* name, uint64_t flags, uint64_t mode, uint64_t resolve) {
    open_how how{};
    how.flags = flags;
    how.mode = mode;
    how.resolve = resolve;
    return syscall(SYS_openat2, directory, name, &how, sizeof how);
}

void creation(const ScratchDirectory& dir) {
    const std::string name = dir.path("new");
    CHECK_FAILS(open(name.c_str(), O_RDONLY), ENOENT);
    umask(027);
    int fd = open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0666);
    CHECK(fd >= 0);
    CHECK((stat_of(name).st_mode & 07777) == 0640);
    CHECK_FAILS(open(name.c_str(), O_CREAT | O_EXCL | O_RDWR, 0666), EEXIST);
    CHECK(write(fd, "hello", 5) == 5);
    CHECK(fcntl(fd, F_GETFL) == (O_RDWR | 0100000));
    close(fd);
    // The mode of the one that creates does not bind the descriptor that it gets.
    fd = open(dir.path("none").c_str(), O_CREAT | O_RDWR, 0);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
    CHECK(unlink(dir.path("none").c_str()) == 0);
    umask(022);
    fd = open(name.c_str(), O_RDONLY | O_TRUNC | O_RDWR);
    CHECK(fd >= 0 && stat_of(name).st_size == 0);
    close(fd);
    make_file(name, "hello");
    fd = creat(name.c_str(), 0600);
    CHECK(fd >= 0 && stat_of(name).st_size == 0);
    char byte;
    CHECK_FAILS(read(fd, &byte, 1), EBADF);
    close(fd);
    fd = open(name.c_str(), O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOATIME | O_SYNC);
    CHECK(fd >= 0);
    CHECK((fcntl(fd, F_GETFL) & ~0100000) ==
          (O_WRONLY | O_APPEND | O_NONBLOCK | O_NOATIME | O_SYNC));
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(write(fd, "ab", 2) == 2);
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "cd", 2) == 2 && contents_of(name) == "abcd");
    CHECK(lseek(fd, 0, SEEK_CUR) == 4);
    CHECK(pwrite(fd, "ef", 2, 0) == 2 && contents_of(name) == "abcdef"); // BUGS of pwrite(2)
    CHECK(fcntl(fd, F_SETFL, 0) == 0 && pwrite(fd, "AB", 2, 0) == 2);
    CHECK(contents_of(name) == "ABcdef");
    close(fd);
    CHECK_FAILS(write(fd, "x", 1), EBADF);
    CHECK_FAILS(close(fd), EBADF);
    // Access mode 3 permits only ioctl.
    fd = open(name.c_str(), O_ACCMODE);
    CHECK(fd >= 0);
    CHECK_FAILS(read(fd, &byte, 1), EBADF);
    CHECK_FAILS(write(fd, &byte, 1), EBADF);
    close(fd);
    CHECK_FAILS(open(dir.name().c_str(), O_RDWR), EISDIR);
    CHECK_FAILS(open(dir.name().c_str(), O_WRONLY | O_CREAT, 0600), EISDIR);
    CHECK_FAILS(open(dir.name().c_str(), O_RDONLY | O_CREAT, 0600), EISDIR);
    CHECK_FAILS(open((name + "/").c_str(), O_RDONLY), ENOTDIR);
    CHECK_FAILS(open((name + "/x").c_str(), O_RDONLY), ENOTDIR);
    CHECK_FAILS(open(dir.path("no/").c_str(), O_RDWR | O_CREAT, 0600), EISDIR);
    CHECK_FAILS(open(dir.path("no/no").c_str(), O_RDWR | O_CREAT, 0600), ENOENT);
    CHECK_FAILS(open(name.c_str(), O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_FAILS(open("", O_RDONLY), ENOENT);
    CHECK_FAILS(open("", O_RDWR | O_CREAT, 0600), ENOENT);
    CHECK_FAILS(syscall(SYS_open, 8, O_RDONLY), EFAULT);
    CHECK_FAILS(openat(dir.fd(), "..", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_FAILS(openat(987, "x", O_RDONLY), EBADF);
    fd = open(name.c_str(), O_RDONLY);
    CHECK_FAILS(openat(fd, "x", O_RDONLY), ENOTDIR);
    close(fd);
    // An absolute name does not need the descriptor.
    fd = openat(987, name.c_str(), O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    fd = openat(dir.fd(), "new", O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    CHECK(unlink(name.c_str()) == 0);
}

void long_names(const ScratchDirectory& dir) {
    const std::string longest(255, 'n');
    make_file(dir.path(longest), "long");
    CHECK(contents_of(dir.path(longest)) == "long");
    CHECK_FAILS(open(dir.path(longest + "n").c_str(), O_RDONLY), ENAMETOOLONG);
    CHECK_FAILS(openat(dir.fd(), (longest + "n").c_str(), O_RDWR | O_CREAT, 0600), ENAMETOOLONG);
    CHECK_FAILS(mkdirat(dir.fd(), (longest + "n").c_str(), 0700), ENAMETOOLONG);
    CHECK_FAILS(symlinkat("x", dir.fd(), (longest + "n").c_str()), ENAMETOOLONG);
    CHECK(unlink(dir.path(longest).c_str()) == 0);
    std::string path;
    while (path.size() < 4096)
        path += "./";
    CHECK_FAILS(openat(dir.fd(), path.c_str(), O_RDONLY), ENAMETOOLONG);
    path.resize(4095);
    path.back() = '/';
    const int fd = openat(dir.fd(), path.c_str(), O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    // Names with any bytes but '/' and NUL.
    const std::string odd = "\x01\xff \n\\\"";
    make_file(dir.path(odd), "odd");
    CHECK(unlink(dir.path(odd).c_str()) == 0);
}

void symlinks(const ScratchDirectory& dir) {
    make_file(dir.path("file"), "data");
    CHECK(symlink("file", dir.path("link").c_str()) == 0);
    CHECK(symlink("nowhere", dir.path("dangling").c_str()) == 0);
    CHECK(symlink("self", dir.path("self").c_str()) == 0);
    CHECK(symlink(".", dir.path("dot").c_str()) == 0);
    CHECK_FAILS(symlink("x", dir.path("link").c_str()), EEXIST);
    CHECK_FAILS(symlink("", dir.path("empty").c_str()), ENOENT);
    CHECK_FAILS(symlink(std::string(4096, 'x').c_str(), dir.path("big").c_str()), ENAMETOOLONG);
    const std::string large(4000, 'l');
    CHECK(symlink(large.c_str(), dir.path("large").c_str()) == 0);
    char text[4096];
    CHECK(readlink(dir.path("large").c_str(), text, sizeof text) == 4000);
    CHECK(stat_of(dir.path("large")).st_size == 4000);
    CHECK(readlink(dir.path("link").c_str(), text, 2) == 2 && text[0] == 'f' && text[1] == 'i');
    CHECK_FAILS(readlink(dir.path("link").c_str(), text, 0), EINVAL);
    CHECK_FAILS(readlink(dir.path("file").c_str(), text, 10), EINVAL);
    CHECK((stat_of(dir.path("link")).st_mode & 0777) == 0777);
    CHECK(contents_of(dir.path("link")) == "data");
    CHECK_FAILS(open(dir.path("link").c_str(), O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK_FAILS(open(dir.path("dot").c_str(), O_RDONLY | O_NOFOLLOW | O_DIRECTORY), ENOTDIR);
    CHECK_FAILS(open(dir.path("self").c_str(), O_RDONLY), ELOOP);
    CHECK_FAILS(open(dir.path("dangling").c_str(), O_RDONLY), ENOENT);
    CHECK_FAILS(open(dir.path("dangling").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    const int made = open(dir.path("dangling").c_str(), O_RDWR | O_CREAT, 0600);
    CHECK(made >= 0 && access(dir.path("nowhere").c_str(), F_OK) == 0);
    close(made);
    int fd = open(dir.path("link").c_str(), O_PATH | O_NOFOLLOW);
    CHECK(fd >= 0);
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && S_ISLNK(s.st_mode));
    CHECK(readlinkat(fd, "", text, sizeof text) == 4);
    CHECK_FAILS(fchmod(fd, 0600), EBADF);
    close(fd);
    // Forty links in one walk, not more.
    for (int i = 0; i < 41; i++) {
        const std::string to = i == 0 ? "file" : "chain" + std::to_string(i - 1);
        CHECK(symlinkat(to.c_str(), dir.fd(), ("chain" + std::to_string(i)).c_str()) == 0);
    }
    CHECK(contents_of(dir.path("chain39")) == "data");
    CHECK_FAILS(open(dir.path("chain40").c_str(), O_RDONLY), ELOOP);
    std::string dots;
    for (int i = 0; i < 40; i++)
        dots += "dot/";
    CHECK(contents_of(dir.path(dots + "file")) == "data");
    CHECK_FAILS(open(dir.path(dots + "dot/file").c_str(), O_RDONLY), ELOOP);
    // With O_PATH a descriptor is a place to start from, whatever happens to its name.
    fd = open(dir.path("file").c_str(), O_PATH | O_CLOEXEC | O_RDWR);
    CHECK(fd >= 0 && fcntl(fd, F_GETFL) == O_PATH);
    char byte;
    CHECK_FAILS(read(fd, &byte, 1), EBADF);
    CHECK_FAILS(write(fd, &byte, 1), EBADF);
    CHECK_FAILS(lseek(fd, 0, SEEK_SET), EBADF);
    CHECK_FAILS(fchmod(fd, 0600), EBADF);
    CHECK_FAILS(ftruncate(fd, 0), EBADF);
    CHECK_FAILS(fsync(fd), EBADF);
    CHECK_FAILS(fcntl(fd, F_SETFL, 0), EBADF);
    const int copy = dup(fd);
    CHECK(copy >= 0 && close(copy) == 0);
    CHECK(fstat(fd, &s) == 0 && fchdir(fd) == -1 && errno == ENOTDIR);
    const int again = open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY);
    CHECK(again >= 0 && read(again, &byte, 1) == 1 && byte == 'd');
    close(again);
    close(fd);
}

void unnamed(const ScratchDirectory& dir) {
    CHECK_FAILS(open(dir.name().c_str(), O_TMPFILE | O_RDONLY, 0600), EINVAL);
    CHECK_FAILS(open(dir.name().c_str(), O_TMPFILE | O_RDWR | O_CREAT, 0600), EINVAL);
    make_file(dir.path("plain"));
    CHECK_FAILS(open(dir.path("plain").c_str(), O_TMPFILE | O_RDWR, 0600), ENOTDIR);
    CHECK_FAILS(open(dir.path("nothing").c_str(), O_TMPFILE | O_RDWR, 0600), ENOENT);
    int fd = open(dir.name().c_str(), O_TMPFILE | O_RDWR, 0640);
    CHECK(fd >= 0);
    struct stat s;
    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 0 && (s.st_mode & 07777) == 0640);
    CHECK(write(fd, "unnamed", 7) == 7);
    CHECK((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR);
    const std::string place = "/proc/self/fd/" + std::to_string(fd);
    char text[512] = {};
    CHECK(readlink(place.c_str(), text, sizeof text - 1) > 0);
    CHECK(std::strstr(text, " (deleted)") != nullptr);
    CHECK(linkat(AT_FDCWD, place.c_str(), AT_FDCWD, dir.path("named").c_str(), AT_SYMLINK_FOLLOW) ==
          0);
    CHECK(contents_of(dir.path("named")) == "unnamed");
    CHECK(fstat(fd, &s) == 0 && s.st_nlink == 1);
    close(fd);
    if (is_root()) { // CAP_DAC_READ_SEARCH
        fd = open(dir.name().c_str(), O_TMPFILE | O_WRONLY, 0600);
        CHECK(linkat(fd, "", AT_FDCWD, dir.path("other").c_str(), AT_EMPTY_PATH) == 0);
        close(fd);
        CHECK(stat_of(dir.path("other")).st_nlink == 1);
        fd = open(dir.path("other").c_str(), O_PATH);
        CHECK(linkat(fd, "", AT_FDCWD, dir.path("third").c_str(), AT_EMPTY_PATH) == 0);
        CHECK(unlink(dir.path("other").c_str()) == 0 && unlink(dir.path("third").c_str()) == 0);
        // Once all names are gone there is no way back.
        CHECK_FAILS(linkat(fd, "", AT_FDCWD, dir.path("third").c_str(), AT_EMPTY_PATH), ENOENT);
        close(fd);
    }
    // O_EXCL: never to get a name.
    fd = open(dir.name().c_str(), O_TMPFILE | O_RDWR | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK_FAILS(linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(), AT_FDCWD,
                       dir.path("never").c_str(), AT_SYMLINK_FOLLOW),
                ENOENT);
    close(fd);
}

void resolution(const ScratchDirectory& dir) {
    CHECK(mkdir(dir.path("sub").c_str(), 0755) == 0);
    make_file(dir.path("sub/in"), "in");
    make_file(dir.path("out"), "out");
    CHECK(symlink("../out", dir.path("sub/up").c_str()) == 0);
    CHECK(symlink("in", dir.path("sub/side").c_str()) == 0);
    CHECK(symlink("/in", dir.path("sub/absolute").c_str()) == 0);
    const int sub = open(dir.path("sub").c_str(), O_PATH | O_DIRECTORY);
    CHECK(sub >= 0);
    const auto opens = [&](const char* name, uint64_t resolve) {
        const long fd = openat2(sub, name, O_RDONLY, 0, resolve);
        CHECK(fd >= 0);
        char text[8] = {};
        const ssize_t got = read(static_cast<int>(fd), text, sizeof text - 1);
        close(static_cast<int>(fd));
        return std::string(text, got > 0 ? static_cast<size_t>(got) : 0);
    };
    CHECK(opens("in", 0) == "in" && opens("up", 0) == "out");
    CHECK(opens("in", RESOLVE_BENEATH) == "in" && opens("side", RESOLVE_BENEATH) == "in");
    CHECK(opens("../sub/in", 0) == "in");
    CHECK_FAILS(openat2(sub, "up", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    CHECK_FAILS(openat2(sub, "../sub/in", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    CHECK_FAILS(openat2(sub, "absolute", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    CHECK_FAILS(openat2(sub, "/", O_RDONLY, 0, RESOLVE_BENEATH), EXDEV);
    CHECK(opens("absolute", RESOLVE_IN_ROOT) == "in");
    CHECK(opens("/in", RESOLVE_IN_ROOT) == "in" && opens("../../in", RESOLVE_IN_ROOT) == "in");
    CHECK_FAILS(openat2(sub, "up", O_RDONLY, 0, RESOLVE_IN_ROOT), ENOENT);
    CHECK_FAILS(openat2(sub, "side", O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
    CHECK_FAILS(openat2(sub, "side/x", O_RDONLY, 0, RESOLVE_NO_SYMLINKS), ELOOP);
    long fd = openat2(sub, "side", O_PATH | O_NOFOLLOW, 0, RESOLVE_NO_SYMLINKS);
    CHECK(fd >= 0);
    close(static_cast<int>(fd));
    const std::string magic = "/proc/self/fd/" + std::to_string(sub);
    CHECK_FAILS(openat2(AT_FDCWD, magic.c_str(), O_PATH, 0, RESOLVE_NO_MAGICLINKS), ELOOP);
    fd = openat2(AT_FDCWD, magic.c_str(), O_PATH, 0, 0);
    CHECK(fd >= 0);
    close(static_cast<int>(fd));
    CHECK_FAILS(openat2(AT_FDCWD, "/proc/self", O_PATH, 0, RESOLVE_NO_XDEV), EXDEV);
    CHECK_FAILS(openat2(sub, "in", O_RDONLY, 0, RESOLVE_BENEATH | RESOLVE_IN_ROOT), EINVAL);
    CHECK_FAILS(openat2(sub, "in", O_RDONLY, 0, 1 << 20), EINVAL);
    CHECK_FAILS(openat2(sub, "in", uint64_t{1} << 40, 0, 0), EINVAL);
    CHECK_FAILS(openat2(sub, "in", O_RDONLY, 0600, 0), EINVAL); // a mode without O_CREAT
    CHECK_FAILS(openat2(sub, "in2", O_RDWR | O_CREAT, 010000, 0), EINVAL);
    CHECK_FAILS(openat2(sub, "in", O_PATH | O_RDWR, 0, 0), EINVAL);
    CHECK_FAILS(openat2(sub, "in", O_WRONLY | O_CREAT, 0600, RESOLVE_CACHED), EAGAIN);
    CHECK_FAILS(openat2(sub, "in", O_WRONLY | O_TRUNC, 0, RESOLVE_CACHED), EAGAIN);
    CHECK(opens("in", 0) == "in" && opens("in", RESOLVE_CACHED) == "in");
    open_how how{};
    CHECK_FAILS(syscall(SYS_openat2, sub, "in", &how, 8), EINVAL);
    CHECK_FAILS(syscall(SYS_openat2, sub, "in", &how, 8192), E2BIG);
    struct {
        open_how how;
        uint64_t more;
    } larger{};
    fd = syscall(SYS_openat2, sub, "in", &larger, sizeof larger);
    CHECK(fd >= 0);
    close(static_cast<int>(fd));
    larger.more = 1;
    CHECK_FAILS(syscall(SYS_openat2, sub, "in", &larger, sizeof larger), E2BIG);
    CHECK_FAILS(syscall(SYS_openat2, sub, "in", 8, sizeof how), EFAULT);
    close(sub);
}

// A directory on the way is moved out of the root, and ".." from there must not lead past it.
void resolution_meanwhile(const ScratchDirectory& dir) {
    for (const char* name : {"root", "root/a", "root/a/b", "elsewhere"})
        CHECK(mkdir(dir.path(name).c_str(), 0755) == 0);
    make_file(dir.path("secret"), "secret");
    const std::string inside = dir.path("root/a/b"), outside = dir.path("elsewhere/b");
    const int root = open(dir.path("root").c_str(), O_PATH | O_DIRECTORY);
    CHECK(root >= 0);
    const pid_t mover = start([&] {
        for (;;) {
            CHECK(rename(inside.c_str(), outside.c_str()) == 0);
            CHECK(rename(outside.c_str(), inside.c_str()) == 0);
        }
    });
    for (int round = 0; round < 5'000; round++) {
        CHECK(openat2(root, "a/b/../../secret", O_PATH, 0, RESOLVE_IN_ROOT) < 0);
        CHECK(errno == ENOENT || errno == EAGAIN);
        CHECK(openat2(root, "a/b/../../secret", O_PATH, 0, RESOLVE_BENEATH) < 0);
        CHECK(errno == ENOENT || errno == EAGAIN || errno == EXDEV);
    }
    CHECK(kill(mover, SIGKILL) == 0 && waitpid(mover, nullptr, 0) == mover);
    close(root);
}

void special(const ScratchDirectory& dir) {
    const std::string name = dir.path("socket");
    const int s = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, name.c_str(), sizeof address.sun_path - 1);
    CHECK(bind(s, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    CHECK_FAILS(open(name.c_str(), O_RDONLY), ENXIO);
    const int place = open(name.c_str(), O_PATH);
    CHECK(place >= 0);
    close(place);
    close(s);
    // A program that runs is not written to.
    CHECK_FAILS(open("/proc/self/exe", O_WRONLY), ETXTBSY);
    // The limit of descriptors.
    in_child([&] {
        const rlimit few{10, 10};
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        int last = -1;
        for (int fd; (fd = open("/dev/null", O_RDONLY)) >= 0;)
            last = fd;
        CHECK(errno == EMFILE && last == 9);
        CHECK_FAILS(dup(0), EMFILE);
        CHECK_FAILS(dup2(0, 10), EBADF);
        CHECK_FAILS(fcntl(0, F_DUPFD, 10), EINVAL);
        CHECK_FAILS(fcntl(0, F_DUPFD, 5), EMFILE);
        CHECK(dup2(0, 9) == 9);
    });
    const int fd = open("/dev/null", O_RDWR);
    CHECK(dup2(fd, fd) == fd);
    CHECK_FAILS(dup3(fd, fd, 0), EINVAL);
    CHECK_FAILS(dup3(fd, 100, O_APPEND), EINVAL);
    CHECK_FAILS(dup2(fd, -1), EBADF);
    CHECK_FAILS(dup2(77, 78), EBADF);
    CHECK(dup3(fd, 100, O_CLOEXEC) == 100 && fcntl(100, F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(fd, F_DUPFD, 90) == 90 && fcntl(fd, F_DUPFD_CLOEXEC, 90) == 91);
    // An int: what stands above it in the register is not the program's.
    constexpr long rubbish = 1L << 32;
    CHECK(syscall(SYS_fcntl, fd, F_DUPFD, rubbish | 90) == 92 && close(92) == 0);
    CHECK(syscall(SYS_fcntl, fd, F_SETSIG, rubbish | SIGUSR1) == 0);
    CHECK(fcntl(fd, F_GETSIG) == SIGUSR1 && fcntl(fd, F_SETSIG, 0) == 0);
    char target[8] = {};
    CHECK(syscall(SYS_readlink, "/proc/self/exe", target, rubbish | 1) == 1 && target[1] == 0);
    CHECK(fcntl(91, F_GETFD) == FD_CLOEXEC && fcntl(90, F_GETFD) == 0);
    CHECK(syscall(SYS_close_range, 90, 100, 4 /* CLOSE_RANGE_CLOEXEC */) == 0);
    CHECK(fcntl(90, F_GETFD) == FD_CLOEXEC);
    CHECK(syscall(SYS_close_range, 90, ~0u, 0) == 0);
    CHECK_FAILS(fcntl(90, F_GETFD), EBADF);
    CHECK_FAILS(fcntl(100, F_GETFD), EBADF);
    CHECK_FAILS(syscall(SYS_close_range, 9, 8, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_close_range, 90, 91, 64), EINVAL);
    close(fd);
}

// close_range(2) gives a task a table of its own while others look at the shared one.
void unshared_while_seen() {
    auto* seen = static_cast<volatile pid_t*>(
        mmap(nullptr, sizeof(pid_t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    CHECK(seen != MAP_FAILED);
    const pid_t reader = start([&] {
        while (*seen >= 0) {
            char text[64];
            const std::string name = "/proc/" + std::to_string(*seen) + "/fd/0";
            (void)!readlink(name.c_str(), text, sizeof text);
        }
    });
    constexpr int rounds = 300;
    for (int i = 0; i < rounds; i++) {
        const int fd = open("/dev/null", O_RDONLY);
        CHECK(fd >= 0);
        const auto child =
            static_cast<pid_t>(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
        CHECK(child >= 0);
        if (child == 0) {
            *seen = getpid();
            CHECK(syscall(SYS_close_range, fd, fd, 2 /* CLOSE_RANGE_UNSHARE */) == 0);
            CHECK_FAILS(fcntl(fd, F_GETFD), EBADF);
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        CHECK(fcntl(fd, F_GETFD) == 0);
        close(fd);
    }
    *seen = -1;
    CHECK(waitpid(reader, nullptr, 0) == reader);
    CHECK(munmap(const_cast<pid_t*>(seen), sizeof(pid_t)) == 0);
}

} // namespace

int main() {
    umask(022);
    on_each_file_system([](const ScratchDirectory& dir) {
        creation(dir);
        long_names(dir);
        symlinks(dir);
        unnamed(dir);
        resolution(dir);
        resolution_meanwhile(dir);
        special(dir);
    });
    unshared_while_seen();
}
