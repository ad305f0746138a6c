// UDP input: which socket a datagram is for.
#include "guestkernel/net/udp.hpp"

#include <linux/errno.h>
#include <linux/in.h>

#include "guestkernel/net/ip.hpp"

namespace kernel::net {

namespace {

Counter version(const IpInfo& info, Counter v4, Counter v6) {
    return info.v6() ? v6 : v4;
}

// Checks and trims to the UDP header's length. False: malformed.
bool check_datagram(Stack& stack, Packet& packet, const IpInfo& info, UdpHeader& header) {
    if (!packet.read(0, header)) {
        stack.counters.count(version(info, Counter::UdpInErrors, Counter::Udp6InErrors));
        return false;
    }
    u32 length = header.length.get();
    if (packet.segmentation == Segmentation::Udp)
        length = packet.length(); // of all segments together; each gets its own later
    if (length < sizeof header || !packet.trim(length)) {
        stack.counters.count(version(info, Counter::UdpInErrors, Counter::Udp6InErrors));
        return false;
    }
    const bool without = header.checksum[0] == 0 && header.checksum[1] == 0;
    if (packet.checksum_known_good())
        return true;
    if ((without && !info.v6()) || (!without && verify_checksum(packet, info, length)))
        return true;
    stack.counters.count(version(info, Counter::UdpInErrors, Counter::Udp6InErrors));
    stack.counters.count(
        version(info, Counter::UdpInChecksumErrors, Counter::Udp6InChecksumErrors));
    return false;
}

// UDP-Lite: the length is how far the sum goes (RFC 3828, 3.1); `covered` gets that.
bool check_lite(Stack& stack, Packet& packet, const IpInfo& info, UdpHeader& header, u32& covered) {
    const auto wrong = [&] {
        stack.counters.count(version(info, Counter::UdpInErrors, Counter::Udp6InErrors));
        return false;
    };
    if (!packet.read(0, header) || (header.checksum[0] == 0 && header.checksum[1] == 0))
        return wrong();
    covered = header.length.get() == 0 ? packet.length() : header.length.get();
    if (covered < sizeof header || covered > packet.length())
        return wrong();
    if (packet.checksum_known_good())
        return true;
    ChecksumSum sum = pseudo_header(info.source, info.destination, info.protocol, packet.length());
    packet.add_to(sum, 0, covered);
    return sum.finish() == 0 || wrong();
}

DatagramInfo describe(const IpInfo& info, const UdpHeader& header) {
    DatagramInfo out;
    out.source = info.source;
    out.destination = info.destination;
    out.source_port = header.source.get();
    out.destination_port = header.destination.get();
    out.interface = info.interface->index();
    out.flow_label = info.flow_label;
    out.hop_limit = info.hop_limit;
    out.traffic_class = info.traffic_class;
    return out;
}

PortTable::Key key_of(const IpInfo& info, const UdpHeader& header) {
    return {info.destination,         info.source,
            header.destination.get(), header.source.get(),
            info.interface->index(),  info.protocol == proto_udplite};
}

// To all members, some at a time; true: there was one.
bool deliver_to_many(Stack& stack, const Packet& packet, const IpInfo& info,
                     const UdpHeader& header) {
    constexpr usize at_once = 64;
    PortOwner* held[at_once];
    Ref<UdpEndpoint> last; // of those before
    bool any = false;
    for (;;) {
        const usize found =
            stack.udp_ports.find_all(key_of(info, header), held, at_once, last.get());
        for (usize i = 0; i < found; i++) {
            last = Ref<UdpEndpoint>::adopt(static_cast<UdpEndpoint*>(held[i]));
            if (!last->admits(info.destination, info.source, info.interface->index()))
                continue;
            any = true;
            if (PacketPtr copy = packet.clone())
                last->deliver(std::move(copy), describe(info, header));
        }
        if (found < at_once)
            return any;
    }
}

void input(Stack& stack, PacketPtr packet, const IpInfo& info) {
    UdpHeader header;
    u32 covered = ~u32{0};
    if (info.protocol == proto_udplite ? !check_lite(stack, *packet, info, header, covered)
                                       : !check_datagram(stack, *packet, info, header))
        return;
    if (info.broadcast || info.multicast) {
        if (!deliver_to_many(stack, *packet, info, header))
            stack.counters.count(
                version(info, Counter::UdpIgnoredMulticast, Counter::Udp6IgnoredMulticast));
        return;
    }
    PortTable::Key key = key_of(info, header);
    key.packet = packet.get();
    key.payload = sizeof header;
    if (PortOwner* owner = stack.udp_ports.find(key)) {
        const Ref<UdpEndpoint> endpoint = Ref<UdpEndpoint>::adopt(static_cast<UdpEndpoint*>(owner));
        const u32 least = endpoint->least_coverage;
        if (least != 0 && covered != packet->length() && covered < least)
            return;
        endpoint->deliver(std::move(packet), describe(info, header));
        return;
    }
    stack.counters.count(version(info, Counter::UdpNoPorts, Counter::Udp6NoPorts));
    send_icmp_error(stack, *packet, IcmpProblem::PortUnreachable);
}

void error(Stack& stack, const IcmpNotice& notice) {
    PortTable::Key key;
    key.local = notice.source;
    key.peer = notice.destination;
    key.port = notice.source_port.get();
    key.peer_port = notice.destination_port.get();
    key.interface = notice.interface != nullptr ? notice.interface->index() : 0;
    key.lite = notice.protocol == proto_udplite;
    PortOwner* owner = stack.udp_ports.find(key);
    if (owner == nullptr)
        return;
    const Ref<UdpEndpoint> endpoint = Ref<UdpEndpoint>::adopt(static_cast<UdpEndpoint*>(owner));
    const bool v6 = notice.source.is_v6();
    const bool wants = v6 ? endpoint->wants_errors6 : endpoint->wants_errors4;
    bool hard = notice.hard;
    if (notice.error == EMSGSIZE)
        hard = endpoint->discovers_mtu;
    if (!wants) {
        if (hard && endpoint->connected)
            endpoint->set_error(notice.error);
        return;
    }
    ErrorInfo info{};
    info.number = static_cast<u32>(notice.error);
    info.origin = v6 ? origin_icmp6 : origin_icmp;
    info.type = notice.type;
    info.code = notice.code;
    info.info = notice.mtu;
    info.offender = notice.reporter;
    info.destination = notice.destination;
    info.port = notice.destination_port.get();
    const u32 payload = notice.transport_offset + static_cast<u32>(sizeof(UdpHeader));
    PacketPtr quoted = Packet::allocate(0, 64);
    if (!quoted)
        return;
    if (notice.packet->length() > payload &&
        !quoted->share_range(*notice.packet, payload, notice.packet->length() - payload))
        return;
    endpoint->report(std::move(quoted), info);
    endpoint->set_error(notice.error);
}

} // namespace

const TransportProtocol udp_protocol = {proto_udp, input, error, nullptr};
const TransportProtocol udplite_protocol = {proto_udplite, input, error, nullptr};

void UdpEndpoint::deliver(PacketPtr packet, const DatagramInfo& info) {
    if (min_ttl != 0 && info.hop_limit < min_ttl)
        return;
    if (packet->segmentation == Segmentation::Udp && !receive_segments) {
        // Whole as it travelled here, in the pieces that the sender cut it into.
        packet->restore_network();
        PacketList pieces = segment_packet(std::move(packet), false);
        while (PacketPtr piece = pieces.pop_front()) {
            const i32 header = piece->transport_offset();
            if (header >= 0 && piece->pull(static_cast<u32>(header)))
                deliver(std::move(piece), info);
        }
        return;
    }
    if (filter.present()) {
        const Ref<SocketFilter> program = filter.get();
        if (program) {
            const u32 keep = program->run(*packet);
            if (keep == 0)
                return;
            (void)packet->trim(keep < sizeof(UdpHeader) ? u32{sizeof(UdpHeader)} : keep);
        }
    }
    if (!packet->pull(sizeof(UdpHeader)))
        return;
    const bool v6_packet = info.source.is_v6();
    const bool fits = enqueue(std::move(packet), info);
    CounterSet& counters = stack().counters;
    if (fits) {
        counters.count(v6_packet ? Counter::Udp6InDatagrams : Counter::UdpInDatagrams);
    } else {
        counters.count(v6_packet ? Counter::Udp6ReceiveBufferErrors
                                 : Counter::UdpReceiveBufferErrors);
        counters.count(v6_packet ? Counter::Udp6InErrors : Counter::UdpInErrors);
    }
}

} // namespace kernel::net
