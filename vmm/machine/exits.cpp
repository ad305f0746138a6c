#include "vmm/machine/exits.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "vmm/machine/metrics.hpp"

namespace vmm {
namespace {

crash::CpuRegisters convert(const kvm::Registers& kvm) {
    const kvm_regs& g = kvm.general;
    const kvm_sregs& s = kvm.special;
    crash::CpuRegisters r;
    r.rip = g.rip;
    r.rsp = g.rsp;
    r.rbp = g.rbp;
    r.rflags = g.rflags;
    r.rax = g.rax;
    r.rbx = g.rbx;
    r.rcx = g.rcx;
    r.rdx = g.rdx;
    r.rsi = g.rsi;
    r.rdi = g.rdi;
    r.r8 = g.r8;
    r.r9 = g.r9;
    r.r10 = g.r10;
    r.r11 = g.r11;
    r.r12 = g.r12;
    r.r13 = g.r13;
    r.r14 = g.r14;
    r.r15 = g.r15;
    r.cr0 = s.cr0;
    r.cr2 = s.cr2;
    r.cr3 = s.cr3;
    r.cr4 = s.cr4;
    r.cs = s.cs.selector;
    r.ss = s.ss.selector;
    r.fs_base = s.fs.base;
    r.gs_base = s.gs.base;
    return r;
}

std::string describe_internal_error(const kvm_run& exit) {
    std::string text = "KVM gave up";
    if (exit.internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
        text = "KVM could not emulate an instruction of the guest kernel";
    else if (exit.internal.suberror == KVM_INTERNAL_ERROR_DELIVERY_EV)
        text = "KVM could not deliver an exception or interrupt to the guest kernel";
    text += fmt::format(" (internal error {}", exit.internal.suberror);
    const auto count = std::min<std::size_t>(exit.internal.ndata, std::size(exit.internal.data));
    for (std::size_t i = 0; i < count; ++i)
        text += fmt::format(" {:#x}", exit.internal.data[i]);
    return text + ")";
}

} // namespace

const char* name_of(ExitKind kind) {
    switch (kind) {
    case ExitKind::Device:
        return "device";
    case ExitKind::Control:
        return "control";
    case ExitKind::Memory:
        return "memory";
    case ExitKind::Interrupted:
        return "interrupted";
    case ExitKind::Other:
        break;
    }
    return "other";
}

std::string describe_exit(const kvm_run& exit) {
    switch (exit.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
        return "the guest kernel died of a triple fault";
    case KVM_EXIT_INTERNAL_ERROR:
        return describe_internal_error(exit);
    case KVM_EXIT_FAIL_ENTRY:
        return fmt::format("the CPU refused the guest's state (hardware entry failure {:#x})",
                           exit.fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_IO:
        return fmt::format("the guest kernel {} I/O port {:#x}, where nothing is",
                           exit.io.direction == KVM_EXIT_IO_OUT ? "wrote to" : "read",
                           exit.io.port);
    case KVM_EXIT_HLT:
        return "the guest kernel halted outside of KVM's control";
    default:
        return fmt::format("KVM stopped the guest for an unknown reason ({})", exit.exit_reason);
    }
}

crash::Crash describe_crash(std::string title, unsigned index, const kvm::Registers& registers) {
    crash::Crash crash;
    crash.title = std::move(title);
    crash.cpu = index;
    crash.registers = convert(registers);
    // A shutdown on AMD leaves the state undefined, so KVM resets the vCPU (svm.c,
    // shutdown_interception); the reset vector is no place that the kernel runs at.
    crash.registers_lost = registers.special.cs.selector == 0xf000;
    return crash;
}

crash::Crash describe_crash(std::string title, unsigned index, const kvm::Vcpu& vcpu) {
    if (const auto registers = vcpu.registers())
        return describe_crash(std::move(title), index, *registers);
    crash::Crash crash;
    crash.title = std::move(title);
    crash.cpu = index;
    crash.registers_lost = true;
    return crash;
}

crash::Crash describe_panic(const boot::PanicRecord& record, unsigned index,
                            const kvm::Vcpu& vcpu) {
    crash::Crash crash = describe_crash("", index, vcpu);
    crash.title = "guest kernel panic: " + std::string(record.message, record.message_length);
    if (record.has_registers == 0)
        return crash;
    crash::CpuRegisters& r = crash.registers;
    r.rip = record.rip;
    r.rsp = record.rsp;
    r.rbp = record.rbp;
    r.rflags = record.rflags;
    r.rax = record.rax;
    r.rbx = record.rbx;
    r.rcx = record.rcx;
    r.rdx = record.rdx;
    r.rsi = record.rsi;
    r.rdi = record.rdi;
    r.r8 = record.r8;
    r.r9 = record.r9;
    r.r10 = record.r10;
    r.r11 = record.r11;
    r.r12 = record.r12;
    r.r13 = record.r13;
    r.r14 = record.r14;
    r.r15 = record.r15;
    r.cr2 = record.cr2;
    crash.exception = crash::Exception{record.vector, record.error_code};
    return crash;
}

} // namespace vmm
