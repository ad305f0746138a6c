// ptrace(2): every request, every kind of stop, what wait(2) tells of them, and who may trace whom.
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <elf.h>
#include <fcntl.h>
#include <initializer_list>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "tests/guest/check.hpp"

namespace {

template <typename F>
pid_t start(F&& body) {
    std::fflush(nullptr);
    const pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        body();
        _exit(0);
    }
    return pid;
}

template <typename F>
pid_t start_traced(F&& body) {
    const pid_t pid = start([&] {
        CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
        raise(SIGSTOP);
        body();
    });
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    return pid;
}

long request(int what, pid_t pid, std::uintptr_t address, std::uintptr_t data) {
    return ptrace(static_cast<__ptrace_request>(what), pid, reinterpret_cast<void*>(address),
                  reinterpret_cast<void*>(data));
}

int wait_for(pid_t pid) {
    int status = 0;
    const pid_t got = waitpid(pid, &status, __WALL);
    CHECK(got == pid);
    return status;
}

void expect_stop(pid_t pid, int code) {
    const int status = wait_for(pid);
    if (!WIFSTOPPED(status) || status >> 8 != code)
        std::fprintf(stderr, "status %x, expected stop code %x\n", status, code);
    CHECK(WIFSTOPPED(status) && status >> 8 == code);
}

