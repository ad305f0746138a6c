#include "agent/service/children.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <optional>

#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "agent/container/builder_parts.hpp"
#include "agent/os/files.hpp"

namespace service {

os::Result<std::unique_ptr<Children>> Children::start(os::EventLoop& loop) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &set, nullptr) != 0)
        return os::fail_errno(errno, "block SIGCHLD");
    os::UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!signals)
        return os::fail_errno(errno, "take signals from a descriptor");
    std::unique_ptr<Children> children(new Children(loop, std::move(signals)));
    TRY(loop.watch(children->signals_.get(), EPOLLIN,
                   [self = children.get()](std::uint32_t) { self->reap(); }));
    return children;
}

Children::~Children() {
    loop_.forget(signals_.get());
}

void Children::reap() {
    std::array<signalfd_siginfo, 16> infos{};
    while (read(signals_.get(), infos.data(), sizeof infos) > 0)
        continue;
    for (;;) {
        int status = 0;
        const pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0)
            return;
        const auto found = watched_.find(pid);
        if (found != watched_.end()) {
            const Ended ended = std::move(found->second);
            watched_.erase(found);
            ended(status);
        } else if (builders_ > 0) {
            unclaimed_[pid] = status;
        }
    }
}

void Children::builder_ends() {
    if (--builders_ == 0)
        unclaimed_.clear();
}

void Children::watch(pid_t pid, Ended ended) {
    const auto found = unclaimed_.find(pid);
    // What was kept for this number may be the status of another process that had it before. What
    // can still be waited for has not ended, or nobody has heard of it yet.
    siginfo_t about{};
    if (found == unclaimed_.end() ||
        waitid(P_PID, static_cast<id_t>(pid), &about, WEXITED | WNOHANG | WNOWAIT) == 0) {
        unclaimed_.erase(pid);
        watched_[pid] = std::move(ended);
        return;
    }
    loop_.defer([ended = std::move(ended), status = found->second] { ended(status); });
    unclaimed_.erase(found);
}

void Children::run_aside(const std::function<os::Result<void>()>& work,
                         const std::function<void(os::Result<void>)>& done) {
    auto channel = os::make_channel();
    const pid_t pid = channel ? fork() : -1;
    if (pid < 0) {
        const int error = errno;
        loop_.defer([done, error] { done(os::fail_errno(error, "start a helper")); });
        return;
    }
    if (pid == 0) {
        const int far = channel->far.get();
        container::begin_builder({.report = far}, {});
        const auto result = work();
        if (!result)
            container::give_up(far, result.error());
        static_cast<void>(os::send_message(far, container::message::ready));
        _exit(0);
    }
    const auto near = std::make_shared<os::UniqueFd>(std::move(channel->near));
    const auto watching = loop_.watch(near->get(), EPOLLIN, [this, near, done](std::uint32_t) {
        // The handler owns the descriptor; it goes when this returns.
        loop_.forget(near->get());
        const auto word = os::receive_message(near->get());
        if (!word || !*word)
            done(os::fail(os::Code::Aborted, "a helper ended early"));
        else if ((*word)->kind == container::message::failed)
            done(base::Failure(container::decode_error((*word)->text)));
        else
            done({});
    });
    if (!watching)
        done(base::Failure(watching.error()));
}

} // namespace service
