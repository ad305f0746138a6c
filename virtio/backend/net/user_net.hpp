// UserNet: networking without privilege. The guest's packets end in libslirp, which speaks ARP, IP
// and TCP with it, and go on as what ordinary sockets of this process send; published ports go the
// other way. One queue pair; everything on one event loop's thread.
//
// docs/design/user-mode-network.md says why libslirp.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <netinet/in.h>

#include "base/result.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/net/frame_queue.hpp"
#include "virtio/backend/net/loopback_guard.hpp"
#include "virtio/backend/net/net_backend.hpp"
#include "virtio/backend/net/poll_set.hpp"
#include "virtio/backend/net/user_net_config.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "virtio/device/net/rate_limiter.hpp"

struct Slirp;

namespace virtio {

struct PublishedPort {
    bool udp = false;
    bool ipv6 = false; // of the host's address
    in_addr host4{};   // any: 0.0.0.0
    in6_addr host6{};
    std::uint16_t host_port = 0;
    std::uint16_t guest_port = 0;
};

class UserNet final : public NetBackend, private NetPort {
public:
    static base::Result<std::unique_ptr<UserNet>, HostError> create(const UserNetConfig& config);
    ~UserNet() override;

    // Listens; before connect(). EADDRINUSE, EACCES, EADDRNOTAVAIL.
    base::Result<void, HostError> publish(const PublishedPort& port);
    // Before the loop runs.
    base::Result<void, HostError> connect(EventLoop& loop);
    const UserNetConfig& config() const { return config_; }

    unsigned pairs() const override { return 1; }
    NetPort& port(unsigned) override { return *this; }
    std::uint64_t offloads() const override;
    void set_guest_offloads(std::uint64_t) override {}
    void set_active_pairs(unsigned) override {}

private:
    struct Callbacks;
    struct Timer;
    UserNet(const UserNetConfig& config, PollSet poll, UniqueFd timer);

    void attach(NetPortEvents& events) override { events_ = &events; }
    Sent send(const NetHeader& header, std::span<const struct iovec> frame,
              std::size_t length) override;
    // libslirp sends what waited for an answer of the guest (ARP) only when it is asked to look.
    void flush() override { on_sockets(); }
    std::size_t receive(std::span<const struct iovec> room) override;
    // It delivers by itself, from when the driver is there on: whoever connects before then waits,
    // instead of losing the packets that would tell the guest of it.
    void watch(bool on) override;

    bool has_room_for(std::span<const std::byte> frame);
    void count_socket(int fd, bool open);
    void to_guest(std::span<const std::byte> frame);
    void on_sockets();
    void on_timer();
    void refill();
    void wake_at(std::uint64_t time_ms);
    void introduce_guest();

    // Frames that the guest has no room for: some tens of connections with full windows.
    static constexpr std::size_t queue_bytes = std::size_t{2} << 20;

    const UserNetConfig config_;
    LoopbackGuard guard_{config_};
    TokenBucket fragments_;
    std::vector<bool> is_socket_; // by descriptor: libslirp has it
    std::size_t sockets_ = 0;
    EventLoop* loop_ = nullptr;
    PollSet poll_;
    UniqueFd timer_;
    bool started_ = false;
    std::uint64_t timer_at_ms_ = 0; // 0: not armed
    NetPortEvents* events_ = nullptr;
    Slirp* slirp_ = nullptr;
    std::vector<std::unique_ptr<Timer>> timers_; // of libslirp
    std::vector<std::uint8_t> frame_;            // the guest's, in one piece
    FrameQueue waiting_{queue_bytes};
};

} // namespace virtio
