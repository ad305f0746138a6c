// The control page (boot/protocol/control.hpp): log lines, power-off, marks.
#include "boot/protocol/control.hpp"

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/control.hpp"
#include "guestkernel/arch/x86_64/machine.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/log.hpp"

namespace kernel {

namespace {

struct LogBuffer {
    boot::LogLevel level;
    u32 length;
    char text[boot::max_log_length];
};
constinit LogBuffer log_buffer = {};
constinit SpinLock log_lock{LockRank::Log};

} // namespace

namespace arch {

void control_write32(u32 offset, u32 value) {
    // SAFETY: the control page is part of the direct map; no memory stands behind it, the write is
    // the message.
    *static_cast<volatile u32*>(phys_to_virt(PhysAddr(boot::control_page + offset))) = value;
}
void control_write64(u32 offset, u64 value) {
    *static_cast<volatile u64*>(phys_to_virt(PhysAddr(boot::control_page + offset))) = value;
}

void mark(boot::Mark what) {
    control_write32(static_cast<u32>(boot::Control::mark), static_cast<u32>(what));
}
void report_exec_failure(int error) {
    control_write32(static_cast<u32>(boot::Control::exec_failed), static_cast<u32>(error));
}
void start_cpu(unsigned cpu) {
    control_write32(static_cast<u32>(boot::Control::start_cpu), cpu);
}

void power_off(u32 wait_status) {
    control_write32(static_cast<u32>(boot::Control::exit), wait_status);
    for (;;)
        relax(); // the VMM stops us at the write
}

} // namespace arch

void log::write_line(boot::LogLevel level, std::string_view line) {
    SpinGuard guard(log_lock);
    log_buffer.level = level;
    log_buffer.length =
        static_cast<u32>(line.size() < boot::max_log_length ? line.size() : boot::max_log_length);
    for (u32 i = 0; i < log_buffer.length; i++)
        log_buffer.text[i] = line[i];
    arch::control_write64(static_cast<u32>(boot::Control::log),
                          arch::virt_to_phys(&log_buffer).raw());
}

} // namespace kernel
