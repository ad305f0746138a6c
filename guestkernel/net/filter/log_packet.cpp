#include "guestkernel/net/filter/log_packet.hpp"

#include "guestkernel/core/log.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/filter/address_type.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

constexpr u32 log_tcp_sequence = 1, log_uid = 8;

class Line {
public:
    template <typename... A>
    void add(std::string_view format, const A&... arguments) {
        if (used_ < sizeof text_)
            used_ += log::format(text_ + used_, sizeof text_ - used_, format, arguments...);
    }
    void add_hex(u64 value, u32 digits) {
        for (u32 i = digits; i-- > 0;)
            add_char("0123456789ABCDEF"[value >> 4 * i & 0xf]);
    }
    void add_char(char c) {
        if (used_ < sizeof text_)
            text_[used_++] = c;
    }
    void add_address(const IpAddress& address) {
        const u8* bytes = address.wire();
        if (address.is_v4()) {
            add("{}.{}.{}.{}", bytes[0], bytes[1], bytes[2], bytes[3]);
            return;
        }
        for (u32 i = 0; i < 16; i += 2) {
            if (i > 0)
                add_char(':');
            for (const u32 shift : {12u, 8u, 4u, 0u})
                add_char("0123456789abcdef"[(u32{bytes[i]} << 8 | bytes[i + 1]) >> shift & 0xf]);
        }
    }
    std::string_view text() const { return {text_, used_}; }

private:
    char text_[480];
    usize used_ = 0;
};

void add_network(Line& line, const Evaluation& at, const IpAddress& source,
                 const IpAddress& destination) {
    const Packet& packet = *at.packet;
    line.add("SRC=");
    line.add_address(source);
    line.add(" DST=");
    line.add_address(destination);
    if (at.hook.v6) {
        Ipv6Header header{};
        (void)packet.read(0, header);
        line.add(" LEN={} TC={} HOPLIMIT={} FLOWLBL={} ", header.payload_length.get() + 40u,
                 header.traffic_class(), header.hop_limit, header.flow_label());
        return;
    }
    Ipv4Header header{};
    (void)packet.read(0, header);
    line.add(" LEN={} TOS=0x", header.total_length.get());
    line.add_hex(header.traffic_class & 0x1eu, 2);
    line.add(" PREC=0x");
    line.add_hex(header.traffic_class & 0xe0u, 2);
    line.add(" TTL={} ID={} ", header.ttl, header.id.get());
    const u16 word = header.fragment.get();
    if ((word & 0x8000) != 0)
        line.add("CE ");
    if ((word & Ipv4Header::dont_fragment) != 0)
        line.add("DF ");
    if ((word & Ipv4Header::more_fragments) != 0)
        line.add("MF ");
    if ((word & Ipv4Header::offset_mask) != 0)
        line.add("FRAG:{} ", word & Ipv4Header::offset_mask);
}

void add_tcp(Line& line, const Evaluation& at, u32 flags) {
    TcpHeader header;
    line.add("PROTO=TCP ");
    if (at.fragment_offset != 0)
        return;
    if (!at.packet->read(at.transport, header)) {
        line.add("INCOMPLETE [{} bytes] ", at.packet->length() - at.transport);
        return;
    }
    line.add("SPT={} DPT={} ", header.source.get(), header.destination.get());
    if ((flags & log_tcp_sequence) != 0)
        line.add("SEQ={} ACK={} ", header.sequence.get(), header.acknowledgement.get());
    line.add("WINDOW={} RES=0x", header.window.get());
    line.add_hex((header.length_reserved & 0xfu) << 2 | header.flags >> 6, 2);
    line.add_char(' ');
    constexpr struct {
        u8 bit;
        std::string_view name;
    } names[] = {{TcpHeader::cwr, "CWR "}, {TcpHeader::ece, "ECE "}, {TcpHeader::urg, "URG "},
                 {TcpHeader::ack, "ACK "}, {TcpHeader::psh, "PSH "}, {TcpHeader::rst, "RST "},
                 {TcpHeader::syn, "SYN "}, {TcpHeader::fin, "FIN "}};
    for (const auto& one : names)
        if ((header.flags & one.bit) != 0)
            line.add("{}", one.name);
    line.add("URGP={} ", header.urgent.get());
}

