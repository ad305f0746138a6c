// ICMPv6: RFC 4443.
#include <linux/errno.h>
#include <linux/icmpv6.h>

#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/ndp.hpp"

namespace kernel::net {

namespace {

constexpr u32 quoted_bytes = 1280; // the whole message fits the least MTU

void reply_echo(Stack& stack, PacketPtr packet, const IpInfo& info) {
    if (stack.settings.echo_ignore_all)
        return;
    PacketPtr answer = Packet::allocate(0);
    if (!answer || !answer->share_range(*packet, 0, packet->length()) ||
        answer->linear(sizeof(IcmpHeader)) == nullptr)
        return;
    const u8 type = ICMPV6_ECHO_REPLY;
    (void)answer->write(0, type);
    Flow flow;
    flow.destination = info.source;
    flow.source = info.multicast ? IpAddress() : info.destination;
    flow.protocol = proto_icmpv6;
    flow.traffic_class = info.traffic_class & 0xfc;
    flow.mark = packet->mark;
    if (info.source.is_link_local())
        flow.interface = info.interface->index();
    if (!resolve(stack, flow))
        return;
    answer->start_checksum(flow_pseudo_header(flow, answer->length()), 0, icmp_checksum_field);
    answer->finish_checksum();
    (void)ip_output(stack, flow, std::move(answer));
}

void take_error(Stack& stack, Packet& packet, const IpInfo& info, const IcmpHeader& header) {
    constexpr u32 at = sizeof(IcmpHeader);
    Ipv6Header quoted;
    if (!packet.read(at, quoted) || quoted.version_class_label.get() >> 28 != 6) {
        stack.counters.count(Counter::Icmp6InErrors);
        return;
    }
    // The transport header may stand behind extension headers; a fragment's may be elsewhere.
    PacketPtr inner = packet.clone();
    if (!inner || !inner->pull(at))
        return;
    Ipv6Chain chain;
    u32 problem_offset = 0;
    if (walk_extensions(*inner, chain, problem_offset) != ChainProblem::None)
        return;
    if (chain.fragment) {
        Ipv6Fragment fragment;
        if (!inner->read(chain.offset, fragment) || (fragment.offset_flags.get() & 0xfff8) != 0)
            return;
        chain.protocol = fragment.next_header;
        chain.offset += static_cast<u32>(sizeof fragment);
    }
    IcmpNotice notice;
    notice.source = IpAddress::v6(quoted.source);
    notice.destination = IpAddress::v6(quoted.destination);
    notice.reporter = info.source;
    notice.interface = info.interface;
    notice.protocol = chain.protocol;
    notice.type = header.type;
    notice.code = header.code;
    notice.packet = &packet;
    notice.transport_offset = at + chain.offset;
    if (notice.source.is_v4() || !stack.is_local(notice.source))
        return;
    Be32 word;
    __builtin_memcpy(&word, header.rest, sizeof word);
    switch (header.type) {
    case ICMPV6_DEST_UNREACH: {
        constexpr int errors[] = {ENETUNREACH,  EACCES, EHOSTUNREACH, EHOSTUNREACH,
                                  ECONNREFUSED, EACCES, EACCES};
        if (header.code >= sizeof errors / sizeof errors[0])
            return;
        notice.error = errors[header.code];
        notice.hard = header.code == ICMPV6_PORT_UNREACH || header.code == ICMPV6_ADM_PROHIBITED ||
                      header.code == ICMPV6_POLICY_FAIL || header.code == ICMPV6_REJECT_ROUTE;
        break;
    }
    case ICMPV6_PKT_TOOBIG:
        notice.error = EMSGSIZE;
        notice.mtu = word.get();
        break;
    case ICMPV6_TIME_EXCEED:
        notice.error = EHOSTUNREACH;
        break;
    case ICMPV6_PARAMPROB:
        notice.error = EPROTO;
        notice.hard = true;
        break;
    default:
        return;
    }
    notify_transport(stack, notice);
}

void input(Stack& stack, PacketPtr packet, const IpInfo& info) {
    stack.counters.count(Counter::Icmp6InMessages);
    IcmpHeader header;
    if (!packet->read(0, header)) {
        stack.counters.count(Counter::Icmp6InErrors);
        return;
    }
    if (!verify_checksum(*packet, info, packet->length())) {
        stack.counters.count(Counter::Icmp6InErrors);
        stack.counters.count(Counter::Icmp6InChecksumErrors);
        return;
    }
    stack.counters.count_icmp(true, false, header.type);
    switch (header.type) {
    case ICMPV6_ECHO_REQUEST:
        reply_echo(stack, std::move(packet), info);
        return;
    case ICMPV6_ECHO_REPLY:
        ping_reply(stack, std::move(packet), info);
        return;
    case ICMPV6_DEST_UNREACH:
    case ICMPV6_PKT_TOOBIG:
    case ICMPV6_TIME_EXCEED:
    case ICMPV6_PARAMPROB:
        take_error(stack, *packet, info, header);
        return;
    default:
        ndp_input(stack, *packet, info, header);
        return;
    }
}

struct Answer {
    u8 type, code;
};

Answer answer_for(IcmpProblem problem) {
    switch (problem) {
    case IcmpProblem::PortUnreachable:
        return {ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH};
    case IcmpProblem::HostUnreachable:
        return {ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH};
    case IcmpProblem::NetUnreachable:
    case IcmpProblem::NoRoute:
    case IcmpProblem::SourceRouteFailed:
        return {ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE};
    case IcmpProblem::Prohibited:
        return {ICMPV6_DEST_UNREACH, ICMPV6_ADM_PROHIBITED};
    case IcmpProblem::TooBig:
        return {ICMPV6_PKT_TOOBIG, 0};
    case IcmpProblem::TimeExceeded:
        return {ICMPV6_TIME_EXCEED, ICMPV6_EXC_HOPLIMIT};
    case IcmpProblem::ReassemblyTime:
        return {ICMPV6_TIME_EXCEED, ICMPV6_EXC_FRAGTIME};
    case IcmpProblem::UnknownOption:
        return {ICMPV6_PARAMPROB, ICMPV6_UNK_OPTION};
    case IcmpProblem::ProtocolUnreachable:
    case IcmpProblem::UnknownNextHeader:
        return {ICMPV6_PARAMPROB, ICMPV6_UNK_NEXTHDR};
    case IcmpProblem::ParameterProblem:
        break;
    }
    return {ICMPV6_PARAMPROB, ICMPV6_HDR_FIELD};
}

// RFC 4443, 2.4 (e): errors are not answered, nor are packets to groups but for two cases.
bool may_answer6(Packet& packet, const Ipv6Header& quoted, const Answer& answer) {
    const IpAddress source = IpAddress::v6(quoted.source);
    const IpAddress destination = IpAddress::v6(quoted.destination);
    if (source.is_any() || source.is_multicast() || source.is_v4())
        return false;
    const bool despite_group =
        answer.type == ICMPV6_PKT_TOOBIG ||
        (answer.type == ICMPV6_PARAMPROB && answer.code == ICMPV6_UNK_OPTION);
    if ((destination.is_multicast() || packet.kind == PacketKind::Multicast ||
         packet.kind == PacketKind::Broadcast) &&
        !despite_group)
        return false;
    Ipv6Chain chain;
    u32 ignored = 0;
    if (walk_extensions(packet, chain, ignored) == ChainProblem::None &&
        chain.protocol == proto_icmpv6) {
        u8 type = 0;
        if (!packet.read(chain.offset, type) || type < ICMPV6_INFOMSG_MASK)
            return false;
    }
    return true;
}

// Its errors stay on this machine, and no link is spared by leaving them out.
bool is_own(Stack& stack, const Packet& packet, const IpAddress& source) {
    const u32 on =
        source.is_link_local() && packet.ingress != nullptr ? packet.ingress->index() : 0;
    return stack.is_local(source, on);
}

} // namespace

const TransportProtocol icmpv6_protocol = {proto_icmpv6, input, nullptr, nullptr};

void send_icmpv6_error(Stack& stack, Packet& packet, IcmpProblem problem, u32 detail) {
    Ipv6Header quoted;
    const Answer answer = answer_for(problem);
    if (!packet.read(0, quoted) || !may_answer6(packet, quoted, answer))
        return;
    const IpAddress source = IpAddress::v6(quoted.source);
    const IpAddress destination = IpAddress::v6(quoted.destination);
    const bool limited = answer.type != ICMPV6_PKT_TOOBIG && !is_own(stack, packet, source);
    if (!stack.may_send_icmp(source, limited)) {
        stack.counters.count(Counter::Icmp6OutRateLimited);
        return;
    }
    PacketPtr message = Packet::allocate(quoted_bytes, 128);
    if (!message)
        return;
    IcmpHeader header{};
    header.type = answer.type;
    header.code = answer.code;
    const Be32 word(answer.type == ICMPV6_PKT_TOOBIG || answer.type == ICMPV6_PARAMPROB ? detail
                                                                                        : 0);
    __builtin_memcpy(header.rest, &word, sizeof word);
    constexpr u32 room = quoted_bytes - sizeof(Ipv6Header) - sizeof header;
    const u32 bytes = packet.length() < room ? packet.length() : room;
    if (!message->append(&header, sizeof header))
        return;
    u8* quote = message->put(bytes);
    if (quote == nullptr || !packet.copy_out(0, quote, bytes))
        return;
    Flow flow;
    flow.destination = source;
    flow.source = stack.is_local(destination) ? destination : IpAddress();
    flow.protocol = proto_icmpv6;
    flow.mark = packet.mark;
    if (source.is_link_local() && packet.ingress != nullptr)
        flow.interface = packet.ingress->index();
    if (!resolve(stack, flow))
        return;
    message->start_checksum(flow_pseudo_header(flow, message->length()), 0, icmp_checksum_field);
    message->finish_checksum();
    (void)ip_output(stack, flow, std::move(message));
}

} // namespace kernel::net
