#include "virtio/backend/vsock/broker.hpp"

#include <cerrno>
#include <cstring>
#include <unistd.h>

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace virtio {

namespace {

constexpr int backlog = 128;

bool fill_address(const std::string& path, sockaddr_un& out) {
    out = {};
    out.sun_family = AF_UNIX;
    if (path.empty() || path.size() >= sizeof out.sun_path)
        return false;
    std::memcpy(out.sun_path, path.data(), path.size());
    return true;
}

const sockaddr* raw(const sockaddr_un& address) {
    return reinterpret_cast<const sockaddr*>(&address);
}

UniqueFd connect_to(const std::string& path, bool seqpacket, int& error) {
    sockaddr_un address{};
    error = ENAMETOOLONG;
    if (!fill_address(path, address))
        return {};
    // Not blocking: a program whose backlog is full does not hold up the others.
    const int type = (seqpacket ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK;
    UniqueFd socket(::socket(AF_UNIX, type, 0));
    error = errno;
    if (!socket)
        return {};
    if (::connect(socket.get(), raw(address), sizeof address) != 0) {
        error = errno;
        return {};
    }
    error = 0;
    return socket;
}

bool send_answer(int client, const BrokerAnswer& answer, int passed) {
    struct iovec piece {
        const_cast<BrokerAnswer*>(&answer), sizeof answer
    };
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    struct msghdr message {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    if (passed >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof passed);
        std::memcpy(CMSG_DATA(header), &passed, sizeof passed);
    }
    ssize_t sent = 0;
    do
        sent = ::sendmsg(client, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent == static_cast<ssize_t>(sizeof answer);
}

} // namespace

void remove_vsock_socket(const VsockListener& listener) {
    struct stat status {};
    if (::lstat(listener.path.c_str(), &status) == 0 && status.st_dev == listener.device &&
        status.st_ino == listener.inode)
        ::unlink(listener.path.c_str());
}

base::Result<VsockListener, HostError> listen_for_vsock(const std::string& path, VsockType type) {
    sockaddr_un address{};
    if (!fill_address(path, address))
        return base::Failure(HostError{ENAMETOOLONG, "name a vsock socket"});
    const int kind = type == VsockType::Stream ? SOCK_STREAM : SOCK_SEQPACKET;
    VsockListener listener{UniqueFd(::socket(AF_UNIX, kind | SOCK_CLOEXEC, 0)), path};
    if (!listener.socket)
        return base::Failure(HostError{errno, "make a vsock socket"});
    if (::bind(listener.socket.get(), raw(address), sizeof address) != 0)
        return base::Failure(HostError{errno, "make a socket there"});
    struct stat status {};
    if (::lstat(path.c_str(), &status) == 0) {
        listener.device = status.st_dev;
        listener.inode = status.st_ino;
    }
    if (::listen(listener.socket.get(), backlog) != 0) {
        const int error = errno;
        remove_vsock_socket(listener);
        return base::Failure(HostError{error, "listen on a vsock socket"});
    }
    return listener;
}

void serve_as_vsock_broker(int client, const std::string& path,
                           const std::vector<VsockListener>& listeners) {
    for (;;) {
        BrokerRequest request{};
        const ssize_t got = ::recv(client, &request, sizeof request, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got != static_cast<ssize_t>(sizeof request))
            break;
        int error = 0;
        const UniqueFd socket =
            connect_to(path + "_" + std::to_string(request.port), request.seqpacket != 0, error);
        if (!send_answer(client, {request.serial, error, 0}, socket.get()))
            break;
    }
    for (const VsockListener& listener : listeners)
        remove_vsock_socket(listener);
}

} // namespace virtio
