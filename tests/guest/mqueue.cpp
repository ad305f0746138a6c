// POSIX message queues. mq_overview(7).
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <iterator>
#include <mqueue.h>
#include <numeric>
#include <poll.h>
#include <sched.h>
#include <string>
#include <unistd.h>

#include <linux/futex.h>
#include <linux/netlink.h>
#include <sys/epoll.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

std::string name_of(const char* what) {
    return "/joey-" + std::to_string(getpid()) + "-" + what;
}

timespec from_now(long ms) {
    timespec t{};
    clock_gettime(CLOCK_REALTIME, &t);
    t.tv_nsec += ms * 1'000'000;
    t.tv_sec += t.tv_nsec / 1'000'000'000;
    t.tv_nsec %= 1'000'000'000;
    return t;
}

void reap(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void basics() {
    const std::string name = name_of("basics");
    CHECK_FAILS(mq_open(name.c_str(), O_RDWR), ENOENT);
    CHECK_FAILS(mq_open("/a/b", O_RDWR | O_CREAT, 0600, nullptr), EACCES);
    mq_attr bad{};
    CHECK_FAILS(mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &bad), EINVAL);
    mq_attr shape{};
    shape.mq_maxmsg = 4;
    shape.mq_msgsize = 32;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, &shape);
    CHECK(queue >= 0);
    CHECK((fcntl(queue, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK_FAILS(mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, &shape), EEXIST);
    mq_attr is{};
    CHECK(mq_getattr(queue, &is) == 0);
    CHECK(is.mq_flags == 0 && is.mq_maxmsg == 4 && is.mq_msgsize == 32 && is.mq_curmsgs == 0);

    // By priority, then by age.
    CHECK(mq_send(queue, "low", 3, 1) == 0);
    CHECK(mq_send(queue, "high-1", 6, 9) == 0);
    CHECK(mq_send(queue, "high-2", 6, 9) == 0);
    CHECK(mq_send(queue, "", 0, 5) == 0);
    CHECK(mq_getattr(queue, &is) == 0 && is.mq_curmsgs == 4);
    char text[32];
    unsigned priority = 0;
    CHECK_FAILS(mq_receive(queue, text, 31, &priority), EMSGSIZE);
    CHECK(mq_receive(queue, text, 32, &priority) == 6 && memcmp(text, "high-1", 6) == 0);
    CHECK(priority == 9);
    CHECK(mq_receive(queue, text, 32, nullptr) == 6 && memcmp(text, "high-2", 6) == 0);
    CHECK(mq_receive(queue, text, 32, &priority) == 0 && priority == 5);
    CHECK(mq_receive(queue, text, 32, &priority) == 3 && priority == 1);

    // Limits and times.
    char large[33] = {};
    CHECK_FAILS(mq_send(queue, large, sizeof large, 0), EMSGSIZE);
    CHECK_FAILS(mq_send(queue, large, 1, 32768), EINVAL);
    timespec soon = from_now(20);
    CHECK_FAILS(mq_timedreceive(queue, text, 32, nullptr, &soon), ETIMEDOUT);
    timespec wrong{0, 1'000'000'000};
    CHECK_FAILS(mq_timedreceive(queue, text, 32, nullptr, &wrong), EINVAL);
    for (int i = 0; i < 4; i++)
        CHECK(mq_send(queue, "x", 1, 0) == 0);
    soon = from_now(20);
    CHECK_FAILS(mq_timedsend(queue, "x", 1, 0, &soon), ETIMEDOUT);
    mq_attr flags{};
    flags.mq_flags = O_NONBLOCK;
    CHECK(mq_setattr(queue, &flags, &is) == 0 && is.mq_curmsgs == 4);
    CHECK_FAILS(mq_send(queue, "x", 1, 0), EAGAIN);
    CHECK((fcntl(queue, F_GETFL) & O_NONBLOCK) != 0);
    flags.mq_flags = O_APPEND;
    CHECK_FAILS(mq_setattr(queue, &flags, nullptr), EINVAL);
    for (int i = 0; i < 4; i++)
        CHECK(mq_receive(queue, text, 32, nullptr) == 1);
    CHECK_FAILS(mq_receive(queue, text, 32, nullptr), EAGAIN);

    // Directions.
    const mqd_t reader = mq_open(name.c_str(), O_RDONLY);
    CHECK(reader >= 0);
    CHECK_FAILS(mq_send(reader, "x", 1, 0), EBADF);
    CHECK_FAILS(mq_receive(0x7fff, text, 32, nullptr), EBADF);
    const int other = open("/dev/null", O_RDWR);
    CHECK_FAILS(mq_receive(other, text, 32, nullptr), EBADF);
    close(other);
    CHECK(mq_close(reader) == 0);
    CHECK(mq_unlink(name.c_str()) == 0);
    CHECK_FAILS(mq_unlink(name.c_str()), ENOENT);
    CHECK(mq_send(queue, "still", 5, 0) == 0); // lives until it is closed
    CHECK(mq_receive(queue, text, 32, nullptr) == 5);
    CHECK(mq_close(queue) == 0);
}

void between_processes() {
    const std::string name = name_of("processes");
    mq_attr shape{};
    shape.mq_maxmsg = 2;
    shape.mq_msgsize = sizeof(int);
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape);
    CHECK(queue >= 0);
    constexpr int rounds = 300;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        for (int i = 0; i < rounds; i++)
            if (mq_send(queue, reinterpret_cast<char*>(&i), sizeof i, 7) != 0)
                _exit(1);
        _exit(0);
    }
    for (int i = 0; i < rounds; i++) {
        int got = -1;
        CHECK(mq_receive(queue, reinterpret_cast<char*>(&got), sizeof got, nullptr) == sizeof got);
        CHECK(got == i);
    }
    reap(child);
    CHECK(mq_close(queue) == 0 && mq_unlink(name.c_str()) == 0);
}