void expect_exit(pid_t pid, int code) {
    const int status = wait_for(pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
        std::fprintf(stderr, "status %x, expected exit code %d\n", status, code);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

void finish(pid_t pid) {
    kill(pid, SIGKILL);
    int status = 0;
    while (waitpid(pid, &status, __WALL) == pid && !WIFSIGNALED(status) && !WIFEXITED(status)) {
    }
}

user_regs_struct registers(pid_t pid) {
    user_regs_struct regs = {};
    CHECK(ptrace(PTRACE_GETREGS, pid, nullptr, &regs) == 0);
    return regs;
}

volatile long shared_word = 0x1122334455667788;

void memory_and_registers() {
    const pid_t pid = start_traced([] {
        if (shared_word != 42)
            _exit(1);
        asm volatile("mov $7, %%r12; .globl here_is_a_breakpoint; here_is_a_breakpoint: int3; mov "
                     "%%r12, %0"
                     : "=m"(shared_word)
                     :
                     : "r12");
        _exit(static_cast<int>(shared_word));
    });
    const auto address = reinterpret_cast<std::uintptr_t>(&shared_word);
    errno = 0;
    CHECK(request(PTRACE_PEEKDATA, pid, address, 0) == 0x1122334455667788 && errno == 0);
    CHECK(request(PTRACE_POKEDATA, pid, address, 42) == 0);
    CHECK(shared_word == 0x1122334455667788); // a copy of its own
    CHECK_FAILS(request(PTRACE_PEEKDATA, pid, 8, 0), EIO);
    CHECK_FAILS(request(PTRACE_POKEDATA, pid, 8, 0), EIO);
    // Read-only text can be written.
    const auto text = reinterpret_cast<std::uintptr_t>(&memory_and_registers);
    const long word = request(PTRACE_PEEKTEXT, pid, text, 0);
    CHECK(request(PTRACE_POKETEXT, pid, text, static_cast<std::uintptr_t>(~word)) == 0);
    CHECK(request(PTRACE_PEEKTEXT, pid, text, 0) == ~word);
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/mem", pid);
    const int memory = open(path, O_RDWR);
    CHECK(memory >= 0);
    CHECK(pwrite(memory, &word, sizeof word, static_cast<off_t>(text)) == sizeof word);
    long again = 0;
    CHECK(pread(memory, &again, sizeof again, static_cast<off_t>(text)) == sizeof again);
    CHECK(again == word);
    close(memory);

    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGTRAP);
    siginfo_t info = {};
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    CHECK(info.si_signo == SIGTRAP && info.si_code == SI_KERNEL);
    user_regs_struct regs = registers(pid);
    CHECK(regs.r12 == 7 && regs.cs == 0x33 && regs.ss == 0x2b);
    CHECK(request(PTRACE_PEEKUSER, pid, offsetof(user, regs.r12), 0) == 7);
    CHECK(static_cast<unsigned long>(request(PTRACE_PEEKUSER, pid, offsetof(user, regs.rip), 0)) ==
          regs.rip);
    CHECK(regs.fs_base != 0);
    CHECK(request(PTRACE_POKEUSER, pid, offsetof(user, regs.r12), 8) == 0);
    CHECK(registers(pid).r12 == 8);
    regs.r12 = 9;
    CHECK(ptrace(PTRACE_SETREGS, pid, nullptr, &regs) == 0);
    CHECK_FAILS(request(PTRACE_POKEUSER, pid, 3, 8), EIO);
    CHECK_FAILS(request(PTRACE_PEEKUSER, pid, 1 << 20, 0), EIO);
    CHECK_FAILS(request(PTRACE_POKEUSER, pid, offsetof(user, regs.cs), 0), EIO);
    CHECK_FAILS(request(PTRACE_POKEUSER, pid, offsetof(user, regs.fs_base), UINT64_MAX / 2), EIO);

    iovec vector = {&regs, sizeof regs};
    CHECK(request(PTRACE_GETREGSET, pid, NT_PRSTATUS, reinterpret_cast<std::uintptr_t>(&vector)) ==
          0);
    CHECK(vector.iov_len == sizeof regs && regs.r12 == 9);
    regs.r12 = 11;
    CHECK(request(PTRACE_SETREGSET, pid, NT_PRSTATUS, reinterpret_cast<std::uintptr_t>(&vector)) ==
          0);
    vector.iov_len = 12;
    CHECK_FAILS(
        request(PTRACE_GETREGSET, pid, NT_PRSTATUS, reinterpret_cast<std::uintptr_t>(&vector)),
        EINVAL);
    vector.iov_len = 16;
    CHECK(request(PTRACE_GETREGSET, pid, NT_PRSTATUS, reinterpret_cast<std::uintptr_t>(&vector)) ==
          0);
    CHECK(vector.iov_len == 16);
    CHECK_FAILS(request(PTRACE_GETREGSET, pid, 0x12345, reinterpret_cast<std::uintptr_t>(&vector)),
                EINVAL);
    CHECK_FAILS(ptrace(PTRACE_GETREGS, pid, nullptr, 8), EFAULT);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_exit(pid, 11);
}

void floating_point() {
    const pid_t pid = start_traced([] {
        double out = 0;
        const double in = 1.5;
        asm volatile("movsd %1, %%xmm5; int3; movsd %%xmm5, %0" : "=m"(out) : "m"(in) : "xmm5");
        _exit(static_cast<int>(out));
    });
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGTRAP);
    user_fpregs_struct fp = {};
    CHECK(ptrace(PTRACE_GETFPREGS, pid, nullptr, &fp) == 0);
    double value = 0;
    std::memcpy(&value, reinterpret_cast<char*>(fp.xmm_space) + 5 * 16, sizeof value);
    CHECK(value == 1.5);
    CHECK(fp.mxcsr == 0x1f80 && fp.cwd == 0x37f);
    value = 21;
    std::memcpy(reinterpret_cast<char*>(fp.xmm_space) + 5 * 16, &value, sizeof value);
    CHECK(ptrace(PTRACE_SETFPREGS, pid, nullptr, &fp) == 0);
    fp.mxcsr = 0xffffffff;
    CHECK_FAILS(ptrace(PTRACE_SETFPREGS, pid, nullptr, &fp), EINVAL);

    static char xstate[16384];
    iovec vector = {xstate, sizeof xstate};
    CHECK(request(PTRACE_GETREGSET, pid, NT_X86_XSTATE,
                  reinterpret_cast<std::uintptr_t>(&vector)) == 0);
    CHECK(vector.iov_len >= 576);
    std::memcpy(&value, xstate + 160 + 5 * 16, sizeof value);
    CHECK(value == 21);
    std::uint64_t features = 0;
    std::memcpy(&features, xstate + 464, sizeof features);
    CHECK((features & 3) == 3);
    value = 33;
    std::memcpy(xstate + 160 + 5 * 16, &value, sizeof value);
    CHECK(request(PTRACE_SETREGSET, pid, NT_X86_XSTATE,
                  reinterpret_cast<std::uintptr_t>(&vector)) == 0);
    vector.iov_len = 512;
    CHECK(request(PTRACE_SETREGSET, pid, NT_X86_XSTATE,
                  reinterpret_cast<std::uintptr_t>(&vector)) == -1);
    // Rubbish in the header would make XRSTOR fault.
    vector.iov_len = sizeof xstate;
    CHECK(request(PTRACE_GETREGSET, pid, NT_X86_XSTATE,
                  reinterpret_cast<std::uintptr_t>(&vector)) == 0);
    std::memset(xstate + 512, 0xff, 64);
    CHECK_FAILS(
        request(PTRACE_SETREGSET, pid, NT_X86_XSTATE, reinterpret_cast<std::uintptr_t>(&vector)),
        EINVAL);
    vector = {&fp, sizeof fp};
    CHECK(request(PTRACE_GETREGSET, pid, NT_PRFPREG, reinterpret_cast<std::uintptr_t>(&vector)) ==
          0);
    CHECK(vector.iov_len == 512);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_exit(pid, 33);
}

