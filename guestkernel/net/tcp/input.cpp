// Segments for a connection: RFC 9293, 3.10.7, with the defences of RFC 5961 and PAWS of RFC 7323.
#include <linux/errno.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/connection.hpp"
#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

namespace {
constexpr u64 timestamp_lifetime = u64{24} * 24 * 3600 * nanoseconds_per_second; // RFC 7323, 5.5
constexpr u32 all_events =
    poll_in | poll_rdnorm | poll_out | poll_wrnorm | poll_rdhup | poll_hup | poll_err | poll_pri;
} // namespace

void Connection::input(net::PacketPtr packet, const Header& header, const net::IpInfo& info) {
    SpinGuard guard(lock);
    // It may have ended while the segment was on its way here; then the peer sends it again.
    if (!in_table() || state_ == State::Closed)
        return;
    if (too_few_hops(info)) {
        Counters::count(tcp_.counters.hop_limit_drops);
        return;
    }
    statistics_.segments_in++;
    input_locked(std::move(packet), header);
}

void Connection::input_locked(net::PacketPtr packet, const Header& header) {
    if (state_ == State::SynSent) {
        input_syn_sent(std::move(packet), header);
        return;
    }
    if (!check_timestamp(header))
        return;
    if (!acceptable(header))
        return;
    if (header.has(flag_rst)) {
        input_reset(header);
        return;
    }
    if (header.has(flag_syn)) {
        Counters::count(tcp_.counters.syn_challenges);
        challenge(); // RFC 5961, 4.2
        return;
    }
    if (!header.has(flag_ack))
        return;
    note_timestamp(header);
    if (state_ == State::SynReceived && !syn_received_ack(header))
        return;
    if (!input_ack(header))
        return;
    last_progress_ = now();
    if (has_deadline(Deadline::Keepalive) && probes_ == 0 && options.keepalive)
        keepalive_changed();
    if (!advance_state())
        return;
    if (header.has(flag_urg))
        input_urgent(header, *packet);
    bool needs_ack = false;
    if (header.data_length() != 0 || header.has(flag_fin))
        needs_ack = input_data(std::move(packet), header);
    if (state_ == State::Closed)
        return; // and somewhere else by now: TIME-WAIT, or reset
    push_output();
    if (needs_ack)
        decide_acknowledgement();
    else if (has_urgent_ack_) {
        has_urgent_ack_ = false;
        acknowledge_now();
    }
}

// Whether the timestamp is no older than what was seen (PAWS). False: it was answered.
bool Connection::check_timestamp(const Header& header) {
    if (!negotiated_.timestamps)
        return true;
    const Options& told = header.options();
    if (!told.has_timestamp || header.has(flag_rst))
        return true;
    const i32 age = static_cast<i32>(recent_timestamp_ - told.timestamp);
    if (age <= 0 || now() - recent_timestamp_at_ > timestamp_lifetime)
        return true;
    // An acknowledgement that was overtaken by another is no danger: Linux allows a duplicate with
    // nothing new to it.
    Counters::count(tcp_.counters.paws_rejected);
    if (!rate_limited())
        send_duplicate_ack({header.sequence(), header.end()});
    else
        Counters::count(tcp_.counters.answers_skipped_paws);
    return false;
}

void Connection::note_timestamp(const Header& header) {
    const Options& told = header.options();
    if (!negotiated_.timestamps || !told.has_timestamp)
        return;
    // RFC 7323, 4.3: of segments that reach back to what was last acknowledged.
    if (header.sequence() <= acknowledged_ &&
        static_cast<i32>(told.timestamp - recent_timestamp_) >= 0) {
        recent_timestamp_ = told.timestamp;
        recent_timestamp_at_ = now();
    }
}

// Whether any of it lies in the window (RFC 9293, 3.4). False: it was answered if need be.
bool Connection::acceptable(const Header& header) {
    const Sequence start = header.sequence(), end = header.end();
    const Sequence right = later(window_right_, receive_next_);
    if (end >= acknowledged_ && start <= right &&
        (end >= receive_next_ || header.sequence_length() == 0 || start < receive_next_))
        return true;
    if (header.has(flag_rst))
        return false;
    if (header.has(flag_syn)) {
        if (state_ == State::SynReceived && start == receive_initial_) {
            if (!rate_limited())
                send_syn(true); // our answer was lost
        } else {
            Counters::count(tcp_.counters.syn_challenges);
            challenge();
        }
        return false;
    }
    if (rate_limited()) {
        Counters::count(tcp_.counters.answers_skipped_sequence);
        return false;
    }
    if (header.sequence_length() != 0 && start < receive_next_)
        Counters::count(tcp_.counters.delayed_acks_lost);
    send_duplicate_ack(header.sequence_length() != 0 ? SequenceRange{start, end} : SequenceRange{});
    return false;
}

void Connection::input_reset(const Header& header) {
    // RFC 5961, 3.2: only the exact number resets; others in the window are asked about.
    if (header.sequence() != receive_next_) {
        challenge();
        return;
    }
    switch (state_) {
    case State::CloseWait:
        finish(EPIPE);
        break;
    case State::SynReceived:
        finish(accepted ? ECONNREFUSED : ECONNRESET);
        break;
    default:
        finish(ECONNRESET);
        break;
    }
}

