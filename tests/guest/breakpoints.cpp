// Breakpoints and watchpoints in the debug registers, by ptrace(2): what may be asked for, what is
// told of a hit, whose they are, and hits in the kernel's entries. Some machines have none that
// work: joey says so with ENOSPC, some hypervisors say nothing; there only the refusals are
// checked.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <pthread.h>
#include <unistd.h>

#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

using Word = std::uintptr_t;

constexpr int trap_trace = 2, trap_hwbkpt = 4;
constexpr Word idle_status = 0xffff0ff0;
constexpr Word write_long = 0x9, write_int = 0xd, access_int = 0xf, ports = 0x2, execute = 0x0;

alignas(64) volatile std::uint64_t watched[8];
alignas(64) volatile unsigned short stack_selector[4];

// DR7 for one breakpoint.
constexpr Word enabled(unsigned n, Word shape) {
    return Word{1} << (2 * n) | shape << (16 + 4 * n);
}

[[gnu::noinline]] void function() {
    asm volatile("nop");
}

long at(unsigned number) {
    return static_cast<long>(offsetof(user, u_debugreg) + 8 * number);
}

template <typename T>
Word address_of(T* of) {
    return reinterpret_cast<Word>(of);
}

struct Tracee {
    template <typename F>
    explicit Tracee(F&& body) {
        std::fflush(nullptr);
        pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
            raise(SIGSTOP);
            body();
            _exit(0);
        }
        expect_stop(SIGSTOP);
    }
    int wait() const {
        int status = 0;
        CHECK(waitpid(pid, &status, __WALL) == pid);
        return status;
    }
    void expect_stop(int signal) const {
        const int status = wait();
        if (!WIFSTOPPED(status) || WSTOPSIG(status) != signal)
            std::fprintf(stderr, "status %x\n", status);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == signal);
    }
    void expect_hit(int code, Word status) const {
        expect_stop(SIGTRAP);
        siginfo_t info = {};
        CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
        if (info.si_code != code || read(6) != status)
            std::fprintf(stderr, "code %d, DR6 %lx\n", info.si_code, read(6));
        CHECK(info.si_code == code && read(6) == status);
        CHECK(address_of(info.si_addr) == registers().rip);
    }
    void go(int request = PTRACE_CONT, int signal = 0) const {
        CHECK(ptrace(static_cast<__ptrace_request>(request), pid, nullptr, signal) == 0);
    }
    void end(int code = 0) const {
        const int status = wait();
        if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
            std::fprintf(stderr, "status %x\n", status);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
    }
    void kill_it() const {
        kill(pid, SIGKILL);
        CHECK(WIFSIGNALED(wait()));
    }
    long write(unsigned number, Word value) const {
        return ptrace(PTRACE_POKEUSER, pid, at(number), value);
    }
    Word read(unsigned number) const {
        errno = 0;
        const long value = ptrace(PTRACE_PEEKUSER, pid, at(number), nullptr);
        CHECK(errno == 0);
        return static_cast<Word>(value);
    }
    user_regs_struct registers() const {
        user_regs_struct out = {};
        CHECK(ptrace(PTRACE_GETREGS, pid, nullptr, &out) == 0);
        return out;
    }
    void set(unsigned number, Word value) const { CHECK(write(number, value) == 0); }

    pid_t pid = 0;
};

void write_watched() {
    watched[0] = watched[0] + 1;
}

bool they_work() {
    const Tracee tracee(write_watched);
    tracee.set(0, address_of(watched));
    if (tracee.write(7, enabled(0, write_long)) != 0) {
        CHECK(errno == ENOSPC);
        tracee.kill_it();
        return false;
    }
    tracee.go();
    const int status = tracee.wait();
    if (WIFSTOPPED(status))
        tracee.kill_it();
    return WIFSTOPPED(status);
}

