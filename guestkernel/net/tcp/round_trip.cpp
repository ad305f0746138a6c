#include "guestkernel/net/tcp/round_trip.hpp"

namespace kernel::tcp {

void RoundTrip::sample(u64 rtt_ns, u64 now) {
    rtt_ns = rtt_ns == 0 ? 1 : rtt_ns;
    latest_ = rtt_ns;
    backoff_ = 0;
    if (smoothed_ == 0) {
        smoothed_ = rtt_ns;
        variance_ = rtt_ns / 2;
        window_start_ = now;
    } else {
        const u64 distance = smoothed_ > rtt_ns ? smoothed_ - rtt_ns : rtt_ns - smoothed_;
        variance_ = variance_ - variance_ / 4 + distance / 4;
        smoothed_ = smoothed_ - smoothed_ / 8 + rtt_ns / 8;
        smoothed_ = smoothed_ == 0 ? 1 : smoothed_;
    }
    if (now - window_start_ > window) {
        least_[1] = now - window_start_ > 2 * window ? no_deadline : least_[0];
        least_[0] = rtt_ns;
        window_start_ = now;
    }
    if (rtt_ns < least_[0])
        least_[0] = rtt_ns;
}

void RoundTrip::back_off() {
    if (base_timeout() << backoff_ < most_timeout)
        backoff_++;
}

u64 RoundTrip::base_timeout() const {
    if (smoothed_ == 0)
        return initial_;
    const u64 spread = 4 * variance_ > floor_ ? 4 * variance_ : floor_;
    const u64 timeout = smoothed_ + spread;
    return timeout > most_timeout ? most_timeout : timeout;
}

u64 RoundTrip::timeout() const {
    const u64 timeout = base_timeout() << backoff_;
    return timeout > most_timeout ? most_timeout : timeout;
}

} // namespace kernel::tcp
