// IPv4 input: RFC 791, RFC 1122.
#include <linux/errno.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/raw.hpp"
#include "guestkernel/net/reassembly.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

u32 check_options(std::span<const u8> options, bool& source_route) {
    constexpr u32 base = sizeof(Ipv4Header);
    source_route = false;
    for (u32 at = 0; at < options.size();) {
        const u8 kind = options[at];
        if (kind == 0) // end of the list
            return 0;
        if (kind == 1) {
            at++;
            continue;
        }
        if (options.size() - at < 2)
            return base + at;
        const u32 size = options[at + 1];
        if (size < 2 || size > options.size() - at)
            return base + at + 1;
        if (kind == 131 || kind == 137) // loose and strict source routes
            source_route = true;
        if ((kind == 131 || kind == 137 || kind == 7 || kind == 68) &&
            (size < (kind == 68 ? 4u : 3u)))
            return base + at + 1;
        at += size;
    }
    return 0;
}

namespace {

enum class Fate : u8 { Drop, Deliver, Forward };

// Whom an IPv4 packet is for. `info` gets whether it went to many.
Fate decide(Stack& stack, Packet& packet, const IpAddress& source, const IpAddress& destination) {
    Interface& in = *packet.ingress;
    if (packet.local)
        return Fate::Deliver;
    if (source.is_multicast() || source.is_limited_broadcast())
        return Fate::Drop;
    if ((source.is_loopback() || destination.is_loopback()) && !in.is_loopback() &&
        !stack.settings.either(in, &Interface::Settings::route_localnet))
        return Fate::Drop;
    if (destination.is_limited_broadcast() || (destination.is_any() && source.is_any()))
        return Fate::Deliver;
    if (destination.is_multicast())
        return stack.in_group(in, destination, &source) ? Fate::Deliver : Fate::Drop;
    if (stack.is_local(destination))
        return packet.kind == PacketKind::Host || packet.looped ? Fate::Deliver : Fate::Drop;
    // A broadcast address of a network here, or something for others.
    RouteKey key;
    key.destination = destination;
    key.source = source;
    key.in = &in;
    key.mark = packet.mark;
    SpinGuard guard(stack.lock);
    auto found = stack.routes().find_in(table_local, key, stack.now());
    if (found && found->route->type == RouteType::Broadcast)
        return found->hop->interface.get() == &in ? Fate::Deliver : Fate::Drop;
    if (found)
        return packet.kind == PacketKind::Host ? Fate::Deliver : Fate::Drop;
    return packet.kind == PacketKind::Host ? Fate::Forward : Fate::Drop;
}

// Whether an answer to the source would leave by the interface the packet came in by (RFC 3704).
bool plausible_source(Stack& stack, Packet& packet, const IpAddress& source) {
    Interface& in = *packet.ingress;
    const StackSettings& settings = stack.settings;
    const u8 mode = settings.greater(in, &Interface::Settings::rp_filter);
    if (mode == 0 || packet.local || source.is_any() || packet.looped)
        return true;
    RouteKey key;
    key.destination = source;
    if (settings.either(in, &Interface::Settings::src_valid_mark))
        key.mark = packet.mark;
    SpinGuard guard(stack.lock);
    auto found = stack.routes().find(key, stack.now());
    if (!found)
        return false;
    if (found->route->type != RouteType::Unicast)
        return settings.either(in, &Interface::Settings::accept_local) &&
               found->route->type == RouteType::Local;
    if (mode == 2)
        return true;
    for (const NextHop& hop : found->route->hops)
        if (hop.interface.get() == &in)
            return true;
    return false;
}

// log_martians: what cannot have come from where it says. Ten in five seconds, like Linux: whoever
// sends them must not fill the log.
void log_martian(const Interface& in, const IpAddress& source, const IpAddress& destination) {
    constexpr u64 interval = 5 * nanoseconds_per_second;
    constexpr u32 burst = 10;
    static constinit SpinLock lock{LockRank::Leaf};
    static constinit u64 since = 0;
    static constinit u32 told = 0;
    {
        SpinGuard guard(lock);
        const u64 time = monotonic_ns();
        if (since == 0 || time - since > interval) {
            since = time;
            told = 0;
        }
        if (told >= burst)
            return;
        told++;
    }
    const u8* to = destination.wire();
    const u8* from = source.wire();
    log::warning("martian source {}.{}.{}.{} from {}.{}.{}.{}, on dev {}", u32{to[0]}, u32{to[1]},
                 u32{to[2]}, u32{to[3]}, u32{from[0]}, u32{from[1]}, u32{from[2]}, u32{from[3]},
                 in.name());
}

void count_many(Stack& stack, Counter packets, Counter bytes, const Packet& packet) {
    stack.counters.count(packets);
    stack.counters.count(bytes, packet.length());
}

// Checks and trims. False: malformed.
bool check_header(Stack& stack, Packet& packet, Ipv4Header& header) {
    if (!packet.read(0, header) || header.version_length >> 4 != 4)
        return false;
    const u32 bytes = header.header_bytes();
    if (bytes < sizeof header || packet.linear(bytes) == nullptr)
        return false;
    if (!packet.local && checksum(packet.data(), bytes) != 0) {
        stack.counters.count(Counter::IpInChecksumErrors);
        return false;
    }
    const u32 total = header.total_length.get();
    if (total < bytes)
        return false;
    if (!packet.trim(total)) {
        stack.counters.count(Counter::IpInTruncated);
        return false;
    }
    if (bytes == sizeof header)
        return true;
    bool source_route = false;
    const u32 wrong = check_options(
        std::span<const u8>(packet.data() + sizeof header, bytes - sizeof header), source_route);
    if (wrong != 0) {
        send_icmp_error(stack, packet, IcmpProblem::ParameterProblem, wrong);
        return false;
    }
    if (source_route) { // refused, as everywhere today
        stack.counters.count(Counter::IpInDiscards);
        return false;
    }
    return true;
}

} // namespace

