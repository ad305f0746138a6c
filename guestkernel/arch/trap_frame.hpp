// The user's registers as saved on entry to the kernel: at the top of the task's kernel stack.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel::arch {

// In the order in which the entry code pushes; the same as struct pt_regs (asm/ptrace.h), which
// ptrace and core files show. `orig_rax` is the system call's number, or -1 if the entry was no
// syscall.
struct TrapFrame {
    u64 r15, r14, r13, r12, rbp, rbx;
    u64 r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
    u64 orig_rax;
    u64 rip, cs, rflags, rsp, ss;
};
static_assert(sizeof(TrapFrame) == 21 * 8);

} // namespace kernel::arch
