// What a packet's headers say of the connection that it is of.
#include "guestkernel/net/filter/conntrack.hpp"
#include "guestkernel/net/ip.hpp"

namespace kernel::net::filter {

namespace {

// The answer's type to an ICMP request, or the other way round. -1: there is none.
int answer_type(u8 type, bool v6) {
    if (v6) {
        switch (type) {
        case 128:
            return 129;
        case 129:
            return 128;
        case 139: // node information
            return 140;
        case 140:
            return 139;
        default:
            return -1;
        }
    }
    switch (type) {
    case 8:
        return 0;
    case 0:
        return 8;
    case 13: // timestamps
    case 15: // information
    case 17: // address masks
        return type + 1;
    case 14:
    case 16:
    case 18:
        return type - 1;
    default:
        return -1;
    }
}

bool is_icmp(u8 protocol) {
    return protocol == proto_icmp || protocol == proto_icmpv6;
}

bool has_ports(u8 protocol) {
    constexpr u8 dccp = 33, sctp = 132, udp_lite = 136;
    return protocol == proto_tcp || protocol == proto_udp || protocol == udp_lite ||
           protocol == sctp || protocol == dccp;
}

// Of the network header. False: malformed.
bool read_network(const Packet& packet, u32 offset, PacketTuple& out) {
    u8 first = 0;
    if (!packet.read(offset, first))
        return false;
    if (first >> 4 == 4) {
        Ipv4Header header;
        if (!packet.read(offset, header) || header.header_bytes() < sizeof header)
            return false;
        out.tuple.source = IpAddress::v4(header.source.get());
        out.tuple.destination = IpAddress::v4(header.destination.get());
        out.tuple.protocol = header.protocol;
        out.transport = offset + header.header_bytes();
        out.fragment = header.is_fragment();
        return (header.fragment.get() & Ipv4Header::offset_mask) == 0;
    }
    Ipv6Header header;
    if (first >> 4 != 6 || !packet.read(offset, header))
        return false;
    out.tuple.source = IpAddress::v6(header.source);
    out.tuple.destination = IpAddress::v6(header.destination);
    u8 protocol = header.next_header;
    u32 at = offset + static_cast<u32>(sizeof header);
    constexpr int most_extensions = 8;
    for (int i = 0; i < most_extensions; i++) {
        if (protocol != proto_hop_options && protocol != proto_routing &&
            protocol != proto_destination_options)
            break;
        u8 fixed[2];
        if (!packet.read(at, fixed))
            return false;
        protocol = fixed[0];
        at += (fixed[1] + 1u) * 8;
    }
    out.fragment = protocol == proto_fragment;
    out.tuple.protocol = protocol;
    out.transport = at;
    return !out.tuple.source.is_v4() && !out.tuple.destination.is_v4();
}

} // namespace

bool read_tuple(const Packet& packet, u32 offset, PacketTuple& out) {
    if (!read_network(packet, offset, out))
        return false;
    Tuple& tuple = out.tuple;
    if (out.fragment && tuple.v6())
        return true;
    if (has_ports(tuple.protocol)) {
        Be16 ports[2];
        if (!packet.read(out.transport, ports))
            return false;
        tuple.source_port = ports[0].get();
        tuple.destination_port = ports[1].get();
    } else if (is_icmp(tuple.protocol)) {
        IcmpHeader header;
        if ((tuple.protocol == proto_icmpv6) != tuple.v6() || !packet.read(out.transport, header))
            return false;
        if (answer_type(header.type, tuple.v6()) >= 0)
            tuple.source_port = static_cast<u16>(u32{header.rest[0]} << 8 | header.rest[1]);
        tuple.destination_port = static_cast<u16>(u32{header.type} << 8 | header.code);
    }
    return true;
}

bool invert(const Tuple& tuple, Tuple& out) {
    const Tuple from = tuple; // may be the same
    out = from;
    out.source = from.destination;
    out.destination = from.source;
    if (is_icmp(from.protocol)) {
        const int type = answer_type(static_cast<u8>(from.destination_port >> 8), from.v6());
        if (type < 0)
            return false;
        out.destination_port =
            static_cast<u16>(static_cast<u32>(type) << 8 | (from.destination_port & 0xff));
        return true;
    }
    out.source_port = from.destination_port;
    out.destination_port = from.source_port;
    return true;
}

} // namespace kernel::net::filter