void system_calls() {
    const pid_t pid = start_traced([] {
        const long first = syscall(SYS_getppid);
        const long second = syscall(SYS_getppid);
        const long third = syscall(SYS_getppid);
        _exit(first == 1234 && second == -1 && errno == EXDEV && third == getpid() ? 5 : 6);
    });
    CHECK(request(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    CHECK_FAILS(request(PTRACE_SETOPTIONS, pid, 0, 1 << 30), EINVAL);
    // First: the result is replaced after the call. Second: the call is skipped. Third: another one
    // is made in its place.
    for (int call = 0; call < 3; call++) {
        CHECK(ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr) == 0);
        expect_stop(pid, SIGTRAP | 0x80);
        user_regs_struct regs = registers(pid);
        CHECK(regs.orig_rax == SYS_getppid && static_cast<long>(regs.rax) == -ENOSYS);
        __ptrace_syscall_info info = {};
        const long size = request(PTRACE_GET_SYSCALL_INFO, pid, sizeof info,
                                  reinterpret_cast<std::uintptr_t>(&info));
        CHECK(size == offsetof(__ptrace_syscall_info, entry) + sizeof info.entry);
        CHECK(info.op == PTRACE_SYSCALL_INFO_ENTRY && info.entry.nr == SYS_getppid);
        CHECK(info.arch == 0xc000003e && info.instruction_pointer == regs.rip &&
              info.stack_pointer == regs.rsp);
        unsigned long message = 0;
        CHECK(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &message) == 0 && message == 1);
        if (call == 1)
            regs.orig_rax = ~0UL, regs.rax = static_cast<unsigned long>(-EXDEV);
        if (call == 2)
            regs.orig_rax = SYS_getpid;
        CHECK(ptrace(PTRACE_SETREGS, pid, nullptr, &regs) == 0);
        CHECK(ptrace(PTRACE_SYSCALL, pid, nullptr, nullptr) == 0);
        expect_stop(pid, SIGTRAP | 0x80);
        info = {};
        CHECK(request(PTRACE_GET_SYSCALL_INFO, pid, sizeof info,
                      reinterpret_cast<std::uintptr_t>(&info)) > 0);
        CHECK(info.op == PTRACE_SYSCALL_INFO_EXIT);
        regs = registers(pid);
        if (call == 0) {
            CHECK(info.exit.rval == getpid() && info.exit.is_error == 0);
            regs.rax = 1234;
            CHECK(ptrace(PTRACE_SETREGS, pid, nullptr, &regs) == 0);
        } else if (call == 1) {
            CHECK(info.exit.rval == -EXDEV && info.exit.is_error == 1);
        } else {
            CHECK(regs.rax == static_cast<unsigned long>(pid));
        }
    }
    siginfo_t info = {};
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    CHECK(info.si_signo == SIGTRAP && info.si_code == (SIGTRAP | 0x80));
    CHECK_FAILS(request(PTRACE_CONT, pid, 0, 1000), EIO);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_exit(pid, 5);
    CHECK_FAILS(ptrace(PTRACE_CONT, pid, nullptr, nullptr), ESRCH);
}

void emulated_calls() {
    const pid_t pid = start_traced([] { _exit(syscall(SYS_getppid) == 77 ? 0 : 1); });
    CHECK(request(PTRACE_SYSEMU, pid, 0, 0) == 0);
    expect_stop(pid, SIGTRAP);
    user_regs_struct regs = registers(pid);
    CHECK(regs.orig_rax == SYS_getppid);
    regs.rax = 77;
    CHECK(ptrace(PTRACE_SETREGS, pid, nullptr, &regs) == 0);
    // No stop after the call: the next one is before exit_group.
    CHECK(request(PTRACE_SYSEMU, pid, 0, 0) == 0);
    expect_stop(pid, SIGTRAP);
    CHECK(registers(pid).orig_rax == SYS_exit_group && registers(pid).rdi == 0);
    finish(pid);
}

volatile sig_atomic_t handled = 0;
void on_signal(int) {
    handled = handled + 1;
}

