// Random system calls with hostile arguments, by several processes at once: the kernel must neither
// end nor stand still nor grow, and every process must be killable. For the inside of a VM only
// (storm.sh says how); the seed of each round is told before it, and `--seed N --rounds 1 --trace`
// makes the same calls again.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <fstream>
#include <grp.h>
#include <iterator>
#include <new>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <string_view>
#include <unistd.h>

#include <asm/unistd_64.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/fuzz/storm/values.hpp"

namespace {

using storm::Values;

struct Call {
    const char* name;
    long number;
    const char* arguments;
};
#define CALL(name, arguments) {#name, __NR_##name, arguments},
const Call calls[] = {
#include "tests/fuzz/storm/calls.def"
};
#undef CALL

struct Options {
    std::uint64_t seed = 1;
    std::uint64_t rounds = 20;
    std::uint64_t calls = 2000; // of each process at most
    std::uint64_t lives = 24;   // processes in a round
    bool trace = false;
    std::string_view only; // a call's name
};

[[noreturn]] void die(const char* what) {
    std::fprintf(stderr, "storm: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

double now() {
    timespec time{};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

bool write_file(const std::string& path, std::string_view text) {
    const int file = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    const bool written =
        ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::close(file);
    return written;
}

// ---- one worker

constexpr int trace_descriptor = 1000;
// Calls that came back, in memory that all processes share.
std::atomic<std::uint64_t>* calls_made;

void tell(const Call& call, const std::uint64_t (&values)[6]) {
    char line[256];
    const int length = std::snprintf(line, sizeof line, "%ld %s(%lx, %lx, %lx, %lx, %lx, %lx)\n",
                                     ::syscall(__NR_gettid), call.name, values[0], values[1],
                                     values[2], values[3], values[4], values[5]);
    ::syscall(__NR_write, trace_descriptor, line, length);
}

// Calls that wait go on: a signal interrupts them again and again, unless a call of ours has seen
// to that; and few signals are the end.
void keep_going() {
    struct sigaction action {};
    action.sa_handler = [](int) {};
    for (int signal = 1; signal <= SIGRTMAX; ++signal) {
        if (signal != SIGSEGV && signal != SIGBUS && signal != SIGILL && signal != SIGFPE)
            ::sigaction(signal, &action, nullptr);
    }
    const itimerval often{{0, 20000}, {0, 20000}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
}

void make_calls(const Options& options, std::uint64_t seed) {
    Values values(seed);
    for (std::uint64_t made = 0; made < options.calls; ++made) {
        const Call& call = calls[values.random().below(std::size(calls))];
        std::uint64_t arguments[6] = {};
        const std::size_t count = std::strlen(call.arguments);
        for (std::size_t index = 0; index < count; ++index)
            arguments[index] = values.argument(call.arguments[index]);
        for (std::size_t index = count; index < std::size(arguments); ++index)
            arguments[index] = values.argument('r');
        if (!options.only.empty() && options.only != call.name)
            continue;
        // Of the calls that few processes survive, one now and then.
        if ((call.number == __NR_rt_sigreturn || call.number == __NR_pause) &&
            !values.random().one_in(32))
            continue;
        if (made % 16 == 0)
            keep_going();
        if (options.trace)
            tell(call, arguments);
        // A new process lives for a moment on its parent's stack, if it has to, and says nothing.
        const long result = ::syscall(call.number, arguments[0], arguments[1], arguments[2],
                                      arguments[3], arguments[4], arguments[5]);
        if (result == 0 && (call.number == __NR_fork || call.number == __NR_vfork ||
                            call.number == __NR_clone || call.number == __NR_clone3))
            ::syscall(__NR_exit, 0);
        ++*calls_made;
        values.learn(call.number, result);
    }
}

struct ThreadWork {
    const Options* options;
    std::uint64_t seed;
};

[[noreturn]] void worker(const Options& options, std::uint64_t seed, std::uint64_t index) {
    if (options.trace)
        ::dup2(2, trace_descriptor);
    const int nothing = ::open("/dev/null", O_RDWR);
    for (int stream = 0; stream < 3; ++stream)
        ::dup2(nothing, stream);
    if (index % 4 == 1 && (::setgroups(0, nullptr) != 0 || ::setresgid(65534, 65534, 65534) != 0 ||
                           ::setresuid(65534, 65534, 65534) != 0))
        ::_exit(1);
    if (index % 4 == 2)
        ::unshare(CLONE_NEWUSER);
    if (index % 4 == 3) {
        // Two threads, with memory, descriptors and signals in common.
        static ThreadWork work;
        work = {&options, seed ^ 0x5555};
        pthread_t thread;
        pthread_create(
            &thread, nullptr,
            [](void* argument) -> void* {
                const auto& mine = *static_cast<const ThreadWork*>(argument);
                make_calls(*mine.options, mine.seed);
                return nullptr;
            },
            &work);
    }
    make_calls(options, seed);
    ::_exit(0);
}

// ---- one round: process 1 of its own namespaces

constexpr double round_seconds = 6;
constexpr std::uint64_t at_once = 4;

[[noreturn]] void round_body(const Options& options, std::uint64_t seed) {
    ::setsid();
    ::close_range(3, ~0u, 0); // the supervisor's
    // Else the mounts of the workers would be seen outside.
    if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", "/tmp", "tmpfs", 0, "size=16m,mode=1777") != 0 || ::chdir("/tmp") != 0)
        ::_exit(3);
    ::mount("proc", "/proc", "proc", 0, nullptr);
    const rlimit memory{1ul << 30, 1ul << 30}, file{1ul << 24, 1ul << 24}, core{0, 0};
    ::setrlimit(RLIMIT_AS, &memory);
    ::setrlimit(RLIMIT_FSIZE, &file);
    ::setrlimit(RLIMIT_CORE, &core);
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, nullptr);
    const double deadline = now() + round_seconds;
    std::uint64_t started = 0, running = 0;
    while (now() < deadline && (running > 0 || started < options.lives)) {
        for (; running < at_once && started < options.lives; ++started) {
            const pid_t pid = ::fork();
            if (pid == 0)
                worker(options, seed * options.lives + started, started);
            running += pid > 0 ? 1 : 0;
        }
        const timespec moment{0, 100000000};
        sigtimedwait(&child, nullptr, &moment);
        int status = 0;
        for (pid_t pid; running > 0 && (pid = ::waitpid(-1, &status, WNOHANG)) > 0; --running) {
            if (options.trace) // orphans count, too: it only means more at once
                std::fprintf(stderr, "%d ended: %x\n", pid, status);
        }
    }
    ::_exit(0); // and takes all the others along
}

// ---- the supervisor

constexpr const char* storm_group = "/sys/fs/cgroup/storm";

void tell_where_it_stands(pid_t pid) {
    for (const char* name : {"status", "stack", "wchan", "syscall"}) {
        std::ifstream file("/proc/" + std::to_string(pid) + "/" + name);
        std::string text((std::istreambuf_iterator<char>(file)), {});
        std::fprintf(stderr, "-- %s\n%s\n", name, text.c_str());
    }
}

int start_round(void* argument) {
    const auto& work = *static_cast<ThreadWork*>(argument);
    round_body(*work.options, work.seed);
}

void run_round(const Options& options, std::uint64_t seed) {
    alignas(16) static char stack[64 << 10];
    ThreadWork work{&options, seed};
    constexpr int namespaces =
        CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;
    const pid_t pid = ::clone(start_round, stack + sizeof stack, namespaces | SIGCHLD, &work);
    if (pid < 0)
        die("clone");
    write_file(std::string(storm_group) + "/cgroup.procs", std::to_string(pid));
    int status = 0;
    const double deadline = now() + round_seconds * 3;
    while (::waitpid(pid, &status, WNOHANG) == 0) {
        if (now() > deadline) {
            ::kill(pid, SIGKILL);
            if (now() > deadline + 20) {
                std::fprintf(stderr, "storm: the processes of seed %lu cannot be killed\n", seed);
                tell_where_it_stands(pid);
                std::exit(1);
            }
        }
        const timespec moment{0, 20000000};
        ::nanosleep(&moment, nullptr);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
        std::fprintf(stderr, "storm: a round could not be prepared (%d)\n", WEXITSTATUS(status));
        std::exit(1);
    }
    write_file(std::string(storm_group) + "/cgroup.kill", "1");
}

// A copy of this program: its file is within the reach of the workers (chmod).
int copy_of_program() {
    const int from = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    const int to = ::memfd_create("canary", MFD_CLOEXEC);
    if (from < 0 || to < 0)
        die("copy this program");
    while (::sendfile(to, from, nullptr, 1 << 20) > 0) {
    }
    ::close(from);
    return to;
}

// What a user of the machine wants to do in the meantime.
void use_the_machine(int program) {
    const std::string name = "/tmp/storm-canary";
    std::ofstream(name) << "still here";
    std::string text;
    std::ifstream(name) >> text;
    if (text != "still" || ::unlink(name.c_str()) != 0)
        die("a file does not come back as it was written");
    const pid_t pid = ::fork();
    if (pid == 0) {
        const char* const arguments[] = {"storm", "--canary", nullptr};
        ::syscall(__NR_execveat, program, "", arguments, nullptr, AT_EMPTY_PATH);
        ::_exit(1);
    }
    int status = 0;
    if (pid < 0 || ::waitpid(pid, &status, 0) != pid)
        die("a program cannot be run");
    if (status != 0) {
        std::fprintf(stderr, "storm: a program that does nothing ended with %x\n", status);
        std::exit(1);
    }
}

// KiB of memory that nothing uses once the caches are empty.
long free_memory() {
    ::sync();
    write_file("/proc/sys/vm/drop_caches", "3");
    std::ifstream file("/proc/meminfo");
    std::string word;
    while (file >> word) {
        if (word == "MemFree:") {
            long kib = 0;
            file >> kib;
            return kib;
        }
    }
    return 0;
}

Options parse(int argc, char** argv) {
    Options options;
    for (int index = 1; index < argc; ++index) {
        const std::string_view name = argv[index];
        const char* value = index + 1 < argc ? argv[index + 1] : "";
        if (name == "--canary")
            std::exit(0);
        if (name == "--trace") {
            options.trace = true;
            continue;
        }
        ++index;
        if (name == "--seed")
            options.seed = std::strtoull(value, nullptr, 10);
        else if (name == "--rounds")
            options.rounds = std::strtoull(value, nullptr, 10);
        else if (name == "--calls")
            options.calls = std::strtoull(value, nullptr, 10);
        else if (name == "--lives")
            options.lives = std::strtoull(value, nullptr, 10);
        else if (name == "--only")
            options.only = value;
        else {
            std::fprintf(
                stderr,
                "storm: usage: storm [--seed N] [--rounds N] [--lives N] [--calls N] [--only "
                "CALL] [--trace]\n");
            std::exit(2);
        }
    }
    return options;
}

} // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    utsname machine{};
    ::uname(&machine);
    if (std::strstr(machine.version, "Joey") == nullptr) {
        std::fprintf(stderr, "storm: this is not the inside of a VM of joey's, and random system "
                             "calls as root would ruin it\n");
        return 2;
    }
    write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids");
    if (::mkdir(storm_group, 0755) == 0 || errno == EEXIST) {
        write_file(std::string(storm_group) + "/pids.max", "120");
        write_file(std::string(storm_group) + "/memory.max", "160M");
    }
    void* shared = ::mmap(nullptr, sizeof *calls_made, PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        die("mmap");
    calls_made = new (shared) std::atomic<std::uint64_t>(0);
    const int program = copy_of_program();
    long first = 0;
    const std::uint64_t warm = options.rounds / 2; // tables have grown to their size by then
    for (std::uint64_t round = 0; round < options.rounds; ++round) {
        std::printf("seed %lu (%lu calls before)\n", options.seed + round, calls_made->load());
        std::fflush(stdout);
        run_round(options, options.seed + round);
        use_the_machine(program);
        if (round == warm)
            first = free_memory();
    }
    const long lost = first - free_memory();
    const auto counted = static_cast<long>(options.rounds - warm - 1);
    std::printf("%lu rounds; %ld KiB less memory after %ld of them\n", options.rounds, lost,
                counted);
    // What is handed back a moment later, and a page a round for what tables still grow.
    if (counted > 0 && lost > 768 + 4 * counted) {
        std::fprintf(stderr, "storm: memory does not come back\n");
        return 1;
    }
    return 0;
}
