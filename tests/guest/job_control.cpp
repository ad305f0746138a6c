// Sessions, process groups, stops and continuations, orphaned groups, controlling terminals.
// setpgid(2), setsid(2), credentials(7), tcsetpgrp(3), POSIX 11.1.4.
#include <csignal>
#include <fcntl.h>
#include <sched.h>
#include <string>
#include <termios.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/guest/process_support.hpp"

namespace {

void wait_for_ever() {
    for (;;)
        pause();
}

void reap(pid_t child) {
    CHECK(kill(child, SIGKILL) == 0);
    CHECK(waitpid(child, nullptr, 0) == child);
}

void groups_and_sessions() {
    in_child([] {
        // A new session: leader of session and group, no way back.
        CHECK(setsid() == getpid());
        CHECK(getsid(0) == getpid() && getpgrp() == getpid() && getpgid(0) == getpid());
        CHECK_FAILS(setsid(), EPERM);
        CHECK_FAILS(setpgid(0, 0), EPERM); // a leader stays
        CHECK_FAILS(setpgid(0, -1), EINVAL);
        CHECK_FAILS(setpgid(-1, 0), EINVAL);
        CHECK_FAILS(setpgid(-1, 1), ESRCH);
        CHECK_FAILS(setpgid(0x3fffffff, 0), ESRCH);
        CHECK_FAILS(getpgid(0x3fffffff), ESRCH);
        CHECK_FAILS(getsid(0x3fffffff), ESRCH);
        CHECK_FAILS(getpgid(-1), ESRCH);

        const pid_t first = start(wait_for_ever);
        const pid_t second = start(wait_for_ever);
        CHECK(setpgid(first, 0) == 0 && getpgid(first) == first);
        CHECK(setpgid(second, first) == 0 && getpgid(second) == first);
        CHECK_FAILS(setpgid(second, 0x3fffffff), EPERM); // no such group
        CHECK(setpgid(second, second) == 0 && getpgid(second) == second);
        CHECK(setpgid(second, getpgrp()) == 0 && getpgid(second) == getpgrp());
        CHECK_FAILS(setpgid(getppid(), 0), ESRCH); // no child of ours
        CHECK(getsid(second) == getpid());
        // To a whole group.
        CHECK(setpgid(second, first) == 0);
        CHECK(kill(-first, SIGTERM) == 0);
        int status = 0;
        CHECK(waitpid(-first, &status, 0) > 0 && WTERMSIG(status) == SIGTERM);
        CHECK(waitpid(-first, &status, 0) > 0 && WTERMSIG(status) == SIGTERM);
        CHECK_FAILS(kill(-first, 0), ESRCH);
        // A child that has executed keeps its group.
        int fds[2];
        CHECK(pipe2(fds, O_CLOEXEC) == 0);
        const pid_t third = start([] { execl("/bin/sleep", "sleep", "100", nullptr); });
        close(fds[1]);
        char byte = 0;
        CHECK(read(fds[0], &byte, 1) == 0); // closed by exec
        CHECK_FAILS(setpgid(third, third), EACCES);
        reap(third);
        close(fds[0]);
        // A child in another session.
        int ready[2];
        CHECK(pipe(ready) == 0);
        const pid_t fourth = start([&] {
            CHECK(setsid() == getpid());
            CHECK(write(ready[1], "x", 1) == 1);
            wait_for_ever();
        });
        CHECK(read(ready[0], &byte, 1) == 1);
        CHECK_FAILS(setpgid(fourth, getpgrp()), EPERM);
        CHECK(getsid(fourth) == fourth);
        reap(fourth);
    });
    in_child([] { // a number whose group lives on is not given to a session
        CHECK(setpgid(0, 0) == 0);
        CHECK_FAILS(setsid(), EPERM);
    });
}

// kill(0) and kill(-1) within a pid that only its group knows.
void own_group() {
    in_child([] {
        CHECK(setpgid(0, 0) == 0);
        const pid_t child = start(wait_for_ever);
        signal(SIGTERM, SIG_IGN);
        CHECK(kill(0, SIGTERM) == 0);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WTERMSIG(status) == SIGTERM);
    });
}

volatile int continued;
volatile int hung_up;

