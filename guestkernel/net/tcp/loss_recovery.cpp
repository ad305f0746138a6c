// What to do about loss: RACK's verdicts (RFC 8985) or, without SACK, NewReno's (RFC 6582);
// proportional rate reduction (RFC 6937); tail loss probes; the retransmission timer (RFC 6298);
// undoing what turns out to have been for nothing (RFC 3522, RFC 3708).
#include <linux/errno.h>

#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/connection.hpp"

namespace kernel::tcp {

namespace {
constexpr u32 duplicate_threshold = 3;
constexpr u64 probe_floor = 10 * millisecond;
} // namespace

void Connection::recover(const Header& header, const Delivery& delivery, u32 acked, u32 flight,
                         bool duplicate, bool duplicate_sack) {
    const u64 time = now();
    u64 echo_age = no_deadline;
    if (negotiated_.timestamps && header.options().has_timestamp && header.options().echo != 0)
        echo_age = u64{timestamp_now() - header.options().echo} * millisecond;
    rack_.delivered(delivery, time, echo_age, rtt_);
    if (duplicate_sack)
        rack_.duplicate_reported(una_, send_next_);
    if (delivery.reordered) {
        statistics_.reorders++;
        Counters::count(negotiated_.sack ? tcp_.counters.sack_reorders
                                         : tcp_.counters.reno_reorders);
    }
    if (probe_outstanding_ && una_ >= probe_end_) {
        // The probe repaired a loss that nothing else told of: it counts (RFC 8985, 7.4).
        probe_outstanding_ = false;
        if (probe_was_retransmission_ && !duplicate_sack && recovery_ == Recovery::Open) {
            congestion_.loss(time);
            congestion_.set_window(congestion_.threshold());
            Counters::count(tcp_.counters.loss_probe_recoveries);
        }
    }
    if (recovery_ == Recovery::Recovery || recovery_ == Recovery::Loss) {
        if (undo_possible_ && try_undo(header)) {
            // nothing was lost
        } else if (acked != 0 && una_ >= recovery_end_) {
            leave_recovery();
        }
    }
    if (!negotiated_.sack) {
        if (duplicate) {
            duplicate_acks_++;
        } else if (acked != 0) {
            // A partial acknowledgement tells of the next loss (RFC 6582, 3.2).
            if (recovery_ == Recovery::Recovery)
                (void)sent_.mark_head_lost(mss_);
            else
                duplicate_acks_ = 0;
        }
        if (duplicate_acks_ >= duplicate_threshold && recovery_ == Recovery::Open)
            (void)sent_.mark_head_lost(mss_);
    }
    detect_losses();
    u32 delivered = delivery.bytes;
    if (!negotiated_.sack && duplicate)
        delivered += mss_;
    if (sent_.lost() != 0 && recovery_ == Recovery::Open)
        enter_recovery();
    if (recovery_ == Recovery::Recovery)
        reduce_proportionally(delivered, acked != 0);
    else if (delivered != 0 && acked != 0)
        congestion_.acked({delivered, flight, time, rtt_.smoothed(),
                           delivery.was_retransmitted ? 0 : rtt_.latest()});
    retransmit_lost();
}

void Connection::detect_losses() {
    if (!negotiated_.sack || sent_.empty()) {
        clear_deadline(Deadline::Reorder);
        return;
    }
    const bool impatient =
        recovery_ != Recovery::Open || sent_.sacked() >= duplicate_threshold * mss_;
    const u64 wait = rack_.detect(sent_, now(), rtt_, impatient);
    if (wait != 0)
        set_deadline(Deadline::Reorder, now() + wait);
    else
        clear_deadline(Deadline::Reorder);
}

void Connection::enter_recovery() {
    const u64 time = now();
    congestion_.loss(time);
    recovery_ = Recovery::Recovery;
    recovery_end_ = send_next_;
    flight_at_loss_ = sent_.total() > 0 ? sent_.total() : mss_;
    delivered_in_recovery_ = sent_in_recovery_ = 0;
    undo_possible_ = true;
    undo_retransmissions_ = 0;
    first_retransmission_ = 0;
    Counters::count(negotiated_.sack ? tcp_.counters.sack_recoveries
                                     : tcp_.counters.reno_recoveries);
}

void Connection::leave_recovery() {
    if (recovery_ == Recovery::Recovery)
        congestion_.set_window(congestion_.threshold() < congestion_.window() ||
                                       sent_.in_flight() > mss_
                                   ? congestion_.threshold()
                                   : congestion_.window());
    if (recovery_ == Recovery::Recovery)
        rack_.recovery_ended();
    recovery_ = Recovery::Open;
    undo_possible_ = false;
    duplicate_acks_ = 0;
}

// The originals arrived after all: an echo older than the first retransmission (Eifel), or each
// retransmission reported as a duplicate.
bool Connection::try_undo(const Header& header) {
    const bool echoes = negotiated_.timestamps && header.options().has_timestamp &&
                        header.options().echo != 0 && first_retransmission_ != 0 &&
                        header.acknowledgement() > recovery_start_;
    bool needless = false;
    if (echoes) {
        const u32 then = static_cast<u32>(first_retransmission_ / millisecond) + timestamp_offset_;
        needless = static_cast<i32>(header.options().echo - then) < 0;
    }
    if (!needless && first_retransmission_ != 0 && retransmitted_once_ &&
        undo_retransmissions_ == 0)
        needless = true;
    if (!needless)
        return false;
    Counters& counters = tcp_.counters;
    if (recovery_ == Recovery::Loss) {
        Counters::count(counters.spurious);
        Counters::count(counters.loss_undos);
    } else {
        Counters::count(undo_retransmissions_ == 0 && retransmitted_once_ ? counters.duplicate_undos
                        : una_ >= recovery_end_                           ? counters.full_undos
                                                                          : counters.partial_undos);
    }
    congestion_.undo();
    sent_.forget_losses();
    rtt_.end_back_off();
    recovery_ = Recovery::Open;
    undo_possible_ = false;
    duplicate_acks_ = 0;
    return true;
}

// RFC 6937: as much is sent as was delivered, in the proportion of the window's reduction.
void Connection::reduce_proportionally(u32 delivered, bool progress) {
    delivered_in_recovery_ += delivered;
    const u32 in_flight = pipe();
    const u32 threshold = congestion_.threshold();
    u64 allowed = 0;
    if (in_flight > threshold) {
        const u64 share =
            (u64{delivered_in_recovery_} * threshold + flight_at_loss_ - 1) / flight_at_loss_;
        allowed = share > sent_in_recovery_ ? share - sent_in_recovery_ : 0;
    } else {
        const u32 balance = delivered_in_recovery_ > sent_in_recovery_
                                ? delivered_in_recovery_ - sent_in_recovery_
                                : 0;
        allowed = balance > delivered ? balance : delivered;
        if (progress)
            allowed += mss_;
        const u32 room = threshold - in_flight;
        allowed = allowed < room ? allowed : room;
    }
    // The first retransmission goes out in any case.
    if (sent_in_recovery_ == 0 && allowed < mss_)
        allowed = mss_;
    congestion_.set_window(static_cast<u32>(in_flight + allowed));
}

// NewReno learns of what arrived by counting duplicates.
u32 Connection::pipe() const {
    const u32 flight = sent_.in_flight();
    if (negotiated_.sack)
        return flight;
    const u64 arrived = u64{duplicate_acks_} * mss_;
    return flight > arrived ? flight - static_cast<u32>(arrived) : 0;
}

void Connection::retransmit_lost() {
    while (SentRange* range = sent_.next_lost()) {
        const u32 in_flight = pipe();
        const u32 window = congestion_.window();
        if (in_flight != 0 && in_flight + mss_ > window)
            return;
        if (!retransmit_range(*range, window > in_flight ? window - in_flight : mss_))
            return;
        Counters::count(recovery_ == Recovery::Loss ? tcp_.counters.slow_start_retransmits
                                                    : tcp_.counters.fast_retransmits);
    }
}

// Sends as much of it again as `room` allows, one segment at least. False: it did not go.
bool Connection::retransmit_range(SentRange& range, u32 room) {
    const u32 mss = segment_size();
    u32 most = room / mss * mss;
    most = most < mss ? mss : most < 32 * mss ? most : 32 * mss;
    most = most < 60'000 || mss > 60'000 ? most : 60'000 / mss * mss;
    most = most < mss ? mss : most;
    const u32 space = range.size() < most ? range.size() : most;
    const Sequence end = range.start + space;
    // What the peer has taken back of its window is probed for, not flooded.
    const Sequence window_end = una_ + send_window_;
    if (range.start >= window_end && range.start != una_)
        return false;
    const bool with_fin = fin_sent_ && end > write_end_;
    const u32 length = space - (with_fin ? 1 : 0);
    u8 flags = flag_ack;
    if (with_fin)
        flags |= flag_fin;
    if (range.start + length == write_end_ && length > 0)
        flags |= flag_psh;
    const u64 time = now();
    const Sequence start = range.start;
    if (!sent_.retransmit(range, space, time))
        return false;
    if (first_retransmission_ == 0) {
        first_retransmission_ = time;
        recovery_start_ = una_;
    }
    retransmitted_once_ = true;
    undo_retransmissions_++;
    sent_in_recovery_ += space;
    statistics_.retransmits++;
    statistics_.bytes_retransmitted += length;
    Counters::count(tcp_.counters.retransmitted);
    const u64 last = last_sent_;
    auto sent = transmit(start, length, flags);
    if (!sent) {
        last_sent_ = last;
        Counters::count(tcp_.counters.retransmit_failures);
    }
    if (!has_deadline(Deadline::Retransmit))
        arm_retransmit(true);
    return sent.has_value();
}

// --- timers

u64 Connection::loss_probe_delay() const {
    u64 delay = rtt_.measured() ? 2 * rtt_.smoothed() : initial_timeout;
    // One segment's acknowledgement may be delayed at the other end.
    delay += sent_.count() == 1 ? least_timeout : probe_floor;
    return delay;
}

void Connection::arm_retransmit(bool restart) {
    const u64 time = now();
    if (restart || !has_deadline(Deadline::Retransmit))
        set_deadline(Deadline::Retransmit, time + rtt_.timeout());
    const bool probes = negotiated_.sack && recovery_ == Recovery::Open && !sent_.any_sacked() &&
                        !probe_outstanding_ && retransmissions_ == 0;
    const u64 delay = probes ? loss_probe_delay() : 0;
    if (probes && delay < rtt_.timeout())
        set_deadline(Deadline::LossProbe, time + delay);
    else
        clear_deadline(Deadline::LossProbe);
}

void Connection::on_loss_probe() {
    if (sent_.empty() || recovery_ != Recovery::Open)
        return;
    Counters::count(tcp_.counters.loss_probes);
    probe_was_retransmission_ = false;
    const u32 mss = segment_size();
    const u32 available = unsent();
    const Sequence window_end = una_ + send_window_;
    const u32 window = window_end > send_next_ ? window_end.since(send_next_) : 0;
    u32 length = available < mss ? available : mss;
    length = length < window ? length : window;
    if (length > 0) {
        (void)send_one(length, mss);
    } else {
        // The end of what was sent last, again.
        SentRange* last = sent_.last();
        if (last->size() > mss && !sent_.cut_last(last->end - mss, true))
            return;
        last = sent_.last();
        if (!retransmit_range(*last, mss))
            return;
        probe_was_retransmission_ = true;
    }
    probe_outstanding_ = true;
    probe_end_ = send_next_;
    clear_deadline(Deadline::LossProbe);
    set_deadline(Deadline::Retransmit, now() + rtt_.timeout());
}

// What a timeout says of how losses were dealt with before it.
void Connection::count_failure() {
    Counters& counters = tcp_.counters;
    if (recovery_ == Recovery::Recovery)
        Counters::count(negotiated_.sack ? counters.sack_recovery_failures
                                         : counters.reno_recovery_failures);
    else if (recovery_ == Recovery::Loss)
        Counters::count(counters.loss_failures);
    else if (sent_.any_sacked() || duplicate_acks_ != 0)
        Counters::count(negotiated_.sack ? counters.sack_failures : counters.reno_failures);
}

void Connection::on_retransmit_timeout() {
    if (sent_.empty()) {
        push_output(); // what there was no memory for
        return;
    }
    Counters::count(tcp_.counters.timeouts);
    const unsigned limit = orphaned ? orphan_retries() : tcp_.settings.retries;
    if (given_up(stalled_since_, retransmissions_, limit)) {
        time_out();
        return;
    }
    const u64 time = now();
    if (retransmissions_ == 0)
        count_failure();
    if (recovery_ != Recovery::Loss || una_ >= recovery_end_) {
        // A timeout in the middle of recovery comes on top of a reduction that was made.
        if (recovery_ == Recovery::Open) {
            congestion_.timeout(time, sent_.in_flight());
            undo_possible_ = true;
        } else {
            congestion_.set_window(mss_);
        }
        undo_retransmissions_ = 0;
        first_retransmission_ = 0;
        retransmitted_once_ = false;
        recovery_end_ = send_next_;
    }
    recovery_ = Recovery::Loss;
    congestion_.set_window(mss_);
    duplicate_acks_ = 0;
    probe_outstanding_ = false;
    sent_in_recovery_ = 0;
    // A peer may forget what it reported (RFC 2018, 8): if the first range is marked, it did.
    const bool reneged = sent_.first()->sacked;
    if (reneged)
        Counters::count(tcp_.counters.sack_reneges);
    sent_.mark_all_lost(reneged);
    rack_.timed_out();
    clear_deadline(Deadline::LossProbe);
    clear_deadline(Deadline::Reorder);
    retransmissions_++;
    rtt_.back_off();
    if (retransmissions_ > tcp_.settings.retries_before_doubt)
        flow.path.generation = 0; // perhaps there is another way
    if (SentRange* range = sent_.next_lost())
        (void)retransmit_range(*range, mss_);
    set_deadline(Deadline::Retransmit, now() + rtt_.timeout());
}

} // namespace kernel::tcp
