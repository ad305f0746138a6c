#include "tools/joey/terminal.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <fmt/format.h>

namespace joey {
namespace {

// What the guardian hears: the mode to restore from now on, or `raw == false`: nothing to do.
struct GuardianOrder {
    bool raw;
    termios saved;
};

// Outlives whatever kills its parent: a session of its own, out of reach of signals to the
// parent's process group; it holds nothing but the terminal and the pipe.
[[noreturn]] void guard(int terminal, int orders) {
    ::setsid();
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::prctl(PR_SET_NAME, "joey-terminal", 0, 0, 0);
    const int keep_terminal = 3, keep_orders = 4;
    // Both may be in each other's way; 5 and up are free for the first move.
    const int far_terminal = ::fcntl(terminal, F_DUPFD, 5);
    const int far_orders = ::fcntl(orders, F_DUPFD, 5);
    ::dup2(far_terminal, keep_terminal);
    ::dup2(far_orders, keep_orders);
    ::close_range(keep_orders + 1, ~0u, 0);
    for (int fd = 0; fd < 3; ++fd)
        ::close(fd);
    GuardianOrder order{};
    bool raw = false;
    termios saved{};
    for (;;) {
        const ssize_t got = ::read(keep_orders, &order, sizeof order);
        if (got == static_cast<ssize_t>(sizeof order)) {
            raw = order.raw;
            saved = order.saved;
        } else if (got >= 0 || errno != EINTR) {
            break;
        }
    }
    if (raw)
        ::tcsetattr(keep_terminal, TCSANOW, &saved);
    ::_exit(0);
}

} // namespace

Outcome<std::unique_ptr<RawTerminal>> RawTerminal::prepare(int fd) {
    termios saved{};
    if (::tcgetattr(fd, &saved) != 0)
        return fail(fmt::format("cannot read the terminal's mode: {}", std::strerror(errno)));
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0)
        return fail(fmt::format("cannot make a pipe: {}", std::strerror(errno)));
    virtio::UniqueFd reader(ends[0]);
    virtio::UniqueFd writer(ends[1]);

    // No signal may end the guardian between the fork and its setsid().
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    const pid_t guardian = ::fork();
    if (guardian == 0)
        guard(fd, reader.get());
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    if (guardian < 0)
        return fail(fmt::format("cannot fork: {}", std::strerror(errno)));

    return std::unique_ptr<RawTerminal>(new RawTerminal(fd, saved, guardian, std::move(writer)));
}

RawTerminal::~RawTerminal() {
    suspend();
    pipe_.reset();
    while (::waitpid(guardian_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

bool RawTerminal::in_foreground() const {
    return ::tcgetpgrp(fd_) == ::getpgrp();
}

void RawTerminal::suspend() {
    // From the background this would stop us with SIGTTOU, and the terminal is not ours to change.
    if (raw_ && in_foreground())
        ::tcsetattr(fd_, TCSADRAIN, &saved_);
    raw_ = false;
    const GuardianOrder order{false, saved_};
    static_cast<void>(!::write(pipe_.get(), &order, sizeof order));
}

void RawTerminal::resume() {
    if (raw_ || !in_foreground())
        return;
    if (::tcgetattr(fd_, &saved_) != 0)
        return;
    // The guardian first: from the change on there is something to restore.
    const GuardianOrder order{true, saved_};
    static_cast<void>(!::write(pipe_.get(), &order, sizeof order));
    make_raw();
}

void RawTerminal::make_raw() {
    termios raw = saved_;
    ::cfmakeraw(&raw);
    raw_ = ::tcsetattr(fd_, TCSADRAIN, &raw) == 0;
}

TerminalSize terminal_size(int fd) {
    struct winsize size {};
    if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0)
        return {};
    return {size.ws_col, size.ws_row};
}

} // namespace joey
