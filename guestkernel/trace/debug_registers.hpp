// DR0 to DR7 of a traced thread: Intel SDM 3B, 18.2. They are the thread's own: none of a new
// thread, gone with the next program, but not with the tracer.
#pragma once

#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;
class Tracee;

u64 read_debug_register(const Tracee& tracee, u64 number);
// Requires: the tracer holds the task, which is off its CPU. ENOSPC: the machine has no
// breakpoints.
Result<void> write_debug_register(Task& task, u64 number, u64 value);
// The running task executes another program.
void clear_debug_registers(Task& task);
// A debug exception of the running program, with DR6 (0: a single step): the si_code of its
// SIGTRAP, 0 for no signal.
i32 note_debug_exception(arch::TrapFrame& frame, u64 status);

} // namespace kernel