void single_steps() {
    const pid_t pid = start_traced([] {
        asm volatile("int3; nop; nop; mov $39, %%eax; syscall; nop; pushfq; pop %%rax; int3"
                     :
                     :
                     : "rax", "rcx", "r11", "memory");
        signal(SIGUSR1, on_signal);
        raise(SIGUSR1);
        _exit(handled);
    });
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGTRAP);
    const unsigned long from = registers(pid).rip;
    const unsigned lengths[] = {1, 1, 5, 2, 1, 1, 1};
    unsigned long expected = from;
    for (const unsigned length : lengths) {
        CHECK(ptrace(PTRACE_SINGLESTEP, pid, nullptr, nullptr) == 0);
        expect_stop(pid, SIGTRAP);
        expected += length;
        if (registers(pid).rip != expected)
            std::fprintf(stderr, "at +%llu, expected +%lu\n", registers(pid).rip - from,
                         expected - from);
        CHECK(registers(pid).rip == expected);
        CHECK((registers(pid).eflags & 0x100) == 0); // the flag is the tracer's affair
        siginfo_t info = {};
        CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
        CHECK(info.si_signo == SIGTRAP && (info.si_code == TRAP_TRACE || length == 2));
    }
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGTRAP);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGUSR1);
    // A step into a handler ends at its first instruction.
    CHECK(request(PTRACE_SINGLESTEP, pid, 0, SIGUSR1) == 0);
    expect_stop(pid, SIGTRAP);
    CHECK(registers(pid).rip == reinterpret_cast<unsigned long>(&on_signal));
    CHECK(registers(pid).rdi == SIGUSR1);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_exit(pid, 1);
}

void signals() {
    const pid_t pid = start_traced([] {
        signal(SIGUSR2, on_signal);
        raise(SIGUSR1); // taken away
        raise(SIGINT);  // becomes SIGUSR2
        raise(SIGCHLD); // ignored, yet seen
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGHUP);
        sigprocmask(SIG_BLOCK, &set, nullptr);
        raise(SIGHUP); // not seen
        raise(SIGSTOP);
        _exit(handled);
    });
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGUSR1);
    siginfo_t info = {};
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    CHECK(info.si_code == SI_TKILL && info.si_pid == pid);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGINT);
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    info.si_signo = SIGUSR2;
    CHECK(ptrace(PTRACE_SETSIGINFO, pid, nullptr, &info) == 0);
    CHECK(request(PTRACE_CONT, pid, 0, SIGUSR2) == 0);
    expect_stop(pid, SIGCHLD);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGSTOP);
    std::uint64_t mask = 0;
    CHECK(request(PTRACE_GETSIGMASK, pid, 8, reinterpret_cast<std::uintptr_t>(&mask)) == 0);
    CHECK(mask == 1u << (SIGHUP - 1));
    CHECK_FAILS(request(PTRACE_GETSIGMASK, pid, 4, reinterpret_cast<std::uintptr_t>(&mask)),
                EINVAL);
    struct {
        std::uint64_t offset;
        std::uint32_t flags;
        std::int32_t count;
    } which = {0, 0, 4};
    siginfo_t pending[4] = {};
    CHECK(request(PTRACE_PEEKSIGINFO, pid, reinterpret_cast<std::uintptr_t>(&which),
                  reinterpret_cast<std::uintptr_t>(pending)) == 1);
    CHECK(pending[0].si_signo == SIGHUP && pending[0].si_pid == pid);
    which.flags = 1; // shared
    CHECK(request(PTRACE_PEEKSIGINFO, pid, reinterpret_cast<std::uintptr_t>(&which),
                  reinterpret_cast<std::uintptr_t>(pending)) == 0);
    which.flags = 2;
    CHECK_FAILS(request(PTRACE_PEEKSIGINFO, pid, reinterpret_cast<std::uintptr_t>(&which),
                        reinterpret_cast<std::uintptr_t>(pending)),
                EINVAL);
    mask = 0;
    CHECK(request(PTRACE_SETSIGMASK, pid, 8, reinterpret_cast<std::uintptr_t>(&mask)) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGHUP);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_exit(pid, 1);
}

void fatal_signals() {
    // Seen by the tracer before it kills.
    pid_t pid = start_traced([] { raise(SIGTERM); });
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGTERM);
    CHECK(request(PTRACE_CONT, pid, 0, SIGTERM) == 0);
    int status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    // SIGKILL is not stopped by anything.
    pid = start_traced([] {});
    CHECK(ptrace(PTRACE_KILL, pid, nullptr, nullptr) == 0);
    status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

