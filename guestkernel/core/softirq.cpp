// Deferred work in task context.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/time.hpp"

namespace kernel::arch {

void run_softirqs() {
    // Callbacks do not sleep, so a task that enters here leaves on the same CPU.
    while (const u32 pending = take_softirqs()) {
        if ((pending >> static_cast<u32>(Softirq::Timers) & 1) != 0)
            run_timers();
        if ((pending >> static_cast<u32>(Softirq::Devices) & 1) != 0)
            run_device_callbacks();
    }
}

} // namespace kernel::arch
