// How much may be in flight: slow start and congestion avoidance by CUBIC (RFC 9438) or Reno
// (RFC 5681). All amounts are bytes. What is lost, and how recovery paces retransmissions, is
// decided elsewhere (loss_recovery.hpp).
#pragma once

#include <string_view>

#include "guestkernel/core/types.hpp"

namespace kernel::tcp {

enum class Algorithm : u8 { Cubic, Reno };
std::string_view algorithm_name(Algorithm algorithm);
bool find_algorithm(std::string_view name, Algorithm& out);

struct AckedData {
    u32 bytes = 0;     // newly acknowledged
    u32 in_flight = 0; // just before the acknowledgement
    u64 now = 0;
    u64 smoothed_rtt = 0;
    u64 rtt = 0; // of this acknowledgement; 0: not known
};

class Congestion {
public:
    static constexpr u32 initial_segments = 10; // RFC 6928
    static constexpr u32 unlimited = 0x7fff'ffff;

    void start(Algorithm algorithm, u32 mss);
    void set_algorithm(Algorithm algorithm);
    Algorithm algorithm() const { return algorithm_; }
    // The path's segment size changed: the window stays the same number of bytes, one segment at
    // least.
    void set_mss(u32 mss);

    u32 window() const { return window_; }
    u32 threshold() const { return threshold_; }
    bool slow_start() const { return window_ < threshold_; }
    void acked(const AckedData& data);
    // Loss, found by acknowledgements: the threshold falls; the window is recovery's business until
    // it ends.
    void loss(u64 now);
    // The retransmission timer: one segment, and from there.
    void timeout(u64 now, u32 in_flight);
    void set_window(u32 window) { window_ = window < mss_ ? mss_ : window; }
    void set_threshold(u32 threshold) { threshold_ = threshold; }
    // What loss() or timeout() did was for nothing: nothing was lost.
    void undo();
    // Nothing was sent for `idle`: the window decays (RFC 9293 on RFC 5681, 4.1; RFC 2861).
    void restart_after_idle(u64 idle, u64 timeout);

private:
    void grow_cubic(const AckedData& data);
    void grow_reno(const AckedData& data);
    void watch_delay(const AckedData& data);
    u32 reduced() const;
    u64 cubic_target(u64 elapsed_ns) const;
    void begin_epoch(u64 now);

    u32 mss_ = 536;
    u32 window_ = 10 * 536;
    u32 threshold_ = unlimited;
    u32 prior_window_ = 0, prior_threshold_ = 0; // before the reduction that undo() takes back
    Algorithm algorithm_ = Algorithm::Cubic;
    u32 credit_ = 0; // of growth below one byte, Reno
    // --- CUBIC
    u64 epoch_start_ = 0; // 0: begins with the next growth
    u64 origin_ns_ = 0;   // K: when the curve is back at max_window_
    u32 max_window_ = 0, last_max_ = 0;
    u32 origin_window_ = 0;
    u32 estimate_ = 0; // what Reno would have
    // --- HyStart++ (RFC 9406): leaves slow start when the delay rises
    u64 round_end_ = 0, round_least_ = ~u64{0}, last_round_least_ = ~u64{0};
    u64 baseline_least_ = ~u64{0};
    u8 round_samples_ = 0, conservative_rounds_ = 0;
    bool conservative_ = false;
};

} // namespace kernel::tcp
