// Matches of iptables that look at a packet's headers.
#include <linux/netfilter/xt_comment.h>
#include <linux/netfilter/xt_iprange.h>
#include <linux/netfilter/xt_length.h>
#include <linux/netfilter/xt_mac.h>
#include <linux/netfilter/xt_multiport.h>
#include <linux/netfilter/xt_tcpudp.h>
#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#include "guestkernel/net/filter/address_type.hpp"
#include "guestkernel/net/filter/compat/kinds.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

bool within(const __u16 (&range)[2], u16 port) {
    return port >= range[0] && port <= range[1];
}

bool read_ports(const Evaluation& at, u16& source, u16& destination) {
    Be16 ports[2];
    if (!at.has_transport || at.fragment_offset != 0 || !at.packet->read(at.transport, ports))
        return false;
    source = ports[0].get();
    destination = ports[1].get();
    return true;
}

bool has_tcp_option(const Evaluation& at, const TcpHeader& header, u8 wanted) {
    for (u32 offset = sizeof header; offset < header.header_bytes();) {
        u8 kind = 0, length = 0;
        if (!at.packet->read(at.transport + offset, kind))
            return false;
        if (kind == wanted)
            return true;
        if (kind < 2) {
            offset++;
            continue;
        }
        if (!at.packet->read(at.transport + offset + 1, length) || length == 0)
            return false;
        offset += length;
    }
    return false;
}

bool match_tcp(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_tcp>(raw);
    TcpHeader header;
    if (!at.has_transport || at.fragment_offset != 0 || !at.packet->read(at.transport, header))
        return false;
    const auto inverted = [&](u8 bit) { return (info.invflags & bit) != 0; };
    if (within(info.spts, header.source.get()) == inverted(XT_TCP_INV_SRCPT) ||
        within(info.dpts, header.destination.get()) == inverted(XT_TCP_INV_DSTPT))
        return false;
    if (((header.flags & info.flg_mask) == info.flg_cmp) == inverted(XT_TCP_INV_FLAGS))
        return false;
    return info.option == 0 ||
           has_tcp_option(at, header, info.option) != inverted(XT_TCP_INV_OPTION);
}

bool match_udp(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_udp>(raw);
    u16 source = 0, destination = 0;
    return read_ports(at, source, destination) &&
           within(info.spts, source) != ((info.invflags & XT_UDP_INV_SRCPT) != 0) &&
           within(info.dpts, destination) != ((info.invflags & XT_UDP_INV_DSTPT) != 0);
}

// ipt_icmp and ip6t_icmp are the same but for what stands for any type.
bool match_icmp(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<ipt_icmp>(raw);
    IcmpHeader header;
    if (!at.has_transport || at.fragment_offset != 0 || !at.packet->read(at.transport, header))
        return false;
    constexpr u8 any4 = 0xff;
    const bool any = !at.hook.v6 && info.type == any4;
    const bool fits = any || (header.type == info.type && header.code >= info.code[0] &&
                              header.code <= info.code[1]);
    return fits != ((info.invflags & 1) != 0);
}

bool match_multiport(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_multiport_v1>(raw);
    u16 source = 0, destination = 0;
    if (!read_ports(at, source, destination))
        return false;
    const auto fits = [&](u16 low, u16 high) {
        const bool from = source >= low && source <= high;
        const bool to = destination >= low && destination <= high;
        return info.flags == XT_MULTIPORT_SOURCE        ? from
               : info.flags == XT_MULTIPORT_DESTINATION ? to
                                                        : from || to;
    };
    bool found = false;
    for (u32 i = 0; i < info.count && !found; i++) {
        const bool range = info.pflags[i] != 0 && i + 1 < info.count;
        found = fits(info.ports[i], info.ports[range ? i + 1 : i]);
        i += range ? 1 : 0;
    }
    return found != (info.invert != 0);
}

bool check_multiport(const u8* raw) {
    const auto info = info_as<xt_multiport_v1>(raw);
    return info.flags <= XT_MULTIPORT_EITHER && info.count <= XT_MULTI_PORTS;
}

