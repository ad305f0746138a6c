// Classic BPF as seccomp(2) takes it: bpf(4) with the loads of struct seccomp_data only.
#pragma once

#include <span>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

// struct sock_filter.
struct BpfInstruction {
    u16 code;
    u8 jump_true, jump_false;
    u32 k;
};
static_assert(sizeof(BpfInstruction) == 8);

// struct seccomp_data.
struct SeccompData {
    i32 number;
    u32 architecture;
    u64 instruction_pointer;
    u64 arguments[6];
};
static_assert(sizeof(SeccompData) == 64);

// Whether the program may run: known instructions, jumps forward and within, no division by a zero
// constant, no load of a memory word that may not have been stored, a return at the end. EINVAL.
Result<void> check_bpf(std::span<const BpfInstruction> program);
// Requires: checked. Ends, since jumps only go forward.
u32 run_bpf(std::span<const BpfInstruction> program, const SeccompData& data);
// What the program answers for every call of this number; false: it depends on the arguments.
bool constant_answer(std::span<const BpfInstruction> program, u32 number, u32 architecture,
                     u32& answer);

} // namespace kernel
