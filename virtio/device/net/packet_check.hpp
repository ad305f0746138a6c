// Whether what a packet's header says fits the packet. Nothing of the guest's header goes to a
// backend but through here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "virtio/device/net/protocol.hpp"

namespace virtio {

// Where the layers of a frame lie, as far as its head tells.
struct PacketLayout {
    std::uint8_t ip_version = 0; // 4, 6; 0: another protocol, or the head ends too early
    std::uint8_t protocol = 0;   // IPPROTO_* of the transport; 0: a later fragment, or unknown
    std::uint16_t network = 0;   // offsets in the frame
    std::uint16_t transport = 0;
    std::uint16_t payload = 0; // behind a whole TCP or UDP header; else 0
    bool fragment = false;
    bool tcp_cwr = false;
};

// `head`: the first bytes of a frame, net_head_bytes or all of them.
inline constexpr std::size_t net_head_bytes = 256;
PacketLayout read_layout(std::span<const std::byte> head);

// The header for the backend, with everything in it checked or computed anew: flags and types that
// were not negotiated, offsets outside of the packet or not at its transport header, segmentation
// of what is no TCP or UDP are refused (nullopt: the packet is dropped). `features`: negotiated.
// `length`: of the whole frame.
std::optional<NetHeader> check_transmit(const NetHeader& header, std::span<const std::byte> head,
                                        std::size_t length, std::uint64_t features);

// Whether a driver that negotiated `offloads` (NetFeature bits of the guest's side) can take a
// packet with this header from the backend.
bool may_receive(const NetHeader& header, std::uint64_t offloads);

} // namespace virtio
