// Processes: fork, vfork, clone, clone3, exec in all its forms, exit, wait, descriptors of
// processes, resources that are shared or copied. fork(2), clone(2), execveat(2), wait(2),
// waitid(2), pidfd_open(2), kcmp(2).
#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <unistd.h>
#include <vector>

#include <linux/kcmp.h>
#include <linux/sched.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

namespace {

std::string self; // this program's file
std::string directory;

int shared_memory_value;

int end_of(pid_t child) {
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

void expect_exit(int status, int code) {
    if (!WIFEXITED(status) || WEXITSTATUS(status) != code) {
        std::fprintf(stderr, "status %x, expected exit %d\n", status, code);
        std::exit(1);
    }
}

int raw_clone3(clone_args& args, size_t size = sizeof(clone_args)) {
    return static_cast<int>(syscall(SYS_clone3, &args, size));
}

void forks() {
    shared_memory_value = 1;
    const pid_t parent = getpid();
    expect_exit(end_of(start([&] {
                    CHECK(getppid() == parent && getpid() != parent && gettid() == getpid());
                    shared_memory_value = 2;
                    _exit(7);
                })),
                7);
    CHECK(shared_memory_value == 1);
    // vfork: the parent waits, the memory is one.
    const pid_t child = vfork();
    if (child == 0) {
        shared_memory_value = 3;
        _exit(9);
    }
    CHECK(child > 0 && shared_memory_value == 3);
    expect_exit(end_of(child), 9);
    // Many at once, all found by wait, each once.
    constexpr int many = 100;
    for (int i = 0; i < many; i++)
        (void)start([i] { _exit(i); });
    bool seen[many] = {};
    for (int i = 0; i < many; i++) {
        int status = 0;
        CHECK(wait(&status) > 0 && WIFEXITED(status));
        CHECK(!seen[WEXITSTATUS(status)]);
        seen[WEXITSTATUS(status)] = true;
    }
    CHECK_FAILS(wait(nullptr), ECHILD);
}

int child_of_clone(void* argument) {
    shared_memory_value = *static_cast<int*>(argument);
    return 11;
}

void clones() {
    static char stack[64 * 1024];
    int value = 5;
    // Shared memory, without SIGCHLD: only __WCLONE or __WALL finds it.
    pid_t child = clone(child_of_clone, stack + sizeof stack, CLONE_VM, &value);
    CHECK(child > 0);
    CHECK_FAILS(waitpid(child, nullptr, 0), ECHILD);
    int status = 0;
    CHECK(waitpid(child, &status, __WCLONE) == child);
    expect_exit(status, 11);
    CHECK(shared_memory_value == 5);
    // Another exit signal.
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
    child = clone(child_of_clone, stack + sizeof stack, SIGUSR1, &value);
    siginfo_t info = {};
    CHECK(sigwaitinfo(&set, &info) == SIGUSR1);
    CHECK(info.si_pid == child && info.si_code == CLD_EXITED && info.si_status == 11);
    CHECK(waitpid(child, &status, __WALL) == child);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, nullptr) == 0);
    // A number that names no signal: none is sent. All are blocked, to be seen.
    sigset_t all, before_all, pending;
    sigfillset(&all);
    CHECK(sigprocmask(SIG_BLOCK, &all, &before_all) == 0);
    for (const int number : {65, 72, 200, 255}) {
        child = static_cast<pid_t>(syscall(SYS_clone, number, nullptr, nullptr, nullptr, 0));
        CHECK(child >= 0);
        if (child == 0)
            _exit(12);
        CHECK(waitpid(child, &status, __WALL) == child);
        expect_exit(status, 12);
        CHECK(sigpending(&pending) == 0);
        for (int signal = 1; signal <= 64; signal++)
            CHECK(sigismember(&pending, signal) != 1);
    }
    CHECK(sigprocmask(SIG_SETMASK, &before_all, nullptr) == 0);
    // Shared descriptors and directory.
    (void)umask(022);
    const int before = dup(0);
    CHECK(before >= 0);
    child = clone(
        [](void* fd) {
            return close(*static_cast<int*>(fd)) == 0 && chdir("/") == 0 && umask(0) == 022 ? 0 : 1;
        },
        stack + sizeof stack, CLONE_FILES | CLONE_FS | SIGCHLD,
        const_cast<void*>(static_cast<const void*>(&before)));
    expect_exit(end_of(child), 0);
    CHECK_FAILS(fcntl(before, F_GETFD), EBADF);
    char cwd[100];
    CHECK(getcwd(cwd, sizeof cwd) != nullptr && std::strcmp(cwd, "/") == 0);
    CHECK(umask(022) == 0 && chdir("/") == 0);
    // The thread area lies in the program's half of the address space; not canonical, in the
    // kernel's half, and right behind the last that will do.
    for (const unsigned long area :
         {0x800000000000ul, 0x8000000000000000ul, 0xffff888000000000ul, 0x7ffffffff000ul}) {
        CHECK_FAILS(syscall(SYS_clone, CLONE_SETTLS | SIGCHLD, nullptr, nullptr, nullptr, area),
                    EPERM);
        clone_args args = {};
        args.flags = CLONE_SETTLS;
        args.exit_signal = SIGCHLD;
        args.tls = area;
        CHECK_FAILS(raw_clone3(args), EPERM);
    }
    // Numbers are told where asked.
    int parent_tid = 0;
    auto* child_tid = static_cast<int*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    child = static_cast<pid_t>(syscall(
        SYS_clone, CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | SIGCHLD,
        nullptr, &parent_tid, child_tid, 0));
    if (child == 0)
        _exit(*child_tid == static_cast<int>(syscall(SYS_getpid)) ? 0 : 1);
    CHECK(child == parent_tid);
    expect_exit(end_of(child), 0);
    munmap(child_tid, 4096);
    // Combinations that make no sense.
    CHECK_FAILS(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, nullptr, nullptr, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, nullptr, nullptr, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_clone, CLONE_THREAD | CLONE_SIGHAND, nullptr, nullptr, nullptr, 0),
                EINVAL);
    CHECK_FAILS(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, nullptr, nullptr, nullptr, 0),
                EINVAL);
    CHECK_FAILS(syscall(SYS_clone, CLONE_PIDFD | CLONE_PARENT_SETTID | SIGCHLD, nullptr,
                        &parent_tid, nullptr, 0),
                EINVAL);
    // CLONE_PARENT: a sibling.
    expect_exit(end_of(start([] {
                    const pid_t us = getpid();
                    const pid_t middle = start([us] {
                        const long sibling = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, nullptr,
                                                     nullptr, nullptr, 0);
                        if (sibling == 0)
                            _exit(static_cast<pid_t>(syscall(SYS_getppid)) == us ? 21 : 1);
                        CHECK_FAILS(waitpid(static_cast<pid_t>(sibling), nullptr, 0), ECHILD);
                    });
                    expect_exit(end_of(middle), 0);
                    int found = 0;
                    CHECK(wait(&found) > 0);
                    expect_exit(found, 21);
                })),
                0);
}

