// poll(2), ppoll(2), select(2), pselect(2), epoll(7), eventfd(2).
#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <set>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"
#include "tests/guest/process_support.hpp"

namespace {

int make_epoll() {
    const int fd = epoll_create1(EPOLL_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

int control(int epoll, int operation, int fd, uint32_t events, uint64_t data = 0) {
    epoll_event event{};
    event.events = events;
    event.data.u64 = data != 0 ? data : static_cast<uint64_t>(fd);
    return epoll_ctl(epoll, operation, fd, &event);
}

// What is ready now; 0 when nothing is.
uint32_t ready(int epoll, int timeout = 0) {
    epoll_event event{};
    const int count = epoll_wait(epoll, &event, 1, timeout);
    CHECK(count >= 0);
    return count == 0 ? 0 : event.events;
}

bool asleep(pid_t thread) {
    char text[512] = {};
    const int fd = open(("/proc/self/task/" + std::to_string(thread) + "/stat").c_str(), O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    return std::strrchr(text, ')')[2] == 'S';
}

void polls() {
    int p[2];
    CHECK(pipe(p) == 0);
    pollfd fds[4] = {{p[0], POLLIN, 0}, {p[1], POLLOUT, 0}, {-1, POLLIN, 0x7f}, {99, POLLIN, 0}};
    CHECK(poll(fds, 4, -1) == 2);
    CHECK(fds[0].revents == 0 && fds[1].revents == POLLOUT && fds[2].revents == 0);
    CHECK(fds[3].revents == POLLNVAL);
    CHECK(poll(fds, 1, 0) == 0 && poll(fds, 1, 5) == 0 && poll(nullptr, 0, 1) == 0);
    CHECK_FAILS(syscall(SYS_poll, 8, 1, 0), EFAULT);
    const rlimit few{50, 1024};
    rlimit old;
    CHECK(getrlimit(RLIMIT_NOFILE, &old) == 0);
    rlimit less = old;
    less.rlim_cur = few.rlim_cur;
    CHECK(setrlimit(RLIMIT_NOFILE, &less) == 0);
    std::vector<pollfd> many(51, pollfd{-1, 0, 0});
    CHECK_FAILS(poll(many.data(), 51, 0), EINVAL);
    CHECK(setrlimit(RLIMIT_NOFILE, &old) == 0);
    std::thread writer([&] { CHECK(write(p[1], "x", 1) == 1); });
    CHECK(poll(fds, 1, -1) == 1 && fds[0].revents == POLLIN);
    writer.join();
    fds[0].events = 0; // errors and hang-ups come unasked
    CHECK(poll(fds, 1, 0) == 0);
    close(p[1]);
    CHECK(poll(fds, 1, -1) == 1 && fds[0].revents == POLLHUP);
    const timespec bad{0, -1};
    CHECK_FAILS(ppoll(fds, 1, &bad, nullptr), EINVAL);
    close(p[0]);
    // Regular files and directories are always ready.
    const int null = open("/dev/null", O_RDWR), root = open("/", O_RDONLY);
    pollfd always[2] = {{null, POLLIN | POLLOUT, 0}, {root, POLLIN | POLLOUT, 0}};
    CHECK(poll(always, 2, -1) == 2 && always[0].revents == (POLLIN | POLLOUT));
    CHECK(always[1].revents == (POLLIN | POLLOUT));
    close(null);
    close(root);
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    pollfd end{s[0], POLLIN | POLLOUT | POLLRDHUP, 0};
    CHECK(poll(&end, 1, 0) == 1 && end.revents == POLLOUT);
    CHECK(shutdown(s[1], SHUT_WR) == 0);
    CHECK(poll(&end, 1, 0) == 1 && end.revents == (POLLIN | POLLOUT | POLLRDHUP));
    close(s[1]);
    CHECK(poll(&end, 1, 0) == 1 && (end.revents & POLLHUP) != 0);
    close(s[0]);
}

void masks_of_signals() {
    // A signal that is blocked but for the call interrupts it, and never gets in before.
    sigset_t block, none;
    sigemptyset(&none);
    sigemptyset(&block);
    sigaddset(&block, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &block, nullptr) == 0);
    static volatile int handled;
    struct sigaction action {};
    action.sa_handler = [](int) { handled = handled + 1; };
    action.sa_flags = SA_RESTART; // these calls are not restarted all the same
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    CHECK(raise(SIGUSR1) == 0 && handled == 0);
    const timespec second{10, 0};
    CHECK_FAILS(ppoll(nullptr, 0, &second, &none), EINTR);
    CHECK(handled == 1);
    CHECK(raise(SIGUSR1) == 0);
    CHECK_FAILS(pselect(0, nullptr, nullptr, nullptr, &second, &none), EINTR);
    CHECK(handled == 2);
    const int epoll = make_epoll();
    epoll_event event;
    CHECK(raise(SIGUSR1) == 0);
    CHECK_FAILS(epoll_pwait(epoll, &event, 1, 10'000, &none), EINTR);
    CHECK(handled == 3 && raise(SIGUSR1) == 0);
    CHECK_FAILS(syscall(SYS_epoll_pwait2, epoll, &event, 1, &second, &none, 8), EINTR);
    CHECK(handled == 4);
    CHECK_FAILS(syscall(SYS_epoll_pwait, epoll, &event, 1, 0, &none, 4), EINVAL);
    const timespec bad{0, 1'000'000'000};
    CHECK_FAILS(syscall(SYS_epoll_pwait2, epoll, &event, 1, &bad, nullptr, 8), EINVAL);
    CHECK(raise(SIGUSR1) == 0); // with something ready, that is the answer
    const int e = eventfd(1, 0);
    CHECK(control(epoll, EPOLL_CTL_ADD, e, EPOLLIN) == 0);
    CHECK(epoll_pwait(epoll, &event, 1, 10'000, &none) == 1 || errno == EINTR);
    close(e);
    close(epoll);
    CHECK(sigprocmask(SIG_UNBLOCK, &block, nullptr) == 0 && handled == 5);
}

void selects() {
    int p[2];
    CHECK(pipe(p) == 0);
    fd_set in, out, except;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_ZERO(&except);
    FD_SET(p[0], &in);
    FD_SET(p[1], &out);
    FD_SET(p[0], &except);
    timeval none{0, 0};
    CHECK(select(p[1] + 1, &in, &out, &except, &none) == 1);
    CHECK(!FD_ISSET(p[0], &in) && FD_ISSET(p[1], &out) && !FD_ISSET(p[0], &except));
    CHECK(write(p[1], "x", 1) == 1);
    FD_SET(p[0], &in);
    FD_SET(p[1], &in);
    CHECK(select(p[1] + 1, &in, &out, nullptr, nullptr) == 2 + (FD_ISSET(p[1], &in) ? 1 : 0));
    FD_ZERO(&in);
    FD_SET(60, &in);
    CHECK_FAILS(select(61, &in, nullptr, nullptr, &none), EBADF);
    CHECK_FAILS(select(-1, nullptr, nullptr, nullptr, &none), EINVAL);
    timeval bad{-1, 0};
    CHECK_FAILS(select(0, nullptr, nullptr, nullptr, &bad), EINVAL);
    timeval brief{0, 2000};
    CHECK(select(0, nullptr, nullptr, nullptr, &brief) == 0);
    // A hang-up is no exception, and not asked for by the others.
    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    close(s[1]);
    FD_ZERO(&except);
    FD_SET(s[0], &except);
    brief = {0, 20'000};
    CHECK(select(s[0] + 1, nullptr, nullptr, &except, &brief) == 0);
    close(s[0]);
    CHECK(brief.tv_sec == 0 && brief.tv_usec == 0); // Linux tells what was left
    close(p[0]);
    close(p[1]);
}

void epolls() {
    CHECK_FAILS(epoll_create(0), EINVAL);
    CHECK_FAILS(epoll_create1(1), EINVAL);
    const int epoll = make_epoll();
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_FAILS(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN), ENOENT);
    CHECK_FAILS(control(epoll, EPOLL_CTL_DEL, p[0], 0), ENOENT);
    CHECK(control(epoll, EPOLL_CTL_ADD, p[0], EPOLLIN) == 0);
    CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, p[0], EPOLLIN), EEXIST);
    CHECK_FAILS(control(epoll, 9, p[0], EPOLLIN), EINVAL);
    CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN), EINVAL);
    CHECK_FAILS(control(p[0], EPOLL_CTL_ADD, p[1], EPOLLIN), EINVAL);
    CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, 99, EPOLLIN), EBADF);
    CHECK_FAILS(control(99, EPOLL_CTL_ADD, p[0], EPOLLIN), EBADF);
    const int root = open("/", O_RDONLY);
    CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, root, EPOLLIN), EPERM);
    close(root);
    // Regular files of /proc that tell of something can be waited for, those on disk cannot.
    const int mounts = open("/proc/self/mountinfo", O_RDONLY),
              status = open("/proc/self/status", O_RDONLY);
    CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, status, EPOLLIN), EPERM);
    CHECK(control(epoll, EPOLL_CTL_ADD, mounts, EPOLLIN) == 0 && ready(epoll) == EPOLLIN);
    CHECK(control(epoll, EPOLL_CTL_DEL, mounts, 0) == 0);
    close(mounts);
    close(status);
    CHECK_FAILS(epoll_ctl(epoll, EPOLL_CTL_ADD, p[1], nullptr), EFAULT);
    epoll_event events[4];
    CHECK_FAILS(epoll_wait(epoll, events, 0, 0), EINVAL);
    CHECK_FAILS(epoll_wait(p[0], events, 1, 0), EINVAL);
    CHECK_FAILS(epoll_wait(epoll, reinterpret_cast<epoll_event*>(-8), 1, 0), EFAULT);

    // Level: again and again. Edge: once for each write. One shot: once until it is armed again.
    CHECK(ready(epoll) == 0 && write(p[1], "abc", 3) == 3);
    CHECK(ready(epoll) == EPOLLIN && ready(epoll) == EPOLLIN);
    char byte;
    CHECK(read(p[0], &byte, 1) == 1 && ready(epoll) == EPOLLIN);
    CHECK(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET) == 0);
    CHECK(ready(epoll) == EPOLLIN && ready(epoll) == 0);
    CHECK(read(p[0], &byte, 1) == 1 && ready(epoll) == 0);
    CHECK(write(p[1], "d", 1) == 1 && ready(epoll) == EPOLLIN && ready(epoll) == 0);
    CHECK(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT) == 0);
    CHECK(ready(epoll) == EPOLLIN && ready(epoll) == 0);
    CHECK(write(p[1], "e", 1) == 1 && ready(epoll) == 0);
    CHECK(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT) == 0);
    CHECK(ready(epoll) == EPOLLIN && ready(epoll) == 0);
    // EPOLLHUP comes unasked.
    CHECK(control(epoll, EPOLL_CTL_MOD, p[0], 0) == 0 && ready(epoll) == 0);
    close(p[1]);
    CHECK(ready(epoll) == EPOLLHUP);
    close(p[0]); // the last descriptor: it leaves the set
    CHECK(ready(epoll) == 0);

    // A copy keeps the description, so the entry stays, under the old number.
    CHECK(pipe(p) == 0 && control(epoll, EPOLL_CTL_ADD, p[0], EPOLLIN, 4711) == 0);
    const int copy = dup(p[0]);
    close(p[0]);
    CHECK(write(p[1], "x", 1) == 1);
    CHECK(epoll_wait(epoll, events, 4, 0) == 1 && events[0].data.u64 == 4711);
    CHECK_FAILS(control(epoll, EPOLL_CTL_DEL, copy, 0), ENOENT);
    CHECK(control(epoll, EPOLL_CTL_ADD, copy, EPOLLIN, 4712) == 0); // one description, two numbers
    CHECK(epoll_wait(epoll, events, 4, 0) == 2);
    close(copy);
    CHECK(epoll_wait(epoll, events, 4, 0) == 0);
    close(p[1]);

    // Fair: with more ready than asked for, all get their turn.
    int e[8];
    for (int& fd : e) {
        fd = eventfd(1, 0);
        CHECK(control(epoll, EPOLL_CTL_ADD, fd, EPOLLIN) == 0);
    }
    std::set<int> seen;
    for (int i = 0; i < 4; i++) {
        CHECK(epoll_wait(epoll, events, 2, -1) == 2);
        seen.insert(events[0].data.fd);
        seen.insert(events[1].data.fd);
    }
    CHECK(seen.size() == 8);
    for (const int fd : e)
        close(fd);
    close(epoll);
}

