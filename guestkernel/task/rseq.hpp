// Restartable sequences, rseq(2): a thread's own record in user memory of the CPU it runs on, and
// of a stretch of code that is to begin anew when the thread is preempted, moved or interrupted by
// a signal.
#pragma once

#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;

// Of the running task.
Result<void> register_rseq(u64 address, u32 length, u32 signature);
Result<void> unregister_rseq(u64 address, u32 length, u32 signature);
// The task has lost its CPU since it was last in user mode: brings its record up to date and leaves
// a sequence that was under way by its abort handler. May sleep.
void resume_rseq(Task& task, arch::TrapFrame& frame);
// A handler's frame is about to be made of `frame`.
void abort_rseq(Task& task, arch::TrapFrame& frame);

} // namespace kernel