void clone3_arguments() {
    clone_args args = {};
    args.exit_signal = SIGCHLD;
    const int child = raw_clone3(args);
    if (child == 0)
        _exit(4);
    expect_exit(end_of(child), 4);
    CHECK_FAILS(raw_clone3(args, 63), EINVAL);
    CHECK_FAILS(raw_clone3(args, 5000), E2BIG);
    struct {
        clone_args args;
        unsigned long more;
    } longer = {args, 1};
    CHECK_FAILS(syscall(SYS_clone3, &longer, sizeof longer), E2BIG);
    longer.more = 0;
    const long second = syscall(SYS_clone3, &longer, sizeof longer);
    if (second == 0)
        _exit(0);
    expect_exit(end_of(static_cast<pid_t>(second)), 0);
    args.exit_signal = 65;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    args.exit_signal = SIGCHLD;
    args.stack_size = 4096;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    args.stack_size = 0;
    args.stack = 4096;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    args.stack = 0;
    args.flags = CLONE_DETACHED;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    args.flags = CLONE_CLEAR_SIGHAND | CLONE_SIGHAND | CLONE_VM;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    args.flags = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
    CHECK_FAILS(raw_clone3(args), EINVAL); // with an exit signal
    args.flags = 1ull << 40;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    args.flags = 0;
    args.set_tid_size = 100;
    CHECK_FAILS(raw_clone3(args), EINVAL);
    CHECK_FAILS(syscall(SYS_clone3, 16, sizeof args), EFAULT);
    // CLONE_CLEAR_SIGHAND: handlers go, ignored signals too.
    args.set_tid_size = 0;
    args.flags = CLONE_CLEAR_SIGHAND;
    signal(SIGUSR1, [](int) {});
    signal(SIGUSR2, SIG_IGN);
    const int cleared = raw_clone3(args);
    if (cleared == 0) {
        struct sigaction action = {};
        sigaction(SIGUSR1, nullptr, &action);
        if (action.sa_handler != SIG_DFL)
            _exit(1);
        sigaction(SIGUSR2, nullptr, &action);
        _exit(action.sa_handler == SIG_IGN ? 0 : 2);
    }
    expect_exit(end_of(cleared), 0);
    signal(SIGUSR1, SIG_DFL);
    signal(SIGUSR2, SIG_DFL);
}

