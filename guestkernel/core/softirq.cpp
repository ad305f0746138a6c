// Deferred work in task context.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/time.hpp"

namespace kernel {

namespace {
using Function = void();
constinit Function* run_network = nullptr;
} // namespace

void set_network_softirq(void (*run)()) {
    run_network = run;
}

} // namespace kernel

namespace kernel::arch {

void run_softirqs() {
    // Callbacks do not sleep, so a task that enters here leaves on the same CPU.
    while (const u32 pending = take_softirqs()) {
        if ((pending >> static_cast<u32>(Softirq::Timers) & 1) != 0)
            run_timers();
        if ((pending >> static_cast<u32>(Softirq::Devices) & 1) != 0)
            run_device_callbacks();
        if ((pending >> static_cast<u32>(Softirq::Network) & 1) != 0 && run_network != nullptr)
            run_network();
    }
}

} // namespace kernel::arch
