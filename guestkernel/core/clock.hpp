// Starting the clock, and its parameters for the vDSO.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

// Monotonic time is zero at `base_tsc`; CLOCK_REALTIME was wall_ns when the TSC was wall_tsc.
void init_clock(u64 tsc_khz, u64 base_tsc, u64 wall_ns, u64 wall_tsc);

struct ClockParameters {
    u64 base_tsc;
    u64 ns_per_tick; // 32.32 fixed point
    i64 realtime_offset;
};
ClockParameters clock_parameters();
// Moves CLOCK_REALTIME a little.
void slew_realtime_ns(i64 by);
void run_timers(); // Softirq::Timers, on the running CPU

} // namespace kernel