void process_descriptors() {
    // From clone3, and from pidfd_open.
    int pidfd = -1;
    clone_args args = {};
    args.flags = CLONE_PIDFD;
    args.exit_signal = SIGCHLD;
    args.pidfd = reinterpret_cast<unsigned long>(&pidfd);
    int hold[2];
    CHECK(pipe(hold) == 0);
    const int child = raw_clone3(args);
    if (child == 0) {
        close(hold[1]);
        char byte = 0;
        (void)!read(hold[0], &byte, 1);
        _exit(33);
    }
    CHECK(pidfd >= 0 && (fcntl(pidfd, F_GETFD) & FD_CLOEXEC) != 0);
    const int second = static_cast<int>(syscall(SYS_pidfd_open, child, 0));
    CHECK(second >= 0);
    CHECK(syscall(SYS_pidfd_send_signal, second, 0, nullptr, 0) == 0);
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, second, 0, nullptr, 0x100), EINVAL);
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, second, 65, nullptr, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, hold[0], 0, nullptr, 0), EBADF);
    CHECK_FAILS(syscall(SYS_pidfd_open, 0, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_pidfd_open, -1, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_pidfd_open, 0x3fffffff, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_pidfd_open, child, 1), EINVAL);
    // Its directory in /proc stands for it as well, and nothing else there does.
    const std::string place = "/proc/" + std::to_string(child);
    const int process_directory = open(place.c_str(), O_RDONLY | O_DIRECTORY);
    CHECK(process_directory >= 0);
    CHECK(syscall(SYS_pidfd_send_signal, process_directory, 0, nullptr, 0) == 0);
    CHECK_FAILS(syscall(SYS_pidfd_getfd, process_directory, hold[0], 0), EBADF);
    for (const auto& [name, flags] :
         {std::pair{"", O_PATH}, {"/task", O_RDONLY}, {"/..", O_RDONLY}}) {
        const int other = open((place + name).c_str(), flags | O_DIRECTORY);
        CHECK(other >= 0);
        CHECK_FAILS(syscall(SYS_pidfd_send_signal, other, 0, nullptr, 0), EBADF);
        close(other);
    }
    pollfd wait = {pidfd, POLLIN, 0};
    CHECK(poll(&wait, 1, 0) == 0);
    siginfo_t info = {};
    info.si_pid = 1;
    CHECK(waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info,
                 WEXITED | WNOHANG) == 0);
    CHECK(info.si_pid == 0);
    // A descriptor of the other's.
    const int taken = static_cast<int>(syscall(SYS_pidfd_getfd, pidfd, hold[0], 0));
    CHECK(taken >= 0 && (fcntl(taken, F_GETFD) & FD_CLOEXEC) != 0);
    CHECK(syscall(SYS_kcmp, getpid(), child, KCMP_FILE, taken, hold[0]) == 0);
    CHECK_FAILS(syscall(SYS_pidfd_getfd, pidfd, 9999, 0), EBADF);
    CHECK_FAILS(syscall(SYS_pidfd_getfd, pidfd, 0, 1), EINVAL);
    close(taken);
    close(hold[1]);
    CHECK(poll(&wait, 1, -1) == 1 && (wait.revents & POLLIN) != 0);
    CHECK(syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, nullptr, 0) == 0); // to a zombie
    CHECK(waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED) == 0);
    CHECK(info.si_pid == child && info.si_status == 33 && info.si_code == CLD_EXITED);
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, pidfd, 0, nullptr, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, process_directory, 0, nullptr, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_pidfd_getfd, pidfd, 0, 0), ESRCH);
    close(process_directory);
    CHECK_FAILS(waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED),
                ECHILD);
    close(pidfd);
    close(second);
    close(hold[0]);
    // One that does not block.
    const pid_t sleeper = start([] { pause(); });
    const int lazy = static_cast<int>(syscall(SYS_pidfd_open, sleeper, O_NONBLOCK));
    CHECK(lazy >= 0);
    CHECK_FAILS(waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(lazy), &info, WEXITED),
                EAGAIN);
    // Information of the sender's own.
    siginfo_t sent = {};
    sent.si_signo = SIGKILL;
    sent.si_code = SI_USER;
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, lazy, SIGTERM, &sent, 0), EINVAL);
    CHECK_FAILS(syscall(SYS_pidfd_send_signal, lazy, SIGKILL, &sent, 0), EPERM);
    // Not to one that the sender's pid namespace does not have.
    expect_exit(end_of(start([lazy] {
                    if (unshare(CLONE_NEWPID) != 0)
                        return; // not as root
                    const pid_t inner = start([lazy] {
                        CHECK_FAILS(syscall(SYS_pidfd_send_signal, lazy, SIGTERM, nullptr, 0),
                                    EINVAL);
                    });
                    expect_exit(end_of(inner), 0);
                })),
                0);
    CHECK(syscall(SYS_pidfd_send_signal, lazy, SIGKILL, nullptr, 0) == 0);
    const int status = end_of(sleeper);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    close(lazy);
}

