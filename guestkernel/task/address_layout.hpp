// Where the parts of a program go in its address space: Linux's places and its randomness
// (kernel.randomize_va_space, ADDR_NO_RANDOMIZE of personality(2)).
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

struct AddressLayout {
    u64 program = 0;        // address of a position-independent program that has an interpreter
    u64 break_distance = 0; // bytes between the program's end and its break; whole pages
    u64 stack_top = 0;      // address; page aligned
    u64 stack_shift = 0;    // bytes that the stack pointer begins lower; a multiple of 16
    u64 mappings_top = 0;   // address below which mappings go that have none of their own
};

// For a program of this personality. `stack_limit`: bytes, RLIMIT_STACK.
AddressLayout choose_address_layout(u64 stack_limit, u32 personality);

// kernel.randomize_va_space: 0 is none, 1 leaves the break alone, all else is everything.
i32 address_randomization();
void set_address_randomization(i32 value);

} // namespace kernel
