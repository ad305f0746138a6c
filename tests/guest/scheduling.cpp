// Scheduling, limits and what the system says of itself: policies, priorities, affinity, resource
// limits and their effects, uname, sysinfo, getcpu, getrandom, rseq. sched(7), sched_setattr(2),
// getpriority(2), getrlimit(2), ioprio_set(2), rseq(2).
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <fstream>
#include <initializer_list>
#include <pthread.h>
#include <sched.h>
#include <sstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

namespace {

// linux/sched/types.h will not stand beside the C library's header.
struct sched_attr {
    unsigned size, sched_policy;
    unsigned long long sched_flags;
    int sched_nice;
    unsigned sched_priority;
    unsigned long long sched_runtime, sched_deadline, sched_period;
    unsigned sched_util_min, sched_util_max;
};
constexpr unsigned SCHED_ATTR_SIZE_VER0 = 48;

long set_attributes(pid_t pid, sched_attr& attributes) {
    attributes.size = sizeof attributes;
    return syscall(SYS_sched_setattr, pid, &attributes, 0);
}
sched_attr attributes_of(pid_t pid) {
    sched_attr attributes = {};
    CHECK(syscall(SYS_sched_getattr, pid, &attributes, sizeof attributes, 0) == 0);
    return attributes;
}

void policies() {
    CHECK(sched_get_priority_max(SCHED_FIFO) == 99 && sched_get_priority_min(SCHED_FIFO) == 1);
    CHECK(sched_get_priority_max(SCHED_RR) == 99 && sched_get_priority_min(SCHED_RR) == 1);
    for (const int policy : {SCHED_OTHER, SCHED_BATCH, SCHED_IDLE, 6})
        CHECK(sched_get_priority_max(policy) == 0 && sched_get_priority_min(policy) == 0);
    CHECK_FAILS(sched_get_priority_max(99), EINVAL);
    CHECK_FAILS(sched_get_priority_min(-1), EINVAL);
    CHECK(sched_getscheduler(0) == SCHED_OTHER);
    sched_param parameters = {};
    CHECK(sched_getparam(0, &parameters) == 0 && parameters.sched_priority == 0);
    CHECK_FAILS(sched_getparam(-1, &parameters), EINVAL);
    CHECK_FAILS(sched_getparam(0, nullptr), EINVAL);
    CHECK_FAILS(sched_getscheduler(-1), EINVAL);
    CHECK_FAILS(sched_getscheduler(0x3fffffff), ESRCH);
    CHECK_FAILS(sched_setscheduler(0, 99, &parameters), EINVAL);
    CHECK_FAILS(sched_setscheduler(0, SCHED_OTHER, nullptr), EINVAL);
    CHECK_FAILS(sched_setscheduler(0x3fffffff, SCHED_OTHER, &parameters), ESRCH);
    CHECK_FAILS(sched_setscheduler(0, SCHED_FIFO, &parameters), EINVAL); // priority 0
    parameters.sched_priority = 1;
    CHECK_FAILS(sched_setscheduler(0, SCHED_BATCH, &parameters), EINVAL);
    timespec slice = {};
    CHECK(sched_rr_get_interval(0, &slice) == 0);
    CHECK_FAILS(sched_rr_get_interval(-1, &slice), EINVAL);
    CHECK(sched_yield() == 0);
    in_child([] {
        sched_param own = {};
        CHECK(sched_setscheduler(0, SCHED_BATCH, &own) == 0 &&
              sched_getscheduler(0) == SCHED_BATCH);
        CHECK(sched_setscheduler(0, SCHED_IDLE, &own) == 0 && sched_getscheduler(0) == SCHED_IDLE);
        CHECK(sched_setscheduler(0, SCHED_OTHER, &own) == 0);
        own.sched_priority = 10;
        CHECK_FAILS(sched_setparam(0, &own), EINVAL);
        if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &own) != 0) {
            CHECK(errno == EPERM); // a machine without real-time bandwidth for this group
            return;
        }
        CHECK(sched_getscheduler(0) == (SCHED_FIFO | SCHED_RESET_ON_FORK));
        in_child([] {
            CHECK(sched_getscheduler(0) == SCHED_OTHER);
            sched_param child = {};
            CHECK(sched_getparam(0, &child) == 0 && child.sched_priority == 0);
        });
        own.sched_priority = 20;
        CHECK(sched_setparam(0, &own) == 0);
        CHECK(attributes_of(0).sched_priority == 20 && attributes_of(0).sched_policy == SCHED_FIFO);
        CHECK((attributes_of(0).sched_flags & SCHED_FLAG_RESET_ON_FORK) != 0);
        timespec none = {1, 1};
        CHECK(sched_rr_get_interval(0, &none) == 0 && none.tv_sec == 0 && none.tv_nsec == 0);
        CHECK(sched_setscheduler(0, SCHED_RR, &own) == 0 && sched_getscheduler(0) == SCHED_RR);
        CHECK(sched_rr_get_interval(0, &none) == 0 && none.tv_nsec > 0);
        in_child([] { CHECK(sched_getscheduler(0) == SCHED_RR); }); // inherited
        // Without the privilege: no higher than now, but down.
        CHECK(setuid(1000) == 0);
        own.sched_priority = 30;
        CHECK_FAILS(sched_setparam(0, &own), EPERM);
        own.sched_priority = 5;
        CHECK(sched_setparam(0, &own) == 0);
        own.sched_priority = 0;
        CHECK(sched_setscheduler(0, SCHED_OTHER, &own) == 0);
        own.sched_priority = 1;
        CHECK_FAILS(sched_setscheduler(0, SCHED_FIFO, &own), EPERM);
        CHECK_FAILS(sched_setscheduler(getppid(), SCHED_OTHER, &own), EINVAL);
        own.sched_priority = 0;
        CHECK_FAILS(sched_setscheduler(getppid(), SCHED_BATCH, &own), EPERM);
    });
}

