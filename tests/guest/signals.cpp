// Signals as programs see them: handlers and their flags, siginfo, masks, alternate stacks, queues,
// waiting, restarts. signal(7), sigaction(2), sigaltstack(2), sigwaitinfo(2), rt_sigqueueinfo(2).
#include <atomic>
#include <csetjmp>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <ucontext.h>
#include <unistd.h>

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

namespace {

volatile sig_atomic_t calls;
volatile int last_signal;
siginfo_t last_info;
volatile unsigned long handler_stack;

void count(int signal) {
    calls = calls + 1;
    last_signal = signal;
}

void keep_info(int signal, siginfo_t* info, void*) {
    calls = calls + 1;
    last_signal = signal;
    last_info = *info;
    handler_stack = reinterpret_cast<unsigned long>(__builtin_frame_address(0));
}

void handle(int signal, void (*handler)(int), int flags = 0) {
    struct sigaction action = {};
    action.sa_handler = handler;
    action.sa_flags = flags;
    CHECK(sigaction(signal, &action, nullptr) == 0);
}

// SIGALRM again and again, so that it does not matter if one comes before it is waited for; 0: no
// more.
void ticking(long microseconds) {
    const itimerval timer = {{0, microseconds}, {0, microseconds}};
    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
}

void handle_info(int signal, int flags = 0) {
    struct sigaction action = {};
    action.sa_sigaction = keep_info;
    action.sa_flags = flags | SA_SIGINFO;
    CHECK(sigaction(signal, &action, nullptr) == 0);
}

sigset_t set_of(int a, int b = 0) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, a);
    if (b != 0)
        sigaddset(&set, b);
    return set;
}

void block(int how, int a, int b = 0) {
    const sigset_t set = set_of(a, b);
    CHECK(sigprocmask(how, &set, nullptr) == 0);
}

bool is_pending(int signal) {
    sigset_t set;
    CHECK(sigpending(&set) == 0);
    return sigismember(&set, signal) == 1;
}

void sigaction_arguments() {
    struct sigaction action = {};
    CHECK_FAILS(sigaction(0, nullptr, &action), EINVAL);
    CHECK_FAILS(sigaction(65, nullptr, &action), EINVAL);
    CHECK_FAILS(sigaction(SIGKILL, &action, nullptr), EINVAL);
    CHECK_FAILS(sigaction(SIGSTOP, &action, nullptr), EINVAL);
    CHECK(sigaction(SIGKILL, nullptr, &action) == 0);
    CHECK(action.sa_handler == SIG_DFL);
    CHECK_FAILS(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, nullptr, 4), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_sigaction, SIGUSR1, 16, nullptr, 8), EFAULT);
    handle_info(SIGUSR1, SA_RESTART | SA_NODEFER);
    CHECK(sigaction(SIGUSR1, nullptr, &action) == 0);
    CHECK(action.sa_sigaction == keep_info);
    CHECK((action.sa_flags & (SA_RESTART | SA_NODEFER | SA_SIGINFO)) ==
          (SA_RESTART | SA_NODEFER | SA_SIGINFO));
    // SA_UNSUPPORTED (Linux 5.11): flags that the kernel does not know come back as not set.
    struct {
        void (*handler)(int);
        unsigned long flags;
        void (*restorer)();
        unsigned long mask;
    } raw = {SIG_IGN, 0x400 | (1ul << 25), nullptr, ~0ul}, back = {};
    CHECK(syscall(SYS_rt_sigaction, SIGUSR1, &raw, nullptr, 8) == 0);
    CHECK(syscall(SYS_rt_sigaction, SIGUSR1, nullptr, &back, 8) == 0);
    CHECK(back.flags == 0);
    // SIGKILL and SIGSTOP never enter a mask.
    CHECK(back.mask == ~(1ul << (SIGKILL - 1) | 1ul << (SIGSTOP - 1)));
    handle(SIGUSR1, SIG_DFL);
}

void masks() {
    sigset_t old;
    sigset_t set;
    sigfillset(&set);
    CHECK(syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &old, 8) == 0);
    CHECK_FAILS(syscall(SYS_rt_sigprocmask, 7, &set, nullptr, 8), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, nullptr, 16), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, 8, nullptr, 8), EFAULT);
    CHECK_FAILS(syscall(SYS_rt_sigpending, &set, 16), EINVAL);
    unsigned long everything = ~0ul;
    unsigned long now = 0;
    CHECK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &everything, nullptr, 8) == 0);
    CHECK(syscall(SYS_rt_sigprocmask, SIG_SETMASK, nullptr, &now, 8) == 0);
    CHECK(now == ~(1ul << (SIGKILL - 1) | 1ul << (SIGSTOP - 1)));
    CHECK(sigprocmask(SIG_SETMASK, &old, nullptr) == 0);

    // Blocked signals wait, merge, and come when unblocked; lowest number first (handlers nest the
    // other way).
    handle(SIGUSR1, count);
    block(SIG_BLOCK, SIGUSR1);
    calls = 0;
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(calls == 0 && is_pending(SIGUSR1));
    block(SIG_UNBLOCK, SIGUSR1);
    CHECK(calls == 1 && !is_pending(SIGUSR1));
    // Ignoring forgets what was pending.
    block(SIG_BLOCK, SIGUSR1);
    raise(SIGUSR1);
    CHECK(is_pending(SIGUSR1));
    handle(SIGUSR1, SIG_IGN);
    CHECK(!is_pending(SIGUSR1));
    handle(SIGUSR1, count);
    block(SIG_UNBLOCK, SIGUSR1);
    CHECK(calls == 1);
    // A signal ignored by default but blocked stays pending.
    block(SIG_BLOCK, SIGWINCH);
    raise(SIGWINCH);
    CHECK(is_pending(SIGWINCH));
    block(SIG_UNBLOCK, SIGWINCH);
    CHECK(!is_pending(SIGWINCH));
}

