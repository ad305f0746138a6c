// fcntl(2) record locks (POSIX and open file description), flock(2), leases, F_NOTIFY, owners and
// O_ASYNC.
#include <atomic>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <sched.h>
#include <thread>

#include <sys/file.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "tests/guest/file_support.hpp"

namespace {

struct flock range(short type, off_t start, off_t length, short whence = SEEK_SET) {
    struct flock out {};
    out.l_type = type;
    out.l_whence = whence;
    out.l_start = start;
    out.l_len = length;
    return out;
}

int lock(int fd, int command, short type, off_t start, off_t length) {
    struct flock l = range(type, start, length);
    return fcntl(fd, command, &l);
}

struct flock ask(int fd, int command, short type, off_t start, off_t length) {
    struct flock l = range(type, start, length);
    CHECK(fcntl(fd, command, &l) == 0);
    return l;
}

// A child that does `first`, says so, waits for `go()`, does `second`.
class Partner {
public:
    Partner(const std::function<void()>& first, const std::function<void()>& second) {
        CHECK(pipe2(to_, O_NONBLOCK) == 0 && pipe(from_) == 0);
        std::fflush(nullptr);
        child_ = fork();
        CHECK(child_ >= 0);
        char byte = 0;
        if (child_ == 0) {
            close(to_[1]);
            close(from_[0]);
            first();
            CHECK(write(from_[1], "1", 1) == 1);
            // Not asleep before `second` is: await_sleep() is about that.
            while (read(to_[0], &byte, 1) < 0 && errno == EAGAIN)
                sched_yield();
            second();
            std::fflush(nullptr);
            _exit(0);
        }
        close(to_[0]);
        close(from_[1]);
        CHECK(read(from_[0], &byte, 1) == 1);
    }
    void go() { CHECK(write(to_[1], "g", 1) == 1); }
    void end() {
        close(to_[1]);
        int status = -1;
        CHECK(waitpid(child_, &status, 0) == child_ && status == 0);
        close(from_[0]);
    }
    // Until it sleeps in the kernel.
    void await_sleep() const {
        const std::string name = "/proc/" + std::to_string(child_) + "/stat";
        for (;;) {
            const std::string text = contents_of(name);
            if (text[text.rfind(')') + 2] == 'S')
                return;
            sched_yield();
        }
    }
    pid_t pid() const { return child_; }

private:
    int to_[2], from_[2];
    pid_t child_;
};

int open_file(const std::string& name, int flags = O_RDWR) {
    const int fd = open(name.c_str(), flags | O_CREAT, 0644);
    CHECK(fd >= 0);
    return fd;
}

void posix_locks(const ScratchDirectory& dir) {
    const std::string name = dir.path("locks");
    make_file(name, std::string(1000, 'x'));
    const int fd = open_file(name);
    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 100) == 0);
    CHECK(lock(fd, F_SETLK, F_RDLCK, 40, 20) == 0);           // splits the first
    CHECK(ask(fd, F_GETLK, F_WRLCK, 0, 0).l_type == F_UNLCK); // its own do not count
    const pid_t self = getpid();
    in_child([&] {
        struct flock l = ask(fd, F_GETLK, F_RDLCK, 0, 0);
        CHECK(l.l_type == F_WRLCK && l.l_start == 0 && l.l_len == 40 && l.l_pid == self);
        l = ask(fd, F_GETLK, F_WRLCK, 45, 1);
        CHECK(l.l_type == F_RDLCK && l.l_start == 40 && l.l_len == 20);
        CHECK(ask(fd, F_GETLK, F_RDLCK, 45, 1).l_type == F_UNLCK);
        CHECK_FAILS(lock(fd, F_SETLK, F_RDLCK, 99, 1), EAGAIN);
        CHECK(lock(fd, F_SETLK, F_RDLCK, 100, 0) == 0);
        CHECK(lock(fd, F_SETLK, F_RDLCK, 40, 20) == 0);
        // Closing any descriptor of the file lets go of all.
        close(dup(fd));
        l = ask(fd, F_GETLK, F_RDLCK, 70, 0);
        CHECK(l.l_type == F_WRLCK && l.l_start == 60 && l.l_len == 40);
    });
    // Whence and negative lengths.
    CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
    CHECK(lseek(fd, 500, SEEK_SET) == 500);
    struct flock l = range(F_WRLCK, -10, 5, SEEK_CUR);
    CHECK(fcntl(fd, F_SETLK, &l) == 0);
    l = range(F_WRLCK, -10, 0, SEEK_END);
    CHECK(fcntl(fd, F_SETLK, &l) == 0);
    l = range(F_WRLCK, 300, -50, SEEK_SET);
    CHECK(fcntl(fd, F_SETLK, &l) == 0);
    in_child([&] {
        struct flock m = ask(fd, F_GETLK, F_RDLCK, 400, 200);
        CHECK(m.l_start == 490 && m.l_len == 5);
        m = ask(fd, F_GETLK, F_RDLCK, 600, 1'000'000);
        CHECK(m.l_start == 990 && m.l_len == 0);
        m = ask(fd, F_GETLK, F_RDLCK, 0, 300);
        CHECK(m.l_start == 250 && m.l_len == 50);
    });
    l = range(F_WRLCK, 10, -11);
    CHECK_FAILS(fcntl(fd, F_SETLK, &l), EINVAL);
    l = range(F_WRLCK, -1, 1);
    CHECK_FAILS(fcntl(fd, F_SETLK, &l), EINVAL);
    l = range(F_WRLCK, 0, 1, 9);
    CHECK_FAILS(fcntl(fd, F_SETLK, &l), EINVAL);
    l = range(9, 0, 1);
    CHECK_FAILS(fcntl(fd, F_SETLK, &l), EINVAL);
    l = range(F_UNLCK, 0, 1);
    CHECK_FAILS(fcntl(fd, F_GETLK, &l), EINVAL);
    CHECK_FAILS(fcntl(fd, F_SETLK, 8), EFAULT);
    CHECK_FAILS(fcntl(999, F_SETLK, &l), EBADF);
    const int reader = open(name.c_str(), O_RDONLY), writer = open(name.c_str(), O_WRONLY);
    CHECK_FAILS(lock(reader, F_SETLK, F_WRLCK, 0, 1), EBADF);
    CHECK_FAILS(lock(writer, F_SETLK, F_RDLCK, 0, 1), EBADF);
    close(reader);
    close(writer);
    CHECK(ask(fd, F_GETLK, F_WRLCK, 0, 0).l_type == F_UNLCK);

    // Waiting, and being woken by unlocking, by closing, by dying.
    for (int how = 0; how < 3; how++) {
        CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0);
        Partner partner([] {}, [&] { CHECK(lock(fd, F_SETLKW, F_WRLCK, 5, 10) == 0); });
        if (how == 2) {
            CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
            Partner holder([&] { CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 10) == 0); }, [] {});
            partner.go();
            partner.await_sleep();
            holder.end();
        } else {
            partner.go();
            partner.await_sleep();
            if (how == 0)
                CHECK(lock(fd, F_SETLK, F_UNLCK, 5, 8) == 0);
            else
                close(dup(fd));
        }
        partner.end();
        CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
    }
    // A circle is refused.
    CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 1) == 0);
    Partner partner([&] { CHECK(lock(fd, F_SETLK, F_WRLCK, 1, 1) == 0); },
                    [&] { CHECK(lock(fd, F_SETLKW, F_WRLCK, 0, 1) == 0); });
    partner.go();
    partner.await_sleep();
    CHECK_FAILS(lock(fd, F_SETLKW, F_WRLCK, 1, 1), EDEADLK);
    CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 1) == 0);
    CHECK(lock(fd, F_SETLKW, F_WRLCK, 1, 1) == (partner.end(), 0));
    CHECK(lock(fd, F_SETLK, F_UNLCK, 0, 0) == 0);
    // A signal ends the waiting.
    Partner holder([&] { CHECK(lock(fd, F_SETLK, F_WRLCK, 0, 1) == 0); }, [] {});
    in_child([&] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
        timer_t timer;
        CHECK(timer_create(CLOCK_MONOTONIC, nullptr, &timer) == 0);
        const itimerspec soon{{0, 3'000'000}, {0, 3'000'000}};
        CHECK(timer_settime(timer, 0, &soon, nullptr) == 0);
        CHECK_FAILS(lock(fd, F_SETLKW, F_WRLCK, 0, 1), EINTR);
        CHECK_FAILS(flock(fd, LOCK_EX | LOCK_NB) == 0 ? lock(fd, F_SETLKW, F_RDLCK, 0, 1) : -1,
                    EINTR);
        CHECK_FAILS(lock(fd, F_OFD_SETLKW, F_RDLCK, 0, 1), EINTR);
    });
    holder.end();
    CHECK_FAILS(lockf(fd, 99, 0), EINVAL);
    close(fd);
}

