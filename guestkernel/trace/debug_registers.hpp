// DR0 to DR7 of a traced thread: Intel SDM 3B, 18.2.
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Tracee;

u64 read_debug_register(const Tracee& tracee, u64 number);
Result<void> write_debug_register(Tracee& tracee, u64 number, u64 value);
void clear_debug_registers(Tracee& tracee);

} // namespace kernel
