// joey-init -- PROGRAM [ARG...]: the first process of a container whose program is none for that.
// It passes signals on, reaps what is left behind, and ends as the program does.
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <unistd.h>

#include <sys/wait.h>

namespace {

constexpr int not_executable = 126;
constexpr int not_found = 127;
constexpr int signal_base = 128;

// Of the program itself, or what its own faults raise.
bool is_passed_on(int number) {
    constexpr std::array kept = {SIGCHLD, SIGBUS,  SIGFPE,  SIGILL,
                                 SIGSEGV, SIGTRAP, SIGABRT, SIGSYS};
    for (const int one : kept) {
        if (one == number)
            return false;
    }
    return true;
}

// A group of its own, in the foreground of the terminal if there is one.
void become_job() {
    ::setpgid(0, 0);
    const pid_t group = ::getpid();
    ::signal(SIGTTOU, SIG_IGN);
    if (::isatty(STDIN_FILENO) == 1)
        ::tcsetpgrp(STDIN_FILENO, group);
    ::signal(SIGTTOU, SIG_DFL);
}

} // namespace

int main(int argc, char** argv) {
    const int first = argc > 1 && std::strcmp(argv[1], "--") == 0 ? 2 : 1;
    if (argc <= first) {
        static_cast<void>(std::fputs("joey-init: say what to run\n", stderr));
        return not_found;
    }
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    const pid_t child = ::fork();
    if (child == 0) {
        become_job();
        ::sigprocmask(SIG_SETMASK, &before, nullptr);
        ::execvp(argv[first], argv + first);
        const int error = errno;
        static_cast<void>(
            std::fprintf(stderr, "joey-init: %s: %s\n", argv[first], std::strerror(error)));
        ::_exit(error == ENOENT ? not_found : not_executable);
    }
    if (child < 0) {
        static_cast<void>(std::fprintf(stderr, "joey-init: fork: %s\n", std::strerror(errno)));
        return not_executable;
    }
    for (;;) {
        int number = 0;
        if (::sigwait(&all, &number) != 0)
            continue;
        if (is_passed_on(number)) {
            ::kill(child, number);
            continue;
        }
        int status = 0;
        for (pid_t ended = 1; ended > 0;) {
            ended = ::waitpid(-1, &status, WNOHANG);
            if (ended == child)
                return WIFEXITED(status) ? WEXITSTATUS(status) : signal_base + WTERMSIG(status);
        }
    }
}
