// Tap: a TAP interface of the host as a network backend, one descriptor per queue pair. Packets go
// in and out with their virtio-net header (IFF_VNET_HDR), so checksums and segments stay as they
// are.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/net/net_backend.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace virtio {

// A line for a person, without the interface's name.
struct TapError {
    std::string reason;
};

class Tap final : public NetBackend {
public:
    // An interface that exists (ip tuntap add). With up to `most_pairs` queues, if it was made with
    // multi_queue; else one.
    static base::Result<std::unique_ptr<Tap>, TapError> open(const std::string& name,
                                                             unsigned most_pairs);
    // Descriptors that somebody else opened: of one TAP, with IFF_VNET_HDR and IFF_NO_PI. They are
    // made non-blocking.
    static base::Result<std::unique_ptr<Tap>, TapError> adopt(std::vector<UniqueFd> descriptors);
    ~Tap() override;

    const std::string& name() const { return name_; }
    std::uint16_t mtu() const { return mtu_; }

    // One loop per pair, before they run and before port().
    base::Result<void, HostError> connect(std::span<EventLoop* const> loops);

    unsigned pairs() const override { return static_cast<unsigned>(descriptors_.size()); }
    NetPort& port(unsigned pair) override;
    std::uint64_t offloads() const override;
    void set_guest_offloads(std::uint64_t features) override;
    void set_active_pairs(unsigned pairs) override;

private:
    class Port;
    Tap();
    base::Result<void, TapError> set_up();

    std::string name_;
    std::uint16_t mtu_ = 1500;
    bool segments_udp_ = false; // Linux 6.2
    unsigned attached_;
    std::vector<UniqueFd> descriptors_;
    std::vector<std::unique_ptr<Port>> ports_;
};

} // namespace virtio
