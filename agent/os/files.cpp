#include "agent/os/files.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fcntl.h>

#include <sys/socket.h>
#include <sys/syscall.h>

namespace os {

namespace {

constexpr std::size_t max_text = 32768;

} // namespace

Result<UniqueFd> open_path(int directory, const char* path, int flags) {
    UniqueFd fd(openat(directory, path, flags | O_CLOEXEC | O_NOCTTY));
    if (!fd)
        return fail_errno(errno, "open ", path);
    return fd;
}

Result<std::string> read_file(int directory, const char* path, std::size_t limit) {
    TRY(const UniqueFd fd, open_path(directory, path, O_RDONLY | O_NONBLOCK));
    std::string out;
    std::array<char, 16384> bytes{};
    while (out.size() < limit) {
        const ssize_t got =
            read(fd.get(), bytes.data(), std::min(bytes.size(), limit - out.size()));
        if (got < 0)
            return fail_errno(errno, "read ", path);
        if (got == 0)
            break;
        out.append(bytes.data(), static_cast<std::size_t>(got));
    }
    return out;
}

Result<void> write_file(int directory, const char* path, std::string_view value) {
    TRY(const UniqueFd fd, open_path(directory, path, O_WRONLY));
    if (write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size()))
        return fail_errno(errno, "write ", path);
    return {};
}

Result<Channel> make_channel() {
    std::array<int, 2> ends{};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0)
        return fail_errno(errno, "make a socket pair");
    return Channel{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<void> send_message(int socket, char kind, std::string_view text, int fd) {
    std::string bytes(1, kind);
    bytes += text.substr(0, max_text - 1);
    iovec part{bytes.data(), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (fd >= 0) {
        header.msg_control = control.data();
        header.msg_controllen = control.size();
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof fd);
        std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    }
    ssize_t put = 0;
    do {
        put = sendmsg(socket, &header, MSG_NOSIGNAL);
    } while (put < 0 && errno == EINTR);
    if (put < 0)
        return fail_errno(errno, "send a message to another process of the agent");
    return {};
}

Result<std::optional<Message>> receive_message(int socket) {
    std::string bytes(max_text, '\0');
    iovec part{bytes.data(), bytes.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    ssize_t got = 0;
    do {
        got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && errno == EAGAIN)
        return fail(Code::Unavailable, "there is no message yet");
    if (got < 0 && errno != ECONNRESET)
        return fail_errno(errno, "receive a message from another process of the agent");
    if (got <= 0)
        return std::optional<Message>();
    Message message{bytes[0], bytes.substr(1, static_cast<std::size_t>(got) - 1), {}};
    const cmsghdr* rights = CMSG_FIRSTHDR(&header);
    if (rights != nullptr && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof(int))) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
        message.fd = UniqueFd(fd);
    }
    return std::optional<Message>(std::move(message));
}

void close_all_but(std::vector<int> keep) {
    std::sort(keep.begin(), keep.end());
    unsigned from = 3;
    for (const int fd : keep) {
        if (fd < 3)
            continue;
        const auto number = static_cast<unsigned>(fd);
        if (number > from)
            syscall(SYS_close_range, from, number - 1, 0);
        from = std::max(from, number + 1);
    }
    syscall(SYS_close_range, from, ~0U, 0);
}

} // namespace os
