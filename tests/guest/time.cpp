// Clocks, sleeps and timers: clock_gettime and its family, nanosleep, POSIX timers, interval
// timers, timerfd, times, CPU clocks of others. time(7), timer_create(2), timerfd_create(2),
// clock_getcpuclockid(3).
#include <csignal>
#include <ctime>
#include <functional>
#include <initializer_list>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/timex.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

constexpr long second = 1'000'000'000;
constexpr long millisecond = 1'000'000;

timespec spec(long ns) {
    return {ns / second, ns % second};
}
long ns_of(const timespec& time) {
    return time.tv_sec * second + time.tv_nsec;
}
// By the system call, not the vDSO.
long now(clockid_t clock) {
    timespec time = {};
    CHECK(syscall(SYS_clock_gettime, clock, &time) == 0);
    return ns_of(time);
}

void burn(long ns) {
    const long end = now(CLOCK_THREAD_CPUTIME_ID) + ns;
    while (now(CLOCK_THREAD_CPUTIME_ID) < end)
        for (int i = 0; i < 1000; ++i)
            asm volatile("");
}

// adjtimex(2): what is asked for is kept and shown; all that is changed is changed back. Where not
// even root may (a container without CAP_SYS_TIME) all of it is refused.
void steering() {
    const auto adjust = [](unsigned modes, const std::function<void(timex&)>& fill) {
        timex wanted = {};
        wanted.modes = modes;
        fill(wanted);
        errno = 0;
        const int answer = adjtimex(&wanted);
        if (answer < 0)
            wanted.status = -errno;
        return wanted;
    };
    const timex before = adjust(0, [](timex&) {});
    timex after = adjust(ADJ_ESTERROR, [](timex& t) { t.esterror = 12345; });
    timex bad = adjust(ADJ_TICK, [](timex& t) { t.tick = 5; });
    if (after.status == -EPERM) {
        CHECK(bad.status == -EPERM);
        return;
    }
    CHECK(after.status >= 0 && after.esterror == 12345);
    CHECK(bad.status == -EINVAL);
    bad = adjust(ADJ_SETOFFSET, [](timex& t) { t.time.tv_usec = 1'000'000; });
    CHECK(bad.status == -EINVAL);
    bad = adjust(ADJ_SETOFFSET | ADJ_NANO, [](timex& t) { t.time.tv_usec = 1'000'000'000; });
    CHECK(bad.status == -EINVAL);
    bad = adjust(0x8000, [](timex&) {});
    CHECK(bad.status == -EINVAL);
    CHECK(adjust(ADJ_MAXERROR, [](timex& t) { t.maxerror = 77; }).maxerror == 77);
    after = adjust(ADJ_STATUS, [&](timex& t) { t.status = STA_PLL | STA_UNSYNC; });
    CHECK((after.status & (STA_PLL | STA_UNSYNC)) == (STA_PLL | STA_UNSYNC));
    // A constant counts four more in microseconds, and no more than ten.
    after = adjust(ADJ_TIMECONST | ADJ_MICRO, [](timex& t) { t.constant = 3; });
    CHECK(after.constant == 7);
    after = adjust(ADJ_TIMECONST | ADJ_NANO, [](timex& t) { t.constant = 3; });
    CHECK(after.constant == 3 && (after.status & STA_NANO) != 0);
    CHECK(after.time.tv_usec < 1'000'000'000);
    after = adjust(ADJ_FREQUENCY, [](timex& t) { t.freq = 600L << 16; });
    CHECK(after.freq == 500L << 16 && after.tolerance == 500L << 16);
    after = adjust(ADJ_FREQUENCY, [&](timex& t) { t.freq = before.freq; });
    CHECK(after.freq == before.freq);
    after = adjust(ADJ_TAI, [](timex& t) { t.constant = 37; });
    CHECK(after.tai == 37);
    const long wall = now(CLOCK_REALTIME), atomic = now(CLOCK_TAI);
    CHECK(atomic - wall >= 37 * second && atomic - wall < 40 * second);
    // adjtime(3): what was left of the last one.
    after = adjust(ADJ_OFFSET_SINGLESHOT, [](timex& t) { t.offset = 1000; });
    after = adjust(ADJ_OFFSET_SS_READ, [](timex&) {});
    CHECK(after.offset > 0 && after.offset <= 1000);
    after = adjust(ADJ_OFFSET_SINGLESHOT, [](timex& t) { t.offset = 0; });
    // A step, and back; a small one, since others live by this clock.
    const long first = now(CLOCK_REALTIME) - now(CLOCK_MONOTONIC);
    after = adjust(ADJ_SETOFFSET | ADJ_NANO, [](timex& t) { t.time.tv_usec = 3'000'000; });
    CHECK(now(CLOCK_REALTIME) - now(CLOCK_MONOTONIC) > first + 2'500'000 - millisecond);
    after = adjust(ADJ_SETOFFSET | ADJ_NANO, [](timex& t) {
        t.time.tv_sec = -1;
        t.time.tv_usec = second - 3'000'000;
    });
    const unsigned unit = (before.status & STA_NANO) != 0 ? ADJ_NANO : ADJ_MICRO;
    after = adjust(ADJ_STATUS | ADJ_ESTERROR | ADJ_MAXERROR | ADJ_TAI | unit, [&](timex& t) {
        t.status = before.status;
        t.esterror = before.esterror;
        t.maxerror = before.maxerror;
        t.constant = before.tai;
    });
    after = adjust(ADJ_TIMECONST | ADJ_NANO, [&](timex& t) { t.constant = before.constant; });
    after = adjust(unit, [](timex&) {});
    CHECK(after.constant == before.constant && after.tai == before.tai);
}

void clocks() {
    const clockid_t all[] = {CLOCK_REALTIME,          CLOCK_MONOTONIC,     CLOCK_PROCESS_CPUTIME_ID,
                             CLOCK_THREAD_CPUTIME_ID, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME_COARSE,
                             CLOCK_MONOTONIC_COARSE,  CLOCK_BOOTTIME,      CLOCK_TAI};
    for (const clockid_t clock : all) {
        timespec time = {};
        timespec resolution = {};
        CHECK(syscall(SYS_clock_gettime, clock, &time) == 0 && ns_of(time) > 0);
        CHECK(syscall(SYS_clock_getres, clock, &resolution) == 0 && ns_of(resolution) > 0);
        CHECK(syscall(SYS_clock_getres, clock, nullptr) == 0);
        timespec told = {};
        CHECK(clock_getres(clock, &told) == 0 && ns_of(told) == ns_of(resolution));
        CHECK_FAILS(syscall(SYS_clock_gettime, clock, 16), EFAULT);
        // The library's way, by the vDSO, goes the same: between two calls.
        const long before = now(clock);
        timespec fast = {};
        CHECK(clock_gettime(clock, &fast) == 0);
        const long after = now(clock);
        CHECK(ns_of(fast) >= before && ns_of(fast) <= after);
    }
    timespec time = {};
    CHECK_FAILS(syscall(SYS_clock_gettime, 99, &time), EINVAL);
    CHECK_FAILS(syscall(SYS_clock_getres, 99, &time), EINVAL);
    const long awake = now(CLOCK_MONOTONIC); // the later reading comes later, however late
    CHECK(now(CLOCK_BOOTTIME) >= awake);
    // Never backwards, on whatever CPU.
    long last = now(CLOCK_MONOTONIC);
    for (int i = 0; i < 2000; i++) {
        CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
        CHECK(ns_of(time) >= last);
        last = ns_of(time);
    }
    timeval value = {};
    CHECK(syscall(SYS_gettimeofday, &value, nullptr) == 0);
    const long wall = now(CLOCK_REALTIME);
    const long told = value.tv_sec * second + value.tv_usec * 1000;
    CHECK(wall >= told && wall - told < 5 * second);
    CHECK(gettimeofday(&value, nullptr) == 0);
    CHECK(value.tv_sec * second + value.tv_usec * 1000 >= told);
    CHECK_FAILS(syscall(SYS_gettimeofday, 16, nullptr), EFAULT);
    time_t stored = 0;
    const long seconds = syscall(SYS_time, &stored);
    CHECK(stored == seconds && seconds >= told / second - 1);
    CHECK(::time(nullptr) >= seconds);
    CHECK_FAILS(syscall(SYS_time, 16), EFAULT);
    // Setting: arguments first, then the privilege; nothing is changed here.
    CHECK_FAILS(clock_settime(CLOCK_MONOTONIC, &time), EINVAL);
    CHECK_FAILS(clock_settime(99, &time), EINVAL);
    const timespec bad = {0, second};
    CHECK_FAILS(clock_settime(CLOCK_REALTIME, &bad), EINVAL);
    const timeval bad_value = {0, 1'000'001};
    CHECK_FAILS(syscall(SYS_settimeofday, &bad_value, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_settimeofday, 16, nullptr), EFAULT);
    CHECK(syscall(SYS_settimeofday, nullptr, nullptr) == 0);
    // CPU time can be named, not set.
    const auto cpu_of = [](pid_t pid) {
        return static_cast<int>(~static_cast<unsigned>(pid) << 3) | 2;
    };
    CHECK_FAILS(syscall(SYS_clock_settime, cpu_of(getpid()), &time), EPERM);
    CHECK_FAILS(syscall(SYS_clock_settime, cpu_of(0x3ffffff), &time), EINVAL);
    CHECK_FAILS(syscall(SYS_clock_settime, CLOCK_PROCESS_CPUTIME_ID, &time), EINVAL);
    const timespec too_late = {9'000'000'000, 0};
    CHECK_FAILS(clock_settime(CLOCK_REALTIME, &too_late), EINVAL);
    if (getuid() == 0) {
        // The boot would come to lie before the Epoch.
        const timespec too_early = {0, 0};
        CHECK_FAILS(clock_settime(CLOCK_REALTIME, &too_early), EINVAL);
        const struct timezone too_far_west = {15 * 60 + 1, 0};
        CHECK_FAILS(syscall(SYS_settimeofday, nullptr, &too_far_west), EINVAL);
    }
    const pid_t child = fork();
    if (child == 0) {
        if (getuid() == 0)
            CHECK(setuid(1000) == 0);
        timespec wall_time = {};
        clock_gettime(CLOCK_REALTIME, &wall_time);
        CHECK_FAILS(clock_settime(CLOCK_REALTIME, &wall_time), EPERM);
        timeval tv = {wall_time.tv_sec, 0};
        CHECK_FAILS(settimeofday(&tv, nullptr), EPERM);
        CHECK_FAILS(syscall(SYS_settimeofday, &tv, nullptr), EPERM);
        const struct timezone zone = {};
        CHECK_FAILS(syscall(SYS_settimeofday, nullptr, &zone), EPERM);
        timex change = {};
        change.modes = ADJ_FREQUENCY;
        CHECK_FAILS(adjtimex(&change), EPERM);
        CHECK_FAILS(syscall(SYS_clock_adjtime, CLOCK_REALTIME, &change), EPERM);
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    timex state = {};
    CHECK(adjtimex(&state) >= 0 && state.tick >= 9000 && state.tick <= 11000);
    steering();
    CHECK(state.time.tv_sec >= seconds);
    state = {};
    CHECK(syscall(SYS_clock_adjtime, CLOCK_REALTIME, &state) >= 0);
    CHECK_FAILS(syscall(SYS_clock_adjtime, CLOCK_MONOTONIC, &state), EOPNOTSUPP);
    CHECK_FAILS(syscall(SYS_adjtimex, 16), EFAULT);
}

void cpu_clocks() {
    const long process = now(CLOCK_PROCESS_CPUTIME_ID);
    const long thread = now(CLOCK_THREAD_CPUTIME_ID);
    burn(5 * millisecond);
    CHECK(now(CLOCK_PROCESS_CPUTIME_ID) - process >= 5 * millisecond);
    CHECK(now(CLOCK_THREAD_CPUTIME_ID) - thread >= 5 * millisecond);
    const long before = now(CLOCK_THREAD_CPUTIME_ID);
    usleep(20'000);
    CHECK(now(CLOCK_THREAD_CPUTIME_ID) - before < 15 * millisecond);
    // Another process's.
    const pid_t child = fork();
    if (child == 0)
        for (;;)
            asm volatile("");
    clockid_t clock = 0;
    CHECK(clock_getcpuclockid(child, &clock) == 0);
    long used = now(clock);
    const long limit = now(CLOCK_MONOTONIC) + 5 * second;
    while (now(clock) - used < 2 * millisecond)
        CHECK(now(CLOCK_MONOTONIC) < limit);
    timespec resolution = {};
    CHECK(clock_getres(clock, &resolution) == 0);
    // Sleeping until it has used some.
    used = now(clock);
    const timespec until = spec(used + 10 * millisecond);
    CHECK(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr) == 0);
    CHECK(now(clock) - used >= 10 * millisecond);
    kill(child, SIGKILL);
    CHECK(waitpid(child, nullptr, 0) == child);
    CHECK_FAILS(clock_gettime(clock, &resolution), EINVAL);
    CHECK(clock_getcpuclockid(0x3ffffff, &clock) == ESRCH);
    // A thread's.
    pthread_t busy;
    static volatile bool stop;
    CHECK(pthread_create(
              &busy, nullptr,
              [](void*) -> void* {
                  while (!stop)
                      asm volatile("");
                  return nullptr;
              },
              nullptr) == 0);
    CHECK(pthread_getcpuclockid(busy, &clock) == 0);
    used = now(clock);
    while (now(clock) - used < 2 * millisecond)
        continue;
    // A sleep by the process's own clock, which the thread drives.
    const timespec little = spec(10 * millisecond);
    const long start = now(CLOCK_PROCESS_CPUTIME_ID);
    CHECK(clock_nanosleep(CLOCK_PROCESS_CPUTIME_ID, 0, &little, nullptr) == 0);
    CHECK(now(CLOCK_PROCESS_CPUTIME_ID) - start >= 10 * millisecond);
    stop = true;
    CHECK(pthread_join(busy, nullptr) == 0);
    // What the other counters say.
    rusage usage = {};
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    const long counted = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * second +
                         (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
    CHECK(counted >= 5 * millisecond &&
          counted <= now(CLOCK_PROCESS_CPUTIME_ID) + 20 * millisecond);
    CHECK(usage.ru_maxrss > 0 && usage.ru_minflt > 0);
    tms ticks = {};
    CHECK(times(&ticks) > 0);
    CHECK((ticks.tms_utime + ticks.tms_stime) * 10 <=
          now(CLOCK_PROCESS_CPUTIME_ID) / millisecond + 20);
    CHECK_FAILS(syscall(SYS_times, 16), EFAULT);
    // Those of children that were waited for.
    const pid_t worker = fork();
    if (worker == 0) {
        burn(30 * millisecond);
        _exit(0);
    }
    CHECK(wait4(worker, nullptr, 0, &usage) == worker);
    const long child_used = (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * second +
                            (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
    CHECK(child_used >= 25 * millisecond);
    rusage children = {};
    CHECK(getrusage(RUSAGE_CHILDREN, &children) == 0);
    CHECK(children.ru_utime.tv_usec + children.ru_stime.tv_usec +
              (children.ru_utime.tv_sec + children.ru_stime.tv_sec) * 1'000'000 >=
          25'000);
    CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
    CHECK_FAILS(syscall(SYS_getrusage, 9, &usage), EINVAL);
    CHECK_FAILS(syscall(SYS_getrusage, RUSAGE_SELF, 16), EFAULT);
}

void sleeps() {
    const timespec bad = {0, second};
    const timespec negative = {-1, 0};
    CHECK_FAILS(nanosleep(&bad, nullptr), EINVAL);
    CHECK_FAILS(nanosleep(&negative, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_nanosleep, 16, nullptr), EFAULT);
    const timespec zero = {0, 0};
    CHECK(nanosleep(&zero, nullptr) == 0);
    for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI}) {
        const timespec little = spec(2 * millisecond);
        long start = now(clock);
        CHECK(clock_nanosleep(clock, 0, &little, nullptr) == 0);
        CHECK(now(clock) - start >= 2 * millisecond);
        start = now(clock);
        const timespec until = spec(start + 2 * millisecond);
        CHECK(clock_nanosleep(clock, TIMER_ABSTIME, &until, nullptr) == 0);
        CHECK(now(clock) >= start + 2 * millisecond);
        const timespec past = spec(1);
        CHECK(clock_nanosleep(clock, TIMER_ABSTIME, &past, nullptr) == 0);
        CHECK(clock_nanosleep(clock, 0, &bad, nullptr) == EINVAL);
    }
    const timespec little = spec(millisecond);
    CHECK(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &little, nullptr) == EINVAL);
    CHECK(syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC_COARSE, 0, &little, nullptr) == -1 &&
          errno == EOPNOTSUPP);
    // The C library answers for this one.
    CHECK_FAILS(syscall(SYS_clock_nanosleep, CLOCK_THREAD_CPUTIME_ID, 0, &little, nullptr),
                EOPNOTSUPP);
    CHECK(clock_nanosleep(99, 0, &little, nullptr) == EINVAL);
}

volatile sig_atomic_t expiries;
volatile int overruns;
siginfo_t info;
void on_timer(int, siginfo_t* got, void*) {
    expiries = expiries + 1;
    info = *got;
    overruns = got->si_overrun;
}

void handle(int signal) {
    struct sigaction action = {};
    action.sa_sigaction = on_timer;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    CHECK(sigaction(signal, &action, nullptr) == 0);
}

int create(clockid_t clock, int notify, int signal, int* id) {
    sigevent event = {};
    event.sigev_notify = notify;
    event.sigev_signo = signal;
    event.sigev_value.sival_int = 77;
    return static_cast<int>(syscall(SYS_timer_create, clock, &event, id));
}

int set(int id, long value, long interval, int flags = 0, itimerspec* old = nullptr) {
    const itimerspec setting = {spec(interval), spec(value)};
    return static_cast<int>(syscall(SYS_timer_settime, id, flags, &setting, old));
}

void wait_for_expiries(int count) {
    const long limit = now(CLOCK_MONOTONIC) + 10 * second;
    while (expiries < count)
        CHECK(now(CLOCK_MONOTONIC) < limit);
}

// A timer counts the time of its own process, or of the one thread, whoever runs when it is looked
// at: a child and a thread that have used much more keep running.
void others_run_too() {
    static bool stop;
    pthread_t busy = {};
    const auto run = [](void*) -> void* {
        while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
            asm volatile("");
        return nullptr;
    };
    const pid_t child = fork();
    if (child == 0)
        for (;;)
            asm volatile("");
    clockid_t of_child = 0;
    CHECK(clock_getcpuclockid(child, &of_child) == 0);
    const timespec pause = spec(10 * millisecond);
    while (now(of_child) < now(CLOCK_PROCESS_CPUTIME_ID) + 150 * millisecond)
        nanosleep(&pause, nullptr);
    timer_t id = nullptr;
    for (const clockid_t clock : {CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID}) {
        if (clock == CLOCK_THREAD_CPUTIME_ID)
            CHECK(pthread_create(&busy, nullptr, run, nullptr) == 0);
        sigevent event = {};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGUSR1;
        CHECK(timer_create(clock, &event, &id) == 0);
        expiries = 0;
        const itimerspec setting = {{0, 0}, spec(60 * millisecond)};
        const long start = now(clock);
        CHECK(timer_settime(id, 0, &setting, nullptr) == 0);
        while (expiries == 0)
            CHECK(now(clock) - start < 5 * second);
        CHECK(now(clock) - start >= 60 * millisecond);
        CHECK(timer_delete(id) == 0);
    }
    // On the clock of somebody else, while this process sleeps.
    sigset_t awaited;
    sigemptyset(&awaited);
    sigaddset(&awaited, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &awaited, nullptr) == 0);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    CHECK(pthread_join(busy, nullptr) == 0);
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    CHECK(timer_create(of_child, &event, &id) == 0);
    const long start = now(of_child);
    const itimerspec setting = {{0, 0}, spec(30 * millisecond)};
    CHECK(timer_settime(id, 0, &setting, nullptr) == 0);
    CHECK(sigwaitinfo(&awaited, nullptr) == SIGUSR1);
    CHECK(now(of_child) - start >= 30 * millisecond);
    CHECK(timer_delete(id) == 0);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &awaited, nullptr) == 0);
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
}

void posix_timers() {
    int id = -1;
    CHECK_FAILS(create(99, SIGEV_SIGNAL, SIGUSR1, &id), EINVAL);
    CHECK_FAILS(create(CLOCK_MONOTONIC, 9, SIGUSR1, &id), EINVAL);
    for (const clockid_t clock :
         {CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME_COARSE})
        CHECK_FAILS(create(clock, SIGEV_SIGNAL, SIGUSR1, &id), EOPNOTSUPP);
    CHECK_FAILS(create(CLOCK_MONOTONIC, SIGEV_SIGNAL, 0, &id), EINVAL);
    CHECK_FAILS(create(CLOCK_MONOTONIC, SIGEV_SIGNAL, 65, &id), EINVAL);
    CHECK_FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, 16), EFAULT);
    CHECK_FAILS(syscall(SYS_timer_delete, 12345), EINVAL);
    CHECK_FAILS(syscall(SYS_timer_getoverrun, 12345), EINVAL);
    handle(SIGUSR1);
    handle(SIGALRM);
    for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI}) {
        CHECK(create(clock, SIGEV_SIGNAL, SIGUSR1, &id) == 0);
        itimerspec left = {};
        CHECK(syscall(SYS_timer_gettime, id, &left) == 0 && ns_of(left.it_value) == 0);
        expiries = 0;
        CHECK(set(id, 2 * millisecond, 0) == 0);
        wait_for_expiries(1);
        CHECK(info.si_code == SI_TIMER && info.si_timerid == id && info.si_value.sival_int == 77);
        CHECK(info.si_overrun == 0);
        CHECK(syscall(SYS_timer_gettime, id, &left) == 0 && ns_of(left.it_value) == 0);
        // Absolute, in the past: at once.
        expiries = 0;
        CHECK(set(id, 1, 0, TIMER_ABSTIME) == 0);
        wait_for_expiries(1);
        CHECK(syscall(SYS_timer_delete, id) == 0);
        CHECK_FAILS(set(id, 1, 0), EINVAL);
    }
    // Without an event: SIGALRM, with the number as value.
    CHECK(syscall(SYS_timer_create, CLOCK_MONOTONIC, nullptr, &id) == 0);
    expiries = 0;
    CHECK(set(id, millisecond, 0) == 0);
    wait_for_expiries(1);
    CHECK(info.si_signo == SIGALRM && info.si_value.sival_int == id);
    CHECK(syscall(SYS_timer_delete, id) == 0);
    // Periodic; while the signal is blocked, expiries are counted as overruns.
    CHECK(create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, &id) == 0);
    expiries = 0;
    CHECK(set(id, millisecond, millisecond) == 0);
    wait_for_expiries(5);
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &mask, nullptr) == 0);
    usleep(25'000);
    expiries = 0;
    itimerspec old = {};
    CHECK(syscall(SYS_timer_gettime, id, &old) == 0);
    CHECK(ns_of(old.it_interval) == millisecond && ns_of(old.it_value) > 0 &&
          ns_of(old.it_value) <= millisecond);
    siginfo_t taken = {};
    CHECK(sigwaitinfo(&mask, &taken) == SIGUSR1 && taken.si_code == SI_TIMER);
    CHECK(taken.si_overrun >= 15);
    CHECK(syscall(SYS_timer_getoverrun, id) == taken.si_overrun);
    CHECK(set(id, 0, millisecond, 0, &old) == 0 && ns_of(old.it_interval) == millisecond);
    CHECK(syscall(SYS_timer_gettime, id, &old) == 0 && ns_of(old.it_interval) == 0);
    const timespec zero = {};
    (void)sigtimedwait(&mask, &taken, &zero);
    CHECK(sigprocmask(SIG_UNBLOCK, &mask, nullptr) == 0);
    // Ignored for a while, and then not.
    signal(SIGUSR1, SIG_IGN);
    CHECK(set(id, millisecond, millisecond) == 0);
    usleep(5000);
    expiries = 0;
    handle(SIGUSR1);
    wait_for_expiries(2);
    CHECK(syscall(SYS_timer_delete, id) == 0);
    // To be looked at only.
    CHECK(create(CLOCK_MONOTONIC, SIGEV_NONE, 0, &id) == 0);
    CHECK(set(id, 2 * millisecond, 0) == 0);
    CHECK(syscall(SYS_timer_gettime, id, &old) == 0 && ns_of(old.it_value) <= 2 * millisecond);
    usleep(4000);
    CHECK(syscall(SYS_timer_gettime, id, &old) == 0 && ns_of(old.it_value) == 0);
    CHECK(set(id, millisecond, millisecond) == 0);
    usleep(4000);
    CHECK(syscall(SYS_timer_gettime, id, &old) == 0 && ns_of(old.it_value) > 0);
    const itimerspec bad = {{0, 0}, {0, second}};
    CHECK_FAILS(syscall(SYS_timer_settime, id, 0, &bad, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_timer_settime, id, 0, nullptr, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_timer_gettime, id, 16), EFAULT);
    CHECK(syscall(SYS_timer_delete, id) == 0);
    // For one thread.
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGUSR1;
    event._sigev_un._tid = getppid();
    CHECK_FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
    event._sigev_un._tid = gettid();
    for (const int with : {SIGEV_NONE, SIGEV_THREAD}) {
        event.sigev_notify = SIGEV_THREAD_ID | with;
        CHECK_FAILS(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id), EINVAL);
    }
    event.sigev_notify = SIGEV_THREAD_ID;
    CHECK(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) == 0);
    expiries = 0;
    CHECK(set(id, millisecond, 0) == 0);
    wait_for_expiries(1);
    CHECK(syscall(SYS_timer_delete, id) == 0);
    // By CPU time.
    for (const clockid_t clock : {CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID}) {
        CHECK(create(clock, SIGEV_SIGNAL, SIGUSR1, &id) == 0);
        expiries = 0;
        const long start = now(clock);
        CHECK(set(id, 5 * millisecond, 5 * millisecond) == 0);
        while (expiries < 2)
            CHECK(now(clock) - start < 5 * second);
        CHECK(now(clock) - start >= 10 * millisecond);
        CHECK(syscall(SYS_timer_delete, id) == 0);
    }
    others_run_too();
    // Very short periods do not keep the program from running.
    CHECK(create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, &id) == 0);
    CHECK(set(id, 20'000, 20'000) == 0);
    burn(10 * millisecond);
    CHECK(syscall(SYS_timer_delete, id) == 0);
    // Gone in children.
    CHECK(create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, &id) == 0);
    const pid_t child = fork();
    if (child == 0)
        _exit(syscall(SYS_timer_delete, id) == -1 && errno == EINVAL ? 0 : 1);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(syscall(SYS_timer_delete, id) == 0);
}

