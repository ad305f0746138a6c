// SCHED_DEADLINE: parameters and rights, what is admitted, what is done to who has used up the
// runtime. sched(7), sched_setattr(2).
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <vector>

#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "tests/guest/process_support.hpp"

namespace {

constexpr int deadline_policy = 6;
constexpr unsigned long long ms = 1'000'000;

// linux/sched/types.h will not stand beside the C library's header.
struct sched_attr {
    unsigned size, sched_policy;
    unsigned long long sched_flags;
    int sched_nice;
    unsigned sched_priority;
    unsigned long long sched_runtime, sched_deadline, sched_period;
};

long set_deadline(pid_t pid, unsigned long long runtime, unsigned long long deadline,
                  unsigned long long period, unsigned long long flags = 0, unsigned priority = 0) {
    sched_attr attributes = {sizeof attributes, deadline_policy, flags,    0,
                             priority,          runtime,         deadline, period};
    return syscall(SYS_sched_setattr, pid, &attributes, 0);
}
long set_ordinary(pid_t pid) {
    sched_attr attributes = {};
    attributes.size = sizeof attributes;
    return syscall(SYS_sched_setattr, pid, &attributes, 0);
}
sched_attr attributes_of(pid_t pid) {
    sched_attr attributes = {};
    CHECK(syscall(SYS_sched_getattr, pid, &attributes, sizeof attributes, 0) == 0);
    return attributes;
}

unsigned long long clock_ns(clockid_t clock) {
    timespec now = {};
    CHECK(clock_gettime(clock, &now) == 0);
    return static_cast<unsigned long long>(now.tv_sec) * 1000 * ms +
           static_cast<unsigned long long>(now.tv_nsec);
}

unsigned cpu_count() {
    cpu_set_t set;
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
    return static_cast<unsigned>(CPU_COUNT(&set));
}

// A child that does `once` again and again, no longer than its parent lives: a test that fails must
// not leave anything admitted.
template <typename F>
pid_t start_child(F&& once) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0)
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    while (child == 0)
        once();
    return child;
}
pid_t start_sleeper() {
    return start_child([] { pause(); });
}
pid_t start_busy() {
    return start_child([] { asm volatile(""); });
}
void end(pid_t child) {
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
}

// What was given up may be there only when the period of whoever had it ends.
void set_deadline_soon(pid_t pid, unsigned long long runtime, unsigned long long period) {
    while (set_deadline(pid, runtime, period, 0) != 0)
        CHECK(errno == EBUSY && usleep(1000) == 0);
}