void polling() {
    const std::string name = name_of("poll");
    mq_attr shape{};
    shape.mq_maxmsg = 1;
    shape.mq_msgsize = 8;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT | O_NONBLOCK, 0600, &shape);
    CHECK(queue >= 0);
    pollfd watch{queue, POLLIN | POLLOUT, 0};
    CHECK(poll(&watch, 1, 0) == 1 && watch.revents == POLLOUT);
    CHECK(mq_send(queue, "m", 1, 0) == 0);
    CHECK(poll(&watch, 1, 0) == 1 && watch.revents == POLLIN);
    const int epoll = epoll_create1(0);
    epoll_event event{EPOLLIN, {}};
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, queue, &event) == 0);
    CHECK(epoll_wait(epoll, &event, 1, 0) == 1 && event.events == EPOLLIN);
    close(epoll);
    char text[8];
    const pid_t child = fork();
    if (child == 0) {
        pollfd room{queue, POLLOUT, 0};
        _exit(poll(&room, 1, 10'000) == 1 && mq_send(queue, "n", 1, 0) == 0 ? 0 : 1);
    }
    CHECK(mq_receive(queue, text, 8, nullptr) == 1 && text[0] == 'm');
    watch.events = POLLIN;
    CHECK(poll(&watch, 1, 10'000) == 1);
    CHECK(mq_receive(queue, text, 8, nullptr) == 1 && text[0] == 'n');
    reap(child);
    CHECK(mq_close(queue) == 0 && mq_unlink(name.c_str()) == 0);
}

void notification() {
    const std::string name = name_of("notify");
    mq_attr shape{};
    shape.mq_maxmsg = 4;
    shape.mq_msgsize = 8;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape);
    CHECK(queue >= 0);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN + 1;
    event.sigev_value.sival_int = 4711;
    CHECK(mq_notify(queue, &event) == 0);
    CHECK_FAILS(mq_notify(queue, &event), EBUSY);
    CHECK(mq_send(queue, "a", 1, 0) == 0);
    siginfo_t info{};
    const timespec while_{5, 0};
    CHECK(sigtimedwait(&set, &info, &while_) == SIGRTMIN + 1);
    CHECK(info.si_code == SI_MESGQ && info.si_pid == getpid() && info.si_value.sival_int == 4711);
    // Once only; and not for a queue that is not empty.
    CHECK(mq_notify(queue, &event) == 0);
    CHECK(mq_send(queue, "b", 1, 0) == 0);
    const timespec none{0, 0};
    CHECK_FAILS(sigtimedwait(&set, &info, &none), EAGAIN);
    char text[8];
    CHECK(mq_receive(queue, text, 8, nullptr) == 1);
    CHECK(mq_receive(queue, text, 8, nullptr) == 1);
    CHECK(mq_send(queue, "c", 1, 0) == 0);
    CHECK(sigtimedwait(&set, &info, &while_) == SIGRTMIN + 1);
    CHECK(mq_receive(queue, text, 8, nullptr) == 1);
    // Given up: by the owner, and by closing.
    CHECK(mq_notify(queue, &event) == 0);
    CHECK(mq_notify(queue, nullptr) == 0);
    CHECK(mq_notify(queue, &event) == 0);
    CHECK(mq_close(mq_open(name.c_str(), O_RDONLY)) == 0);
    event.sigev_notify = SIGEV_NONE;
    CHECK(mq_notify(queue, &event) == 0);
    event.sigev_notify = 77;
    CHECK_FAILS(mq_notify(queue, &event), EINVAL);
    CHECK(mq_close(queue) == 0 && mq_unlink(name.c_str()) == 0);
}

// The sender's number is the one that the receiver knows it by.
void notification_in_namespace() {
    if (geteuid() != 0)
        return;
    const pid_t outer = fork();
    CHECK(outer >= 0);
    if (outer == 0) {
        CHECK(unshare(CLONE_NEWPID) == 0);
        const pid_t first = fork();
        CHECK(first >= 0);
        if (first == 0) {
            CHECK(getpid() == 1);
            notification();
            _exit(0);
        }
        reap(first);
        _exit(0);
    }
    reap(outer);
}

// In a thread of the C library's, which the kernel wakes by a netlink socket.
void notification_by_thread() {
    static std::atomic<int> told{0};
    const std::string name = name_of("thread");
    mq_attr shape{};
    shape.mq_maxmsg = 4;
    shape.mq_msgsize = 8;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape);
    CHECK(queue >= 0);
    sigevent event{};
    event.sigev_notify = SIGEV_THREAD;
    event.sigev_notify_function = [](sigval value) {
        told = value.sival_int;
        syscall(SYS_futex, &told, FUTEX_WAKE, 1, nullptr, nullptr, 0);
    };
    event.sigev_value.sival_int = 1147;
    CHECK(mq_notify(queue, &event) == 0);
    CHECK_FAILS(mq_notify(queue, &event), EBUSY);
    CHECK(mq_send(queue, "a", 1, 0) == 0);
    const timespec patience{20, 0};
    while (told == 0)
        CHECK(syscall(SYS_futex, &told, FUTEX_WAIT, 0, &patience, nullptr, 0) == 0 ||
              errno == EAGAIN || errno == EINTR);
    CHECK(told == 1147);
    char text[8];
    CHECK(mq_receive(queue, text, 8, nullptr) == 1);
    CHECK(mq_notify(queue, &event) == 0); // the registration had ended
    CHECK(mq_notify(queue, nullptr) == 0);
    CHECK(mq_close(queue) == 0 && mq_unlink(name.c_str()) == 0);
}

// What the C library does not show: the cookie, and the notice of a registration that ends.
void notification_by_socket() {
    const std::string name = name_of("socket");
    mq_attr shape{};
    shape.mq_maxmsg = 4;
    shape.mq_msgsize = 8;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape);
    CHECK(queue >= 0);
    const auto notify = [&](int socket, const void* cookie) {
        sigevent event{};
        event.sigev_notify = SIGEV_THREAD;
        event.sigev_signo = socket;
        event.sigev_value.sival_ptr = const_cast<void*>(cookie);
        return static_cast<int>(syscall(SYS_mq_notify, queue, &event));
    };
    char cookie[32];
    std::iota(std::begin(cookie), std::end(cookie), 'A');
    const int socket = ::socket(AF_NETLINK, SOCK_RAW, 0);
    CHECK(socket >= 0);
    const int other = ::socket(AF_UNIX, SOCK_DGRAM, 0);
    CHECK_FAILS(notify(-1, cookie), EBADF);
    CHECK_FAILS(notify(queue, cookie), ENOTSOCK);
    CHECK_FAILS(notify(other, cookie), EINVAL);
    CHECK_FAILS(notify(socket, nullptr), EFAULT);
    const auto heard = [&](char why) {
        char text[64];
        CHECK(recv(socket, text, sizeof text, 0) == sizeof cookie);
        CHECK(std::memcmp(text, cookie, sizeof cookie - 1) == 0 && text[sizeof cookie - 1] == why);
        CHECK_FAILS(recv(socket, text, sizeof text, MSG_DONTWAIT), EAGAIN);
    };
    CHECK(notify(socket, cookie) == 0);
    CHECK(mq_send(queue, "a", 1, 0) == 0);
    heard(1);
    char text[8];
    CHECK(mq_receive(queue, text, 8, nullptr) == 1);
    CHECK(notify(socket, cookie) == 0);
    CHECK(mq_notify(queue, nullptr) == 0);
    heard(2);
    CHECK(notify(socket, cookie) == 0);
    CHECK(mq_close(mq_open(name.c_str(), O_RDONLY)) == 0);
    heard(2);
    // A socket that has gone is no obstacle.
    CHECK(notify(socket, cookie) == 0);
    CHECK(close(socket) == 0 && close(other) == 0);
    CHECK(mq_send(queue, "b", 1, 0) == 0);
    CHECK(mq_receive(queue, text, 8, nullptr) == 1);
    CHECK(mq_close(queue) == 0 && mq_unlink(name.c_str()) == 0);
}