void interval_timers() {
    handle(SIGALRM);
    handle(SIGVTALRM);
    handle(SIGPROF);
    itimerval value = {};
    CHECK_FAILS(syscall(SYS_setitimer, 9, &value, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_getitimer, 9, &value), EINVAL);
    value.it_value.tv_usec = 1'000'000;
    CHECK_FAILS(setitimer(ITIMER_REAL, &value, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_getitimer, ITIMER_REAL, 16), EFAULT);
    const struct {
        __itimer_which which;
        int signal;
    } kinds[] = {{ITIMER_REAL, SIGALRM}, {ITIMER_VIRTUAL, SIGVTALRM}, {ITIMER_PROF, SIGPROF}};
    for (const auto& kind : kinds) {
        expiries = 0;
        const itimerval setting = {{0, 5000}, {0, 5000}};
        CHECK(setitimer(kind.which, &setting, nullptr) == 0);
        CHECK(getitimer(kind.which, &value) == 0);
        CHECK(value.it_interval.tv_usec >= 5000 && value.it_interval.tv_usec <= 10000);
        CHECK(value.it_value.tv_usec > 0);
        while (expiries < 3)
            for (int i = 0; i < 10000; ++i)
                asm volatile("");
        CHECK(info.si_signo == kind.signal && info.si_code == SI_KERNEL);
        const itimerval off = {};
        CHECK(setitimer(kind.which, &off, &value) == 0 && value.it_interval.tv_usec >= 5000);
        CHECK(getitimer(kind.which, &value) == 0 && value.it_value.tv_usec == 0);
        // An interval without a value: that of wall time is not kept.
        const itimerval no_value = {{5, 0}, {0, 0}};
        CHECK(setitimer(kind.which, &no_value, nullptr) == 0);
        CHECK(getitimer(kind.which, &value) == 0);
        CHECK(value.it_interval.tv_sec == (kind.which == ITIMER_REAL ? 0 : 5));
    }
    CHECK(alarm(100) == 0);
    const unsigned left = alarm(0);
    CHECK(left >= 99 && left <= 100);
    // Inherited by nobody.
    alarm(100);
    const pid_t child = fork();
    if (child == 0)
        _exit(alarm(0) == 0 ? 0 : 1);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    alarm(0);
}