volatile int depth, deepest, rounds;
void nest(int signal) {
    depth = depth + 1;
    deepest = depth > deepest ? depth : deepest;
    rounds = rounds + 1;
    if (rounds < 3)
        raise(signal);
    depth = depth - 1;
}

void mask_seen(int) {
    sigset_t now;
    sigprocmask(SIG_BLOCK, nullptr, &now);
    calls = sigismember(&now, SIGUSR1) | sigismember(&now, SIGUSR2) << 1;
}

void handler_flags() {
    // Without SA_NODEFER a signal blocks itself.
    handle(SIGUSR1, nest);
    raise(SIGUSR1);
    CHECK(rounds == 3 && deepest == 1);
    rounds = 0;
    handle(SIGUSR1, nest, SA_NODEFER);
    raise(SIGUSR1);
    CHECK(rounds == 3 && deepest == 3);
    // SA_RESETHAND.
    handle(SIGUSR1, count, static_cast<int>(SA_RESETHAND));
    calls = 0;
    raise(SIGUSR1);
    CHECK(calls == 1);
    struct sigaction action = {};
    CHECK(sigaction(SIGUSR1, nullptr, &action) == 0);
    CHECK(action.sa_handler == SIG_DFL);
    // sa_mask.
    action = {};
    action.sa_handler = mask_seen;
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    raise(SIGUSR1);
    CHECK(calls == 3);
    sigset_t now;
    sigprocmask(SIG_BLOCK, nullptr, &now);
    CHECK(sigismember(&now, SIGUSR1) == 0 && sigismember(&now, SIGUSR2) == 0);
}

void siginfo_of_senders() {
    handle_info(SIGUSR1);
    calls = 0;
    CHECK(kill(getpid(), SIGUSR1) == 0);
    CHECK(calls == 1 && last_info.si_signo == SIGUSR1 && last_info.si_code == SI_USER);
    CHECK(last_info.si_pid == getpid() && last_info.si_uid == getuid() && last_info.si_errno == 0);
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0);
    CHECK(calls == 2 && last_info.si_code == SI_TKILL && last_info.si_pid == getpid());
    CHECK(syscall(SYS_tkill, gettid(), SIGUSR1) == 0);
    CHECK(calls == 3 && last_info.si_code == SI_TKILL);
    sigval value;
    value.sival_ptr = reinterpret_cast<void*>(0x1234567890ul);
    CHECK(sigqueue(getpid(), SIGUSR1, value) == 0);
    CHECK(calls == 4 && last_info.si_code == SI_QUEUE);
    CHECK(last_info.si_value.sival_ptr == value.sival_ptr && last_info.si_pid == getpid());

    siginfo_t info = {};
    info.si_code = -10;
    info.si_signo = 99; // not looked at
    CHECK(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, &info) == 0);
    CHECK(calls == 5 && last_info.si_code == -10 && last_info.si_signo == SIGUSR1);
    CHECK(syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGUSR1, &info) == 0);
    CHECK(calls == 6);
    // Nobody may speak for the kernel to somebody else.
    info.si_code = SI_USER;
    CHECK_FAILS(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &info), EPERM);
    info.si_code = SI_TKILL;
    CHECK_FAILS(syscall(SYS_rt_tgsigqueueinfo, getppid(), getppid(), SIGUSR1, &info), EPERM);
    CHECK_FAILS(syscall(SYS_rt_sigqueueinfo, getpid(), SIGUSR1, 16), EFAULT);
    info.si_code = SI_QUEUE;
    CHECK_FAILS(syscall(SYS_rt_sigqueueinfo, getpid(), 65, &info), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_tgsigqueueinfo, getpid(), -1, SIGUSR1, &info), EINVAL);

    CHECK_FAILS(kill(getpid(), 65), EINVAL);
    CHECK_FAILS(kill(getpid(), -1), EINVAL);
    CHECK_FAILS(kill(0x3fffffff, 0), ESRCH);
    CHECK_FAILS(kill(-0x3fffffff, 0), ESRCH);
    CHECK(kill(getpid(), 0) == 0);
    CHECK_FAILS(syscall(SYS_tgkill, 0, gettid(), 0), EINVAL);
    CHECK_FAILS(syscall(SYS_tgkill, getpid(), 0, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_tkill, -1, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_tgkill, getpid(), 0x3fffffff, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_tgkill, getppid(), gettid(), 0), ESRCH);
    CHECK_FAILS(syscall(SYS_tgkill, getpid(), gettid(), 65), EINVAL);
}

void realtime_queue() {
    // Real-time signals queue, in order, lowest number first.
    const int first = SIGRTMIN;
    handle_info(first);
    handle_info(first + 1);
    block(SIG_BLOCK, first, first + 1);
    for (int i = 0; i < 3; i++) {
        sigval value;
        value.sival_int = 20 + i;
        CHECK(sigqueue(getpid(), first + 1, value) == 0);
        value.sival_int = 10 + i;
        CHECK(sigqueue(getpid(), first, value) == 0);
    }
    const sigset_t both = set_of(first, first + 1);
    const int expected[] = {10, 11, 12, 20, 21, 22};
    for (const int value : expected) {
        siginfo_t info = {};
        CHECK(sigwaitinfo(&both, &info) == (value < 20 ? first : first + 1));
        CHECK(info.si_value.sival_int == value && info.si_code == SI_QUEUE);
    }
    CHECK(!is_pending(first));
    // The thread's own come before the process's.
    sigval value = {};
    CHECK(kill(getpid(), first) == 0);
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), first) == 0);
    siginfo_t info = {};
    // Not by the C library, which calls both SI_USER.
    CHECK(syscall(SYS_rt_sigtimedwait, &both, &info, nullptr, 8) == first);
    CHECK(info.si_code == SI_TKILL);
    CHECK(syscall(SYS_rt_sigtimedwait, &both, &info, nullptr, 8) == first);
    CHECK(info.si_code == SI_USER);
    // RLIMIT_SIGPENDING.
    in_child([&] {
        rlimit limit = {4, 4};
        CHECK(setuid(12345) == 0);
        CHECK(setrlimit(RLIMIT_SIGPENDING, &limit) == 0);
        int sent = 0;
        while (sent < 100 && sigqueue(getpid(), first, value) == 0)
            sent++;
        CHECK(errno == EAGAIN && sent >= 3 && sent <= 4);
        // kill(2) of a full queue still gets through, as a bit.
        block(SIG_BLOCK, SIGUSR2);
        CHECK(kill(getpid(), SIGUSR2) == 0 && is_pending(SIGUSR2));
    });
    block(SIG_UNBLOCK, first, first + 1);
}

