// The per-CPU area that the VMM pointed GDTR, IDTR and TR at: descriptor tables, exception stacks
// and the little data that entry code needs before it knows the task. See offsets.hpp and
// boot/protocol/layout.hpp.
#pragma once

#include "base/atomic.hpp"
#include "boot/protocol/layout.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::arch {

// Bits of CpuArea::work. Bit 0: reschedule; from bit 8 on: soft interrupts.
inline constexpr u32 work_resched = 1;
inline constexpr unsigned work_softirq_shift = 8;

struct CpuArea {
    u64 kernel_stack_top; // of the running task: where exceptions of programs build their frame
    u64 exception_cr2, exception_vector;
    u64 idle_rsp;
    u64 debug_status; // DR6 at the last debug exception; 0: nothing reads it yet
    base::Atomic<u32> work;
    u32 cpu;
    base::Atomic<u32> raised_slots; // device vectors that have interrupted, by slot
    u32 online;
    u64 loaded_root; // physical; what CR3 holds
    // A request of another CPU to flush translations: see flush_on_cpus().
    base::Atomic<u32> flush_pending;
    u32 flush_pages;
    u64 flush_root, flush_start;
    // speculation.cpp: IA32_SPEC_CTRL's value; the program that ran last (Process::serial), and
    // whether it guards itself.
    u64 speculation_control, last_program;
    u32 last_program_guarded;
    u32 catches_breakpoints; // catch_breakpoints() was called
};
static_assert(sizeof(CpuArea) <= 0x600); // below the ring-0 stack

inline CpuArea& cpu_area(unsigned cpu) {
    // SAFETY: the VMM reserved these areas for cpu_count CPUs; they are in the direct map, page
    // aligned.
    return *reinterpret_cast<CpuArea*>(boot::direct_map_base + boot::cpu_areas_phys +
                                       cpu * boot::cpu_area_size + boot::cpu_area_data);
}

} // namespace kernel::arch
