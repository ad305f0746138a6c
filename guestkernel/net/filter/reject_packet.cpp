#include "guestkernel/net/filter/reject_packet.hpp"

#include "guestkernel/net/filter/address_type.hpp"
#include "guestkernel/net/filter/conntrack.hpp"
#include "guestkernel/net/ip.hpp"

namespace kernel::net::filter {

namespace {

// The packet's sender as the answer's destination. False: it must not be answered.
bool start_answer(Evaluation& at, Flow& flow) {
    const Packet& packet = *at.packet;
    IpAddress source, destination;
    if (!read_addresses(packet, at.hook.v6, source, destination) || source.is_any() ||
        source.is_multicast() || source.is_limited_broadcast() || at.fragment_offset != 0 ||
        destination.is_multicast() || destination.is_limited_broadcast() ||
        packet.kind == PacketKind::Broadcast || packet.kind == PacketKind::Multicast)
        return false;
    flow.source = destination;
    flow.destination = source;
    flow.any_source = true;
    if (source.is_v6() && source.is_link_local() && at.hook.in != nullptr)
        flow.interface = at.hook.in->index();
    return true;
}

bool is_icmp_error(const Evaluation& at) {
    u8 type = 0;
    if (at.protocol != proto_icmp && at.protocol != proto_icmpv6)
        return false;
    if (!at.packet->read(at.transport, type))
        return true;
    if (at.protocol == proto_icmpv6)
        return type < 128;
    return type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

} // namespace

void send_unreachable(Evaluation& at, u8 code) {
    Flow flow;
    if (is_icmp_error(at) || !start_answer(at, flow))
        return;
    const bool v6 = at.hook.v6;
    if (!at.stack.may_send_icmp(flow.destination, true))
        return;
    // From an address of ours, unless the packet was to one.
    if (!at.stack.is_local(flow.source)) {
        flow.source = IpAddress::any(v6);
        flow.any_source = false;
    }
    flow.protocol = v6 ? proto_icmpv6 : proto_icmp;
    if (!resolve(at.stack, flow))
        return;
    constexpr u32 most4 = 576 - 28, most6 = 1280 - 48;
    const u32 most = v6 ? most6 : most4;
    const u32 quoted = at.packet->length() < most ? at.packet->length() : most;
    PacketPtr answer = Packet::allocate(static_cast<u32>(sizeof(IcmpHeader)) + quoted);
    if (!answer)
        return;
    u8* to = answer->put(static_cast<u32>(sizeof(IcmpHeader)) + quoted);
    if (to == nullptr || !at.packet->copy_out(0, to + sizeof(IcmpHeader), quoted))
        return;
    IcmpHeader header{};
    header.type = v6 ? 1 : 3;
    header.code = code;
    __builtin_memcpy(to, &header, sizeof header);
    ChecksumSum sum;
    if (v6)
        sum = flow_pseudo_header(flow, answer->length());
    answer->add_to(sum, 0, answer->length());
    const u16 value = sum.finish();
    __builtin_memcpy(to + icmp_checksum_field, &value, sizeof value);
    (void)ip_output(at.stack, flow, std::move(answer));
}

void send_reset(Evaluation& at) {
    TcpHeader header;
    Flow flow;
    if (at.protocol != proto_tcp || !at.has_transport || !at.packet->read(at.transport, header) ||
        (header.flags & TcpHeader::rst) != 0 || header.header_bytes() < sizeof header ||
        at.transport + header.header_bytes() > at.packet->length() || !start_answer(at, flow))
        return;
    flow.protocol = proto_tcp;
    flow.source_port = header.destination.get();
    flow.destination_port = header.source.get();
    TcpHeader answer{};
    answer.source = header.destination;
    answer.destination = header.source;
    answer.length_reserved = sizeof answer / 4 << 4;
    if ((header.flags & TcpHeader::ack) != 0) {
        answer.sequence = header.acknowledgement;
        answer.flags = TcpHeader::rst;
    } else {
        const u32 bytes = at.packet->length() - at.transport - header.header_bytes() +
                          ((header.flags & TcpHeader::syn) != 0 ? 1 : 0) +
                          ((header.flags & TcpHeader::fin) != 0 ? 1 : 0);
        answer.acknowledgement.set(header.sequence.get() + bytes);
        answer.flags = TcpHeader::rst | TcpHeader::ack;
    }
    PacketPtr packet = Packet::allocate(0);
    if (!packet || !resolve(at.stack, flow))
        return;
    packet->push_header(answer);
    packet->start_checksum(flow_pseudo_header(flow, sizeof answer), 0, tcp_checksum_field);
    // Of the connection that it answers, whose translation it needs.
    packet->connection = at.packet->connection;
    if (packet->connection && tracking_of(*at.packet) != Tracking::Untracked)
        packet->tracking =
            static_cast<u8>(static_cast<u8>(Tracking::Established) |
                            ((at.packet->tracking & tracking_reply) != 0 ? 0 : tracking_reply));
    (void)ip_output(at.stack, flow, std::move(packet));
}

} // namespace kernel::net::filter
