// What differs between machines and privilege modes: everything above calls these and asks no
// further. Implemented in arch/x86_64 (ring0 and ring3 behind it) and, for unit tests, in
// arch/hosted.
#pragma once

#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {
class Task;
}

namespace kernel::arch {

inline constexpr usize kernel_stack_size =
    16 * 1024; // aligned to its size; its base holds the Task*

// --- processors --------------------------------------------------------------------------------
unsigned cpu_id();    // of the running CPU
unsigned cpu_count(); // online and coming online
bool cpu_online(unsigned cpu);
Task* current(); // found from the stack pointer
u64 read_tsc();
// Idles until an interrupt or until work has been noted for this CPU; no lost wake-ups.
void halt_until_work();
// Whether halt_until_work() would return at once.
bool work_pending();
// Makes `cpu` notice new work: it leaves its halt, or its user mode, and runs schedule() soon.
void kick_cpu(unsigned cpu);
// Whether a reschedule has been requested of this CPU (by a tick or kick_cpu); schedule() clears
// it.
bool need_resched();
void set_need_resched();
void clear_need_resched(); // by schedule(), before it chooses
void clear_need_resched(); // called by schedule() and nobody else
void relax();              // PAUSE

// --- deferred work, see Softirq in core/time.hpp
// -----------------------------------------------------
void raise_softirq(u32 bit,
                   unsigned cpu); // also from interrupt handlers; `cpu` is the running one there
void run_softirqs();              // in task context; core/softirq.cpp
u32 take_softirqs();              // the running CPU's pending bits, cleared
bool softirqs_pending();

// --- timer -------------------------------------------------------------------------------------
// One shot at this TSC value (0: none). About 7 us in ring-3 mode, so callers avoid needless
// re-arming.
void arm_timer(u64 tsc_deadline);

// --- address translation ------------------------------------------------------------------------
void* phys_to_virt(PhysAddr phys);          // the direct map
PhysAddr virt_to_phys(const void* address); // of a direct-map or kernel-image address

// x86-64 page-table entry bits.
inline constexpr u64 pte_present = 1, pte_write = 2, pte_user = 4, pte_accessed = 0x20,
                     pte_dirty = 0x40, pte_large = 0x80, pte_no_exec = u64{1} << 63,
                     pte_address = 0x000f'ffff'ffff'f000;
// A software bit: the page is shared with a copy to come (copy-on-write).
inline constexpr u64 pte_cow = u64{1} << 9;
// The user bits of entries above the leaves.
inline constexpr u64 pte_table = pte_present | pte_write | pte_user | pte_accessed | pte_dirty;

// A new top-level table with the kernel's half filled in, from a zeroed frame.
void init_root_table(void* root);
// Loads a page table on this CPU (skipped when it is loaded already and `force` is not set).
void load_page_table(PhysAddr root, bool force = false);
PhysAddr loaded_page_table();
// Removes stale translations of [start, start + pages * 4096) of the table loaded on this CPU; many
// pages are one full flush. Not needed when an entry only became present or more permissive.
void flush_local(VirtAddr start, usize pages);
// The same on every CPU of the mask (bit n = CPU n), the own one included; waits for them. May be
// called with spin locks held: a CPU that spins answers. A `root` of zero flushes nothing: each CPU
// is interrupted, which orders its memory accesses and serializes it.
void flush_on_cpus(u64 cpu_mask, PhysAddr root, VirtAddr start, usize pages);

// --- user memory
// --------------------------------------------------------------------------------------- Copies
// between kernel memory and the current address space; faults are served as they come (may sleep).
// Returns the number of bytes NOT copied. Requires: the user range has been checked to lie below
// user_max (mm/user_copy.hpp does).
usize copy_from_user(void* to, u64 from, usize bytes);
usize copy_to_user(u64 to, const void* from, usize bytes);
usize clear_user(u64 to, usize bytes);
// Copies up to `capacity` bytes including the NUL; returns the length without it, `capacity` when
// there is no NUL within it, or -1 when the memory is not readable.
i64 copy_string_from_user(char* to, u64 from, usize capacity);
// *address = desired if it equals expected; returns false if the memory could not be accessed.
// `found` gets the value seen before.
bool compare_exchange_user(u64 address, u32 expected, u32 desired, u32& found);

// --- breakpoints
// DR0 to DR3 and DR7 of a program (Intel SDM 3B, 18.2). No address is the kernel's: its entry code
// relies on that.
struct Breakpoints {
    u64 addresses[4] = {};
    u64 control = 0;
};
// Whether the machine has breakpoints that work. The first question has them tried, on the running
// program's stack; nothing is loaded before.
bool breakpoints_work();
void load_breakpoints(const Breakpoints* wanted); // on this CPU; null: none

// --- tasks
// ------------------------------------------------------------------------------------------- The
// machine part of a Task, embedded in it.
struct TaskContext {
    void* kernel_stack = nullptr; // lowest address; kernel_stack_size bytes
    u64 saved_rsp = 0;            // while not running
    u64 fs_base = 0, gs_base = 0; // the user's, while not running
    void* fpu =
        nullptr; // XSAVE area, fpu_state_size() bytes, 64-byte aligned; null for kernel tasks
    bool has_user_state = false; // FPU and segment bases are saved and restored at switches
    // In the debug registers while it runs; null: none. Changed while it is off its CPU, or by
    // itself, who loads them.
    const Breakpoints* breakpoints = nullptr;
};
usize fpu_state_size();
u64 fpu_features();              // XCR0: the parts of the state that programs may use
void init_fpu_state(void* area); // the state that execve leaves
// Saves the running task's live FPU state into its area; the contents are then current (signal
// frames, fork).
void save_fpu(Task& current_task);
// Makes the area's contents live again after it was changed (sigreturn, exec).
void restore_fpu(Task& current_task);
// Replaces the live segment bases (arch_prctl, CLONE_SETTLS on the own task, exec).
void set_fs_base(Task& current_task, u64 base);
void set_gs_base(Task& current_task, u64 base);
u64 get_fs_base(Task& current_task);
u64 get_gs_base(Task& current_task);

// Prepares a fresh kernel stack (context.kernel_stack is set) so that the first switch to it calls
// `entry(argument)`, which must not return unless the frame at user_frame() has been filled: a
// return goes to user mode with that frame.
void init_kernel_stack(Task& task, void (*entry)(void*), void* argument);
// The user register frame at the top of a task's kernel stack.
TrapFrame& user_frame(Task& task);
// Switches stacks, FPU state and segment bases; returns when the old task runs again. The page
// table is loaded by the caller. Requires: called by the scheduler on `from`'s stack.
void switch_to(Task& from, Task& to);
// Makes what the running task wants of speculation (Task::speculation) so, after it changed.
void apply_speculation(const Task& current_task);
// The running program is a new one (execve): what guards it is decided anew at the next switch.
void forget_program();

// --- the way back to user mode
// ---------------------------------------------------------------------------- Implemented by
// task/: called with a complete user frame before every return to user mode. Runs soft interrupts,
// reschedules, delivers signals, until nothing is left to do. (declared here, defined in
// task/return_to_user.cpp)
extern "C" void joey_return_to_user(TrapFrame* frame);
// Implemented by syscalls/dispatch.cpp: serves the call in frame->orig_rax and sets frame->rax.
extern "C" void joey_syscall(TrapFrame* frame);

// How a program's exception becomes a signal; implemented in task/. `address` is the faulting one
// (0 if none); the error code of a debug exception is DR6, or 0 where nothing reads that: a single
// step.
void deliver_exception(TrapFrame& frame, unsigned vector, u64 error_code, u64 address);
// A page fault of user mode or of a user copy, implemented in mm/. Returns true when the access can
// be tried again; false: SIGSEGV/SIGBUS (`signal_code` packs signal << 8 | si_code) or a failed
// copy.
bool handle_user_fault(u64 address, u64 error_code, bool from_user, u32& signal_code);
inline constexpr u64 fault_present = 1, fault_write = 2, fault_user = 4, fault_fetch = 16;

[[noreturn]] void power_off(u32 wait_status); // tells the VMM and stops

} // namespace kernel::arch