void attributes() {
    sched_attr attributes = attributes_of(0);
    CHECK(attributes.size >= SCHED_ATTR_SIZE_VER0 && attributes.sched_policy == SCHED_OTHER);
    CHECK_FAILS(syscall(SYS_sched_getattr, 0, &attributes, 10, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 1), EINVAL);
    CHECK_FAILS(syscall(SYS_sched_getattr, 0x3fffffff, &attributes, sizeof attributes, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_sched_getattr, 0, nullptr, sizeof attributes, 0), EINVAL);
    attributes = {};
    CHECK_FAILS(syscall(SYS_sched_setattr, 0, &attributes, 1), EINVAL);
    CHECK_FAILS(syscall(SYS_sched_setattr, 0, nullptr, 0), EINVAL);
    attributes.sched_policy = 77;
    CHECK_FAILS(set_attributes(0, attributes), EINVAL);
    attributes.sched_policy = SCHED_OTHER;
    attributes.sched_flags = 1ull << 40;
    CHECK_FAILS(set_attributes(0, attributes), EINVAL);
    in_child([] {
        sched_attr own = {};
        own.sched_policy = SCHED_BATCH;
        own.sched_nice = 7;
        CHECK(set_attributes(0, own) == 0);
        CHECK(getpriority(PRIO_PROCESS, 0) == 7 && sched_getscheduler(0) == SCHED_BATCH);
        own = {};
        own.sched_flags = SCHED_FLAG_KEEP_POLICY;
        own.sched_nice = 9;
        CHECK(set_attributes(0, own) == 0 && sched_getscheduler(0) == SCHED_BATCH);
        CHECK(getpriority(PRIO_PROCESS, 0) == 9);
        struct {
            sched_attr known;
            unsigned long more;
        } longer = {};
        longer.known.size = sizeof longer;
        CHECK(syscall(SYS_sched_setattr, 0, &longer, 0) == 0);
        longer.more = 1;
        CHECK_FAILS(syscall(SYS_sched_setattr, 0, &longer, 0), E2BIG);
        longer.known.size = 10;
        CHECK_FAILS(syscall(SYS_sched_setattr, 0, &longer, 0), E2BIG);
    });
}