// The acknowledgement that ends the handshake, of a simultaneous open or a fast open.
bool Connection::syn_received_ack(const Header& header) {
    const Sequence ack = header.acknowledgement();
    if (ack <= send_initial_ || ack > send_next_) {
        send_control(flag_rst, ack);
        return false;
    }
    if (una_ == send_initial_)
        una_ = send_initial_ + 1;
    update_initial_window(header, true);
    if (syn_sent_at_ != 0 && retransmissions_ == 0)
        rtt_.sample(now() - syn_sent_at_, now());
    become_established();
    if (!sent_.empty())
        arm_retransmit(true); // the answer to a fast open's data: the timer was the SYN's, too
    if (fast_open_used && listener && !accepted)
        listener->lost(*this); // it counts no more
    writers.wake_all(poll_out | poll_wrnorm);
    return true;
}

void Connection::update_initial_window(const Header& header, bool scaled) {
    send_window_ = header.window();
    if (scaled)
        send_window_ <<= negotiated_.send_scale;
    if (send_window_ > max_send_window_)
        max_send_window_ = send_window_;
    window_update_sequence_ = header.sequence();
    window_update_ack_ = header.acknowledgement();
}

// --- the other side of open()

void Connection::learn_syn(const Header& header) {
    const Options& told = header.options();
    negotiated_.peer_mss = told.mss != 0 ? told.mss : 536;
    negotiated_.timestamps = negotiated_.timestamps && told.has_timestamp;
    negotiated_.sack = negotiated_.sack && told.sack_permitted;
    negotiated_.scaling = negotiated_.scaling && told.has_scale;
    negotiated_.send_scale = negotiated_.scaling ? told.scale : 0;
    if (!negotiated_.scaling)
        negotiated_.receive_scale = 0;
    if (negotiated_.timestamps) {
        recent_timestamp_ = told.timestamp;
        recent_timestamp_at_ = now();
    }
    receive_initial_ = header.sequence();
    receive_next_ = copied_ = acknowledged_ = measure_copied_ = receive_initial_ + 1;
    window_right_ = receive_next_ + initial_window_;
    urgent_ = {};
    urgent_.at = receive_initial_;
}

void Connection::input_syn_sent(net::PacketPtr, const Header& header) {
    const Sequence ack = header.acknowledgement();
    const bool acks = header.has(flag_ack);
    if (acks && (ack <= send_initial_ || ack > send_next_)) {
        if (!header.has(flag_rst))
            send_control(flag_rst, ack);
        return;
    }
    if (acks && negotiated_.timestamps && header.options().has_timestamp &&
        header.options().echo != 0) {
        // An echo of something this connection never sent (RFC 7323, 3.2).
        const i32 age = static_cast<i32>(timestamp_now() - header.options().echo);
        if (age < 0 || u64(age) * millisecond > now() - open_started_ + 2 * millisecond) {
            Counters::count(tcp_.counters.paws_active_rejected);
            send_control(flag_rst, ack);
            return;
        }
    }
    if (header.has(flag_rst)) {
        if (acks)
            finish(ECONNREFUSED);
        return;
    }
    if (!header.has(flag_syn))
        return;
    initial_window_ = window_right_.since(receive_next_);
    learn_syn(header);
    if (fast_open_used && acks)
        learn_fast_open(header);
    if (!acks) {
        // Both opened at once (RFC 9293, figure 8).
        set_state(State::SynReceived);
        update_initial_window(header, false);
        send_syn(true);
        set_deadline(Deadline::Retransmit, now() + rtt_.timeout());
        return;
    }
    una_ = ack;
    statistics_.bytes_acked = 1; // the SYN
    send_next_ = later(ack, send_initial_ + 1);
    if (ack > buffer_base_) { // data that went with the SYN
        const u32 bytes = ack.since(buffer_base_);
        buffer_.release(bytes);
        buffer_base_ = ack;
        statistics_.bytes_acked += bytes;
    }
    update_initial_window(header, false);
    if (syn_sent_at_ != 0 && retransmissions_ == 0)
        rtt_.sample(now() - syn_sent_at_, now());
    sync_mss();
    become_established();
    const bool will_send = unsent() != 0 || fin_queued_;
    if (!will_send)
        acknowledge_now(); // else it rides on the first data
    push_output();
    if (will_send && acknowledged_ != receive_next_)
        acknowledge_now();
    wake_everybody(poll_out | poll_wrnorm);
}

void Connection::learn_fast_open(const Header& header) {
    const Options& told = header.options();
    if (told.has_cookie && told.cookie.length != 0)
        tcp_.keep_fast_open_cookie(pair.remote.address, told.cookie, negotiated_.peer_mss);
    if (fast_open_data_ && header.acknowledgement() == send_initial_ + 1) {
        Counters::count(tcp_.counters.fast_open_failed);
        if (!told.has_cookie) // a server that forgot its key
            tcp_.keep_fast_open_cookie(pair.remote.address, {}, 0);
    } else if (fast_open_data_) {
        Counters::count(tcp_.counters.fast_open_active);
    }
}

