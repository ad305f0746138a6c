// LoopbackGuard: keeps a guest away from what listens on the host's own loopback, and from what
// only the host's link has.
//
// libslirp takes the whole of the guest's network for the host's loopback. Its own switch against
// that refuses too much: the answers of a published UDP port to a client on this machine, which
// has the gateway's address inside. So that switch is off, and each frame is judged here: to the
// guest's own network goes only what is named below.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "virtio/backend/net/user_net_config.hpp"
#include "virtio/device/net/packet_check.hpp"

namespace virtio {

class LoopbackGuard {
public:
    explicit LoopbackGuard(const UserNetConfig& config);

    enum class Verdict : std::uint8_t { Pass, Drop, Refuse };
    // Of a frame of the guest. Refuse: it begins a TCP connection; refusal() is the answer.
    Verdict judge(std::span<const std::byte> frame, std::uint64_t now_ms);
    // A frame to the guest: whom it answers later, if it is from a client on this machine.
    void delivered(std::span<const std::byte> frame, std::uint64_t now_ms);

private:
    // A client of this machine and a published UDP port that it has sent to.
    struct Flow {
        std::uint8_t ip_version = 0;
        std::uint16_t client_port = 0;
        std::uint16_t guest_port = 0;
        std::uint64_t seen_ms = 0;
    };
    struct Addressed; // a frame and where it goes

    Verdict judge_own_network(const Addressed& to, std::uint64_t now_ms);
    Flow* find(std::uint8_t ip_version, std::uint16_t client_port, std::uint16_t guest_port);

    static constexpr std::uint64_t flow_ms = 240'000; // as long as libslirp keeps idle UDP sockets

    const std::uint32_t network_;
    std::array<Flow, 256> flows_{}; // the one seen longest ago makes room
};

// A datagram to the guest that still has a loopback address as its source, with the gateway's in
// its place; nothing if it has another. libslirp puts the gateway's there, but for a client of a
// published UDP port only if the guest's last answer did not go elsewhere.
std::optional<std::vector<std::byte>> with_gateway_source(std::span<const std::byte> frame,
                                                          const UserNetConfig& config);

// "Connection refused": the answer to a frame that begins a TCP connection. Nothing: it is none.
std::optional<std::vector<std::byte>> refusal(std::span<const std::byte> frame);

} // namespace virtio
