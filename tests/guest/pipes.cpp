// pipe(2), pipe2(2), FIFOs (fifo(7), mkfifo(3)), F_SETPIPE_SZ, poll(2) of both, opening by
// /proc/self/fd.
#include <atomic>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <string>
#include <thread>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

std::string directory;
std::atomic<int> signals{0};

void count_signal(int) {
    signals++;
}

int poll_now(int fd, short events = POLLIN | POLLOUT) {
    pollfd one{fd, events, 0};
    CHECK(poll(&one, 1, 0) >= 0);
    return one.revents;
}

std::string proc_name(int fd) {
    return "/proc/self/fd/" + std::to_string(fd);
}

int pending(int fd) {
    int bytes = -1;
    CHECK(ioctl(fd, FIONREAD, &bytes) == 0);
    return bytes;
}

// Until the thread of that number sleeps in the kernel.
void await_sleep(pid_t thread) {
    const std::string name = "/proc/self/task/" + std::to_string(thread) + "/stat";
    for (;;) {
        char text[512] = {};
        const int fd = open(name.c_str(), O_RDONLY);
        CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
        close(fd);
        const char* state = std::strrchr(text, ')');
        CHECK(state != nullptr);
        if (state[2] == 'S')
            return;
        sched_yield();
    }
}

struct Helper {
    template <typename F>
    explicit Helper(F work)
        : thread([this, work] {
              id = gettid();
              work();
          }) {}
    ~Helper() { thread.join(); }
    void await() {
        while (id == 0)
            sched_yield();
        await_sleep(id);
    }
    std::atomic<pid_t> id{0};
    std::thread thread;
};

void creation() {
    int p[2];
    CHECK_FAILS(pipe2(p, O_APPEND), EINVAL);
    CHECK_FAILS(pipe(reinterpret_cast<int*>(8)), EFAULT);
    CHECK(pipe2(p, O_CLOEXEC | O_NONBLOCK) == 0);
    CHECK(fcntl(p[0], F_GETFD) == FD_CLOEXEC && fcntl(p[1], F_GETFD) == FD_CLOEXEC);
    CHECK(fcntl(p[0], F_GETFL) == (O_RDONLY | O_NONBLOCK));
    CHECK(fcntl(p[1], F_GETFL) == (O_WRONLY | O_NONBLOCK));
    char byte;
    CHECK_FAILS(read(p[0], &byte, 1), EAGAIN);
    CHECK_FAILS(write(p[0], "x", 1), EBADF);
    CHECK_FAILS(read(p[1], &byte, 1), EBADF);
    CHECK_FAILS(lseek(p[0], 0, SEEK_CUR), ESPIPE);
    CHECK_FAILS(pread(p[0], &byte, 1, 0), ESPIPE);
    CHECK_FAILS(pwrite(p[1], "x", 1, 0), ESPIPE);
    CHECK_FAILS(ftruncate(p[1], 0), EINVAL);
    CHECK_FAILS(fsync(p[1]), EINVAL);
    CHECK_FAILS(fallocate(p[1], 0, 0, 1), ESPIPE);
    CHECK(read(p[0], &byte, 0) == 0 && write(p[1], &byte, 0) == 0);
    struct stat s;
    CHECK(fstat(p[0], &s) == 0 && S_ISFIFO(s.st_mode) && (s.st_mode & 0777) == 0600);
    CHECK(s.st_nlink == 1 && s.st_uid == geteuid());
    char link[64] = {};
    CHECK(readlink(proc_name(p[0]).c_str(), link, sizeof link) > 0);
    CHECK(link == "pipe:[" + std::to_string(s.st_ino) + "]");
    CHECK(fchmod(p[0], 0640) == 0 && fstat(p[1], &s) == 0 && (s.st_mode & 0777) == 0640);
    close(p[0]);
    close(p[1]);
    // The descriptors must not leak where the array cannot be written.
    const int next = dup(0);
    close(next);
    CHECK_FAILS(pipe(static_cast<int*>(nullptr)), EFAULT);
    const int again = dup(0);
    CHECK(again == next);
    close(again);
}

