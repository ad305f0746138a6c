// What the VMM writes into low RAM before the first instruction: boot block, page tables and device
// tree (boot/protocol/layout.hpp). It touches no page that it does not need: RAM that was never
// touched costs neither time nor memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "boot/elf/kernel_image.hpp"
#include "boot/error.hpp"
#include "boot/protocol/boot_block.hpp"

namespace boot {

struct BootParameters {
    Privilege privilege;
    unsigned cpus;
    std::uint64_t low_ram_end;  // page aligned, at most low_ram_limit
    std::uint64_t high_ram_end; // 0 or above high_ram_base
    std::uint64_t tsc_khz;
    std::uint64_t wall_clock_ns;
    std::uint64_t wall_clock_tsc;
    std::uint64_t process_start_tsc;
};

// Writes all of it into `low_ram`, the host's view of [0, low_ram_end), which reads as zeros.
// Returns boot_area_end. Fails if it does not fit.
Result<std::uint64_t> write_boot_area(std::span<std::byte> low_ram,
                                      const BootParameters& parameters, const KernelImage& kernel,
                                      std::span<const std::byte> device_tree);

} // namespace boot