void waits() {
    int status = 0;
    CHECK_FAILS(waitpid(-1, &status, 0x100), EINVAL);
    CHECK_FAILS(waitid(P_ALL, 0, nullptr, 0), EINVAL);
    CHECK_FAILS(waitid(P_ALL, 0, nullptr, WNOHANG), EINVAL);
    CHECK_FAILS(waitid(P_PID, 0, nullptr, WEXITED), EINVAL);
    CHECK_FAILS(syscall(SYS_waitid, 9, 1, nullptr, WEXITED, nullptr), EINVAL);
    CHECK_FAILS(waitid(static_cast<idtype_t>(P_PIDFD), 9999, nullptr, WEXITED), EBADF);
    CHECK_FAILS(waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(-1), nullptr, WEXITED),
                EINVAL);
    CHECK_FAILS(waitpid(getpid(), &status, 0), ECHILD);
    CHECK_FAILS(waitpid(-0x3fffffff, &status, 0), ECHILD);

    pid_t child = start([] { raise(SIGKILL); });
    siginfo_t info = {};
    // Looked at, then taken.
    CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
    CHECK(info.si_signo == SIGCHLD && info.si_code == CLD_KILLED && info.si_status == SIGKILL &&
          info.si_pid == child && info.si_uid == getuid());
    rusage usage = {};
    CHECK(wait4(child, &status, 0, &usage) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL && !WCOREDUMP(status));
    // Stops and continuations; in a group of its own, since SIGTSTP does not stop orphaned groups.
    child = start([] {
        for (;;)
            pause();
    });
    CHECK(setpgid(child, child) == 0);
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    CHECK(kill(child, SIGSTOP) == 0);
    CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED | WNOWAIT) == 0);
    CHECK(info.si_code == CLD_STOPPED && info.si_status == SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED) == child);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED | WNOHANG) == 0); // told once
    CHECK(kill(child, SIGCONT) == 0);
    CHECK(waitpid(child, &status, WCONTINUED) == child && WIFCONTINUED(status));
    CHECK(waitpid(child, &status, WCONTINUED | WNOHANG) == 0);
    CHECK(kill(child, SIGTSTP) == 0);
    CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WSTOPPED) == 0);
    CHECK(info.si_code == CLD_STOPPED && info.si_status == SIGTSTP);
    CHECK(kill(child, SIGCONT) == 0);
    CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WCONTINUED) == 0);
    CHECK(info.si_code == CLD_CONTINUED && info.si_status == SIGCONT);
    // A stopped process dies of SIGKILL only.
    CHECK(kill(child, SIGSTOP) == 0);
    CHECK(waitpid(child, &status, WUNTRACED) == child);
    CHECK(kill(child, SIGTERM) == 0);
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(WTERMSIG(end_of(child)) == SIGKILL);
    // By group.
    child = start([] {
        CHECK(setpgid(0, 0) == 0);
        _exit(2);
    });
    (void)setpgid(child, child);
    CHECK(waitpid(-child, &status, 0) == child);
    expect_exit(status, 2);
    child = start([] { _exit(3); });
    CHECK(waitpid(0, &status, 0) == child);
    expect_exit(status, 3);
    child = start([] { _exit(6); });
    CHECK(waitid(P_PGID, static_cast<id_t>(getpgrp()), &info, WEXITED) == 0 && info.si_status == 6);
    // A bad address is told after the child is gone, as ever.
    child = start([] { _exit(0); });
    CHECK_FAILS(syscall(SYS_wait4, child, 16, 0, nullptr), EFAULT);
    CHECK_FAILS(waitpid(child, nullptr, 0), ECHILD);
    // Nobody's zombies.
    signal(SIGCHLD, SIG_IGN);
    child = start([] { _exit(0); });
    CHECK_FAILS(waitpid(child, nullptr, 0), ECHILD);
    struct sigaction action = {};
    action.sa_handler = SIG_DFL;
    action.sa_flags = SA_NOCLDWAIT;
    CHECK(sigaction(SIGCHLD, &action, nullptr) == 0);
    child = start([] { _exit(0); });
    CHECK_FAILS(waitpid(child, nullptr, 0), ECHILD);
    signal(SIGCHLD, SIG_DFL);
    // One that was made without a signal is an ordinary child of who adopts it.
    expect_exit(end_of(start([] {
                    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
                    int hold[2];
                    CHECK(pipe(hold) == 0);
                    const pid_t middle = start([&] {
                        if (syscall(SYS_clone, 0, nullptr, nullptr, nullptr, 0) == 0) {
                            close(hold[1]);
                            char byte = 0;
                            _exit(read(hold[0], &byte, 1) == 0 ? 27 : 1);
                        }
                    });
                    expect_exit(end_of(middle), 0);
                    close(hold[1]);
                    int ended = 0;
                    CHECK(wait(&ended) > 0);
                    expect_exit(ended, 27);
                })),
                0);
    // A zombie takes any signal.
    child = start([] { _exit(0); });
    CHECK(waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) == 0);
    CHECK(kill(child, SIGTERM) == 0 && getpgid(child) == getpgrp());
    expect_exit(end_of(child), 0);
    CHECK_FAILS(kill(child, 0), ESRCH);
}

// SIGCHLD and SA_NOCLDSTOP.
volatile int notices;
volatile int last_code;
void child_signals() {
    struct sigaction action = {};
    action.sa_sigaction = [](int, siginfo_t* info, void*) {
        notices = notices + 1;
        last_code = info->si_code;
    };
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    CHECK(sigaction(SIGCHLD, &action, nullptr) == 0);
    notices = 0;
    const pid_t child = start([] {
        for (;;)
            pause();
    });
    kill(child, SIGSTOP);
    int status = 0;
    CHECK(waitpid(child, &status, WUNTRACED) == child);
    while (notices < 1)
        sched_yield();
    CHECK(last_code == CLD_STOPPED);
    kill(child, SIGCONT);
    while (notices < 2)
        sched_yield();
    CHECK(last_code == CLD_CONTINUED);
    action.sa_flags |= SA_NOCLDSTOP;
    CHECK(sigaction(SIGCHLD, &action, nullptr) == 0);
    kill(child, SIGSTOP);
    CHECK(waitpid(child, &status, WUNTRACED) == child);
    CHECK(notices == 2);
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(notices == 3 && last_code == CLD_KILLED);
    signal(SIGCHLD, SIG_DFL);
}

