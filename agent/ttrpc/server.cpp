#include "agent/ttrpc/server.hpp"

#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>

#include <linux/vm_sockets.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent/ttrpc/server_connection.hpp"

namespace ttrpc {

Call::~Call() {
    if (answer_)
        fail({os::Code::Internal, os::text(method_, ": the service gave no answer")});
}

void Call::respond(std::string payload) {
    if (const Answer answer = std::exchange(answer_, nullptr))
        answer(nullptr, std::move(payload));
    cancelled_ = nullptr;
}

void Call::fail(const os::Error& error) {
    if (const Answer answer = std::exchange(answer_, nullptr))
        answer(&error, {});
    cancelled_ = nullptr;
}

void Call::cancel() {
    answer_ = nullptr;
    if (const auto action = std::exchange(cancelled_, nullptr))
        action();
}

Server::Server(os::EventLoop& loop, Limits limits)
    : loop_(loop), limits_(limits), budget_(limits.bytes) {}

Server::~Server() {
    if (pause_ != 0)
        loop_.cancel(pause_);
    if (listener_)
        loop_.forget(listener_.get());
}

os::Result<void> Server::listen(os::UniqueFd socket) {
    if (fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0)
        return os::fail_errno(errno, "make the listening socket non-blocking");
    listener_ = std::move(socket);
    return loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_some(); });
}

bool may_connect(const sockaddr_storage& peer) {
    if (peer.ss_family != AF_VSOCK)
        return true;
    sockaddr_vm address{};
    std::memcpy(&address, &peer, sizeof address);
    return address.svm_cid == VMADDR_CID_HOST;
}

void Server::accept_some() {
    for (;;) {
        sockaddr_storage peer{};
        socklen_t length = sizeof peer;
        os::UniqueFd socket(accept4(listener_.get(), reinterpret_cast<sockaddr*>(&peer), &length,
                                    SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) {
            // No descriptor, no memory: the connection stays where it is, and the listener ready.
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                wait_for_connections();
            return;
        }
        if (!may_connect(peer))
            continue;
        // Beyond the limit, and when memory is short, the client sees its connection closed.
        if (connections_.size() < limits_.connections)
            static_cast<void>(serve(std::move(socket)));
    }
}

void Server::wait_for_connections() {
    constexpr std::chrono::milliseconds pause(100);
    loop_.forget(listener_.get());
    pause_ = loop_.after(pause, [this] {
        pause_ = 0;
        const auto watched =
            loop_.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_some(); });
        if (!watched)
            wait_for_connections();
    });
}

os::Result<void> Server::serve(os::UniqueFd socket) {
    auto connection = std::make_unique<ServerConnection>(*this, loop_);
    TRY(connection->start(std::move(socket)));
    ServerConnection* key = connection.get();
    connections_.emplace(key, std::move(connection));
    return {};
}

void Server::handle(const std::string& service, const std::string& method, Handler handler) {
    services_[service][method] = std::move(handler);
}

const Server::Handler* Server::find(const std::string& service, const std::string& method,
                                    os::Error& error) const {
    const auto found_service = services_.find(service);
    if (found_service == services_.end()) {
        error = {os::Code::Unimplemented, os::text("there is no service \"", service, "\"")};
        return nullptr;
    }
    const auto found = found_service->second.find(method);
    if (found == found_service->second.end()) {
        error = {os::Code::Unimplemented,
                 os::text("the service ", service, " has no method \"", method, "\"")};
        return nullptr;
    }
    return &found->second;
}

} // namespace ttrpc