void groups_stop_by_attach() {
    int to_child[2];
    CHECK(pipe(to_child) == 0);
    const pid_t pid = start([&] {
        char c = 0;
        close(to_child[1]);
        while (read(to_child[0], &c, 1) == 1) {
        }
    });
    close(to_child[0]);
    CHECK(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGSTOP);
    CHECK_FAILS(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr), EPERM);
    char path[64];
    std::snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE* status_file = std::fopen(path, "r");
    CHECK(status_file != nullptr);
    char line[256];
    int tracer = -1;
    char state = 0;
    while (std::fgets(line, sizeof line, status_file) != nullptr) {
        std::sscanf(line, "TracerPid: %d", &tracer);
        std::sscanf(line, "State: %c", &state);
    }
    std::fclose(status_file);
    CHECK(tracer == getpid() && state == 't');
    siginfo_t info = {};
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    // Injected, it stops the group; that stop has no siginfo.
    CHECK(request(PTRACE_CONT, pid, 0, SIGSTOP) == 0);
    expect_stop(pid, SIGSTOP);
    CHECK_FAILS(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info), EINVAL);
    CHECK(ptrace(PTRACE_DETACH, pid, nullptr, nullptr) == 0);
    CHECK_FAILS(ptrace(PTRACE_DETACH, pid, nullptr, nullptr), ESRCH);
    // Its group is stopped: a new tracer finds it stopped at once.
    CHECK(ptrace(PTRACE_ATTACH, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGSTOP);
    CHECK(ptrace(PTRACE_DETACH, pid, nullptr, nullptr) == 0);
    CHECK(kill(pid, SIGCONT) == 0);
    int status = 0;
    close(to_child[1]);
    while (waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status)) {
    }
    CHECK(WIFEXITED(status));
}

constexpr int event_stop = PTRACE_EVENT_STOP << 8;

