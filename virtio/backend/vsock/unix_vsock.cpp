#include "virtio/backend/vsock/unix_vsock.hpp"

#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>

#include <sys/socket.h>

#include "virtio/backend/vsock/fd_channel.hpp"

namespace virtio {

namespace {

constexpr std::string_view verb = "CONNECT ";
constexpr std::size_t longest_request = 32; // "CONNECT 4294967295\n", and some

// nullopt: it is not what was agreed on.
std::optional<std::uint32_t> parse_request(std::string_view line) {
    if (!line.starts_with(verb))
        return std::nullopt;
    line.remove_prefix(verb.size());
    if (line.ends_with('\r'))
        line.remove_suffix(1);
    std::uint32_t port = 0;
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), port);
    if (line.empty() || error != std::errc() || end != line.data() + line.size())
        return std::nullopt;
    return port;
}

template <typename Call>
ssize_t restarting(Call call) {
    ssize_t result = 0;
    do
        result = call();
    while (result < 0 && errno == EINTR);
    return result;
}

} // namespace

UnixVsock::~UnixVsock() {
    for (const auto& listener : listeners_) {
        if (listener->watched)
            loop_.remove(listener->socket.get());
    }
    for (const Handshake& handshake : handshakes_)
        loop_.remove(handshake.socket.get());
    if (broker_)
        loop_.remove(broker_.get());
}

// --- from the host to the guest

base::Result<void, HostError> UnixVsock::listen(UniqueFd listener, VsockType type) {
    listeners_.push_back(std::make_unique<Listener>(Listener{std::move(listener), type}));
    watch(*listeners_.back());
    if (!listeners_.back()->watched)
        return base::Failure(HostError{EBADF, "watch a vsock socket"});
    return {};
}

void UnixVsock::watch(Listener& listener) {
    listener.watched = loop_
                           .add(listener.socket.get(), {.read = true, .write = false},
                                [this, &listener](Readiness) { accept(listener); })
                           .has_value();
}

// Those who wait stay in the socket's backlog.
void UnixVsock::pause(Listener& listener) {
    loop_.remove(listener.socket.get());
    listener.watched = false;
}

void UnixVsock::room_again() {
    for (const auto& listener : listeners_) {
        if (!listener->watched)
            watch(*listener);
    }
}

