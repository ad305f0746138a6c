// What leaves: segments with data, acknowledgements, the window they announce.
#include <linux/errno.h>

#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/connection.hpp"

namespace kernel::tcp {

namespace {

constexpr u32 largest_packet = 65535; // an IP packet's length field
constexpr u32 timestamp_bytes = 12;

u32 ip_header(const net::Flow& flow) {
    return flow.destination.is_v4() ? 20 + static_cast<u32>(flow.options.size()) : 40;
}

void put32(u8* at, u32 value) {
    value = __builtin_bswap32(value);
    __builtin_memcpy(at, &value, sizeof value);
}

} // namespace

// --- sizes

void Connection::sync_mss() {
    known_mtu_ = flow.path.mtu;
    const u32 header = ip_header(flow) + least_header;
    const u32 mtu = flow.path.mtu < largest_packet ? flow.path.mtu : largest_packet;
    u32 size = mtu > header ? mtu - header : 1;
    size = size < negotiated_.peer_mss ? size : negotiated_.peer_mss;
    if (options.max_segment != 0 && size > options.max_segment)
        size = options.max_segment;
    if (size < tcp_.settings.least_sent_mss)
        size = tcp_.settings.least_sent_mss;
    if (negotiated_.timestamps)
        size -= timestamp_bytes;
    mss_ = size;
    congestion_.set_mss(size);
}

u16 mss_to_announce(const net::Flow& flow, const ConnectionOptions& options) {
    constexpr u32 least_v4 = 256, least_v6 = 1220; // route/min_adv_mss
    const u32 header = ip_header(flow) + least_header;
    const u32 mtu = flow.path.mtu < largest_packet ? flow.path.mtu : largest_packet;
    const u32 least = flow.destination.is_v4() ? least_v4 : least_v6;
    u32 size = mtu > header + least ? mtu - header : least;
    if (flow.path.advertised_mss != 0)
        size = flow.path.advertised_mss < size ? flow.path.advertised_mss : size;
    if (options.max_segment != 0 && options.max_segment < size)
        size = options.max_segment;
    return static_cast<u16>(size);
}

// Of data in a segment that also reports what came out of order.
u32 Connection::segment_size() const {
    if (out_of_order_.empty() || !negotiated_.sack)
        return mss_;
    const unsigned room = negotiated_.timestamps ? 3 : 4;
    const usize runs = out_of_order_.run_count();
    const u32 sacks = 4 + 8 * static_cast<u32>(runs < room ? runs : room);
    return mss_ > sacks + 8 ? mss_ - sacks : 8;
}

// --- the window that is announced

u32 Connection::choose_window() {
    const u32 announced = window_right_ > receive_next_ ? window_right_.since(receive_next_) : 0;
    const u32 used = queued_memory_.load(base::Order::Relaxed) + out_of_order_.memory();
    const u32 space = used < receive_limit_ ? (receive_limit_ - used) / 2 : 0;
    const u32 whole = receive_limit_ / 2;
    u32 window = space;
    if (options.window_clamp != 0 && window > options.window_clamp)
        window = options.window_clamp;
    // Too little to be worth a sender's while (RFC 9293, 3.8.6.2.2).
    const u32 worth = receive_mss_ < whole / 2 ? receive_mss_ : whole / 2;
    if (space < whole / 16 || window < worth)
        window = 0;
    const u32 unit = 1u << negotiated_.receive_scale;
    window &= ~(unit - 1);
    if (window > announced && !negotiated_.scaling && window - announced < receive_mss_ &&
        announced != 0)
        window = announced;
    // What was promised stays promised, the part of a unit that may be left included.
    if (window < announced && window == 0)
        Counters::count(tcp_.counters.window_wanted_closed);
    if (window < announced)
        window = (announced + unit - 1) & ~(unit - 1);
    const u32 most = 65535u << negotiated_.receive_scale;
    return window < most ? window : most;
}

u16 Connection::window_to_send() {
    const u32 window = choose_window();
    window_right_ = later(window_right_, receive_next_ + window);
    const bool zero = window >> negotiated_.receive_scale == 0;
    if (std::exchange(announced_zero_, zero) != zero)
        Counters::count(zero ? tcp_.counters.window_closed : tcp_.counters.window_opened);
    return static_cast<u16>(window >> negotiated_.receive_scale);
}

// --- packets

void Connection::fill_options(Options& out) const {
    if (negotiated_.timestamps) {
        out.has_timestamp = true;
        out.timestamp = timestamp_now();
        out.echo = recent_timestamp_;
    }
    if (!negotiated_.sack)
        return;
    unsigned room = negotiated_.timestamps ? 3 : 4;
    if (!duplicate_.empty()) {
        out.sacks[0] = duplicate_;
        SequenceRange rest[most_sacks];
        const unsigned more = out_of_order_.sack_blocks(rest, room - 1);
        for (unsigned i = 0; i < more; i++)
            out.sacks[i + 1] = rest[i];
        out.sack_count = static_cast<u8>(more + 1);
        return;
    }
    if (!out_of_order_.empty())
        out.sack_count = static_cast<u8>(out_of_order_.sack_blocks(out.sacks, room));
}

// Puts the header in front of the payload and sends it. `extra`: options beyond those that every
// segment of the connection has (null: only these).
Result<void> Connection::emit(net::PacketPtr packet, u8 flags, Sequence sequence,
                              const Options* extra) {
    const u32 payload = packet->length();
    Options built;
    const Options* options_used = extra;
    const bool plain =
        extra == nullptr && (out_of_order_.empty() || !negotiated_.sack) && duplicate_.empty();
    if (extra == nullptr && !plain) {
        fill_options(built);
        options_used = &built;
    }
    const u32 length =
        plain ? static_cast<u32>(least_header) + (negotiated_.timestamps ? timestamp_bytes : 0)
              : static_cast<u32>(header_length(*options_used));
    HeaderFields fields;
    fields.source_port = pair.local.port;
    fields.destination_port = pair.remote.port;
    fields.sequence = sequence;
    fields.flags = flags;
    if ((flags & flag_ack) != 0)
        fields.acknowledgement = receive_next_;
    if ((flags & flag_syn) != 0) {
        const u32 window = choose_window_for_syn();
        fields.window = static_cast<u16>(window);
    } else if ((flags & flag_rst) == 0) {
        fields.window = window_to_send();
    }
    if (urgent_sending_ && (flags & (flag_syn | flag_rst)) == 0 && urgent_end_ > sequence) {
        const u32 distance = urgent_end_.since(sequence);
        fields.flags |= flag_urg;
        fields.urgent = static_cast<u16>(distance < 0xffff ? distance : 0xffff);
    }
    u8* const header = packet->push(length);
    if (plain) {
        build_header(fields, {header, least_header});
        if (negotiated_.timestamps) {
            header[12] = (least_header + timestamp_bytes) / 4 << 4;
            put32(header + 20, 0x0101'080a); // nothing, nothing, timestamps, 10 bytes
            put32(header + 24, timestamp_now());
            put32(header + 28, recent_timestamp_);
        }
    } else {
        fields.options = options_used;
        build_header(fields, {header, length});
    }
    packet->mark_transport();
    packet->start_checksum(net::flow_pseudo_header(flow, payload + length), 0, checksum_offset);
    packet->mark = flow.mark;
    packet->priority = flow.priority;
    if (payload > 0 || (flags & (flag_syn | flag_fin)) != 0)
        statistics_.data_out++;
    statistics_.segments_out++;
    Counters::count(tcp_.counters.out_segments);
    if ((flags & flag_ack) != 0)
        acknowledgement_sent();
    return net::ip_output(*stack, flow, std::move(packet));
}

void Connection::acknowledgement_sent() {
    acknowledged_ = receive_next_;
    duplicate_ = {};
    ack_pending_ = false;
    pushed_ = 0;
    if (quick_acks_ > 0)
        quick_acks_--;
    clear_deadline(Deadline::DelayedAck);
}

void Connection::send_control(u8 flags, Sequence sequence) {
    net::PacketPtr packet = net::Packet::allocate(0);
    if (!packet) {
        if ((flags & flag_ack) != 0 && state_ != State::Closed)
            set_deadline(Deadline::DelayedAck, now() + least_timeout);
        return;
    }
    (void)emit(std::move(packet), flags, sequence, nullptr);
}

void Connection::acknowledge_now() {
    if (state_ == State::Closed || state_ == State::SynSent)
        return;
    send_control(flag_ack, send_next_);
}

void Connection::send_duplicate_ack(SequenceRange duplicate) {
    if (negotiated_.sack && tcp_.settings.duplicate_sack && !duplicate.empty()) {
        duplicate_ = duplicate;
        Counters::count(duplicate.start < receive_next_ ? tcp_.counters.duplicate_sacks_sent
                                                        : tcp_.counters.duplicate_sacks_sent_ahead);
    }
    acknowledge_now();
}

// A SYN's or SYN-ACK's window is never scaled.
u32 Connection::choose_window_for_syn() {
    u32 window = receive_limit_ / 2;
    if (options.window_clamp != 0 && window > options.window_clamp)
        window = options.window_clamp;
    window = window < 65535 ? window : 65535;
    if (window > announced_mss_)
        window -= window % announced_mss_;
    window_right_ = receive_next_ + window;
    return window;
}

void Connection::send_syn(bool with_ack) {
    Options out;
    announced_mss_ = mss_to_announce(flow, options);
    out.mss = announced_mss_;
    if (!with_ack) {
        negotiated_.timestamps = tcp_.settings.timestamps;
        negotiated_.sack = tcp_.settings.sack;
        negotiated_.scaling = tcp_.settings.window_scaling;
        negotiated_.receive_scale = negotiated_.scaling ? scale_for_buffers() : 0;
    }
    // A SYN that goes unanswered again and again may be one whose options a middlebox dislikes.
    out.has_timestamp = negotiated_.timestamps;
    out.timestamp = timestamp_now();
    out.echo = with_ack ? recent_timestamp_ : 0;
    out.sack_permitted = negotiated_.sack;
    out.has_scale = negotiated_.scaling;
    out.scale = negotiated_.receive_scale;
    u32 length = 0;
    if (!with_ack && fast_open_used && retransmissions_ == 0) {
        out.has_cookie = !options.fast_open_no_cookie;
        out.cookie = cookie_;
        if (cookie_.length != 0 || options.fast_open_no_cookie) {
            const u32 header = ip_header(flow) + static_cast<u32>(header_length(out));
            const u32 limit = flow.path.mtu > header ? flow.path.mtu - header : 0;
            u32 mss = cookie_mss_ != 0 && cookie_mss_ < limit ? cookie_mss_ : limit;
            length = buffer_.bytes() < mss ? buffer_.bytes() : mss;
        }
    }
    net::PacketPtr packet = net::Packet::allocate(length <= 1024 ? length : 0);
    if (!packet)
        return;
    if (length > 0)
        length = buffer_.fill(*packet, 0, length);
    send_next_ = later(send_next_, send_initial_ + 1 + length);
    fast_open_data_ = fast_open_data_ || length > 0;
    (void)emit(std::move(packet), with_ack ? flag_syn | flag_ack : flag_syn, send_initial_, &out);
}

u8 Connection::scale_for_buffers() const {
    const u32 most =
        options.receive_buffer_fixed ? options.receive_buffer : tcp_.settings.receive_most;
    u32 space = most > receive_limit_ ? most : receive_limit_;
    if (options.window_clamp != 0 && space > options.window_clamp)
        space = options.window_clamp;
    u8 scale = 0;
    while (space > 65535 && scale < largest_scale) {
        space >>= 1;
        scale++;
    }
    return scale;
}

// --- data

// Sends [start, start + length) of the stream, and a FIN behind it if `flags` say so.
Result<u32> Connection::transmit(Sequence start, u32 length, u8 flags) {
    constexpr u32 copied = 512;
    net::PacketPtr packet = net::Packet::allocate(length <= copied ? length : 0);
    if (!packet)
        return fail(ENOMEM);
    const u32 mss = segment_size();
    if (length > 0) {
        const u32 filled = buffer_.fill(*packet, start.since(buffer_base_), length);
        if (filled < length) {
            flags &= static_cast<u8>(~(flag_fin | flag_psh));
            length = filled;
        }
    }
    if (length > mss) {
        packet->segmentation =
            flow.destination.is_v4() ? net::Segmentation::Tcp4 : net::Segmentation::Tcp6;
        packet->segment_size = static_cast<u16>(mss);
    }
    statistics_.bytes_sent += length;
    last_sent_ = now();
    // An answer soon after data came: a conversation (Linux's "pingpong" mode).
    if (length > 0 && last_sent_ - last_received_ < ack_timeout_)
        interactive_ = true;
    if (auto sent = emit(std::move(packet), flags, start, nullptr); !sent) {
        if (sent.error().code == EMSGSIZE)
            sync_mss();
        // Any other failure is a lost segment like any other.
    }
    return length;
}

// How much new data may go now, in one piece; 0: none yet.
u32 Connection::sendable(u32 mss, bool ignore_nagle) {
    const u32 available = unsent();
    const Sequence window_end = una_ + send_window_;
    const u32 window = window_end > send_next_ ? window_end.since(send_next_) : 0;
    const u32 flight = sent_.in_flight();
    const u32 congestion = congestion_.window() > flight ? congestion_.window() - flight : 0;
    // A small window of congestion still lets one segment out when nothing is under way.
    u32 limit = flight == 0 && congestion < mss ? mss : congestion;
    if (limit == 0)
        return 0;
    limit = limit < window ? limit : window;
    const u32 header = ip_header(flow) + most_header;
    u32 most = (largest_packet - header) / mss * mss;
    most = most == 0 ? mss : most;
    u32 length = available < limit ? available : limit;
    length = length < most ? length : most;
    if (length >= mss) {
        // Whole segments; a rest follows when the data end here and Nagle lets it.
        const u32 whole = length - length % mss;
        if (whole == length || length < available)
            length = whole;
        else if (!may_send_small(ignore_nagle))
            length = whole;
    } else if (length < available) {
        // The window, not the data, makes it small (RFC 9293, 3.8.6.2.1).
        if (length < max_send_window_ / 2 || flight != 0 || length == 0)
            return 0;
    } else if (!may_send_small(ignore_nagle)) {
        return 0;
    }
    // Little that could become more with the next acknowledgement waits for that, as long as
    // plenty is under way.
    if (limit < available && length < most && length < congestion_.window() / 3 &&
        flight > 2 * mss && recovery_ == Recovery::Open)
        return 0;
    return length;
}

// Nagle's rule in Minshall's form: a small segment waits while another small one is under way.
bool Connection::may_send_small(bool ignore_nagle) const {
    if (fin_queued_ || ignore_nagle)
        return true;
    if (urgent_sending_ && urgent_end_ > send_next_)
        return true;
    if (options.cork || more_coming_)
        return false;
    if (options.no_delay)
        return true;
    return sent_.empty() || small_end_ <= una_;
}

void Connection::push_output(bool ignore_nagle) {
    if (state_ != State::Established && state_ != State::CloseWait && state_ != State::FinWait1 &&
        state_ != State::Closing && state_ != State::LastAck &&
        !(state_ == State::SynReceived && fast_open_used))
        return;
    if (fin_sent_ && send_next_ > write_end_)
        return;
    if (flow.path.mtu != known_mtu_)
        sync_mss();
    if (unsent() == 0 && !fin_queued_)
        return;
    if (sent_.empty() && last_sent_ != 0 && tcp_.settings.slow_start_after_idle) {
        const u64 idle = now() - last_sent_;
        if (idle > rtt_.base_timeout())
            congestion_.restart_after_idle(idle, rtt_.base_timeout());
    }
    while (unsent() != 0 || (fin_queued_ && !fin_sent_)) {
        const u32 available = unsent();
        const u32 mss = segment_size();
        u32 length = 0;
        if (available > 0) {
            length = sendable(mss, ignore_nagle);
            if (length == 0)
                break;
        }
        if (!send_one(length, mss))
            break;
    }
    // Nothing is under way whose acknowledgement would bring us here again: either the window is
    // closed, or a program holds back what it has (TCP_CORK, MSG_MORE), for 200 ms at most
    // (tcp(7)).
    if (sent_.empty() && unsent() != 0 && !has_deadline(Deadline::Persist))
        set_deadline(Deadline::Persist, now() + persist_delay());
}

// New data from send_next_ on, with the FIN if it is due. False: no memory, or no room.
bool Connection::send_one(u32 length, u32 mss) {
    const Sequence start = send_next_;
    const bool last = start + length == write_end_;
    u8 flags = flag_ack;
    if (last && length > 0)
        flags |= flag_psh;
    if (last && fin_queued_ && !fin_sent_)
        flags |= flag_fin;
    const u64 time = now();
    const u32 space = length + ((flags & flag_fin) != 0 ? 1 : 0);
    if (!sent_.push({start, start + space}, time)) {
        set_deadline(Deadline::Retransmit, time + least_timeout);
        return false;
    }
    const bool was_empty = sent_.count() == 1;
    send_next_ = start + space;
    if ((flags & flag_fin) != 0)
        fin_sent_ = true;
    if (length % mss != 0)
        small_end_ = start + length;
    auto sent = transmit(start, length, flags);
    Counters::count(tcp_.counters.original_data_sent, (space + mss - 1) / mss);
    if (!sent || *sent < length) {
        // Not all of it went: the rest counts as lost and is sent again.
        if (!sent || *sent == 0) {
            sent_.mark_lost(*sent_.last());
        } else {
            SentRange& range = *sent_.last();
            (void)sent_.cut_last(range.start + *sent);
            send_next_ = range.start + *sent;
            if ((flags & flag_fin) != 0)
                fin_sent_ = false;
        }
    }
    if (recovery_ == Recovery::Recovery)
        sent_in_recovery_ += space;
    if (was_empty)
        stalled_since_ = time;
    arm_retransmit(was_empty);
    return sent.has_value();
}

void Connection::appended(u32 bytes, bool more, bool push) {
    write_end_ += bytes;
    more_coming_ = more;
    if (!push)
        return;
    if (state_ == State::SynSent || state_ == State::SynReceived)
        if (!fast_open_used || state_ == State::SynSent)
            return;
    push_output();
}

void Connection::appended_urgent() {
    urgent_end_ = write_end_;
    urgent_sending_ = true;
}

} // namespace kernel::tcp