// --- exec. This program, called with a word, does something and exits with a number.

extern "C" char** environ;

int called(int argc, char** argv) {
    const std::string word = argv[1];
    if (word == "arguments")
        return argc == 4 && std::string(argv[2]) == "two" && std::string(argv[3]).empty() &&
                       std::string(getenv("JOEY_TEST") != nullptr ? getenv("JOEY_TEST") : "") ==
                           "yes"
                   ? 40
                   : 1;
    if (word == "state") {
        // What execve resets and keeps: descriptors, handlers, masks, alternate stacks, timers.
        if (fcntl(50, F_GETFD) != -1 || fcntl(51, F_GETFD) == -1)
            return 1;
        struct sigaction action = {};
        sigaction(SIGUSR1, nullptr, &action);
        if (action.sa_handler != SIG_DFL)
            return 2;
        sigaction(SIGUSR2, nullptr, &action);
        if (action.sa_handler != SIG_IGN)
            return 3;
        sigset_t mask;
        sigprocmask(SIG_BLOCK, nullptr, &mask);
        if (sigismember(&mask, SIGALRM) != 1)
            return 4;
        stack_t stack = {};
        sigaltstack(nullptr, &stack);
        if ((stack.ss_flags & SS_DISABLE) == 0)
            return 5;
        sigset_t pending;
        sigpending(&pending);
        if (sigismember(&pending, SIGALRM) != 1)
            return 6;
        itimerval timer = {};
        getitimer(ITIMER_REAL, &timer);
        if (timer.it_value.tv_sec < 3000)
            return 7;
        char name[16] = {};
        prctl(PR_GET_NAME, name);
        if (self.substr(self.rfind('/') + 1).compare(0, 15, name) != 0)
            return 8;
        int death = 0;
        prctl(PR_GET_PDEATHSIG, &death);
        return death == SIGHUP ? 41 : 9;
    }
    if (word == "thread") // the number of the process stays, whichever thread called
        return getpid() == atoi(argv[2]) && gettid() == getpid() ? 42 : 1;
    if (word == "count")
        return argc - 2;
    if (word == "name")
        return std::string(argv[0]) == argv[2] ? 43 : 1;
    if (word == "shown") { // the name of the program, as the kernel tells it
        const auto* const name = reinterpret_cast<const char*>(getauxval(AT_EXECFN));
        return std::string(name) == argv[2] ? 44 : 1;
    }
    if (word == "called") { // what /proc/PID/comm shows
        char name[16] = {};
        prctl(PR_GET_NAME, name);
        return std::string(name) == argv[2] ? 46 : 1;
    }
    if (word == "script") // by the name that its interpreter is given
        return std::string(argv[2]) == argv[3] && access(argv[2], R_OK) == 0 ? 45 : 1;
    if (word == "child") { // the other program's, which it had ask for SIGUSR1
        close(atoi(argv[2]));
        int status = 0;
        sigset_t pending;
        if (waitpid(-1, &status, __WALL) <= 0 || sigpending(&pending) != 0)
            return 1;
        return sigismember(&pending, SIGCHLD) == 1 && sigismember(&pending, SIGUSR1) == 0 ? 46 : 2;
    }
    return 99;
}

void run(std::vector<std::string> words, int expected, int flags = 0, int fd = AT_FDCWD,
         const char* path = nullptr) {
    std::vector<char*> arguments;
    for (std::string& word : words)
        arguments.push_back(word.data());
    arguments.push_back(nullptr);
    expect_exit(end_of(start([&] {
                    syscall(SYS_execveat, fd, path != nullptr ? path : self.c_str(),
                            arguments.data(), environ, flags);
                    _exit(errno);
                })),
                expected);
}

