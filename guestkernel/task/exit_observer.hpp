// Who hears of every thread that ends: accounting (taskstats).
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;

// Called in the thread that ends, while its memory and identity are still there; may sleep. `last`:
// its process ends with it.
using ExitObserver = void (*)(Task& task, bool last);
inline constinit ExitObserver exit_observer = nullptr; // set at boot

} // namespace kernel