void UnixVsock::accept(Listener& listener) {
    if (!host_->has_room())
        return pause(listener);
    UniqueFd socket(static_cast<int>(restarting([&] {
        return ::accept4(listener.socket.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    })));
    if (!socket) {
        // Out of descriptors or memory: until something is closed.
        if (errno != EAGAIN && errno != ECONNABORTED)
            pause(listener);
        return;
    }
    if (handshakes_.size() >= max_handshakes)
        forget(handshakes_.begin());
    handshakes_.push_back({std::move(socket), listener.type, {}});
    const auto which = std::prev(handshakes_.end());
    const auto added = loop_.add(which->socket.get(), {.read = true, .write = false},
                                 [this, which](Readiness) { hear(which); });
    if (!added)
        handshakes_.erase(which);
}

void UnixVsock::forget(Handshakes::iterator which) {
    loop_.remove(which->socket.get());
    handshakes_.erase(which);
    room_again(); // a descriptor is free
}

void UnixVsock::hear(Handshakes::iterator which) {
    std::array<char, longest_request> text{};
    const int fd = which->socket.get();
    // Looked at before it is taken: what follows the line is the guest's.
    const ssize_t seen =
        restarting([&] { return ::recv(fd, text.data(), text.size(), MSG_PEEK | MSG_DONTWAIT); });
    if (seen < 0 && errno == EAGAIN)
        return;
    if (seen <= 0)
        return forget(which);
    const std::string_view all(text.data(), static_cast<std::size_t>(seen));
    const std::size_t end = all.find('\n');
    const bool whole = end != std::string_view::npos;
    // A packet is taken as a whole; of a stream, the line, which may come in pieces.
    const bool packets = which->type == VsockType::SeqPacket;
    const std::size_t wanted = packets ? text.size() : whole ? end + 1 : all.size();
    if (restarting([&] { return ::recv(fd, text.data(), wanted, MSG_DONTWAIT); }) <= 0)
        return forget(which);
    which->line.append(all.substr(0, end));
    if (which->line.size() > longest_request || (packets && !whole))
        return forget(which);
    if (!whole)
        return;
    const auto port = parse_request(which->line);
    if (!port)
        return forget(which);
    open(which, *port);
}

void UnixVsock::open(Handshakes::iterator which, std::uint32_t port) {
    loop_.remove(which->socket.get());
    const VsockType type = which->type;
    auto channel = std::make_unique<FdChannel>(loop_, std::move(which->socket));
    FdChannel* answering = channel.get();
    handshakes_.erase(which);
    host_->open(port, type, std::move(channel), [answering](std::uint32_t host_port) {
        if (host_port == 0)
            return; // closed, which is the answer
        const std::string text = "OK " + std::to_string(host_port) + "\n";
        const struct iovec piece { const_cast<char*>(text.data()), text.size() };
        // The socket's buffer is empty: this is the first that is written to it.
        static_cast<void>(answering->write(std::span(&piece, 1)));
    });
}

void UnixVsock::connect_to_guest(std::uint32_t guest_port, VsockType type, UniqueFd socket,
                                 std::function<void(std::uint32_t)> done) {
    host_->open(guest_port, type, std::make_unique<FdChannel>(loop_, std::move(socket)),
                std::move(done));
}

// --- from the guest to the host

base::Result<void, HostError> UnixVsock::use_broker(UniqueFd broker) {
    TRY(loop_.add(broker.get(), {.read = true, .write = false}, [this](Readiness readiness) {
        if (readiness.writable && !requests_.empty())
            send_requests();
        if (readiness.readable)
            hear_broker();
    }));
    broker_ = std::move(broker);
    return {};
}

void UnixVsock::connect(std::uint32_t host_port, VsockType type,
                        std::function<void(std::unique_ptr<VsockChannel>)> done) {
    const auto service = services_.find(host_port);
    if (service != services_.end()) {
        UniqueFd socket = service->second(type);
        return done(socket ? std::make_unique<FdChannel>(loop_, std::move(socket)) : nullptr);
    }
    if (!broker_)
        return done(nullptr);
    const BrokerRequest request{next_serial_++, host_port, type == VsockType::SeqPacket ? 1u : 0u};
    asked_[request.serial] = std::move(done);
    requests_.push_back(request);
    send_requests();
}

// There are at most as many as the device has streams.
void UnixVsock::send_requests() {
    while (!requests_.empty()) {
        const BrokerRequest request = requests_.front();
        const ssize_t sent = restarting([&] {
            return ::send(broker_.get(), &request, sizeof request, MSG_DONTWAIT | MSG_NOSIGNAL);
        });
        if (sent < 0)
            break; // later; if the broker is gone, hear_broker() finds out
        requests_.pop_front();
    }
    static_cast<void>(
        loop_.modify(broker_.get(), {.read = true, .write = !requests_.empty()}).has_value());
}

void UnixVsock::hear_broker() {
    BrokerAnswer answer{};
    struct iovec piece {
        &answer, sizeof answer
    };
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    struct msghdr message {};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t got = restarting(
        [&] { return ::recvmsg(broker_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC); });
    if (got < 0 && errno == EAGAIN)
        return;
    if (got != static_cast<ssize_t>(sizeof answer))
        return broker_gone();
    UniqueFd socket;
    const cmsghdr* header = CMSG_FIRSTHDR(&message);
    if (header != nullptr && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int))) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header), sizeof fd);
        socket = UniqueFd(fd);
    }
    const auto asked = asked_.find(answer.serial);
    if (asked == asked_.end())
        return;
    const auto done = std::move(asked->second);
    asked_.erase(asked);
    done(socket ? std::make_unique<FdChannel>(loop_, std::move(socket)) : nullptr);
}

void UnixVsock::broker_gone() {
    loop_.remove(broker_.get());
    broker_.reset();
    requests_.clear();
    for (auto& [serial, done] : std::exchange(asked_, {}))
        done(nullptr);
}

} // namespace virtio