void descriptors() {
    CHECK_FAILS(timerfd_create(99, 0), EINVAL);
    CHECK_FAILS(timerfd_create(CLOCK_PROCESS_CPUTIME_ID, 0), EINVAL);
    CHECK_FAILS(timerfd_create(CLOCK_MONOTONIC, 0x1000), EINVAL);
    for (const clockid_t clock : {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME}) {
        const int fd = timerfd_create(clock, TFD_NONBLOCK | TFD_CLOEXEC);
        CHECK(fd >= 0);
        unsigned long count = 0;
        CHECK_FAILS(read(fd, &count, 8), EAGAIN);
        CHECK_FAILS(read(fd, &count, 7), EINVAL);
        itimerspec setting = {spec(millisecond), spec(millisecond)};
        CHECK(timerfd_settime(fd, 0, &setting, nullptr) == 0);
        pollfd wait = {fd, POLLIN, 0};
        CHECK(poll(&wait, 1, -1) == 1 && wait.revents == POLLIN);
        usleep(5000);
        CHECK(read(fd, &count, 8) == 8 && count >= 4);
        itimerspec left = {};
        CHECK(timerfd_gettime(fd, &left) == 0 && ns_of(left.it_interval) == millisecond);
        CHECK(ns_of(left.it_value) <= millisecond);
        setting = {spec(0), spec(1)};
        CHECK(timerfd_settime(fd, TFD_TIMER_ABSTIME, &setting, &left) == 0);
        CHECK(poll(&wait, 1, 1000) == 1);
        CHECK(read(fd, &count, 8) == 8 && count == 1);
        CHECK(timerfd_gettime(fd, &left) == 0 && ns_of(left.it_value) == 0);
        CHECK_FAILS(timerfd_settime(fd, 0x100, &setting, nullptr), EINVAL);
        setting = {{0, second}, {0, 0}};
        CHECK_FAILS(timerfd_settime(fd, 0, &setting, nullptr), EINVAL);
        CHECK_FAILS(syscall(SYS_timerfd_settime, fd, 0, 16, nullptr), EFAULT);
        CHECK_FAILS(write(fd, &count, 8), EINVAL);
        close(fd);
    }
    // All periods since an absolute start count.
    timespec now = {};
    CHECK(clock_gettime(CLOCK_REALTIME, &now) == 0);
    const itimerspec past = {{3000, 0}, {now.tv_sec - 10'000, now.tv_nsec}};
    const int late = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK);
    unsigned long periods = 0;
    CHECK(timerfd_settime(late, TFD_TIMER_ABSTIME, &past, nullptr) == 0);
    CHECK(read(late, &periods, 8) == 8 && periods == 4);
    close(late);
    CHECK_FAILS(timerfd_gettime(0x3fffffff, nullptr), EBADF);
    int fds[2];
    CHECK(pipe(fds) == 0);
    itimerspec left = {};
    CHECK_FAILS(timerfd_gettime(fds[0], &left), EINVAL);
    close(fds[0]);
    close(fds[1]);
    // Readers on many threads share the expiries.
    const int fd = timerfd_create(CLOCK_MONOTONIC, 0);
    const itimerspec setting = {spec(millisecond / 2), spec(1)};
    CHECK(timerfd_settime(fd, 0, &setting, nullptr) == 0);
    pthread_t threads[4];
    for (pthread_t& thread : threads)
        CHECK(pthread_create(
                  &thread, nullptr,
                  [](void* raw) -> void* {
                      unsigned long count = 0;
                      for (int i = 0; i < 20; i++)
                          CHECK(read(*static_cast<int*>(raw), &count, 8) == 8 && count > 0);
                      return nullptr;
                  },
                  const_cast<void*>(static_cast<const void*>(&fd))) == 0);
    for (const pthread_t thread : threads)
        CHECK(pthread_join(thread, nullptr) == 0);
    close(fd);
}

// TFD_TIMER_CANCEL_ON_SET. The clock is set to what it shows.
void clock_changes() {
    const int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    const int plain = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    timespec wall = {};
    CHECK(clock_gettime(CLOCK_REALTIME, &wall) == 0);
    itimerspec setting = {{0, 0}, {wall.tv_sec + 3600, 0}};
    const int flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
    CHECK(timerfd_settime(fd, flags, &setting, nullptr) == 0);
    CHECK(timerfd_settime(plain, TFD_TIMER_ABSTIME, &setting, nullptr) == 0);
    unsigned long count = 0;
    CHECK_FAILS(read(fd, &count, 8), EAGAIN);
    CHECK(clock_gettime(CLOCK_REALTIME, &wall) == 0);
    if (clock_settime(CLOCK_REALTIME, &wall) == 0) {
        pollfd ready = {fd, POLLIN, 0};
        CHECK(poll(&ready, 1, 10'000) == 1 && ready.revents == POLLIN);
        CHECK_FAILS(read(fd, &count, 8), ECANCELED);
        CHECK_FAILS(read(fd, &count, 8), EAGAIN); // told once, and still armed
        CHECK_FAILS(read(plain, &count, 8), EAGAIN);
        itimerspec left = {};
        CHECK(timerfd_gettime(fd, &left) == 0 && left.it_value.tv_sec > 3000);
        // Nobody has read of the next change when the timer is set anew.
        CHECK(clock_gettime(CLOCK_REALTIME, &wall) == 0 &&
              clock_settime(CLOCK_REALTIME, &wall) == 0);
        CHECK_FAILS(timerfd_settime(fd, flags, &setting, nullptr), ECANCELED);
        CHECK(timerfd_settime(fd, flags, &setting, nullptr) == 0);
        CHECK_FAILS(read(fd, &count, 8), EAGAIN);
    } else {
        CHECK(errno == EPERM); // not the machine's own superuser
    }
    close(fd);
    close(plain);
}

} // namespace

int main() {
    clocks();
    cpu_clocks();
    sleeps();
    posix_timers();
    interval_timers();
    descriptors();
    clock_changes();
    return 0;
}
