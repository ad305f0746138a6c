// Which connection, request or listener a segment is for, and what is said to segments for none.
#include "guestkernel/net/tcp/protocol.hpp"

#include <linux/errno.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

namespace {

constexpr u8 protocol_number = 6;

// A header alone, from nobody's connection.
void send_bare(net::Stack& stack, const net::IpInfo& info, HeaderFields fields,
               const Options& options, u8 traffic_class, u32 mark) {
    net::Flow flow;
    flow.source = info.destination;
    flow.destination = info.source;
    flow.source_port = fields.source_port;
    flow.destination_port = fields.destination_port;
    flow.protocol = protocol_number;
    flow.traffic_class = traffic_class;
    flow.mark = mark;
    flow.dont_fragment = true;
    if (info.source.is_link_local() && info.interface != nullptr)
        flow.interface = info.interface->index();
    if (!net::resolve(stack, flow))
        return;
    net::PacketPtr packet = net::Packet::allocate(0);
    if (!packet)
        return;
    const u32 length = static_cast<u32>(header_length(options));
    fields.options = &options;
    build_header(fields, {packet->push(length), length});
    packet->mark_transport();
    packet->start_checksum(net::flow_pseudo_header(flow, length), 0, checksum_offset);
    Counters::count(TcpStack::of(stack).counters.out_segments);
    (void)net::ip_output(stack, flow, std::move(packet));
}

void acknowledge_time_wait(const TimeWait& entry, const Header& header, const net::IpInfo& info,
                           u64 now) {
    HeaderFields fields;
    fields.source_port = header.destination_port();
    fields.destination_port = header.source_port();
    fields.sequence = entry.send_next;
    fields.acknowledgement = entry.receive_next;
    fields.flags = flag_ack;
    fields.window = static_cast<u16>(entry.receive_window < 65535 ? entry.receive_window : 65535);
    Options options;
    if (entry.timestamps) {
        options.has_timestamp = true;
        options.timestamp = static_cast<u32>(now / millisecond) + entry.timestamp_offset;
        options.echo = entry.recent_timestamp;
    }
    send_bare(*entry.stack, info, fields, options, entry.traffic_class, entry.mark);
}

// RFC 9293, 3.10.7.4 for TIME-WAIT; RFC 6191; RFC 1337. Returns where a new connection's sequence
// numbers shall begin, if the segment may open one; the entry is gone then.
u32 input_time_wait(TimeWait& entry, const Header& header, const net::IpInfo& info) {
    TcpStack& tcp = TcpStack::of(*entry.stack);
    const u64 now = tcp.now();
    const Options& told = header.options();
    const bool stamped = entry.timestamps && told.has_timestamp;
    const i32 newer = static_cast<i32>(told.timestamp - entry.recent_timestamp);
    const bool old = stamped && newer < 0;
    const Sequence right = entry.receive_next + (entry.receive_window << entry.receive_scale);
    if (header.has(flag_syn) && !header.has(flag_rst) && !header.has(flag_ack) && !old &&
        (header.sequence() > entry.receive_next || (stamped && newer > 0))) {
        const u32 first = (entry.send_next + 65535 + 2).raw();
        tcp.end_time_wait(entry);
        return first == 0 ? 1 : first;
    }
    if (header.has(flag_rst)) {
        if (!old && header.sequence() == entry.receive_next && !tcp.settings.protect_time_wait)
            tcp.end_time_wait(entry);
        return 0;
    }
    const bool inside = header.end() >= entry.receive_next && header.sequence() <= right;
    if (!old && inside && header.sequence() <= entry.receive_next && stamped) {
        entry.recent_timestamp = told.timestamp;
        entry.recent_at = now;
    }
    if (header.sequence_length() == 0 && inside && !old)
        return 0;
    if (!old && header.has(flag_fin))
        tcp.restart_time_wait(entry);
    if (entry.last_answer != 0 &&
        now - entry.last_answer < tcp.settings.invalid_rate_ms * millisecond &&
        !header.has(flag_fin)) {
        Counters::count(tcp.counters.answers_skipped_time_wait);
        return 0;
    }
    entry.last_answer = now;
    acknowledge_time_wait(entry, header, info, now);
    return 0;
}

void input_listener(net::Stack& stack, net::PacketPtr packet, const Header& header,
                    const net::IpInfo& info, u32 first_sequence) {
    net::PortTable::Key key;
    key.local = info.destination;
    key.peer = info.source;
    key.port = header.destination_port();
    key.peer_port = header.source_port();
    key.interface = info.interface != nullptr ? info.interface->index() : 0;
    key.packet = packet.get();
    key.payload = header.length();
    net::PortOwner* owner = stack.tcp_ports.find(key);
    if (owner == nullptr) {
        refuse(stack, header, info);
        return;
    }
    // Only connections in Listen are set to receive.
    const Ref<Connection> owning = Ref<Connection>::adopt(static_cast<Connection*>(owner));
    Ref<Listener> listener;
    {
        SpinGuard guard(owning->lock);
        if (owning->state() == State::Listen)
            listener = owning->listener;
    }
    if (!listener) {
        refuse(stack, header, info);
        return;
    }
    listener->input(std::move(packet), header, info, first_sequence);
}

void input(net::Stack& stack, net::PacketPtr packet, const net::IpInfo& info) {
    TcpStack& tcp = TcpStack::of(stack);
    Counters::count(tcp.counters.in_segments);
    if (info.broadcast || info.multicast || packet->kind != net::PacketKind::Host)
        return;
    const u32 total = packet->length();
    const u8* bytes = packet->linear(least_header);
    if (bytes == nullptr) {
        Counters::count(tcp.counters.in_errors);
        return;
    }
    const u32 length = u32{bytes[12]} >> 4 << 2;
    if (length > least_header)
        bytes = packet->linear(length < total ? length : total);
    const auto header = bytes != nullptr
                            ? Header::parse({bytes, length < total ? length : total}, total)
                            : std::nullopt;
    if (!header) {
        Counters::count(tcp.counters.in_errors);
        return;
    }
    if (!net::verify_checksum(*packet, info, total)) {
        Counters::count(tcp.counters.in_checksum_errors);
        Counters::count(tcp.counters.in_errors);
        return;
    }
    if (!packet->pull(header->length()))
        return;
    const Ref<Entry> entry = Table::get().find(stack, pair_of(*header, info));
    if (!entry) {
        input_listener(stack, std::move(packet), *header, info, 0);
        return;
    }
    switch (entry->kind) {
    case EntryKind::Connection:
        static_cast<Connection&>(*entry).input(std::move(packet), *header, info);
        break;
    case EntryKind::Request: {
        auto& request = static_cast<Request&>(*entry);
        const Ref<Listener> listener = request.listener;
        listener->input_request(request, std::move(packet), *header, info);
        break;
    }
    case EntryKind::TimeWait:
        if (const u32 first = input_time_wait(static_cast<TimeWait&>(*entry), *header, info))
            input_listener(stack, std::move(packet), *header, info, first);
        break;
    case EntryKind::Listener:
        break;
    }
}

void error(net::Stack& stack, const net::IcmpNotice& notice) {
    net::Be32 sequence;
    if (notice.packet == nullptr || !notice.packet->read(notice.transport_offset + 4, sequence))
        return;
    Pair pair;
    pair.local = {notice.source, notice.source_port.get(), 0};
    pair.remote = {notice.destination, notice.destination_port.get(), 0};
    if (notice.destination.is_link_local() && notice.interface != nullptr)
        pair.remote.scope = notice.interface->index();
    const Ref<Entry> entry = Table::get().find(stack, pair);
    if (!entry)
        return;
    if (entry->kind == EntryKind::Connection)
        static_cast<Connection&>(*entry).icmp_error(notice, Sequence(sequence.get()));
    else if (entry->kind == EntryKind::Request && notice.hard) {
        auto& request = static_cast<Request&>(*entry);
        const Ref<Listener> listener = request.listener;
        listener->request_error(request, Sequence(sequence.get()));
    }
}

Result<Owned<net::StackPart>> make_part(net::Stack& stack) {
    TRY(Owned<TcpStack> part, make_owned<TcpStack>(stack));
    return Owned<net::StackPart>(std::move(part));
}

constexpr net::TransportProtocol protocol = {protocol_number, input, error, make_part};

} // namespace

Pair pair_of(const Header& header, const net::IpInfo& info) {
    Pair pair;
    pair.local = {info.destination, header.destination_port(), 0};
    pair.remote = {info.source, header.source_port(), 0};
    if (info.source.is_link_local() && info.source.is_v6() && info.interface != nullptr)
        pair.remote.scope = info.interface->index();
    return pair;
}

void refuse(net::Stack& stack, const Header& header, const net::IpInfo& info) {
    if (header.has(flag_rst) || info.broadcast || info.multicast)
        return;
    HeaderFields fields;
    fields.source_port = header.destination_port();
    fields.destination_port = header.source_port();
    if (header.has(flag_ack)) {
        fields.sequence = header.acknowledgement();
        fields.flags = flag_rst;
    } else {
        fields.acknowledgement = header.end();
        fields.flags = flag_rst | flag_ack;
    }
    Counters::count(TcpStack::of(stack).counters.out_resets);
    send_bare(stack, info, fields, Options(), 0, 0);
}

void register_tcp() {
    net::register_transport(protocol);
}

} // namespace kernel::tcp