void seized() {
    int to_child[2];
    CHECK(pipe(to_child) == 0);
    const pid_t pid = start([&] {
        char c = 0;
        close(to_child[1]);
        while (read(to_child[0], &c, 1) == 1) {
        }
    });
    close(to_child[0]);
    CHECK_FAILS(request(PTRACE_SEIZE, pid, 1, 0), EIO);
    CHECK_FAILS(request(PTRACE_SEIZE, pid, 0, 1 << 30), EIO);
    CHECK_FAILS(request(PTRACE_INTERRUPT, pid, 0, 0), ESRCH);
    CHECK(request(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    int status = 0;
    CHECK(waitpid(pid, &status, WNOHANG | __WALL) == 0); // it runs on
    CHECK_FAILS(ptrace(PTRACE_CONT, pid, nullptr, nullptr), ESRCH);
    CHECK(request(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    expect_stop(pid, SIGTRAP | event_stop);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    // A group stop, listened to until its end.
    CHECK(kill(pid, SIGSTOP) == 0);
    expect_stop(pid, SIGSTOP);
    CHECK_FAILS(request(PTRACE_LISTEN, pid, 0, 0), EIO);
    CHECK(request(PTRACE_CONT, pid, 0, SIGSTOP) == 0);
    expect_stop(pid, SIGSTOP | event_stop);
    siginfo_t info = {};
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    CHECK(info.si_code == (SIGSTOP | event_stop));
    CHECK(request(PTRACE_LISTEN, pid, 0, 0) == 0);
    CHECK(waitpid(pid, &status, WNOHANG | __WALL) == 0);
    CHECK_FAILS(ptrace(PTRACE_CONT, pid, nullptr, nullptr), ESRCH);
    CHECK(kill(pid, SIGCONT) == 0);
    expect_stop(pid, SIGTRAP | event_stop);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_stop(pid, SIGCONT);
    CHECK(request(PTRACE_CONT, pid, 0, SIGCONT) == 0);
    CHECK(request(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    expect_stop(pid, SIGTRAP | event_stop);
    CHECK(ptrace(PTRACE_DETACH, pid, nullptr, nullptr) == 0);
    close(to_child[1]);
    expect_exit(pid, 0);
}

void* run_thread(void*) {
    return nullptr;
}

void new_tasks() {
    const pid_t pid = start_traced([] {
        const pid_t child = fork();
        if (child == 0)
            _exit(3);
        int status = 0;
        waitpid(child, &status, 0);
        const pid_t other = vfork();
        if (other == 0)
            _exit(4);
        waitpid(other, &status, 0);
        pthread_t thread;
        pthread_create(&thread, nullptr, run_thread, nullptr);
        pthread_join(thread, nullptr);
        _exit(9);
    });
    CHECK(request(PTRACE_SETOPTIONS, pid, 0,
                  PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE |
                      PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    int forks = 0, vforks = 0, clones = 0, done = 0, exits = 0, starts = 0, ends = 0;
    for (;;) {
        int status = 0;
        const pid_t who = waitpid(-1, &status, __WALL);
        CHECK(who > 0);
        if (WIFEXITED(status)) {
            ends++;
            CHECK(WEXITSTATUS(status) == (who == pid ? 9 : WEXITSTATUS(status)));
            if (who == pid)
                break;
            continue;
        }
        CHECK(WIFSTOPPED(status));
        const int event = status >> 16;
        unsigned long message = 0;
        CHECK(ptrace(PTRACE_GETEVENTMSG, who, nullptr, &message) == 0);
        int signal = 0;
        if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK ||
            event == PTRACE_EVENT_CLONE) {
            CHECK(who == pid && message > 0 && WSTOPSIG(status) == SIGTRAP);
            forks += event == PTRACE_EVENT_FORK ? 1 : 0;
            vforks += event == PTRACE_EVENT_VFORK ? 1 : 0;
            clones += event == PTRACE_EVENT_CLONE ? 1 : 0;
        } else if (event == PTRACE_EVENT_VFORK_DONE) {
            done++;
        } else if (event == PTRACE_EVENT_EXIT) {
            exits++;
            if (who == pid)
                CHECK(message == 9 << 8);
        } else if (WSTOPSIG(status) == SIGSTOP) {
            CHECK(who != pid);
            starts++;
        } else {
            CHECK(WSTOPSIG(status) == SIGCHLD);
            signal = SIGCHLD;
        }
        CHECK(request(PTRACE_CONT, who, 0, static_cast<std::uintptr_t>(signal)) == 0);
    }
    CHECK(forks == 1 && vforks == 1 && clones == 1 && done == 1 && exits == 4);
    CHECK(starts == 3 && ends == 4);
}

void programs(const char* self) {
    // The SIGTRAP of old, then the event; an option survives execve.
    for (const bool event : {false, true}) {
        const pid_t pid = start_traced([&] { execl(self, self, "exit-with-seven", nullptr); });
        if (event)
            CHECK(request(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC) == 0);
        CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
        expect_stop(pid, SIGTRAP | (event ? PTRACE_EVENT_EXEC << 8 : 0));
        if (event) {
            unsigned long message = 0;
            CHECK(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &message) == 0);
            CHECK(message == static_cast<unsigned long>(pid));
        }
        CHECK(registers(pid).orig_rax == SYS_execve);
        CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
        expect_exit(pid, 7);
    }
}

void tracer_ends() {
    // With PTRACE_O_EXITKILL the tracee ends with its tracer, else it goes on.
    for (const bool kill_it : {true, false}) {
        int pipes[2];
        CHECK(pipe(pipes) == 0);
        const pid_t tracer = start([&] {
            close(pipes[0]);
            const pid_t pid = start_traced([&] {
                char c = 'x';
                CHECK(write(pipes[1], &c, 1) == 1);
            });
            if (kill_it)
                CHECK(request(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_EXITKILL) == 0);
        });
        close(pipes[1]);
        expect_exit(tracer, 0);
        char c = 0;
        CHECK(read(pipes[0], &c, 1) == (kill_it ? 0 : 1));
        close(pipes[0]);
    }
}

void reparented_zombie() {
    // The tracer, not the parent, hears first of the end; then the parent does.
    int go[2], told[2], looked[2];
    CHECK(pipe(go) == 0 && pipe(told) == 0 && pipe(looked) == 0);
    const pid_t child = start([&] {
        char c = 0;
        CHECK(read(go[0], &c, 1) == 1);
        _exit(21);
    });
    const pid_t tracer = start([&] {
        CHECK(request(PTRACE_SEIZE, child, 0, 0) == 0);
        CHECK(write(told[1], "x", 1) == 1);
        CHECK(write(go[1], "x", 1) == 1);
        siginfo_t info = {};
        CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT | __WALL) == 0);
        CHECK(info.si_pid == child && info.si_code == CLD_EXITED && info.si_status == 21);
        char c = 0;
        CHECK(read(looked[0], &c, 1) == 1); // the parent has looked
        expect_exit(child, 21);
    });
    char c = 0;
    CHECK(read(told[0], &c, 1) == 1);
    int status = 0;
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    CHECK(write(looked[1], "x", 1) == 1);
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 21);
    expect_exit(tracer, 0);
    for (const int fd : {go[0], go[1], told[0], told[1], looked[0], looked[1]})
        close(fd);
}

void orphaned() {
    // The tracee's parent ends first; its tracer hears of its end nevertheless.
    int go[2], told[2];
    CHECK(pipe(go) == 0 && pipe(told) == 0);
    const pid_t parent = start([&] {
        const pid_t child = fork();
        if (child == 0) {
            char c = 0;
            CHECK(read(go[0], &c, 1) == 1);
            _exit(23);
        }
        CHECK(write(told[1], &child, sizeof child) == sizeof child);
        pause();
    });
    pid_t child = 0;
    CHECK(read(told[0], &child, sizeof child) == sizeof child);
    CHECK(request(PTRACE_SEIZE, child, 0, 0) == 0);
    finish(parent);
    CHECK(write(go[1], "x", 1) == 1);
    expect_exit(child, 23);
    CHECK_FAILS(waitpid(child, nullptr, __WALL), ECHILD);
    for (const int fd : {go[0], go[1], told[0], told[1]})
        close(fd);
}

void waiting() {
    const pid_t pid = start_traced([] { raise(SIGUSR1); });
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    siginfo_t info = {};
    CHECK(waitid(P_PID, static_cast<id_t>(pid), &info, WSTOPPED | WNOWAIT) == 0);
    CHECK(info.si_code == CLD_TRAPPED && info.si_status == SIGUSR1 && info.si_pid == pid);
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid); // WUNTRACED is not needed
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    CHECK(waitpid(pid, &status, WNOHANG) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, nullptr, nullptr) == 0);
    expect_exit(pid, 0);
}

// A pid namespace has its own numbers: of a thread that ends as well.
void ended_threads() {
    const pid_t pid = start_traced([] {
        pthread_t thread;
        const auto body = [](void*) -> void* { return nullptr; };
        CHECK(pthread_create(&thread, nullptr, body, nullptr) == 0);
        CHECK(pthread_join(thread, nullptr) == 0);
        raise(SIGUSR1); // the tracer does not let it through
        _exit(3);
    });
    CHECK(request(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACECLONE) == 0);
    CHECK(request(PTRACE_CONT, pid, 0, 0) == 0);
    expect_stop(pid, SIGTRAP | PTRACE_EVENT_CLONE << 8);
    unsigned long message = 0;
    CHECK(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &message) == 0);
    const auto thread = static_cast<pid_t>(message);
    expect_stop(thread, SIGSTOP);
    CHECK(request(PTRACE_CONT, thread, 0, 0) == 0);
    CHECK(request(PTRACE_CONT, pid, 0, 0) == 0);
    expect_stop(pid, SIGUSR1);
    expect_exit(thread, 0);
    CHECK(request(PTRACE_CONT, pid, 0, 0) == 0);
    expect_exit(pid, 3);
    CHECK_FAILS(waitpid(-1, nullptr, __WALL), ECHILD);
}

