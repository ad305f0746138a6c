// The boot block: the facts about the machine that the kernel needs before it can read the device
// tree. The VMM writes it at boot_block_phys; it never changes afterwards.
#pragma once

#include <cstdint>

namespace boot {

inline constexpr std::uint64_t boot_block_magic = 0x6b6c'4279'656f'4a01; // the bytes 01 "JoeyBlk"
inline constexpr std::uint32_t boot_block_version = 1;

enum class Privilege : std::uint32_t { Ring0 = 0, Ring3 = 3 };

struct BootBlock {
    std::uint64_t magic;
    std::uint32_t version;
    Privilege privilege;
    std::uint32_t cpu_count; // 1..max_cpus
    std::uint32_t fdt_size;  // bytes
    std::uint64_t fdt_phys;
    std::uint64_t low_ram_end;   // RAM is [0, low_ram_end) ...
    std::uint64_t high_ram_end;  // ... and [4 GiB, high_ram_end); 0 when there is none
    std::uint64_t boot_area_end; // first byte of RAM that the VMM did not use; page aligned
    std::uint64_t kernel_size;   // bytes of the kernel image in its slot, page aligned
    std::uint64_t tsc_khz;
    // One moment, by both clocks: CLOCK_REALTIME in nanoseconds, and the guest's TSC.
    std::uint64_t wall_clock_ns;
    std::uint64_t wall_clock_tsc;
    // The TSC when the joey process started, for --timing.
    std::uint64_t process_start_tsc;
    // 1 if RAM past boot_area_end was never written: it reads as zeros.
    std::uint32_t ram_is_zeroed;
    std::uint32_t reserved;
};
static_assert(sizeof(BootBlock) == 104);

} // namespace boot
