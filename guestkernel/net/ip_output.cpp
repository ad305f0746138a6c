// IP output: headers, hooks, fragments.
#include <linux/errno.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/ip_extensions.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

void set_header_checksum(Packet& packet, u32 header_bytes) {
    u8* header = packet.data();
    __builtin_memset(header + offsetof(Ipv4Header, checksum), 0, 2);
    const u16 sum = checksum(header, header_bytes);
    __builtin_memcpy(header + offsetof(Ipv4Header, checksum), &sum, sizeof sum);
}

namespace {

u8 hop_limit_of(Stack& stack, const Flow& flow) {
    if (flow.hop_limit != 0)
        return flow.hop_limit;
    if (flow.path.hop_limit != 0)
        return flow.path.hop_limit;
    if (flow.destination.is_multicast())
        return 1;
    return flow.destination.is_v6() ? flow.path.interface->settings.hop_limit
                                    : stack.settings.default_ttl;
}

// Requires: headroom.
void push_ipv4(Stack& stack, const Flow& flow, Packet& packet) {
    const u32 options = static_cast<u32>(flow.options.size());
    if (options > 0)
        __builtin_memcpy(packet.push(options), flow.options.data(), options);
    Ipv4Header header;
    const u32 total = packet.length() + static_cast<u32>(sizeof header);
    header.version_length = static_cast<u8>(0x40 | (sizeof header + options) / 4);
    header.traffic_class = flow.traffic_class;
    header.total_length.set(static_cast<u16>(total)); // of segments to come: each gets its own
    const bool whole = flow.dont_fragment || (flow.discover_mtu && total <= flow.path.mtu);
    header.fragment.set(whole ? Ipv4Header::dont_fragment : u16{0});
    const bool atomic = whole && packet.segmentation == Segmentation::None;
    header.id.set(atomic ? u16{0} : stack.next_ip_id()); // RFC 6864
    header.ttl = hop_limit_of(stack, flow);
    header.protocol = flow.protocol;
    header.source.set(flow.source.v4_value());
    header.destination.set(flow.destination.v4_value());
    packet.push_header(header);
    packet.mark_network();
    set_header_checksum(packet, static_cast<u32>(sizeof header) + options);
}

void push_ipv6(Stack& stack, const Flow& flow, Packet& packet) {
    const u32 extensions = static_cast<u32>(flow.options.size());
    if (extensions > 0) {
        u8* chain = packet.push(extensions);
        __builtin_memcpy(chain, flow.options.data(), extensions);
        end_chain({chain, extensions}, flow.protocol);
    }
    Ipv6Header header;
    header.version_class_label.set(6u << 28 | u32{flow.traffic_class} << 20 |
                                   (flow.flow_label & 0xf'ffff));
    header.payload_length.set(static_cast<u16>(packet.length()));
    header.next_header = extensions > 0 ? flow.first_extension : flow.protocol;
    header.hop_limit = hop_limit_of(stack, flow);
    __builtin_memcpy(header.source, flow.source.bytes(), sizeof header.source);
    __builtin_memcpy(header.destination, flow.destination.bytes(), sizeof header.destination);
    packet.push_header(header);
    packet.mark_network();
}

// What goes to a group or to everybody comes back to this machine's own members.
void loop_back(Stack& stack, Flow& flow, const Packet& packet) {
    Interface& interface = *flow.path.interface;
    const bool group = flow.path.type == RouteType::Multicast;
    if (interface.is_loopback() ||
        (group && (!flow.multicast_loop || !stack.in_group(interface, flow.destination))))
        return;
    PacketPtr copy = packet.clone(sizeof(EthernetHeader));
    if (!copy || copy->headroom() < sizeof(EthernetHeader))
        return;
    if (interface.link_header_bytes() != 0) {
        EthernetHeader header;
        header.destination = group ? multicast_mac(flow.destination) : MacAddress::broadcast();
        header.source = interface.mac();
        header.protocol.set(flow.destination.is_v6() ? ether_ipv6 : ether_ip);
        copy->push_header(header);
    }
    copy->looped = true;
    queue_receive(interface, std::move(copy));
}

// In pieces that fit. Segments are datagrams of their own: each is cut for itself.
Result<void> output_cut(Stack& stack, Flow& flow, PacketPtr packet, u32 mtu) {
    PacketList datagrams;
    if (packet->segmentation == Segmentation::Udp) {
        datagrams = segment_packet(std::move(packet), true);
        if (datagrams.empty())
            return fail(ENOBUFS);
    } else {
        packet->finish_checksum();
        datagrams.push_back(std::move(packet));
    }
    while (PacketPtr datagram = datagrams.pop_front()) {
        TRY(PacketList pieces, fragment_packet(stack, std::move(datagram), mtu));
        while (PacketPtr piece = pieces.pop_front())
            TRY(link_output(stack, flow.path, std::move(piece), flow.destination));
    }
    return {};
}

} // namespace

u32 largest_piece(const Packet& packet) {
    if (packet.segmentation == Segmentation::None)
        return packet.length();
    u32 headers = static_cast<u32>(packet.transport_offset() - packet.network_offset());
    if (packet.segmentation == Segmentation::Udp)
        return headers + static_cast<u32>(sizeof(UdpHeader)) + packet.segment_size;
    TcpHeader tcp;
    if (!packet.read(static_cast<u32>(packet.transport_offset()), tcp))
        return packet.length();
    return headers + tcp.header_bytes() + packet.segment_size;
}

namespace {

void count_output(Stack& stack, const Flow& flow, u32 bytes) {
    CounterSet& counters = stack.counters;
    const bool v6 = flow.destination.is_v6();
    counters.count(v6 ? Counter::Ip6OutBytes : Counter::IpOutBytes, bytes);
    if (flow.path.type == RouteType::Multicast) {
        counters.count(v6 ? Counter::Ip6OutMulticast : Counter::IpOutMulticast);
        counters.count(v6 ? Counter::Ip6OutMulticastBytes : Counter::IpOutMulticastBytes, bytes);
    } else if (flow.path.type == RouteType::Broadcast) {
        counters.count(Counter::IpOutBroadcast);
        counters.count(Counter::IpOutBroadcastBytes, bytes);
    }
}

} // namespace

Result<void> finish_output(Stack& stack, Flow& flow, PacketPtr packet, bool whole) {
    const bool v6 = flow.destination.is_v6();
    if (stack.hooked(HookPoint::PostRouting)) {
        const HookContext context{HookPoint::PostRouting, v6, packet->ingress,
                                  flow.path.interface.get(), &flow};
        if (!stack.run_hook(context, packet))
            return {};
    }
    const bool group =
        flow.path.type == RouteType::Multicast || flow.path.type == RouteType::Broadcast;
    count_output(stack, flow, packet->length());
    if (group) {
        loop_back(stack, flow, *packet);
        if (flow.hop_limit == 0 && flow.hop_limit_given)
            return {}; // of a group with a TTL of zero: for this machine only
    }
    const u32 mtu = flow.ignore_path_mtu ? flow.path.interface->mtu() : flow.path.mtu;
    if (largest_piece(*packet) <= mtu)
        return link_output(stack, flow.path, std::move(packet), flow.destination);
    if (whole || packet->segmentation == Segmentation::Tcp4 ||
        packet->segmentation == Segmentation::Tcp6) {
        stack.counters.count(v6 ? Counter::Ip6FragmentFailed : Counter::IpFragmentFailed);
        return fail(EMSGSIZE);
    }
    return output_cut(stack, flow, std::move(packet), mtu);
}

namespace {

IpAddress destination_of(const Packet& packet, bool v6) {
    u8 bytes[16] = {};
    (void)packet.copy_out(v6 ? offsetof(Ipv6Header, destination)
                             : offsetof(Ipv4Header, destination),
                          bytes, v6 ? 16 : 4);
    return IpAddress::from_wire(v6, bytes);
}

// The sender's flow stays as it is: its next packet goes through the hooks again.
Result<void> output_elsewhere(Stack& stack, const Flow& flow, PacketPtr packet, bool whole) {
    Flow other = flow;
    other.destination = destination_of(*packet, flow.destination.is_v6());
    other.mark = packet->mark;
    other.any_source = true;
    other.path = {};
    TRY(resolve(stack, other));
    return finish_output(stack, other, std::move(packet), whole);
}

Result<void> output_by_hooks(Stack& stack, Flow& flow, PacketPtr packet, bool whole) {
    if (!stack.hooked(HookPoint::Output))
        return finish_output(stack, flow, std::move(packet), whole);
    const bool v6 = flow.destination.is_v6();
    // A header of the sender's may name another destination than the way that was asked for.
    const IpAddress before = destination_of(*packet, v6);
    const HookContext context{HookPoint::Output, v6, nullptr, flow.path.interface.get(), &flow};
    if (!stack.run_hook(context, packet))
        return {};
    // What routes are found by is not what it was.
    if (packet->mark != flow.mark || !(destination_of(*packet, v6) == before))
        return output_elsewhere(stack, flow, std::move(packet), whole);
    TRY(resolve(stack, flow));
    return finish_output(stack, flow, std::move(packet), whole);
}

} // namespace

Result<void> output_with_header(Stack& stack, Flow& flow, PacketPtr packet) {
    const bool v6 = flow.destination.is_v6();
    if (packet->length() > (flow.ignore_path_mtu ? flow.path.interface->mtu() : flow.path.mtu)) {
        stack.counters.count(v6 ? Counter::Ip6FragmentFailed : Counter::IpFragmentFailed);
        return fail(EMSGSIZE);
    }
    // Fragments of the sender's that a hook puts together are cut again.
    Ipv4Header header;
    const bool whole =
        v6 || !packet->read(0, header) || (header.fragment.get() & Ipv4Header::dont_fragment) != 0;
    packet->mark_network();
    packet->mark = flow.mark;
    packet->priority = flow.priority;
    return output_by_hooks(stack, flow, std::move(packet), whole);
}

Result<void> ip_output(Stack& stack, Flow& flow, PacketPtr packet) {
    const bool v6 = flow.destination.is_v6();
    if (auto found = resolve(stack, flow); !found) {
        stack.counters.count(v6 ? Counter::Ip6OutNoRoutes : Counter::IpOutNoRoutes);
        return found;
    }
    constexpr u32 most = 65535;
    const u32 header = static_cast<u32>((v6 ? 0 : sizeof(Ipv4Header)) + flow.options.size());
    if (packet->length() + header > most)
        return fail(EMSGSIZE);
    const u32 extensions = v6 ? static_cast<u32>(flow.options.size()) : 0;
    const u32 room = sizeof(EthernetHeader) + sizeof(Ipv6Header) + 40 + extensions;
    constexpr u32 least_linear = 128; // the transport's header, which is changed in place
    if (room > Packet::max_linear() - least_linear)
        return fail(EMSGSIZE);
    if (packet->headroom() < room) {
        packet = Packet::with_headroom(std::move(packet), room);
        if (!packet)
            return fail(ENOBUFS);
    }
    stack.counters.count(v6 ? Counter::Ip6OutRequests : Counter::IpOutRequests);
    packet->mark_transport();
    if (flow.protocol == (v6 ? proto_icmpv6 : proto_icmp)) {
        u8 type = 0;
        if (packet->read(0, type)) {
            stack.counters.count(v6 ? Counter::Icmp6OutMessages : Counter::IcmpOutMessages);
            stack.counters.count_icmp(v6, true, type);
        }
    }
    packet->mark = flow.mark;
    packet->priority = flow.priority;
    if (v6)
        push_ipv6(stack, flow, *packet);
    else
        push_ipv4(stack, flow, *packet);
    return output_by_hooks(stack, flow, std::move(packet), flow.dont_fragment);
}

// --- fragments

namespace {

struct Cut {
    u32 headers = 0; // repeated in each fragment
    u32 step = 0;    // payload bytes, a multiple of 8
};

PacketPtr cut_piece(const Packet& whole, const Cut& cut, u32 done, u32 bytes, u32 extra) {
    constexpr u32 headroom = 64;
    PacketPtr piece = Packet::allocate(cut.headers, headroom + extra);
    if (!piece)
        return {};
    u8* headers = piece->put(cut.headers);
    if (headers == nullptr || !whole.copy_out(0, headers, cut.headers) ||
        !piece->share_range(whole, cut.headers + done, bytes))
        return {};
    piece->mark = whole.mark;
    piece->priority = whole.priority;
    piece->ingress_index = whole.ingress_index;
    return piece;
}

// Options that are not copied into later fragments become NOPs (RFC 791, 3.1).
void blank_options(u8* options, u32 length) {
    for (u32 at = 0; at < length;) {
        const u8 kind = options[at];
        if (kind == 0)
            return;
        if (kind == 1) {
            at++;
            continue;
        }
        const u32 size = at + 1 < length ? options[at + 1] : 0;
        if (size < 2 || size > length - at)
            return;
        if ((kind & 0x80) == 0)
            __builtin_memset(options + at, 1, size);
        at += size;
    }
}

Result<PacketList> fragment4(PacketPtr packet, const Ipv4Header& original, u32 mtu) {
    PacketList out;
    Cut cut;
    cut.headers = original.header_bytes();
    if (cut.headers < sizeof original || mtu < cut.headers + 8 || packet->length() < cut.headers ||
        packet->linear(cut.headers) == nullptr)
        return fail(EMSGSIZE);
    cut.step = (mtu - cut.headers) & ~7u;
    const u32 total = packet->length() - cut.headers;
    const u16 flags = original.fragment.get();
    for (u32 done = 0; done < total; done += cut.step) {
        const u32 bytes = total - done < cut.step ? total - done : cut.step;
        PacketPtr piece = cut_piece(*packet, cut, done, bytes, 0);
        if (!piece)
            return fail(ENOBUFS);
        Ipv4Header header = original;
        const bool more = done + bytes < total || (flags & Ipv4Header::more_fragments) != 0;
        header.total_length.set(static_cast<u16>(piece->length()));
        header.fragment.set(static_cast<u16>((flags & Ipv4Header::offset_mask) + done / 8 +
                                             (more ? Ipv4Header::more_fragments : 0)));
        (void)piece->write(0, header);
        if (done > 0)
            blank_options(piece->data() + sizeof header,
                          cut.headers - static_cast<u32>(sizeof header));
        set_header_checksum(*piece, cut.headers);
        piece->mark_network();
        out.push_back(std::move(piece));
    }
    return out;
}

Result<PacketList> fragment6(PacketPtr packet, const Ipv6Header& original, u32 mtu, u32 id) {
    PacketList out;
    Cut cut;
    u32 previous = 0;
    cut.headers = unfragmentable_bytes(*packet, previous);
    if (mtu < 1280 || mtu < cut.headers + sizeof(Ipv6Fragment) + 8 ||
        packet->linear(cut.headers) == nullptr)
        return fail(EMSGSIZE);
    const u8 divided = packet->data()[previous];
    cut.step = (mtu - cut.headers - static_cast<u32>(sizeof(Ipv6Fragment))) & ~7u;
    const u32 total = packet->length() - cut.headers;
    for (u32 done = 0; done < total; done += cut.step) {
        const u32 bytes = total - done < cut.step ? total - done : cut.step;
        PacketPtr piece = cut_piece(*packet, cut, done, bytes, sizeof(Ipv6Fragment));
        if (!piece)
            return fail(ENOBUFS);
        // The headers move up to make room for one more behind them.
        u8* headers = piece->push(sizeof(Ipv6Fragment));
        __builtin_memmove(headers, headers + sizeof(Ipv6Fragment), cut.headers);
        headers[previous] = proto_fragment;
        Ipv6Fragment fragment;
        fragment.next_header = divided;
        fragment.reserved = 0;
        fragment.offset_flags.set(static_cast<u16>(done | (done + bytes < total ? 1 : 0)));
        fragment.id.set(id);
        (void)piece->write(cut.headers, fragment);
        Ipv6Header header = original;
        header.next_header = headers[offsetof(Ipv6Header, next_header)];
        header.payload_length.set(static_cast<u16>(piece->length() - sizeof header));
        (void)piece->write(0, header);
        piece->mark_network();
        out.push_back(std::move(piece));
    }
    return out;
}

} // namespace

Result<PacketList> fragment_packet(Stack& stack, PacketPtr packet, u32 mtu) {
    u8 first = 0;
    if (!packet->read(0, first))
        return fail(EINVAL);
    const bool v6 = first >> 4 == 6;
    Result<PacketList> out = fail(EINVAL);
    Packet* whole = packet.get();
    if (v6) {
        Ipv6Header header;
        if (whole->read(0, header))
            out = fragment6(std::move(packet), header, mtu,
                            static_cast<u32>(hash_mix(stack.secret() ^ stack.next_ip_id())));
    } else {
        Ipv4Header header;
        if (whole->read(0, header))
            out = fragment4(std::move(packet), header, mtu);
    }
    stack.counters.count(out ? (v6 ? Counter::Ip6Fragmented : Counter::IpFragmented)
                             : (v6 ? Counter::Ip6FragmentFailed : Counter::IpFragmentFailed));
    if (out)
        stack.counters.count(v6 ? Counter::Ip6FragmentsMade : Counter::IpFragmentsMade,
                             out->size());
    return out;
}

} // namespace kernel::net
