// The end of a kernel that made a mistake: a record for the VMM's crash report.
#pragma once

#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::arch {

[[noreturn]] void crash(const TrapFrame& frame, u32 vector, u64 error_code, u64 cr2,
                        const char* message);

} // namespace kernel::arch
