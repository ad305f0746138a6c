#include "tools/joey/containers/attachment.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>

#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

namespace joey::containers {

Told tell(int socket, Word word, std::string_view data, bool wait) {
    char kind = static_cast<char>(word);
    std::array<iovec, 2> parts = {iovec{&kind, 1},
                                  iovec{const_cast<char*>(data.data()), data.size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    for (;;) {
        if (::sendmsg(socket, &message, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)) >= 0)
            return Told::Yes;
        if (errno == EINTR)
            continue;
        return errno == EAGAIN ? Told::Full : Told::Gone;
    }
}

os::Result<std::optional<Telling>> hear(int socket, bool wait) {
    std::string data(largest_piece + 1, '\0');
    ssize_t got = 0;
    do {
        got = ::recv(socket, data.data(), data.size(), wait ? 0 : MSG_DONTWAIT);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        return os::fail(os::Code::Unavailable, "nothing was said");
    if (got <= 0)
        return std::optional<Telling>();
    data.resize(static_cast<std::size_t>(got));
    Telling out{static_cast<Word>(data.front()), {}};
    data.erase(0, 1);
    out.data = std::move(data);
    return std::optional(std::move(out));
}

std::string size_text(unsigned columns, unsigned rows) {
    std::string out;
    for (const unsigned number : {columns, rows}) {
        out += static_cast<char>(number & 0xff);
        out += static_cast<char>((number >> 8) & 0xff);
    }
    return out;
}

Size size_of(std::string_view data) {
    const auto number = [&](std::size_t at) {
        return static_cast<std::uint16_t>(static_cast<unsigned char>(data[at]) |
                                          (static_cast<unsigned char>(data[at + 1]) << 8));
    };
    return data.size() == 4 ? Size{number(0), number(2)} : Size{};
}

os::Result<Line> make_line() {
    std::array<int, 2> ends{-1, -1};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
        return os::fail_errno(errno, "make a socket");
    return Line{os::UniqueFd(ends[0]), os::UniqueFd(ends[1])};
}

namespace {

// By descriptor: a socket's name has 107 bytes.
os::Result<os::UniqueFd> socket_in(const std::string& directory,
                                   int (*use)(int, const sockaddr*, socklen_t)) {
    const os::UniqueFd place(::open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    os::UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    if (!place || !socket)
        return os::fail_errno(errno, directory);
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    const std::string path = os::text("/proc/self/fd/", place.get(), "/attach");
    std::memcpy(address.sun_path, path.data(), path.size());
    if (use(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
        return os::fail_errno(errno, directory, "/attach");
    return socket;
}

} // namespace

os::Result<os::UniqueFd> listen_in(const std::string& directory) {
    ::unlink((directory + "/attach").c_str());
    TRY(os::UniqueFd socket, socket_in(directory, ::bind));
    constexpr int waiting = 16;
    if (::listen(socket.get(), waiting) != 0 || ::fcntl(socket.get(), F_SETFL, O_NONBLOCK) != 0)
        return os::fail_errno(errno, directory, "/attach");
    return socket;
}

os::Result<os::UniqueFd> connect_in(const std::string& directory) {
    return socket_in(directory, ::connect);
}

} // namespace joey::containers
