#include "tools/containerd-shim-joey-v2/console.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

namespace shim {

namespace {

constexpr std::size_t piece = 32u << 10;

// The descriptor that comes with the first bytes.
os::UniqueFd receive_descriptor(int socket) {
    std::array<char, 256> text{};
    iovec part{text.data(), text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control.data();
    message.msg_controllen = control.size();
    if (::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT) <= 0)
        return os::UniqueFd();
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
        header->cmsg_len != CMSG_LEN(sizeof(int)))
        return os::UniqueFd();
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return os::UniqueFd(fd);
}

void make_non_blocking(int fd) {
    if (const int flags = ::fcntl(fd, F_GETFL); flags >= 0)
        ::fcntl(fd, F_SETFL, flags | O_NONBLOCK);
}

} // namespace

os::Result<std::unique_ptr<Console>> Console::listen(os::EventLoop& loop, const std::string& bundle,
                                                     int in, int out) {
    static unsigned number = 0;
    std::unique_ptr<Console> made(new Console(loop, in, out));
    Console* self = made.get();
    if (out >= 0)
        make_non_blocking(out); // a logger's pipe is not yet
    self->folder_ = os::UniqueFd(::open(bundle.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!self->folder_)
        return os::fail_errno(errno, "open ", bundle);
    const std::string name = os::text("pty", ++number);
    self->socket_path_ = os::text("/proc/", ::getpid(), "/fd/", self->folder_.get(), "/", name);
    self->listener_ =
        os::UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
    std::snprintf(address.sun_path, sizeof address.sun_path, "%s", self->socket_path_.c_str());
    const mode_t before = ::umask(0177);
    const int bound =
        ::bind(self->listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
    const int why = errno;
    ::umask(before);
    if (bound != 0)
        return os::fail_errno(why, "make a console socket in ", bundle);
    self->name_ = name;
    if (::listen(self->listener_.get(), 1) != 0)
        return os::fail_errno(errno, "listen on a console socket");
    TRY(loop.watch(self->listener_.get(), EPOLLIN, [self](std::uint32_t) { self->accept(); }));
    return made;
}

Console::~Console() {
    remove_socket();
    drop_sender();
    if (watched_ != 0)
        loop_.forget(master_.get());
    if (in_watched_)
        loop_.forget(in_);
    if (out_ >= 0)
        loop_.forget(out_);
}

void Console::remove_socket() {
    if (!listener_)
        return;
    loop_.forget(listener_.get());
    listener_.reset();
    if (!name_.empty())
        ::unlinkat(folder_.get(), name_.c_str(), 0);
}

void Console::drop_sender() {
    if (sender_)
        loop_.forget(sender_.get());
    sender_.reset();
}

// Whoever connects sends at once; one who does not is not waited for, by other containers least of
// all, and makes way for the next.
void Console::accept() {
    os::UniqueFd connection(
        ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection)
        return;
    drop_sender();
    sender_ = std::move(connection);
    if (!loop_.watch(sender_.get(), EPOLLIN, [this](std::uint32_t) { receive(); }))
        sender_.reset();
}

void Console::receive() {
    master_ = receive_descriptor(sender_.get());
    drop_sender();
    if (!master_)
        return;
    remove_socket();
    make_non_blocking(master_.get());
    watch_master();
    if (in_ >= 0)
        in_watched_ = loop_.watch(in_, EPOLLIN, [this](std::uint32_t) { read_in(); }).has_value();
}

// A terminal whose other side is gone is always ready: it is watched only for what is wanted of it.
void Console::watch_master() {
    const std::uint32_t wanted = (to_out_.empty() ? std::uint32_t{EPOLLIN} : 0U) |
                                 (to_master_.empty() ? 0U : std::uint32_t{EPOLLOUT});
    if (!master_ || wanted == watched_)
        return;
    if (watched_ != 0)
        loop_.forget(master_.get());
    watched_ = 0;
    if (wanted != 0 &&
        loop_.watch(master_.get(), wanted, [this](std::uint32_t events) { on_master(events); }))
        watched_ = wanted;
}

void Console::on_master(std::uint32_t events) {
    if ((events & EPOLLOUT) != 0)
        write_master();
    if (to_out_.empty() && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
        read_master();
    watch_master();
}

void Console::read_master() {
    std::string data(piece, '\0');
    const ssize_t got = ::read(master_.get(), data.data(), data.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) { // EIO: the inner side is closed everywhere
        drained();
        return;
    }
    data.resize(static_cast<std::size_t>(got));
    to_out_ = std::move(data);
    if (!write_out()) {
        const auto watched = loop_.watch(out_, EPOLLOUT, [this](std::uint32_t) {
            if (!write_out())
                return;
            loop_.forget(out_);
            watch_master();
        });
        if (!watched)
            to_out_.clear(); // a file is always ready, and was written to
    }
}

// True when nothing is left of it.
bool Console::write_out() {
    std::size_t written = 0;
    while (written < to_out_.size() && out_ >= 0) {
        const ssize_t put = ::write(out_, to_out_.data() + written, to_out_.size() - written);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN) {
            to_out_.erase(0, written);
            return false;
        }
        if (put < 0)
            break; // nobody reads any more: it is dropped
        written += static_cast<std::size_t>(put);
    }
    to_out_.clear();
    return true;
}

void Console::read_in() {
    if (!to_master_.empty())
        return;
    std::string data(piece, '\0');
    const ssize_t got = ::read(in_, data.data(), data.size());
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    // While what came is not written yet, no more is read.
    loop_.forget(in_);
    in_watched_ = false;
    if (got <= 0)
        return;
    data.resize(static_cast<std::size_t>(got));
    to_master_ = std::move(data);
    write_master();
    watch_master();
}

void Console::write_master() {
    while (!to_master_.empty()) {
        const ssize_t put = ::write(master_.get(), to_master_.data(), to_master_.size());
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return;
        to_master_.erase(0, put < 0 ? to_master_.size() : static_cast<std::size_t>(put));
    }
    if (!in_watched_ && in_ >= 0 && !drained_)
        in_watched_ = loop_.watch(in_, EPOLLIN, [this](std::uint32_t) { read_in(); }).has_value();
}

void Console::drained() {
    if (watched_ != 0)
        loop_.forget(master_.get());
    watched_ = 0;
    master_.reset();
    if (in_watched_)
        loop_.forget(in_);
    in_watched_ = false;
    to_master_.clear();
    in_ = out_ = -1;
    drained_ = true;
    if (const auto action = std::exchange(on_drained_, nullptr))
        loop_.defer(action);
}

os::Result<void> Console::resize(unsigned columns, unsigned rows) const {
    winsize size{};
    size.ws_col = static_cast<unsigned short>(columns);
    size.ws_row = static_cast<unsigned short>(rows);
    if (master_ && ::ioctl(master_.get(), TIOCSWINSZ, &size) != 0)
        return os::fail_errno(errno, "resize the terminal");
    return {};
}

} // namespace shim
