#include "boot/handover/cpu_state.hpp"

#include <asm/processor-flags.h>

#include "boot/protocol/layout.hpp"

namespace boot {
namespace {

constexpr std::uint64_t efer_sce = 1u << 0; // SYSCALL (AMD APM 2, 3.1.7)
constexpr std::uint64_t efer_lme = 1u << 8;
constexpr std::uint64_t efer_lma = 1u << 10;
constexpr std::uint64_t efer_nxe = 1u << 11;
constexpr std::uint16_t gdt_entries = 9;
constexpr std::uint16_t tss_size = 104;

} // namespace

CpuState initial_cpu_state(unsigned cpu, Privilege privilege, std::uint64_t entry,
                           CpuFeatures features) {
    const bool ring3 = privilege == Privilege::Ring3;
    const std::uint64_t area = direct_map_base + cpu_areas_phys + cpu * cpu_area_size;
    CpuState state{};
    state.rip = entry;
    state.rsp = area + boot_stack_top;
    state.rdi = direct_map_base + boot_block_phys;
    state.rsi = cpu;
    state.rflags = X86_EFLAGS_FIXED | (ring3 ? X86_EFLAGS_IF : 0u);
    state.cr0 =
        X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM | X86_CR0_PG;
    state.cr3 = kernel_root_table_phys;
    state.cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE |
                X86_CR4_OSXSAVE;
    if (!ring3) {
        state.cr4 |= (features.smep ? X86_CR4_SMEP : 0u) | (features.smap ? X86_CR4_SMAP : 0u) |
                     (features.umip ? X86_CR4_UMIP : 0u);
    }
    state.efer = efer_sce | efer_lme | efer_lma | efer_nxe;
    state.gdt_base = area + cpu_area_gdt;
    state.idt_base = area + cpu_area_idt;
    state.tss_base = area + cpu_area_tss;
    state.gdt_limit = gdt_entries * 8 - 1;
    state.idt_limit = 256 * 16 - 1;
    state.tss_limit = tss_size - 1;
    state.code_selector = ring3 ? user_code_selector : kernel_code_selector;
    state.data_selector = ring3 ? user_data_selector : kernel_data_selector;
    state.tss_selector = tss_selector;
    state.privilege_level = ring3 ? 3 : 0;
    state.star = std::uint64_t{0x0023'0010} << 32;
    return state;
}

} // namespace boot