void timed_wait() {
    const sigset_t set = set_of(SIGUSR1, SIGUSR2);
    block(SIG_BLOCK, SIGUSR1, SIGUSR2);
    timespec none = {0, 0};
    CHECK_FAILS(sigtimedwait(&set, nullptr, &none), EAGAIN);
    timespec little = {0, 2'000'000};
    CHECK_FAILS(sigtimedwait(&set, nullptr, &little), EAGAIN);
    timespec bad = {0, 1'000'000'000};
    CHECK_FAILS(sigtimedwait(&set, nullptr, &bad), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_sigtimedwait, &set, nullptr, &none, 4), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_sigtimedwait, 8, nullptr, &none, 8), EFAULT);
    raise(SIGUSR2);
    siginfo_t info = {};
    CHECK(sigtimedwait(&set, &info, &none) == SIGUSR2 && info.si_pid == getpid());
    // Sent while asleep, by somebody else.
    const pid_t parent = getpid();
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        kill(parent, SIGUSR1);
        _exit(0);
    }
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1 && info.si_pid == child);
    CHECK(waitpid(child, nullptr, 0) == child);
    // A handler that runs for another signal ends the wait.
    handle(SIGALRM, count);
    calls = 0;
    ticking(3000);
    CHECK_FAILS(sigwaitinfo(&set, nullptr), EINTR);
    ticking(0);
    CHECK(calls >= 1);
    // SIGCHLD, ignored by default, can be waited for when it is blocked.
    block(SIG_BLOCK, SIGCHLD);
    const pid_t second = fork();
    CHECK(second >= 0);
    if (second == 0)
        _exit(5);
    const sigset_t chld = set_of(SIGCHLD);
    CHECK(sigwaitinfo(&chld, &info) == SIGCHLD);
    CHECK(info.si_code == CLD_EXITED && info.si_pid == second && info.si_status == 5 &&
          info.si_uid == getuid());
    CHECK(waitpid(second, nullptr, 0) == second);
    block(SIG_UNBLOCK, SIGCHLD);
    block(SIG_UNBLOCK, SIGUSR1, SIGUSR2);
}

void suspend() {
    handle(SIGUSR1, count);
    handle(SIGUSR2, count);
    block(SIG_BLOCK, SIGUSR1, SIGUSR2);
    calls = 0;
    raise(SIGUSR1);
    raise(SIGUSR2);
    // Only what the temporary mask lets through runs, and the old mask is back afterwards.
    sigset_t mask;
    sigfillset(&mask);
    sigdelset(&mask, SIGUSR1);
    CHECK_FAILS(sigsuspend(&mask), EINTR);
    CHECK(calls == 1 && last_signal == SIGUSR1);
    CHECK(is_pending(SIGUSR2));
    CHECK_FAILS(syscall(SYS_rt_sigsuspend, &mask, 7), EINVAL);
    CHECK_FAILS(syscall(SYS_rt_sigsuspend, 8, 8), EFAULT);
    sigfillset(&mask);
    sigdelset(&mask, SIGUSR2);
    pollfd none = {-1, 0, 0};
    CHECK_FAILS(ppoll(&none, 1, nullptr, &mask), EINTR);
    CHECK(calls == 2 && last_signal == SIGUSR2);
    sigset_t now;
    sigprocmask(SIG_BLOCK, nullptr, &now);
    CHECK(sigismember(&now, SIGUSR1) == 1 && sigismember(&now, SIGUSR2) == 1);
    timespec zero = {0, 0};
    CHECK(pselect(0, nullptr, nullptr, nullptr, &zero, &mask) == 0);
    sigprocmask(SIG_BLOCK, nullptr, &now);
    CHECK(sigismember(&now, SIGUSR2) == 1);
    block(SIG_UNBLOCK, SIGUSR1, SIGUSR2);
    // pause(2).
    handle(SIGALRM, count);
    calls = 0;
    ticking(2000);
    CHECK_FAILS(pause(), EINTR);
    ticking(0);
    CHECK(calls >= 1);
}

// --- restarts

// Signals for a thread in a call.
struct Interrupter {
    pthread_t target;
    int signal;
    int fd;     // then written to, or -1
    int rounds; // each when the one before was handled; 0: until the call was interrupted
    std::atomic<bool> was_interrupted{false};
};

void* interrupt(void* raw) {
    auto& job = *static_cast<Interrupter*>(raw);
    for (int i = 0; job.rounds == 0 ? !job.was_interrupted : i < job.rounds; i++) {
        usleep(2000);
        const int before = calls;
        pthread_kill(job.target, job.signal);
        while (job.rounds != 0 && calls == before)
            usleep(200);
    }
    if (job.fd >= 0) {
        usleep(2000);
        CHECK(write(job.fd, "x", 1) == 1);
    }
    return nullptr;
}

// The call fails with EINTR, whenever the signals come.
template <typename Call>
void expect_interrupted(Call&& call) {
    Interrupter job = {pthread_self(), SIGUSR1, -1, 0};
    pthread_t thread;
    CHECK(pthread_create(&thread, nullptr, interrupt, &job) == 0);
    CHECK_FAILS(call(), EINTR);
    job.was_interrupted = true;
    CHECK(pthread_join(thread, nullptr) == 0);
}

