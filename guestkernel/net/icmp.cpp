// ICMP for IPv4: RFC 792, RFC 1122, RFC 1191; and what both versions' errors share.
#include <linux/errno.h>
#include <linux/icmp.h>

#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/raw.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

namespace {

constexpr u32 quoted_bytes = 576; // of the whole message at most (RFC 1812, 4.3.2.3)

bool is_error(u8 type) {
    return type == ICMP_DEST_UNREACH || type == ICMP_SOURCE_QUENCH || type == ICMP_REDIRECT ||
           type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETERPROB;
}

struct Unreachable {
    int error;
    bool hard;
};
// By code: icmp_err_convert of Linux, which is RFC 1122, 4.2.3.9 with later codes.
constexpr Unreachable unreachable[] = {
    {ENETUNREACH, false},  {EHOSTUNREACH, false}, {ENOPROTOOPT, true},  {ECONNREFUSED, true},
    {EMSGSIZE, false},     {EOPNOTSUPP, false},   {ENETUNREACH, true},  {EHOSTDOWN, true},
    {ENONET, true},        {ENETUNREACH, true},   {EHOSTUNREACH, true}, {ENETUNREACH, false},
    {EHOSTUNREACH, false}, {EHOSTUNREACH, true},  {EHOSTUNREACH, true}, {EHOSTUNREACH, true},
};

void reply_echo(Stack& stack, PacketPtr packet, const IpInfo& info, u8 type) {
    if (stack.settings.echo_ignore_all ||
        ((info.broadcast || info.multicast) && stack.settings.echo_ignore_broadcasts))
        return;
    PacketPtr answer = Packet::allocate(0);
    if (!answer || !answer->share_range(*packet, 0, packet->length()) ||
        answer->linear(sizeof(IcmpHeader)) == nullptr)
        return;
    IcmpHeader header;
    if (!answer->read(0, header))
        return;
    header.type = type;
    header.checksum[0] = header.checksum[1] = 0;
    (void)answer->write(0, header);
    ChecksumSum sum;
    answer->add_to(sum, 0, answer->length());
    const u16 result = sum.finish();
    __builtin_memcpy(answer->data() + icmp_checksum_field, &result, sizeof result);
    Flow flow;
    flow.destination = info.source;
    flow.source = info.broadcast || info.multicast ? IpAddress::v4_any() : info.destination;
    flow.protocol = proto_icmp;
    flow.traffic_class = info.traffic_class & 0xfc;
    flow.mark = packet->mark;
    (void)ip_output(stack, flow, std::move(answer));
}

// An error about one of our packets: what it quotes is believed only as far as it is there.
void take_error(Stack& stack, Packet& packet, const IpInfo& info, const IcmpHeader& header) {
    Ipv4Header quoted;
    constexpr u32 at = sizeof(IcmpHeader);
    if (!packet.read(at, quoted) || quoted.version_length >> 4 != 4 ||
        quoted.header_bytes() < sizeof quoted ||
        (quoted.fragment.get() & Ipv4Header::offset_mask) != 0) {
        stack.counters.count(Counter::IcmpInErrors);
        return;
    }
    IcmpNotice notice;
    notice.source = IpAddress::v4(quoted.source.get());
    notice.destination = IpAddress::v4(quoted.destination.get());
    notice.reporter = info.source;
    notice.interface = info.interface;
    notice.protocol = quoted.protocol;
    notice.type = header.type;
    notice.code = header.code;
    notice.packet = &packet;
    notice.transport_offset = at + quoted.header_bytes();
    if (!stack.is_local(notice.source))
        return;
    switch (header.type) {
    case ICMP_DEST_UNREACH:
        if (header.code >= sizeof unreachable / sizeof unreachable[0])
            return;
        notice.error = unreachable[header.code].error;
        notice.hard = unreachable[header.code].hard;
        if (header.code == ICMP_FRAG_NEEDED) {
            notice.mtu = u32{header.rest[2]} << 8 | header.rest[3];
            if (stack.settings.no_pmtu_disc != 0)
                return;
        }
        break;
    case ICMP_TIME_EXCEEDED:
        notice.error = EHOSTUNREACH;
        break;
    case ICMP_PARAMETERPROB:
        notice.error = EPROTO;
        notice.hard = true;
        break;
    default:
        return; // source quench: RFC 6633; redirects need trust in the link
    }
    notify_transport(stack, notice);
}

void input(Stack& stack, PacketPtr packet, const IpInfo& info) {
    stack.counters.count(Counter::IcmpInMessages);
    IcmpHeader header;
    if (!packet->read(0, header)) {
        stack.counters.count(Counter::IcmpInErrors);
        return;
    }
    if (!verify_checksum(*packet, info, packet->length(), false)) {
        stack.counters.count(Counter::IcmpInErrors);
        stack.counters.count(Counter::IcmpInChecksumErrors);
        return;
    }
    stack.counters.count_icmp(false, false, header.type);
    if (header.type == ICMP_ECHO) {
        reply_echo(stack, std::move(packet), info, ICMP_ECHOREPLY);
    } else if (header.type == ICMP_ECHOREPLY) {
        ping_reply(stack, std::move(packet), info);
    } else if (is_error(header.type)) {
        take_error(stack, *packet, info, header);
    }
}

struct Answer {
    u8 type, code;
    u32 detail; // the second word of the header
};

bool answer_for(IcmpProblem problem, u32 detail, Answer& out) {
    switch (problem) {
    case IcmpProblem::PortUnreachable:
        out = {ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0};
        return true;
    case IcmpProblem::ProtocolUnreachable:
    case IcmpProblem::UnknownNextHeader:
        out = {ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0};
        return true;
    case IcmpProblem::HostUnreachable:
        out = {ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0};
        return true;
    case IcmpProblem::NetUnreachable:
    case IcmpProblem::NoRoute:
        out = {ICMP_DEST_UNREACH, ICMP_NET_UNREACH, 0};
        return true;
    case IcmpProblem::Prohibited:
        out = {ICMP_DEST_UNREACH, ICMP_PKT_FILTERED, 0};
        return true;
    case IcmpProblem::TooBig:
        out = {ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, detail & 0xffff};
        return true;
    case IcmpProblem::TimeExceeded:
        out = {ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0};
        return true;
    case IcmpProblem::ReassemblyTime:
        out = {ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0};
        return true;
    case IcmpProblem::ParameterProblem:
        out = {ICMP_PARAMETERPROB, 0, detail << 24};
        return true;
    case IcmpProblem::SourceRouteFailed:
        out = {ICMP_DEST_UNREACH, ICMP_SR_FAILED, 0};
        return true;
    case IcmpProblem::UnknownOption:
        return false;
    }
    return false;
}

// Where an error about a packet comes from: where that was sent to, if it is us; else, by the
// program's choice, the interface that it came in by. Any: the way out decides.
IpAddress error_source(Stack& stack, const Packet& packet, const IpAddress& from,
                       const IpAddress& to) {
    if (stack.is_local(to))
        return to;
    if (stack.settings.icmp_errors_by_inbound && packet.ingress != nullptr)
        return stack.select_source(*packet.ingress, from);
    return IpAddress::v4_any();
}

void send_error4(Stack& stack, Packet& packet, IcmpProblem problem, u32 detail) {
    Ipv4Header quoted;
    Answer answer{};
    if (!packet.read(0, quoted) || !answer_for(problem, detail, answer))
        return;
    const IpAddress source = IpAddress::v4(quoted.source.get());
    const IpAddress destination = IpAddress::v4(quoted.destination.get());
    if (!may_answer(packet, source, destination) ||
        (quoted.fragment.get() & Ipv4Header::offset_mask) != 0)
        return;
    if (quoted.protocol == proto_icmp) {
        u8 type = 0;
        if (!packet.read(quoted.header_bytes(), type) || is_error(type) || type > 18)
            return;
    }
    // No link is spared by not telling ourselves.
    const bool limited =
        (stack.settings.icmp_rate_mask >> answer.type & 1) != 0 && !stack.is_local(source);
    if (!stack.may_send_icmp(source, limited)) {
        stack.counters.count(Counter::IcmpOutRateLimited);
        return;
    }
    PacketPtr message = Packet::allocate(sizeof(IcmpHeader) + quoted_bytes);
    if (!message)
        return;
    IcmpHeader header{};
    header.type = answer.type;
    header.code = answer.code;
    const Be32 rest(answer.detail);
    __builtin_memcpy(header.rest, &rest, sizeof rest);
    if (!message->append(&header, sizeof header))
        return;
    const u32 room = quoted_bytes - sizeof(Ipv4Header) - sizeof header;
    const u32 bytes = packet.length() < room ? packet.length() : room;
    u8* quote = message->put(bytes);
    if (quote == nullptr || !packet.copy_out(0, quote, bytes))
        return;
    const u16 sum = checksum(message->data(), message->length());
    __builtin_memcpy(message->data() + icmp_checksum_field, &sum, sizeof sum);
    Flow flow;
    flow.destination = source;
    flow.source = error_source(stack, packet, source, destination);
    flow.protocol = proto_icmp;
    flow.traffic_class = static_cast<u8>((quoted.traffic_class & 0x1e) | 0xc0); // RFC 1812, 4.3.2.5
    flow.mark = packet.mark;
    // A router without any address of IPv4 has that of RFC 7600.
    constexpr u32 dummy_address = 0xc000'0008;
    if (resolve(stack, flow) && flow.source.is_any())
        flow.source = IpAddress::v4(dummy_address);
    (void)ip_output(stack, flow, std::move(message));
}

} // namespace

