#include "guestkernel/net/tcp/rack.hpp"

namespace kernel::tcp {

namespace {
constexpr u32 recoveries_kept = 16; // RFC 8985, 6.2 step 4
constexpr u32 most_multiplier = 64;

bool sent_after(u64 sent_a, Sequence end_a, u64 sent_b, Sequence end_b) {
    return sent_a > sent_b || (sent_a == sent_b && end_a > end_b);
}
} // namespace

void Rack::delivered(const Delivery& delivery, u64 now, u64 echo_age, const RoundTrip& rtt) {
    if (delivery.reordered)
        reordering_seen_ = true;
    if (delivery.bytes == 0)
        return;
    const u64 sample = now - delivery.newest_sent;
    // A retransmission whose original arrived says nothing.
    if (delivery.newest_retransmitted) {
        if (echo_age != no_deadline && echo_age > sample + millisecond)
            return;
        if (rtt.least() != no_deadline && sample < rtt.least())
            return;
    }
    rtt_ = sample;
    if (!valid_ || sent_after(delivery.newest_sent, delivery.newest_end, sent_, end_)) {
        sent_ = delivery.newest_sent;
        end_ = delivery.newest_end;
        valid_ = true;
    }
}

void Rack::duplicate_reported(Sequence una, Sequence next) {
    if (round_valid_ && una < round_end_)
        return;
    round_valid_ = true;
    round_end_ = next;
    multiplier_ = multiplier_ < most_multiplier ? multiplier_ + 1 : multiplier_;
    persist_ = recoveries_kept;
    reordering_seen_ = true;
}

void Rack::recovery_ended() {
    if (persist_ > 0 && --persist_ == 0)
        multiplier_ = 1;
}

u64 Rack::reordering_window(const RoundTrip& rtt, bool impatient) const {
    if (!reordering_seen_ && impatient)
        return 0;
    if (rtt.least() == no_deadline)
        return millisecond;
    const u64 window = rtt.least() / 4 * multiplier_;
    return window < rtt.smoothed() ? window : rtt.smoothed();
}

u64 Rack::detect(SentQueue& queue, u64 now, const RoundTrip& rtt, bool impatient) {
    if (!valid_)
        return 0;
    const u64 window = reordering_window(rtt, impatient);
    u64 wait = 0;
    SentRange* range = queue.oldest();
    while (range != nullptr) {
        SentRange* const next = queue.next_by_time(*range);
        if (range->lost && !range->retransmitted) {
            range = next;
            continue;
        }
        if (!sent_after(sent_, end_, range->sent_at, range->end))
            break; // and none of those behind it, which were sent later
        const u64 due = range->sent_at + rtt_ + window;
        if (now >= due)
            queue.mark_lost(*range);
        else if (due - now > wait)
            wait = due - now;
        range = next;
    }
    return wait;
}

} // namespace kernel::tcp
