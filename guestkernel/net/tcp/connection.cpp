// A connection's life: how it begins, what the program may ask of it, how it ends.
#include "guestkernel/net/tcp/connection.hpp"

#include <linux/errno.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

namespace {

constexpr u8 protocol_number = 6; // IPPROTO_TCP
constexpr u32 all_events =
    poll_in | poll_rdnorm | poll_out | poll_wrnorm | poll_rdhup | poll_hup | poll_err | poll_pri;
// What a range that is under way costs beyond its bytes, so that many small ones are not free.
constexpr u32 range_cost = 256;

} // namespace

Connection::Connection(net::Stack& of)
    : Entry(EntryKind::Connection), tcp_(TcpStack::of(of)), stack_ref_(Ref<net::Stack>::share(&of)),
      timer_(of.clock, timer_expired, this) {
    stack = &of;
    for (u64& deadline : deadlines_)
        deadline = no_deadline;
    options.algorithm = tcp_.settings.algorithm;
    send_limit_ = tcp_.settings.send_default;
    receive_limit_ = tcp_.settings.receive_default;
    flow.protocol = protocol_number;
    flow.dont_fragment = true;
    tcp_.sockets.fetch_add(1);
}

Connection::~Connection() {
    tcp_.sockets.fetch_sub(1);
}

void Connection::last_reference() {
    (void)timer_.cancel();
    stack->tcp_ports.unbind(*this);
    Ref<net::Stack> keep = stack_ref_; // longer than this object
    delete this;
}

u32 Connection::timestamp_now() const {
    return static_cast<u32>(now() / millisecond) + timestamp_offset_;
}

void Connection::set_state(State state) {
    const auto counted = [](State which) {
        return which == State::Established || which == State::CloseWait;
    };
    if (counted(state) && !counted(state_))
        tcp_.established.fetch_add(1, base::Order::Relaxed);
    else if (counted(state_) && !counted(state))
        tcp_.established.fetch_sub(1, base::Order::Relaxed);
    state_ = state;
}

// --- opening

Result<void> Connection::open(bool with_fast_open) {
    const u64 time = now();
    const Secrets& secrets = Secrets::get();
    timestamp_offset_ = secrets.timestamp_offset(pair);
    if (!first_sequence_set_)
        send_initial_ = secrets.initial_sequence(pair, time);
    first_sequence_set_ = false;
    una_ = send_next_ = send_initial_;
    write_end_ = buffer_base_ = send_initial_ + 1;
    write_end_ += buffer_.bytes();
    urgent_end_ = small_end_ = send_initial_;
    receive_next_ = copied_ = acknowledged_ = window_right_ = Sequence();
    negotiated_ = Negotiated();
    if (options.receive_buffer_fixed)
        receive_limit_ = options.receive_buffer;
    open_started_ = syn_sent_at_ = last_progress_ = time;
    retransmissions_ = 0;
    fast_open_used = with_fast_open;
    if (with_fast_open && !options.fast_open_no_cookie)
        (void)tcp_.fast_open_cookie(pair.remote.address, cookie_, cookie_mss_);
    set_state(State::SynSent);
    Counters::count(tcp_.counters.active_opens);
    known_mtu_ = 0;
    send_syn(false);
    set_deadline(Deadline::Retransmit, time + rtt_.timeout());
    return {};
}

void Connection::take_over(const TimeWait& old) {
    // Beyond whatever the former connection may have sent (RFC 6191).
    send_initial_ = old.send_next + 65535 + 2;
    first_sequence_set_ = true;
    recent_timestamp_ = old.recent_timestamp;
    recent_timestamp_at_ = old.recent_at;
}

void Connection::start(const Birth& birth) {
    pair = birth.pair;
    negotiated_ = birth.negotiated;
    send_initial_ = birth.send_initial;
    una_ = send_initial_;
    send_next_ = write_end_ = buffer_base_ = send_initial_ + 1;
    urgent_end_ = small_end_ = send_initial_;
    receive_initial_ = birth.receive_initial;
    receive_next_ = copied_ = acknowledged_ = measure_copied_ = receive_initial_ + 1;
    window_right_ = receive_next_ + birth.receive_window;
    urgent_.at = receive_initial_;
    send_window_ = max_send_window_ = birth.window;
    window_update_sequence_ = receive_initial_;
    window_update_ack_ = una_;
    recent_timestamp_ = birth.recent_timestamp;
    recent_timestamp_at_ = now();
    timestamp_offset_ = birth.timestamp_offset;
    syn_sent_at_ = birth.sent_at;
    open_started_ = last_progress_ = now();
    announced_mss_ = birth.announced_mss;
    if (options.receive_buffer_fixed)
        receive_limit_ = options.receive_buffer;
    if (options.send_buffer_fixed)
        send_limit_ = options.send_buffer;
    retransmissions_ = birth.timed_out ? 2 : 0;
    sync_mss();
    set_state(State::SynReceived);
    if (!birth.established) {
        congestion_.start(options.algorithm, mss_);
        set_deadline(Deadline::Retransmit, now() + rtt_.timeout());
    }
}

