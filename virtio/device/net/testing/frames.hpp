// Frames for tests: Ethernet, IP, TCP or UDP, with the fields that offloads look at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <linux/if_ether.h>
#include <netinet/in.h>

#include "virtio/device/net/protocol.hpp"

namespace virtio::testing {

struct FrameShape {
    bool ipv6 = false;
    std::uint8_t protocol = IPPROTO_TCP;
    std::size_t payload = 100;
    unsigned vlan_tags = 0;
    std::size_t ip_options = 0;    // bytes, a multiple of 4; of IPv6: of 8, as destination options
    std::size_t tcp_options = 0;   // bytes, a multiple of 4
    std::uint16_t fragment = 0;    // IPv4's flags and offset
    std::uint8_t tcp_flags = 0x18; // PSH, ACK
    MacAddress to = {0x52, 0x54, 0, 0, 0, 1};
};

struct Frame {
    std::vector<std::byte> bytes;
    std::size_t network = 0;
    std::size_t transport = 0;
    std::size_t payload = 0;

    // The header that asks for the checksum, and for segments of `segment` bytes.
    NetHeader header(std::uint16_t segment = 0) const {
        const bool v6 = std::to_integer<unsigned>(bytes[network]) >> 4 == 6;
        NetHeader out;
        out.flags = net_needs_csum;
        out.csum_start = static_cast<std::uint16_t>(transport);
        out.csum_offset = is_tcp ? 16 : 6;
        out.gso_size = segment;
        if (segment != 0)
            out.gso_type = !is_tcp ? net_gso_udp : v6 ? net_gso_tcp6 : net_gso_tcp4;
        return out;
    }
    bool is_tcp = true;
};

inline Frame make_frame(const FrameShape& shape = {}) {
    Frame frame;
    std::vector<std::byte>& out = frame.bytes;
    const auto put8 = [&](unsigned value) { out.push_back(static_cast<std::byte>(value)); };
    const auto put16 = [&](std::size_t value) {
        put8(static_cast<unsigned>(value >> 8 & 0xff));
        put8(static_cast<unsigned>(value & 0xff));
    };
    const auto zeros = [&](std::size_t count) { out.resize(out.size() + count); };
    for (const std::uint8_t byte : shape.to)
        put8(byte);
    for (const unsigned byte : {0x52u, 0x55u, 0x0au, 0x00u, 0x02u, 0x02u})
        put8(byte);
    for (unsigned tag = 0; tag < shape.vlan_tags; ++tag) {
        put16(ETH_P_8021Q);
        put16(5);
    }
    put16(shape.ipv6 ? ETH_P_IPV6 : ETH_P_IP);
    frame.network = out.size();
    frame.is_tcp = shape.protocol == IPPROTO_TCP;
    const std::size_t transport = frame.is_tcp                    ? 20 + shape.tcp_options
                                  : shape.protocol == IPPROTO_UDP ? 8
                                                                  : 0;
    const std::size_t carried = shape.ip_options + transport + shape.payload;
    if (shape.ipv6) {
        put16(0x6000);
        put16(0);
        put16(carried);
        put8(shape.ip_options != 0 ? unsigned{IPPROTO_DSTOPTS} : shape.protocol);
        put8(64);
        zeros(31);
        put8(1);
        // From :: to ::1, as it happens: nobody here looks.
        if (shape.ip_options != 0) {
            put8(shape.protocol);
            put8(static_cast<unsigned>(shape.ip_options / 8 - 1));
            zeros(shape.ip_options - 2);
        }
    } else {
        put8(static_cast<unsigned>(0x45 + shape.ip_options / 4));
        put8(0);
        put16(20 + carried);
        put16(0);
        put16(shape.fragment);
        put8(64);
        put8(shape.protocol);
        put16(0);
        put16(0x0a00), put16(0x020f);
        put16(0x0a00), put16(0x0202);
        zeros(shape.ip_options);
    }
    frame.transport = out.size();
    if (frame.is_tcp) {
        put16(40000);
        put16(80);
        zeros(8);
        put8(static_cast<unsigned>((20 + shape.tcp_options) / 4 << 4));
        put8(shape.tcp_flags);
        put16(0xffff);
        zeros(4 + shape.tcp_options);
    } else if (shape.protocol == IPPROTO_UDP) {
        put16(40000);
        put16(53);
        put16(8 + shape.payload);
        put16(0);
    }
    frame.payload = out.size();
    for (std::size_t i = 0; i < shape.payload; ++i)
        put8(static_cast<unsigned>(i * 7 + i / 256));
    return frame;
}

} // namespace virtio::testing