void add_transport(Line& line, const Evaluation& at, u32 flags) {
    switch (at.protocol) {
    case proto_tcp:
        add_tcp(line, at, flags);
        return;
    case proto_udp: {
        UdpHeader header;
        line.add("PROTO=UDP ");
        if (at.fragment_offset == 0 && at.packet->read(at.transport, header))
            line.add("SPT={} DPT={} LEN={} ", header.source.get(), header.destination.get(),
                     header.length.get());
        return;
    }
    case proto_icmp:
    case proto_icmpv6: {
        IcmpHeader header;
        line.add("PROTO={} ", at.protocol == proto_icmp ? "ICMP" : "ICMPv6");
        if (at.fragment_offset != 0 || !at.packet->read(at.transport, header))
            return;
        line.add("TYPE={} CODE={} ", header.type, header.code);
        const bool echo =
            header.type == 0 || header.type == 8 || header.type == 128 || header.type == 129;
        if (echo)
            line.add("ID={} SEQ={} ", u32{header.rest[0]} << 8 | header.rest[1],
                     u32{header.rest[2]} << 8 | header.rest[3]);
        return;
    }
    default:
        line.add("PROTO={} ", at.protocol);
    }
}

} // namespace

void log_packet(Evaluation& at, std::string_view prefix, u32 level, u32 flags) {
    // Of the first namespace's packets only (there is none in unit tests).
    if (initial_namespaces == nullptr || &at.stack != &stack_of(nullptr))
        return;
    IpAddress source, destination;
    if (!read_addresses(*at.packet, at.hook.v6, source, destination))
        return;
    Line line;
    line.add("{}IN={} OUT={} ", prefix, at.hook.in == nullptr ? "" : at.hook.in->name(),
             at.hook.out == nullptr ? std::string_view() : at.hook.out->name());
    const Packet& packet = *at.packet;
    if (at.hook.in != nullptr && at.hook.out == nullptr) {
        line.add("MAC=");
        const i32 link = packet.has_link() ? packet.link_offset() : 0;
        if (link <= -static_cast<i32>(sizeof(EthernetHeader)) && at.hook.in->has_link_addresses())
            for (u32 i = 0; i < sizeof(EthernetHeader); i++) {
                const u8 byte = packet.data()[link + static_cast<i32>(i)];
                if (i > 0)
                    line.add_char(':');
                line.add_char("0123456789abcdef"[byte >> 4]);
                line.add_char("0123456789abcdef"[byte & 0xf]);
            }
        line.add_char(' ');
    }
    add_network(line, at, source, destination);
    if (at.has_transport)
        add_transport(line, at, flags);
    if ((flags & log_uid) != 0 && at.hook.flow != nullptr && packet.ingress == nullptr)
        line.add("UID={} ", at.hook.flow->uid);
    if (packet.mark != 0) {
        line.add("MARK=0x");
        u32 digits = 1;
        while (digits < 8 && packet.mark >> 4 * digits != 0)
            digits++;
        for (u32 i = digits; i-- > 0;)
            line.add_char("0123456789abcdef"[packet.mark >> 4 * i & 0xf]);
        line.add_char(' ');
    }
    const auto importance = level <= 3   ? boot::LogLevel::Error
                            : level == 4 ? boot::LogLevel::Warning
                            : level <= 6 ? boot::LogLevel::Info
                                         : boot::LogLevel::Debug;
    if (log::wanted(importance))
        log::emit(importance, line.text());
}

} // namespace kernel::net::filter
