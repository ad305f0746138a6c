#include "guestkernel/net/filter/nat.hpp"

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/filter/mangle.hpp"
#include "guestkernel/net/ip.hpp"

namespace kernel::net::filter {

namespace {

// What the hook may change: sources on the way out (and in, of what is for this machine).
bool changes_source(HookPoint point) {
    return point == HookPoint::PostRouting || point == HookPoint::Input;
}

bool at_least(const IpAddress& a, const IpAddress& b) {
    return __builtin_memcmp(a.bytes(), b.bytes(), 16) >= 0;
}

const IpAddress& address_of(const Tuple& tuple, bool source) {
    return source ? tuple.source : tuple.destination;
}

// The part of the tuple that is translated. Of ICMP it is the identifier, whichever side.
u16& port_of(Tuple& tuple, bool source) {
    const bool icmp = tuple.protocol == proto_icmp || tuple.protocol == proto_icmpv6;
    return source || icmp ? tuple.source_port : tuple.destination_port;
}

bool has_port(u8 protocol) {
    return protocol == proto_tcp || protocol == proto_udp || protocol == proto_icmp ||
           protocol == proto_icmpv6;
}

bool in_range(Tuple tuple, const NatRange& range, bool source) {
    if ((range.flags & NatRange::map_addresses) != 0 &&
        !(at_least(address_of(tuple, source), range.first) &&
          at_least(range.last, address_of(tuple, source))))
        return false;
    if ((range.flags & NatRange::ports_given) == 0 || !has_port(tuple.protocol))
        return true;
    const u16 port = port_of(tuple, source);
    return port >= range.first_port && port <= range.last_port;
}

// Among the range's addresses, always the same for the same client (and server, unless it is to be
// the same for all servers).
IpAddress choose_address(const Tuple& tuple, const NatRange& range, u64 secret) {
    if (range.first == range.last)
        return range.first;
    u64 hash = tuple.source.hash(secret);
    if ((range.flags & NatRange::persistent) == 0)
        hash = tuple.destination.hash(hash);
    if (range.first.is_v4()) {
        const u32 from = range.first.v4_value(), to = range.last.v4_value();
        if (to < from)
            return range.first;
        return IpAddress::v4(from + static_cast<u32>(hash % (u64{to - from} + 1)));
    }
    u64 low[2], high[2];
    const IpAddress* ends[2] = {&range.first, &range.last};
    for (int i = 0; i < 2; i++) {
        BigEndian<u64> words[2];
        __builtin_memcpy(words, ends[i]->bytes(), sizeof words);
        high[i] = words[0].get();
        low[i] = words[1].get();
    }
    if (high[0] != high[1] || low[1] < low[0])
        return range.first;
    const u64 span = low[1] - low[0] + 1;
    return IpAddress::v6_words(high[0], low[0] + (span == 0 ? hash : hash % span));
}

bool is_taken(Evaluation& at, const Tuple& tuple, const Connection& connection) {
    Tuple reply;
    return !invert(tuple, reply) || at.filter.connections.taken(reply, connection);
}

struct PortSpan {
    u32 first = 0, count = 0;
};

// Ports that may stand for this one. count 0: it stays.
PortSpan port_span(Tuple& tuple, const NatRange& range, bool source) {
    if ((range.flags & NatRange::ports_given) != 0) {
        const u16 low = range.first_port < range.last_port ? range.first_port : range.last_port;
        const u16 high = range.first_port < range.last_port ? range.last_port : range.first_port;
        return {low, u32{high} - low + 1};
    }
    if (tuple.protocol == proto_icmp || tuple.protocol == proto_icmpv6)
        return {0, 65536};
    if (!source)
        return {};
    // Of the same class: servers believe in ports below 1024.
    const u16 port = tuple.source_port;
    if (port < 512)
        return {1, 511};
    return port < 1024 ? PortSpan{600, 424} : PortSpan{1024, 65536 - 1024};
}

void choose_port(Evaluation& at, Tuple& tuple, const NatRange& range, bool source,
                 const Connection& connection) {
    const PortSpan span = port_span(tuple, range, source);
    if (span.count == 0)
        return;
    u16& port = port_of(tuple, source);
    const u16 original = port;
    u32 offset = (range.flags & NatRange::offset) != 0
                     ? static_cast<u32>(original) - range.base_port
                     : static_cast<u32>(random_u64());
    constexpr u32 most_tries = 128, fewest_tries = 16;
    u32 tries = span.count < most_tries ? span.count : most_tries;
    for (;;) {
        for (u32 i = 0; i < tries; i++, offset++) {
            port = static_cast<u16>(span.first + offset % span.count);
            if (!is_taken(at, tuple, connection))
                return;
        }
        if (tries >= span.count || tries < fewest_tries)
            return; // the confirmation will refuse it
        tries /= 2;
        offset = static_cast<u32>(random_u64());
    }
}

Tuple choose(Evaluation& at, const Tuple& original, const NatRange& range, bool source,
             const Connection& connection) {
    const bool random = (range.flags & (NatRange::random | NatRange::fully_random)) != 0;
    if (source && !random && in_range(original, range, true) && !is_taken(at, original, connection))
        return original;
    Tuple tuple = original;
    if ((range.flags & NatRange::map_addresses) != 0) {
        IpAddress& address = source ? tuple.source : tuple.destination;
        address = choose_address(original, range, at.stack.secret());
    }
    if (!has_port(tuple.protocol))
        return tuple;
    if (!random) {
        if ((range.flags & NatRange::ports_given) == 0) {
            if (!is_taken(at, tuple, connection))
                return tuple;
        } else if ((range.flags & NatRange::offset) == 0 && in_range(tuple, range, source) &&
                   (range.first_port == range.last_port || !is_taken(at, tuple, connection))) {
            return tuple;
        }
    }
    choose_port(at, tuple, range, source, connection);
    return tuple;
}

Connection* connection_of(Evaluation& at) {
    return static_cast<Connection*>(at.packet->connection.get());
}

bool is_reply(const Packet& packet) {
    return (packet.tracking & tracking_reply) != 0;
}

u32 done_bit(bool source) {
    return source ? status_source_done : status_destination_done;
}

} // namespace

Verdict set_up(Evaluation& at, const NatRange& range, bool source) {
    Connection* connection = connection_of(at);
    if (connection == nullptr || connection->has(status_confirmed))
        return Verdict::Accept;
    if (connection->has(done_bit(source)))
        return Verdict::Drop;
    Tuple current;
    if (!invert(connection->ends[1].tuple, current))
        return Verdict::Accept;
    const bool any = (range.flags & NatRange::map_addresses) != 0 &&
                     range.first.is_v4() != current.source.is_v4();
    if (any)
        return Verdict::Drop;
    const Tuple wanted = choose(at, current, range, source, *connection);
    if (!(wanted == current)) {
        Tuple reply;
        if (!invert(wanted, reply))
            return Verdict::Drop;
        connection->ends[1].tuple = reply;
        connection->status.fetch_or(source ? status_source_nat : status_destination_nat);
    }
    connection->status.fetch_or(done_bit(source));
    return Verdict::Accept;
}

Verdict masquerade(Evaluation& at, NatRange range) {
    Connection* connection = connection_of(at);
    if (connection == nullptr || at.hook.out == nullptr)
        return Verdict::Accept;
    Tuple current;
    // One without an address asks for it just now (DHCP).
    if (!invert(connection->ends[1].tuple, current) || current.source.is_any())
        return Verdict::Accept;
    const IpAddress next = at.hook.flow != nullptr && at.hook.flow->path.gateway
                               ? at.hook.flow->path.next_hop
                               : current.destination;
    const IpAddress own = at.stack.select_source(*at.hook.out, next);
    if (own.is_any() || own.is_v4() != current.source.is_v4())
        return Verdict::Drop;
    connection->masquerade_interface.store(at.hook.out->index());
    range.flags |= NatRange::map_addresses;
    range.first = range.last = own;
    return set_up(at, range, true);
}

Verdict redirect(Evaluation& at, NatRange range) {
    const bool v6 = at.hook.v6;
    IpAddress own = IpAddress::loopback(v6);
    if (at.hook.point == HookPoint::PreRouting) {
        if (at.hook.in == nullptr)
            return Verdict::Drop;
        own = IpAddress::any(v6);
        SpinGuard guard(at.stack.lock);
        for (const InterfaceAddress& address : at.hook.in->addresses)
            if (address.address.is_v6() == v6 && own.is_any() &&
                !(v6 && address.address.is_link_local()))
                own = address.address;
        if (own.is_any())
            return Verdict::Drop;
    }
    range.flags |= NatRange::map_addresses;
    range.first = range.last = own;
    return set_up(at, range, false);
}

namespace {

// An error about a translated packet: what it quotes was translated too.
HookVerdict translate_error(Evaluation& at, const Connection& connection, bool source) {
    Packet& packet = *at.packet;
    const u8 direction = is_reply(packet) ? 1 : 0;
    u32 bit = source ? status_source_nat : status_destination_nat;
    if (direction != 0)
        bit ^= status_source_nat | status_destination_nat;
    if (!connection.has(bit))
        return HookVerdict::Accept;
    PacketTuple outer;
    if (!read_tuple(packet, 0, outer))
        return HookVerdict::Drop;
    const Tuple& other = connection.ends[1 - direction].tuple;
    const u32 inner = outer.transport + static_cast<u32>(sizeof(IcmpHeader));
    Tuple target;
    if (!set_end(packet, inner, other, !source, Part::Quoted) || !invert(other, target) ||
        !set_end(packet, 0, target, source, Part::AddressOnly) || !read_tuple(packet, 0, outer))
        return HookVerdict::Drop;
    // The whole sum anew: of what was quoted only a part may be there.
    if (packet.checksum_state == ChecksumState::Partial ||
        packet.linear(outer.transport + 4) == nullptr)
        return HookVerdict::Accept;
    const u32 bytes = packet.length() - outer.transport;
    u8* field = packet.data() + outer.transport + icmp_checksum_field;
    field[0] = field[1] = 0;
    ChecksumSum sum;
    if (outer.tuple.v6())
        sum = pseudo_header(outer.tuple.source, outer.tuple.destination, proto_icmpv6, bytes);
    packet.add_to(sum, outer.transport, bytes);
    const u16 value = sum.finish();
    __builtin_memcpy(field, &value, sizeof value);
    return HookVerdict::Accept;
}

// The first packet asks the chains; what none of them translates stays, on ports of its own.
HookVerdict start(Evaluation& at, Connection& connection, bool source) {
    const auto& chains = at.program->nat[at.hook.v6 ? 1 : 0][static_cast<usize>(at.hook.point)];
    for (const Program::Step& step : chains) {
        at.family = step.family;
        if (!at.find_headers() || run_chain(at, *step.chain) == Verdict::Drop)
            return HookVerdict::Drop;
        if (connection.has(done_bit(source)))
            return HookVerdict::Accept;
    }
    NatRange same;
    return set_up(at, same, source) == Verdict::Drop ? HookVerdict::Drop : HookVerdict::Accept;
}

} // namespace

HookVerdict translate(Evaluation& at) {
    const Ref<Connection> connection = Ref<Connection>::share(connection_of(at));
    if (!connection)
        return HookVerdict::Accept;
    const bool source = changes_source(at.hook.point);
    const Tracking state = tracking_of(*at.packet);
    if (state == Tracking::Related)
        return translate_error(at, *connection, source);
    if (state == Tracking::New && !connection->has(done_bit(source)) &&
        !connection->has(status_confirmed)) {
        const HookVerdict verdict = start(at, *connection, source);
        if (verdict != HookVerdict::Accept)
            return verdict;
    }
    const u8 direction = is_reply(*at.packet) ? 1 : 0;
    // Its address went with the interface that it left by.
    if (const u32 index = connection->masquerade_interface.load();
        index != 0 && at.hook.point == HookPoint::PostRouting && direction == 0 &&
        at.hook.out != nullptr && at.hook.out->index() != index) {
        at.filter.connections.remove(*connection);
        return HookVerdict::Drop;
    }
    u32 bit = source ? status_source_nat : status_destination_nat;
    if (direction != 0)
        bit ^= status_source_nat | status_destination_nat;
    if (!connection->has(bit))
        return HookVerdict::Accept;
    Tuple target;
    if (!invert(connection->ends[1 - direction].tuple, target) ||
        !set_end(*at.packet, 0, target, source, Part::Whole))
        return HookVerdict::Drop;
    return HookVerdict::Accept;
}

} // namespace kernel::net::filter