void write_file(const std::string& name, const std::string& text, mode_t mode) {
    const int fd = open(name.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    CHECK(fd >= 0);
    CHECK(write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    CHECK(fchmod(fd, mode) == 0);
    close(fd);
}

// Of Linux those since 6.14; before, it was the descriptor's number.
bool names_tasks_by_file() {
    utsname names = {};
    CHECK(uname(&names) == 0);
    int major = 0, minor = 0;
    CHECK(sscanf(names.release, "%d.%d", &major, &minor) == 2);
    return major > 6 || (major == 6 && minor >= 14) || strstr(names.release, "joey") != nullptr;
}

void execs() {
    setenv("JOEY_TEST", "yes", 1);
    run({"x", "arguments", "two", ""}, 40);
    run({"anything", "name", "anything"}, 43);
    // By descriptor, by directory.
    const int file = open(self.c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    run({"x", "arguments", "two", ""}, 40, AT_EMPTY_PATH, file, "");
    const int path_only = open(self.c_str(), O_PATH | O_CLOEXEC);
    run({"x", "arguments", "two", ""}, 40, AT_EMPTY_PATH, path_only, "");
    run({"x"}, ENOENT, 0, file, "");
    run({"x"}, EINVAL, 0x8000);
    run({"x"}, EBADF, AT_EMPTY_PATH, 9999, "");
    close(file);
    close(path_only);
    const std::string link = directory + "/link";
    CHECK(symlink(self.c_str(), link.c_str()) == 0);
    run({"x", "count", "1", "2"}, 2, 0, AT_FDCWD, link.c_str());
    run({"x"}, ELOOP, AT_SYMLINK_NOFOLLOW, AT_FDCWD, link.c_str());
    // fexecve of a memory file.
    const int memory = memfd_create("program", MFD_CLOEXEC);
    const int original = open(self.c_str(), O_RDONLY);
    char block[65536];
    for (ssize_t got = 0; (got = read(original, block, sizeof block)) > 0;)
        CHECK(write(memory, block, static_cast<size_t>(got)) == got);
    close(original);
    run({"x", "arguments", "two", ""}, 40, AT_EMPTY_PATH, memory, "");
    // What they are called then: a script must be there under its name for its interpreter.
    const std::string script = directory + "/script";
    write_file(script, "#!" + self + " script\n", 0700);
    const int place = open(directory.c_str(), O_PATH);
    const int kept = open(script.c_str(), O_RDONLY);
    const int program = open(self.c_str(), O_PATH | O_CLOEXEC);
    const auto name_of = [](int fd) { return "/dev/fd/" + std::to_string(fd); };
    run({"x", name_of(kept)}, 45, AT_EMPTY_PATH, kept, "");
    run({"x", name_of(place) + "/script"}, 45, 0, place, "script");
    run({"x", script}, 45, 0, place, script.c_str());
    run({"x", "shown", name_of(program)}, 44, AT_EMPTY_PATH, program, "");
    // The task itself is called by its path's last part, or by what the descriptor stands for.
    const auto task_name = [](const std::string& path) {
        return path.substr(path.rfind('/') + 1).substr(0, 15);
    };
    run({"x", "called", "link"}, 46, 0, place, "./link");
    if (names_tasks_by_file()) {
        run({"x", "called", task_name(self)}, 46, AT_EMPTY_PATH, program, "");
        run({"x", "called", "memfd:program"}, 46, AT_EMPTY_PATH, memory, "");
    }
    close(memory);
    for (const int fd : {kept, place})
        CHECK(fcntl(fd, F_SETFD, FD_CLOEXEC) == 0);
    run({"x", name_of(kept)}, ENOENT, AT_EMPTY_PATH, kept, "");
    run({"x", name_of(place) + "/script"}, ENOENT, 0, place, "script");
    run({"x", script}, 45, 0, place, script.c_str());
    for (const int fd : {kept, place, program})
        close(fd);
    CHECK(unlink(script.c_str()) == 0);
    // What cannot be run.
    run({"x"}, ENOENT, 0, AT_FDCWD, (directory + "/none").c_str());
    run({"x"}, EACCES, 0, AT_FDCWD, directory.c_str());
    const std::string plain = directory + "/plain";
    write_file(plain, "just text", 0600);
    run({"x"}, EACCES, 0, AT_FDCWD, plain.c_str());
    run({"x"}, ENOTDIR, 0, AT_FDCWD, (plain + "/x").c_str());
    CHECK(chmod(plain.c_str(), 0700) == 0);
    run({"x"}, ENOEXEC, 0, AT_FDCWD, plain.c_str());
    write_file(plain, "", 0700);
    run({"x"}, ENOEXEC, 0, AT_FDCWD, plain.c_str());
    write_file(plain, std::string("\177ELF", 4) + std::string(60, 'x'), 0700);
    run({"x"}, ENOEXEC, 0, AT_FDCWD, plain.c_str());
    // Open for writing.
    {
        const std::string busy = directory + "/busy";
        write_file(busy, "#!" + self + " count\n", 0700);
        const int writer = open(busy.c_str(), O_WRONLY | O_CLOEXEC);
        CHECK(writer >= 0);
        run({"x"}, ETXTBSY, 0, AT_FDCWD, busy.c_str());
        close(writer);
        // argv: the interpreter, its one argument, the script, the rest.
        run({"x", "a", "b"}, 3, 0, AT_FDCWD, busy.c_str());
        const std::string outer = directory + "/outer";
        write_file(outer, "#! " + busy + " several words\n", 0700);
        run({"x", "a", "b"}, 5, 0, AT_FDCWD, outer.c_str());
        write_file(busy, "#!" + busy + "\n", 0700);
        run({"x"}, ELOOP, 0, AT_FDCWD, busy.c_str());
        write_file(busy, "#!/none\n", 0700);
        run({"x"}, ENOENT, 0, AT_FDCWD, busy.c_str());
        write_file(busy, "#!\n", 0700);
        run({"x"}, ENOEXEC, 0, AT_FDCWD, busy.c_str());
        CHECK(unlink(busy.c_str()) == 0 && unlink(outer.c_str()) == 0);
    }
    CHECK(unlink(plain.c_str()) == 0 && unlink(link.c_str()) == 0);
    // Too long, or nowhere.
    expect_exit(
        end_of(start([] {
            char* const words[] = {const_cast<char*>("x"), reinterpret_cast<char*>(16), nullptr};
            execve(self.c_str(), words, environ);
            _exit(errno);
        })),
        EFAULT);
    expect_exit(end_of(start([] {
                    std::string huge(200'000, 'x');
                    char* const words[] = {const_cast<char*>("x"), huge.data(), nullptr};
                    execve(self.c_str(), words, environ);
                    _exit(errno);
                })),
                E2BIG);
    expect_exit(end_of(start([] {
                    std::vector<std::string> text(40, std::string(100'000, 'x'));
                    std::vector<char*> words;
                    for (std::string& word : text)
                        words.push_back(word.data());
                    words.push_back(nullptr);
                    execve(self.c_str(), words.data(), environ);
                    _exit(errno);
                })),
                E2BIG);
    // A large but lawful list.
    std::vector<std::string> words = {"x", "count"};
    words.insert(words.end(), 77, std::string(10'000, 'y'));
    run(words, 77);
}

// What a child was told to send at its end it does not send to another program.
void exit_signal_after_exec() {
    expect_exit(end_of(start([] {
                    sigset_t set;
                    sigemptyset(&set);
                    sigaddset(&set, SIGUSR1);
                    sigaddset(&set, SIGCHLD);
                    CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
                    int hold[2];
                    CHECK(pipe(hold) == 0);
                    if (syscall(SYS_clone, SIGUSR1, nullptr, nullptr, nullptr, 0) == 0) {
                        close(hold[1]);
                        char byte = 0;
                        _exit(read(hold[0], &byte, 1) == 0 ? 0 : 1);
                    }
                    execl(self.c_str(), "x", "child", std::to_string(hold[1]).c_str(), nullptr);
                })),
                46);
}

void exec_state() {
    expect_exit(end_of(start([] {
                    CHECK(dup2(0, 50) == 50 && fcntl(50, F_SETFD, FD_CLOEXEC) == 0 &&
                          dup2(0, 51) == 51);
                    signal(SIGUSR1, [](int) {});
                    signal(SIGUSR2, SIG_IGN);
                    sigset_t set;
                    sigemptyset(&set);
                    sigaddset(&set, SIGALRM);
                    sigprocmask(SIG_BLOCK, &set, nullptr);
                    raise(SIGALRM);
                    static char stack[8192];
                    stack_t other = {};
                    other.ss_sp = stack;
                    other.ss_size = sizeof stack;
                    CHECK(sigaltstack(&other, nullptr) == 0);
                    const itimerval timer = {{0, 0}, {3600, 0}};
                    CHECK(setitimer(ITIMER_REAL, &timer, nullptr) == 0);
                    CHECK(prctl(PR_SET_PDEATHSIG, SIGHUP) == 0);
                    execl(self.c_str(), "x", "state", nullptr);
                    _exit(90);
                })),
                41);
    // From a thread that is not the first, with others asleep and at work.
    expect_exit(end_of(start([] {
                    for (int i = 0; i < 4; i++) {
                        pthread_t thread;
                        CHECK(pthread_create(
                                  &thread, nullptr,
                                  [](void* raw) -> void* {
                                      if (raw != nullptr)
                                          for (;;)
                                              asm volatile("");
                                      pause();
                                      return nullptr;
                                  },
                                  i % 2 == 0 ? &self : nullptr) == 0);
                    }
                    pthread_t thread;
                    CHECK(pthread_create(
                              &thread, nullptr,
                              [](void*) -> void* {
                                  const std::string number = std::to_string(getpid());
                                  execl(self.c_str(), "x", "thread", number.c_str(), nullptr);
                                  _exit(90);
                              },
                              nullptr) == 0);
                    pause();
                })),
                42);
    // vfork and exec; the failure is the child's to see.
    const pid_t child = vfork();
    if (child == 0) {
        execl("/nonexistent", "x", nullptr);
        _exit(errno == ENOENT ? 44 : 1);
    }
    expect_exit(end_of(child), 44);
}

// --- exits

void exits() {
    expect_exit(end_of(start([] { _exit(0x1ff); })), 0xff);
    // exit(2) of the first thread leaves the others; the process ends with the last.
    expect_exit(end_of(start([] {
                    pthread_t thread;
                    CHECK(pthread_create(
                              &thread, nullptr,
                              [](void*) -> void* {
                                  usleep(3000);
                                  syscall(SYS_exit, 55);
                                  return nullptr;
                              },
                              nullptr) == 0);
                    syscall(SYS_exit, 66);
                })),
                55);
    expect_exit(end_of(start([] {
                    pthread_t thread;
                    CHECK(pthread_create(
                              &thread, nullptr,
                              [](void*) -> void* {
                                  usleep(3000);
                                  syscall(SYS_exit_group, 57);
                                  return nullptr;
                              },
                              nullptr) == 0);
                    for (;;)
                        pause();
                })),
                57);
    // Orphans go to the nearest subreaper.
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int fds[2];
    CHECK(pipe(fds) == 0);
    const pid_t us = getpid();
    expect_exit(end_of(start([&] {
                    (void)start([&] {
                        while (getppid() != us)
                            usleep(500);
                        CHECK(write(fds[1], "x", 1) == 1);
                        _exit(12);
                    });
                })),
                0);
    char byte = 0;
    CHECK(read(fds[0], &byte, 1) == 1);
    int status = 0;
    CHECK(wait(&status) > 0);
    expect_exit(status, 12);
    int flag = 0;
    CHECK(prctl(PR_GET_CHILD_SUBREAPER, &flag) == 0 && flag == 1);
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
    // The parent's death.
    expect_exit(end_of(start([&] {
                    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
                    const pid_t middle = start([&] {
                        const pid_t leaf = start([] {
                            CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
                            for (;;)
                                pause();
                        });
                        int death = 1;
                        CHECK(prctl(PR_GET_PDEATHSIG, &death) == 0 && death == 0);
                        usleep(5000);
                        (void)leaf;
                    });
                    expect_exit(end_of(middle), 0);
                    int ended = 0;
                    CHECK(wait(&ended) > 0 && WIFSIGNALED(ended) && WTERMSIG(ended) == SIGKILL);
                })),
                0);
    CHECK_FAILS(prctl(PR_SET_PDEATHSIG, 65), EINVAL);
    close(fds[0]);
    close(fds[1]);
}

void comparisons() {
    int hold[2];
    CHECK(pipe(hold) == 0);
    const pid_t child = start([&] {
        close(hold[1]);
        char byte = 0;
        (void)!read(hold[0], &byte, 1);
    });
    const pid_t own = getpid();
    CHECK(syscall(SYS_kcmp, own, own, KCMP_VM, 0, 0) == 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_VM, 0, 0) > 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_FILES, 0, 0) > 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_FS, 0, 0) > 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_SIGHAND, 0, 0) > 0);
    CHECK(syscall(SYS_kcmp, own, child, KCMP_FILE, hold[0], hold[0]) == 0);
    CHECK(syscall(SYS_kcmp, own, own, KCMP_FILE, hold[0], hold[1]) > 0);
    const long forward = syscall(SYS_kcmp, own, child, KCMP_VM, 0, 0);
    const long backward = syscall(SYS_kcmp, child, own, KCMP_VM, 0, 0);
    CHECK(forward + backward == 3);
    CHECK_FAILS(syscall(SYS_kcmp, own, child, 99, 0, 0), EINVAL);
    CHECK(syscall(SYS_kcmp, own, own, KCMP_IO, 0, 0) == 0);
    CHECK(syscall(SYS_kcmp, own, own, KCMP_SYSVSEM, 0, 0) == 0);
    // A file that an epoll file watches, by the number that it had then.
    const int watcher = epoll_create1(0);
    epoll_event none{};
    CHECK(epoll_ctl(watcher, EPOLL_CTL_ADD, hold[0], &none) == 0);
    kcmp_epoll_slot slot{static_cast<unsigned>(watcher), static_cast<unsigned>(hold[0]), 0};
    CHECK(syscall(SYS_kcmp, own, own, KCMP_EPOLL_TFD, hold[0], &slot) == 0);
    CHECK(syscall(SYS_kcmp, own, own, KCMP_EPOLL_TFD, hold[1], &slot) > 0);
    slot.toff = 1;
    CHECK_FAILS(syscall(SYS_kcmp, own, own, KCMP_EPOLL_TFD, hold[0], &slot), ENOENT);
    slot = {static_cast<unsigned>(hold[0]), static_cast<unsigned>(hold[0]), 0};
    CHECK_FAILS(syscall(SYS_kcmp, own, own, KCMP_EPOLL_TFD, hold[0], &slot), EINVAL);
    CHECK_FAILS(syscall(SYS_kcmp, own, own, KCMP_EPOLL_TFD, hold[0], 16), EFAULT);
    close(watcher);
    CHECK_FAILS(syscall(SYS_kcmp, own, 0x3fffffff, KCMP_VM, 0, 0), ESRCH);
    CHECK_FAILS(syscall(SYS_kcmp, own, own, KCMP_FILE, 9999, 0), EBADF);
    close(hold[1]);
    expect_exit(end_of(child), 0);
    close(hold[0]);
}

} // namespace

int main(int argc, char** argv) {
    char path[4096] = {};
    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    self = path;
    if (argc > 1)
        return called(argc, argv);
    char name[] = "/tmp/joey-processes-XXXXXX";
    CHECK(mkdtemp(name) != nullptr);
    directory = name;
    forks();
    clones();
    clone3_arguments();
    process_descriptors();
    waits();
    child_signals();
    execs();
    exec_state();
    exit_signal_after_exec();
    exits();
    comparisons();
    CHECK(rmdir(name) == 0);
    return 0;
}
