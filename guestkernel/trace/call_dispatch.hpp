// System calls that a thread wants to serve itself (PR_SET_SYSCALL_USER_DISPATCH): those made from
// outside of a range of code become SIGSYS, for programs that run foreign code (Wine).
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

namespace arch {
struct TrapFrame;
}
class Task;

// Part of a thread's SignalState; neither fork nor exec keeps it.
struct CallDispatch {
    u64 start = 0, length = 0; // calls from here are always made
    u64 selector = 0;          // of a byte of the program that says what is with the others
};

Result<long> set_call_dispatch(u64 mode, u64 start, u64 length, u64 selector);
void clear_call_dispatch(Task& task);
// Whether the call in `frame` was made a signal, or the thread's end; it is not to be made then.
bool dispatched_to_program(Task& task, arch::TrapFrame& frame);

} // namespace kernel
