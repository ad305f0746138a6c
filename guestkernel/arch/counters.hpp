// The counters that the VMM reads out of each CPU's area (boot/protocol/counters.hpp). Each is
// written by its CPU alone, in task context: the kernel is not preempted, so that a load and a
// store will do. It is one instruction, on memory that only this CPU writes.
#pragma once

#include "boot/protocol/counters.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::arch {

// Where they are: of the CPU areas that the VMM laid out, or of a stand-in for unit tests.
struct CounterPlaces {
    u64 first;
    u64 stride;
};
extern const CounterPlaces counter_places;

inline boot::CpuCounters& counters(unsigned cpu) {
    // SAFETY: reserved for cpu_count CPUs, in the direct map (layout.hpp); zeroed before the first
    // instruction. Its reader has no lock and needs none: whole words.
    return *reinterpret_cast<boot::CpuCounters*>(counter_places.first +
                                                 cpu * counter_places.stride);
}

inline void bump(u64& counter) {
    __atomic_store_n(&counter, __atomic_load_n(&counter, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}

inline void count_syscall(unsigned cpu, u32 number) {
    boot::CpuCounters& all = counters(cpu);
    const u32 slot = boot::syscall_slot(number);
    bump(slot < boot::syscall_slots ? all.syscalls[slot] : all.other_syscalls);
}

} // namespace kernel::arch
