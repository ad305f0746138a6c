// The state in which a vCPU enters the kernel (boot/protocol/layout.hpp), as plain numbers: the VMM
// turns them into KVM's structures.
#pragma once

#include <cstdint>

#include "boot/protocol/boot_block.hpp"

namespace boot {

// CR4 bits that are wanted where the CPU offers them.
struct CpuFeatures {
    bool smep;
    bool smap;
    bool umip;
};

struct CpuState {
    std::uint64_t rip, rsp, rdi, rsi, rflags;
    std::uint64_t cr0, cr3, cr4, efer;
    std::uint64_t gdt_base, idt_base, tss_base; // linear addresses
    std::uint16_t gdt_limit, idt_limit, tss_limit;
    std::uint16_t code_selector, data_selector, tss_selector;
    std::uint8_t privilege_level; // of code and data segments
    std::uint64_t star;           // MSR_STAR
};

// Requires: cpu < max_cpus.
CpuState initial_cpu_state(unsigned cpu, Privilege privilege, std::uint64_t entry,
                           CpuFeatures features);

} // namespace boot
