// The guest-physical and kernel-virtual memory map: what the VMM builds and the kernel relies on.
//
// Guest-physical:
//   0x0000_0000 .. low_ram_end     RAM; the first bytes (up to BootBlock::boot_area_end) hold what
//                                  the VMM wrote: boot block, page tables, device tree, CPU areas
//   0xc000_0000                    control page (control.hpp): no memory slot, every write exits
//   0xc001_0000 + i * 0x1000       registers of virtio device i: read-only slot; writes exit
//   0xd000_0000                    kernel image: a slot of its own, mapped from the image file
//   0xfee0_0000                    local APIC (used in x2APIC mode only)
//   0x1_0000_0000 ..               RAM beyond the first 3 GiB
//
// Kernel-virtual (PML4 slot 256 is avoided: ring-3 kernels cannot use it under shadow paging):
//   0xffff_8880_0000_0000 + phys   direct map, 2 MiB pages, of [0, 4 GiB) and of high RAM, RW + NX
//   0xffff_ffff_8000_0000          kernel image, 4 KiB pages, permissions of its ELF segments
#pragma once

#include <cstdint>

namespace boot {

inline constexpr std::uint64_t page_size = 4096;

inline constexpr std::uint64_t low_ram_limit = 0xc000'0000;   // RAM below the device hole ends here
inline constexpr std::uint64_t high_ram_base = 0x1'0000'0000; // and goes on here
inline constexpr std::uint64_t control_page = 0xc000'0000;
inline constexpr std::uint64_t virtio_mmio_base = 0xc001'0000;
inline constexpr std::uint64_t virtio_mmio_stride = 0x1000;
inline constexpr unsigned max_virtio_devices = 64;
inline constexpr std::uint64_t kernel_phys = 0xd000'0000;
inline constexpr std::uint64_t max_kernel_size = 64u << 20;

inline constexpr std::uint64_t direct_map_base = 0xffff'8880'0000'0000;
inline constexpr std::uint64_t kernel_virt = 0xffff'ffff'8000'0000;

// Fixed places in low RAM.
inline constexpr std::uint64_t boot_block_phys = 0x1000;
inline constexpr std::uint64_t kernel_root_table_phys = 0x2000; // PML4 of the kernel half
// One area per vCPU: the VMM loads GDTR, IDTR and TR with these addresses (in the direct map); the
// kernel writes the tables themselves before it allows the first interrupt or exception.
inline constexpr std::uint64_t cpu_areas_phys = 0x10'0000;
inline constexpr std::uint64_t cpu_area_size = 0x8000;
inline constexpr std::uint64_t cpu_area_gdt = 0x0;   // 9 entries, see below
inline constexpr std::uint64_t cpu_area_tss = 0x100; // 104 bytes; behind it counters (counters.hpp)
inline constexpr std::uint64_t cpu_area_idt = 0x1000;  // 256 gates
inline constexpr std::uint64_t cpu_area_data = 0x2000; // kernel's per-CPU data and exception stacks
inline constexpr std::uint64_t boot_stack_top = 0x8000; // initial RSP = area + this
inline constexpr unsigned max_cpus = 64;

// Segment selectors; the GDT has 9 eight-byte entries. STAR = 0x0023'0010 << 32.
inline constexpr std::uint16_t kernel_code_selector = 0x10;
inline constexpr std::uint16_t kernel_data_selector = 0x18;
inline constexpr std::uint16_t user_data_selector = 0x2b;
inline constexpr std::uint16_t user_code_selector = 0x33;
inline constexpr std::uint16_t tss_selector = 0x38;

// Interrupt vectors share one priority class (vector >> 4), so that handlers never nest.
inline constexpr std::uint8_t timer_vector = 0xe0;
inline constexpr std::uint8_t reschedule_vector = 0xe1;
inline constexpr std::uint8_t call_vector = 0xe2; // TLB shoot-down and other cross-CPU calls
inline constexpr std::uint8_t device_vector_base = 0xe4;
inline constexpr unsigned device_vectors = 12;
// virtio device i interrupts vCPU 0 by MSI at this vector; several devices may share one.
constexpr std::uint8_t device_vector(unsigned device) {
    return static_cast<std::uint8_t>(device_vector_base + device % device_vectors);
}

// Initial state of every vCPU: 64-bit mode, CR3 = kernel_root_table_phys, RIP = the ELF entry,
// RSP = its boot stack top (direct map), RDI = boot block (direct map), RSI = vCPU index,
// CR0 = PE MP ET NE WP AM PG, CR4 = PAE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE (and SMEP SMAP UMIP
// in ring 0 where the CPU offers them), EFER = SCE LME LMA NXE, XCR0 = all that KVM offers of x87,
// SSE, AVX and AVX-512, the APIC in x2APIC mode. In ring 3: CS 0x33, SS DS ES 0x2b, RFLAGS = IF; in
// ring 0: CS 0x10, SS DS ES 0x18, RFLAGS.IF clear. vCPU 0 runs at once; the others when the kernel
// asks (Control::start_cpu).

} // namespace boot
