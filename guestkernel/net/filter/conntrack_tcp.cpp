// What the protocols say of a connection's state: TCP's states and windows, times of the others.
// The window checks are those of Guido van Rooij, "Real Stateful TCP Packet Filtering in IP
// Filter".
#include "guestkernel/net/filter/conntrack.hpp"
#include "guestkernel/net/ip.hpp"

namespace kernel::net::filter {

namespace {

enum class Segment : u8 { Syn, SynAck, Fin, Ack, Reset, None };

Segment kind_of(u8 flags) {
    if ((flags & TcpHeader::rst) != 0)
        return Segment::Reset;
    if ((flags & TcpHeader::syn) != 0)
        return (flags & TcpHeader::ack) != 0 ? Segment::SynAck : Segment::Syn;
    if ((flags & TcpHeader::fin) != 0)
        return Segment::Fin;
    return (flags & TcpHeader::ack) != 0 ? Segment::Ack : Segment::None;
}

// Combinations that nobody sends who means well.
bool sane_flags(u8 flags) {
    const u8 seen = flags & (TcpHeader::fin | TcpHeader::syn | TcpHeader::rst | TcpHeader::ack |
                             TcpHeader::urg);
    switch (kind_of(flags)) {
    case Segment::Syn:
        return seen == TcpHeader::syn || seen == (TcpHeader::syn | TcpHeader::urg);
    case Segment::SynAck:
        return seen == (TcpHeader::syn | TcpHeader::ack);
    case Segment::Reset:
        return (seen & (TcpHeader::syn | TcpHeader::fin)) == 0;
    case Segment::Fin:
        return (seen & TcpHeader::ack) != 0;
    case Segment::Ack:
        return true;
    case Segment::None:
        return false;
    }
    return false;
}

enum class Step : u8 { Go, Ignore, Invalid };
struct Move {
    Step step;
    TcpState to = TcpState::None;
};

Move go(TcpState to) {
    return {Step::Go, to};
}
constexpr Move ignore{Step::Ignore}, refuse{Step::Invalid};

Move on_syn(TcpState from, bool reply) {
    switch (from) {
    case TcpState::None:
        return reply ? refuse : go(TcpState::SynSent);
    case TcpState::SynSent:
        return go(reply ? TcpState::SynSent2 : TcpState::SynSent);
    case TcpState::SynSent2:
        return go(TcpState::SynSent2);
    default:
        return reply ? refuse : ignore;
    }
}

Move on_syn_ack(TcpState from, bool reply) {
    switch (from) {
    case TcpState::SynSent2:
        return go(TcpState::SynReceived);
    case TcpState::SynSent:
        return reply ? go(TcpState::SynReceived) : refuse;
    case TcpState::None:
        return refuse;
    default:
        return ignore;
    }
}

Move on_fin(TcpState from) {
    switch (from) {
    case TcpState::SynReceived:
    case TcpState::Established:
        return go(TcpState::FinWait);
    case TcpState::FinWait:
    case TcpState::CloseWait:
    case TcpState::LastAck:
        return go(TcpState::LastAck);
    case TcpState::TimeWait:
    case TcpState::Close:
        return go(from);
    default:
        return refuse;
    }
}

Move on_ack(TcpState from, bool reply) {
    switch (from) {
    case TcpState::None:
        return reply ? refuse : go(TcpState::Established); // in its midst, if that is allowed
    case TcpState::SynSent:
    case TcpState::SynSent2:
        return reply ? ignore : refuse;
    case TcpState::SynReceived:
        return go(reply ? TcpState::SynReceived : TcpState::Established);
    case TcpState::Established:
        return go(TcpState::Established);
    case TcpState::FinWait:
    case TcpState::CloseWait:
        return go(TcpState::CloseWait);
    case TcpState::LastAck:
    case TcpState::TimeWait:
        return go(TcpState::TimeWait);
    case TcpState::Close:
        return go(TcpState::Close);
    }
    return refuse;
}

Move move(TcpState from, Segment segment, bool reply) {
    switch (segment) {
    case Segment::Syn:
        return on_syn(from, reply);
    case Segment::SynAck:
        return on_syn_ack(from, reply);
    case Segment::Fin:
        return on_fin(from);
    case Segment::Ack:
        return on_ack(from, reply);
    case Segment::Reset:
        return from == TcpState::None ? refuse : go(TcpState::Close);
    case Segment::None:
        return refuse;
    }
    return refuse;
}

// Sequence numbers go round.
bool before(u32 a, u32 b) {
    return static_cast<i32>(a - b) < 0;
}
bool after(u32 a, u32 b) {
    return before(b, a);
}

void read_scale(const Packet& packet, u32 transport, const TcpHeader& header,
                Connection::TcpSide& side) {
    side.scale = 0;
    side.scaled = false;
    constexpr u8 most_scale = 14;
    for (u32 at = sizeof header; at + 1 < header.header_bytes();) {
        u8 option[3] = {};
        if (!packet.copy_out(transport + at, option, at + 3 <= header.header_bytes() ? 3 : 2))
            return;
        if (option[0] == 0)
            return;
        if (option[0] == 1) {
            at++;
            continue;
        }
        if (option[1] < 2)
            return;
        if (option[0] == 3 && option[1] == 3) {
            side.scale = option[2] > most_scale ? most_scale : option[2];
            side.scaled = true;
        }
        at += option[1];
    }
}

struct SegmentRange {
    u32 sequence, end, acknowledgement, window;
    bool has_acknowledgement, syn;
};

void start_side(Connection::TcpSide& side, const SegmentRange& range) {
    side.end = range.end;
    side.window_end = range.end;
    side.window = range.window == 0 ? 1 : range.window;
}

// Whether the segment is within what both sides said that they take; moves the windows on.
bool in_window(Connection& connection, const SegmentRange& range, u8 direction, bool reset) {
    Connection::TcpSide& sender = connection.sides[direction];
    Connection::TcpSide& receiver = connection.sides[1 - direction];
    const u32 window = range.syn ? range.window : range.window << sender.scale;
    if (sender.window == 0) { // the side's first
        start_side(sender, range);
        if (!range.syn)
            sender.window_end = range.end + sender.window;
    }
    if (!range.syn && range.end == range.sequence && reset && range.sequence == 0)
        return true; // an answer to a SYN, from a closed port
    const u32 acknowledged = range.has_acknowledgement ? range.acknowledgement : receiver.end;
    constexpr u32 most_behind = 66000;
    const u32 behind = sender.window > most_behind ? sender.window : most_behind;
    const bool fits = !after(range.sequence, sender.window_end) &&
                      !before(range.end, sender.end - receiver.window - 1) &&
                      (receiver.window == 0 || (!after(acknowledged, receiver.end) &&
                                                !before(acknowledged, receiver.end - behind)));
    if (!fits && !connection.liberal)
        return false;
    if (window > sender.window)
        sender.window = window;
    if (after(range.end, sender.end))
        sender.end = range.end;
    if (after(sender.end, sender.window_end))
        sender.window_end = sender.end;
    if (range.has_acknowledgement) {
        const u32 open = acknowledged + (window == 0 ? 1 : window);
        if (receiver.window == 0 || after(open, receiver.window_end))
            receiver.window_end = open;
        if (receiver.window == 0)
            receiver.end = acknowledged;
        if (!sender.acknowledges || after(acknowledged, sender.acknowledged))
            sender.acknowledged = acknowledged;
        sender.acknowledges = true;
    }
    return true;
}

// A reset in the window that is not exactly what its receiver waits for, nor behind what was sent
// last. The receiver only asks about it (RFC 5961, 3.2): it may be a stranger's guess, and the
// connection, with its translation, goes on.
bool is_guess(const Connection& connection, const SegmentRange& range, u8 direction, u32 sent) {
    const Connection::TcpSide& receiver = connection.sides[1 - direction];
    return connection.tcp == TcpState::Established && connection.has(status_assured) &&
           !connection.liberal && range.sequence != sent && receiver.acknowledges &&
           range.sequence != receiver.acknowledged;
}

// Counts how often the same acknowledgement came in a row.
void note_repetition(Connection& connection, const SegmentRange& range, u8 direction) {
    auto& last = connection.last;
    if (last.direction == direction && last.sequence == range.sequence &&
        last.acknowledgement == range.acknowledgement && last.end == range.end &&
        last.window == range.window) {
        if (last.repeated < 255)
            last.repeated++;
        return;
    }
    last = {range.sequence, range.acknowledgement, range.end, range.window, direction, 0};
}

} // namespace

bool Connections::follow_tcp(Connection& connection, Packet& packet, const PacketTuple& from,
                             u8 direction) {
    TcpHeader header;
    if (!packet.read(from.transport, header) || header.header_bytes() < sizeof header ||
        from.transport + header.header_bytes() > packet.length() || !sane_flags(header.flags))
        return false;
    const Segment segment = kind_of(header.flags);
    SegmentRange range;
    range.sequence = header.sequence.get();
    range.acknowledgement = header.acknowledgement.get();
    range.has_acknowledgement = (header.flags & TcpHeader::ack) != 0;
    range.window = header.window.get();
    range.syn = (header.flags & TcpHeader::syn) != 0;
    range.end = range.sequence + packet.length() - from.transport - header.header_bytes() +
                (range.syn ? 1 : 0) + ((header.flags & TcpHeader::fin) != 0 ? 1 : 0);
    SpinGuard guard(connection.lock);
    const TcpState old = connection.tcp;
    // A new one on the ports of one that is over: its translation is chosen anew.
    if (segment == Segment::Syn && direction == 0 &&
        (old == TcpState::TimeWait || old == TcpState::Close)) {
        guard.unlock();
        remove(connection);
        return false;
    }
    Move next = move(old, segment, direction != 0);
    if (next.step == Step::Ignore)
        return true;
    if (next.step == Step::Invalid)
        return false;
    if (old == TcpState::None && segment != Segment::Syn) {
        if (!settings.tcp_loose || segment == Segment::Fin)
            return false;
        connection.liberal = true;
    }
    if (settings.tcp_liberal)
        connection.liberal = true;
    if (range.syn) {
        Connection::TcpSide& side = connection.sides[direction];
        side = {};
        read_scale(packet, from.transport, header, side);
        // Both have to offer it (RFC 7323, 2.2).
        Connection::TcpSide& other = connection.sides[1 - direction];
        if (segment == Segment::SynAck && !(side.scaled && other.scaled))
            side.scale = other.scale = 0;
    }
    const u32 sent = connection.sides[direction].end;
    if (!in_window(connection, range, direction, segment == Segment::Reset))
        return false;
    if (segment == Segment::Reset && is_guess(connection, range, direction, sent))
        next.to = old;
    connection.tcp = next.to;
    connection.last_direction = direction;
    if (segment == Segment::Ack)
        note_repetition(connection, range, direction);
    const bool lossy = connection.last.repeated >= settings.tcp_most_retransmitted;
    guard.unlock();
    // A refused attempt leaves nothing behind.
    if (segment == Segment::Reset && !connection.has(status_seen_reply) && direction == 0 &&
        connection.has(status_confirmed)) {
        renew(connection, settings.tcp[static_cast<usize>(TcpState::Close)]);
        return true;
    }
    if ((old == TcpState::SynReceived || old == TcpState::Established) &&
        next.to == TcpState::Established && connection.has(status_seen_reply))
        connection.status.fetch_or(status_assured);
    u32 seconds = settings.tcp[static_cast<usize>(next.to)];
    if (next.to == TcpState::Established && !connection.has(status_seen_reply))
        seconds = settings.tcp_unacknowledged;
    if (lossy && seconds > settings.tcp_retransmitted)
        seconds = settings.tcp_retransmitted;
    renew(connection, seconds);
    return true;
}

bool Connections::follow(Connection& connection, Packet& packet, const PacketTuple& from,
                         u8 direction) {
    constexpr u64 settled = 2 * nanoseconds_per_second;
    switch (from.tuple.protocol) {
    case proto_tcp:
        return follow_tcp(connection, packet, from, direction);
    case proto_udp: {
        const bool stream =
            connection.has(status_seen_reply) && stack_.now() > connection.started + settled;
        if (stream)
            connection.status.fetch_or(status_assured);
        renew(connection, stream ? settings.udp_stream : settings.udp);
        return true;
    }
    case proto_icmp:
        renew(connection, settings.icmp);
        return true;
    case proto_icmpv6:
        renew(connection, settings.icmpv6);
        return true;
    default:
        renew(connection, settings.generic);
        return true;
    }
}

} // namespace kernel::net::filter