// As those do that keep up with what is mounted.
void mounts_by_epoll() {
    if (geteuid() != 0)
        return;
    in_child([] {
        CHECK(unshare(CLONE_NEWNS) == 0);
        CHECK(mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
        const int mounts = open("/proc/self/mountinfo", O_RDONLY), epoll = make_epoll();
        CHECK(control(epoll, EPOLL_CTL_ADD, mounts, EPOLLPRI) == 0 && ready(epoll) == 0);
        CHECK(mount("none", "/tmp", "tmpfs", 0, nullptr) == 0);
        CHECK((ready(epoll) & EPOLLPRI) != 0 && ready(epoll) == 0);
        CHECK(umount2("/tmp", MNT_DETACH) == 0);
        CHECK((ready(epoll) & EPOLLPRI) != 0);
    });
}

void nesting() {
    const int outer = make_epoll(), inner = make_epoll();
    const int e = eventfd(0, EFD_NONBLOCK);
    CHECK(control(inner, EPOLL_CTL_ADD, e, EPOLLIN) == 0);
    CHECK(control(outer, EPOLL_CTL_ADD, inner, EPOLLIN) == 0);
    CHECK_FAILS(control(inner, EPOLL_CTL_ADD, outer, EPOLLIN), ELOOP);
    pollfd p{inner, POLLIN, 0};
    CHECK(poll(&p, 1, 0) == 0 && ready(outer) == 0);
    CHECK(eventfd_write(e, 1) == 0);
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
    CHECK(ready(outer) == EPOLLIN && ready(inner) == EPOLLIN && ready(outer) == EPOLLIN);
    eventfd_t value;
    CHECK(eventfd_read(e, &value) == 0);
    // What was ready and is not any more does not show.
    CHECK(poll(&p, 1, 0) == 0);
    CHECK(ready(outer) == 0 && ready(inner) == 0);
    CHECK(eventfd_write(e, 1) == 0);
    CHECK(eventfd_read(e, &value) == 0 && poll(&p, 1, 0) == 0 && ready(outer) == 0);
    std::thread writer([&] { CHECK(eventfd_write(e, 1) == 0); });
    CHECK(ready(outer, -1) == EPOLLIN);
    writer.join();
    close(e);
    CHECK(poll(&p, 1, 0) == 0 && ready(outer) == 0);
    // Not deeper than five.
    std::vector<int> chain{inner};
    int depth = 0;
    for (; depth < 10; depth++) {
        const int next = make_epoll();
        chain.push_back(next);
        if (control(next, EPOLL_CTL_ADD, chain[chain.size() - 2], EPOLLIN) != 0)
            break;
    }
    CHECK(errno == ELOOP && depth >= 3 && depth <= 5);
    for (const int fd : chain)
        close(fd);
    close(outer);
}

// A wake-up goes up by every way at once: neither from above nor side by side may epoll files be
// tied together without end.
void shapes() {
    std::vector<int> chain{make_epoll()};
    for (int depth = 0; depth < 10; depth++) {
        const int next = make_epoll();
        const int above = chain.back();
        chain.push_back(next);
        errno = 0;
        if (control(above, EPOLL_CTL_ADD, next, EPOLLIN) != 0)
            break;
    }
    CHECK(errno == ELOOP && chain.size() == 6);
    const int e = eventfd(0, EFD_NONBLOCK);
    CHECK(control(chain[4], EPOLL_CTL_ADD, e, EPOLLIN) == 0);
    CHECK(eventfd_write(e, 1) == 0 && ready(chain[0]) == EPOLLIN);
    for (const int fd : chain)
        close(fd);
    const int inner = make_epoll(), outer = make_epoll();
    CHECK(control(inner, EPOLL_CTL_ADD, e, EPOLLIN) == 0);
    std::vector<int> copies;
    int added = 0;
    for (; added < 600; added++) {
        copies.push_back(dup(inner));
        CHECK(copies.back() >= 0);
        errno = 0;
        if (control(outer, EPOLL_CTL_ADD, copies.back(), EPOLLIN) != 0)
            break;
    }
    CHECK(errno == EINVAL && added == 500);
    CHECK(ready(outer) == EPOLLIN);
    for (const int fd : copies)
        close(fd);
    for (const int fd : {inner, outer, e})
        close(fd);
}

void crowds() {
    // An exclusive entry wakes one of several sleepers, at least one always.
    const int e = eventfd(0, EFD_NONBLOCK | EFD_SEMAPHORE);
    constexpr int sleepers = 4;
    std::atomic<int> woken{0};
    std::atomic<pid_t> ids[sleepers] = {};
    std::vector<std::thread> threads;
    for (int i = 0; i < sleepers; i++)
        threads.emplace_back([&, i] {
            const int epoll = make_epoll();
            CHECK(control(epoll, EPOLL_CTL_ADD, e, EPOLLIN | EPOLLEXCLUSIVE) == 0);
            CHECK_FAILS(control(epoll, EPOLL_CTL_MOD, e, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
            ids[i] = gettid();
            CHECK(ready(epoll, -1) == EPOLLIN);
            woken++;
            eventfd_t value;
            while (eventfd_read(e, &value) != 0)
                CHECK(ready(epoll, -1) == EPOLLIN);
            close(epoll);
        });
    for (auto& id : ids)
        while (id == 0 || !asleep(id))
            sched_yield();
    CHECK(eventfd_write(e, 1) == 0);
    while (woken == 0)
        sched_yield();
    CHECK(eventfd_write(e, sleepers - 1) == 0);
    // Whoever was not woken by the second write is by more of them, which all are used up.
    while (woken < sleepers) {
        CHECK(eventfd_write(e, 1) == 0);
        sched_yield();
    }
    CHECK(eventfd_write(e, sleepers) == 0);
    for (std::thread& thread : threads)
        thread.join();
    close(e);
    const int epoll = make_epoll(), other = make_epoll();
    CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, other, EPOLLIN | EPOLLEXCLUSIVE), EINVAL);
    close(other);
    // Several threads on one set: each event of an edge goes to one.
    const int f = eventfd(0, EFD_NONBLOCK);
    for (const uint32_t wrong : {EPOLLONESHOT, EPOLLPRI, EPOLLRDHUP})
        CHECK_FAILS(control(epoll, EPOLL_CTL_ADD, f, EPOLLIN | EPOLLEXCLUSIVE | wrong), EINVAL);
    CHECK(control(epoll, EPOLL_CTL_ADD, f, EPOLLIN | EPOLLET) == 0);
    std::atomic<int> events{0};
    std::atomic<bool> stop{false};
    std::vector<std::thread> waiters;
    for (int i = 0; i < 3; i++)
        waiters.emplace_back([&] {
            while (!stop)
                if (ready(epoll, 1) != 0)
                    events++;
        });
    for (int i = 1; i <= 200; i++) {
        CHECK(eventfd_write(f, 1) == 0);
        while (events < i)
            sched_yield();
        CHECK(events == i);
    }
    stop = true;
    for (std::thread& waiter : waiters)
        waiter.join();
    // Members come and go while others wait.
    std::atomic<bool> done{false};
    std::thread waiter([&] {
        while (!done)
            ready(epoll, 1);
    });
    for (int i = 0; i < 2000; i++) {
        const int g = eventfd(1, 0);
        CHECK(control(epoll, EPOLL_CTL_ADD, g, EPOLLIN) == 0);
        if (i % 2 == 0)
            CHECK(control(epoll, EPOLL_CTL_DEL, g, 0) == 0);
        close(g);
    }
    done = true;
    waiter.join();
    close(f);
    close(epoll);
}

// The least processor time that 100 changes of the interest in `fd` take.
int64_t time_of_changes(int epoll, int fd) {
    int64_t least = INT64_MAX;
    for (int i = 0; i < 10; i++) {
        timespec begin, end;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
        for (int j = 0; j < 50; j++) {
            CHECK(control(epoll, EPOLL_CTL_DEL, fd, 0) == 0);
            CHECK(control(epoll, EPOLL_CTL_ADD, fd, EPOLLIN) == 0);
        }
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
        least = std::min(least,
                         (end.tv_sec - begin.tv_sec) * 1'000'000'000 + end.tv_nsec - begin.tv_nsec);
    }
    return least;
}

// What a server with very many connections does: each change costs what it costs with few.
void many() {
    rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    constexpr int files = 16'000;
    const rlimit more{files + 100, std::max<rlim_t>(limit.rlim_max, files + 100)};
    CHECK(setrlimit(RLIMIT_NOFILE, &more) == 0);
    const int few = make_epoll(), lots = make_epoll();
    const int first = eventfd(1, 0);
    CHECK(control(few, EPOLL_CTL_ADD, first, EPOLLIN) == 0);
    const int64_t with_few = time_of_changes(few, first);
    std::vector<int> fds{first};
    while (fds.size() < files)
        fds.push_back(eventfd(1, 0));
    for (const int fd : fds)
        CHECK(fd >= 0 && control(lots, EPOLL_CTL_ADD, fd, EPOLLIN) == 0);
    const int64_t with_many = time_of_changes(lots, fds[1]);
    CHECK(with_many < 5 * with_few);
    // Every second one goes, some by being closed; the others are told, each once in a round.
    for (int i = 1; i < files; i += 2)
        CHECK((i % 4 == 1 ? close(fds[i]) : control(lots, EPOLL_CTL_DEL, fds[i], 0)) == 0);
    std::set<uint64_t> told;
    std::vector<epoll_event> events(1000);
    for (int round = 0; round < files / 2 / 1000; round++) {
        CHECK(epoll_wait(lots, events.data(), 1000, 0) == 1000);
        for (const epoll_event& event : events)
            CHECK(told.insert(event.data.u64).second);
    }
    for (int i = 0; i < files; i += 2)
        CHECK(told.count(static_cast<uint64_t>(fds[i])) == 1);
    for (int i = 0; i < files; i++)
        if (i % 4 != 1)
            close(fds[i]);
    close(few);
    close(lots);
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

void counters() {
    CHECK_FAILS(eventfd(0, 0x10), EINVAL);
    const int e = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(e >= 0 && fcntl(e, F_GETFD) == FD_CLOEXEC);
    uint64_t value = 0;
    CHECK_FAILS(read(e, &value, 7), EINVAL);
    CHECK_FAILS(write(e, &value, 7), EINVAL);
    CHECK(read(e, &value, 8) == 8 && value == 3);
    CHECK_FAILS(read(e, &value, 8), EAGAIN);
    value = UINT64_MAX;
    CHECK_FAILS(write(e, &value, 8), EINVAL);
    value = UINT64_MAX - 1;
    CHECK(write(e, &value, 8) == 8);
    value = 1;
    CHECK_FAILS(write(e, &value, 8), EAGAIN);
    pollfd p{e, POLLIN | POLLOUT, 0};
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN);
    CHECK(read(e, &value, 8) == 8 && value == UINT64_MAX - 1);
    CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLOUT);
    close(e);
    const int s = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    CHECK(read(s, &value, 8) == 8 && value == 1 && read(s, &value, 8) == 8 && value == 1);
    CHECK_FAILS(read(s, &value, 8), EAGAIN);
    close(s);
    const int b = eventfd(0, 0);
    std::thread writer([&] { CHECK(eventfd_write(b, 7) == 0); });
    CHECK(read(b, &value, 8) == 8 && value == 7);
    writer.join();
    close(b);
}

// A signalfd that is watched on behalf of a process which has ended since.
void signals_of_the_dead() {
    for (int round = 0; round < 20; round++) {
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGUSR1);
        int ends[2];
        CHECK(pipe(ends) == 0);
        const int signals = signalfd(-1, &set, SFD_NONBLOCK);
        const int epoll = make_epoll();
        in_child([&] { // the item is the child's; both files outlive it
            epoll_event event{};
            event.events = EPOLLIN;
            CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, signals, &event) == 0);
        });
        // Others take its place.
        pid_t others[8];
        for (pid_t& other : others) {
            other = start([&] {
                char byte = 0;
                close(ends[1]);
                CHECK(read(ends[0], &byte, 1) == 0);
            });
        }
        CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, signals, nullptr) == 0);
        close(ends[1]);
        int status = -1;
        for (const pid_t other : others)
            CHECK(waitpid(other, &status, 0) == other && status == 0);
        close(ends[0]);
        close(epoll);
        close(signals);
    }
}

// lseek(2) on what is no file: it succeeds and means nothing, as with /dev/null; pread(2) does not.
void positions() {
    sigset_t none;
    sigemptyset(&none);
    for (const int fd : {eventfd(1, 0), timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK),
                         signalfd(-1, &none, SFD_NONBLOCK), make_epoll(), inotify_init()}) {
        CHECK(fd >= 0);
        CHECK(lseek(fd, 7, SEEK_SET) == 0 && lseek(fd, 0, SEEK_CUR) == 0);
        CHECK(lseek(fd, -1, SEEK_END) == 0);
        CHECK_FAILS(lseek(fd, 0, 9), EINVAL);
        char byte[8];
        CHECK_FAILS(pread(fd, byte, sizeof byte, 0), ESPIPE);
        close(fd);
    }
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK_FAILS(lseek(p[0], 0, SEEK_SET), ESPIPE);
    CHECK_FAILS(lseek(p[0], 0, 9), EINVAL);
    close(p[0]);
    close(p[1]);
}

} // namespace

int main() {
    signals_of_the_dead();
    polls();
    masks_of_signals();
    selects();
    epolls();
    mounts_by_epoll();
    nesting();
    shapes();
    crowds();
    many();
    counters();
    positions();
}