void priorities() {
    errno = 0;
    CHECK(getpriority(PRIO_PROCESS, 0) == 0 && errno == 0);
    CHECK_FAILS(syscall(SYS_getpriority, 9, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_getpriority, PRIO_PROCESS, 0x3fffffff), ESRCH);
    CHECK_FAILS(syscall(SYS_getpriority, PRIO_PGRP, 0x3fffffff), ESRCH);
    CHECK_FAILS(syscall(SYS_getpriority, PRIO_USER, 99999), ESRCH);
    CHECK_FAILS(syscall(SYS_setpriority, 9, 0, 0), EINVAL);
    CHECK_FAILS(setpriority(PRIO_PROCESS, 0x3fffffff, 0), ESRCH);
    in_child([] {
        CHECK(setpriority(PRIO_PROCESS, 0, 100) == 0 && getpriority(PRIO_PROCESS, 0) == 19);
        CHECK(syscall(SYS_getpriority, PRIO_PROCESS, 0) == 1); // 20 - nice
        CHECK(setpriority(PRIO_PROCESS, 0, -5) == 0 && getpriority(PRIO_PROCESS, 0) == -5);
        in_child([] { CHECK(getpriority(PRIO_PROCESS, 0) == -5); });
        CHECK(setpgid(0, 0) == 0);
        CHECK(setpriority(PRIO_PGRP, 0, 3) == 0 && getpriority(PRIO_PGRP, getpid()) == 3);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK(getpriority(PRIO_USER, 1000) <= 3);
        CHECK(setpriority(PRIO_PROCESS, 0, 5) == 0);
        CHECK_FAILS(setpriority(PRIO_PROCESS, 0, 4), EACCES);
        CHECK_FAILS(setpriority(PRIO_PROCESS, getppid(), 10), EPERM);
    });
    in_child([] { // RLIMIT_NICE lets those without privilege up to 20 - limit
        const rlimit limit = {25, 25};
        if (setrlimit(RLIMIT_NICE, &limit) != 0)
            return; // raising needs CAP_SYS_RESOURCE
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK(setpriority(PRIO_PROCESS, 0, -5) == 0);
        CHECK_FAILS(setpriority(PRIO_PROCESS, 0, -6), EACCES);
    });
    // A user's processes are those of the same pid namespace and those below.
    in_child([] {
        if (unshare(CLONE_NEWPID) != 0)
            return;
        in_child([] {
            CHECK(setpriority(PRIO_USER, 0, 5) == 0 && getpriority(PRIO_USER, 0) == 5);
            CHECK(getpriority(PRIO_PROCESS, 0) == 5);
        });
        CHECK(getpriority(PRIO_PROCESS, 0) == 0);
    });
    // ioprio: class << 13 | level.
    CHECK(syscall(SYS_ioprio_get, 1, 0) >= 0);
    CHECK_FAILS(syscall(SYS_ioprio_get, 9, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_ioprio_get, 1, 0x3fffffff), ESRCH);
    CHECK_FAILS(syscall(SYS_ioprio_set, 1, 0, 7 << 13), EINVAL);
    in_child([] {
        CHECK(syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 6) == 0);
        CHECK(syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6));
        in_child([] { CHECK(syscall(SYS_ioprio_get, 1, 0) == (2 << 13 | 6)); });
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(syscall(SYS_ioprio_set, 1, getppid(), 2 << 13 | 6), EPERM);
    });
}

void affinity() {
    cpu_set_t set;
    CPU_ZERO(&set);
    CHECK(sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) >= 1);
    CHECK_FAILS(syscall(SYS_sched_getaffinity, 0, 1, &set), EINVAL);
    CHECK_FAILS(syscall(SYS_sched_getaffinity, 0x3fffffff, sizeof set, &set), ESRCH);
    CHECK_FAILS(syscall(SYS_sched_getaffinity, -1, sizeof set, &set), ESRCH);
    CHECK_FAILS(syscall(SYS_sched_setaffinity, -1, sizeof set, &set), ESRCH);
    CHECK_FAILS(syscall(SYS_sched_setaffinity, -1, sizeof set, 16), EFAULT);
    CHECK_FAILS(syscall(SYS_sched_getaffinity, 0, sizeof set, 16), EFAULT);
    CHECK_FAILS(syscall(SYS_sched_setaffinity, 0, sizeof set, 16), EFAULT);
    const long bytes = syscall(SYS_sched_getaffinity, 0, sizeof set, &set);
    CHECK(bytes >= 8 && bytes <= static_cast<long>(sizeof set));
    in_child([&] {
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, &set))
                continue;
            cpu_set_t one;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
            for (int i = 0; i < 100; i++) {
                unsigned at = ~0u;
                unsigned node = ~0u;
                CHECK(syscall(SYS_getcpu, &at, &node, nullptr) == 0);
                CHECK(at == static_cast<unsigned>(cpu) && node == 0);
                CHECK(sched_getcpu() == cpu); // by the vDSO or rseq
                sched_yield();
            }
            cpu_set_t back;
            CHECK(sched_getaffinity(0, sizeof back, &back) == 0 && CPU_EQUAL(&back, &one));
            in_child([&] {
                cpu_set_t inherited;
                CHECK(sched_getaffinity(0, sizeof inherited, &inherited) == 0 &&
                      CPU_EQUAL(&inherited, &one));
                CHECK(sched_getcpu() == cpu);
            });
        }
        cpu_set_t none;
        CPU_ZERO(&none);
        CHECK_FAILS(sched_setaffinity(0, sizeof none, &none), EINVAL);
        CPU_SET(1000, &none);
        CHECK_FAILS(sched_setaffinity(0, sizeof none, &none), EINVAL);
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(sched_setaffinity(getppid(), sizeof set, &set), EPERM);
        CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
    });
    CHECK_FAILS(syscall(SYS_getcpu, 16, nullptr, nullptr), EFAULT);
    // Moved while it runs elsewhere.
    const pid_t busy = fork();
    if (busy == 0)
        for (;;)
            asm volatile("");
    for (int round = 0; round < 20; round++)
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
            if (CPU_ISSET(cpu, &set)) {
                cpu_set_t one;
                CPU_ZERO(&one);
                CPU_SET(cpu, &one);
                CHECK(sched_setaffinity(busy, sizeof one, &one) == 0);
            }
    CHECK(kill(busy, SIGKILL) == 0 && waitpid(busy, nullptr, 0) == busy);
}

