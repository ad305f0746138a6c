// Acknowledgements that arrive: what they free, the window they open, the times they tell.
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/connection.hpp"

namespace kernel::tcp {

// RFC 9293, 3.10.7.4, and RFC 5961, 5. False: the segment is not to be looked at any further.
bool Connection::input_ack(const Header& header) {
    const Sequence ack = header.acknowledgement();
    if (ack > send_next_ || ack + max_send_window_ < una_) {
        challenge();
        return false;
    }
    const u64 time = now();
    const Sequence old_una = una_;
    const u32 flight = sent_.in_flight();
    Delivery delivery;
    const u32 old_window = send_window_;
    if (ack > una_) {
        sent_.acknowledge(ack, delivery);
        una_ = ack;
        const Sequence data_end = earlier(ack, write_end_);
        if (data_end > buffer_base_) {
            const u32 bytes = data_end.since(buffer_base_);
            buffer_.release(bytes);
            buffer_base_ = data_end;
            statistics_.bytes_acked += bytes;
        }
        if (urgent_sending_ && urgent_end_ <= una_)
            urgent_sending_ = false;
    }
    if (ack >= old_una)
        update_send_window(header, ack);
    bool duplicate_sack = false;
    if (negotiated_.sack && header.options().sack_count != 0)
        process_sacks(header, delivery, duplicate_sack);
    if (sent_.empty() && delivery.bytes == 0 && old_una == una_) {
        probes_ = 0; // an answer to a probe
        if (send_window_ != 0 && unsent() != 0)
            clear_deadline(Deadline::Persist);
        return true;
    }
    const u32 acked = una_.since(old_una);
    if (header.data_length() == 0)
        Counters::count(tcp_.counters.pure_acks);
    if (delivery.bytes != 0)
        Counters::count(tcp_.counters.delivered, (delivery.bytes + mss_ - 1) / mss_);
    const bool duplicate = acked == 0 && ack == una_ && header.data_length() == 0 &&
                           !header.has(flag_fin) && send_window_ == old_window && !sent_.empty();
    sample_rtt(header, delivery, time);
    if (acked != 0) {
        retransmissions_ = 0;
        probes_ = closed_probes_ = 0;
        stalled_since_ = time;
        soft_error = 0;
        if (!delivery.was_retransmitted || delivery.original_acked)
            rtt_.end_back_off();
    }
    recover(header, delivery, acked, flight, duplicate, duplicate_sack);
    if (sent_.empty()) {
        clear_deadline(Deadline::Retransmit);
        clear_deadline(Deadline::LossProbe);
        clear_deadline(Deadline::Reorder);
        probe_outstanding_ = false;
    } else if (acked != 0) {
        arm_retransmit(true);
    }
    if (acked != 0)
        freed_send_space();
    return true;
}

// RFC 9293, 3.10.7.4: only a segment that is newer than the last that told the window tells it.
void Connection::update_send_window(const Header& header, Sequence ack) {
    u32 window = header.window();
    if (!header.has(flag_syn))
        window <<= negotiated_.send_scale;
    const Sequence sequence = header.sequence();
    if (!(ack > window_update_ack_ || sequence > window_update_sequence_ ||
          (sequence == window_update_sequence_ && window > send_window_)))
        return;
    window_update_sequence_ = sequence;
    window_update_ack_ = ack;
    send_window_ = window;
    if (window > max_send_window_)
        max_send_window_ = window;
    if (window != 0) {
        clear_deadline(Deadline::Persist);
        closed_probes_ = 0;
    }
}

void Connection::process_sacks(const Header& header, Delivery& delivery, bool& duplicate_sack) {
    const Options& told = header.options();
    const Sequence ack = header.acknowledgement();
    for (unsigned i = 0; i < told.sack_count; i++) {
        SequenceRange block = told.sacks[i];
        if (block.end <= block.start)
            continue;
        // The first block may report a duplicate: below the acknowledgement, or inside of the
        // second (RFC 2883, 4).
        if (i == 0) {
            const bool below = block.start < ack;
            const bool inside = told.sack_count > 1 && block.end <= told.sacks[1].end &&
                                block.start >= told.sacks[1].start;
            if (below || inside) {
                duplicate_sack = true;
                statistics_.duplicate_sacks++;
                count_duplicate_report(block, below);
                if (undo_retransmissions_ > 0)
                    undo_retransmissions_--;
                if (probe_outstanding_ && block.end == probe_end_)
                    probe_outstanding_ = false; // the probe was not needed
                if (block.end <= ack)
                    continue;
            }
        }
        if (block.end > send_next_ || block.end <= una_) { // of nothing that is under way
            if (block.end > send_next_)
                Counters::count(tcp_.counters.sacks_discarded);
            continue;
        }
        block.start = later(block.start, una_);
        (void)sent_.sack(block, mss_, delivery); // without memory: less is known
    }
}

void Connection::count_duplicate_report(const SequenceRange& block, bool below) {
    Counters& counters = tcp_.counters;
    Counters::count(below ? counters.duplicate_sacks_received
                          : counters.duplicate_sacks_received_ahead);
    Counters::count(counters.duplicate_segments_reported, (block.size() + mss_ - 1) / mss_);
    if (block.end > send_next_ || block.size() > 0x3fff'ffff)
        Counters::count(undo_possible_ ? counters.duplicate_sacks_old
                                       : counters.duplicate_sacks_no_undo);
}

void Connection::sample_rtt(const Header& header, const Delivery& delivery, u64 time) {
    u64 sample = no_deadline;
    // Karn's rule: a range that was sent twice tells nothing by itself.
    if (delivery.first_sent != no_deadline && !delivery.was_retransmitted)
        sample = time - delivery.first_sent;
    else if (delivery.sack_sent != no_deadline && !delivery.was_retransmitted)
        sample = time - delivery.sack_sent;
    else if (delivery.cumulative != 0 && negotiated_.timestamps && header.options().has_timestamp &&
             header.options().echo != 0) {
        const u32 age = timestamp_now() - header.options().echo; // milliseconds
        if (age < 0x7fff'ffff / 1000)
            sample = (age == 0 ? 1 : u64{age}) * millisecond;
    }
    if (sample != no_deadline && delivery.bytes != 0)
        rtt_.sample(sample, time);
}

void Connection::freed_send_space() {
    // The buffer holds what two windows of congestion need.
    if (!options.send_buffer_fixed) {
        const u64 wanted = 2 * u64{congestion_.window()};
        if (wanted > send_limit_)
            send_limit_ = static_cast<u32>(
                wanted < tcp_.settings.send_most ? wanted : tcp_.settings.send_most);
    }
    if (writers.has_waiters() && writable())
        writers.wake_all(poll_out | poll_wrnorm);
}

} // namespace kernel::tcp