void restarts() {
    int fds[2];
    CHECK(pipe(fds) == 0);
    char byte = 0;
    pthread_t thread;
    // read(2) goes on after a handler with SA_RESTART, and ends with EINTR without.
    handle(SIGUSR1, count, SA_RESTART);
    calls = 0;
    Interrupter job = {pthread_self(), SIGUSR1, fds[1], 3};
    CHECK(pthread_create(&thread, nullptr, interrupt, &job) == 0);
    CHECK(read(fds[0], &byte, 1) == 1 && byte == 'x');
    CHECK(pthread_join(thread, nullptr) == 0);
    CHECK(calls == 3);
    handle(SIGUSR1, count, 0);
    expect_interrupted([&] { return read(fds[0], &byte, 1); });
    // poll(2), nanosleep(2), select(2) and epoll never restart after a handler.
    handle(SIGUSR1, count, SA_RESTART);
    pollfd wait = {fds[0], POLLIN, 0};
    expect_interrupted([&] { return poll(&wait, 1, -1); });
    timespec left = {0, 0};
    const timespec hour = {3600, 0};
    expect_interrupted([&] { return nanosleep(&hour, &left); });
    CHECK(left.tv_sec == 3599 && left.tv_nsec > 0);
    fd_set readable;
    FD_ZERO(&readable);
    FD_SET(fds[0], &readable);
    expect_interrupted([&] { return select(fds[0] + 1, &readable, nullptr, nullptr, nullptr); });
    // waitpid(2) restarts.
    job.fd = -1;
    calls = 0;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        usleep(20000);
        _exit(3);
    }
    CHECK(pthread_create(&thread, nullptr, interrupt, &job) == 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
    CHECK(pthread_join(thread, nullptr) == 0);
    close(fds[0]);
    close(fds[1]);
    // A stop and a continuation go unnoticed by what has restarts: a relative sleep keeps its end.
    in_child([] {
        const pid_t sleeper = fork();
        if (sleeper == 0) {
            timespec start;
            timespec end;
            clock_gettime(CLOCK_MONOTONIC, &start);
            const timespec nap = {0, 30'000'000};
            const int result = nanosleep(&nap, nullptr);
            clock_gettime(CLOCK_MONOTONIC, &end);
            const long took =
                (end.tv_sec - start.tv_sec) * 1'000'000'000 + end.tv_nsec - start.tv_nsec;
            _exit(result == 0 && took >= 30'000'000 ? 0 : 1);
        }
        usleep(5000);
        int end = 0;
        CHECK(kill(sleeper, SIGSTOP) == 0);
        CHECK(waitpid(sleeper, &end, WUNTRACED) == sleeper && WIFSTOPPED(end));
        CHECK(kill(sleeper, SIGCONT) == 0);
        CHECK(waitpid(sleeper, &end, 0) == sleeper);
        CHECK(WIFEXITED(end) && WEXITSTATUS(end) == 0);
    });
}

// --- exceptions

sigjmp_buf escape;
volatile int* volatile unmapped = reinterpret_cast<volatile int*>(8);
void jump_out(int signal, siginfo_t* info, void*) {
    last_info = *info;
    last_signal = signal;
    siglongjmp(escape, 1);
}

template <typename F>
void expect_fault(int signal, int code, F&& body) {
    struct sigaction action = {};
    action.sa_sigaction = jump_out;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(signal, &action, nullptr) == 0);
    last_signal = 0;
    if (sigsetjmp(escape, 1) == 0) {
        body();
        CHECK(false);
    }
    if (last_signal != signal || last_info.si_code != code) {
        std::fprintf(stderr, "signal %d code %d, expected %d %d\n", last_signal, last_info.si_code,
                     signal, code);
        std::exit(1);
    }
    handle(signal, SIG_DFL);
}

