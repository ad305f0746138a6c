// Addresses and routes of the guest's network interface, as they stand in the device tree: arrays
// of these, in network byte order.
#pragma once

#include <cstdint>

namespace boot {

// With IPv4 the address is in the first 4 bytes, the others are zero.
struct NetworkAddress {
    std::uint8_t version = 4; // 4 or 6
    std::uint8_t prefix = 0;  // length
    std::uint8_t bytes[16] = {};
};
static_assert(sizeof(NetworkAddress) == 18);

struct NetworkRoute {
    NetworkAddress destination;    // 0.0.0.0/0: the default route
    std::uint8_t gateway[16] = {}; // all zero: on the link
};
static_assert(sizeof(NetworkRoute) == 34);

inline constexpr unsigned max_network_addresses = 16;
inline constexpr unsigned max_network_routes = 32;

} // namespace boot
