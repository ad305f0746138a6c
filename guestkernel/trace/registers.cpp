#include "guestkernel/trace/registers.hpp"

#include <linux/errno.h>

#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

constexpr u64 user_code_selector = 0x33, user_data_selector = 0x2b;
// What a tracer may change in RFLAGS: as Linux's FLAG_MASK, without IOPL and NT.
constexpr u64 trap_flag = 0x100;
constexpr u64 changeable_flags =
    0x1 | 0x4 | 0x10 | 0x40 | 0x80 | trap_flag | 0x400 | 0x800 | 0x10000 | 0x40000;

// The XSAVE area: Intel SDM 1, 13.4. Bytes 464 to 511 are for software: Linux shows XCR0 there.
constexpr usize mxcsr_at = 24, software_at = 464, header_at = 512, header_bytes = 64;
constexpr u32 mxcsr_bits = 0xffff;
constexpr u64 x87_and_sse = 3;

u64 enabled_features() {
    u32 low = 0;
    u32 high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return u64{high} << 32 | low;
}

u8* area_of(Task& task) {
    return static_cast<u8*>(task.context.fpu);
}

Result<void> check_mxcsr(std::span<const u8> from) {
    u32 mxcsr = 0;
    __builtin_memcpy(&mxcsr, from.data() + mxcsr_at, sizeof mxcsr);
    if ((mxcsr & ~mxcsr_bits) != 0)
        return fail(EINVAL); // XRSTOR would fault
    return {};
}

} // namespace

UserRegisters read_registers(Task& task) {
    const arch::TrapFrame& frame = arch::user_frame(task);
    UserRegisters out{};
    out.r15 = frame.r15, out.r14 = frame.r14, out.r13 = frame.r13, out.r12 = frame.r12;
    out.rbp = frame.rbp, out.rbx = frame.rbx, out.r11 = frame.r11, out.r10 = frame.r10;
    out.r9 = frame.r9, out.r8 = frame.r8, out.rax = frame.rax, out.rcx = frame.rcx;
    out.rdx = frame.rdx, out.rsi = frame.rsi, out.rdi = frame.rdi;
    out.orig_rax = frame.orig_rax;
    out.rip = frame.rip, out.rsp = frame.rsp;
    out.cs = user_code_selector, out.ss = user_data_selector;
    out.eflags = frame.rflags;
    if (task.trace && task.trace->trap_flag_forced)
        out.eflags &= ~trap_flag;
    out.fs_base = arch::get_fs_base(task);
    out.gs_base = arch::get_gs_base(task);
    return out;
}

Result<void> write_registers(Task& task, const UserRegisters& from) {
    const auto plain = [](u64 selector) { return selector == 0 || selector == user_data_selector; };
    // The kernel trusts the instruction pointer to tell its own code from the program's.
    if (from.rip >= user_max || from.cs != user_code_selector || from.ss != user_data_selector ||
        from.fs_base >= user_max || from.gs_base >= user_max)
        return fail(EIO);
    if (!plain(from.ds) || !plain(from.es) || !plain(from.fs) || !plain(from.gs))
        return fail(EIO);
    arch::TrapFrame& frame = arch::user_frame(task);
    frame.r15 = from.r15, frame.r14 = from.r14, frame.r13 = from.r13, frame.r12 = from.r12;
    frame.rbp = from.rbp, frame.rbx = from.rbx, frame.r11 = from.r11, frame.r10 = from.r10;
    frame.r9 = from.r9, frame.r8 = from.r8, frame.rax = from.rax, frame.rcx = from.rcx;
    frame.rdx = from.rdx, frame.rsi = from.rsi, frame.rdi = from.rdi;
    frame.orig_rax = from.orig_rax;
    frame.rip = from.rip, frame.rsp = from.rsp;
    u64 flags = (frame.rflags & ~changeable_flags) | (from.eflags & changeable_flags);
    if (task.trace) {
        // A trap flag that the tracer sets is the program's from now on.
        if ((from.eflags & trap_flag) != 0)
            task.trace->trap_flag_forced = false;
        else if (task.trace->trap_flag_forced)
            flags |= trap_flag;
    }
    frame.rflags = flags;
    arch::set_fs_base(task, from.fs_base);
    arch::set_gs_base(task, from.gs_base);
    return {};
}

void read_fxsave(Task& task, std::span<u8> out) {
    __builtin_memcpy(out.data(), area_of(task), out.size());
    __builtin_memset(out.data() + software_at, 0, fxsave_bytes - software_at);
}

Result<void> write_fxsave(Task& task, std::span<const u8> from) {
    TRY(check_mxcsr(from));
    u8* area = area_of(task);
    __builtin_memcpy(area, from.data(), fxsave_bytes);
    u64 present = 0;
    __builtin_memcpy(&present, area + header_at, sizeof present);
    present |= x87_and_sse;
    __builtin_memcpy(area + header_at, &present, sizeof present);
    return {};
}

void read_xstate(Task& task, std::span<u8> out) {
    __builtin_memcpy(out.data(), area_of(task), out.size());
    __builtin_memset(out.data() + software_at, 0, fxsave_bytes - software_at);
    const u64 features = enabled_features();
    __builtin_memcpy(out.data() + software_at, &features, sizeof features);
}

Result<void> write_xstate(Task& task, std::span<const u8> from) {
    if (from.size() != arch::fpu_state_size())
        return fail(EFAULT); // as Linux: all of it or nothing
    TRY(check_mxcsr(from));
    u64 header[header_bytes / sizeof(u64)];
    __builtin_memcpy(header, from.data() + header_at, sizeof header);
    if ((header[0] & ~enabled_features()) != 0)
        return fail(EINVAL);
    for (usize i = 1; i < header_bytes / sizeof(u64); i++)
        if (header[i] != 0)
            return fail(EINVAL);
    __builtin_memcpy(area_of(task), from.data(), from.size());
    return {};
}

} // namespace kernel