void parameters() {
    in_child([] {
        const auto refused = [](unsigned long long runtime, unsigned long long deadline,
                                unsigned long long period, unsigned priority = 0) {
            CHECK_FAILS(set_deadline(0, runtime, deadline, period, 0, priority), EINVAL);
        };
        constexpr unsigned long long longest = 4'194'304'000;
        refused(0, 0, 0);
        refused(1023, 30 * ms, 100 * ms);
        refused(2 * ms, 1 * ms, 2 * ms);
        refused(1 * ms, 3 * ms, 2 * ms);
        refused(1 * ms, 0, 2 * ms);
        refused(1024, 100'000 - 1, 0);
        refused(1024, longest + 1, 0);
        refused(1024, 1ull << 63, 0);
        refused(1024, 1 * ms, 1ull << 63);
        refused(10 * ms, 30 * ms, 100 * ms, 1);
        CHECK(sched_getscheduler(0) == SCHED_OTHER);
        CHECK_FAILS(set_deadline(0x3fffffff, 10 * ms, 30 * ms, 100 * ms), ESRCH);
        CHECK_FAILS(set_deadline(0x3fffffff, 1, 30 * ms, 100 * ms), ESRCH);
        CHECK_FAILS(set_deadline(-1, 10 * ms, 30 * ms, 100 * ms), EINVAL);
        const pid_t sleeper = start_sleeper();
        CHECK(set_deadline(sleeper, 1024, longest, 0) == 0);
        CHECK(attributes_of(sleeper).sched_period == longest);
        CHECK(set_deadline(sleeper, 1024, 100'000, 0) == 0);
        CHECK(set_deadline(0, 10 * ms, 30 * ms, 100 * ms) == 0);
        const sched_attr now = attributes_of(0);
        CHECK(now.sched_policy == deadline_policy && now.sched_flags == 0);
        CHECK(now.sched_runtime == 10 * ms && now.sched_deadline == 30 * ms &&
              now.sched_period == 100 * ms);
        // The other calls know the policy, but cannot give parameters.
        CHECK(sched_getscheduler(0) == deadline_policy);
        sched_param none = {};
        CHECK(sched_getparam(0, &none) == 0 && none.sched_priority == 0);
        CHECK_FAILS(sched_setparam(0, &none), EINVAL);
        CHECK_FAILS(sched_setscheduler(0, deadline_policy, &none), EINVAL);
        timespec slice = {1, 1};
        CHECK(sched_rr_get_interval(0, &slice) == 0 && slice.tv_sec == 0 && slice.tv_nsec == 0);
        // A nice value is kept for later.
        CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0 && getpriority(PRIO_PROCESS, 0) == 5);
        CHECK(attributes_of(0).sched_nice == 0 && sched_getscheduler(0) == deadline_policy);
        CHECK(sched_setscheduler(0, SCHED_OTHER, &none) == 0);
        CHECK(attributes_of(0).sched_nice == 5);
        CHECK_FAILS(sched_setscheduler(0, deadline_policy, &none), EINVAL);
    });
}

void flags() {
    in_child([] {
        constexpr unsigned long long own = SCHED_FLAG_RECLAIM | SCHED_FLAG_DL_OVERRUN;
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0, own | SCHED_FLAG_RESET_ON_FORK) == 0);
        CHECK(attributes_of(0).sched_flags == (own | SCHED_FLAG_RESET_ON_FORK));
        CHECK(sched_getscheduler(0) == (deadline_policy | SCHED_RESET_ON_FORK));
        CHECK(set_deadline(0, 20 * ms, 100 * ms, 0, SCHED_FLAG_KEEP_PARAMS) == 0);
        CHECK(attributes_of(0).sched_runtime == 10 * ms && attributes_of(0).sched_flags == own);
        sched_attr kept = {};
        kept.size = sizeof kept;
        kept.sched_flags = SCHED_FLAG_KEEP_POLICY;
        CHECK_FAILS(syscall(SYS_sched_setattr, 0, &kept, 0), EINVAL); // of this policy: 0, 0, 0
        kept.sched_flags |= SCHED_FLAG_KEEP_PARAMS;
        CHECK(syscall(SYS_sched_setattr, 0, &kept, 0) == 0);
        CHECK(attributes_of(0).sched_policy == deadline_policy);
        kept.sched_policy = ~0u;
        CHECK_FAILS(syscall(SYS_sched_setattr, 0, &kept, 0), EINVAL);
        CHECK(set_ordinary(0) == 0 && attributes_of(0).sched_flags == 0);
    });
}

std::vector<std::string> status_words() {
    std::string text(4096, '\0');
    const int fd = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    const ssize_t length = read(fd, text.data(), text.size());
    CHECK(length > 0 && close(fd) == 0);
    text.resize(static_cast<size_t>(length));
    std::vector<std::string> words = {"", ""};
    for (size_t at = text.rfind(')') + 2; at < text.size();) {
        const size_t end = text.find_first_of(" \n", at);
        words.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return words;
}

void shown_in_proc() {
    in_child([] {
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0) == 0);
        const std::vector<std::string> words = status_words(); // proc(5) counts from 1
        CHECK(words[2] == "R" && words[17] == "-101" && words[18] == "0");
        CHECK(words[39] == "0" && words[40] == "6");
    });
}

void rights() {
    in_child([] {
        const pid_t other = start_sleeper();
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0) == 0);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(set_deadline(0, 10 * ms, 100 * ms, 0), EPERM);
        CHECK_FAILS(set_deadline(0, 5 * ms, 100 * ms, 0), EPERM);
        CHECK_FAILS(set_deadline(0, 5, 100 * ms, 0), EINVAL); // looked at before
        CHECK(set_ordinary(0) == 0);
        CHECK_FAILS(set_deadline(0, 10 * ms, 100 * ms, 0), EPERM);
        CHECK_FAILS(set_deadline(other, 10 * ms, 100 * ms, 0), EPERM);
    });
}

void admission() {
    in_child([] {
        std::vector<pid_t> children;
        for (unsigned cpu = 0; cpu < cpu_count(); cpu++) {
            children.push_back(start_sleeper());
            set_deadline_soon(children.back(), 60 * ms, 100 * ms);
        }
        const pid_t late = start_sleeper();
        CHECK_FAILS(set_deadline(late, 95 * ms, 100 * ms, 0), EBUSY);
        CHECK(sched_getscheduler(late) == SCHED_OTHER);
        // What somebody gives up is there for others.
        CHECK(set_deadline(children[0], 20 * ms, 100 * ms, 0) == 0);
        set_deadline_soon(late, 35 * ms, 100 * ms);
        CHECK_FAILS(set_deadline(children[0], 99 * ms, 100 * ms, 0), EBUSY);
        CHECK(attributes_of(children[0]).sched_runtime == 20 * ms);
        end(late);
        set_deadline_soon(children[0], 55 * ms, 100 * ms);
        for (const pid_t child : children)
            end(child);
    });
    for (int round = 0; round < 20; round++)
        in_child([] { set_deadline_soon(0, 55 * ms, 100 * ms); });
}

