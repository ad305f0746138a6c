// The kernel's words to the VMM besides log and power-off.
#pragma once

#include "boot/protocol/control.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::arch {

void mark(boot::Mark what); // for --timing; costs an exit, so callers check boot_config().timing
void report_exec_failure(int error); // an errno; before power_off
void start_cpu(unsigned cpu);        // the vCPU starts at the kernel's entry
} // namespace kernel::arch