const TransportProtocol icmp_protocol = {proto_icmp, input, nullptr, nullptr};

// RFC 1122, 3.2.2; RFC 4443, 2.4 (e).
bool may_answer(const Packet& packet, const IpAddress& source, const IpAddress& destination) {
    if (packet.kind != PacketKind::Host && packet.kind != PacketKind::Outgoing)
        return false;
    if (source.is_any() || source.is_multicast() || source.is_limited_broadcast())
        return false;
    return !destination.is_multicast() && !destination.is_limited_broadcast();
}

void send_icmp_error(Stack& stack, Packet& packet, IcmpProblem problem, u32 detail) {
    if (packet.has_network() && packet.network_offset() < 0)
        packet.restore_network();
    u8 first = 0;
    if (!packet.read(0, first))
        return;
    if (first >> 4 == 6)
        send_icmpv6_error(stack, packet, problem, detail);
    else
        send_error4(stack, packet, problem, detail);
}

void notify_transport(Stack& stack, IcmpNotice& notice) {
    u8 ports[4] = {};
    if (notice.packet->copy_out(notice.transport_offset, ports, sizeof ports)) {
        __builtin_memcpy(&notice.source_port, ports, 2);
        __builtin_memcpy(&notice.destination_port, ports + 2, 2);
    }
    if (notice.error == EMSGSIZE) {
        // Believed within reason: what is smaller than any link's would only slow us down.
        const bool v6 = notice.source.is_v6();
        const u32 least = v6 ? 1280 : stack.settings.min_pmtu;
        const u32 mtu = notice.mtu < least ? least : notice.mtu;
        notice.mtu = mtu;
        const u32 known = stack.path_mtus().find(notice.destination, stack.now());
        if (known == 0 || mtu < known) {
            const u64 patience = u64{stack.settings.mtu_expires_s} * nanoseconds_per_second;
            stack.path_mtus().update(notice.destination, mtu, stack.now() + patience);
            stack.routes_changed();
        }
    }
    if (!stack.raw_sockets().empty())
        stack.raw_sockets().notify(notice);
    const TransportProtocol* protocol = find_transport(notice.protocol);
    if (protocol != nullptr && protocol->error != nullptr)
        protocol->error(stack, notice);
}

} // namespace kernel::net