void ipv4_input(Stack& stack, PacketPtr packet) {
    stack.counters.count(Counter::IpInReceives);
    Ipv4Header header;
    if (!check_header(stack, *packet, header)) {
        stack.counters.count(Counter::IpInHeaderErrors);
        return;
    }
    stack.counters.count(Counter::IpInBytes, packet->length());
    stack.counters.count(
        static_cast<Counter>(static_cast<u8>(Counter::IpInEcn) + (header.traffic_class & 3)));
    if (stack.hooked(HookPoint::PreRouting)) {
        const HookContext context{HookPoint::PreRouting, false, packet->ingress, nullptr, nullptr};
        if (!stack.run_hook(context, packet))
            return;
        if (!packet->read(0, header)) // addresses may be others now
            return;
    }
    const IpAddress source = IpAddress::v4(header.source.get());
    const IpAddress destination = IpAddress::v4(header.destination.get());
    const Fate fate = decide(stack, *packet, source, destination);
    const bool plausible = plausible_source(stack, *packet, source);
    if (!plausible && stack.settings.either(*packet->ingress, &Interface::Settings::log_martians))
        log_martian(*packet->ingress, source, destination);
    if (fate == Fate::Drop || !plausible) {
        stack.counters.count(plausible ? Counter::IpInAddressErrors : Counter::IpReversePathFilter);
        return;
    }
    if (destination.is_multicast())
        count_many(stack, Counter::IpInMulticast, Counter::IpInMulticastBytes, *packet);
    else if (packet->kind == PacketKind::Broadcast || destination.is_limited_broadcast())
        count_many(stack, Counter::IpInBroadcast, Counter::IpInBroadcastBytes, *packet);
    if (fate == Fate::Forward)
        forward(stack, std::move(packet), source, destination);
    else
        ipv4_deliver(stack, std::move(packet), header);
}

