// The page that the kernel writes and the vDSO's code reads: it lies right before the code.
#pragma once

namespace vdso {

struct Data {
    unsigned sequence;    // odd while it changes
    unsigned asks_kernel; // not zero: the clocks of this address space are not these
    unsigned long long base_tsc;
    unsigned long long ns_per_tick; // 32.32 fixed point
    long long realtime_offset;      // nanoseconds
};

} // namespace vdso