void ends() {
    int p[2];
    CHECK(pipe(p) == 0);
    CHECK(poll_now(p[0]) == 0 && poll_now(p[1]) == POLLOUT);
    CHECK(write(p[1], "abc", 3) == 3);
    CHECK(poll_now(p[0]) == POLLIN && pending(p[0]) == 3 && pending(p[1]) == 3);
    close(p[1]);
    CHECK(poll_now(p[0]) == (POLLIN | POLLHUP));
    char got[8];
    CHECK(read(p[0], got, 2) == 2 && read(p[0], got, 8) == 1 && got[0] == 'c');
    CHECK(read(p[0], got, 8) == 0);
    CHECK(poll_now(p[0]) == POLLHUP);
    close(p[0]);

    CHECK(pipe(p) == 0);
    close(p[0]);
    signals = 0;
    CHECK_FAILS(write(p[1], "x", 1), EPIPE);
    CHECK(signals == 1);
    CHECK(poll_now(p[1]) == (POLLOUT | POLLERR));
    close(p[1]);

    // A reader that leaves in the middle: what was written counts, and the signal comes as well.
    CHECK(pipe(p) == 0);
    signals = 0;
    std::string much(100'000, 'm');
    ssize_t written = 0;
    {
        Helper writer([&] { written = write(p[1], much.data(), much.size()); });
        writer.await();
        close(p[0]);
    }
    CHECK(written == 65536 && signals == 1);
    close(p[1]);

    // A writer that waits goes on in pieces; a reader that waits gets what comes.
    CHECK(pipe(p) == 0);
    {
        Helper writer([&] {
            written = write(p[1], much.data(), much.size());
            close(p[1]);
        });
        ssize_t sum = 0;
        std::string in(7'001, ' ');
        for (ssize_t n; (n = read(p[0], in.data(), in.size())) > 0;)
            sum += n;
        CHECK(sum == 100'000);
    }
    CHECK(written == 100'000);
    close(p[0]);
}

void sizes() {
    int p[2];
    CHECK(pipe2(p, O_NONBLOCK) == 0);
    CHECK(fcntl(p[0], F_GETPIPE_SZ) == 65536);
    std::string data(70'000, 'd');
    CHECK(write(p[1], data.data(), data.size()) == 65536);
    CHECK(poll_now(p[1]) == 0);
    CHECK_FAILS(write(p[1], "x", 1), EAGAIN);
    CHECK_FAILS(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
    CHECK(fcntl(p[1], F_SETPIPE_SZ, 70'000) == 131072);
    CHECK(poll_now(p[1]) == POLLOUT);
    CHECK(write(p[1], "yz", 2) == 2);
    CHECK(pending(p[0]) == 65538);
    std::string got(65538, ' ');
    CHECK(read(p[0], got.data(), got.size()) == 65538);
    CHECK(got == data.substr(0, 65536) + "yz");
    CHECK(fcntl(p[0], F_SETPIPE_SZ, 1) == 4096 && fcntl(p[1], F_GETPIPE_SZ) == 4096);
    // PIPE_BUF bytes go whole or not at all.
    CHECK(write(p[1], data.data(), 1) == 1);
    CHECK_FAILS(write(p[1], data.data(), 4096), EAGAIN);
    CHECK_FAILS(fcntl(p[0], F_SETPIPE_SZ, -1), EINVAL);
    CHECK_FAILS(fcntl(1000, F_SETPIPE_SZ, 0), EBADF);
    close(p[0]);
    close(p[1]);
}

// Several wait at one end: each goes on as soon as it can.
void several_wait() {
    int p[2];
    CHECK(pipe(p) == 0);
    {
        const auto read_one = [&] {
            char byte;
            CHECK(read(p[0], &byte, 1) == 1);
        };
        Helper first(read_one);
        Helper second(read_one);
        first.await();
        second.await();
        CHECK(write(p[1], "ab", 2) == 2);
    }
    // One read makes room for all of them, and none other comes.
    const std::string full(65536, 'f');
    CHECK(write(p[1], full.data(), full.size()) == 65536);
    {
        const auto write_some = [&] { CHECK(write(p[1], "some", 4) == 4); };
        Helper first(write_some);
        Helper second(write_some);
        first.await();
        second.await();
        std::string got(full.size(), '\0');
        CHECK(read(p[0], got.data(), got.size()) == 65536);
    }
    CHECK(pending(p[0]) == 8);
    close(p[0]);
    close(p[1]);
}

void reopening() {
    int p[2];
    CHECK(pipe(p) == 0);
    // pipe(2)'s never wait for the other direction, and give no ENXIO.
    close(p[1]);
    const int writer = open(proc_name(p[0]).c_str(), O_WRONLY);
    CHECK(writer >= 0);
    CHECK(write(writer, "one", 3) == 3);
    const int reader = open(proc_name(p[0]).c_str(), O_RDONLY);
    CHECK(reader >= 0);
    char got[8];
    CHECK(read(reader, got, 8) == 3 && std::memcmp(got, "one", 3) == 0);
    close(reader);
    close(p[0]);
    const int late = open(proc_name(writer).c_str(), O_WRONLY | O_NONBLOCK);
    CHECK(late >= 0);
    CHECK_FAILS(write(late, "x", 1), EPIPE);
    const int both = open(proc_name(writer).c_str(), O_RDWR);
    CHECK(both >= 0);
    CHECK(write(writer, "two", 3) == 3 && read(both, got, 8) == 3);
    struct stat a, b;
    CHECK(fstat(both, &a) == 0 && fstat(writer, &b) == 0 && a.st_ino == b.st_ino);
    char link[64] = {};
    CHECK(readlink(proc_name(both).c_str(), link, sizeof link) > 0);
    CHECK(link == "pipe:[" + std::to_string(a.st_ino) + "]");
    close(both);
    close(late);
    close(writer);
}

void fifos() {
    const std::string name = directory + "/fifo";
    CHECK(mkfifo(name.c_str(), 0600) == 0);
    CHECK_FAILS(mkfifo(name.c_str(), 0600), EEXIST);
    CHECK_FAILS(open(name.c_str(), O_WRONLY | O_NONBLOCK), ENXIO);
    const int reader = open(name.c_str(), O_RDONLY | O_NONBLOCK);
    CHECK(reader >= 0);
    CHECK(poll_now(reader) == 0); // no writer came yet: no hang-up
    char got[8];
    CHECK(read(reader, got, 8) == 0);
    int writer = open(name.c_str(), O_WRONLY | O_NONBLOCK);
    CHECK(writer >= 0);
    CHECK_FAILS(read(reader, got, 8), EAGAIN);
    CHECK(poll_now(reader) == 0);
    CHECK(write(writer, "ab", 2) == 2);
    close(writer);
    CHECK(poll_now(reader) == (POLLIN | POLLHUP));
    // A reader that comes now has met no writer.
    const int second = open(name.c_str(), O_RDONLY | O_NONBLOCK);
    CHECK(second >= 0 && poll_now(second) == POLLIN);
    CHECK(read(reader, got, 1) == 1 && got[0] == 'a');
    // The next writer ends the hang-up.
    writer = open(name.c_str(), O_WRONLY);
    CHECK(writer >= 0 && poll_now(reader) == POLLIN);
    close(reader);
    CHECK(poll_now(writer) == POLLOUT);
    close(second);
    CHECK(poll_now(writer) == (POLLOUT | POLLERR));
    close(writer);
    // The last end is gone: 'b' was lost.
    const int both = open(name.c_str(), O_RDWR | O_NONBLOCK);
    CHECK(both >= 0);
    CHECK_FAILS(read(both, got, 8), EAGAIN);
    CHECK(write(both, "c", 1) == 1);
    CHECK(poll_now(both) == (POLLIN | POLLOUT));
    close(both);

    // Blocking opens meet.
    for (int round = 0; round < 20; round++) {
        Helper other([&] {
            const int fd = open(name.c_str(), O_WRONLY);
            CHECK(fd >= 0 && write(fd, "hello", 5) == 5);
            close(fd);
        });
        if (round % 2 == 0)
            other.await();
        const int fd = open(name.c_str(), O_RDONLY);
        CHECK(fd >= 0);
        CHECK(read(fd, got, 8) == 5 && read(fd, got, 8) == 0);
        close(fd);
    }
    // A signal ends the waiting.
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        struct sigaction action {};
        action.sa_handler = count_signal; // without SA_RESTART
        CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
        sigset_t none, one;
        sigemptyset(&none);
        sigemptyset(&one);
        sigaddset(&one, SIGALRM);
        timer_t timer;
        action.sa_handler = count_signal;
        CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
        CHECK(timer_create(CLOCK_MONOTONIC, nullptr, &timer) == 0);
        const itimerspec soon{{0, 5'000'000}, {0, 5'000'000}};
        CHECK(timer_settime(timer, 0, &soon, nullptr) == 0);
        CHECK_FAILS(open(name.c_str(), O_RDONLY), EINTR);
        CHECK_FAILS(open(name.c_str(), O_WRONLY), EINTR);
        const int probe = open(name.c_str(), O_WRONLY | O_NONBLOCK);
        CHECK(probe < 0 && errno == ENXIO); // nothing of the interrupted opens is left
        _exit(0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0);

    // Unlinked while open, it goes on; O_PATH opens nothing.
    const int place = open(name.c_str(), O_PATH);
    CHECK(place >= 0);
    CHECK_FAILS(read(place, got, 1), EBADF);
    const int still = open(proc_name(place).c_str(), O_RDWR);
    CHECK(still >= 0);
    CHECK(unlink(name.c_str()) == 0);
    CHECK(write(still, "x", 1) == 1 && read(still, got, 8) == 1);
    struct stat s;
    CHECK(fstat(still, &s) == 0 && s.st_nlink == 0);
    close(still);
    close(place);
}

// SIGPIPE is for the thread that writes, and waits for it where it is blocked.
void broken_by_a_thread() {
    int pipe_ends[2];
    CHECK(pipe(pipe_ends) == 0);
    close(pipe_ends[0]);
    const int before = signals;
    std::thread([&] {
        sigset_t one;
        sigemptyset(&one);
        sigaddset(&one, SIGPIPE);
        CHECK(pthread_sigmask(SIG_BLOCK, &one, nullptr) == 0);
        CHECK_FAILS(write(pipe_ends[1], "x", 1), EPIPE);
        const timespec at_once{};
        CHECK(sigtimedwait(&one, nullptr, &at_once) == SIGPIPE);
    }).join();
    CHECK(signals == before);
    close(pipe_ends[1]);
}

} // namespace

int main() {
    struct sigaction action {};
    action.sa_handler = count_signal;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGPIPE, &action, nullptr) == 0);
    char name[] = "/tmp/joey-pipes-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    directory = name;
    creation();
    ends();
    sizes();
    several_wait();
    reopening();
    fifos();
    broken_by_a_thread();
    CHECK(rmdir(name) == 0);
}