void affinity() {
    in_child([] {
        cpu_set_t all;
        cpu_set_t none;
        CPU_ZERO(&none);
        CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0) == 0);
        CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
        CHECK_FAILS(sched_setaffinity(0, sizeof none, &none), EBUSY);
        if (cpu_count() < 2)
            return;
        cpu_set_t one = none;
        for (int cpu = 0; CPU_COUNT(&one) == 0; cpu++)
            if (CPU_ISSET(cpu, &all))
                CPU_SET(cpu, &one);
        CHECK_FAILS(sched_setaffinity(0, sizeof one, &one), EBUSY);
        CHECK(set_ordinary(0) == 0 && sched_setaffinity(0, sizeof one, &one) == 0);
        CHECK_FAILS(set_deadline(0, 10 * ms, 100 * ms, 0), EPERM);
        CHECK(sched_setaffinity(0, sizeof all, &all) == 0);
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0) == 0);
    });
}

void children() {
    in_child([] {
        CHECK(setpriority(PRIO_PROCESS, 0, 7) == 0);
        set_deadline_soon(0, 30 * ms, 100 * ms);
        CHECK_FAILS(fork(), EAGAIN);
        pthread_t thread;
        CHECK(pthread_create(
                  &thread, nullptr, [](void*) -> void* { return nullptr; }, nullptr) == EAGAIN);
        CHECK(set_deadline(0, 30 * ms, 100 * ms, 0, SCHED_FLAG_RESET_ON_FORK) == 0);
        in_child([] {
            const sched_attr own = attributes_of(0);
            CHECK(own.sched_policy == SCHED_OTHER && own.sched_flags == 0 && own.sched_nice == 0);
        });
        CHECK(sched_getscheduler(0) == (deadline_policy | SCHED_RESET_ON_FORK));
    });
}

void burn(unsigned long long ns) {
    const auto begin = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    while (clock_ns(CLOCK_PROCESS_CPUTIME_ID) - begin < ns)
        continue;
}

void throttling() {
    in_child([] { // less than it takes to get anywhere: it does, if only once in each period
        CHECK(set_deadline(0, 1024, 10 * ms, 0) == 0);
        for (int i = 0; i < 20; i++)
            CHECK(getppid() > 0);
    });
    in_child([] { // 50 ms at 10 in 100: four periods end in between
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0) == 0);
        const auto begin = clock_ns(CLOCK_MONOTONIC);
        burn(50 * ms);
        CHECK(clock_ns(CLOCK_MONOTONIC) - begin >= 250 * ms);
        // Ordinary again, even while it waits for its period.
        CHECK(set_ordinary(0) == 0);
        burn(5 * ms);
    });
    in_child([] { // the others' calls reach it there
        const pid_t busy = start_busy();
        CHECK(set_deadline(busy, 1 * ms, 4000 * ms, 0) == 0);
        for (timespec used = {}; used.tv_nsec < static_cast<long>(ms);) {
            clockid_t clock = 0;
            CHECK(clock_getcpuclockid(busy, &clock) == 0 && clock_gettime(clock, &used) == 0);
        }
        CHECK(set_ordinary(busy) == 0);
        clockid_t clock = 0;
        CHECK(clock_getcpuclockid(busy, &clock) == 0);
        const auto before = clock_ns(clock);
        while (clock_ns(clock) - before < 20 * ms)
            continue;
        end(busy);
    });
    in_child([] { // sched_yield: until the next period
        CHECK(set_deadline(0, 10 * ms, 100 * ms, 0) == 0);
        sched_yield();
        const auto begin = clock_ns(CLOCK_MONOTONIC);
        sched_yield();
        sched_yield();
        sched_yield();
        CHECK(clock_ns(CLOCK_MONOTONIC) - begin >= 190 * ms);
    });
}

volatile sig_atomic_t overruns;