void exceptions() {
    auto* page = static_cast<volatile char*>(
        mmap(nullptr, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    expect_fault(SIGSEGV, SEGV_ACCERR, [&] { page[5] = 1; });
    CHECK(last_info.si_addr == static_cast<const volatile void*>(page + 5));
    CHECK(munmap(const_cast<char*>(page), 8192) == 0);
    expect_fault(SIGSEGV, SEGV_MAPERR, [&] { page[5] = 1; });
    CHECK(last_info.si_addr == static_cast<const volatile void*>(page + 5));
    expect_fault(SIGSEGV, SEGV_MAPERR, [] { *unmapped = 1; });
    // Not canonical: a general protection fault, which tells no address.
    expect_fault(SIGSEGV, SI_KERNEL,
                 [] { *reinterpret_cast<volatile int*>(0x8000'0000'0000'0000ul) = 1; });
    CHECK(last_info.si_addr == nullptr);
    expect_fault(SIGILL, ILL_ILLOPN, [] { asm volatile("ud2"); });
    expect_fault(SIGFPE, FPE_INTDIV, [] {
        asm volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $1, %%eax; idiv %%ecx" ::
                         : "eax", "ecx", "edx");
    });
    expect_fault(SIGTRAP, SI_KERNEL, [] { asm volatile("int3"); });
    expect_fault(SIGSEGV, SI_KERNEL, [] { asm volatile("hlt"); });
    // Past the end of a file.
    const int file = memfd_create("short", 0);
    CHECK(file >= 0 && ftruncate(file, 100) == 0);
    auto* mapped = static_cast<volatile char*>(
        mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    mapped[200] = 1;
    expect_fault(SIGBUS, BUS_ADRERR, [&] { mapped[4096] = 1; });
    CHECK(last_info.si_addr == static_cast<const volatile void*>(mapped + 4096));
    munmap(const_cast<char*>(mapped), 8192);
    close(file);
    // A blocked or ignored exception ends the program.
    int status = status_of([] {
        handle(SIGSEGV, SIG_IGN);
        *unmapped = 1;
    });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = status_of([] {
        handle(SIGSEGV, count);
        block(SIG_BLOCK, SIGSEGV);
        *unmapped = 1;
    });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    status = status_of([] { abort(); });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

void change_registers(int, siginfo_t*, void* raw) {
    auto* context = static_cast<ucontext_t*>(raw);
    context->uc_mcontext.gregs[REG_RAX] = 77;
    context->uc_mcontext.gregs[REG_RIP] += 2; // past the UD2
    sigaddset(&context->uc_sigmask, SIGUSR2);
}

void stop_alignment_checks(int, siginfo_t*, void* raw) {
    // First of all: nothing here need be aligned. Below the red zone.
    asm volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandl $~0x40000, (%%rsp)\n\tpopfq\n\t"
                 "lea 128(%%rsp), %%rsp"
                 :
                 :
                 : "memory", "cc");
    auto* context = static_cast<ucontext_t*>(raw);
    context->uc_mcontext.gregs[REG_EFL] &= ~0x40000l;
    context->uc_mcontext.gregs[REG_RIP] += 2; // past the UD2
    calls = calls + 1;
}

// AC in RFLAGS has a program's own accesses checked, not those of the kernel on its behalf.
void alignment_checks() {
    struct sigaction action = {};
    action.sa_sigaction = stop_alignment_checks;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGILL, &action, nullptr) == 0);
    calls = 0;
    asm volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torl $0x40000, (%%rsp)\n\tpopfq\n\tud2\n\t"
                 "lea 128(%%rsp), %%rsp"
                 :
                 :
                 : "memory", "cc");
    CHECK(calls == 1);
    handle(SIGILL, SIG_DFL);
}

void contexts() {
    struct sigaction action = {};
    action.sa_sigaction = change_registers;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGILL, &action, nullptr) == 0);
    long result = 0;
    asm volatile("ud2" : "=a"(result));
    CHECK(result == 77);
    sigset_t now;
    sigprocmask(SIG_BLOCK, nullptr, &now);
    CHECK(sigismember(&now, SIGUSR2) == 1);
    block(SIG_UNBLOCK, SIGUSR2);
    handle(SIGILL, SIG_DFL);
    // Vector registers survive a handler that uses them.
    handle(SIGUSR1, [](int) {
        asm volatile("pxor %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15" ::: "xmm7", "xmm15");
    });
    unsigned long low = 0x1122334455667788ul;
    unsigned long back = 0;
    const pid_t self = getpid();
    long number = SYS_kill;
    asm volatile(
        "movq %2, %%xmm7\n movq %2, %%xmm15\n syscall\n movq %%xmm7, %1\n movq %%xmm15, %%rcx\n"
        "xor %%rcx, %1\n xor %2, %1\n xor %%rcx, %1\n"
        : "+a"(number), "=&r"(back)
        : "r"(low), "D"(self), "S"(SIGUSR1)
        : "rcx", "r11", "memory", "xmm7", "xmm15");
    CHECK(number == 0 && back == 0);
}

// --- vector registers of a frame whose memory comes and goes

constexpr size_t page_bytes = 4096, tail_pages = 64;
constexpr size_t state_header_end = 576; // the legacy area and the header of XSAVE
constexpr unsigned long in_frame = 0x1122334455667788ul, in_handler = 0x99aabbccddeeff00ul;
char* moved_state;
std::atomic<bool> moved_enough;

// The handler returns from a copy, the middle of which is where the first page ends.
void move_state(int, siginfo_t*, void* raw) {
    auto* context = static_cast<ucontext_t*>(raw);
    const auto* state = reinterpret_cast<const char*>(context->uc_mcontext.fpregs);
    unsigned bytes = 0;
    memcpy(&bytes, state + 464 + 4, sizeof bytes); // extended_size of struct _fpx_sw_bytes
    memcpy(moved_state, state, bytes);
    context->uc_mcontext.fpregs = reinterpret_cast<fpregset_t>(moved_state);
    asm volatile("movq %0, %%xmm15" : : "r"(in_handler) : "xmm15");
}

// A fault that waits in the middle of rt_sigreturn(2) lets other tasks use the CPU.
void vanishing_frames() {
    unsigned a = 1, b = 0, c = 0, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    if ((c >> 27 & 1) == 0 || (c >> 28 & 1) == 0)
        return; // nothing behind the header: no OSXSAVE or no AVX
    const int file = memfd_create("frame", 0);
    const size_t bytes = (1 + tail_pages) * page_bytes;
    CHECK(file >= 0 && ftruncate(file, static_cast<off_t>(bytes)) == 0);
    auto* memory =
        static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    CHECK(memory != MAP_FAILED);
    moved_state = memory + page_bytes - state_header_end;
    moved_enough = false;
    pthread_t taker;
    block(SIG_BLOCK, SIGUSR1);
    CHECK(pthread_create(
              &taker, nullptr,
              [](void* raw) -> void* {
                  auto* tail = static_cast<volatile char*>(raw) + page_bytes;
                  while (!moved_enough) {
                      for (size_t page = 0; page < tail_pages; page++)
                          (void)tail[page * page_bytes];
                      madvise(const_cast<char*>(tail), tail_pages * page_bytes, MADV_DONTNEED);
                  }
                  return nullptr;
              },
              memory) == 0);
    block(SIG_UNBLOCK, SIGUSR1);
    struct sigaction action = {};
    action.sa_sigaction = move_state;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    const pid_t self = getpid();
    for (int i = 0; i < 20'000; i++) {
        unsigned long found = 0;
        long number = SYS_kill;
        asm volatile("movq %2, %%xmm15\n syscall\n movq %%xmm15, %1\n"
                     : "+a"(number), "=&r"(found)
                     : "r"(in_frame), "D"(self), "S"(SIGUSR1)
                     : "rcx", "r11", "memory", "xmm15");
        CHECK(number == 0 && found == in_frame);
    }
    moved_enough = true;
    CHECK(pthread_join(taker, nullptr) == 0);
    handle(SIGUSR1, SIG_DFL);
    munmap(memory, bytes);
    close(file);
}

