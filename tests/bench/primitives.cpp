// primitives NAME: one figure of the table that bench.sh prints, in nanoseconds per operation.
#include <cstdlib>
#include <cstring>
#include <unistd.h>

#include <sys/mman.h>
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
    } figures[] = {{"compute", compute},
                   {"getpid", getpid_call},
                   {"pipe", pipe_byte},
                   {"touch", touch},
                   {"fork", fork_exit_wait}};
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
    std::fprintf(stderr, "usage: primitives compute|getpid|pipe|touch|fork | spawn PROGRAM...\n");
    return 2;
}
