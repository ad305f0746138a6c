// What the parts of arch/x86_64 share.
#pragma once

#include "boot/protocol/boot_block.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::arch {

// Prepares the CPU it runs on: descriptor tables, system call entry, APIC. Afterwards exceptions
// and interrupts work.
void init_cpu(const boot::BootBlock& block, unsigned cpu);
// Where the next entry from user mode on this CPU builds its frame.
void set_kernel_stack(unsigned cpu, u64 top);
// From now on debug exceptions of this CPU go by way of ring 0 in both modes: DR6 is read there,
// and one that belongs to a program's breakpoint may come at any instruction of the kernel, at the
// first of an entry or of the nucleus too (MOV SS puts it off by one instruction). Requires: runs
// on it.
void catch_breakpoints(unsigned cpu);
void init_fpu(); // once, on CPU 0
// The VMM's registers.
void control_write32(u32 offset, u32 value);
void control_write64(u32 offset, u64 value);

} // namespace kernel::arch
