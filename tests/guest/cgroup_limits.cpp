// Control groups version 2: the controllers cpu, cpuset, memory and pids limit and account.
//
// Needs those controllers in the version 2 hierarchy, in a group that may give them to children:
// the root. Inside that is so; on hosts that keep them in version 1, or run this in a container,
// only what is offered is tested, which may be nothing.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string>
#include <time.h>
#include <unistd.h>

#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/cgroup_support.hpp"

namespace {

const std::string root = "/sys/fs/cgroup";

long number(const std::string& path) {
    return atol(slurp(path).c_str());
}

std::string make(const std::string& name) {
    const std::string path = root + "/guest-limits-" + std::to_string(getpid()) + "-" + name;
    CHECK(mkdir(path.c_str(), 0755) == 0);
    return path;
}

void remove_group(const std::string& path) {
    for (int i = 0; i < 2000 && rmdir(path.c_str()) != 0; i++) {
        CHECK(errno == EBUSY);
        usleep(1000);
    }
    CHECK(access(path.c_str(), F_OK) == -1);
}

bool offers(const char* controller) {
    return (" " + slurp(root + "/cgroup.controllers")).find(controller) != std::string::npos;
}

template <typename F>
pid_t spawn(const std::string& group, F&& work) {
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        if (put(group + "/cgroup.procs", "0") != 0)
            _exit(99);
        work();
        _exit(0);
    }
    return pid;
}

int wait_for(pid_t pid) {
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    return status;
}

long now_us() {
    timespec t = {};
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1'000'000 + t.tv_nsec / 1000;
}

void spin_for(long us) {
    const long end = now_us() + us;
    while (now_us() < end)
        ;
}

void test_pids() {
    const std::string a = make("pids");
    CHECK(slurp(a + "/pids.max") == "max\n" && number(a + "/pids.current") == 0);
    CHECK_FAILS(put(a + "/pids.max", "-1"), EINVAL);
    CHECK_FAILS(put(a + "/pids.max", "few"), EINVAL);
    CHECK(put(a + "/pids.max", "3") == 0 && slurp(a + "/pids.max") == "3\n");
    const pid_t child = spawn(a, [&] {
        CHECK(number(a + "/pids.current") == 1);
        pid_t first = fork();
        if (first == 0)
            for (;;)
                pause();
        pid_t second = fork();
        if (second == 0)
            for (;;)
                pause();
        CHECK(first > 0 && second > 0 && number(a + "/pids.current") == 3);
        CHECK_FAILS(fork(), EAGAIN);
        CHECK(kill(first, SIGKILL) == 0);
        // A zombie has its number until it is waited for.
        siginfo_t info = {};
        CHECK(waitid(P_PID, static_cast<id_t>(first), &info, WEXITED | WNOWAIT) == 0);
        CHECK(waitpid(first, nullptr, 0) == first);
        CHECK(number(a + "/pids.current") == 2);
        const pid_t third = fork();
        if (third == 0)
            _exit(0);
        CHECK(third > 0 && waitpid(third, nullptr, 0) == third);
        CHECK(kill(second, SIGKILL) == 0 && waitpid(second, nullptr, 0) == second);
    });
    CHECK(wait_for(child) == 0);
    CHECK(figure(a + "/pids.events", "max") == 1);
    CHECK(number(a + "/pids.peak") == 3 && number(a + "/pids.current") == 0);
    // Whoever is moved in is not refused, but cannot fork.
    CHECK(put(a + "/pids.max", "0") == 0);
    CHECK(wait_for(spawn(a, [] { CHECK_FAILS(fork(), EAGAIN); })) == 0);
    remove_group(a);
}

