// What the parts of mm/ share and nobody else needs.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/mm/frame.hpp"

namespace kernel {

// What memory_stats() reports besides the allocator's own figures; in frames.
struct MemoryCounters {
    base::Atomic<u64> cached{0}, dirty{0}, anonymous{0}, slab{0}, page_tables{0}, kernel_stacks{0},
        shared{0};
};
extern MemoryCounters memory_counters;

inline void count_up(base::Atomic<u64>& counter, u64 by = 1) {
    counter.fetch_add(by, base::Order::Relaxed);
}
inline void count_down(base::Atomic<u64>& counter, u64 by = 1) {
    counter.fetch_sub(by, base::Order::Relaxed);
}

// Gives up clean page-cache pages, writing dirty ones first; returns how many frames it freed. May
// sleep.
usize reclaim_page_cache(usize wanted);

u16 current_memory_owner(); // the group that the running task's memory is charged to; 0: none

// Little memory is left: whoever takes more than he was asked for stops doing so.
bool frames_are_scarce();

// Hands frames out again after a test has ended: forgets everything.
void reset_frames_for_test();
void reset_heap_for_test();
void reset_reclaim_for_test();
void reset_page_cache_for_test();
void reset_page_tables_for_test();
// The frames of [start, end) of hosted "RAM", as init_frames() would set them up.
void init_frame_range(u64 start, u64 end, bool zeroed);

} // namespace kernel
