// FdChannel: a VsockChannel over a connected socket of the host, of type SOCK_STREAM or
// SOCK_SEQPACKET. O_NONBLOCK is not touched: the socket may be one of somebody else's.
#pragma once

#include "virtio/backend/unique_fd.hpp"
#include "virtio/backend/vsock/channel.hpp"

namespace virtio {

class FdChannel final : public VsockChannel {
public:
    FdChannel(EventLoop& loop, UniqueFd socket) : loop_(loop), socket_(std::move(socket)) {}
    FdChannel(const FdChannel&) = delete;
    FdChannel& operator=(const FdChannel&) = delete;
    ~FdChannel() override;

    Transfer read(std::span<const struct iovec> into) override;
    Transfer write(std::span<const struct iovec> from) override;
    Transfer next_message() override;
    void shut(bool reading, bool writing) override;
    bool hung_up() override;
    void watch(Interest interest) override;

private:
    void stop_watching();

    EventLoop& loop_;
    UniqueFd socket_;
    Interest interest_;
    bool watched_ = false;
    bool hangup_told_ = false;
    bool no_more_to_read_ = false;
};

} // namespace virtio