// --- sending

u32 Connection::send_memory() const {
    return buffer_.bytes() + range_cost * sent_.count();
}

u32 Connection::send_space() const {
    const u32 used = send_memory();
    return used < send_limit_ ? send_limit_ - used : 0;
}

bool Connection::writable() const {
    const u32 used = send_memory();
    if (send_limit_ <= used || send_limit_ - used < used / 2)
        return false;
    const u32 low =
        options.unsent_low_water != 0 ? options.unsent_low_water : tcp_.settings.unsent_low_water;
    return low == ~u32{0} || unsent() < low;
}

void Connection::become_listener(Ref<Listener> made) {
    listener = std::move(made);
    read_shut_ = fin_queued_ = false;
    set_state(State::Listen);
}

Ref<Listener> Connection::stop_listening() {
    set_state(State::Closed);
    stack->tcp_ports.set_receiving(*this, false);
    listening = false;
    wake_everybody(all_events);
    return std::exchange(listener, nullptr);
}

void Connection::shut_write() {
    switch (state_) {
    case State::Established:
        set_state(State::FinWait1);
        break;
    case State::SynReceived:
        // FIN-WAIT-1 when the handshake is over: until then it is the SYN-ACK that has to arrive,
        // and is sent again if need be.
        if (fin_queued_)
            return;
        break;
    case State::CloseWait:
        set_state(State::LastAck);
        break;
    default:
        return;
    }
    fin_queued_ = true;
    more_coming_ = false;
    push_output(true);
    wake_everybody(poll_out | poll_wrnorm | (read_shut_ ? poll_hup : 0));
}

void Connection::shut_read() {
    read_shut_ = true;
    wake_everybody(poll_in | poll_rdnorm | poll_rdhup | (fin_queued_ ? poll_hup : 0));
}

// --- readiness

u32 Connection::poll_events() {
    u32 events = 0;
    const State now_in = state_;
    if (now_in == State::Closed || (read_shut_ && fin_queued_))
        events |= poll_hup;
    if (read_shut_)
        events |= poll_in | poll_rdnorm | poll_rdhup;
    if (error != 0)
        events |= poll_err;
    if (now_in == State::SynSent || (now_in == State::SynReceived && !fast_open_used)) {
        if (fast_open_waiting)
            events |= poll_out | poll_wrnorm;
        return events;
    }
    if (now_in == State::Closed)
        return events | poll_out | poll_wrnorm;
    u32 bytes = readable();
    if (urgent_.pending && !options.inline_urgent && urgent_.at >= copied_ &&
        urgent_.at < receive_next_ && bytes > 0)
        bytes--;
    if (bytes >= options.receive_low_water && bytes > 0)
        events |= poll_in | poll_rdnorm;
    if (urgent_.pending && urgent_.valid)
        events |= poll_pri;
    if (fin_queued_ || writable())
        events |= poll_out | poll_wrnorm;
    return events;
}

// --- answers to what is wrong

// One per half second for segments outside of the window (tcp_invalid_ratelimit).
bool Connection::rate_limited() {
    const u64 time = now();
    const u64 gap = u64{tcp_.settings.invalid_rate_ms} * millisecond;
    if (last_invalid_answer_ != 0 && time - last_invalid_answer_ < gap)
        return true;
    last_invalid_answer_ = time;
    return false;
}

void Connection::challenge() {
    if (rate_limited()) {
        Counters::count(tcp_.counters.answers_skipped_challenge);
        return;
    }
    if (!tcp_.may_challenge())
        return;
    Counters::count(tcp_.counters.challenge_acks);
    acknowledge_now();
}

void Connection::send_reset() {
    Counters::count(tcp_.counters.out_resets);
    send_control(flag_rst | flag_ack, send_next_);
}

void Connection::icmp_error(const net::IcmpNotice& notice, Sequence sequence) {
    SpinGuard guard(lock);
    // Only about something that is under way (RFC 5927, 4.1).
    if (!in_table() || state_ == State::Closed)
        return;
    if (sequence < una_ || sequence > send_next_) {
        Counters::count(tcp_.counters.out_of_window_icmps);
        return;
    }
    if (notice.error == EMSGSIZE) {
        if (state_ == State::SynSent || state_ == State::SynReceived)
            return;
        const u32 before = mss_;
        if (!net::resolve(*stack, flow))
            return;
        sync_mss();
        if (mss_ >= before || sent_.empty())
            return;
        // What was too large is lost; that says nothing about congestion.
        sent_.mark_all_lost(false);
        retransmit_lost();
        return;
    }
    if (state_ == State::SynSent && notice.hard) {
        finish(notice.error);
        return;
    }
    soft_error = notice.error; // for when the retries run out
    if (receives_errors_ && !orphaned) {
        error = notice.error;
        wake_everybody(poll_err);
    }
}

