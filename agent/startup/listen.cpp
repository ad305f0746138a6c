#include "agent/startup/listen.hpp"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>

#include <linux/vm_sockets.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace startup {

namespace {

constexpr int backlog = 1024; // every container of a pod may come at once

os::Result<unsigned> number_of(const std::string& address, std::string_view text) {
    unsigned value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size())
        return os::fail(os::Code::InvalidArgument, address, ": needs a number");
    return value;
}

template <typename Address>
os::Result<os::UniqueFd> listen_at(const std::string& name, const Address& address, int family) {
    os::UniqueFd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket ||
        bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
        listen(socket.get(), backlog) != 0)
        return os::fail_errno(errno, "listen at ", name);
    return socket;
}

} // namespace

os::Result<os::UniqueFd> open_listener(const std::string& address) {
    const std::size_t colon = address.find(':');
    const std::string kind = address.substr(0, colon);
    const std::string_view rest = colon == std::string::npos
                                      ? std::string_view()
                                      : std::string_view(address).substr(colon + 1);
    if (kind == "unix") {
        sockaddr_un name{.sun_family = AF_UNIX, .sun_path = {}};
        if (rest.empty() || rest.size() >= sizeof name.sun_path)
            return os::fail(os::Code::InvalidArgument, "--listen ", address,
                            ": the path is empty or too long");
        std::memcpy(name.sun_path, rest.data(), rest.size());
        return listen_at(address, name, AF_UNIX);
    }
    if (kind == "vsock") {
        TRY(const unsigned port, number_of(address, rest));
        sockaddr_vm name{};
        name.svm_family = AF_VSOCK;
        name.svm_port = port;
        name.svm_cid = VMADDR_CID_ANY;
        return listen_at(address, name, AF_VSOCK);
    }
    if (kind == "fd") {
        TRY(const unsigned number, number_of(address, rest));
        const int fd = static_cast<int>(number);
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
            return os::fail_errno(errno, "--listen ", address);
        return os::UniqueFd(fd);
    }
    return os::fail(os::Code::InvalidArgument, "--listen ", address,
                    ": must be unix:PATH, vsock:PORT or fd:NUMBER");
}

os::Result<os::UniqueFd> say_ready(const std::string& address) {
    constexpr std::string_view kind = "vsock:";
    if (!address.starts_with(kind))
        return os::fail(os::Code::InvalidArgument, "--ready ", address, ": must be vsock:PORT");
    TRY(const unsigned port, number_of(address, std::string_view(address).substr(kind.size())));
    sockaddr_vm name{};
    name.svm_family = AF_VSOCK;
    name.svm_port = port;
    name.svm_cid = VMADDR_CID_HOST;
    os::UniqueFd socket(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    // Whether anybody hears it is the host's matter.
    if (socket)
        static_cast<void>(
            connect(socket.get(), reinterpret_cast<const sockaddr*>(&name), sizeof name) == 0);
    return socket;
}

} // namespace startup