void orphans() {
    // A stopped member of a group that becomes orphaned is hung up and continued.
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    int told[2];
    CHECK(pipe(told) == 0);
    in_child([&] {
        CHECK(setsid() == getpid());
        const pid_t shell = start([&] {
            const pid_t job = start([&] {
                CHECK(setpgid(0, 0) == 0);
                signal(SIGHUP, [](int) { hung_up = 1; });
                signal(SIGCONT, [](int) { continued = 1; });
                raise(SIGSTOP);
                while (hung_up == 0 || continued == 0)
                    sched_yield();
                CHECK(write(told[1], "x", 1) == 1);
            });
            int status = 0;
            CHECK(waitpid(job, &status, WUNTRACED) == job && WIFSTOPPED(status));
        });
        CHECK(waitpid(shell, nullptr, 0) == shell);
    });
    char byte = 0;
    CHECK(read(told[0], &byte, 1) == 1);
    CHECK(wait(nullptr) > 0);
    CHECK(prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
    // Terminal stops mean nothing to an orphaned group; SIGSTOP does.
    in_child([&] {
        CHECK(setsid() == getpid());
        const pid_t leader = start([&] {
            CHECK(setsid() == getpid());
            raise(SIGTSTP);
            raise(SIGTTIN);
            raise(SIGTTOU);
            CHECK(write(told[1], "x", 1) == 1);
            raise(SIGSTOP);
        });
        CHECK(read(told[0], &byte, 1) == 1);
        int status = 0;
        CHECK(waitpid(leader, &status, WUNTRACED) == leader);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
        CHECK(kill(leader, SIGCONT) == 0);
        CHECK(waitpid(leader, &status, 0) == leader && WIFEXITED(status));
    });
    close(told[0]);
    close(told[1]);
}

// SIGCONT comes when SIGSTOP has been taken from the queue and has not stopped anybody yet.
void continued_on_the_way_to_a_stop() {
    const pid_t child = start([] {
        CHECK(ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0);
        raise(SIGSTOP);
    });
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK(WSTOPSIG(status) == SIGSTOP);
    CHECK(kill(child, SIGCONT) == 0);
    CHECK(ptrace(PTRACE_CONT, child, nullptr, SIGSTOP) == 0);
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    CHECK(WSTOPSIG(status) == SIGCONT);
    CHECK(ptrace(PTRACE_CONT, child, nullptr, 0) == 0);
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

// Who a stopped child belongs to, in the parent's user namespace.
void owners_in_namespaces() {
    in_child([] {
        const uid_t outside = geteuid();
        if (unshare(CLONE_NEWUSER) != 0)
            return; // not allowed here
        const std::string map = "7 " + std::to_string(outside) + " 1";
        const int file = open("/proc/self/uid_map", O_WRONLY);
        CHECK(file >= 0 && write(file, map.data(), map.size()) == static_cast<ssize_t>(map.size()));
        CHECK(close(file) == 0 && getuid() == 7);
        sigset_t set;
        sigemptyset(&set);
        sigaddset(&set, SIGCHLD);
        CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
        const pid_t child = start(wait_for_ever);
        siginfo_t info{};
        for (const int signal : {SIGSTOP, SIGCONT}) {
            CHECK(kill(child, signal) == 0);
            CHECK(sigwaitinfo(&set, &info) == SIGCHLD && info.si_pid == child);
            CHECK(info.si_code == (signal == SIGSTOP ? CLD_STOPPED : CLD_CONTINUED));
            CHECK(info.si_uid == 7);
        }
        reap(child);
    });
}

void stops() {
    in_child([] {
        // SIGCONT discards stops that are pending, and the other way round.
        const pid_t child = start([] {
            sigset_t set;
            sigemptyset(&set);
            sigaddset(&set, SIGTSTP);
            sigaddset(&set, SIGCONT);
            CHECK(sigprocmask(SIG_BLOCK, &set, nullptr) == 0);
            raise(SIGTSTP);
            sigset_t pending;
            sigpending(&pending);
            CHECK(sigismember(&pending, SIGTSTP) == 1);
            signal(SIGCONT, [](int) {});
            raise(SIGCONT);
            sigpending(&pending);
            CHECK(sigismember(&pending, SIGTSTP) == 0 && sigismember(&pending, SIGCONT) == 1);
            raise(SIGTSTP);
            sigpending(&pending);
            CHECK(sigismember(&pending, SIGTSTP) == 1 && sigismember(&pending, SIGCONT) == 0);
        });
        CHECK(setpgid(child, child) == 0 || errno == ESRCH || errno == EACCES);
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    });
    // Many stops and continuations in a row end where the last one says.
    const pid_t busy = start([] {
        for (;;)
            asm volatile("");
    });
    int status = 0;
    for (int i = 0; i < 20; i++) {
        CHECK(kill(busy, SIGSTOP) == 0);
        CHECK(waitpid(busy, &status, WUNTRACED) == busy && WIFSTOPPED(status));
        CHECK(kill(busy, SIGCONT) == 0);
        CHECK(waitpid(busy, &status, WCONTINUED) == busy && WIFCONTINUED(status));
    }
    reap(busy);
}

int open_pty(std::string& name) {
    const int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    CHECK(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
    char buffer[100];
    CHECK(ptsname_r(master, buffer, sizeof buffer) == 0);
    name = buffer;
    return master;
}

int field_of_stat(const char* which, int number) {
    char text[1024] = {};
    const int fd = open(which, O_RDONLY);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    const char* at = std::strrchr(text, ')');
    for (int field = 2; field < number; field++) {
        at = std::strchr(at, ' ');
        CHECK(at != nullptr);
        at++;
    }
    return std::atoi(at);
}

void terminals() {
    std::string name;
    const int master = open_pty(name);
    in_child([&] {
        CHECK(setsid() == getpid());
        CHECK(field_of_stat("/proc/self/stat", 7) == 0);
        // The first terminal that a session leader opens is its controlling one.
        const int terminal = open(name.c_str(), O_RDWR);
        CHECK(terminal >= 0);
        CHECK(tcgetsid(terminal) == getpid() && tcgetpgrp(terminal) == getpid());
        const int device = field_of_stat("/proc/self/stat", 7);
        CHECK((device >> 8 & 0xfff) == 136 && (device & 0xff) == std::atoi(name.c_str() + 9));
        CHECK(field_of_stat("/proc/self/stat", 8) == getpid());
        const int again = open("/dev/tty", O_RDWR);
        CHECK(again >= 0 && tcgetpgrp(again) == getpid());
        close(again);
        signal(SIGTTOU, SIG_DFL);
        signal(SIGTTIN, SIG_DFL);
        const pid_t job = start([&] {
            CHECK(setpgid(0, 0) == 0);
            char byte = 0;
            // Not in the foreground: reading stops the group.
            CHECK(read(terminal, &byte, 1) == 1 && byte == 'y');
            CHECK(tcgetpgrp(terminal) == getpid());
        });
        (void)setpgid(job, job);
        int status = 0;
        CHECK(waitpid(job, &status, WUNTRACED) == job);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTTIN);
        CHECK(tcsetpgrp(terminal, job) == 0);
        CHECK(tcgetpgrp(terminal) == job);
        CHECK(kill(job, SIGCONT) == 0);
        CHECK(write(master, "y\n", 2) == 2);
        CHECK(waitpid(job, &status, 0) == job && WIFEXITED(status) && WEXITSTATUS(status) == 0);
        // Now this is the background: a change of the terminal asks first, unless SIGTTOU is
        // ignored.
        signal(SIGTTOU, SIG_IGN);
        CHECK(tcsetpgrp(terminal, getpid()) == 0);
        CHECK_FAILS(tcsetpgrp(terminal, 0x3fffffff), ESRCH);
        CHECK_FAILS(tcsetpgrp(terminal, getppid()), EPERM);
        // ^C, ^Z and ^\ go to the foreground group.
        const pid_t front = start([&] {
            setpgid(0, 0);
            wait_for_ever();
        });
        CHECK(setpgid(front, front) == 0);
        CHECK(tcsetpgrp(terminal, front) == 0);
        CHECK(write(master, "\032", 1) == 1);
        CHECK(waitpid(front, &status, WUNTRACED) == front);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
        CHECK(kill(-front, SIGCONT) == 0);
        CHECK(write(master, "\003", 1) == 1);
        CHECK(waitpid(front, &status, 0) == front);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
        CHECK(tcsetpgrp(terminal, getpid()) == 0);
        // Given up.
        signal(SIGHUP, SIG_IGN);
        CHECK(ioctl(terminal, TIOCNOTTY) == 0);
        CHECK_FAILS(open("/dev/tty", O_RDWR), ENXIO);
        CHECK(ioctl(terminal, TIOCSCTTY, 0) == 0);
        CHECK(tcgetsid(terminal) == getpid());
    });
    // The end of a session's leader hangs the foreground up.
    in_child([&] {
        CHECK(setsid() == getpid());
        int told[2];
        CHECK(pipe(told) == 0);
        const pid_t shell = start([&] {
            CHECK(setsid() == getpid());
            const int terminal = open(name.c_str(), O_RDWR);
            CHECK(terminal >= 0);
            int ready[2];
            CHECK(pipe(ready) == 0);
            CHECK(prctl(PR_SET_CHILD_SUBREAPER, 0) == 0);
            (void)start([&] {
                // Taken while it is waited for only: it may come at once.
                sigset_t hangup;
                sigset_t before;
                sigemptyset(&hangup);
                sigaddset(&hangup, SIGHUP);
                CHECK(sigprocmask(SIG_BLOCK, &hangup, &before) == 0);
                signal(SIGHUP, [](int) { hung_up = 2; });
                CHECK(write(ready[1], "x", 1) == 1);
                while (hung_up != 2)
                    sigsuspend(&before);
                CHECK(write(told[1], "h", 1) == 1);
                _exit(0);
            });
            char byte = 0;
            CHECK(read(ready[0], &byte, 1) == 1);
        });
        CHECK(waitpid(shell, nullptr, 0) == shell);
        char byte = 0;
        CHECK(read(told[0], &byte, 1) == 1 && byte == 'h');
    });
    close(master);
}

} // namespace

int main() {
    groups_and_sessions();
    own_group();
    orphans();
    stops();
    owners_in_namespaces();
    continued_on_the_way_to_a_stop();
    terminals();
    return 0;
}