bool always(Evaluation& at, const u8* raw, MatchState& state) {
    (void)at;
    (void)raw;
    (void)state;
    return true;
}

bool match_length(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_length_info>(raw);
    const u32 bytes = at.packet->length();
    return (bytes >= info.min && bytes <= info.max) != (info.invert != 0);
}

bool in_address_range(const IpAddress& address, const nf_inet_addr& low, const nf_inet_addr& high) {
    const auto bytes = static_cast<u32>(address.wire_bytes());
    return __builtin_memcmp(address.wire(), &low, bytes) >= 0 &&
           __builtin_memcmp(address.wire(), &high, bytes) <= 0;
}

bool match_range(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_iprange_mtinfo>(raw);
    IpAddress source, destination;
    if (!read_addresses(*at.packet, at.hook.v6, source, destination))
        return false;
    if ((info.flags & IPRANGE_SRC) != 0 && in_address_range(source, info.src_min, info.src_max) ==
                                               ((info.flags & IPRANGE_SRC_INV) != 0))
        return false;
    return (info.flags & IPRANGE_DST) == 0 ||
           in_address_range(destination, info.dst_min, info.dst_max) !=
               ((info.flags & IPRANGE_DST_INV) != 0);
}

bool match_mac(Evaluation& at, const u8* raw, MatchState& state) {
    (void)state;
    const auto info = info_as<xt_mac_info>(raw);
    const Packet& packet = *at.packet;
    if (!packet.has_link() || packet.link_offset() > -static_cast<i32>(sizeof(EthernetHeader)) ||
        at.hook.in == nullptr || !at.hook.in->has_link_addresses())
        return false;
    EthernetHeader header;
    __builtin_memcpy(&header, packet.data() + packet.link_offset(), sizeof header);
    const bool same =
        __builtin_memcmp(header.source.bytes, info.srcaddr, sizeof header.source.bytes) == 0;
    return same != (info.invert != 0);
}

bool check_tcp(const u8* raw) {
    return (info_as<xt_tcp>(raw).invflags & ~XT_TCP_INV_MASK) == 0;
}
bool check_udp(const u8* raw) {
    return (info_as<xt_udp>(raw).invflags & ~XT_UDP_INV_MASK) == 0;
}
bool check_icmp(const u8* raw) {
    return (info_as<ipt_icmp>(raw).invflags & ~1) == 0;
}

constexpr u8 every_point = 0x1f, incoming_points = 0x7;

constexpr MatchKind kinds[] = {
    {"comment", 0, 0, sizeof(xt_comment_info), sizeof(xt_comment_info), nullptr, always},
    {"tcp",
     0,
     0,
     sizeof(xt_tcp),
     sizeof(xt_tcp),
     check_tcp,
     match_tcp,
     {.points = every_point, .protocol = proto_tcp}},
    {"udp",
     0,
     0,
     sizeof(xt_udp),
     sizeof(xt_udp),
     check_udp,
     match_udp,
     {.points = every_point, .protocol = proto_udp}},
    {"icmp",
     0,
     4,
     sizeof(ipt_icmp),
     sizeof(ipt_icmp),
     check_icmp,
     match_icmp,
     {.points = every_point, .protocol = proto_icmp}},
    {"icmp6",
     0,
     6,
     sizeof(ip6t_icmp),
     sizeof(ip6t_icmp),
     check_icmp,
     match_icmp,
     {.points = every_point, .protocol = proto_icmpv6}},
    {"multiport", 1, 0, sizeof(xt_multiport_v1), sizeof(xt_multiport_v1), check_multiport,
     match_multiport},
    {"length", 0, 0, sizeof(xt_length_info), sizeof(xt_length_info), nullptr, match_length},
    {"iprange", 1, 0, sizeof(xt_iprange_mtinfo), sizeof(xt_iprange_mtinfo), nullptr, match_range},
    {"mac",
     0,
     0,
     sizeof(xt_mac_info),
     sizeof(xt_mac_info),
     nullptr,
     match_mac,
     {.points = incoming_points}},
};

} // namespace

std::span<const MatchKind> header_matches() {
    return kinds;
}

} // namespace kernel::net::filter