void description_locks(const ScratchDirectory& dir) {
    const std::string name = dir.path("ofd");
    const int a = open_file(name), b = open_file(name);
    CHECK(lock(a, F_OFD_SETLK, F_WRLCK, 0, 10) == 0);
    CHECK_FAILS(lock(b, F_OFD_SETLK, F_RDLCK, 5, 1), EAGAIN); // within one process
    CHECK_FAILS(lock(b, F_SETLK, F_RDLCK, 5, 1), EAGAIN);
    const struct flock l = ask(b, F_OFD_GETLK, F_RDLCK, 0, 0);
    CHECK(l.l_type == F_WRLCK && l.l_start == 0 && l.l_len == 10 && l.l_pid == -1);
    CHECK(ask(b, F_GETLK, F_RDLCK, 0, 0).l_pid == -1);
    in_child([&] { CHECK(lock(a, F_OFD_SETLK, F_WRLCK, 10, 10) == 0); }); // shared with children
    CHECK_FAILS(lock(b, F_OFD_SETLK, F_RDLCK, 15, 1), EAGAIN);
    struct flock with_pid = range(F_RDLCK, 0, 1);
    with_pid.l_pid = 1;
    CHECK_FAILS(fcntl(b, F_OFD_SETLK, &with_pid), EINVAL);
    const int copy = dup(a);
    close(a); // the description lives on
    CHECK_FAILS(lock(b, F_OFD_SETLK, F_RDLCK, 15, 1), EAGAIN);
    std::atomic<pid_t> id{0};
    std::thread waiter([&] {
        id = gettid();
        CHECK(lock(b, F_OFD_SETLKW, F_WRLCK, 0, 0) == 0);
    });
    while (id == 0)
        sched_yield();
    for (const std::string stat = "/proc/self/task/" + std::to_string(id) + "/stat";;) {
        const std::string text = contents_of(stat);
        if (text[text.rfind(')') + 2] == 'S')
            break;
    }
    close(copy);
    waiter.join();
    close(b);
}

