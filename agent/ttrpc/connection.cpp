#include "agent/ttrpc/connection.hpp"

#include <array>
#include <cerrno>
#include <fcntl.h>
#include <google/protobuf/stubs/logging.h>
#include <utility>

#include <sys/epoll.h>
#include <sys/socket.h>

namespace ttrpc {

namespace {

// A peer that sends requests and does not read the answers is not read from any more.
constexpr std::size_t max_output = 8U << 20;

} // namespace

Connection::Connection(os::EventLoop& loop, os::UniqueFd socket, Events events, Budget* budget)
    : loop_(loop), socket_(std::move(socket)), events_(std::move(events)),
      reader_({.frame =
                   [this](Frame frame) {
                       // A frame before this one may have ended the connection.
                       if (is_open())
                           events_.frame(std::move(frame));
                   },
               .too_long =
                   [this](const FrameHeader& header) {
                       if (is_open())
                           events_.too_long(header);
                   }}),
      budget_(budget) {}

os::Result<std::unique_ptr<Connection>> Connection::start(os::EventLoop& loop, os::UniqueFd socket,
                                                          Events events, Budget* budget) {
    // The library writes a line to stderr for each string that is no UTF-8: as many as the peer
    // likes. A message that it refuses is an error, which whoever made the call is told.
    google::protobuf::SetLogHandler(nullptr);
    const int flags = fcntl(socket.get(), F_GETFL);
    if (flags < 0 || fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0)
        return os::fail_errno(errno, "make a socket non-blocking");
    std::unique_ptr<Connection> connection(
        new Connection(loop, std::move(socket), std::move(events), budget));
    Connection* self = connection.get();
    self->interest_ = EPOLLIN;
    TRY(loop.watch(self->socket_.get(), EPOLLIN,
                   [self](std::uint32_t ready) { self->on_ready(ready); }));
    return connection;
}

Connection::~Connection() {
    *alive_ = false;
    if (socket_)
        loop_.forget(socket_.get());
    socket_.reset();
    account();
}

// What is kept, for the budget. A connection that is closed keeps nothing.
void Connection::account() {
    if (budget_ == nullptr)
        return;
    const std::size_t now = is_open() ? output_bytes_ + reader_.held() : 0;
    const std::size_t before = std::exchange(accounted_, now);
    if (!is_open())
        budget_->forget(this);
    budget_->change(before, now);
    if (now > before && budget_->is_exceeded())
        close("memory for connections is short");
}

bool Connection::must_wait() const {
    return budget_ != nullptr && accounted_ == 0 && budget_->is_short();
}

void Connection::send(std::string frame) {
    if (!is_open())
        return;
    output_bytes_ += frame.size();
    output_.push_back(std::move(frame));
    // Most answers fit into the socket at once; the loop need not be asked.
    if (output_.size() == 1 && !write_some())
        return;
    account();
    update_interest();
}

void Connection::close(const std::string& why) {
    if (!is_open())
        return;
    loop_.forget(socket_.get());
    socket_.reset();
    output_.clear();
    output_bytes_ = 0;
    account();
    loop_.defer([this, why, alive = alive_] {
        if (!*alive)
            return;
        // The owner will destroy this connection, and this function with it.
        const auto closed = events_.closed;
        closed(why);
    });
}

void Connection::update_interest() {
    if (!is_open())
        return;
    const bool waits = must_wait();
    if (waits)
        budget_->wait(this, [this] { update_interest(); });
    const bool reads = output_bytes_ < max_output && !waits;
    const std::uint32_t wanted =
        (reads ? std::uint32_t{EPOLLIN} : 0U) | (output_.empty() ? 0U : std::uint32_t{EPOLLOUT});
    if (wanted != interest_)
        loop_.change(socket_.get(), interest_ = wanted);
}

void Connection::on_ready(std::uint32_t events) {
    const std::shared_ptr<bool> alive = alive_;
    if ((events & EPOLLOUT) != 0 && !write_some())
        return;
    // A peer that has gone is always taken notice of.
    const bool gone = (events & (EPOLLHUP | EPOLLERR)) != 0;
    if (gone || ((events & EPOLLIN) != 0 && !must_wait()))
        read_some();
    if (!*alive)
        return;
    account();
    update_interest();
}

void Connection::read_some() {
    const std::shared_ptr<bool> alive = alive_;
    std::array<char, 65536>
        bytes; // NOLINT(cppcoreguidelines-pro-type-member-init): read() fills it
    const ssize_t got = recv(socket_.get(), bytes.data(), bytes.size(), 0);
    if (got > 0) {
        reader_.take({bytes.data(), static_cast<std::size_t>(got)});
    } else if (got == 0) {
        close(reader_.in_frame() ? "the peer closed in the middle of a message" : "");
    } else if (errno != EAGAIN && errno != EINTR) {
        close(os::text("read from a socket: ", os::describe(errno)));
    }
}

// False when the connection has ended by it.
bool Connection::write_some() {
    while (!output_.empty()) {
        const std::string& first = output_.front();
        const ssize_t put = ::send(socket_.get(), first.data() + sent_of_first_,
                                   first.size() - sent_of_first_, MSG_NOSIGNAL);
        if (put < 0) {
            if (errno == EAGAIN || errno == EINTR)
                return true;
            close(os::text("write to a socket: ", os::describe(errno)));
            return false;
        }
        output_bytes_ -= static_cast<std::size_t>(put);
        sent_of_first_ += static_cast<std::size_t>(put);
        if (sent_of_first_ == first.size()) {
            output_.pop_front();
            sent_of_first_ = 0;
        }
    }
    return true;
}

} // namespace ttrpc
