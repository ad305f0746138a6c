// Headers as they stand in packets. All fields are big-endian or bytes, so any alignment will do.
#pragma once

#include "guestkernel/net/ip_address.hpp"

namespace kernel::net {

// Values of linux/if_ether.h and linux/in.h, which kernel headers do not include.
inline constexpr u16 ether_ip = 0x0800, ether_arp = 0x0806, ether_vlan = 0x8100,
                     ether_ipv6 = 0x86dd, ether_all = 3;
inline constexpr u8 proto_hop_options = 0, proto_icmp = 1, proto_igmp = 2, proto_tcp = 6,
                    proto_udp = 17, proto_routing = 43, proto_fragment = 44, proto_icmpv6 = 58,
                    proto_udplite = 136, proto_none = 59, proto_destination_options = 60,
                    proto_raw = 255;

struct EthernetHeader {
    MacAddress destination, source;
    Be16 protocol;
};
static_assert(sizeof(EthernetHeader) == 14);

struct ArpPacket { // RFC 826, for IPv4 over Ethernet
    Be16 hardware, protocol;
    u8 hardware_length, protocol_length;
    Be16 operation;
    MacAddress sender_mac;
    Be32 sender;
    MacAddress target_mac;
    Be32 target;
};
static_assert(sizeof(ArpPacket) == 28);

struct Ipv4Header { // RFC 791
    u8 version_length;
    u8 traffic_class;
    Be16 total_length, id, fragment;
    u8 ttl, protocol;
    u8 checksum[2];
    Be32 source, destination;
    static constexpr u16 dont_fragment = 0x4000, more_fragments = 0x2000, offset_mask = 0x1fff;
    u32 header_bytes() const { return (version_length & 0xfu) * 4; }
    bool is_fragment() const { return (fragment.get() & (more_fragments | offset_mask)) != 0; }
};
static_assert(sizeof(Ipv4Header) == 20);

struct Ipv6Header { // RFC 8200
    Be32 version_class_label;
    Be16 payload_length;
    u8 next_header, hop_limit;
    u8 source[16], destination[16];
    u8 traffic_class() const { return static_cast<u8>(version_class_label.get() >> 20); }
    u32 flow_label() const { return version_class_label.get() & 0xf'ffff; }
};
static_assert(sizeof(Ipv6Header) == 40);

struct Ipv6Fragment {
    u8 next_header, reserved;
    Be16 offset_flags; // offset in units of 8 in the upper 13 bits, bit 0: more
    Be32 id;
};
static_assert(sizeof(Ipv6Fragment) == 8);

struct UdpHeader {
    Be16 source, destination, length;
    u8 checksum[2];
};
static_assert(sizeof(UdpHeader) == 8);
inline constexpr u32 udp_checksum_field = 6, tcp_checksum_field = 16, icmp_checksum_field = 2;

struct TcpHeader { // RFC 9293
    Be16 source, destination;
    Be32 sequence, acknowledgement;
    u8 length_reserved; // upper 4 bits: words
    u8 flags;
    Be16 window;
    u8 checksum[2];
    Be16 urgent;
    static constexpr u8 fin = 1, syn = 2, rst = 4, psh = 8, ack = 0x10, urg = 0x20, ece = 0x40,
                        cwr = 0x80;
    u32 header_bytes() const { return (length_reserved >> 4) * 4u; }
};
static_assert(sizeof(TcpHeader) == 20);

struct IcmpHeader { // RFC 792 and RFC 4443
    u8 type, code;
    u8 checksum[2];
    u8 rest[4]; // identifier and sequence, MTU, pointer, ...
};
static_assert(sizeof(IcmpHeader) == 8);

} // namespace kernel::net
