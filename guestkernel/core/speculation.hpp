// Speculative execution and the walls of ring-0 mode: which weaknesses of the CPU let a program
// read across them, what the kernel does about each, and what programs may ask for themselves
// (prctl(2), PR_SET_SPECULATION_CTRL). In ring-3 mode there is no wall between programs and kernel:
// nothing is done, and all that the CPU suffers from is called vulnerable. Intel SDM 4, table 2-2
// (IA32_ARCH_CAPABILITIES, IA32_SPEC_CTRL, IA32_PRED_CMD); AMD APM 2, 3.2.9 and APM 3, appendix E.
#pragma once

#include <string_view>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {
class Task;
class TextBuilder;
} // namespace kernel

namespace kernel::speculation {

// What the CPU says of itself: the words of CPUID that matter here.
struct Cpu {
    bool amd = false; // or Hygon
    u32 family = 0;
    u32 structured_ebx = 0, structured_edx = 0; // leaf 7, subleaf 0
    u32 control_edx = 0;                        // leaf 7, subleaf 2
    u32 sizes_ebx = 0;                          // leaf 0x8000'0008
    u32 extended_eax = 0, extended_ecx = 0;     // leaf 0x8000'0021
    u64 capabilities = 0;                       // IA32_ARCH_CAPABILITIES; 0 without it
};
Cpu this_cpu(); // all but the capabilities, which only ring 0 can read
inline constexpr u32 structured_edx_capabilities = 1u << 29; // whether the register is there

// Bits of IA32_SPEC_CTRL.
inline constexpr u64 control_ibrs = 1, control_stibp = 2, control_ssbd = 4, control_bhi = 1u << 10;

enum class IndirectBranches : u8 { Unrestricted, Retpolines, EnhancedIbrs, AutomaticIbrs };

struct Measures {
    IndirectBranches indirect_branches = IndirectBranches::Unrestricted;
    bool walls = false;                // ring-0 mode
    bool has_control = false;          // IA32_SPEC_CTRL may be written
    bool barrier = false;              // IA32_PRED_CMD: IBPB
    bool sibling_control = false;      // STIBP
    bool store_bypass_control = false; // SSBD
    bool clear_buffers = false;        // VERW before each return to a program
    bool fill_return_stack = false;    // at each switch of tasks
    u64 control = 0;                   // IA32_SPEC_CTRL unless a program wants more
};
Measures choose(const Cpu& cpu, bool walls);

// What is so on this machine: set once, by the first CPU, before there are programs.
void set_state(const Cpu& cpu, const Measures& measures);
const Measures& measures();

// In the order of /sys/devices/system/cpu/vulnerabilities and of /proc/cpuinfo's "bugs".
enum class Weakness : u8 {
    Meltdown,
    SpectreV1,
    SpectreV2,
    StoreBypass,
    L1tf,
    Mds,
    TsxAbort,
    MmioStaleData,
    Retbleed,
    ReturnStack,
    Count,
};
inline constexpr std::string_view names[] = { // as sysfs has them
    "meltdown", "spectre_v1",      "spectre_v2",      "spec_store_bypass", "l1tf",
    "mds",      "tsx_async_abort", "mmio_stale_data", "retbleed",          "spec_rstack_overflow"};
static_assert(sizeof names / sizeof names[0] == static_cast<usize>(Weakness::Count));
constexpr std::string_view name_of(Weakness weakness) {
    return names[static_cast<usize>(weakness)];
}
bool affects(const Cpu& cpu, Weakness weakness);    // whether the CPU suffers from it
void describe(TextBuilder& out, Weakness weakness); // sysfs's line, with its end
void append_bugs(TextBuilder& out);                 // " name" for each

// What a thread wants: PR_SPEC_ENABLE, _DISABLE, _FORCE_DISABLE or _DISABLE_NOEXEC each. Children
// inherit it.
struct Wishes {
    u8 store_bypass = 2;    // PR_SPEC_ENABLE
    u8 indirect_branch = 2; // PR_SPEC_ENABLE
    bool guards_branches() const { return indirect_branch != 2; }
    u64 control() const; // the bits of IA32_SPEC_CTRL they add, as far as the CPU has them
    void after_exec();   // PR_SPEC_DISABLE_NOEXEC ends
};
// prctl(2): PR_GET_SPECULATION_CTRL's answer, and the change of PR_SET_SPECULATION_CTRL (ENODEV,
// ENXIO, EPERM, ERANGE).
Result<long> get_wish(const Wishes& wishes, u64 which);
Result<void> set_wish(Wishes& wishes, u64 which, u64 wanted);
// /proc/PID/status: the words behind "Speculation_Store_Bypass:" and "SpeculationIndirectBranch:".
std::string_view store_bypass_text(const Wishes& wishes);
std::string_view indirect_branch_text(const Wishes& wishes);

// `index` if it is below `size`, else 0, by arithmetic: no guessed branch lets a larger one through
// (Spectre variant 1).
inline usize bounded_index(usize index, usize size) {
    usize mask = 0;
    asm volatile("cmp %2, %1\n\tsbb %0, %0" : "=r"(mask) : "r"(index), "r"(size) : "cc");
    return index & mask;
}

} // namespace kernel::speculation
