// The network that a guest with user-mode networking sees.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <netinet/in.h>

#include "virtio/device/net/protocol.hpp"

namespace virtio {

// Addresses of IPv4 in host order; gateway and resolver by their last byte, in both protocols.
struct UserNetConfig {
    std::uint32_t network = 0x0a000200; // 10.0.2.0/24
    std::uint16_t mtu = largest_mtu;
    MacAddress guest_mac{}; // that it begins with
    // Whether the guest reaches what listens on the host's own loopback, by the gateway's address.
    bool host_loopback = false;
    std::vector<std::string> search; // domains for its resolver
    // Connections and ports that the guest has open: each is a socket of the host.
    std::size_t most_sockets = 8192;

    static constexpr std::uint16_t largest_mtu = 65520;
    static constexpr unsigned prefix4 = 24;
    static constexpr unsigned prefix6 = 64;
    static constexpr std::uint8_t gateway = 2;
    static constexpr std::uint8_t resolver = 3;
    static constexpr std::uint8_t guest4 = 15;
    static constexpr std::uint8_t guest6 = 0x15; // is written as the other one is

    in_addr address4(std::uint8_t host) const;
    static in6_addr address6(std::uint8_t host); // in fd6a:6f65:7900::/64
};

} // namespace virtio