volatile pid_t child_of_signal = 0;

void note_child(int, siginfo_t* info, void*) {
    child_of_signal = info->si_pid;
}

// What signals and events say of a tracee is its number as the tracer knows it.
void numbers_told(const char* self) {
    struct sigaction action = {};
    struct sigaction before = {};
    action.sa_sigaction = note_child;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    CHECK(sigaction(SIGCHLD, &action, &before) == 0);
    const pid_t pid = start_traced([&] { execl(self, self, "again", nullptr); });
    CHECK(child_of_signal == pid);
    CHECK(request(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACEEXEC) == 0);
    CHECK(request(PTRACE_CONT, pid, 0, 0) == 0);
    expect_stop(pid, SIGTRAP | PTRACE_EVENT_EXEC << 8);
    unsigned long message = 0;
    CHECK(ptrace(PTRACE_GETEVENTMSG, pid, nullptr, &message) == 0);
    CHECK(message == static_cast<unsigned long>(pid));
    siginfo_t info = {};
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, nullptr, &info) == 0);
    CHECK(info.si_signo == SIGTRAP && info.si_pid == pid);
    CHECK(request(PTRACE_CONT, pid, 0, 0) == 0);
    expect_exit(pid, 7);
    CHECK(sigaction(SIGCHLD, &before, nullptr) == 0);
}

void in_pid_namespace(const char* self) {
    ended_threads();
    numbers_told(self);
    if (geteuid() != 0)
        return;
    const pid_t outside = start([&] {
        if (unshare(CLONE_NEWPID) != 0)
            return; // not in every container
        const pid_t inside = start([&] {
            ended_threads();
            numbers_told(self);
        });
        expect_exit(inside, 0);
    });
    expect_exit(outside, 0);
}