// All the time of a CPU is told, also of one where nothing has changed for a while.
std::vector<unsigned long long> all_times() {
    std::ifstream file("/proc/stat");
    std::vector<unsigned long long> sums;
    for (std::string line; std::getline(file, line) && line.starts_with("cpu");) {
        std::istringstream words(line);
        std::string name;
        words >> name;
        sums.push_back(0);
        unsigned long long ticks = 0;
        for (int i = 0; i < 8 && words >> ticks; i++) // up to "steal": what follows is in there
            sums.back() += ticks;
    }
    return sums;
}

void cpu_times() {
    const pid_t busy = fork();
    if (busy == 0)
        for (;;)
            asm volatile("");
    usleep(100'000); // it runs
    const std::vector<unsigned long long> before = all_times();
    usleep(600'000);
    const std::vector<unsigned long long> after = all_times();
    CHECK(kill(busy, SIGKILL) == 0 && waitpid(busy, nullptr, 0) == busy);
    CHECK(before.size() == after.size() && !before.empty());
    for (size_t i = 0; i < before.size(); i++)
        CHECK(after[i] - before[i] >= static_cast<unsigned>(sysconf(_SC_CLK_TCK)) * 3 / 10);
}

// --- limits

void limits() {
    rlimit limit = {};
    CHECK_FAILS(syscall(SYS_getrlimit, 16, &limit), EINVAL);
    CHECK_FAILS(syscall(SYS_setrlimit, 16, &limit), EINVAL);
    CHECK_FAILS(syscall(SYS_getrlimit, 0, 16), EFAULT);
    CHECK_FAILS(syscall(SYS_setrlimit, 0, 16), EFAULT);
    CHECK_FAILS(syscall(SYS_prlimit64, 0x3fffffff, 0, nullptr, &limit), ESRCH);
    CHECK_FAILS(syscall(SYS_prlimit64, 0, 99, nullptr, &limit), EINVAL);
    in_child([] {
        rlimit own = {10, 5};
        CHECK_FAILS(setrlimit(RLIMIT_CORE, &own), EINVAL);
        own = {5, 10};
        CHECK(setrlimit(RLIMIT_CORE, &own) == 0);
        in_child([] {
            rlimit inherited = {};
            CHECK(getrlimit(RLIMIT_CORE, &inherited) == 0);
            CHECK(inherited.rlim_cur == 5 && inherited.rlim_max == 10);
        });
        CHECK(setresuid(1000, 1000, 1000) == 0);
        own = {5, 11};
        CHECK_FAILS(setrlimit(RLIMIT_CORE, &own), EPERM);
        own = {10, 10};
        CHECK(setrlimit(RLIMIT_CORE, &own) == 0);
        CHECK_FAILS(prlimit(getppid(), RLIMIT_CORE, nullptr, &own), EPERM);
    });
    in_child([] { // of another process
        const pid_t child = fork();
        if (child == 0)
            for (;;)
                pause();
        const rlimit fresh = {100, 200};
        rlimit old = {};
        CHECK(prlimit(child, RLIMIT_NOFILE, &fresh, &old) == 0 && old.rlim_cur != 100);
        CHECK(prlimit(child, RLIMIT_NOFILE, nullptr, &old) == 0);
        CHECK(old.rlim_cur == 100 && old.rlim_max == 200);
        CHECK(kill(child, SIGKILL) == 0 && waitpid(child, nullptr, 0) == child);
    });
    in_child([] { // descriptors
        const rlimit few = {10, 100};
        CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
        CHECK_FAILS(fcntl(0, F_DUPFD, 10), EINVAL);
        CHECK_FAILS(dup2(0, 10), EBADF);
        while (dup(0) >= 0)
            continue;
        CHECK(errno == EMFILE);
    });
    in_child([] { // a limit below what is there already keeps nobody from executing a program
        CHECK(setresuid(54322, 54322, 54322) == 0);
        const pid_t other = fork();
        if (other == 0)
            for (;;)
                pause();
        const rlimit one = {1, 1};
        CHECK(setrlimit(RLIMIT_NPROC, &one) == 0);
        CHECK_FAILS(fork(), EAGAIN);
        CHECK(kill(other, SIGSTOP) == 0); // it is there for certain
        execl("/proc/self/exe", "x", std::to_string(other).c_str(), nullptr);
        CHECK(!"executed");
    });
    in_child([] { // ... unless it changed its user there: execve(2)
        const rlimit none = {0, 0};
        CHECK(setrlimit(RLIMIT_NPROC, &none) == 0);
        int ready[2];
        CHECK(pipe(ready) == 0);
        const pid_t other = fork();
        if (other == 0) {
            CHECK(setresuid(54323, 54323, 54323) == 0 && write(ready[1], "y", 1) == 1);
            for (;;)
                pause();
        }
        char byte = 0;
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK(setresuid(54323, 54323, 54323) == 0);
        CHECK_FAILS(execl("/proc/self/exe", "x", "0", nullptr), EAGAIN);
        CHECK(kill(other, SIGKILL) == 0);
    });
    in_child([] { // processes
        CHECK(setresuid(54321, 54321, 54321) == 0);
        const rlimit few = {3, 3};
        CHECK(setrlimit(RLIMIT_NPROC, &few) == 0);
        pid_t children[3] = {};
        int made = 0;
        while (made < 3 && (children[made] = fork()) > 0)
            made++;
        if (made < 3 && children[made] == 0) {
            for (;;)
                pause();
        }
        CHECK(made == 2 && errno == EAGAIN);
        for (int i = 0; i < made; i++)
            CHECK(kill(children[i], SIGKILL) == 0 &&
                  waitpid(children[i], nullptr, 0) == children[i]);
    });
    in_child([] { // file size
        signal(SIGXFSZ, SIG_IGN);
        const rlimit small = {1000, 1000};
        CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        const int fd = memfd_create("limited", 0);
        char text[2000] = {};
        CHECK(write(fd, text, 2000) == 1000);
        CHECK_FAILS(write(fd, text, 1), EFBIG);
        CHECK_FAILS(ftruncate(fd, 1001), EFBIG);
    });
    const int killed = status_of([] {
        const rlimit small = {1000, 1000};
        CHECK(setrlimit(RLIMIT_FSIZE, &small) == 0);
        const int fd = memfd_create("limited", 0);
        char text[2000] = {};
        (void)!write(fd, text, 2000);
        (void)!write(fd, text, 1);
    });
    CHECK(WIFSIGNALED(killed) && WTERMSIG(killed) == SIGXFSZ);
}

volatile sig_atomic_t warned;

void cpu_limit() {
    // SIGXCPU at the soft limit and each second after, SIGKILL at the hard one.
    const int status = status_of([] {
        signal(SIGXCPU, [](int) { warned = warned + 1; });
        const rlimit limit = {1, 2};
        CHECK(setrlimit(RLIMIT_CPU, &limit) == 0);
        while (warned == 0)
            asm volatile("");
        timespec used = {};
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
        // The limit counts whole ticks, the clock nanoseconds: on a busy machine they differ by a
        // good part.
        CHECK(used.tv_sec * 1000 + used.tv_nsec / 1'000'000 >= 500);
        const rlimit now = {1, 1};
        CHECK(setrlimit(RLIMIT_CPU, &now) == 0);
        for (;;)
            asm volatile("");
    });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

// --- the system

void system_information() {
    utsname names = {};
    CHECK(uname(&names) == 0 && std::string(names.sysname) == "Linux");
    CHECK(std::string(names.machine) == "x86_64" && names.release[0] >= '4');
    CHECK_FAILS(syscall(SYS_uname, 16), EFAULT);
    in_child([] {
        CHECK(setresuid(1000, 1000, 1000) == 0);
        CHECK_FAILS(sethostname("x", 1), EPERM);
        CHECK_FAILS(setdomainname("x", 1), EPERM);
    });
    in_child([] {
        if (unshare(CLONE_NEWUTS) != 0)
            return;
        CHECK(sethostname("joey-test", 9) == 0 && setdomainname("pouch", 5) == 0);
        utsname changed = {};
        CHECK(uname(&changed) == 0);
        CHECK(std::string(changed.nodename) == "joey-test" &&
              std::string(changed.domainname) == "pouch");
        char longest[65];
        std::memset(longest, 'x', sizeof longest);
        CHECK(sethostname(longest, 64) == 0);
        CHECK_FAILS(sethostname(longest, 65), EINVAL);
        CHECK_FAILS(syscall(SYS_sethostname, 16, 5), EFAULT);
        CHECK_FAILS(syscall(SYS_sethostname, longest, -1), EINVAL);
        CHECK(gethostname(longest, sizeof longest) == 0 &&
              std::string(longest) == std::string(64, 'x'));
    });
    struct sysinfo info = {};
    CHECK(sysinfo(&info) == 0 && info.uptime >= 0 && info.mem_unit >= 1);
    CHECK(info.totalram > 0 && info.freeram <= info.totalram && info.procs > 0);
    CHECK_FAILS(syscall(SYS_sysinfo, 16), EFAULT);

    unsigned char bytes[512] = {};
    CHECK(getrandom(bytes, sizeof bytes, 0) == sizeof bytes);
    int zeros = 0;
    for (const unsigned char byte : bytes)
        zeros += byte == 0 ? 1 : 0;
    CHECK(zeros < 20);
    CHECK(getrandom(bytes, 16, GRND_NONBLOCK) == 16 && getrandom(bytes, 16, GRND_RANDOM) == 16);
    CHECK(getrandom(bytes, 0, 0) == 0);
    CHECK_FAILS(getrandom(bytes, 16, 0x100), EINVAL);
    CHECK_FAILS(getrandom(bytes, 16, GRND_RANDOM | GRND_INSECURE), EINVAL);
    CHECK_FAILS(syscall(SYS_getrandom, 16, 16, 0), EFAULT);
    unsigned char again[512];
    CHECK(getrandom(again, sizeof again, 0) == sizeof again);
    CHECK(std::memcmp(bytes, again, sizeof again) != 0);
}

// A timer on the CPU that a long call keeps busy comes in the middle of that call, and its signal
// ends it.
void long_calls() {
    const cpu_set_t before = stay_on_one_cpu();
    struct sigaction action = {};
    action.sa_handler = [](int) {};
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    constexpr size_t piece = 1 << 20, pieces = 1024;
    void* place = mmap(nullptr, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(place != MAP_FAILED);
    const std::vector<iovec> all(pieces, iovec{place, piece});
    const int zeros = open("/dev/zero", O_RDONLY);
    bool cut_short = false;
    for (int tries = 0; tries < 5 && !cut_short; tries++) { // it may come before the call has begun
        const itimerval soon = {{0, 0}, {0, 10'000}};
        CHECK(setitimer(ITIMER_REAL, &soon, nullptr) == 0);
        const ssize_t got = readv(zeros, all.data(), pieces);
        cut_short = got > 0 && got < static_cast<ssize_t>(piece * pieces);
    }
    CHECK(cut_short);
    close(zeros);
    munmap(place, piece);
    signal(SIGALRM, SIG_DFL);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
}

} // namespace

int main(int argc, char** argv) {
    if (argc > 1) // executed by limits(): the process that it left
        return kill(std::atoi(argv[1]), SIGKILL);
    if (getuid() != 0)
        return 0;
    policies();
    attributes();
    priorities();
    affinity();
    cpu_times();
    limits();
    system_information();
    cpu_limit();
    long_calls();
    return 0;
}