// --- alternate stacks

alignas(16) char spare[64 * 1024];

void alternate_stacks() {
    stack_t stack = {};
    stack_t old = {};
    CHECK(sigaltstack(nullptr, &old) == 0 && (old.ss_flags & SS_DISABLE) != 0);
    stack.ss_sp = spare;
    stack.ss_size = sizeof spare;
    CHECK(sigaltstack(&stack, nullptr) == 0);
    CHECK(sigaltstack(nullptr, &old) == 0 && old.ss_sp == spare && old.ss_flags == 0 &&
          old.ss_size == sizeof spare);
    handle_info(SIGUSR1, SA_ONSTACK);
    raise(SIGUSR1);
    const auto base = reinterpret_cast<unsigned long>(spare);
    CHECK(handler_stack > base && handler_stack <= base + sizeof spare);
    handle_info(SIGUSR1);
    raise(SIGUSR1);
    CHECK(handler_stack < base || handler_stack > base + sizeof spare);
    // In use: it shows, and cannot be changed.
    handle(
        SIGUSR1,
        [](int) {
            stack_t now = {};
            if (sigaltstack(nullptr, &now) == 0 && now.ss_flags == SS_ONSTACK &&
                sigaltstack(&now, nullptr) == -1 && errno == EPERM)
                calls = 100;
        },
        SA_ONSTACK);
    calls = 0;
    raise(SIGUSR1);
    CHECK(calls == 100);
    stack.ss_size = 1024;
    CHECK_FAILS(sigaltstack(&stack, nullptr), ENOMEM);
    stack.ss_flags = 99;
    CHECK_FAILS(sigaltstack(&stack, nullptr), EINVAL);
    CHECK_FAILS(syscall(SYS_sigaltstack, 16, nullptr), EFAULT);
    // SS_AUTODISARM: off while the handler runs, back afterwards.
    stack.ss_size = sizeof spare;
    stack.ss_flags = static_cast<int>(1u << 31);
    CHECK(sigaltstack(&stack, nullptr) == 0);
    handle(
        SIGUSR1,
        [](int) {
            stack_t now = {};
            if (sigaltstack(nullptr, &now) == 0 && (now.ss_flags & SS_DISABLE) != 0)
                calls = 200;
        },
        SA_ONSTACK);
    raise(SIGUSR1);
    CHECK(calls == 200);
    CHECK(sigaltstack(nullptr, &old) == 0 && old.ss_sp == spare &&
          static_cast<unsigned>(old.ss_flags) == 1u << 31);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, nullptr) == 0);
    CHECK(sigaltstack(nullptr, &old) == 0 && old.ss_flags == SS_DISABLE);
    // One that has no room for the frame (with AVX-512 the smallest has none) ends the program, and
    // nothing is written below it.
    constexpr size_t below = 4096, smallest = 2048;
    auto* const small = static_cast<char*>(
        mmap(nullptr, below + smallest, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    CHECK(small != MAP_FAILED);
    const int ended = status_of([small] {
        const stack_t other = {small + below, 0, smallest};
        CHECK(sigaltstack(&other, nullptr) == 0);
        handle(SIGUSR1, count, SA_ONSTACK);
        raise(SIGUSR1);
    });
    CHECK(WIFEXITED(ended) ? WEXITSTATUS(ended) == 0 : WTERMSIG(ended) == SIGSEGV);
    for (size_t i = 0; i < below; i++)
        CHECK(small[i] == 0);
    CHECK(munmap(small, below + smallest) == 0);
    // Where the ordinary stack is used up only the other one helps.
    in_child([] {
        stack_t other = {};
        other.ss_sp = spare;
        other.ss_size = sizeof spare;
        CHECK(sigaltstack(&other, nullptr) == 0);
        struct sigaction action = {};
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
            _exit(info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR ? 0 : 1);
        };
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        CHECK(sigaction(SIGSEGV, &action, nullptr) == 0);
        rlimit limit = {256 * 1024, 256 * 1024};
        CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
        asm volatile("1: push %%rax; jmp 1b" ::: "memory");
    });
    // Without one, the fault that cannot be delivered ends the program.
    const int status = status_of([] {
        handle(SIGSEGV, count);
        asm volatile("mov $8, %%rsp; push %%rax" ::: "memory");
    });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

// --- descriptors

// What comes with a signal depends on what it is of.
void records_of_signals() {
    block(SIG_BLOCK, SIGUSR1, SIGCHLD);
    block(SIG_BLOCK, SIGRTMIN + 2);
    sigset_t set = set_of(SIGUSR1, SIGCHLD);
    sigaddset(&set, SIGRTMIN + 2);
    const int fd = signalfd(-1, &set, SFD_CLOEXEC);
    CHECK(fd >= 0);
    signalfd_siginfo info{};
    // A timer: its own number, how often it was too late, its value.
    sigevent event = {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    event.sigev_value.sival_int = 42;
    timer_t timer{};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    const itimerspec often = {{0, 1'000'000}, {0, 1'000'000}};
    CHECK(timer_settime(timer, 0, &often, nullptr) == 0);
    usleep(20'000);
    CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_code == SI_TIMER);
    CHECK(info.ssi_overrun > 0 && info.ssi_int == 42 && info.ssi_uid == 0 && info.ssi_pid == 0);
    CHECK(timer_delete(timer) == 0);
    // A file: which, and what happened to it.
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CHECK(fcntl(ends[0], F_SETOWN, getpid()) == 0);
    CHECK(fcntl(ends[0], F_SETSIG, SIGRTMIN + 2) == 0);
    CHECK(fcntl(ends[0], F_SETFL, O_ASYNC) == 0);
    CHECK(write(ends[1], "x", 1) == 1);
    do
        CHECK(read(fd, &info, sizeof info) == sizeof info);
    while (info.ssi_signo == SIGUSR1); // of the timer, once more
    CHECK(info.ssi_signo == static_cast<unsigned>(SIGRTMIN + 2) && info.ssi_code == POLL_IN);
    CHECK(info.ssi_fd == ends[0] && (info.ssi_band & POLLIN) != 0);
    CHECK(info.ssi_pid == 0 && info.ssi_ptr == 0);
    close(ends[0]);
    close(ends[1]);
    // A child, and a signal of the same number that is not of one.
    const pid_t child = start([] { _exit(3); });
    CHECK(waitpid(child, nullptr, 0) == child);
    CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_code == CLD_EXITED);
    CHECK(info.ssi_pid == static_cast<unsigned>(child) && info.ssi_status == 3);
    sigval value{};
    value.sival_int = 7;
    CHECK(sigqueue(getpid(), SIGCHLD, value) == 0);
    CHECK(read(fd, &info, sizeof info) == sizeof info && info.ssi_code == SI_QUEUE);
    CHECK(info.ssi_int == 7 && info.ssi_status == 0);
    close(fd);
    block(SIG_UNBLOCK, SIGUSR1, SIGCHLD);
    block(SIG_UNBLOCK, SIGRTMIN + 2);
}

void signal_descriptors() {
    const sigset_t set = set_of(SIGUSR1, SIGRTMIN + 2);
    block(SIG_BLOCK, SIGUSR1, SIGRTMIN + 2);
    const int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    CHECK(fd >= 0);
    signalfd_siginfo info[3] = {};
    CHECK_FAILS(read(fd, info, sizeof info), EAGAIN);
    CHECK_FAILS(read(fd, info, sizeof info[0] - 1), EINVAL);
    sigval value;
    value.sival_int = 42;
    CHECK(sigqueue(getpid(), SIGRTMIN + 2, value) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    pollfd wait = {fd, POLLIN, 0};
    CHECK(poll(&wait, 1, 0) == 1 && wait.revents == POLLIN);
    CHECK(read(fd, info, sizeof info) == 2 * sizeof info[0]);
    CHECK(info[0].ssi_signo == SIGUSR1 && info[0].ssi_code == SI_USER &&
          info[0].ssi_pid == static_cast<unsigned>(getpid()));
    CHECK(info[1].ssi_signo == static_cast<unsigned>(SIGRTMIN + 2) && info[1].ssi_int == 42);
    // Another mask for the same descriptor.
    const sigset_t other = set_of(SIGUSR2);
    block(SIG_BLOCK, SIGUSR2);
    CHECK(signalfd(fd, &other, 0) == fd);
    raise(SIGUSR1);
    CHECK_FAILS(read(fd, info, sizeof info), EAGAIN);
    raise(SIGUSR2);
    CHECK(read(fd, info, sizeof info) == sizeof info[0] && info[0].ssi_signo == SIGUSR2);
    CHECK_FAILS(signalfd(0x3fffffff, &other, 0), EBADF);
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK_FAILS(signalfd(fds[0], &other, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_signalfd4, -1, &other, 8, 0x1000), EINVAL);
    CHECK_FAILS(syscall(SYS_signalfd4, -1, &other, 4, 0), EINVAL);
    const int old_call = static_cast<int>(syscall(SYS_signalfd, -1, &other, 8));
    CHECK(old_call >= 0);
    close(old_call);
    const sigset_t first = set_of(SIGUSR1);
    CHECK(sigwaitinfo(&first, nullptr) == SIGUSR1);
    close(fd);
    close(fds[0]);
    close(fds[1]);
    block(SIG_UNBLOCK, SIGUSR1, SIGUSR2);
    block(SIG_UNBLOCK, SIGRTMIN + 2);
}

// --- threads

volatile int taken_by;
void note_thread(int) {
    taken_by = gettid();
}

void* wait_for_end(void* raw) {
    sem_wait(static_cast<sem_t*>(raw));
    return nullptr;
}

void directed_at_threads() {
    // A signal to the process goes to a thread that does not block it.
    handle(SIGUSR1, note_thread, SA_RESTART);
    block(SIG_BLOCK, SIGUSR1);
    taken_by = 0;
    struct Job {
        sem_t ready, done;
        int tid;
    } job;
    sem_init(&job.ready, 0, 0);
    sem_init(&job.done, 0, 0);
    pthread_t thread;
    CHECK(pthread_create(
              &thread, nullptr,
              [](void* raw) -> void* {
                  auto& own = *static_cast<Job*>(raw);
                  own.tid = gettid();
                  const sigset_t set = set_of(SIGUSR1);
                  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
                  sem_post(&own.ready);
                  while (sem_wait(&own.done) != 0)
                      continue;
                  return nullptr;
              },
              &job) == 0);
    CHECK(sem_wait(&job.ready) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    while (taken_by == 0)
        sched_yield();
    CHECK(taken_by == job.tid);
    // A directed one stays with its thread though others would take it.
    taken_by = 0;
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), SIGUSR1) == 0);
    usleep(1000);
    CHECK(taken_by == 0 && is_pending(SIGUSR1));
    block(SIG_UNBLOCK, SIGUSR1);
    CHECK(taken_by == gettid());
    sem_post(&job.done);
    CHECK(pthread_join(thread, nullptr) == 0);
    // A new thread inherits the mask, not what is pending; fork neither.
    block(SIG_BLOCK, SIGUSR2);
    raise(SIGUSR2);
    in_child([] {
        CHECK(!is_pending(SIGUSR2));
        sigset_t now;
        sigprocmask(SIG_BLOCK, nullptr, &now);
        CHECK(sigismember(&now, SIGUSR2) == 1);
    });
    handle(SIGUSR2, count);
    block(SIG_UNBLOCK, SIGUSR2);
    (void)wait_for_end;
}

