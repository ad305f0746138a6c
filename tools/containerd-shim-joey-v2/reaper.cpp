#include "tools/containerd-shim-joey-v2/reaper.hpp"

#include <cerrno>
#include <csignal>

#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

namespace shim {

namespace {

constexpr int signal_status = 128;

} // namespace

void reset_signals() {
    for (const int number : {SIGPIPE, SIGTERM, SIGINT, SIGCHLD})
        std::signal(number, SIG_DFL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

os::Result<std::unique_ptr<Reaper>> Reaper::start(os::EventLoop& loop) {
    if (::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0)
        return os::fail_errno(errno, "become a subreaper");
    std::signal(SIGPIPE, SIG_IGN);
    sigset_t set;
    ::sigemptyset(&set);
    for (const int number : {SIGCHLD, SIGTERM, SIGINT})
        ::sigaddset(&set, number);
    if (::sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
        return os::fail_errno(errno, "block signals");
    os::UniqueFd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals)
        return os::fail_errno(errno, "make a signalfd");
    std::unique_ptr<Reaper> out(new Reaper(loop, std::move(signals)));
    Reaper* self = out.get();
    TRY(loop.watch(self->signals_.get(), EPOLLIN, [self](std::uint32_t) { self->take_signals(); }));
    return out;
}

Reaper::~Reaper() {
    loop_.forget(signals_.get());
}

void Reaper::take_signals() {
    signalfd_siginfo info{};
    bool terminated = false;
    while (::read(signals_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info))
        terminated = terminated || info.ssi_signo != SIGCHLD;
    reap();
    if (terminated && terminate_)
        terminate_();
}

void Reaper::reap() {
    for (;;) {
        int status = 0;
        const pid_t pid = ::waitpid(-1, &status, WNOHANG);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid <= 0)
            return;
        const int said =
            WIFSIGNALED(status) ? signal_status + WTERMSIG(status) : WEXITSTATUS(status);
        const auto found = expected_.find(pid);
        if (found == expected_.end()) {
            if (remembering_ > 0)
                kept_[pid] = said;
            continue;
        }
        const Ended ended = std::move(found->second);
        expected_.erase(found);
        ended(said);
    }
}

void Reaper::expect(pid_t pid, Ended ended) {
    const auto found = kept_.find(pid);
    if (found == kept_.end()) {
        expected_[pid] = std::move(ended);
        return;
    }
    loop_.defer([ended = std::move(ended), status = found->second] { ended(status); });
    kept_.erase(found);
}

void Reaper::forget() {
    if (--remembering_ == 0)
        kept_.clear();
}

bool Reaper::signal(pid_t pid, int number) const {
    return expected_.contains(pid) && ::kill(pid, number) == 0;
}

} // namespace shim
