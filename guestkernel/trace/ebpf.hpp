// Extended BPF as bpf(2) takes it, for programs that decide from a small context alone: no helpers,
// no maps, no loops, a stack of their own.
#pragma once

#include <span>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

// struct bpf_insn.
struct EbpfInstruction {
    u8 code;
    u8 registers; // the destination in the lower half, the source in the upper
    i16 offset;
    i32 immediate;

    u32 destination() const { return registers & 15u; }
    u32 source() const { return registers >> 4; }
};
static_assert(sizeof(EbpfInstruction) == 8);

inline constexpr usize most_ebpf_instructions = 4096;

// Why a program may not run, for the verifier's log.
struct EbpfRejection {
    usize at = 0; // the instruction
    const char* why = nullptr;
};

// Which loads from the context are allowed.
using EbpfContextRule = bool (*)(i32 offset, u32 size);

// Whether the program may run: known instructions, each of them reached and only by jumps forward;
// registers are read after they were written; memory is the stack within its bounds and the context
// as `rule` has it; the answer is 0 or 1. EINVAL, EACCES (bad access), ENOMEM. Requires: not empty,
// at most most_ebpf_instructions.
Result<void> check_ebpf(std::span<const EbpfInstruction> program, EbpfContextRule rule,
                        EbpfRejection& rejection);
// Requires: checked, with a rule that keeps loads inside `context`. Ends, since jumps only go
// forward.
u64 run_ebpf(std::span<const EbpfInstruction> program, std::span<const u8> context);

} // namespace kernel
