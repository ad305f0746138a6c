// What is known of each system call by number: made from syscalls.def.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

enum class Support : u8 { Missing, Full, Partial, Refused };

struct SyscallEntry {
    SyscallHandler handler = nullptr; // null unless Full or Partial
    const char* name = nullptr;       // null: no such number
    Support support = Support::Missing;
    u8 argument_count = 0;
    int refusal = 0;       // the errno, when Refused
    const char* note = ""; // what is missing, why it is refused
};

inline constexpr usize syscall_limit = 512;
const SyscallEntry* find_syscall(u64 number); // null: no such number

} // namespace kernel