void overrun() {
    in_child([] {
        signal(SIGXCPU, [](int) { overruns = overruns + 1; });
        CHECK(set_deadline(0, 5 * ms, 50 * ms, 0, SCHED_FLAG_DL_OVERRUN) == 0);
        while (overruns < 3)
            asm volatile("");
        // Who yields has not overrun. What the loop above used is none of that.
        sched_yield();
        overruns = 0;
        sched_yield();
        sched_yield();
        CHECK(overruns == 0);
    });
    const int killed = status_of([] {
        CHECK(set_deadline(0, 5 * ms, 50 * ms, 0, SCHED_FLAG_DL_OVERRUN) == 0);
        for (;;)
            asm volatile("");
    });
    CHECK(WIFSIGNALED(killed) && WTERMSIG(killed) == SIGXCPU);
}

void others_run() {
    // What they do not use is for this process, however many they are.
    std::vector<pid_t> busy;
    for (unsigned cpu = 0; cpu < cpu_count(); cpu++) {
        busy.push_back(start_busy());
        set_deadline_soon(busy.back(), 60 * ms, 100 * ms);
    }
    burn(20 * ms);
    for (const pid_t child : busy)
        end(child);
}

// Tasks with short periods that sleep, yield, change their parameters and end while others do. They
// do not change class: some versions of Linux forget to take back what was admitted then.
void storm() {
    std::vector<pid_t> children;
    for (int i = 0; i < 4; i++) {
        children.push_back(fork());
        CHECK(children.back() >= 0);
        if (children.back() != 0)
            continue;
        const unsigned long long period = 200'000 + 100'000ull * static_cast<unsigned>(i);
        for (int round = 0; round < 100; round++) {
            CHECK(set_deadline(0, period / 20, period / (i % 2 == 0 ? 1 : 2), period,
                               i == 3 ? SCHED_FLAG_RECLAIM : 0) == 0 ||
                  errno == EBUSY);
            const timespec moment = {0, 1000 * (round % 50)};
            if (round % 3 == 0)
                nanosleep(&moment, nullptr);
            else if (round % 3 == 1)
                sched_yield();
            else
                burn(period / 10);
        }
        _exit(0);
    }
    for (const pid_t child : children) {
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
    }
}

// Nothing is admitted, so that it leaves nothing behind on a machine that others use.
void refusals() {
    constexpr unsigned long long longest = 4'194'304'000;
    CHECK_FAILS(set_deadline(0, 0, 0, 0), EINVAL);
    CHECK_FAILS(set_deadline(0, 1023, 30 * ms, 100 * ms), EINVAL);
    CHECK_FAILS(set_deadline(0, 2 * ms, 1 * ms, 2 * ms), EINVAL);
    CHECK_FAILS(set_deadline(0, 1 * ms, 3 * ms, 2 * ms), EINVAL);
    CHECK_FAILS(set_deadline(0, 1024, longest + 1, 0), EINVAL);
    CHECK_FAILS(set_deadline(0, 10 * ms, 30 * ms, 100 * ms, 0, 1), EINVAL);
    CHECK_FAILS(set_deadline(0x3fffffff, 10 * ms, 30 * ms, 100 * ms), ESRCH);
    CHECK(sched_getscheduler(0) == SCHED_OTHER);
}

// The shortest and the longest period are the administrator's to set.
void periods() {
    const std::string shortest = "/proc/sys/kernel/sched_deadline_period_min_us";
    const std::string longest_name = "/proc/sys/kernel/sched_deadline_period_max_us";
    const auto set = [](const std::string& name, const char* text) {
        const int fd = open(name.c_str(), O_WRONLY);
        CHECK(fd >= 0);
        const auto length = static_cast<ssize_t>(std::strlen(text));
        const bool done = write(fd, text, std::strlen(text)) == length;
        CHECK(done || errno == EINVAL);
        close(fd);
        return done;
    };
    CHECK(set(longest_name, "50000"));
    CHECK_FAILS(set_deadline(0, 1 * ms, 30 * ms, 100 * ms), EINVAL);
    CHECK(!set(shortest, "50001") && !set(longest_name, "99"));
    CHECK(set(longest_name, "4194304"));
    CHECK(set(shortest, "200000"));
    CHECK_FAILS(set_deadline(0, 1 * ms, 30 * ms, 100 * ms), EINVAL);
    CHECK(set(shortest, "100"));
}

} // namespace

// Linux 6.18 does not always give back what sleeping tasks had, and has been seen to forget one
// that waited for its period: what is admitted at all is for machines of which more is known
// ("all").
int main(int argc, char**) {
    refusals();
    if (argc < 2)
        return 0;
    CHECK(getuid() == 0);
    periods();
    parameters();
    flags();
    shown_in_proc();
    rights();
    admission();
    affinity();
    children();
    throttling();
    overrun();
    others_run();
    storm();
    return 0;
}