// Data of a SYN whose cookie was right.
void Connection::accept_fast_open(net::PacketPtr packet, const Header& header) {
    if (header.data_length() != 0) {
        const Sequence start = header.sequence() + 1;
        (void)queue_in_order(std::move(packet), {start, start + header.data_length()});
    }
    syn_sent_at_ = now();
    send_syn(true);
}

void Connection::become_established() {
    set_state(fin_queued_ ? State::FinWait1 : State::Established);
    clear_deadline(Deadline::Retransmit);
    if (retransmissions_ != 0)
        rtt_.set_initial_timeout(3 * nanoseconds_per_second); // RFC 6298, 5.7
    rtt_.end_back_off();
    const bool lost_syn = retransmissions_ > 1;
    retransmissions_ = 0;
    sync_mss();
    congestion_.start(options.algorithm, mss_);
    if (flow.path.initial_window != 0)
        congestion_.set_window(flow.path.initial_window * mss_);
    if (lost_syn)
        congestion_.set_window(mss_); // RFC 5681, 3.1
    if (!options.send_buffer_fixed) {
        const u32 wanted = 2 * congestion_.window();
        send_limit_ = wanted < tcp_.settings.send_most ? wanted : tcp_.settings.send_most;
        if (send_limit_ < tcp_.settings.send_default)
            send_limit_ = tcp_.settings.send_default;
    }
    receive_mss_ = negotiated_.peer_mss < 536 ? negotiated_.peer_mss : 536;
    measure_start_ = last_progress_ = now();
    measured_ = 10 * u32{announced_mss_};
    quick_acks_ = 16;
    ack_timeout_ = 0;
    interactive_ = false;
    if (options.keepalive)
        keepalive_changed();
}

// --- closing

// After an acknowledgement: has our FIN arrived? False: nothing more to do with the segment.
bool Connection::advance_state() {
    if (!fin_sent_ || una_ <= write_end_)
        return true;
    switch (state_) {
    case State::FinWait1:
        set_state(State::FinWait2);
        wake_everybody(poll_out | poll_wrnorm);
        if (!orphaned)
            return true;
        if (options.fin_wait_s < 0) {
            finish(0);
            return false;
        }
        set_deadline(Deadline::End, now() + fin_wait());
        return true;
    case State::Closing:
        enter_time_wait();
        return false;
    case State::LastAck:
        finish(0);
        return false;
    default:
        return true;
    }
}

void Connection::input_fin() {
    receive_next_ += 1;
    fin_received_ = true;
    read_shut_ = true;
    out_of_order_.clear();
    interactive_ = true; // the FIN's acknowledgement may ride on ours
    switch (state_) {
    case State::SynReceived:
    case State::Established:
        set_state(State::CloseWait);
        break;
    case State::FinWait1:
        // Ours is not acknowledged yet: both closed at once.
        acknowledge_now();
        set_state(State::Closing);
        break;
    case State::FinWait2:
        acknowledge_now();
        wake_everybody(all_events);
        enter_time_wait();
        return;
    default:
        break;
    }
    const bool both = fin_queued_;
    wake_everybody(poll_in | poll_rdnorm | poll_rdhup | (both ? poll_hup : 0));
}

void Connection::wake_everybody(u32 events) {
    if (readers.has_waiters())
        readers.wake_all(events);
    if (writers.has_waiters())
        writers.wake_all(events);
}

void Connection::enter_time_wait() {
    TimeWait* left = tcp_.time_wait_count() < tcp_.settings.max_time_wait ? new (std::nothrow)
                                                                                TimeWait()
                                                                          : nullptr;
    if (left == nullptr) {
        Counters::count(tcp_.counters.time_wait_overflows);
        finish(0);
        return;
    }
    Ref<TimeWait> entry = Ref<TimeWait>::adopt(left);
    entry->stack = stack;
    entry->pair = pair;
    entry->send_next = send_next_;
    entry->receive_next = receive_next_;
    entry->receive_window =
        (window_right_ > receive_next_ ? window_right_.since(receive_next_) : 0) >>
        negotiated_.receive_scale;
    entry->timestamps = negotiated_.timestamps;
    entry->recent_timestamp = recent_timestamp_;
    entry->recent_at = recent_timestamp_at_;
    entry->timestamp_offset = timestamp_offset_;
    entry->traffic_class = flow.traffic_class;
    entry->mark = flow.mark;
    entry->local = local;
    entry->peer = pair.remote.address;
    entry->peer_port = pair.remote.port;
    entry->interface = interface;
    entry->uid = uid;
    entry->connected = true;
    entry->v6 = v6;
    entry->v6_only = v6_only;
    entry->reuse_address = reuse_address;
    entry->reuse_port = reuse_port;
    stack->tcp_ports.join(*entry, *this);
    if (!Table::get().replace(*this, *entry)) {
        stack->tcp_ports.unbind(*entry);
        finish(0);
        return;
    }
    tcp_.add_time_wait(*entry);
    finish(0);
}

} // namespace kernel::tcp
