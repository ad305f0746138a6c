// A connection's deadlines, behind one timer: RFC 9293, 3.8; RFC 6298; RFC 1122, 4.2.3.6.
#include <linux/errno.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/connection.hpp"
#include "guestkernel/net/tcp/listener.hpp"

namespace kernel::tcp {

namespace {
constexpr unsigned orphan_retries_default = 8;
} // namespace

// The timer is armed only when its next expiry would come too late: most deadlines are taken back
// before they come, and a wake-up too early costs less than arming each time.
void Connection::set_deadline(Deadline which, u64 when) {
    deadlines_[static_cast<usize>(which)] = when;
    if (!timer_.pending() || timer_.deadline() > when)
        timer_.arm(when);
}

u64 Connection::next_deadline(Deadline& which) const {
    u64 first = no_deadline;
    for (usize i = 0; i < deadline_kinds; i++) {
        if (deadlines_[i] >= first)
            continue;
        first = deadlines_[i];
        which = static_cast<Deadline>(i);
    }
    return first;
}

void Connection::timer_expired(net::NetTimer&, void* self) {
    auto& connection = *static_cast<Connection*>(self);
    // The destructor waits for us: an object that is about to go stays until we return.
    if (!connection.try_add_ref())
        return;
    {
        SpinGuard guard(connection.lock);
        connection.run_deadlines(connection.now());
    }
    net::run_backlog();
    // Not here, in the timer's own callback, if it is the last one.
    if (!connection.release_unless_last())
        connection.tcp_.release_later(connection);
}

void Connection::run_deadlines(u64 time) {
    for (usize i = 0; i < deadline_kinds; i++) {
        if (deadlines_[i] > time)
            continue;
        deadlines_[i] = no_deadline;
        on_deadline(static_cast<Deadline>(i));
    }
    Deadline which{};
    const u64 next = next_deadline(which);
    if (next != no_deadline && (!timer_.pending() || timer_.deadline() > next))
        timer_.arm(next);
}

void Connection::on_deadline(Deadline which) {
    if (state_ == State::Closed)
        return;
    switch (which) {
    case Deadline::Retransmit:
        if (state_ == State::SynSent || state_ == State::SynReceived)
            on_syn_timeout();
        else
            on_retransmit_timeout();
        break;
    case Deadline::LossProbe:
        on_loss_probe();
        break;
    case Deadline::Reorder:
        detect_losses();
        if (sent_.lost() != 0 && recovery_ == Recovery::Open) {
            enter_recovery();
            reduce_proportionally(0, false);
        }
        retransmit_lost();
        break;
    case Deadline::Persist:
        on_persist();
        break;
    case Deadline::DelayedAck:
        if (acknowledged_ != receive_next_ || ack_pending_) {
            // An acknowledgement that found nothing to ride on: the delay was too short or the
            // conversation is none.
            ack_timeout_ = interactive_ ? least_timeout / 5 : 2 * ack_timeout_;
            if (ack_timeout_ > rtt_.base_timeout())
                ack_timeout_ = rtt_.base_timeout();
            interactive_ = false;
            Counters::count(tcp_.counters.delayed_acks);
            acknowledge_now();
        }
        break;
    case Deadline::Keepalive:
        on_keepalive();
        break;
    case Deadline::End:
        // FIN-WAIT-2 without a program: nobody waits for the peer's FIN for ever.
        if (state_ == State::FinWait2 && orphaned)
            finish(0);
        break;
    }
}

// Whether it is time to give up: by TCP_USER_TIMEOUT, or after so many tries.
bool Connection::given_up(u64 since, unsigned tries, unsigned limit) const {
    if (options.user_timeout_ms != 0)
        return since != 0 && now() - since >= u64{options.user_timeout_ms} * millisecond;
    return tries >= limit;
}

unsigned Connection::orphan_retries() const {
    if (tcp_.too_many_orphans())
        return 0;
    unsigned limit = tcp_.settings.orphan_retries;
    if (limit == 0 && soft_error == 0)
        limit = orphan_retries_default;
    return limit;
}

void Connection::time_out() {
    Counters::count(tcp_.counters.abort_on_timeout);
    finish(soft_error != 0 ? soft_error : ETIMEDOUT);
}

void Connection::on_syn_timeout() {
    const bool active = state_ == State::SynSent;
    Counters::count(tcp_.counters.timeouts);
    const unsigned own = active ? tcp_.settings.syn_retries : tcp_.settings.syn_ack_retries;
    const unsigned limit = options.syn_retries != 0 && active ? options.syn_retries : own;
    if (given_up(open_started_, retransmissions_, limit)) {
        time_out();
        return;
    }
    retransmissions_++;
    rtt_.back_off();
    statistics_.retransmits++;
    Counters::count(tcp_.counters.retransmitted);
    Counters::count(tcp_.counters.syn_retransmits);
    // Data on a SYN is not tried twice. What answered a fast open's is under way by itself, and its
    // acknowledgement must not look like one of something that was never sent.
    if (sent_.empty())
        send_next_ = send_initial_ + 1;
    syn_sent_at_ = 0;
    flow.path.generation = 0;
    send_syn(!active);
    set_deadline(Deadline::Retransmit, now() + rtt_.timeout());
}

u64 Connection::persist_delay() const {
    // Answers that leave the window closed do not make the next probe more urgent.
    const u64 delay = rtt_.base_timeout() << (closed_probes_ < 12 ? closed_probes_ : 12);
    return delay < most_timeout ? delay : most_timeout;
}

// The peer's window is closed, or too small for what waits (RFC 9293, 3.8.6.1); or what waits was
// held back for long enough.
void Connection::on_persist() {
    if (!sent_.empty() || unsent() == 0)
        return;
    if (probes_ == 0)
        stalled_since_ = now();
    const unsigned limit = orphaned ? orphan_retries() : tcp_.settings.retries;
    // A peer that answers may keep its window closed for as long as it likes while a program waits
    // for that. What nobody can give up any more, with all its data, is given up here: when the
    // probes are as rare as they become.
    const bool left_alone = orphaned && persist_delay() >= most_timeout;
    if (left_alone || given_up(stalled_since_, probes_, limit)) {
        time_out();
        return;
    }
    const Sequence window_end = una_ + send_window_;
    const u32 mss = segment_size();
    if (window_end > send_next_) {
        u32 length = unsent();
        length = length < mss ? length : mss;
        const u32 window = window_end.since(send_next_);
        (void)send_one(length < window ? length : window, mss);
    } else {
        // A byte that the peer has already makes it say where it is.
        send_control(flag_ack, una_ - 1);
    }
    Counters::count(tcp_.counters.window_probes);
    probes_++;
    closed_probes_++;
    if (sent_.empty())
        set_deadline(Deadline::Persist, now() + persist_delay());
}

// --- keepalive

void Connection::set_keepalive(bool on) {
    options.keepalive = on;
    if (on && can_keep_alive())
        keepalive_changed();
    else
        clear_deadline(Deadline::Keepalive);
}

bool Connection::can_keep_alive() const {
    return state_ != State::Closed && state_ != State::SynSent && state_ != State::Listen;
}

void Connection::keepalive_changed() {
    if (!options.keepalive || !can_keep_alive())
        return;
    const u64 idle =
        options.keepalive_idle_s != 0 ? options.keepalive_idle_s : tcp_.settings.keepalive_idle_s;
    const u64 from = last_progress_ != 0 ? last_progress_ : now();
    set_deadline(Deadline::Keepalive, from + idle * nanoseconds_per_second);
}

void Connection::on_keepalive() {
    if (!options.keepalive || !can_keep_alive())
        return;
    const u64 idle = (options.keepalive_idle_s != 0 ? options.keepalive_idle_s
                                                    : tcp_.settings.keepalive_idle_s) *
                     nanoseconds_per_second;
    // Data under way is watched by its own timer.
    if (!sent_.empty() || unsent() != 0) {
        set_deadline(Deadline::Keepalive, now() + idle);
        return;
    }
    const u64 quiet = now() - last_progress_;
    if (quiet < idle) {
        set_deadline(Deadline::Keepalive, last_progress_ + idle);
        return;
    }
    const unsigned limit =
        options.keepalive_probes != 0 ? options.keepalive_probes : tcp_.settings.keepalive_probes;
    const bool over = options.user_timeout_ms != 0
                          ? probes_ > 0 && quiet >= u64{options.user_timeout_ms} * millisecond
                          : probes_ >= limit;
    if (over) {
        send_reset();
        time_out();
        return;
    }
    probes_++;
    Counters::count(tcp_.counters.keepalives);
    send_control(flag_ack, una_ - 1);
    const u64 interval = options.keepalive_interval_s != 0 ? options.keepalive_interval_s
                                                           : tcp_.settings.keepalive_interval_s;
    set_deadline(Deadline::Keepalive, now() + interval * nanoseconds_per_second);
}

u64 Connection::fin_wait() const {
    const u64 seconds =
        options.fin_wait_s > 0 ? static_cast<u64>(options.fin_wait_s) : tcp_.settings.fin_timeout_s;
    return seconds * nanoseconds_per_second;
}

} // namespace kernel::tcp
