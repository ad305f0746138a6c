// Device interrupts: an MSI's vector marks its slot; the callback runs later, in task context.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel::arch {

// Several devices may share a vector: each registered callback of it runs. Called at boot only.
void register_device_interrupt(u8 vector, void (*callback)(void*), void* context);
// Runs the callbacks of the vectors that were raised since the last call (Softirq::Devices).
void run_device_callbacks();

} // namespace kernel::arch
