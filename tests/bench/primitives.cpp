// primitives NAME: one figure of the table that bench.sh prints, in nanoseconds per operation.
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/bench/bench.hpp"

namespace {

[[noreturn]] void die(const char* what) {
    std::perror(what);
    std::exit(1);
}

void compute() {
    constexpr std::uint64_t steps = 50'000'000;
    bench::report(7, static_cast<double>(steps), [] {
        std::uint64_t state = 88172645463325252ull;
        for (std::uint64_t i = 0; i < steps; ++i) {
            state ^= state << 13; // xorshift64
            state ^= state >> 7;
            state ^= state << 17;
        }
        asm volatile("" : : "r"(state));
    });
}

void getpid_call() {
    constexpr int calls = 20'000;
    bench::report(15, calls, [] {
        for (int i = 0; i < calls; ++i)
            syscall(SYS_getpid);
    });
}

void pipe_byte() {
    int ends[2];
    if (pipe(ends) != 0)
        die("pipe");
    constexpr int rounds = 10'000;
    bench::report(15, rounds, [&] {
        char byte = 'x';
        for (int i = 0; i < rounds; ++i) {
            if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
                die("pipe");
        }
    });
}

// In order, as a heap grows; each round on fresh memory.
void touch() {
    constexpr std::size_t bytes = 64u << 20;
    constexpr std::size_t page = 4096;
    bench::report(7, static_cast<double>(bytes / page), [] {
        void* memory =
            mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            die("mmap");
        madvise(memory, bytes, MADV_NOHUGEPAGE);
        auto* at = static_cast<volatile char*>(memory);
        for (std::size_t offset = 0; offset < bytes; offset += page)
            at[offset] = 1;
        munmap(memory, bytes);
    });
}

// In no order that anybody could foresee.
void touch_random() {
    constexpr std::uint64_t pages = 16384; // a power of two
    constexpr std::size_t page = 4096;
    bench::report(7, static_cast<double>(pages), [] {
        void* memory =
            mmap(nullptr, pages * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED)
            die("mmap");
        madvise(memory, pages * page, MADV_NOHUGEPAGE);
        auto* at = static_cast<volatile char*>(memory);
        // A full cycle through all numbers below the power of two (Knuth, TAOCP 2, 3.2.1.2).
        std::uint64_t number = 1;
        for (std::uint64_t i = 0; i < pages; ++i) {
            at[number * page] = 1;
            number = (number * 6364136223846793005u + 1442695040888963407u) % pages;
        }
        munmap(memory, pages * page);
    });
}

// From the page cache.
void read_file() {
    const int file = open("/proc/self/exe", O_RDONLY);
    constexpr int reads = 10'000;
    if (file < 0)
        die("open");
    bench::report(15, reads, [&] {
        char buffer[4096];
        for (int i = 0; i < reads; ++i) {
            if (pread(file, buffer, sizeof buffer, 0) != sizeof buffer)
                die("pread");
        }
    });
}

void pin_to_first_cpu() {
    cpu_set_t allowed;
    cpu_set_t one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        die("sched_getaffinity");
    for (std::size_t cpu = 0; CPU_COUNT(&one) == 0; ++cpu) {
        if (CPU_ISSET(cpu, &allowed))
            CPU_SET(cpu, &one);
    }
    if (sched_setaffinity(0, sizeof one, &one) != 0)
        die("sched_setaffinity");
}

// Two processes on one CPU hand a byte to and fro: two switches a round.
void context_switch() {
    pin_to_first_cpu();
    int there[2];
    int back[2];
    if (pipe(there) != 0 || pipe(back) != 0)
        die("pipe");
    const pid_t child = fork();
    if (child < 0)
        die("fork");
    char byte = 'x';
    if (child == 0) {
        close(there[1]);
        while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1)
            continue;
        _exit(0);
    }
    constexpr int rounds = 5'000;
    bench::report(9, 2.0 * rounds, [&] {
        for (int i = 0; i < rounds; ++i) {
            if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1)
                die("pipe");
        }
    });
    close(there[1]);
    waitpid(child, nullptr, 0);
}

// Created, stat'ed, unlinked: per file, in a directory of its own below `parent`.
void small_files(const char* parent) {
    char directory[200];
    std::snprintf(directory, sizeof directory, "%s/joey-bench-XXXXXX", parent);
    if (mkdtemp(directory) == nullptr || chdir(directory) != 0)
        die("mkdtemp");
    constexpr int files = 2'000;
    bench::report(5, files, [] {
        char name[32];
        struct stat status {};
        for (int i = 0; i < files; ++i) {
            std::snprintf(name, sizeof name, "file-%d", i);
            const int file = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
            if (file < 0 || write(file, name, sizeof name) != sizeof name || close(file) != 0)
                die("create");
        }
        for (int i = 0; i < files; ++i) {
            std::snprintf(name, sizeof name, "file-%d", i);
            if (stat(name, &status) != 0)
                die("stat");
        }
        for (int i = 0; i < files; ++i) {
            std::snprintf(name, sizeof name, "file-%d", i);
            if (unlink(name) != 0)
                die("unlink");
        }
    });
    if (rmdir(directory) != 0)
        die("rmdir");
}

// This program itself, which is static, run again with the argument that makes it end at once.
void fork_exec_wait() {
    constexpr int children = 30;
    bench::report(9, children, [] {
        for (int i = 0; i < children; ++i) {
            const pid_t child = fork();
            if (child == 0) {
                execl("/proc/self/exe", "primitives", "nothing", nullptr);
                _exit(127);
            }
            int status = 0;
            if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
                die("exec");
        }
    });
}

void fork_exit_wait() {
    constexpr int children = 50;
    bench::report(9, children, [] {
        for (int i = 0; i < children; ++i) {
            const pid_t child = fork();
            if (child == 0)
                _exit(0);
            int status = 0;
            if (child < 0 || waitpid(child, &status, 0) != child)
                die("fork");
        }
    });
}

// spawn PROGRAM...: fork, exec, wait.
void spawn(char** command) {
    bench::report(9, 1, [&] {
        const pid_t child = fork();
        if (child == 0) {
            execvp(command[0], command);
            _exit(127);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
            die("spawn");
    });
}

} // namespace

int main(int argc, char** argv) {
    const struct {
        const char* name;
        void (*run)();
    } figures[] = {
        {"compute", compute}, {"getpid", getpid_call},    {"pipe", pipe_byte},
        {"touch", touch},     {"fork", fork_exit_wait},   {"exec", fork_exec_wait},
        {"read", read_file},  {"switch", context_switch}, {"touch-random", touch_random}};
    if (argc == 2 && std::strcmp(argv[1], "nothing") == 0)
        return 0;
    if (argc == 3 && std::strcmp(argv[1], "files") == 0) {
        small_files(argv[2]);
        return 0;
    }
    if (argc > 2 && std::strcmp(argv[1], "spawn") == 0) {
        spawn(argv + 2);
        return 0;
    }
    for (const auto& figure : figures) {
        if (argc == 2 && std::strcmp(argv[1], figure.name) == 0) {
            figure.run();
            return 0;
        }
    }
    std::fprintf(stderr,
                 "usage: primitives compute|getpid|pipe|touch|touch-random|fork|exec|read|switch | "
                 "files DIRECTORY | spawn PROGRAM...\n");
    return 2;
}