void limits() {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        const rlimit small{4096, 4096};
        if (setrlimit(RLIMIT_MSGQUEUE, &small) != 0)
            _exit(1);
        const std::string name = name_of("limit");
        mq_attr shape{};
        shape.mq_maxmsg = 8;
        shape.mq_msgsize = 4096;
        if (mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape) != -1 || errno != EMFILE)
            _exit(2);
        shape.mq_msgsize = 16;
        const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape);
        _exit(queue >= 0 && mq_unlink(name.c_str()) == 0 ? 0 : 3);
    }
    reap(child);
    // The system calls themselves.
    CHECK_FAILS(syscall(SYS_mq_open, "a/b", O_RDWR, 0, nullptr), EACCES);
    CHECK_FAILS(syscall(SYS_mq_open, "..", O_RDWR, 0, nullptr), EACCES);
    CHECK_FAILS(syscall(SYS_mq_unlink, ""), ENOENT);
    CHECK_FAILS(syscall(SYS_mq_open, nullptr, O_RDWR, 0, nullptr), EFAULT);
    const std::string longest(256, 'n');
    CHECK_FAILS(syscall(SYS_mq_open, longest.c_str(), O_RDWR | O_CREAT, 0600, nullptr),
                ENAMETOOLONG);
}

// /proc/sys/fs/mqueue of a namespace of the test's own.
bool set_limit(const std::string& name, const char* value) {
    const int fd = open(("/proc/sys/fs/mqueue/" + name).c_str(), O_WRONLY);
    CHECK(fd >= 0);
    const bool set = write(fd, value, std::strlen(value)) > 0;
    close(fd);
    return set;
}