void whole_file_locks(const ScratchDirectory& dir) {
    const std::string name = dir.path("flock");
    const int a = open_file(name), b = open_file(name, O_RDONLY);
    CHECK(flock(a, LOCK_SH) == 0 && flock(b, LOCK_SH | LOCK_NB) == 0);
    CHECK_FAILS(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK(flock(b, LOCK_UN) == 0);
    CHECK(flock(a, LOCK_EX) == 0 && flock(a, LOCK_EX) == 0);
    CHECK_FAILS(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    CHECK(lock(a, F_SETLK, F_WRLCK, 0, 0) == 0);      // another kind
    in_child([&] { CHECK(flock(a, LOCK_UN) == 0); }); // the description's
    CHECK(flock(b, LOCK_EX | LOCK_NB) == 0);
    CHECK_FAILS(flock(a, LOCK_SH | LOCK_EX), EINVAL);
    CHECK_FAILS(flock(a, 0), EINVAL);
    CHECK_FAILS(flock(999, LOCK_SH), EBADF);
    Partner partner([] {}, [&] { CHECK(flock(a, LOCK_EX) == 0); });
    partner.go();
    partner.await_sleep();
    CHECK(flock(b, LOCK_SH) == 0); // still in the way
    CHECK(flock(b, LOCK_UN) == 0);
    partner.end();
    CHECK_FAILS(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK); // the partner got it for `a`
    close(a);
    CHECK(flock(b, LOCK_SH | LOCK_NB) == 0);
    close(b);
    int p[2];
    CHECK(pipe(p) == 0 && flock(p[0], LOCK_EX) == 0);
    close(p[0]);
    close(p[1]);
}

volatile int got_signal = 0, got_fd = -1, got_code = 0, got_band = 0;

void on_signal(int number, siginfo_t* info, void*) {
    got_signal = number;
    got_fd = info->si_fd;
    got_code = info->si_code;
    got_band = static_cast<int>(info->si_band);
}

void catch_signal(int number) {
    struct sigaction action {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    CHECK(sigaction(number, &action, nullptr) == 0);
    got_signal = 0;
    got_fd = -1;
}

void await_signal(int number) {
    for (int i = 0; got_signal == 0 && i < 5000; i++)
        usleep(1000);
    CHECK(got_signal == number);
    got_signal = 0;
}

void owners(const ScratchDirectory&) {
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK(fcntl(p[0], F_GETOWN) == 0 && fcntl(p[0], F_GETSIG) == 0);
    catch_signal(SIGIO);
    CHECK(fcntl(p[0], F_SETOWN, getpid()) == 0 && fcntl(p[0], F_GETOWN) == getpid());
    CHECK(fcntl(p[0], F_SETFL, O_ASYNC) == 0);
    CHECK((fcntl(p[0], F_GETFL) & O_ASYNC) != 0);
    CHECK(write(p[1], "x", 1) == 1);
    await_signal(SIGIO);
    // Another signal tells which descriptor.
    catch_signal(SIGRTMIN);
    CHECK(fcntl(p[0], F_SETSIG, SIGRTMIN) == 0 && fcntl(p[0], F_GETSIG) == SIGRTMIN);
    CHECK(write(p[1], "x", 1) == 1);
    await_signal(SIGRTMIN);
    CHECK(got_fd == p[0] && got_code == POLL_IN && (got_band & 1) != 0);
    CHECK_FAILS(fcntl(p[0], F_SETSIG, 65), EINVAL);
    CHECK_FAILS(fcntl(p[0], F_SETSIG, -1), EINVAL);
    struct {
        int type, pid;
    } owner{F_OWNER_TID, gettid()};
    CHECK(fcntl(p[0], F_SETOWN_EX, &owner) == 0);
    owner = {-1, -1};
    CHECK(fcntl(p[0], F_GETOWN_EX, &owner) == 0);
    CHECK(owner.type == F_OWNER_TID && owner.pid == gettid());
    owner.type = 9;
    CHECK_FAILS(fcntl(p[0], F_SETOWN_EX, &owner), EINVAL);
    owner = {F_OWNER_PID, 0x3fff'fff0};
    CHECK_FAILS(fcntl(p[0], F_SETOWN_EX, &owner), ESRCH);
    CHECK_FAILS(fcntl(p[0], F_SETOWN, 0x3fff'fff0), ESRCH);
    // A process group, negative in F_SETOWN.
    CHECK(fcntl(p[0], F_SETOWN, -getpgrp()) == 0 && fcntl(p[0], F_SETOWN, getpid()) == 0);
    // Off again.
    CHECK(fcntl(p[0], F_SETFL, 0) == 0);
    CHECK(write(p[1], "x", 1) == 1 && got_signal == 0);
    close(p[0]);
    close(p[1]);

    int s[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    CHECK(fcntl(s[0], F_SETSIG, SIGRTMIN) == 0 && fcntl(s[0], F_SETOWN, getpid()) == 0);
    CHECK(fcntl(s[0], F_SETFL, O_ASYNC) == 0);
    CHECK(write(s[1], "x", 1) == 1);
    await_signal(SIGRTMIN);
    CHECK(got_fd == s[0]);
    close(s[0]);
    close(s[1]);
}

} // namespace

int main() {
    umask(022);
    on_each_file_system([](const ScratchDirectory& dir) {
        posix_locks(dir);
        description_locks(dir);
        whole_file_locks(dir);
        owners(dir);
    });
}
