#include "guestkernel/net/tcp/congestion.hpp"

#include "guestkernel/net/tcp/round_trip.hpp"

namespace kernel::tcp {

namespace {

constexpr u32 largest_window = 0x3fff'ffff;
// RFC 9438, 4.1 and 4.6: C = 0.4, beta = 0.7.
constexpr u64 beta_tenths = 7;
// RFC 9406, 4.3.
constexpr u8 samples_per_round = 8, conservative_limit = 5;
constexpr u64 least_rise = 4 * millisecond, most_rise = 16 * millisecond;
constexpr u32 conservative_divisor = 4;

u32 clamp(u64 window) {
    return window > largest_window ? largest_window : static_cast<u32>(window);
}

// The largest x with x^3 <= value.
u64 cube_root(u64 value) {
    u64 root = 0;
    for (int bit = 20; bit >= 0; bit--) {
        const u64 trial = root | u64{1} << bit;
        if (trial * trial * trial <= value)
            root = trial;
    }
    return root;
}

} // namespace

std::string_view algorithm_name(Algorithm algorithm) {
    return algorithm == Algorithm::Cubic ? "cubic" : "reno";
}

bool find_algorithm(std::string_view name, Algorithm& out) {
    if (name == "cubic")
        out = Algorithm::Cubic;
    else if (name == "reno")
        out = Algorithm::Reno;
    else
        return false;
    return true;
}

void Congestion::start(Algorithm algorithm, u32 mss) {
    *this = Congestion();
    algorithm_ = algorithm;
    mss_ = mss;
    window_ = clamp(u64{initial_segments} * mss);
}

void Congestion::set_algorithm(Algorithm algorithm) {
    algorithm_ = algorithm;
    epoch_start_ = 0;
    max_window_ = last_max_ = 0;
    credit_ = 0;
}

void Congestion::set_mss(u32 mss) {
    mss_ = mss;
    if (window_ < mss)
        window_ = mss;
}

void Congestion::acked(const AckedData& data) {
    if (data.bytes == 0)
        return;
    // A window that was not used up says nothing of the path (RFC 7661): in slow start half of it
    // must have been in flight, later all of it but for a segment.
    if (slow_start()) {
        if (u64{data.in_flight} * 2 < window_)
            return;
        watch_delay(data);
        const u32 grown = conservative_ ? data.bytes / conservative_divisor : data.bytes;
        const u64 wanted = u64{window_} + grown;
        window_ = clamp(wanted > threshold_ && threshold_ != unlimited ? threshold_ : wanted);
        return;
    }
    if (u64{data.in_flight} + mss_ < window_)
        return;
    if (algorithm_ == Algorithm::Cubic)
        grow_cubic(data);
    else
        grow_reno(data);
}

void Congestion::grow_reno(const AckedData& data) {
    // One segment per window: bytes * mss / window, the remainder kept.
    const u64 credit = u64{data.bytes} * mss_ + credit_;
    window_ = clamp(window_ + credit / window_);
    credit_ = static_cast<u32>(credit % window_);
}

void Congestion::begin_epoch(u64 now) {
    epoch_start_ = now == 0 ? 1 : now;
    estimate_ = window_;
    credit_ = 0;
    if (max_window_ <= window_) {
        origin_ns_ = 0;
        origin_window_ = window_;
        return;
    }
    // K = cbrt((W_max - cwnd) / C), with t in milliseconds: cbrt(segments * 1e9 / 0.4).
    const u64 segments_tenths = u64{max_window_ - window_} * 10 / mss_;
    origin_ns_ = cube_root(segments_tenths * 250'000'000) * millisecond;
    origin_window_ = max_window_;
}

// W_cubic(t) = C (t - K)^3 + W_max (RFC 9438, 4.2).
u64 Congestion::cubic_target(u64 elapsed_ns) const {
    const bool before = elapsed_ns < origin_ns_;
    u64 distance = (before ? origin_ns_ - elapsed_ns : elapsed_ns - origin_ns_) / millisecond;
    distance = distance > 1'000'000 ? 1'000'000 : distance;
    const u64 bytes = distance * distance * distance / 1'000'000 * 4 * mss_ / 10'000;
    if (before)
        return bytes < origin_window_ ? origin_window_ - bytes : mss_;
    return origin_window_ + bytes;
}

void Congestion::grow_cubic(const AckedData& data) {
    if (epoch_start_ == 0)
        begin_epoch(data.now);
    const u64 elapsed = data.now - epoch_start_;
    u64 target = cubic_target(elapsed + data.smoothed_rtt);
    const u64 most = u64{window_} * 3 / 2;
    target = target > most ? most : target;
    u64 window = window_;
    if (target > window)
        window += (target - window) * data.bytes / window;
    // What Reno would have (RFC 9438, 4.3): 3 (1 - beta) / (1 + beta) = 0.529 segments per window
    // until it is where it was, then one.
    const u64 share = estimate_ < last_max_ ? 529 : 1000;
    const u64 credit = u64{data.bytes} * mss_ * share / 1000 + credit_;
    estimate_ = clamp(estimate_ + credit / window_);
    credit_ = static_cast<u32>(credit % window_);
    if (estimate_ > window)
        window = estimate_;
    window_ = clamp(window);
}

// HyStart++: rounds of one round-trip time each; the least delay of a round that exceeds the last
// round's by an eighth begins conservative slow start, five rounds of which end slow start.
void Congestion::watch_delay(const AckedData& data) {
    if (algorithm_ != Algorithm::Cubic || threshold_ != unlimited || data.rtt == 0)
        return;
    if (data.now >= round_end_) {
        round_end_ = data.now + data.smoothed_rtt;
        last_round_least_ = round_least_;
        round_least_ = ~u64{0};
        round_samples_ = 0;
        if (conservative_ && ++conservative_rounds_ > conservative_limit) {
            threshold_ = window_;
            return;
        }
    }
    round_least_ = data.rtt < round_least_ ? data.rtt : round_least_;
    if (++round_samples_ < samples_per_round || last_round_least_ == ~u64{0})
        return;
    round_samples_ = samples_per_round; // no wrap-around
    if (conservative_) {
        if (round_least_ < baseline_least_)
            conservative_ = false; // the rise was a passing one
        return;
    }
    u64 rise = last_round_least_ / 8;
    rise = rise < least_rise ? least_rise : rise > most_rise ? most_rise : rise;
    if (round_least_ >= last_round_least_ + rise) {
        baseline_least_ = round_least_;
        conservative_ = true;
        conservative_rounds_ = 0;
    }
}

u32 Congestion::reduced() const {
    const u64 window =
        algorithm_ == Algorithm::Cubic ? u64{window_} * beta_tenths / 10 : u64{window_} / 2;
    return window < 2 * u64{mss_} ? 2 * mss_ : static_cast<u32>(window);
}

void Congestion::loss(u64) {
    prior_window_ = window_;
    prior_threshold_ = threshold_;
    last_max_ = window_;
    // Fast convergence (RFC 9438, 4.7): a flow that did not get as far as before yields more.
    max_window_ =
        window_ < max_window_ ? static_cast<u32>(u64{window_} * (10 + beta_tenths) / 20) : window_;
    epoch_start_ = 0;
    threshold_ = reduced();
}

void Congestion::timeout(u64 now, u32) {
    loss(now);
    window_ = mss_;
}

void Congestion::undo() {
    if (prior_window_ == 0)
        return;
    window_ = window_ < prior_window_ ? prior_window_ : window_;
    threshold_ = threshold_ < prior_threshold_ ? prior_threshold_ : threshold_;
    max_window_ = last_max_ = prior_window_;
    epoch_start_ = 0;
    prior_window_ = 0;
}

void Congestion::restart_after_idle(u64 idle, u64 timeout) {
    const u32 restart = clamp(u64{initial_segments} * mss_);
    epoch_start_ = 0; // the curve would have run on meanwhile (RFC 9438, 5.8)
    if (threshold_ < window_ - window_ / 4)
        threshold_ = window_ - window_ / 4;
    while (idle > timeout && window_ > restart) {
        window_ /= 2;
        idle -= timeout;
    }
    if (window_ < restart)
        window_ = restart;
}

} // namespace kernel::tcp
