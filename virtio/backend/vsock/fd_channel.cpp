#include "virtio/backend/vsock/fd_channel.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <poll.h>

#include <sys/socket.h>

namespace virtio {

namespace {

struct msghdr message(std::span<const struct iovec> pieces) {
    struct msghdr header {};
    header.msg_iov = const_cast<struct iovec*>(pieces.data()); // the kernel does not write to it
    header.msg_iovlen = std::min<std::size_t>(pieces.size(), IOV_MAX);
    return header;
}

template <typename Call>
Transfer transfer(Call call) {
    ssize_t moved = 0;
    do
        moved = call();
    while (moved < 0 && errno == EINTR);
    if (moved > 0)
        return {Transfer::Outcome::Done, static_cast<std::size_t>(moved)};
    if (moved < 0 && errno == EAGAIN)
        return {};
    return {Transfer::Outcome::Ended, 0};
}

} // namespace

FdChannel::~FdChannel() {
    stop_watching();
}

void FdChannel::stop_watching() {
    if (watched_)
        loop_.remove(socket_.get());
    watched_ = false;
}

Transfer FdChannel::read(std::span<const struct iovec> into) {
    const Transfer done = transfer([&] {
        struct msghdr header = message(into);
        return ::recvmsg(socket_.get(), &header, MSG_DONTWAIT);
    });
    no_more_to_read_ = no_more_to_read_ || done.outcome == Transfer::Outcome::Ended;
    return done;
}

Transfer FdChannel::write(std::span<const struct iovec> from) {
    return transfer([&] {
        struct msghdr header = message(from);
        return ::sendmsg(socket_.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    });
}

Transfer FdChannel::next_message() {
    return transfer(
        [&] { return ::recv(socket_.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT); });
}

void FdChannel::shut(bool reading, bool writing) {
    if (reading || writing)
        ::shutdown(socket_.get(), reading && writing ? SHUT_RDWR : reading ? SHUT_RD : SHUT_WR);
}

bool FdChannel::hung_up() {
    struct pollfd watched {
        socket_.get(), 0, 0
    };
    return ::poll(&watched, 1, 0) > 0 && (watched.revents & (POLLHUP | POLLERR)) != 0;
}

void FdChannel::watch(Interest interest) {
    // At the end of file a socket is readable for ever.
    interest.read = interest.read && !no_more_to_read_;
    const bool wanted = interest.read || interest.write || !hangup_told_;
    const bool same = interest.read == interest_.read && interest.write == interest_.write;
    interest_ = interest;
    if (!wanted)
        return stop_watching();
    if (watched_) {
        if (!same)
            static_cast<void>(loop_.modify(socket_.get(), interest).has_value());
        return;
    }
    const auto added = loop_.add(socket_.get(), interest, [this](Readiness readiness) {
        // A hangup is there until the socket is closed: it must not be reported over and over.
        if (readiness.hangup) {
            hangup_told_ = true;
            stop_watching();
        }
        events_->channel_ready(readiness); // may destroy this
    });
    watched_ = added.has_value();
}

} // namespace virtio
