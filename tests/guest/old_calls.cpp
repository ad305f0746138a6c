// Calls that the C library does not make any more because a newer one does the same: fstat(2),
// lstat(2), pipe(2), select(2), fork(2), semop(2), getdents(2), utime(2), utimes(2), futimesat(2),
// mknod(2), llistxattr(2), lremovexattr(2), inotify_init(2), renameat(2), faccessat(2), eventfd(2).
// Old programs and other languages' libraries make them.
#include <cstddef>
#include <cstdint>
#include <poll.h>
#include <set>
#include <utime.h>

#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/xattr.h>

#include "tests/guest/file_support.hpp"

namespace {

// The kernel's struct stat is the C library's on this machine.
void stats(const ScratchDirectory& dir) {
    make_file(dir.path("file"), "12345", 0640);
    CHECK(symlink("file", dir.path("link").c_str()) == 0);
    const int fd = open(dir.path("file").c_str(), O_RDONLY);
    struct stat by_fd, by_name, of_link;
    CHECK(syscall(SYS_fstat, fd, &by_fd) == 0);
    CHECK(syscall(SYS_lstat, dir.path("file").c_str(), &by_name) == 0);
    CHECK(syscall(SYS_lstat, dir.path("link").c_str(), &of_link) == 0);
    CHECK(by_fd.st_size == 5 && (by_fd.st_mode & 07777) == 0640 && S_ISREG(by_fd.st_mode));
    CHECK(by_fd.st_ino == by_name.st_ino && by_fd.st_dev == by_name.st_dev);
    CHECK(S_ISLNK(of_link.st_mode) && of_link.st_size == 4);
    CHECK_FAILS(syscall(SYS_fstat, -1, &by_fd), EBADF);
    CHECK_FAILS(syscall(SYS_fstat, fd, nullptr), EFAULT);
    CHECK_FAILS(syscall(SYS_lstat, dir.path("none").c_str(), &by_fd), ENOENT);
    close(fd);
}

void entries(const ScratchDirectory& dir) {
    struct Record { // linux_dirent, whose last byte is the type
        unsigned long inode, offset;
        unsigned short length;
    };
    CHECK(mkdir(dir.path("list").c_str(), 0755) == 0);
    CHECK(mkdir(dir.path("list/folder").c_str(), 0755) == 0);
    make_file(dir.path("list/plain"));
    const int fd = open(dir.path("list").c_str(), O_RDONLY | O_DIRECTORY);
    alignas(Record) char buffer[1024];
    std::set<std::string> names;
    for (long got; (got = syscall(SYS_getdents, fd, buffer, sizeof buffer)) != 0;) {
        CHECK(got > 0);
        for (long at = 0; at < got;) {
            const auto* record = reinterpret_cast<const Record*>(buffer + at);
            const std::string name = buffer + at + 18; // behind the length
            const char type = buffer[at + record->length - 1];
            CHECK(type == (name == "plain" ? 8 : 4)); // DT_REG, DT_DIR
            CHECK(name[0] == '.' || record->inode == stat_of(dir.path("list/" + name)).st_ino);
            names.insert(name);
            at += record->length;
        }
    }
    CHECK(names == std::set<std::string>({".", "..", "folder", "plain"}));
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    CHECK_FAILS(syscall(SYS_getdents, fd, buffer, 8), EINVAL);
    CHECK(close(fd) == 0);
}

void times(const ScratchDirectory& dir) {
    const std::string name = dir.path("file");
    const utimbuf seconds = {1000, 2000};
    CHECK(syscall(SYS_utime, name.c_str(), &seconds) == 0);
    CHECK(stat_of(name).st_atime == 1000 && stat_of(name).st_mtime == 2000);
    const timeval micros[2] = {{3000, 5}, {4000, 6}};
    CHECK(syscall(SYS_utimes, name.c_str(), micros) == 0);
    CHECK(stat_of(name).st_atim.tv_sec == 3000 && stat_of(name).st_atim.tv_nsec == 5000);
    CHECK(stat_of(name).st_mtim.tv_sec == 4000 && stat_of(name).st_mtim.tv_nsec == 6000);
    const timeval later[2] = {{5000, 7}, {6000, 8}};
    CHECK(syscall(SYS_futimesat, dir.fd(), "file", later) == 0);
    CHECK(stat_of(name).st_atim.tv_nsec == 7000 && stat_of(name).st_mtim.tv_sec == 6000);
    const timeval wrong[2] = {{1, 1'000'000}, {1, 0}};
    CHECK_FAILS(syscall(SYS_utimes, name.c_str(), wrong), EINVAL);
    CHECK_FAILS(syscall(SYS_futimesat, dir.fd(), "none", later), ENOENT);
    CHECK_FAILS(syscall(SYS_utime, dir.path("none").c_str(), &seconds), ENOENT);
    CHECK(stat_of(name).st_mtim.tv_sec == 6000);
    CHECK(syscall(SYS_utime, name.c_str(), nullptr) == 0); // now
    CHECK(stat_of(name).st_mtim.tv_sec > 1'000'000'000);
}

void names(const ScratchDirectory& dir) {
    CHECK(syscall(SYS_mknod, dir.path("fifo").c_str(), S_IFIFO | 0600, 0) == 0);
    CHECK(S_ISFIFO(stat_of(dir.path("fifo")).st_mode));
    CHECK_FAILS(syscall(SYS_mknod, dir.path("fifo").c_str(), S_IFIFO | 0600, 0), EEXIST);
    CHECK_FAILS(syscall(SYS_mknod, dir.path("d").c_str(), S_IFDIR | 0600, 0), EPERM);
    CHECK(syscall(SYS_renameat, dir.fd(), "fifo", dir.fd(), "queue") == 0);
    CHECK(S_ISFIFO(stat_of(dir.path("queue")).st_mode));
    CHECK_FAILS(syscall(SYS_renameat, dir.fd(), "fifo", dir.fd(), "queue"), ENOENT);
    CHECK(syscall(SYS_faccessat, dir.fd(), "queue", R_OK | W_OK) == 0);
    CHECK_FAILS(syscall(SYS_faccessat, dir.fd(), "queue", X_OK), EACCES); // of root as well
    CHECK_FAILS(syscall(SYS_faccessat, dir.fd(), "fifo", F_OK), ENOENT);
    CHECK_FAILS(syscall(SYS_faccessat, dir.fd(), "queue", 8), EINVAL);
}

void attributes_of_links(const ScratchDirectory& dir) {
    const std::string name = dir.path("link");
    char list[256];
    CHECK(llistxattr(name.c_str(), list, sizeof list) >= 0);
    CHECK_FAILS(lremovexattr(name.c_str(), "user.none"), EPERM); // a link has no user attributes
    CHECK_FAILS(llistxattr(dir.path("none").c_str(), list, sizeof list), ENOENT);
    if (lsetxattr(name.c_str(), "trusted.joey", "x", 1, 0) != 0)
        return; // not privileged, or no such attributes here
    const ssize_t bytes = llistxattr(name.c_str(), list, sizeof list);
    CHECK(bytes >= 13 && memmem(list, static_cast<size_t>(bytes), "trusted.joey", 13) != nullptr);
    CHECK(llistxattr(name.c_str(), nullptr, 0) == bytes);
    CHECK_FAILS(llistxattr(name.c_str(), list, 3), ERANGE);
    CHECK(lremovexattr(name.c_str(), "trusted.joey") == 0);
    CHECK_FAILS(lremovexattr(name.c_str(), "trusted.joey"), ENODATA);
    CHECK(llistxattr(name.c_str(), nullptr, 0) == bytes - 13);
}

void pipes_and_select() {
    int ends[2];
    CHECK(syscall(SYS_pipe, ends) == 0);
    CHECK((fcntl(ends[0], F_GETFD) & FD_CLOEXEC) == 0 &&
          (fcntl(ends[0], F_GETFL) & O_NONBLOCK) == 0);
    CHECK_FAILS(syscall(SYS_pipe, nullptr), EFAULT);
    fd_set readable, writable;
    FD_ZERO(&readable);
    FD_ZERO(&writable);
    FD_SET(ends[0], &readable);
    FD_SET(ends[1], &writable);
    timeval none = {0, 0};
    const int count = ends[1] + 1;
    CHECK(syscall(SYS_select, count, &readable, &writable, nullptr, &none) == 1);
    CHECK(!FD_ISSET(ends[0], &readable) && FD_ISSET(ends[1], &writable));
    CHECK(write(ends[1], "x", 1) == 1);
    FD_SET(ends[0], &readable);
    timeval hour = {3600, 0}; // what is left of it is told
    CHECK(syscall(SYS_select, count, &readable, nullptr, nullptr, &hour) == 1);
    CHECK(FD_ISSET(ends[0], &readable) && hour.tv_sec <= 3600 && hour.tv_sec > 3000);
    timeval negative = {-1, 0};
    CHECK_FAILS(syscall(SYS_select, count, &readable, nullptr, nullptr, &negative), EINVAL);
    CHECK_FAILS(syscall(SYS_select, -1, nullptr, nullptr, nullptr, &none), EINVAL);
    FD_ZERO(&readable);
    FD_SET(ends[0], &readable);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    CHECK_FAILS(syscall(SYS_select, count, &readable, nullptr, nullptr, &none), EBADF);
}

void forks() {
    int ends[2];
    CHECK(pipe(ends) == 0);
    const long child = syscall(SYS_fork);
    if (child == 0) {
        const long self = syscall(SYS_getpid);
        syscall(SYS_write, ends[1], &self, sizeof self);
        syscall(SYS_exit_group, 7);
    }
    CHECK(child > 0);
    long told = 0;
    int status = 0;
    CHECK(read(ends[0], &told, sizeof told) == sizeof told && told == child);
    CHECK(waitpid(static_cast<pid_t>(child), &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
    close(ends[0]);
    close(ends[1]);
}

void semaphores() {
    const int set = semget(IPC_PRIVATE, 2, 0600);
    CHECK(set >= 0);
    sembuf up[2] = {{0, 3, 0}, {1, 1, 0}};
    CHECK(syscall(SYS_semop, set, up, 2) == 0);
    CHECK(semctl(set, 0, GETVAL) == 3 && semctl(set, 1, GETVAL) == 1);
    // All or nothing.
    sembuf down[2] = {{0, -1, 0}, {1, -2, IPC_NOWAIT}};
    CHECK_FAILS(syscall(SYS_semop, set, down, 2), EAGAIN);
    CHECK(semctl(set, 0, GETVAL) == 3);
    sembuf wrong = {2, 1, 0};
    CHECK_FAILS(syscall(SYS_semop, set, &wrong, 1), EFBIG);
    CHECK_FAILS(syscall(SYS_semop, set, up, 0), EINVAL);
    CHECK(semctl(set, 0, IPC_RMID) == 0);
    CHECK_FAILS(syscall(SYS_semop, set, up, 1), EINVAL);
}

void event_descriptors(const ScratchDirectory& dir) {
    const int counter = static_cast<int>(syscall(SYS_eventfd, 5));
    CHECK(counter >= 0 && (fcntl(counter, F_GETFD) & FD_CLOEXEC) == 0);
    uint64_t value = 0;
    CHECK(read(counter, &value, sizeof value) == sizeof value && value == 5);
    close(counter);
    const int queue = static_cast<int>(syscall(SYS_inotify_init));
    CHECK(queue >= 0 && (fcntl(queue, F_GETFL) & O_NONBLOCK) == 0);
    const int watch = inotify_add_watch(queue, dir.name().c_str(), IN_CREATE);
    CHECK(watch >= 0);
    make_file(dir.path("seen"));
    alignas(inotify_event) char buffer[512];
    inotify_event event;
    CHECK(read(queue, buffer, sizeof buffer) > 0);
    std::memcpy(&event, buffer, sizeof event);
    CHECK(event.wd == watch && event.mask == IN_CREATE &&
          std::strcmp(buffer + offsetof(inotify_event, name), "seen") == 0);
    close(queue);
}

} // namespace

int main() {
    on_each_file_system([](const ScratchDirectory& dir) {
        stats(dir);
        entries(dir);
        times(dir);
        names(dir);
        attributes_of_links(dir);
    });
    pipes_and_select();
    forks();
    semaphores();
    event_descriptors(ScratchDirectory("/dev/shm"));
    return 0;
}
