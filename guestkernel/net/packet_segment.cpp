// Segmentation in software: one large packet becomes many.
#include "guestkernel/net/packet.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

// What all segments have in common; offsets from the beginning of the packet's data.
struct Layout {
    u32 network = 0, transport = 0, payload = 0;
    bool v6 = false, tcp = false;
    IpAddress source, destination;
};

bool lay_out(const Packet& packet, Layout& out) {
    if (!packet.has_network() || !packet.has_transport() || packet.network_offset() < 0 ||
        packet.transport_offset() < packet.network_offset() || packet.segment_size == 0)
        return false;
    out.network = static_cast<u32>(packet.network_offset());
    out.transport = static_cast<u32>(packet.transport_offset());
    out.tcp = packet.segmentation != Segmentation::Udp;
    u8 first = 0;
    if (!packet.read(out.network, first))
        return false;
    out.v6 = first >> 4 == 6;
    if (out.v6) {
        Ipv6Header header;
        if (!packet.read(out.network, header))
            return false;
        out.source = IpAddress::v6(header.source);
        out.destination = IpAddress::v6(header.destination);
    } else {
        Ipv4Header header;
        if (!packet.read(out.network, header))
            return false;
        out.source = IpAddress::v4(header.source.get());
        out.destination = IpAddress::v4(header.destination.get());
    }
    u32 transport_bytes = sizeof(UdpHeader);
    if (out.tcp) {
        TcpHeader header;
        if (!packet.read(out.transport, header) || header.header_bytes() < sizeof header)
            return false;
        transport_bytes = header.header_bytes();
    }
    out.payload = out.transport + transport_bytes;
    return out.payload <= packet.linear_length() && out.payload <= packet.length() &&
           out.transport - out.network >= (out.v6 ? sizeof(Ipv6Header) : sizeof(Ipv4Header));
}

// Writes through a packet whose headers are linear, as lay_out() has checked.
template <typename T, typename F>
void change(Packet& packet, u32 offset, F&& function) {
    T header;
    if (!packet.read(offset, header))
        return;
    function(header);
    (void)packet.write(offset, header);
}

void set_lengths(Packet& segment, const Layout& layout, u32 number) {
    const u32 after_network = segment.length() - layout.network;
    if (layout.v6) {
        change<Ipv6Header>(segment, layout.network, [&](Ipv6Header& header) {
            header.payload_length.set(static_cast<u16>(after_network - sizeof header));
        });
    } else {
        change<Ipv4Header>(segment, layout.network, [&](Ipv4Header& header) {
            header.total_length.set(static_cast<u16>(after_network));
            header.id.set(static_cast<u16>(header.id.get() + number));
            header.checksum[0] = header.checksum[1] = 0;
        });
        u8* header = segment.data() + layout.network;
        const u16 sum = checksum(header, layout.transport - layout.network);
        __builtin_memcpy(header + offsetof(Ipv4Header, checksum), &sum, sizeof sum);
    }
    if (layout.tcp)
        return;
    change<UdpHeader>(segment, layout.transport, [&](UdpHeader& header) {
        header.length.set(static_cast<u16>(segment.length() - layout.transport));
    });
}

void set_sequence(Packet& segment, const Layout& layout, u32 done, bool first, bool last) {
    change<TcpHeader>(segment, layout.transport, [&](TcpHeader& header) {
        header.sequence.set(header.sequence.get() + done);
        if (!last)
            header.flags = static_cast<u8>(header.flags & ~(TcpHeader::fin | TcpHeader::psh));
        if (!first)
            header.flags = static_cast<u8>(header.flags & ~TcpHeader::cwr);
    });
}

PacketPtr make_segment(const Packet& whole, const Layout& layout, u32 done, u32 bytes) {
    constexpr u32 headroom = 64; // an outer header may be pushed still
    PacketPtr segment = Packet::allocate(layout.payload, headroom);
    if (!segment)
        return {};
    u8* headers = segment->put(layout.payload);
    if (headers == nullptr || !whole.copy_out(0, headers, layout.payload) ||
        !segment->share_range(whole, layout.payload + done, bytes))
        return {};
    segment->timestamp = whole.timestamp;
    segment->ingress = whole.ingress;
    segment->ingress_index = whole.ingress_index;
    segment->mark = whole.mark;
    segment->hash = whole.hash;
    segment->link_protocol = whole.link_protocol;
    segment->vlan = whole.vlan;
    segment->vlan_present = whole.vlan_present;
    segment->kind = whole.kind;
    segment->priority = whole.priority;
    segment->local = whole.local;
    if (whole.has_link() && whole.link_offset() == 0)
        segment->mark_link();
    segment->mark_transport(layout.transport);
    return segment;
}

} // namespace

PacketList segment_packet(PacketPtr packet, bool finish_checksums) {
    PacketList out;
    Layout layout;
    if (!lay_out(*packet, layout))
        return out;
    const u32 total = packet->length() - layout.payload;
    const u32 size = packet->segment_size;
    u32 number = 0;
    for (u32 done = 0; done < total || number == 0; number++) {
        const u32 bytes = total - done < size ? total - done : size;
        PacketPtr segment = make_segment(*packet, layout, done, bytes);
        if (!segment)
            return {};
        segment->mark_network_at(layout.network);
        set_lengths(*segment, layout, number);
        if (layout.tcp)
            set_sequence(*segment, layout, done, number == 0, done + bytes == total);
        segment->start_checksum(
            pseudo_header(layout.source, layout.destination, layout.tcp ? proto_tcp : proto_udp,
                          segment->length() - layout.transport),
            layout.transport, layout.tcp ? tcp_checksum_field : udp_checksum_field);
        if (finish_checksums)
            segment->finish_checksum();
        out.push_back(std::move(segment));
        done += bytes;
    }
    // What a socket pays for counts until the last segment is gone.
    if (Packet* last = out.back())
        packet->move_charge(*last);
    return out;
}

} // namespace kernel::net