PacketPtr ipv4_reassemble(Stack& stack, PacketPtr packet, Ipv4Header& header) {
    const u16 word = header.fragment.get();
    Reassembly::Piece piece;
    piece.source = IpAddress::v4(header.source.get());
    piece.destination = IpAddress::v4(header.destination.get());
    piece.id = header.id.get();
    piece.protocol = header.protocol;
    piece.offset = (word & Ipv4Header::offset_mask) * 8u;
    piece.more = (word & Ipv4Header::more_fragments) != 0;
    piece.header_bytes = header.header_bytes();
    piece.traffic_class = header.traffic_class;
    packet = stack.reassembly().add(std::move(packet), piece);
    if (!packet || !packet->read(0, header))
        return {};
    header.fragment.set(0);
    header.total_length.set(static_cast<u16>(packet->length()));
    (void)packet->write(0, header);
    set_header_checksum(*packet, header.header_bytes());
    return packet;
}

void ipv4_deliver(Stack& stack, PacketPtr packet, const Ipv4Header& received) {
    Ipv4Header header = received;
    if (header.is_fragment()) {
        packet = ipv4_reassemble(stack, std::move(packet), header);
        if (!packet)
            return;
    }
    if (stack.hooked(HookPoint::Input)) {
        const HookContext context{HookPoint::Input, false, packet->ingress, nullptr, nullptr};
        if (!stack.run_hook(context, packet) || !packet->read(0, header))
            return;
    }
    packet->forget_connection(); // what waits in a socket keeps none
    IpInfo info;
    info.source = IpAddress::v4(header.source.get());
    info.destination = IpAddress::v4(header.destination.get());
    info.interface = packet->ingress;
    info.protocol = header.protocol;
    info.traffic_class = header.traffic_class;
    info.hop_limit = header.ttl;
    info.multicast = info.destination.is_multicast();
    info.broadcast = !info.multicast && (packet->kind == PacketKind::Broadcast ||
                                         info.destination.is_limited_broadcast());
    const u32 bytes = header.header_bytes();
    info.options_offset = sizeof header;
    info.options_length = bytes - static_cast<u32>(sizeof header);
    if (!packet->pull(bytes))
        return;
    packet->mark_transport();
    if (deliver_transport(stack, packet, info)) {
        stack.counters.count(Counter::IpInDelivers);
        return;
    }
    stack.counters.count(Counter::IpInUnknownProtocols);
    packet->restore_network();
    send_icmp_error(stack, *packet, IcmpProblem::ProtocolUnreachable);
}

bool deliver_transport(Stack& stack, PacketPtr& packet, const IpInfo& info) {
    const bool raw = !stack.raw_sockets().empty() && stack.raw_sockets().deliver(*packet, info);
    const TransportProtocol* protocol = find_transport(info.protocol);
    if (protocol == nullptr)
        return raw;
    // ICMP is of one version.
    if ((info.protocol == proto_icmp && info.v6()) || (info.protocol == proto_icmpv6 && !info.v6()))
        return raw;
    protocol->input(stack, std::move(packet), info);
    return true;
}

bool verify_checksum(Packet& packet, const IpInfo& info, u32 length, bool pseudo) {
    if (packet.checksum_known_good())
        return true;
    if (length > packet.length())
        return false;
    ChecksumSum sum;
    if (pseudo)
        sum = pseudo_header(info.source, info.destination, info.protocol, length);
    packet.add_to(sum, 0, length);
    if (sum.finish() != 0)
        return false;
    packet.checksum_state = ChecksumState::Verified;
    return true;
}

// --- forwarding, both versions