// --- the end

void Connection::leave_table() {
    (void)Table::get().remove(*this);
    if (!port_kept || orphaned)
        stack->tcp_ports.unbind(*this);
}

void Connection::finish(int reason) {
    if (state_ == State::Closed)
        return;
    const State before = state_;
    if (before == State::SynSent || before == State::SynReceived)
        Counters::count(tcp_.counters.attempt_fails);
    else if (before == State::Established || before == State::CloseWait)
        Counters::count(tcp_.counters.established_resets);
    set_state(State::Closed);
    for (u64& deadline : deadlines_)
        deadline = no_deadline;
    if (reason != 0)
        error = reason;
    read_shut_ = true;
    fin_queued_ = true;
    sent_.clear();
    buffer_.clear();
    buffer_base_ = write_end_ = send_next_ = una_;
    out_of_order_.clear();
    if (orphaned) {
        arrived_.clear();
        tcp_.orphans.fetch_sub(1);
    }
    if (listener && !accepted && before == State::SynReceived)
        listener->lost(*this);
    leave_table();
    wake_everybody(all_events);
}

void Connection::abort(int reason) {
    switch (state_) {
    case State::Closed:
    case State::SynSent:
    case State::Listen:
        break;
    case State::TimeWait:
    case State::LastAck:
    case State::Closing:
        if (!sent_.empty() || unsent() != 0)
            send_reset();
        break;
    default:
        send_reset();
        break;
    }
    finish(reason);
}

void Connection::orphan(bool reset) {
    if (state_ == State::Closed || orphaned)
        return;
    // Data that nobody reads must not look as if it had arrived (RFC 2525, 2.17).
    const bool unread = readable() > 0;
    if (reset || unread) {
        Counters::count(unread ? tcp_.counters.abort_on_close : tcp_.counters.abort_on_linger);
        abort(0);
        return;
    }
    if (state_ == State::SynSent) {
        finish(0);
        return;
    }
    shut_write();
    if (state_ == State::Closed)
        return;
    orphaned = true;
    read_shut_ = true;
    tcp_.orphans.fetch_add(1);
    if (tcp_.too_many_orphans()) {
        Counters::count(tcp_.counters.abort_on_memory);
        send_reset();
        finish(0);
        return;
    }
    clear_deadline(Deadline::Keepalive);
    if (state_ != State::FinWait2)
        return;
    if (options.fin_wait_s < 0) {
        send_reset();
        finish(0);
        return;
    }
    set_deadline(Deadline::End, now() + fin_wait());
}

// Such a connection is Closed, where finish() finds nothing to do, but in the table already: left
// there, it would be entered a second time, or outlive its socket.
void Connection::forget_fast_open() {
    if (std::exchange(fast_open_waiting, false))
        leave_table();
}

void Connection::reset_for_reuse() {
    forget_fast_open();
    abort(0);
    arrived_.clear();
    queued_memory_.store(0);
    read_shut_ = fin_queued_ = fin_sent_ = fin_received_ = fin_known_ = false;
    error = soft_error = 0;
    sent_.clear();
    buffer_.clear();
    rtt_ = RoundTrip();
    rack_ = Rack();
    recovery_ = Recovery::Open;
    una_ = send_next_ = write_end_ = buffer_base_ = Sequence();
    receive_next_ = copied_ = window_right_ = acknowledged_ = Sequence();
    send_window_ = max_send_window_ = 0;
    urgent_ = {};
    urgent_sending_ = more_coming_ = ack_pending_ = false;
    interactive_ = has_urgent_ack_ = undo_possible_ = probe_outstanding_ = false;
    retransmissions_ = probes_ = closed_probes_ = 0;
    last_sent_ = last_received_ = ack_timeout_ = 0;
    receive_rtt_ = receive_rtt_start_ = 0;
    duplicate_ = {};
    fast_open_used = fast_open_data_ = false;
    cookie_ = {};
    flow.path = {};
    flow.source = {};
}

void Connection::disconnect() {
    const State before = state_;
    reset_for_reuse();
    // As Linux has it: whoever breaks a connection off finds that in SO_ERROR.
    if (before != State::Closed && before != State::Listen && before != State::TimeWait)
        error = ECONNRESET;
}

void Connection::set_quick_ack(bool on) {
    interactive_ = !on;
    if (on) {
        quick_acks_ = 16;
        if (ack_pending_ && can_keep_alive())
            acknowledge_now();
    }
}

void Connection::buffers_changed() {
    if (options.send_buffer_fixed)
        send_limit_ = options.send_buffer;
    if (options.receive_buffer_fixed)
        receive_limit_ = options.receive_buffer;
    if (writers.has_waiters() && writable())
        writers.wake_all(poll_out | poll_wrnorm);
}

} // namespace kernel::tcp
