#include "guestkernel/trace/debug_registers.hpp"

#include <linux/errno.h>

#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

constexpr u64 control = 7;
constexpr u64 enable_bits = 0xff;

} // namespace

u64 read_debug_register(const Tracee& tracee, u64 number) {
    return number < 8 ? tracee.debug_registers[number] : 0;
}

// The addresses are kept for who asks; hardware breakpoints are not armed, and whoever wants one
// hears of it, so that debuggers use single steps instead.
Result<void> write_debug_register(Tracee& tracee, u64 number, u64 value) {
    if (number == 4 || number == 5)
        return fail(EIO);
    if (number < 4 && value >= user_max)
        return fail(EINVAL);
    if (number == control && (value & enable_bits) != 0)
        return fail(ENOSPC);
    tracee.debug_registers[number] = value;
    return {};
}

void clear_debug_registers(Tracee& tracee) {
    for (u64& value : tracee.debug_registers)
        value = 0;
}

} // namespace kernel
