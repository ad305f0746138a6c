// The machine-independent part of the start.
#pragma once

#include "guestkernel/core/result.hpp"

namespace kernel {

// Called by the first CPU when memory, clock and interrupts work. Starts the kernel task that
// mounts the root and runs the program.
void boot_kernel();

namespace arch {
Result<void> bring_up_cpu(unsigned cpu);
}

} // namespace kernel
