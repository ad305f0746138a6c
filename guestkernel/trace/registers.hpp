// What ptrace(2) and core files show of a thread's registers: struct user_regs_struct and the XSAVE
// area. Requires, of all: the thread is stopped and off its CPU, or it is the running one and its
// FPU state has been saved.
#pragma once

#include <span>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Task;

// struct user_regs_struct (sys/user.h).
struct UserRegisters {
    u64 r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs,
        eflags, rsp, ss, fs_base, gs_base, ds, es, fs, gs;
};
inline constexpr usize user_register_count = sizeof(UserRegisters) / sizeof(u64);
inline constexpr usize fxsave_bytes = 512;

UserRegisters read_registers(Task& task);
// EIO for values that no program may have.
Result<void> write_registers(Task& task, const UserRegisters& from);
// The legacy part, and all of it, with the mask of features at 464 (the software bytes).
void read_fxsave(Task& task, std::span<u8> out);
Result<void> write_fxsave(Task& task, std::span<const u8> from);
void read_xstate(Task& task, std::span<u8> out);
Result<void> write_xstate(Task& task, std::span<const u8> from);

} // namespace kernel
