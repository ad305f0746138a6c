#include "tools/joey/signals.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <unistd.h>

#include <sys/signalfd.h>

#include <fmt/format.h>

namespace joey {

Outcome<SignalQueue> SignalQueue::block(std::initializer_list<int> signals) {
    sigset_t set;
    ::sigemptyset(&set);
    for (const int signal : signals)
        ::sigaddset(&set, signal);
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    virtio::UniqueFd fd(::signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC));
    if (!fd)
        return fail(fmt::format("cannot make a signalfd: {}", std::strerror(errno)));
    return SignalQueue(std::move(fd));
}

void SignalQueue::take(const std::function<void(int signal)>& handle) {
    struct signalfd_siginfo info {};
    while (::read(fd_.get(), &info, sizeof info) == static_cast<ssize_t>(sizeof info))
        handle(static_cast<int>(info.ssi_signo));
}

} // namespace joey