void refusals() {
    const Tracee tracee([] {});
    for (unsigned n = 0; n < 8; n++)
        CHECK(tracee.read(n) == (n == 6 ? idle_status : 0));
    CHECK_FAILS(tracee.write(4, 0), EIO);
    CHECK_FAILS(tracee.write(5, 0), EIO);
    // The kernel's memory.
    CHECK_FAILS(tracee.write(0, 0xffffffff81000000), EINVAL);
    CHECK_FAILS(tracee.write(0, 0xffff888000100000), EINVAL);
    CHECK_FAILS(tracee.write(0, ~Word{0}), EINVAL);
    CHECK(tracee.read(0) == 0);
    // The shapes of what has an address are checked even while it is not enabled.
    tracee.set(0, address_of(watched) + 1);
    CHECK_FAILS(tracee.write(7, write_int << 16), EINVAL);
    CHECK_FAILS(tracee.write(7, enabled(0, write_long)), EINVAL);
    CHECK_FAILS(tracee.write(7, ports << 16), EINVAL);
    CHECK_FAILS(tracee.write(7, enabled(0, 0x4 | execute)), EINVAL);
    CHECK(tracee.read(7) == 0 && tracee.read(0) == address_of(watched) + 1);
    tracee.set(0, address_of(watched));
    tracee.set(7, write_int << 16);
    CHECK_FAILS(tracee.write(0, address_of(watched) + 2), EINVAL);
    CHECK(tracee.read(0) == address_of(watched) && tracee.read(7) == write_int << 16);
    tracee.set(6, 0x1234567812345678);
    CHECK(tracee.read(6) == 0x1234567812345678);
    tracee.kill_it();
}

void hits() {
    const Tracee tracee([] {
        watched[0] = 1;
        watched[1] = 2;
        if (watched[0] != 1)
            _exit(1);
        function();
        watched[2] = watched[2] + 1;
        raise(SIGSTOP);
        write_watched();
    });
    tracee.set(0, address_of(&watched[0]));
    tracee.set(1, address_of(&function));
    tracee.set(2, address_of(&watched[2]));
    // Enabled as a global one is the same; what else DR7 has is kept and of no use.
    const Word control =
        enabled(0, write_long) | enabled(1, execute) << 1 | enabled(2, access_int) | 0x300;
    tracee.set(7, control);
    CHECK(tracee.read(7) == control);
    tracee.go();
    tracee.expect_hit(trap_hwbkpt, idle_status | 1); // after the write
    errno = 0;
    CHECK(ptrace(PTRACE_PEEKDATA, tracee.pid, &watched[0], nullptr) == 1 && errno == 0);
    tracee.go();
    tracee.expect_hit(trap_hwbkpt, idle_status | 2); // before the instruction, which runs next
    CHECK(tracee.registers().rip == address_of(&function));
    CHECK((tracee.registers().eflags & 0x10000) != 0);
    tracee.go(PTRACE_SINGLESTEP);
    tracee.expect_hit(trap_trace, idle_status | 0x4000);
    CHECK(tracee.registers().rip != address_of(&function));
    tracee.go();
    tracee.expect_hit(trap_hwbkpt, idle_status | 4); // it is read, or read and written at once
    tracee.set(7, control & ~enabled(2, 0));
    tracee.go();
    tracee.expect_stop(SIGSTOP);
    CHECK(tracee.read(6) == (idle_status | 4)); // until the next debug exception
    tracee.set(7, 0);
    tracee.go();
    tracee.end();
}

