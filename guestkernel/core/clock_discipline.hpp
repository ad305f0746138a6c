// adjtimex(2): how CLOCK_REALTIME is steered, as a time daemon asks for it. The clock follows the
// host's when nobody does.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

struct __kernel_timex;

namespace kernel {

// What is asked for, checked and done, and the state afterwards; the answer is TIME_*. `permitted`:
// the caller may set the clock. EINVAL, EPERM.
Result<int> discipline_clock(::__kernel_timex& timex, bool permitted);
// Seconds that CLOCK_TAI is before CLOCK_REALTIME.
i32 tai_offset();

} // namespace kernel
