// What waits for a time of CLOCK_REALTIME follows the clock when it is set: sleeps, futexes,
// message queues, timers, timerfd. The waits are tried again where a slow machine blurs them.
// clock_settime(2), adjtimex(2).
//
// Whatever else runs on the machine lives by this clock, other tests among it: it is set only where
// it is this program's to set ("all").
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <functional>
#include <mqueue.h>
#include <pthread.h>
#include <semaphore.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/timex.h>

#include "tests/guest/check.hpp"

namespace {

constexpr long second = 1'000'000'000;
constexpr long millisecond = 1'000'000;
constexpr long step = 400 * millisecond;

timespec spec(long ns) {
    return {ns / second, ns % second};
}
long now(clockid_t clock) {
    timespec time = {};
    CHECK(clock_gettime(clock, &time) == 0);
    return time.tv_sec * second + time.tv_nsec;
}

int adjust_by(long ns) {
    timex wanted = {};
    wanted.modes = ADJ_SETOFFSET | ADJ_NANO;
    wanted.time.tv_sec = ns / second - (ns % second < 0 ? 1 : 0);
    wanted.time.tv_usec = ns - wanted.time.tv_sec * second;
    return adjtimex(&wanted);
}

void set_by(long ns) {
    const timespec wanted = spec(now(CLOCK_REALTIME) + ns);
    CHECK(clock_settime(CLOCK_REALTIME, &wanted) == 0);
}

// --- ways to wait for a time of the wall clock

void by_sleep(const timespec& until) {
    CHECK(clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &until, nullptr) == 0);
}
void by_futex(const timespec& until) {
    unsigned word = 0;
    CHECK_FAILS(syscall(SYS_futex, &word,
                        FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME, 0, &until,
                        nullptr, FUTEX_BITSET_MATCH_ANY),
                ETIMEDOUT);
}
void by_semaphore(const timespec& until) {
    sem_t semaphore;
    CHECK(sem_init(&semaphore, 0, 0) == 0);
    CHECK_FAILS(sem_timedwait(&semaphore, &until), ETIMEDOUT);
}
void by_message_queue(const timespec& until) {
    const std::string name = "/clock-steps-" + std::to_string(getpid());
    mq_attr attributes = {};
    attributes.mq_maxmsg = 1;
    attributes.mq_msgsize = 8;
    const mqd_t queue = mq_open(name.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    CHECK(queue >= 0 && mq_unlink(name.c_str()) == 0);
    char text[8];
    CHECK_FAILS(mq_timedreceive(queue, text, sizeof text, nullptr, &until), ETIMEDOUT);
    CHECK(mq_close(queue) == 0);
}
void by_timer_file(const timespec& until) {
    const int fd = timerfd_create(CLOCK_REALTIME, 0);
    const itimerspec setting = {{0, 0}, until};
    CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &setting, nullptr) == 0);
    unsigned long count = 0;
    CHECK(read(fd, &count, sizeof count) == sizeof count && count == 1);
    CHECK(close(fd) == 0);
}
void by_timer(const timespec& until) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN;
    timer_t timer = nullptr;
    CHECK(timer_create(CLOCK_REALTIME, &event, &timer) == 0);
    const itimerspec setting = {{0, 0}, until};
    CHECK(timer_settime(timer, TIMER_ABSTIME, &setting, nullptr) == 0);
    CHECK(sigwaitinfo(&set, nullptr) == SIGRTMIN);
    CHECK(timer_delete(timer) == 0);
}

struct Wait {
    void (*wait)(const timespec& until);
    bool followed = false;
    timespec until = {};
    long began = 0, took = 0;
    pthread_t thread = {};
};

void* run(void* raw) {
    auto& self = *static_cast<Wait*>(raw);
    self.wait(self.until);
    self.took = now(CLOCK_MONOTONIC) - self.began;
    return nullptr;
}

