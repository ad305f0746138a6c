#include "tools/joey/vsock.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <fmt/format.h>

namespace joey {
namespace {

// Outlives whatever kills its parent: a session of its own, out of reach of signals to the parent's
// process group; it holds nothing but the socket to its parent.
[[noreturn]] void be_broker(int client, const std::string& path,
                            const std::vector<virtio::VsockListener>& listeners) {
    ::setsid();
    ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    ::prctl(PR_SET_NAME, "joey-vsock", 0, 0, 0);
    std::signal(SIGPIPE, SIG_IGN);
    const int keep = 3;
    if (client != keep)
        ::dup2(client, keep);
    ::close_range(keep + 1, ~0u, 0);
    for (int fd = 0; fd < keep; ++fd)
        ::close(fd);
    if (!path.empty()) {
        virtio::serve_as_vsock_broker(keep, path, listeners);
    } else {
        // Without a vsock nothing is to be connected: it only waits for the end.
        char byte = 0;
        ssize_t got = 1;
        while (got > 0 || (got < 0 && errno == EINTR))
            got = ::recv(keep, &byte, 1, 0);
        for (const virtio::VsockListener& listener : listeners)
            virtio::remove_vsock_socket(listener);
    }
    ::_exit(0);
}

std::string explain(const char* option, const std::string& path, const virtio::HostError& error) {
    if (error.code == EADDRINUSE)
        return fmt::format("{} {}: something is there already; remove it or give another path",
                           option, path);
    if (error.code == ENOENT || error.code == ENOTDIR)
        return fmt::format("{} {}: there is no such directory; make it, or give another path",
                           option, path);
    return fmt::format("{} {}: cannot {}: {}", option, path, error.action,
                       std::strerror(error.code));
}

} // namespace

Outcome<void> VmSockets::listen(const std::string& path, virtio::VsockType type,
                                const char* option) {
    auto listener = virtio::listen_for_vsock(path, type);
    if (!listener)
        return fail(explain(option, path, listener.error()));
    listeners_.push_back(std::move(*listener));
    return {};
}

Outcome<void> VmSockets::listen_all(const std::optional<VsockOption>& vsock,
                                    const std::string& metrics) {
    if (vsock) {
        guest_cid_ = vsock->cid;
        TRY(listen(vsock->path, virtio::VsockType::Stream, "--vsock"));
        TRY(listen(vsock->path + virtio::vsock_seqpacket_suffix, virtio::VsockType::SeqPacket,
                   "--vsock"));
    }
    if (!metrics.empty())
        TRY(listen(metrics, virtio::VsockType::Stream, "--metrics"));
    return start_broker(vsock ? vsock->path : "");
}

Outcome<std::unique_ptr<VmSockets>> VmSockets::open(const std::optional<VsockOption>& vsock,
                                                    const std::string& metrics, mode_t umask) {
    std::unique_ptr<VmSockets> made(new VmSockets());
    const mode_t own = ::umask(umask);
    auto done = made->listen_all(vsock, metrics);
    ::umask(own);
    if (!done) {
        for (const virtio::VsockListener& listener : made->listeners_)
            virtio::remove_vsock_socket(listener);
        return base::Failure(done.error());
    }
    if (!metrics.empty()) {
        made->metrics_ = std::move(made->listeners_.back().socket);
        made->listeners_.pop_back();
    }
    return made;
}

Outcome<void> VmSockets::start_broker(const std::string& path) {
    int ends[2] = {-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return fail(fmt::format("cannot make a pair of sockets: {}", std::strerror(errno)));
    broker_client_ = virtio::UniqueFd(ends[0]);
    broker_number_ = ends[0];
    const virtio::UniqueFd broker_end(ends[1]);
    // No signal may end the broker between the fork and its setsid().
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::sigprocmask(SIG_SETMASK, &all, &before);
    broker_ = ::fork();
    if (broker_ == 0)
        be_broker(broker_end.get(), path, listeners_);
    const int error = errno;
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    if (broker_ < 0)
        return fail(fmt::format("cannot fork: {}", std::strerror(error)));
    return {};
}

Outcome<virtio::Device*> VmSockets::make_device(virtio::EventLoop& loop) {
    backend_ = std::make_unique<virtio::UnixVsock>(loop);
    const auto problem = [](const virtio::HostError& error) {
        return fail(fmt::format("cannot {}: {}", error.action, std::strerror(error.code)));
    };
    if (auto used = backend_->use_broker(std::move(broker_client_)); !used)
        return problem(used.error());
    constexpr virtio::VsockType types[] = {virtio::VsockType::Stream, virtio::VsockType::SeqPacket};
    for (std::size_t i = 0; i < listeners_.size(); ++i) {
        if (auto done = backend_->listen(std::move(listeners_[i].socket), types[i]); !done)
            return problem(done.error());
    }
    device_ = std::make_unique<virtio::Vsock>(loop, guest_cid_, *backend_);
    return device_.get();
}

void VmSockets::finish() {
    if (broker_ <= 0)
        return;
    ::shutdown(broker_number_, SHUT_RDWR);
    while (::waitpid(broker_, nullptr, 0) < 0 && errno == EINTR) {
    }
    broker_ = -1;
}

} // namespace joey