// Who is woken for a signal that another thread takes first was interrupted: no time is over.
void waits_of_two() {
    block(SIG_BLOCK, SIGUSR1, SIGUSR2);
    struct Counts {
        int taken = 0, interrupted = 0, others = 0;
    } counts;
    pthread_t thread;
    CHECK(pthread_create(
              &thread, nullptr,
              [](void* raw) -> void* {
                  auto& own = *static_cast<Counts*>(raw);
                  const sigset_t set = set_of(SIGUSR1, SIGUSR2);
                  for (;;) {
                      const int signal = sigwaitinfo(&set, nullptr);
                      if (signal == SIGUSR2)
                          return nullptr;
                      ++(signal == SIGUSR1 ? own.taken
                         : errno == EINTR  ? own.interrupted
                                           : own.others);
                  }
              },
              &counts) == 0);
    const sigset_t set = set_of(SIGUSR1, SIGUSR2);
    const timespec none = {0, 0};
    int taken = 0;
    for (int round = 0; round < 500; round++) {
        usleep(100); // until the other one waits again
        CHECK(kill(getpid(), SIGUSR1) == 0);
        if (sigtimedwait(&set, nullptr, &none) == SIGUSR1)
            taken++;
        else
            CHECK(errno == EAGAIN);
    }
    CHECK(pthread_kill(thread, SIGUSR2) == 0);
    CHECK(pthread_join(thread, nullptr) == 0);
    CHECK(counts.others == 0);
    CHECK(counts.taken + taken <= 500 && counts.interrupted <= taken);
    block(SIG_UNBLOCK, SIGUSR1, SIGUSR2);
}