// All of them wait `ns` long by a clock that is then set by `by`. `as_meant` judges how long it
// took.
void try_step(long ns, long by, const std::function<void(long)>& set,
              const std::function<bool(long)>& as_meant) {
    std::vector<Wait> waits;
    for (auto* const way :
         {by_sleep, by_futex, by_semaphore, by_message_queue, by_timer_file, by_timer})
        waits.push_back({.wait = way});
    bool all = false;
    for (int attempt = 0; attempt < 8 && !all; attempt++) {
        for (Wait& wait : waits) {
            wait.began = now(CLOCK_MONOTONIC);
            wait.until = spec(now(CLOCK_REALTIME) + ns);
            CHECK(pthread_create(&wait.thread, nullptr, run, &wait) == 0);
        }
        usleep(30'000);
        set(by);
        all = true;
        for (Wait& wait : waits) {
            CHECK(pthread_join(wait.thread, nullptr) == 0);
            wait.followed = wait.followed || as_meant(wait.took);
            all = all && wait.followed;
        }
        CHECK(adjust_by(-by) >= 0);
    }
    for (const Wait& wait : waits)
        CHECK(wait.followed);
}

// A relative time is not one of the wall clock.
void relative_waits() {
    const int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    const itimerspec setting = {{0, 0}, spec(3600 * second)};
    CHECK(timerfd_settime(fd, 0, &setting, nullptr) == 0);
    sigevent event = {};
    event.sigev_notify = SIGEV_NONE;
    timer_t relative = nullptr, absolute = nullptr;
    CHECK(timer_create(CLOCK_REALTIME, &event, &relative) == 0);
    CHECK(timer_create(CLOCK_REALTIME, &event, &absolute) == 0);
    CHECK(timer_settime(relative, 0, &setting, nullptr) == 0);
    const itimerspec later = {{0, 0}, spec(now(CLOCK_REALTIME) + 3600 * second)};
    CHECK(timer_settime(absolute, TIMER_ABSTIME, &later, nullptr) == 0);
    const auto left = [](timer_t timer) {
        itimerspec told = {};
        CHECK(timer_gettime(timer, &told) == 0);
        return told.it_value.tv_sec * second + told.it_value.tv_nsec;
    };
    const long before = left(relative) - left(absolute);
    CHECK(adjust_by(step) >= 0);
    const long after = left(relative) - left(absolute);
    itimerspec on_file = {};
    CHECK(timerfd_gettime(fd, &on_file) == 0 && on_file.it_value.tv_sec >= 3590);
    CHECK(adjust_by(-step) >= 0);
    CHECK(after - before > step / 2);
    CHECK(timer_delete(relative) == 0 && timer_delete(absolute) == 0 && close(fd) == 0);
}

// One that is made to go faster is followed, too: by adjtimex(2), a tenth at most.
void faster() {
    timex wanted = {};
    CHECK(adjtimex(&wanted) >= 0);
    const long usual = wanted.tick;
    const auto tick = [&](long length) {
        wanted = {};
        wanted.modes = ADJ_TICK;
        wanted.tick = length;
        return adjtimex(&wanted) >= 0;
    };
    CHECK(tick(11'000));
    long late = second;
    for (int attempt = 0; attempt < 8 && late > 40 * millisecond; attempt++) {
        const long end = now(CLOCK_REALTIME) + second;
        by_sleep(spec(end));
        const long by = now(CLOCK_REALTIME) - end;
        CHECK(by > -40 * millisecond);
        late = by < late ? by : late;
    }
    CHECK(tick(usual) && late <= 40 * millisecond);
}

// The boot stays behind the Epoch, and the clock ends in 2232. Sets nothing.
void bounds() {
    CHECK_FAILS(adjust_by(-second * 4'000'000'000), EINVAL);
    timex wanted = {};
    wanted.modes = ADJ_SETOFFSET | ADJ_STATUS;
    for (const long seconds : {8'277'292'036, 1L << 62, -(1L << 62)}) {
        wanted.time.tv_sec = seconds;
        CHECK_FAILS(adjtimex(&wanted), EINVAL);
    }
    const long boot = now(CLOCK_REALTIME) - now(CLOCK_MONOTONIC);
    CHECK_FAILS(adjust_by(-boot - 3600 * second), EINVAL);
}

} // namespace

int main(int argc, char**) {
    if (adjust_by(-second * 4'000'000'000) == -1 && errno == EPERM)
        return 0; // not the machine's own superuser
    bounds();
    if (argc < 2)
        return 0;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
    relative_waits();
    constexpr long later = step + 200 * millisecond, soon = 200 * millisecond;
    const auto early = [](long took) { return took < later - 20 * millisecond; };
    const auto late = [](long took) { return took > soon + step / 2; };
    try_step(
        later, step, [](long by) { CHECK(adjust_by(by) >= 0); }, early);
    try_step(later, step, set_by, early);
    try_step(
        soon, -step, [](long by) { CHECK(adjust_by(by) >= 0); }, late);
    try_step(soon, -step, set_by, late);
    faster();
    return 0;
}