void test_cpu_max() {
    const std::string a = make("max");
    CHECK(slurp(a + "/cpu.max") == "max 100000\n");
    CHECK_FAILS(put(a + "/cpu.max", "10"), EINVAL);
    CHECK_FAILS(put(a + "/cpu.max", "10000 10"), EINVAL);
    CHECK_FAILS(put(a + "/cpu.max", "x"), EINVAL);
    CHECK(put(a + "/cpu.max", "5000 25000") == 0 && slurp(a + "/cpu.max") == "5000 25000\n");
    CHECK(wait_for(spawn(a, [] { spin_for(400'000); })) == 0);
    const long used = figure(a + "/cpu.stat", "usage_usec");
    // A fifth of 400 ms, give or take the periods at both ends.
    CHECK(used > 30'000 && used < 160'000);
    CHECK(figure(a + "/cpu.stat", "nr_throttled") >= 3);
    CHECK(figure(a + "/cpu.stat", "nr_periods") >= figure(a + "/cpu.stat", "nr_throttled"));
    CHECK(figure(a + "/cpu.stat", "throttled_usec") > 100'000);
    CHECK(put(a + "/cpu.max", "max") == 0 && slurp(a + "/cpu.max") == "max 25000\n");
    remove_group(a);
}

void test_cpu_weight() {
    const std::string light = make("light");
    const std::string heavy = make("heavy");
    CHECK(slurp(light + "/cpu.weight") == "100\n" && slurp(light + "/cpu.weight.nice") == "0\n");
    CHECK_FAILS(put(light + "/cpu.weight", "0"), ERANGE);
    CHECK_FAILS(put(light + "/cpu.weight", "10001"), ERANGE);
    CHECK_FAILS(put(light + "/cpu.weight.nice", "20"), ERANGE);
    CHECK(put(light + "/cpu.weight.nice", "-3") == 0 && slurp(light + "/cpu.weight") == "194\n");
    CHECK(put(light + "/cpu.weight", "100") == 0);
    CHECK(put(heavy + "/cpu.weight", "400") == 0 && slurp(heavy + "/cpu.weight") == "400\n");
    // All on one CPU; two in the light group share its part.
    const auto busy = [] {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(0, &one);
        CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
        spin_for(500'000);
    };
    const pid_t pids[] = {spawn(light, busy), spawn(light, busy), spawn(heavy, busy)};
    for (const pid_t pid : pids)
        CHECK(wait_for(pid) == 0);
    const long few = figure(light + "/cpu.stat", "usage_usec");
    const long many = figure(heavy + "/cpu.stat", "usage_usec");
    CHECK(few > 0 && many > 2 * few && many < 8 * few);
    remove_group(light);
    remove_group(heavy);
}

void test_cpuset() {
    const std::string a = make("set");
    cpu_set_t before;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    if (CPU_COUNT(&before) < 2 || !CPU_ISSET(0, &before) || !CPU_ISSET(1, &before)) {
        remove_group(a);
        return;
    }
    CHECK(slurp(a + "/cpuset.cpus") == "\n");
    CHECK_FAILS(put(a + "/cpuset.cpus", "x"), EINVAL);
    CHECK_FAILS(put(a + "/cpuset.cpus", "1-0"), EINVAL);
    CHECK(put(a + "/cpuset.cpus", "1") == 0);
    CHECK(slurp(a + "/cpuset.cpus") == "1\n" && slurp(a + "/cpuset.cpus.effective") == "1\n");
    CHECK(slurp(a + "/cpuset.mems.effective") == "0\n");
    CHECK(wait_for(spawn(a, [&] {
              cpu_set_t set;
              CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
              CHECK(CPU_COUNT(&set) == 1 && CPU_ISSET(1, &set));
              CPU_ZERO(&set);
              CPU_SET(0, &set);
              CHECK_FAILS(sched_setaffinity(0, sizeof set, &set), EINVAL);
              CHECK(sched_getcpu() == 1);
              // The change reaches those who are in it.
              CHECK(put(a + "/cpuset.cpus", "0") == 0);
              CHECK(sched_getaffinity(0, sizeof set, &set) == 0);
              CHECK(CPU_COUNT(&set) == 1 && CPU_ISSET(0, &set) && sched_getcpu() == 0);
          })) == 0);
    remove_group(a);
}

constexpr size_t mega = 1 << 20;

void touch(size_t bytes) {
    char* memory = static_cast<char*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    CHECK(memory != MAP_FAILED);
    for (size_t i = 0; i < bytes; i += 4096)
        memory[i] = 1;
}

// Who needs memory waits for the victim to end, however long that takes: here its tracer holds it.
// The limit is 16 MiB.
void test_slow_victim(const std::string& group) {
    const pid_t victim = spawn(group, [] {
        CHECK(put("/proc/self/oom_score_adj", "1000") == 0);
        CHECK(raise(SIGSTOP) == 0);
        touch(10 * mega);
        for (;;)
            pause();
    });
    int status = 0;
    CHECK(waitpid(victim, &status, WUNTRACED) == victim && WIFSTOPPED(status));
    CHECK(ptrace(PTRACE_SEIZE, victim, nullptr, PTRACE_O_TRACEEXIT) == 0);
    CHECK(kill(victim, SIGCONT) == 0);
    while (number(group + "/memory.current") < long{10 * mega}) {
        // The stops of the signal itself.
        if (waitpid(victim, &status, WNOHANG) == victim)
            CHECK(WIFSTOPPED(status) && ptrace(PTRACE_CONT, victim, nullptr, nullptr) == 0);
        usleep(1000);
    }
    const pid_t patient = spawn(group, [] {
        CHECK(put("/proc/self/oom_score_adj", "-1000") == 0); // it is the other one that has to end
        touch(10 * mega);
    });
    do {
        CHECK(waitpid(victim, &status, 0) == victim && WIFSTOPPED(status));
        const bool ends = status >> 16 == PTRACE_EVENT_EXIT;
        if (ends)
            usleep(1'000'000);
        CHECK(ptrace(PTRACE_CONT, victim, nullptr, nullptr) == 0);
        if (ends)
            break;
    } while (true);
    const int ended = wait_for(victim);
    CHECK(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
    CHECK(wait_for(patient) == 0);
}

// Fills the group with single pages up to less than 32 of them below its limit.
void fill(const std::string& group, long limit) {
    for (;;) {
        const long room = limit - number(group + "/memory.current") - long{32 * 4096};
        if (room <= 0)
            return;
        const size_t bytes = static_cast<size_t>(room + 4095) / 4096 * 4096;
        char* memory = static_cast<char*>(
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        CHECK(memory != MAP_FAILED && madvise(memory, bytes, MADV_RANDOM) == 0);
        for (size_t i = 0; i < bytes; i += 4096)
            memory[i] = 1;
    }
}

// Does `work` in the group, whose limit is 16 MiB, while another process there has 6 of them and is
// the one to end for memory.
template <typename F>
void beside_victim(const std::string& group, F&& work) {
    int ready[2];
    CHECK(pipe(ready) == 0);
    const pid_t victim = spawn(group, [&] {
        CHECK(put("/proc/self/oom_score_adj", "1000") == 0);
        touch(6 * mega);
        CHECK(write(ready[1], "x", 1) == 1);
        for (;;)
            pause();
    });
    char byte = 0;
    CHECK(read(ready[0], &byte, 1) == 1);
    CHECK(wait_for(spawn(group, [&] {
              CHECK(put("/proc/self/oom_score_adj", "-1000") == 0);
              work();
          })) == 0);
    CHECK(kill(victim, SIGKILL) == 0 && wait_for(victim) == SIGKILL);
    close(ready[0]);
    close(ready[1]);
}

// A child's page tables are to be had at the limit, too.
void test_fork_at_limit(const std::string& group) {
    beside_victim(group, [&] {
        // A page table for each page.
        constexpr size_t step = 2 * mega, tables = 80;
        char* sparse = static_cast<char*>(mmap(nullptr, tables * step, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        CHECK(sparse != MAP_FAILED && madvise(sparse, tables * step, MADV_RANDOM) == 0);
        for (size_t i = 0; i < tables; i++)
            sparse[i * step] = 1;
        fill(group, 16 * mega);
        const pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            for (size_t i = 0; i < tables; i++)
                CHECK(sparse[i * step] == 1);
            _exit(0);
        }
        CHECK(wait_for(child) == 0);
    });
}

// Neither does a socket refuse what it has room for.
void test_datagrams_at_limit(const std::string& group) {
    beside_victim(group, [&] {
        sockaddr_in here = {};
        here.sin_family = AF_INET;
        here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof here;
        const int to = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        const int from = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        auto* address = reinterpret_cast<sockaddr*>(&here);
        CHECK(bind(to, address, length) == 0 && getsockname(to, address, &length) == 0);
        const std::string data(30'000, 'd');
        fill(group, 16 * mega);
        for (int i = 0; i < 40; i++) // most find the other's buffer full, and are dropped
            CHECK(sendto(from, data.data(), data.size(), 0, address, length) ==
                  static_cast<ssize_t>(data.size()));
    });
}

// A write to memory.peak starts it anew for who reads by the same open file (Linux 6.12).
void test_peak(const std::string& group) {
    const std::string file = group + "/memory.peak";
    const auto read_from = [](int fd) {
        char text[32] = {};
        CHECK(pread(fd, text, sizeof text - 1, 0) > 0);
        return atol(text);
    };
    const long whole = number(file);
    const int first = open(file.c_str(), O_RDWR | O_CLOEXEC);
    if (first < 0 && errno == EACCES) // an older Linux
        return;
    const int second = open(file.c_str(), O_RDWR | O_CLOEXEC);
    CHECK(first >= 0 && second >= 0);
    CHECK(write(first, "x", 1) == 1 && read_from(first) < long{4 * mega});
    CHECK(read_from(second) == whole);
    CHECK(wait_for(spawn(group, [] { touch(6 * mega); })) == 0);
    CHECK(read_from(first) > long{6 * mega} && read_from(first) < whole);
    CHECK(write(second, "x", 1) == 1 && read_from(second) < long{4 * mega});
    CHECK(read_from(first) > long{6 * mega});
    CHECK(number(file) == whole);
    close(first);
    CHECK(wait_for(spawn(group, [] { touch(mega); })) == 0);
    CHECK(read_from(second) > long{mega} && read_from(second) < long{6 * mega});
    close(second);
}

void test_memory() {
    const std::string a = make("mem");
    CHECK(number(a + "/memory.current") == 0 && slurp(a + "/memory.max") == "max\n");
    CHECK_FAILS(put(a + "/memory.max", "-1"), EINVAL);
    CHECK_FAILS(put(a + "/memory.max", "much"), EINVAL);
    CHECK(put(a + "/memory.max", "1G") == 0 && slurp(a + "/memory.max") == "1073741824\n");
    CHECK(wait_for(spawn(a, [&] {
              touch(8 * mega);
              CHECK(number(a + "/memory.current") > long{8 * mega});
              CHECK(figure(a + "/memory.stat", "anon") >= long{8 * mega});
              const pid_t sleeper = fork();
              if (sleeper == 0)
                  for (;;)
                      pause();
              CHECK(figure(a + "/memory.stat", "kernel_stack") > 0);
              CHECK(kill(sleeper, SIGKILL) == 0 && waitpid(sleeper, nullptr, 0) == sleeper);
              CHECK(figure(a + "/memory.stat", "pagetables") > 0);
              const int fd = static_cast<int>(syscall(SYS_memfd_create, "m", 0));
              CHECK(fd >= 0);
              const std::string data(4 * mega, 'x');
              CHECK(write(fd, data.data(), data.size()) == static_cast<ssize_t>(data.size()));
              CHECK(figure(a + "/memory.stat", "shmem") >= long{4 * mega});
          })) == 0);
    CHECK(number(a + "/memory.peak") > long{12 * mega});
    CHECK(number(a + "/memory.current") < long{4 * mega});

    test_peak(a);

    // Beyond the limit somebody in the group ends, and nobody else.
    CHECK(put(a + "/memory.max", std::to_string(16 * mega)) == 0);
    const int status = wait_for(spawn(a, [] { touch(64 * mega); }));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    CHECK(figure(a + "/memory.events", "oom_kill") >= 1);
    CHECK(figure(a + "/memory.events", "max") >= 1);
    CHECK(number(a + "/memory.peak") <= long{32 * mega});

    test_slow_victim(a);
    test_fork_at_limit(a);
    test_datagrams_at_limit(a);

    // The whole group at once.
    CHECK(put(a + "/memory.oom.group", "1") == 0);
    const pid_t bystander = spawn(a, [] {
        for (;;)
            pause();
    });
    // But who is protected (cgroup-v2.rst, memory.oom.group).
    const pid_t guarded = spawn(a, [] {
        CHECK(put("/proc/self/oom_score_adj", "-1000") == 0);
        for (;;)
            pause();
    });
    const std::string adjustment = "/proc/" + std::to_string(guarded) + "/oom_score_adj";
    for (int i = 0; i < 5000 && slurp(adjustment) != "-1000\n"; i++)
        usleep(1000);
    const pid_t glutton = spawn(a, [] { touch(64 * mega); });
    for (const pid_t pid : {bystander, glutton}) {
        const int ended = wait_for(pid);
        CHECK(WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
    }
    CHECK(figure(a + "/memory.events", "oom_group_kill") >= 1);
    CHECK(waitpid(guarded, nullptr, WNOHANG) == 0);
    CHECK(kill(guarded, SIGKILL) == 0 && wait_for(guarded) == SIGKILL);
    remove_group(a);

    // memory.high slows down, and does not kill.
    const std::string b = make("high");
    CHECK(put(b + "/memory.high", std::to_string(4 * mega)) == 0);
    CHECK(wait_for(spawn(b, [] { touch(5 * mega); })) == 0);
    CHECK(figure(b + "/memory.events", "high") >= 1);
    CHECK(figure(b + "/memory.events", "oom_kill") == 0);
    remove_group(b);
}

// What is below counts above.
void test_hierarchy() {
    const std::string a = make("top");
    CHECK_FAILS(put(a + "/cgroup.subtree_control", "+nonsense"), EINVAL);
    CHECK(put(a + "/cgroup.subtree_control", "+pids +memory") == 0);
    CHECK(mkdir((a + "/leaf").c_str(), 0755) == 0);
    CHECK_FAILS(put(a + "/leaf/cgroup.subtree_control", "+cpu"), ENOENT);
    CHECK(access((a + "/leaf/cpu.weight").c_str(), F_OK) == -1);
    CHECK(access((a + "/leaf/pids.max").c_str(), F_OK) == 0);
    // No processes beside controllers.
    CHECK(wait_for(spawn(root, [&] { CHECK_FAILS(put(a + "/cgroup.procs", "0"), EBUSY); })) == 0);
    CHECK(put(a + "/pids.max", "1") == 0);
    CHECK(wait_for(spawn(a + "/leaf", [&] {
              CHECK(number(a + "/pids.current") == 1);
              CHECK_FAILS(fork(), EAGAIN);
              CHECK_FAILS(put(a + "/leaf/cgroup.subtree_control", "+memory"), EBUSY);
              touch(2 * mega);
              CHECK(number(a + "/memory.current") >= long{2 * mega});
              spin_for(3'000);
          })) == 0);
    CHECK(figure(a + "/cpu.stat", "usage_usec") >= 3'000);
    CHECK(put(a + "/cgroup.subtree_control", "-pids -memory") == 0);
    CHECK(access((a + "/leaf/pids.max").c_str(), F_OK) == -1);
    remove_group(a + "/leaf");
    remove_group(a);
}

} // namespace

int main() {
    if (access((root + "/cgroup.controllers").c_str(), F_OK) != 0) {
        printf("no version 2 hierarchy at %s: nothing tested\n", root.c_str());
        return 0;
    }
    const std::string before = slurp(root + "/cgroup.subtree_control");
    bool all = true;
    for (const char* name : {"cpu", "cpuset", "memory", "pids"})
        all = all && offers(name) &&
              put(root + "/cgroup.subtree_control", std::string("+") + name) == 0;
    if (!all) {
        printf("the controllers are not to be had here: nothing tested\n");
        return 0;
    }
    test_pids();
    test_cpu_max();
    test_cpu_weight();
    test_cpuset();
    test_memory();
    test_hierarchy();
    for (const char* name : {"cpu", "cpuset", "memory", "pids"})
        if (before.find(name) == std::string::npos)
            (void)put(root + "/cgroup.subtree_control", std::string("-") + name);
    printf("ok\n");
    return 0;
}
