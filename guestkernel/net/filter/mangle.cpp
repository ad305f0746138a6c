#include "guestkernel/net/filter/mangle.hpp"

#include "guestkernel/net/ip.hpp"

namespace kernel::net::filter {

void replace_in_sum(u8* field, const u8* before, const u8* after, u32 bytes, bool odd,
                    bool partial) {
    u16 stored = 0;
    __builtin_memcpy(&stored, field, sizeof stored);
    // RFC 1624: HC' = ~(~HC + ~m + m').
    u64 sum = partial ? stored : static_cast<u16>(~stored);
    for (u32 i = 0; i < bytes; i++) {
        // A byte's weight in memory order: the first of a word is the low one.
        const u32 shift = ((i + (odd ? 1 : 0)) & 1) * 8;
        sum += static_cast<u64>(after[i]) << shift;
        sum += 0xffff - (static_cast<u64>(before[i]) << shift);
    }
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    stored = partial ? static_cast<u16>(sum) : static_cast<u16>(~sum);
    __builtin_memcpy(field, &stored, sizeof stored);
}

namespace {

// Offset of the checksum in the transport header; 0: it has none that addresses matter to.
u32 sum_field(u8 protocol) {
    switch (protocol) {
    case proto_tcp:
        return tcp_checksum_field;
    case proto_udp:
        return udp_checksum_field;
    case proto_icmpv6:
        return icmp_checksum_field;
    default:
        return 0;
    }
}

struct Place {
    u32 network = 0, transport = 0;
    u8 protocol = 0;
    bool inner = false;
};

u8* sum_of(Packet& packet, const Place& place) {
    const u32 field = sum_field(place.protocol);
    if (field == 0)
        return nullptr;
    const u32 at = place.transport + field;
    return packet.length() < at + 2 || packet.linear(at + 2) == nullptr ? nullptr
                                                                        : packet.data() + at;
}

bool is_partial(const Packet& packet, const Place& place) {
    return !place.inner && packet.checksum_state == ChecksumState::Partial;
}

// What the sum covers has changed. `pseudo`: in the pseudo header; else in what the device sums.
void fix(Packet& packet, const Place& place, const u8* before, const u8* after, u32 bytes,
         bool pseudo) {
    u8* field = sum_of(packet, place);
    if (field == nullptr)
        return;
    const bool partial = is_partial(packet, place);
    if (partial && !pseudo)
        return;
    const bool none = field[0] == 0 && field[1] == 0;
    if (place.protocol == proto_udp && none && !partial)
        return;
    replace_in_sum(field, before, after, bytes, false, partial);
    // Of UDP zero means that there is none.
    if (place.protocol == proto_udp && !partial && field[0] == 0 && field[1] == 0)
        field[0] = field[1] = 0xff;
}

bool set_address4(Packet& packet, const Place& place, const IpAddress& address, bool source) {
    const u32 at = place.network + static_cast<u32>(source ? offsetof(Ipv4Header, source)
                                                           : offsetof(Ipv4Header, destination));
    u8* bytes = packet.data() + at;
    u8 before[4];
    __builtin_memcpy(before, bytes, sizeof before);
    __builtin_memcpy(bytes, address.wire(), sizeof before);
    replace_in_sum(packet.data() + place.network + offsetof(Ipv4Header, checksum), before, bytes,
                   sizeof before, false, false);
    fix(packet, place, before, address.wire(), sizeof before, true);
    return true;
}

bool set_address6(Packet& packet, const Place& place, const IpAddress& address, bool source) {
    const u32 at = place.network + static_cast<u32>(source ? offsetof(Ipv6Header, source)
                                                           : offsetof(Ipv6Header, destination));
    u8* bytes = packet.data() + at;
    u8 before[16];
    __builtin_memcpy(before, bytes, sizeof before);
    __builtin_memcpy(bytes, address.bytes(), sizeof before);
    fix(packet, place, before, address.bytes(), sizeof before, true);
    return true;
}

void set_word(Packet& packet, const Place& place, u32 at, u16 value) {
    if (packet.length() < at + 2 || packet.linear(at + 2) == nullptr)
        return;
    u8* bytes = packet.data() + at;
    u8 before[2];
    const Be16 wanted(value);
    __builtin_memcpy(before, bytes, sizeof before);
    __builtin_memcpy(bytes, &wanted, sizeof wanted);
    u8 after[2];
    __builtin_memcpy(after, &wanted, sizeof after);
    if (place.protocol == proto_icmp) {
        const u32 field = place.transport + icmp_checksum_field;
        if (packet.length() >= field + 2 && packet.linear(field + 2) != nullptr &&
            !is_partial(packet, place))
            replace_in_sum(packet.data() + field, before, after, sizeof after, false, false);
        return;
    }
    fix(packet, place, before, after, sizeof after, false);
}

} // namespace

void fix_transport_sum(Packet& packet, u8 protocol, u32 transport, const u8* before,
                       const u8* after, u32 bytes) {
    Place place;
    place.protocol = protocol;
    place.transport = transport;
    fix(packet, place, before, after, bytes, true);
}

bool set_end(Packet& packet, u32 offset, const Tuple& to, bool source, Part part) {
    PacketTuple found;
    if (!read_tuple(packet, offset, found))
        return false;
    Place place;
    place.network = offset;
    place.transport = found.transport;
    place.protocol = found.tuple.protocol;
    place.inner = part == Part::Quoted;
    if (packet.linear(found.transport) == nullptr)
        return false;
    const IpAddress& address = source ? to.source : to.destination;
    if (address.is_v6() != found.tuple.v6())
        return false;
    if (part == Part::AddressOnly)
        return address.is_v6() ? set_address6(packet, place, address, source)
                               : set_address4(packet, place, address, source);
    if (place.protocol == proto_tcp || place.protocol == proto_udp)
        set_word(packet, place, place.transport + (source ? 0 : 2),
                 source ? to.source_port : to.destination_port);
    else if ((place.protocol == proto_icmp || place.protocol == proto_icmpv6) &&
             found.tuple.source_port != to.source_port)
        set_word(packet, place, place.transport + 4, to.source_port);
    return address.is_v6() ? set_address6(packet, place, address, source)
                           : set_address4(packet, place, address, source);
}

} // namespace kernel::net::filter
