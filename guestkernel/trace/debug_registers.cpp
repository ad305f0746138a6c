#include "guestkernel/trace/debug_registers.hpp"

#include <linux/errno.h>
#include <linux/signal.h>

#include "guestkernel/task/task.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

constexpr unsigned breakpoint_count = 4;
constexpr u64 status_register = 6, control_register = 7;
constexpr u64 status_hits = 0xf, status_step = 0x4000;
constexpr u64 control_always = 0x400, control_exact = 0x200;
constexpr u64 resume_flag = 0x10000;
enum Type : u64 { Execute = 0, Write = 1, Port = 2, Access = 3 };

bool is_enabled(u64 control, unsigned n) {
    return (control >> (2 * n) & 3) != 0;
}
// Of DR7: type, and length as it is written there.
u64 shape(u64 control, unsigned n) {
    return control >> (16 + 4 * n) & 0xf;
}
Type type_of(u64 control, unsigned n) {
    return static_cast<Type>(shape(control, n) & 3);
}

Result<void> check_breakpoint(u64 address, u64 control, unsigned n) {
    constexpr u64 last_byte[4] = {0, 1, 7, 3};
    const Type type = type_of(control, n);
    const u64 length = shape(control, n) >> 2;
    const u64 last = last_byte[length];
    if (type == Port || (type == Execute && length != 0))
        return fail(EINVAL);
    if ((address & last) != 0 || address >= user_max || last >= user_max - address)
        return fail(EINVAL);
    return {};
}

// What the CPU gets of it: the enabled ones, whether as local or as global, and nothing else.
void apply(Task& task) {
    Tracee& trace = *task.trace;
    const u64 wanted = trace.debug_registers[control_register];
    u64 control = 0;
    for (unsigned n = 0; n < breakpoint_count; n++) {
        trace.breakpoints.addresses[n] = is_enabled(wanted, n) ? trace.debug_registers[n] : 0;
        if (is_enabled(wanted, n))
            control |= u64{2} << (2 * n) | shape(wanted, n) << (16 + 4 * n);
    }
    trace.breakpoints.control = control | control_always | control_exact;
    task.context.breakpoints = control != 0 ? &trace.breakpoints : nullptr;
}

Result<void> write_address(Task& task, unsigned n, u64 address) {
    Tracee& trace = *task.trace;
    constexpr u64 write_one_byte = u64{Write} << 16;
    const bool made = (trace.breakpoints_made >> n & 1) != 0;
    TRY(made ? check_breakpoint(address, trace.debug_registers[control_register], n)
             : check_breakpoint(address, write_one_byte, 0));
    trace.breakpoints_made |= static_cast<u8>(1u << n);
    trace.debug_registers[n] = address;
    apply(task);
    return {};
}

Result<void> write_control(Task& task, u64 control) {
    Tracee& trace = *task.trace;
    u8 made = trace.breakpoints_made;
    bool any = false;
    for (unsigned n = 0; n < breakpoint_count; n++) {
        any |= is_enabled(control, n);
        if (is_enabled(control, n))
            made |= static_cast<u8>(1u << n);
        if ((made >> n & 1) != 0)
            TRY(check_breakpoint(trace.debug_registers[n], control, n));
    }
    if (any && !arch::breakpoints_work())
        return fail(ENOSPC);
    trace.breakpoints_made = made;
    trace.debug_registers[control_register] = control;
    apply(task);
    return {};
}

} // namespace

u64 read_debug_register(const Tracee& tracee, u64 number) {
    return number < 8 ? tracee.debug_registers[number] : 0;
}

Result<void> write_debug_register(Task& task, u64 number, u64 value) {
    if (number < breakpoint_count)
        return write_address(task, static_cast<unsigned>(number), value);
    if (number == control_register)
        return write_control(task, value);
    if (number != status_register)
        return fail(EIO);
    task.trace->debug_registers[status_register] = value;
    return {};
}

void clear_debug_registers(Task& task) {
    if (!task.trace)
        return;
    Tracee& trace = *task.trace;
    for (u64& value : trace.debug_registers)
        value = 0;
    trace.debug_registers[status_register] = debug_status_idle;
    trace.breakpoints_made = 0;
    if (task.context.breakpoints == nullptr)
        return;
    task.context.breakpoints = nullptr;
    arch::load_breakpoints(nullptr);
}

i32 note_debug_exception(arch::TrapFrame& frame, u64 status) {
    Task& task = current_task();
    const bool unknown = status == 0;
    u64 seen = unknown ? status_step : status & status_step;
    for (unsigned n = 0; n < breakpoint_count && task.context.breakpoints != nullptr; n++) {
        const u64 control = task.context.breakpoints->control;
        // The CPU may set the bit of one that is not enabled.
        if ((status >> n & 1) == 0 || !is_enabled(control, n))
            continue;
        seen |= u64{1} << n;
        // The instruction itself has not run: it is to, next time.
        if (type_of(control, n) == Execute)
            frame.rflags |= resume_flag;
    }
    // DR6 does not tell of INT1.
    const bool instruction = !unknown && (status & (status_step | status_hits)) == 0;
    if (task.trace)
        task.trace->debug_registers[status_register] = seen ^ debug_status_idle;
    if ((seen & status_step) != 0)
        return TRAP_TRACE;
    if (seen != 0)
        return TRAP_HWBKPT;
    return instruction ? TRAP_BRKPT : 0;
}

} // namespace kernel
