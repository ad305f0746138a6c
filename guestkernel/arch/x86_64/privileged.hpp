// The privileged operations, in both modes: in ring 0 the instruction, in ring 3 a trip through the
// nucleus (int3, about 6 us).
#pragma once

#include "boot/protocol/boot_block.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::arch {

extern "C" {
extern bool joey_ring3_mode; // known to entry.S
extern const u8 joey_op_wrmsr[], joey_op_cr3[], joey_op_invlpg[], joey_op_debug[];
void joey_idle_ring0(u32* flags);
void joey_idle_ring3(void* flags, void* area);
}
inline constexpr bool& ring3_mode = joey_ring3_mode;

inline void write_msr(u32 msr, u64 value) {
    const u32 low = static_cast<u32>(value);
    const u32 high = static_cast<u32>(value >> 32);
    if (ring3_mode) {
        u64 op = reinterpret_cast<u64>(joey_op_wrmsr);
        asm volatile("int3" : "+a"(op) : "c"(msr), "S"(low), "d"(high) : "memory", "cc");
    } else {
        asm volatile("wrmsr" : : "c"(msr), "a"(low), "d"(high) : "memory");
    }
}

inline void write_cr3(u64 root) {
    if (ring3_mode) {
        u64 op = reinterpret_cast<u64>(joey_op_cr3);
        asm volatile("int3" : "+a"(op) : "d"(root) : "memory", "cc");
    } else {
        asm volatile("mov %0, %%cr3" : : "r"(root) : "memory");
    }
}

inline void invalidate_page(u64 address) {
    if (ring3_mode) {
        u64 op = reinterpret_cast<u64>(joey_op_invlpg);
        asm volatile("int3" : "+a"(op) : "D"(address) : "memory", "cc");
    } else {
        asm volatile("invlpg (%0)" : : "r"(address) : "memory");
    }
}

// Sleeps until an interrupt unless *flags is not zero; checked with interrupts off.
inline void idle_unless(volatile u32* flags, void* area) {
    if (ring3_mode) {
        joey_idle_ring3(const_cast<u32*>(flags), area);
        return;
    }
    joey_idle_ring0(const_cast<u32*>(flags));
}

} // namespace kernel::arch
