// IPv6 input: RFC 8200.
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/raw.hpp"
#include "guestkernel/net/reassembly.hpp"

namespace kernel::net {

namespace {

constexpr u32 most_extensions = 8; // more than anybody needs; each costs the receiver time

// Options of a hop-by-hop or destination header (RFC 8200, 4.2).
ChainProblem check_options6(const Packet& packet, u32 from, u32 bytes, Ipv6Chain& chain,
                            u32& problem_offset) {
    u32 at = from;
    const u32 end = from + bytes;
    while (at < end) {
        u8 type = 0, length = 0;
        if (!packet.read(at, type))
            return ChainProblem::Truncated;
        if (type == 0) { // Pad1
            at++;
            continue;
        }
        if (at + 2 > end || !packet.read(at + 1, length) || at + 2 + length > end)
            return ChainProblem::BadHeader;
        problem_offset = at;
        constexpr u8 padding = 1, router_alert = 5;
        if (type == router_alert) {
            chain.router_alert = true;
        } else if (type != padding) {
            switch (type >> 6) { // what to do with an unknown option
            case 0:
                break;
            case 1:
                return ChainProblem::Silent;
            default:
                return ChainProblem::BadOption;
            }
        }
        at += 2u + length;
    }
    return ChainProblem::None;
}

} // namespace

ChainProblem walk_extensions(Packet& packet, Ipv6Chain& chain, u32& problem_offset) {
    Ipv6Header header;
    if (!packet.read(0, header))
        return ChainProblem::Truncated;
    chain.protocol = header.next_header;
    chain.offset = sizeof header;
    for (u32 count = 0;; count++) {
        const u8 kind = chain.protocol;
        if (kind == proto_fragment) {
            chain.fragment = true;
            return ChainProblem::None;
        }
        if (kind != proto_hop_options && kind != proto_destination_options && kind != proto_routing)
            return ChainProblem::None;
        problem_offset = chain.previous;
        if (count == most_extensions)
            return ChainProblem::Silent;
        if (kind == proto_hop_options && chain.offset != sizeof header)
            return ChainProblem::BadHeader; // only ever first
        u8 fixed[4];
        if (!packet.read(chain.offset, fixed))
            return ChainProblem::Truncated;
        const u32 bytes = (fixed[1] + 1u) * 8;
        if (bytes > packet.length() - chain.offset)
            return ChainProblem::Truncated;
        if (kind == proto_routing) {
            // Nothing to route on: with segments left it is not for us (type 0: RFC 5095).
            problem_offset = chain.offset + 2;
            if (fixed[3] != 0)
                return ChainProblem::BadHeader;
        } else {
            const ChainProblem problem =
                check_options6(packet, chain.offset + 2, bytes - 2, chain, problem_offset);
            if (problem != ChainProblem::None)
                return problem;
        }
        chain.previous = chain.offset;
        chain.protocol = fixed[0];
        chain.offset += bytes;
    }
}

namespace {

// Checks and trims. False: malformed.
bool check_header(Packet& packet, Ipv6Header& header) {
    if (!packet.read(0, header) || header.version_class_label.get() >> 28 != 6 ||
        packet.linear(sizeof header) == nullptr)
        return false;
    const u32 total = header.payload_length.get() + static_cast<u32>(sizeof header);
    return packet.trim(total);
}

bool sane_addresses(const Packet& packet, const IpAddress& source, const IpAddress& destination) {
    if (packet.local)
        return true;
    // IPv4-mapped ones never are on a wire; loopback ones are on no link.
    if (source.is_v4() || destination.is_v4() || source.is_multicast() || destination.is_any())
        return false;
    if ((source.is_loopback() || destination.is_loopback()) && !packet.ingress->is_loopback())
        return false;
    return !(destination.is_multicast() && (destination.bytes()[1] & 0xf) == 0);
}

bool is_tentative_or_own(Stack& stack, const Packet& packet, const IpAddress& destination) {
    const u32 on = destination.is_link_local() ? packet.ingress->index() : 0;
    return stack.is_local(destination, on);
}

void drop_with_answer(Stack& stack, Packet& packet, ChainProblem problem, u32 offset) {
    stack.counters.count(problem == ChainProblem::Truncated ? Counter::Ip6InTruncated
                                                            : Counter::Ip6InHeaderErrors);
    if (problem == ChainProblem::BadOption)
        send_icmp_error(stack, packet, IcmpProblem::UnknownOption, offset);
    else if (problem == ChainProblem::BadHeader)
        send_icmp_error(stack, packet, IcmpProblem::ParameterProblem, offset);
}

// A fragment: null, or the whole packet without its fragment header.
PacketPtr reassemble(Stack& stack, PacketPtr packet, const Ipv6Header& header,
                     const Ipv6Chain& chain) {
    Ipv6Fragment fragment;
    if (!packet->read(chain.offset, fragment)) {
        stack.counters.count(Counter::Ip6InTruncated);
        return {};
    }
    const u16 word = fragment.offset_flags.get();
    Reassembly::Piece piece;
    piece.source = IpAddress::v6(header.source);
    piece.destination = IpAddress::v6(header.destination);
    piece.id = fragment.id.get();
    piece.protocol = 0; // not part of the key here (RFC 8200, 4.5)
    piece.interface = piece.destination.is_link_local() || piece.destination.is_multicast()
                          ? packet->ingress->index()
                          : 0;
    piece.offset = word & 0xfff8u;
    piece.more = (word & 1) != 0;
    piece.header_bytes = chain.offset + static_cast<u32>(sizeof fragment);
    piece.traffic_class = header.traffic_class();
    const u32 bytes = packet->length() - piece.header_bytes;
    if (piece.more && (bytes & 7) != 0) {
        send_icmp_error(stack, *packet, IcmpProblem::ParameterProblem, 4);
        return {};
    }
    PacketPtr whole;
    if (piece.offset == 0 && !piece.more)
        whole = std::move(packet); // atomic: RFC 6946
    else
        whole = stack.reassembly().add(std::move(packet), piece);
    if (!whole)
        return {};
    // The fragment header goes: what stands before it moves up.
    Ipv6Fragment first;
    if (whole->linear(piece.header_bytes) == nullptr || !whole->read(chain.offset, first))
        return {};
    u8* data = whole->data();
    data[chain.previous] = first.next_header;
    __builtin_memmove(data + sizeof first, data, chain.offset);
    if (!whole->pull(sizeof first))
        return {};
    whole->mark_network();
    Ipv6Header fixed;
    if (!whole->read(0, fixed))
        return {};
    fixed.payload_length.set(static_cast<u16>(whole->length() - sizeof fixed));
    (void)whole->write(0, fixed);
    return whole;
}

void deliver6(Stack& stack, PacketPtr packet) {
    Ipv6Header header;
    Ipv6Chain chain;
    for (u32 round = 0;; round++) {
        chain = {};
        u32 problem_offset = 0;
        const ChainProblem problem = walk_extensions(*packet, chain, problem_offset);
        if (problem != ChainProblem::None || !packet->read(0, header)) {
            drop_with_answer(stack, *packet, problem, problem_offset);
            return;
        }
        if (!chain.fragment)
            break;
        if (round > 0) {
            stack.counters.count(Counter::Ip6InHeaderErrors);
            return; // fragments of fragments
        }
        packet = reassemble(stack, std::move(packet), header, chain);
        if (!packet)
            return;
    }
    if (stack.hooked(HookPoint::Input)) {
        const HookContext context{HookPoint::Input, true, packet->ingress, nullptr, nullptr};
        if (!stack.run_hook(context, packet) || !packet->read(0, header))
            return;
    }
    packet->forget_connection(); // what waits in a socket keeps none
    IpInfo info;
    info.source = IpAddress::v6(header.source);
    info.destination = IpAddress::v6(header.destination);
    info.interface = packet->ingress;
    info.protocol = chain.protocol;
    info.traffic_class = header.traffic_class();
    info.hop_limit = header.hop_limit;
    info.flow_label = header.flow_label();
    info.multicast = info.destination.is_multicast();
    if (!packet->pull(chain.offset))
        return;
    packet->mark_transport();
    if (chain.protocol == proto_none || deliver_transport(stack, packet, info)) {
        stack.counters.count(Counter::Ip6InDelivers);
        return;
    }
    stack.counters.count(Counter::Ip6InUnknownProtocols);
    send_icmp_error(stack, *packet, IcmpProblem::UnknownNextHeader, chain.previous);
}

} // namespace

void ipv6_input(Stack& stack, PacketPtr packet) {
    stack.counters.count(Counter::Ip6InReceives);
    if (packet->ingress->settings.disable_ipv6)
        return;
    Ipv6Header header;
    if (!check_header(*packet, header)) {
        stack.counters.count(Counter::Ip6InHeaderErrors);
        return;
    }
    stack.counters.count(Counter::Ip6InBytes, packet->length());
    stack.counters.count(
        static_cast<Counter>(static_cast<u8>(Counter::Ip6InEcn) + (header.traffic_class() & 3)));
    if (stack.hooked(HookPoint::PreRouting)) {
        const HookContext context{HookPoint::PreRouting, true, packet->ingress, nullptr, nullptr};
        if (!stack.run_hook(context, packet) || !packet->read(0, header))
            return;
    }
    const IpAddress source = IpAddress::v6(header.source);
    const IpAddress destination = IpAddress::v6(header.destination);
    if (!sane_addresses(*packet, source, destination)) {
        stack.counters.count(Counter::Ip6InAddressErrors);
        return;
    }
    if (destination.is_multicast()) {
        stack.counters.count(Counter::Ip6InMulticast);
        stack.counters.count(Counter::Ip6InMulticastBytes, packet->length());
    }
    if (packet->local) {
        deliver6(stack, std::move(packet));
    } else if (destination.is_multicast()) {
        if (stack.in_group(*packet->ingress, destination, &source))
            deliver6(stack, std::move(packet));
    } else if (is_tentative_or_own(stack, *packet, destination)) {
        deliver6(stack, std::move(packet));
    } else if (packet->kind == PacketKind::Host) {
        forward(stack, std::move(packet), source, destination);
    }
}

} // namespace kernel::net
