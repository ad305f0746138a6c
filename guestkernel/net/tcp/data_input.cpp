// Data that arrives: its place in the stream, the memory it takes, when it is acknowledged.
#include <linux/errno.h>

#include "guestkernel/ipc/file_owner.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/connection.hpp"

namespace kernel::tcp {

namespace {
constexpr u64 least_ack_timeout = 40 * millisecond; // TCP_ATO_MIN, TCP_DELACK_MIN of Linux
constexpr u8 most_quick_acks = 16;
constexpr u32 readable_events = poll_in | poll_rdnorm;
} // namespace

// Returns whether what came is to be acknowledged, now or later.
bool Connection::input_data(net::PacketPtr packet, const Header& header) {
    SequenceRange range{header.sequence(), header.sequence() + header.data_length()};
    if (fin_received_) {
        // Nothing can follow a FIN; a repeated one is acknowledged again.
        if (header.end() > receive_next_)
            return false;
        send_duplicate_ack({});
        return false;
    }
    // Nobody will read it (RFC 9293, 3.10.7.4 on the states after a close; RFC 2525, 2.17).
    if (orphaned && range.end > receive_next_ && !range.empty()) {
        Counters::count(tcp_.counters.abort_on_data);
        send_reset();
        finish(ECONNRESET);
        return false;
    }
    if (header.has(flag_fin)) {
        fin_known_ = true;
        fin_at_ = range.end;
    }
    const Sequence right = later(window_right_, receive_next_);
    if (range.end > right) {
        if (range.start >= right) {
            if (right == receive_next_ && !range.empty())
                Counters::count(tcp_.counters.zero_window_drops);
            send_duplicate_ack({}); // a probe of our closed window
            return false;
        }
        if (!packet->trim(right.since(range.start)))
            return false;
        range.end = right;
    }
    if (range.end < receive_next_ || (range.end == receive_next_ && !range.empty())) {
        if (!(fin_known_ && fin_at_ == receive_next_)) {
            quick_acks_ = most_quick_acks;
            Counters::count(tcp_.counters.delayed_acks_lost);
            send_duplicate_ack({range.start, range.end});
            return false;
        }
        range.start = range.end = receive_next_;
    }
    if (range.start < receive_next_) {
        if (!packet->pull(receive_next_.since(range.start)))
            return false;
        range.start = receive_next_;
    }
    if (range.start == receive_next_) {
        if (!range.empty() && !queue_in_order(std::move(packet), range))
            return false;
        if (state_ == State::Closed)
            return false;
        if (fin_known_ && fin_at_ == receive_next_)
            input_fin();
        else if (!range.empty())
            wake_readers(readable_events);
        return state_ != State::Closed;
    }
    if (!range.empty())
        queue_out_of_order(std::move(packet), range);
    else
        acknowledge_now(); // a FIN ahead of its time
    return false;
}

// False: there was no memory for it; it was not taken.
bool Connection::queue_in_order(net::PacketPtr packet, SequenceRange range) {
    u32 memory = packet->true_size();
    if (queued_memory_.load(base::Order::Relaxed) > receive_limit_ && !make_receive_room()) {
        Counters::count(tcp_.counters.receive_drops);
        acknowledge_now();
        return false;
    }
    note_data_arrival(range.size(), *packet);
    packet->scratch<Placed>() = {range.start, range.end};
    receive_next_ = range.end;
    statistics_.bytes_received += range.size();
    statistics_.data_in++;
    // Small pieces that pile up share one packet.
    net::Packet* last = arrived_.back();
    if (last != nullptr && last->fragments().empty() && packet->fragments().empty() &&
        packet->length() <= last->tailroom()) {
        __builtin_memcpy(last->put(packet->length()), packet->data(), packet->length());
        last->scratch<Placed>().end = range.end;
        Counters::count(tcp_.counters.received_coalesced);
    } else {
        queued_memory_.fetch_add(memory, base::Order::Relaxed);
        arrived_.push_back(std::move(packet));
    }
    if (out_of_order_.empty())
        return true;
    net::PacketList ready;
    out_of_order_.take_ready(receive_next_, ready);
    while (net::PacketPtr next = ready.pop_front()) {
        memory = next->true_size();
        statistics_.bytes_received += next->length();
        queued_memory_.fetch_add(memory, base::Order::Relaxed);
        arrived_.push_back(std::move(next));
    }
    has_urgent_ack_ = true; // a hole was filled, in part at least (RFC 5681, 4.2)
    return true;
}

void Connection::queue_out_of_order(net::PacketPtr packet, SequenceRange range) {
    const u32 used = queued_memory_.load(base::Order::Relaxed) + out_of_order_.memory();
    if (used > receive_limit_ && !make_receive_room()) {
        Counters::count(tcp_.counters.out_of_order_drops);
        acknowledge_now();
        return;
    }
    Counters::count(tcp_.counters.out_of_order);
    SequenceRange duplicate;
    quick_acks_ = most_quick_acks;
    interactive_ = false;
    (void)out_of_order_.insert(std::move(packet), range, duplicate);
    if (!duplicate.empty() && duplicate.start == range.start && duplicate.end == range.end)
        Counters::count(tcp_.counters.out_of_order_merges);
    send_duplicate_ack(duplicate); // at once, so that the sender learns of the hole
}

// Room for one packet more, whatever its size: one that alone exceeds a small buffer must get
// through, too. Small packets are put together, then what came early is given up, the farthest
// first.
bool Connection::make_receive_room() {
    const auto fits = [&] {
        return queued_memory_.load(base::Order::Relaxed) + out_of_order_.memory() <= receive_limit_;
    };
    Counters::count(tcp_.counters.prune_calls);
    collapse_arrived();
    bool dropped = false;
    while (!fits()) {
        if (!out_of_order_.drop_last()) {
            Counters::count(tcp_.counters.prune_failures);
            return false;
        }
        if (!std::exchange(dropped, true))
            Counters::count(tcp_.counters.pruned);
    }
    return true;
}

// Packets whose memory is mostly overhead become pages full of bytes.
void Connection::collapse_arrived() {
    net::PacketList old = std::exchange(arrived_, net::PacketList());
    net::PacketPtr target;
    const auto flush = [&] {
        if (target) {
            queued_memory_.fetch_add(target->true_size(), base::Order::Relaxed);
            arrived_.push_back(std::move(target));
        }
        target = {};
    };
    while (net::PacketPtr packet = old.pop_front()) {
        const u32 length = packet->length();
        const bool wasteful = packet->true_size() > 2 * length;
        if (wasteful && !target) {
            target = net::Packet::allocate(0, 0);
            if (target)
                target->scratch<Placed>() = {packet->scratch<Placed>().start,
                                             packet->scratch<Placed>().start};
        }
        if (wasteful && target && target->length() + length <= 8 * page_size) {
            const u32 before = target->length();
            bool copied = true;
            packet->for_pieces(0, length, [&](const u8* from, u32 bytes) {
                copied = copied && target->append(from, bytes).has_value();
            });
            if (copied) {
                target->scratch<Placed>().end = packet->scratch<Placed>().end;
                queued_memory_.fetch_sub(packet->true_size(), base::Order::Relaxed);
                Counters::count(tcp_.counters.collapsed);
                continue;
            }
            (void)target->trim(before);
        }
        if (target && target->length() == 0)
            target = {};
        flush();
        arrived_.push_back(std::move(packet));
    }
    flush();
}

// Linux's estimate of how the peer sends, by which acknowledgements are delayed.
void Connection::note_data_arrival(u32 bytes, const net::Packet& packet) {
    const u64 time = now();
    const u32 segment = packet.segment_size != 0 ? packet.segment_size : bytes;
    ack_pending_ = true;
    if (segment >= receive_mss_) {
        const u32 most = announced_mss_;
        receive_mss_ = segment < most ? segment : most;
    } else {
        pushed_ = pushed_ < 2 ? static_cast<u8>(pushed_ + 1) : pushed_;
    }
    if (ack_timeout_ == 0) {
        quick_acks_ = most_quick_acks; // the first data: a sender in slow start
        ack_timeout_ = least_ack_timeout;
    } else {
        const u64 gap = time - last_received_;
        if (gap <= least_ack_timeout / 2) {
            ack_timeout_ = ack_timeout_ / 2 + least_ack_timeout / 2;
        } else if (gap < ack_timeout_) {
            ack_timeout_ = ack_timeout_ / 2 + gap;
            if (ack_timeout_ > rtt_.base_timeout())
                ack_timeout_ = rtt_.base_timeout();
        } else if (gap > rtt_.base_timeout()) {
            quick_acks_ = most_quick_acks; // the sender started anew
        }
    }
    last_received_ = time;
    // How long a window's worth takes: the receiver's idea of the round trip.
    if (receive_rtt_start_ == 0 || receive_next_ > receive_rtt_end_) {
        if (receive_rtt_start_ != 0) {
            const u64 sample = time - receive_rtt_start_;
            if (receive_rtt_ == 0 || sample < receive_rtt_)
                receive_rtt_ = sample == 0 ? 1 : sample;
        }
        receive_rtt_start_ = time;
        receive_rtt_end_ = later(window_right_, receive_next_);
    }
}

// Now, or with what goes out next, or when the delay is over (RFC 9293, 3.8.6.3; RFC 5681, 4.2).
void Connection::decide_acknowledgement() {
    if (has_urgent_ack_) {
        has_urgent_ack_ = false;
        acknowledge_now();
        return;
    }
    if (!ack_pending_ && acknowledged_ == receive_next_)
        return;
    const u32 waiting = receive_next_.since(acknowledged_);
    const u32 announced = window_right_ > receive_next_ ? window_right_.since(receive_next_) : 0;
    const bool much = waiting > receive_mss_ &&
                      (readable() < options.receive_low_water || choose_window() > announced);
    if (much || (quick_acks_ > 0 && !interactive_) || !out_of_order_.empty() || fin_received_) {
        acknowledge_now();
        return;
    }
    if (has_deadline(Deadline::DelayedAck))
        return;
    const u64 delay = ack_timeout_ < 5 * least_ack_timeout ? ack_timeout_ : 5 * least_ack_timeout;
    set_deadline(Deadline::DelayedAck,
                 now() + (delay < least_ack_timeout ? least_ack_timeout : delay));
}

void Connection::wake_readers(u32 events) {
    if (!readers.has_waiters())
        return;
    if (readable() < options.receive_low_water && !fin_received_ &&
        queued_memory_.load(base::Order::Relaxed) < receive_limit_ / 2)
        return;
    readers.wake_all(events);
}

void Connection::set_low_water(u32 bytes) {
    if (bytes == options.receive_low_water)
        return;
    options.receive_low_water = bytes;
    if (!options.receive_buffer_fixed && 2 * bytes > receive_limit_)
        receive_limit_ = 2 * bytes;
    if (state_ != State::Closed && state_ != State::Listen && readable() > 0)
        wake_readers(readable_events); // enough by now, perhaps
}

// --- the reader

void Connection::consumed(u32 bytes, u32 memory) {
    copied_ += bytes;
    if (urgent_.pending && urgent_.at < copied_)
        urgent_.pending = urgent_.valid = false;
    if (memory != 0)
        queued_memory_.fetch_sub(memory, base::Order::Relaxed);
    if (bytes != 0 && !options.receive_buffer_fixed && tcp_.settings.moderate_receive_buffer)
        grow_receive_buffer();
    update_window_after_read(bytes != 0);
}

// The buffer follows what the program reads in one round trip (Linux's dynamic right-sizing): room
// for twice that.
void Connection::grow_receive_buffer() {
    const u64 time = now();
    const u64 round = receive_rtt_ != 0 ? receive_rtt_ : rtt_.smoothed();
    if (round == 0 || time - measure_start_ < round)
        return;
    const u32 copied = copied_.since(measure_copied_);
    measure_start_ = time;
    measure_copied_ = copied_;
    if (copied <= measured_)
        return;
    u64 window = 2 * u64{copied} + 16 * u64{announced_mss_};
    if (measured_ != 0)
        window += 2 * (window * (copied - measured_) / measured_);
    measured_ = copied;
    const u64 wanted = 2 * window;
    const u32 limit =
        wanted < tcp_.settings.receive_most ? static_cast<u32>(wanted) : tcp_.settings.receive_most;
    if (limit > receive_limit_)
        receive_limit_ = limit;
}

// Reading may be what an acknowledgement waits for, or may open the window.
void Connection::update_window_after_read(bool read) {
    if (state_ == State::Closed || state_ == State::SynSent || state_ == State::Listen)
        return;
    if (ack_pending_) {
        const bool much = receive_next_.since(acknowledged_) > receive_mss_;
        const bool drained = read && (pushed_ == 2 || (pushed_ == 1 && !interactive_)) &&
                             queued_memory_.load(base::Order::Relaxed) == 0;
        if (much || drained) {
            acknowledge_now();
            return;
        }
    }
    if (!read || fin_received_)
        return;
    const u32 announced = window_right_ > receive_next_ ? window_right_.since(receive_next_) : 0;
    if (2 * u64{announced} > receive_limit_ / 2)
        return;
    const u32 window = choose_window();
    if (window != 0 && window >= 2 * announced)
        acknowledge_now();
}

// --- urgent data, as Linux has it: one byte, the last one that was marked; the pointer counts the
// byte after it (BSD's reading).

void Connection::input_urgent(const Header& header, const net::Packet& packet) {
    if (header.urgent() == 0)
        return;
    const Sequence at = header.sequence() + (header.urgent() - 1u);
    if (at < copied_ || fin_received_)
        return; // old
    if (urgent_.pending && at <= urgent_.at) {
        take_urgent_byte(header, packet);
        return;
    }
    // Unread data in front of the old mark would be urgent no more: Linux drops its byte.
    urgent_.pending = true;
    urgent_.valid = urgent_.taken = false;
    urgent_.at = at;
    if (file != nullptr)
        FileOwner::tell_urgent(*file);
    wake_everybody(poll_pri);
    take_urgent_byte(header, packet);
}

void Connection::take_urgent_byte(const Header& header, const net::Packet& packet) {
    if (!urgent_.pending || urgent_.valid || urgent_.taken || urgent_.at < header.sequence())
        return;
    const u32 offset = urgent_.at.since(header.sequence());
    if (offset >= header.data_length() || !packet.read(offset, urgent_.byte))
        return;
    urgent_.valid = true;
    wake_everybody(poll_pri);
}

} // namespace kernel::tcp