void not_of_others() {
    const Tracee tracee([] {
        pthread_t thread;
        const auto body = [](void*) -> void* {
            write_watched();
            return nullptr;
        };
        CHECK(pthread_create(&thread, nullptr, body, nullptr) == 0);
        CHECK(pthread_join(thread, nullptr) == 0);
        const pid_t child = fork();
        if (child == 0) {
            write_watched();
            _exit(0);
        }
        int status = -1;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        // What the kernel does with it is not told.
        int ends[2];
        CHECK(pipe(ends) == 0);
        CHECK(::write(ends[1], "01234567", 8) == 8);
        CHECK(::read(ends[0], const_cast<std::uint64_t*>(watched), 8) == 8);
        raise(SIGUSR1);
        for (int i = 0; i < 50; i++) { // it stays with its thread wherever that runs
            usleep(1000);
            watched[1] = watched[1] + 1;
        }
        write_watched();
    });
    tracee.set(0, address_of(watched));
    tracee.set(7, enabled(0, write_long));
    tracee.go();
    int status = tracee.wait();
    while (WIFSTOPPED(status) && WSTOPSIG(status) == SIGCHLD) {
        tracee.go();
        status = tracee.wait();
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    CHECK(tracee.read(6) == idle_status);
    tracee.go();
    tracee.expect_hit(trap_hwbkpt, idle_status | 1);
    tracee.go();
    tracee.end();
}

// execve(2) takes them away; that the tracer goes does not.
void how_long(const char* self) {
    {
        const Tracee tracee([&] {
            execl(self, self, "write", nullptr);
            _exit(9);
        });
        tracee.set(0, address_of(watched));
        tracee.set(7, enabled(0, write_long));
        tracee.go();
        tracee.expect_stop(SIGTRAP);
        CHECK(tracee.read(0) == 0 && tracee.read(6) == idle_status && tracee.read(7) == 0);
        tracee.go();
        tracee.end();
    }
    const Tracee tracee(write_watched);
    tracee.set(0, address_of(watched));
    tracee.set(7, enabled(0, write_long));
    CHECK(ptrace(PTRACE_DETACH, tracee.pid, nullptr, nullptr) == 0);
    const int status = tracee.wait();
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTRAP);
}

// MOV SS puts a hit off until after the next instruction: that may be the first of the kernel.
void in_the_kernels_entries() {
    const Tracee tracee([] {
        unsigned short selector = 0;
        asm volatile("mov %%ss, %0" : "=r"(selector));
        stack_selector[0] = selector;
        raise(SIGSTOP);
        long pid = 39; // getpid
        asm volatile("mov %1, %%ss\n\tsyscall"
                     : "+a"(pid)
                     : "m"(stack_selector[0])
                     : "rcx", "r11", "memory");
        CHECK(pid == getpid());
        asm volatile("mov %0, %%ss\n\tint3" : : "m"(stack_selector[0]) : "memory");
        asm volatile("mov %0, %%ss\n\tud2" : : "m"(stack_selector[0]) : "memory");
    });
    tracee.go();
    tracee.expect_stop(SIGSTOP);
    tracee.set(0, address_of(stack_selector));
    tracee.set(7, enabled(0, 0x7)); // two bytes, read or written
    tracee.go();
    // Whether a hit is told as well depends on the CPU.
    bool illegal = false;
    for (int stops = 0; !illegal && stops < 6; stops++) {
        const int status = tracee.wait();
        CHECK(WIFSTOPPED(status));
        illegal = WSTOPSIG(status) == SIGILL;
        CHECK(illegal || WSTOPSIG(status) == SIGTRAP);
        if (!illegal)
            tracee.go();
    }
    CHECK(illegal);
    tracee.kill_it();
}

// Without breakpoints DR6 tells of steps all the same.
void steps() {
    const Tracee tracee([] {});
    tracee.go(PTRACE_SINGLESTEP);
    tracee.expect_hit(trap_trace, idle_status | 0x4000);
    tracee.kill_it();
}

} // namespace

int main(int count, char** arguments) {
    if (count > 1 && strcmp(arguments[1], "write") == 0) {
        write_watched();
        return 0;
    }
    refusals();
    steps();
    if (!they_work()) {
        std::fprintf(stderr, "no breakpoints here that work\n");
        // "all": where they must.
        return count > 1 && strcmp(arguments[1], "all") == 0 ? 1 : 0;
    }
    hits();
    not_of_others();
    how_long(arguments[0]);
    in_the_kernels_entries();
}
