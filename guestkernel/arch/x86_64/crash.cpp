#include "guestkernel/arch/x86_64/crash.hpp"

#include "boot/protocol/control.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/x86_64/machine.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"

namespace kernel {

namespace {

constinit boot::PanicRecord record = {};

[[noreturn]] void report() {
    arch::control_write64(static_cast<u32>(boot::Control::panic),
                          arch::virt_to_phys(&record).raw());
    for (;;)
        arch::relax(); // the VMM stops us at the write
}

} // namespace

namespace arch {

void crash(const TrapFrame& frame, u32 vector, u64 error_code, u64 cr2, const char* message) {
    record.cpu = cpu_id();
    record.has_registers = 1;
    record.rip = frame.rip, record.rsp = frame.rsp, record.rflags = frame.rflags, record.cr2 = cr2;
    record.error_code = error_code, record.vector = vector;
    record.rax = frame.rax, record.rbx = frame.rbx, record.rcx = frame.rcx, record.rdx = frame.rdx;
    record.rsi = frame.rsi, record.rdi = frame.rdi, record.rbp = frame.rbp, record.r8 = frame.r8;
    record.r9 = frame.r9, record.r10 = frame.r10, record.r11 = frame.r11, record.r12 = frame.r12;
    record.r13 = frame.r13, record.r14 = frame.r14, record.r15 = frame.r15;
    record.message_length = static_cast<u32>(log::format(record.message, sizeof record.message,
                                                         "{} (vector {}, error code {x})", message,
                                                         vector, error_code));
    report();
}

} // namespace arch

void panic(const char* message, const char* file, int line) {
    record.cpu = 0;
    record.has_registers = 1;
    u64 rip = 0;
    asm volatile("lea (%%rip), %0" : "=r"(rip));
    record.rip = rip;
    asm volatile("mov %%rsp, %0" : "=r"(record.rsp));
    record.rbp = reinterpret_cast<u64>(__builtin_frame_address(0));
    record.message_length = static_cast<u32>(
        log::format(record.message, sizeof record.message, "{} at {}:{}", message, file, line));
    report();
}

} // namespace kernel
