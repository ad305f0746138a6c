// The lock bit of a cached page (frame_locked): held while it is being read, written back or
// dropped. A sleeping lock, inside of all others.
#pragma once

#include "guestkernel/mm/frame.hpp"

namespace kernel {

bool try_lock_page(Frame& frame);
void lock_page(Frame& frame);
void unlock_page(Frame& frame);
void wait_page_unlocked(Frame& frame);

// Whether the running task writes back for reclaim.
bool writes_for_reclaim();

// The reclaim clock's list of pages that could be read again from their source.
void track_page(Frame& frame);
void untrack_page(Frame& frame);

} // namespace kernel
