#include "tools/pod/vm_socket.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <string_view>

#include <sys/socket.h>
#include <sys/un.h>

#include "tools/pod/vm_process.hpp"

namespace pod {

// By the directory's descriptor: its path may be longer than a socket's name can be.
os::Result<os::UniqueFd> reach_vm(int directory) {
    // Not blocking: a VM that takes no connections has a backlog that is full one day, and
    // connect(2) would wait for it without end.
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(name.sun_path, sizeof name.sun_path, "/proc/self/fd/%d/vsock", directory);
    if (!socket ||
        ::connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) != 0)
        return os::fail_errno(errno, "connect to the VM");
    return socket;
}

os::Result<void> PortRequest::send(int socket) {
    const std::string request = os::text("CONNECT ", agent_port, "\n");
    if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request.size()))
        return os::fail_errno(errno, "connect to the agent");
    return {};
}

os::Result<bool> PortRequest::take(int socket) {
    constexpr std::size_t longest = 64;
    // No further than the line: what follows it is the agent's.
    std::array<char, longest> bytes{};
    const ssize_t there =
        ::recv(socket, bytes.data(), longest - line_.size(), MSG_DONTWAIT | MSG_PEEK);
    if (there < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (there <= 0)
        return os::fail(os::Code::Unavailable, "the agent does not listen");
    const std::string_view seen(bytes.data(), static_cast<std::size_t>(there));
    const std::size_t own = std::min(seen.find('\n'), seen.size() - 1) + 1;
    if (::recv(socket, bytes.data(), own, MSG_DONTWAIT) != static_cast<ssize_t>(own))
        return os::fail(os::Code::Unavailable, "the agent does not listen");
    line_ += seen.substr(0, own);
    if (!line_.ends_with('\n') && line_.size() < longest)
        return false;
    if (!line_.ends_with('\n') || !line_.starts_with("OK "))
        return os::fail(os::Code::Unavailable, "the VM gives an unknown answer");
    return true;
}

} // namespace pod