namespace {

bool may_forward(Stack& stack, const Packet& packet, bool v6) {
    const Interface& in = *packet.ingress;
    return v6 ? stack.settings.forwarding6 || in.settings.forwarding6
              : stack.settings.forwarding4 || in.settings.forwarding4;
}

// One hop less. False: none is left.
bool take_hop(Packet& packet, bool v6) {
    if (v6) {
        Ipv6Header header;
        if (!packet.read(0, header) || header.hop_limit <= 1)
            return false;
        header.hop_limit--;
        return packet.write(0, header);
    }
    Ipv4Header header;
    if (!packet.read(0, header) || header.ttl <= 1)
        return false;
    header.ttl--;
    u16 old_sum = 0;
    __builtin_memcpy(&old_sum, header.checksum, sizeof old_sum);
    // TTL is the first byte of its word, and memory order is what the sum is made of.
    const u16 protocol = static_cast<u16>(header.protocol << 8);
    const u16 sum = checksum_after(old_sum, static_cast<u16>((header.ttl + 1) | protocol),
                                   static_cast<u16>(header.ttl | protocol));
    __builtin_memcpy(header.checksum, &sum, sizeof sum);
    return packet.write(0, header);
}

u8 traffic_class_of(const Packet& packet, bool v6) {
    Ipv4Header four{};
    Ipv6Header six{};
    if (v6)
        return packet.read(0, six) ? six.traffic_class() : u8{0};
    return packet.read(0, four) ? four.traffic_class : u8{0};
}

// Of segments that came in as one: what cuts them has to know where their headers end, and finds
// those in the linear part. False: malformed.
bool find_transport(Packet& packet, bool v6) {
    if (packet.segmentation == Segmentation::None)
        return true;
    u32 at = 0;
    Ipv4Header four{};
    if (v6) {
        Ipv6Chain chain;
        u32 problem_offset = 0;
        if (walk_extensions(packet, chain, problem_offset) != ChainProblem::None || chain.fragment)
            return false;
        at = chain.offset;
    } else {
        if (!packet.read(0, four))
            return false;
        at = four.header_bytes();
    }
    u32 bytes = sizeof(UdpHeader);
    if (packet.segmentation != Segmentation::Udp) {
        TcpHeader tcp;
        if (!packet.read(at, tcp))
            return false;
        bytes = tcp.header_bytes();
    }
    if (packet.linear(at + bytes) == nullptr)
        return false;
    packet.mark_transport(at);
    return true;
}

} // namespace

void forward(Stack& stack, PacketPtr packet, const IpAddress& source,
             const IpAddress& destination) {
    const bool v6 = destination.is_v6();
    if (!may_forward(stack, *packet, v6)) {
        stack.counters.count(v6 ? Counter::Ip6InAddressErrors : Counter::IpInAddressErrors);
        return;
    }
    if (source.is_any() || source.is_loopback() || destination.is_link_local() ||
        (v6 && source.is_link_local()))
        return;
    Flow flow;
    flow.source = source;
    flow.destination = destination;
    flow.mark = packet->mark;
    flow.in = packet->ingress;
    flow.traffic_class = traffic_class_of(*packet, v6);
    flow.any_source = true;
    if (auto found = resolve(stack, flow); !found) {
        stack.counters.count(v6 ? Counter::Ip6InNoRoutes : Counter::IpInNoRoutes);
        send_icmp_error(stack, *packet,
                        found.error().code == EACCES         ? IcmpProblem::Prohibited
                        : found.error().code == EHOSTUNREACH ? IcmpProblem::HostUnreachable
                                                             : IcmpProblem::NoRoute);
        return;
    }
    if (flow.path.type != RouteType::Unicast)
        return;
    if (!take_hop(*packet, v6)) {
        send_icmp_error(stack, *packet, IcmpProblem::TimeExceeded);
        return;
    }
    bool may_cut = !v6;
    if (!v6) {
        Ipv4Header header;
        may_cut =
            packet->read(0, header) && (header.fragment.get() & Ipv4Header::dont_fragment) == 0;
    }
    if (!find_transport(*packet, v6))
        return;
    if (largest_piece(*packet) > flow.path.mtu && !may_cut) {
        stack.counters.count(v6 ? Counter::Ip6InTooBig : Counter::IpFragmentFailed);
        send_icmp_error(stack, *packet, IcmpProblem::TooBig, flow.path.mtu);
        return;
    }
    if (stack.hooked(HookPoint::Forward)) {
        const HookContext context{HookPoint::Forward, v6, packet->ingress,
                                  flow.path.interface.get(), &flow};
        if (!stack.run_hook(context, packet))
            return;
    }
    stack.counters.count(v6 ? Counter::Ip6OutForwarded : Counter::IpForwarded);
    // The fragments may be shared with taps; headers are written in the linear part only.
    packet->local = false;
    packet->kind = PacketKind::Host;
    flow.hop_limit = 1;
    (void)finish_output(stack, flow, std::move(packet), !may_cut);
}

} // namespace kernel::net
