// What the kernel counts for whoever watches the VM from outside: one CpuCounters in each CPU's
// area, written by that CPU alone and read by the VMM when it is asked (`--metrics`). No exit and
// no message is needed for it. The VMM believes nothing of it: these are numbers, whatever the
// guest wrote there.
#pragma once

#include <cstdint>

#include "boot/protocol/layout.hpp"

namespace boot {

// Behind the TSS (104 bytes at 0x100), before the IDT.
inline constexpr std::uint64_t cpu_area_counters = 0x200;

// The numbers of x86-64 have a hole, which here is closed: calls up to the first end of it, then
// those behind it.
inline constexpr std::uint32_t syscall_hole_begin = 335;
inline constexpr std::uint32_t syscall_hole_end = 424;
inline constexpr std::uint32_t syscall_slots = 440;

struct CpuCounters {
    std::uint64_t minor_faults;
    std::uint64_t major_faults;
    std::uint64_t other_syscalls; // of numbers that have no slot
    std::uint64_t reserved[5];
    std::uint64_t syscalls[syscall_slots];
};
static_assert(cpu_area_counters + sizeof(CpuCounters) == cpu_area_idt);

// The slot of a call; syscall_slots: it has none.
constexpr std::uint32_t syscall_slot(std::uint32_t number) {
    if (number < syscall_hole_begin)
        return number;
    const std::uint32_t behind = number - syscall_hole_end; // wraps inside of the hole
    return number >= syscall_hole_end && behind < syscall_slots - syscall_hole_begin
               ? syscall_hole_begin + behind
               : syscall_slots;
}
// The other way round. Requires: slot < syscall_slots.
constexpr std::uint32_t syscall_number(std::uint32_t slot) {
    return slot < syscall_hole_begin ? slot : slot - syscall_hole_begin + syscall_hole_end;
}
static_assert(syscall_slot(syscall_hole_begin - 1) == syscall_hole_begin - 1);
static_assert(syscall_slot(syscall_hole_begin) == syscall_slots);
static_assert(syscall_slot(syscall_hole_end) == syscall_hole_begin);
static_assert(syscall_slot(~0u) == syscall_slots);
static_assert(syscall_number(syscall_slots - 1) == 528);

} // namespace boot
