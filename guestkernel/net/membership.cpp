// Telling the link which groups this machine is in: IGMPv3 (RFC 3376) and MLDv2 (RFC 3810), the
// reports of changes. Switches that watch them forward what belongs to the groups.
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"

namespace kernel::net {

namespace {

constexpr u8 igmp_report = 0x22, mld_report = 143;
constexpr u8 to_include = 3, to_exclude = 4; // joining: exclude nobody; leaving: include nobody

struct GroupRecord4 {
    u8 type, auxiliary;
    Be16 sources;
    Be32 group;
};
struct Report4 {
    u8 type, reserved, checksum[2];
    Be16 reserved2, records;
    GroupRecord4 record;
};
static_assert(sizeof(Report4) == 16);

struct Report6 {
    IcmpHeader header; // the number of records in the last two bytes
    u8 type, auxiliary;
    Be16 sources;
    u8 group[16];
};
static_assert(sizeof(Report6) == 28);

// Options that routers look at these packets for: RFC 2113, RFC 2711.
constexpr u8 router_alert4[4] = {0x94, 4, 0, 0};
constexpr u8 router_alert6[8] = {proto_icmpv6, 0, 5, 2, 0, 0, 1, 0};

void send_frame(Interface& interface, PacketPtr packet, const IpAddress& to) {
    packet->mark_network();
    EthernetHeader link;
    link.destination = multicast_mac(to);
    link.source = interface.mac();
    link.protocol.set(to.is_v6() ? ether_ipv6 : ether_ip);
    packet->push_header(link);
    packet->mark_link();
    packet->link_protocol = link.protocol.get();
    interface.transmit(std::move(packet));
}

void report4(Stack& stack, Interface& interface, const IpAddress& group, bool joined) {
    Report4 report{};
    report.type = igmp_report;
    report.records.set(1);
    report.record.type = joined ? to_exclude : to_include;
    report.record.group.set(group.v4_value());
    const u16 sum = checksum(&report, sizeof report);
    __builtin_memcpy(report.checksum, &sum, sizeof sum);
    PacketPtr packet = Packet::allocate(64);
    if (!packet)
        return;
    const IpAddress routers = IpAddress::v4(0xe000'0016);
    packet->push_header(report);
    packet->push_header(router_alert4);
    Ipv4Header header{};
    header.version_length = 0x46;
    header.traffic_class = 0xc0;
    header.total_length.set(static_cast<u16>(packet->length() + sizeof header));
    header.fragment.set(Ipv4Header::dont_fragment);
    header.ttl = 1;
    header.protocol = proto_igmp;
    header.source.set(stack.select_source(interface, routers).v4_value());
    header.destination.set(routers.v4_value());
    packet->push_header(header);
    set_header_checksum(*packet, 24);
    send_frame(interface, std::move(packet), routers);
}

void report6(Stack& stack, Interface& interface, const IpAddress& group, bool joined) {
    Report6 report{};
    report.header.type = mld_report;
    report.header.rest[3] = 1;
    report.type = joined ? to_exclude : to_include;
    __builtin_memcpy(report.group, group.bytes(), sizeof report.group);
    const IpAddress routers = IpAddress::v6_words(0xff02'0000'0000'0000, 0x16);
    const IpAddress source = stack.select_source(interface, routers);
    ChecksumSum sum = pseudo_header(source, routers, proto_icmpv6, sizeof report);
    sum.add(&report, sizeof report);
    const u16 result = sum.finish();
    __builtin_memcpy(report.header.checksum, &result, sizeof result);
    PacketPtr packet = Packet::allocate(64);
    if (!packet)
        return;
    packet->push_header(report);
    packet->push_header(router_alert6);
    Ipv6Header header{};
    header.version_class_label.set(6u << 28);
    header.payload_length.set(static_cast<u16>(packet->length()));
    header.next_header = proto_hop_options;
    header.hop_limit = 1;
    __builtin_memcpy(header.source, source.bytes(), sizeof header.source);
    __builtin_memcpy(header.destination, routers.bytes(), sizeof header.destination);
    packet->push_header(header);
    send_frame(interface, std::move(packet), routers);
}

} // namespace

void report_membership(Stack& stack, Interface& interface, const IpAddress& group, bool joined) {
    if (!interface.is_up() || !interface.has_link_addresses())
        return;
    if (group.is_v4()) {
        if ((group.v4_value() & 0xffff'ff00) != 0xe000'0000) // the link's own are not reported
            report4(stack, interface, group, joined);
    } else if ((group.bytes()[1] & 0xf) >= 2) {
        report6(stack, interface, group, joined);
    }
}

} // namespace kernel::net