void settings() {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(unshare(CLONE_NEWIPC) == 0);
        CHECK(set_limit("msg_max", "30") && set_limit("msgsize_max", "256"));
        CHECK(set_limit("msg_default", "20") && set_limit("msgsize_default", "512"));
        CHECK(!set_limit("msg_max", "0") && !set_limit("msg_max", "65537"));
        CHECK(!set_limit("msgsize_max", "127") && !set_limit("msgsize_default", "16777217"));
        // Who asks for nothing gets the defaults, as far as the limits go.
        const std::string name = name_of("settings");
        const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, nullptr);
        CHECK(queue >= 0);
        mq_attr is{};
        CHECK(mq_getattr(queue, &is) == 0 && is.mq_maxmsg == 20 && is.mq_msgsize == 256);
        CHECK(mq_close(queue) == 0 && mq_unlink(name.c_str()) == 0);
        // They bind whoever has no CAP_SYS_RESOURCE.
        CHECK(seteuid(1) == 0);
        mq_attr shape{};
        shape.mq_maxmsg = 31;
        shape.mq_msgsize = 8;
        CHECK_FAILS(mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape), EINVAL);
        shape.mq_maxmsg = 30;
        CHECK(mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape) >= 0);
        CHECK(mq_unlink(name.c_str()) == 0);
        CHECK(seteuid(0) == 0 && set_limit("queues_max", "0") && seteuid(1) == 0);
        CHECK_FAILS(mq_open(name.c_str(), O_RDWR | O_CREAT, 0600, &shape), ENOSPC);
        _exit(0);
    }
    reap(child);
}

void file_system() {
    char place[] = "/tmp/joey-mqueue-XXXXXX";
    CHECK(mkdtemp(place) != nullptr);
    if (mount("mqueue", place, "mqueue", 0, nullptr) != 0) {
        CHECK(rmdir(place) == 0); // not allowed to mount here
        return;
    }
    const std::string name = name_of("fs");
    mq_attr shape{};
    shape.mq_maxmsg = 4;
    shape.mq_msgsize = 8;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT, 0640, &shape);
    CHECK(queue >= 0);
    CHECK(mq_send(queue, "12345", 5, 0) == 0);
    const std::string path = place + name;
    struct stat is {};
    CHECK(stat(path.c_str(), &is) == 0 && S_ISREG(is.st_mode) && is.st_size == 80);
    const int file = open(path.c_str(), O_RDONLY);
    CHECK(file >= 0);
    char text[128] = {};
    CHECK(read(file, text, sizeof text - 1) > 0);
    CHECK(strncmp(text, "QSIZE:5          NOTIFY:0     SIGNO:0     NOTIFY_PID:0     \n", 100) == 0);
    close(file);
    CHECK_FAILS(mkdir((path + "-d").c_str(), 0700), EPERM);
    CHECK(unlink(path.c_str()) == 0);
    CHECK_FAILS(mq_unlink(name.c_str()), ENOENT);
    CHECK(mq_close(queue) == 0);
    CHECK(umount(place) == 0 && rmdir(place) == 0);
}

} // namespace

int main() {
    basics();
    between_processes();
    polling();
    notification();
    notification_in_namespace();
    notification_by_thread();
    notification_by_socket();
    limits();
    settings();
    file_system();
    return 0;
}