volatile sig_atomic_t storms;
void storm(int) {
    storms = storms + 1;
}

// Signals in great number from several senders: none of the queued is lost, the receiver computes
// on.
void storms_of_signals() {
    handle(SIGRTMIN + 3, storm, SA_RESTART);
    storms = 0;
    constexpr int senders = 4;
    constexpr int each = 500;
    const pid_t target = getpid();
    pid_t children[senders];
    for (pid_t& child : children) {
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            sigval value = {};
            for (int i = 0; i < each; i++)
                while (sigqueue(target, SIGRTMIN + 3, value) != 0)
                    sched_yield();
            _exit(0);
        }
    }
    double sum = 0;
    do {
        for (int i = 1; i < 1000; i++)
            sum += 1.0 / i;
    } while (storms < senders * each);
    CHECK(sum > 7 && sum < 1e15);
    for (const pid_t child : children)
        CHECK(waitpid(child, nullptr, 0) == child);
    CHECK(storms == senders * each);
}

// F_SETOWN: who has become somebody else meanwhile gets no signal from those he was.
void signals_of_files() {
    if (geteuid() != 0)
        return;
    for (const bool rises : {false, true}) {
        int ends[2], go[2], ready[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        CHECK(pipe(go) == 0 && pipe(ready) == 0);
        char byte = 0;
        const pid_t target = start([&] {
            handle(SIGIO, count);
            calls = 0;
            CHECK(setresuid(65534, 65534, 0) == 0);
            CHECK(write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1);
            if (rises)
                CHECK(setresuid(0, 0, 0) == 0);
            CHECK(write(ready[1], "r", 1) == 1);
            while (read(go[0], &byte, 1) != 1)
                CHECK(errno == EINTR);
            usleep(100'000);
            _exit(calls);
        });
        CHECK(read(ready[0], &byte, 1) == 1);
        in_child([&] {
            CHECK(setresuid(65534, 65534, 65534) == 0);
            CHECK(fcntl(ends[0], F_SETOWN, target) == 0);
            CHECK(fcntl(ends[0], F_SETFL, O_ASYNC) == 0);
        });
        CHECK(write(go[1], "g", 1) == 1 && read(ready[0], &byte, 1) == 1);
        CHECK(write(ends[1], "x", 1) == 1);
        usleep(50'000);
        CHECK(write(go[1], "g", 1) == 1);
        int status = -1;
        CHECK(waitpid(target, &status, 0) == target && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == (rises ? 0 : 1));
        for (const int fd : {ends[0], ends[1], go[0], go[1], ready[0], ready[1]})
            close(fd);
    }
}

// F_SETOWN with a group: of its members those hear of it that its setter may signal.
void signals_of_files_to_groups() {
    if (geteuid() != 0)
        return;
    in_child([] {
        CHECK(setpgid(0, 0) == 0);
        int ends[2], go[2];
        CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        CHECK(pipe(go) == 0);
        handle(SIGIO, count);
        calls = 0;
        const pid_t stranger = start([&] {
            char byte = 0;
            while (read(go[0], &byte, 1) != 1)
                CHECK(errno == EINTR);
            _exit(calls);
        });
        CHECK(setresuid(65534, 65534, 65534) == 0);
        CHECK(fcntl(ends[0], F_SETOWN, -getpgrp()) == 0);
        CHECK(fcntl(ends[0], F_SETFL, O_ASYNC) == 0);
        CHECK(write(ends[1], "x", 1) == 1);
        for (int tries = 0; calls == 0 && tries < 500; tries++)
            usleep(10'000);
        CHECK(calls != 0);
        usleep(50'000);
        CHECK(write(go[1], "g", 1) == 1);
        int status = -1;
        CHECK(waitpid(stranger, &status, 0) == stranger && status == 0);
    });
}

} // namespace

int main() {
    handle(SIGCHLD, SIG_DFL);
    sigaction_arguments();
    masks();
    handler_flags();
    siginfo_of_senders();
    realtime_queue();
    timed_wait();
    suspend();
    restarts();
    exceptions();
    alignment_checks();
    contexts();
    vanishing_frames();
    alternate_stacks();
    signal_descriptors();
    in_child(records_of_signals);
    directed_at_threads();
    waits_of_two();
    storms_of_signals();
    signals_of_files();
    signals_of_files_to_groups();
    return 0;
}
