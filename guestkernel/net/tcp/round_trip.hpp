// The round-trip time and what follows from it: RFC 6298 with the lower bound on the variance that
// Linux has (the timer never fires earlier than 200 ms after the smoothed time).
#pragma once

#include "guestkernel/core/time.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::tcp {

inline constexpr u64 millisecond = 1'000'000;
inline constexpr u64 initial_timeout = nanoseconds_per_second; // RFC 6298, 2.1
inline constexpr u64 least_timeout = 200 * millisecond;
inline constexpr u64 most_timeout = 120 * nanoseconds_per_second;

class RoundTrip {
public:
    void sample(u64 rtt_ns, u64 now);
    // The next expiry comes twice as late (RFC 6298, 5.5); a sample, or progress, ends that.
    void back_off();
    void end_back_off() { backoff_ = 0; }
    unsigned backoff() const { return backoff_; }

    bool measured() const { return smoothed_ != 0; }
    u64 smoothed() const { return smoothed_; }
    u64 variance() const { return variance_; }
    u64 timeout() const;      // with what back_off() did to it
    u64 base_timeout() const; // without
    // The least of the last five minutes; no_deadline before the first sample.
    u64 least() const { return least_[0] < least_[1] ? least_[0] : least_[1]; }
    u64 latest() const { return latest_; }
    void set_least_timeout(u64 ns) { floor_ = ns; }
    // A guess for a connection whose handshake lost segments (RFC 6298, 5.7).
    void set_initial_timeout(u64 ns) { initial_ = ns; }

private:
    static constexpr u64 window = 150 * nanoseconds_per_second; // two of them
    u64 smoothed_ = 0, variance_ = 0, latest_ = 0;
    u64 floor_ = least_timeout, initial_ = initial_timeout;
    u64 least_[2] = {no_deadline, no_deadline}; // of this window and of the one before
    u64 window_start_ = 0;
    unsigned backoff_ = 0;
};

} // namespace kernel::tcp