void permissions() {
    CHECK_FAILS(ptrace(PTRACE_ATTACH, getpid(), nullptr, nullptr), EPERM);
    CHECK_FAILS(ptrace(PTRACE_ATTACH, 0x3fffffff, nullptr, nullptr), ESRCH);
    CHECK_FAILS(request(PTRACE_GETREGS, getppid(), 0, 0), ESRCH);
    const pid_t pid = start_traced([] {});
    CHECK_FAILS(request(0x7777, pid, 0, 0), EIO);
    const pid_t twice = start([] {
        CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
        CHECK_FAILS(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr), EPERM);
    });
    expect_exit(twice, 0);
    if (geteuid() == 0) {
        const pid_t stranger = start([&] {
            CHECK(setgid(12345) == 0 && setuid(12345) == 0);
            CHECK_FAILS(ptrace(PTRACE_ATTACH, getppid(), nullptr, nullptr), EPERM);
        });
        expect_exit(stranger, 0);
    }
    finish(pid);
}

// Nobody begins to trace between what execve(2) decides about set-user-ID and the new program: a
// thread that is kept from ending holds it up there.
void attached_in_execve() {
    if (geteuid() != 0)
        return;
    constexpr uid_t nobody = 65534;
    char path[] = "/tmp/ptrace_XXXXXX";
    const int program = mkstemp(path);
    const int self = open("/proc/self/exe", O_RDONLY);
    CHECK(program >= 0 && self >= 0);
    static char piece[65536];
    for (ssize_t got; (got = read(self, piece, sizeof piece)) > 0;)
        CHECK(write(program, piece, static_cast<size_t>(got)) == got);
    CHECK(fchmod(program, 04755) == 0);
    close(program);
    close(self);
    const pid_t unprivileged = start([&] {
        CHECK(setresgid(nobody, nobody, nobody) == 0 && setresuid(nobody, nobody, nobody) == 0);
        CHECK(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
        int go[2], told[2];
        CHECK(pipe(go) == 0 && pipe(told) == 0);
        const pid_t target = start([&] {
            pthread_t thread;
            static int tell;
            tell = told[1];
            CHECK(pthread_create(
                      &thread, nullptr,
                      [](void*) -> void* {
                          const pid_t number = static_cast<pid_t>(syscall(SYS_gettid));
                          CHECK(write(tell, &number, sizeof number) == sizeof number);
                          for (;;)
                              pause();
                      },
                      nullptr) == 0);
            char byte = 0;
            CHECK(read(go[0], &byte, 1) == 1);
            execl(path, path, "risen", nullptr);
            _exit(9);
        });
        pid_t second = 0;
        CHECK(read(told[0], &second, sizeof second) == sizeof second);
        const bool allowed = ptrace(PTRACE_SEIZE, second, nullptr, PTRACE_O_TRACEEXIT) == 0;
        CHECK(write(go[1], "g", 1) == 1);
        int status = 0;
        if (allowed) // it stops on its way out
            CHECK(waitpid(second, &status, __WALL) == second && WIFSTOPPED(status));
        const pid_t other = start([&] {
            const bool attached = ptrace(PTRACE_SEIZE, target, nullptr, nullptr) == 0;
            if (attached)
                usleep(500'000); // until it has ended
            _exit(attached ? 1 : 0);
        });
        usleep(200'000);
        if (allowed) { // it is only gone when it was waited for
            CHECK(ptrace(PTRACE_CONT, second, nullptr, nullptr) == 0);
            CHECK(waitpid(second, &status, __WALL) == second && WIFEXITED(status));
        }
        int end = 0;
        CHECK(waitpid(target, &end, 0) == target && WIFEXITED(end));
        CHECK(waitpid(other, &status, 0) == other && WIFEXITED(status));
        constexpr int as_root = 6;
        CHECK(WEXITSTATUS(status) == 0 || WEXITSTATUS(end) != as_root);
    });
    int status = -1;
    CHECK(waitpid(unprivileged, &status, 0) == unprivileged && status == 0);
    CHECK(unlink(path) == 0);
}

} // namespace

int main(int count, char** arguments) {
    if (count > 1 && strcmp(arguments[1], "risen") == 0) {
        usleep(100'000);
        return geteuid() == 0 ? 6 : 8;
    }
    if (count > 1)
        return 7;
    attached_in_execve();
    memory_and_registers();
    floating_point();
    system_calls();
    emulated_calls();
    single_steps();
    signals();
    fatal_signals();
    groups_stop_by_attach();
    seized();
    new_tasks();
    programs(arguments[0]);
    tracer_ends();
    reparented_zombie();
    orphaned();
    waiting();
    in_pid_namespace(arguments[0]);
    permissions();
}
