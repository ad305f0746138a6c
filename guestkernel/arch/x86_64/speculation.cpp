#include "guestkernel/arch/x86_64/speculation.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/privileged.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/speculation.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::arch {
namespace {

extern "C" {
extern u8 joey_thunks[], joey_thunks_end[];
extern const u8 joey_retpolines[], joey_retpolines_end[];
extern u8 joey_clear_buffers, joey_fill_return_stack;
}

constexpr u32 msr_spec_ctrl = 0x48, msr_pred_cmd = 0x49, msr_arch_capabilities = 0x10a,
              msr_efer = 0xc0000080;
constexpr u64 pred_cmd_ibpb = 1, efer_automatic_ibrs = u64{1} << 21;

// False: the register is not there, whatever CPUID said.
bool try_read_msr(u32 msr, u64& value) {
    u32 low = 0, high = 0;
    u8 done = 0;
    asm volatile("1: rdmsr\n\t"
                 "movb $1, %2\n"
                 "2:\n"
                 ".pushsection .user_fixups, \"a\"\n"
                 ".quad 1b, 2b\n"
                 ".popsection"
                 : "+a"(low), "+d"(high), "+r"(done)
                 : "c"(msr));
    value = u64{high} << 32 | low;
    return done != 0;
}
bool try_write_msr(u32 msr, u64 value) {
    u8 done = 0;
    asm volatile("1: wrmsr\n\t"
                 "movb $1, %0\n"
                 "2:\n"
                 ".pushsection .user_fixups, \"a\"\n"
                 ".quad 1b, 2b\n"
                 ".popsection"
                 : "+r"(done)
                 : "c"(msr), "a"(static_cast<u32>(value)), "d"(static_cast<u32>(value >> 32))
                 : "memory");
    return done != 0;
}

void install_retpolines() {
    const auto bytes = static_cast<usize>(joey_thunks_end - joey_thunks);
    if (bytes != static_cast<usize>(joey_retpolines_end - joey_retpolines))
        PANIC("retpolines that do not fit");
    // The kernel's text cannot be written where it runs; the direct map shows the same memory.
    auto* place = static_cast<volatile u8*>(phys_to_virt(virt_to_phys(joey_thunks)));
    for (usize i = 0; i < bytes; i++)
        place[i] = joey_retpolines[i];
    // CPUID serializes: what was fetched of them before is gone (Intel SDM 3A 8.1.3).
    u32 a = 0, b = 0, c = 0, d = 0;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}

// What KVM refuses, although its CPUID offers it, is not relied on.
void drop_what_fails(speculation::Measures& m) {
    if (m.has_control && !try_write_msr(msr_spec_ctrl, m.control)) {
        m.has_control = m.sibling_control = m.store_bypass_control = false;
        m.control = 0;
        if (m.indirect_branches == speculation::IndirectBranches::EnhancedIbrs)
            m.indirect_branches = speculation::IndirectBranches::Retpolines;
    }
    if (m.barrier && !try_write_msr(msr_pred_cmd, pred_cmd_ibpb))
        m.barrier = false;
    u64 efer = 0;
    if (m.indirect_branches == speculation::IndirectBranches::AutomaticIbrs &&
        !(try_read_msr(msr_efer, efer) && try_write_msr(msr_efer, efer | efer_automatic_ibrs)))
        m.indirect_branches = speculation::IndirectBranches::Retpolines;
}

void decide() {
    speculation::Cpu cpu = speculation::this_cpu();
    if (!ring3_mode && (cpu.structured_edx & speculation::structured_edx_capabilities) != 0 &&
        !try_read_msr(msr_arch_capabilities, cpu.capabilities))
        cpu.capabilities = 0;
    speculation::Measures measures = speculation::choose(cpu, !ring3_mode);
    drop_what_fails(measures);
    speculation::set_state(cpu, measures);
    if (measures.indirect_branches == speculation::IndirectBranches::Retpolines)
        install_retpolines();
    joey_clear_buffers = measures.clear_buffers ? 1 : 0;
    joey_fill_return_stack = measures.fill_return_stack ? 1 : 0;
}

} // namespace

void init_speculation(unsigned cpu) {
    if (cpu == 0)
        decide();
    const speculation::Measures& m = speculation::measures();
    if (m.has_control)
        write_msr(msr_spec_ctrl, m.control);
    cpu_area(cpu).speculation_control = m.control;
    u64 efer = 0;
    if (cpu != 0 && m.indirect_branches == speculation::IndirectBranches::AutomaticIbrs &&
        !(try_read_msr(msr_efer, efer) && try_write_msr(msr_efer, efer | efer_automatic_ibrs)))
        PANIC("a CPU without the automatic IBRS that the first one has");
}

void switch_speculation(const Task& to) {
    const speculation::Measures& m = speculation::measures();
    if (to.is_kernel || !(m.has_control || m.barrier))
        return;
    CpuArea& area = cpu_area(cpu_id());
    const bool guarded = to.speculation.guards_branches();
    if (m.barrier && area.last_program != to.process->serial) {
        if (guarded || area.last_program_guarded != 0)
            write_msr(msr_pred_cmd, pred_cmd_ibpb);
        area.last_program = to.process->serial;
        area.last_program_guarded = guarded ? 1 : 0;
    }
    apply_speculation(to);
}

void apply_speculation(const Task& task) {
    const speculation::Measures& m = speculation::measures();
    if (!m.has_control)
        return;
    CpuArea& area = cpu_area(cpu_id());
    const u64 wanted = m.control | task.speculation.control();
    if (area.speculation_control == wanted)
        return;
    area.speculation_control = wanted;
    write_msr(msr_spec_ctrl, wanted);
}

void forget_program() {
    cpu_area(cpu_id()).last_program = 0;
}

} // namespace kernel::arch
