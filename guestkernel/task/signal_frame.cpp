// The frame of a signal handler on the user's stack: struct rt_sigframe of x86-64, as debuggers and
// unwinders know it.
// The last of these needs the types of the second.
// clang-format off
#include <linux/errno.h>
#include <linux/signal.h>
#include <asm/sigcontext.h>
#include <asm/ucontext.h>
// clang-format on

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

struct HandlerFrame {
    u64 return_address; // the restorer
    ucontext context;
    SignalInfo info;
};
static_assert(sizeof(ucontext) == 304 && sizeof(sigcontext) == 256);
static_assert(sizeof(HandlerFrame) == 440);

constexpr u64 red_zone = 128;
constexpr u64 user_code_selector = 0x33;
constexpr u64 user_data_selector = 0x2b;
constexpr u32 ss_onstack = 1, ss_disable = 2, ss_autodisarm = u32{1} << 31;

// XSAVE area: the legacy part, then the header at 512 (Intel SDM 1 13.4). Software bytes at 464.
constexpr usize legacy_bytes = 512;
constexpr usize software_bytes_at = 464;
constexpr usize header_bytes = 64;
constexpr u64 x87_and_sse = 3;

// What a program may change in RFLAGS: carry, parity, adjust, zero, sign, trap, direction,
// overflow, resume, align.
constexpr u64 user_flags =
    0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x10000 | 0x40000;
constexpr u64 trap_flag = 0x100, direction_flag = 0x400, resume_flag = 0x10000;

u64 enabled_features() {
    u32 low = 0;
    u32 high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return u64{high} << 32 | low;
}

u64 save_registers(const arch::TrapFrame& frame, const SignalState& state, u64 mask, u64 fpu,
                   sigcontext& out) {
    out = {};
    out.r8 = frame.r8, out.r9 = frame.r9, out.r10 = frame.r10, out.r11 = frame.r11;
    out.r12 = frame.r12, out.r13 = frame.r13, out.r14 = frame.r14, out.r15 = frame.r15;
    out.rdi = frame.rdi, out.rsi = frame.rsi, out.rbp = frame.rbp, out.rbx = frame.rbx;
    out.rdx = frame.rdx, out.rax = frame.rax, out.rcx = frame.rcx, out.rsp = frame.rsp;
    out.rip = frame.rip, out.eflags = frame.rflags;
    out.cs = user_code_selector, out.ss = user_data_selector;
    out.err = state.last_error, out.trapno = state.last_trap, out.cr2 = state.last_address;
    out.oldmask = mask;
    // SAFETY: a user address in a field that UAPI declares as a pointer; never dereferenced here.
    out.fpstate = reinterpret_cast<_fpstate_64*>(fpu);
    return fpu;
}

void load_registers(arch::TrapFrame& frame, const sigcontext& in) {
    frame.r8 = in.r8, frame.r9 = in.r9, frame.r10 = in.r10, frame.r11 = in.r11;
    frame.r12 = in.r12, frame.r13 = in.r13, frame.r14 = in.r14, frame.r15 = in.r15;
    frame.rdi = in.rdi, frame.rsi = in.rsi, frame.rbp = in.rbp, frame.rbx = in.rbx;
    frame.rdx = in.rdx, frame.rax = in.rax, frame.rcx = in.rcx, frame.rsp = in.rsp;
    frame.rip = in.rip;
    frame.rflags = (frame.rflags & ~user_flags) | (in.eflags & user_flags);
    frame.cs = user_code_selector, frame.ss = user_data_selector;
    frame.orig_rax = ~u64{0}; // no call to restart
}

// The FPU state, with the marks that tell sigreturn (and debuggers) how much of it is there.
bool write_fpu_state(Task& task, u64 to) {
    arch::save_fpu(task);
    auto* area = static_cast<u8*>(task.context.fpu);
    const auto size = static_cast<u32>(arch::fpu_state_size());
    _fpx_sw_bytes marks = {};
    marks.magic1 = FP_XSTATE_MAGIC1;
    marks.extended_size = size + FP_XSTATE_MAGIC2_SIZE;
    marks.xfeatures = enabled_features();
    marks.xstate_size = size;
    __builtin_memcpy(area + software_bytes_at, &marks, sizeof marks);
    const u32 end_mark = FP_XSTATE_MAGIC2;
    return copy_out_bytes(to, area, size) && copy_out_bytes(to + size, &end_mark, sizeof end_mark);
}

Result<void> read_fpu_state(Task& task, u64 from) {
    const usize size = arch::fpu_state_size();
    _fpx_sw_bytes marks;
    TRY(copy_in_bytes(&marks, from + software_bytes_at, sizeof marks));
    u32 end_mark = 0;
    bool extended = marks.magic1 == FP_XSTATE_MAGIC1 && marks.xstate_size <= size &&
                    marks.xstate_size >= legacy_bytes + header_bytes &&
                    marks.extended_size >= marks.xstate_size;
    if (extended) {
        TRY(copy_in_bytes(&end_mark, from + marks.xstate_size, sizeof end_mark));
        extended = end_mark == FP_XSTATE_MAGIC2;
    }
    // Not straight into the task's area: the copy may sleep in a page fault, and then the scheduler
    // saves registers to that area and loads them from it, in whatever state it is. XSAVE leaves
    // most of the header as it finds it, and XRSTOR faults on a wrong one.
    const usize copied = extended ? marks.xstate_size : legacy_bytes;
    Vector<u8> fresh;
    TRY(fresh.resize(size));
    arch::init_fpu_state(fresh.data());
    TRY(copy_in_bytes(fresh.data(), from, copied));
    // Fields that XRSTOR would refuse (#GP): header words that must be zero, features not enabled,
    // MXCSR's reserved bits.
    u64 header[8] = {extended ? 0 : x87_and_sse};
    if (extended) {
        __builtin_memcpy(header, fresh.data() + legacy_bytes, sizeof header[0]);
        header[0] &= enabled_features() & marks.xfeatures;
    }
    __builtin_memcpy(fresh.data() + legacy_bytes, header, sizeof header);
    u32 mxcsr = 0;
    __builtin_memcpy(&mxcsr, fresh.data() + 24, sizeof mxcsr);
    mxcsr &= 0xffff;
    __builtin_memcpy(fresh.data() + 24, &mxcsr, sizeof mxcsr);
    // No sleep from here to the end of the restore.
    __builtin_memcpy(task.context.fpu, fresh.data(), size);
    arch::restore_fpu(task);
    return {};
}

bool on_alternate_stack(const SignalState& state, u64 stack_pointer) {
    return (state.alternate_flags & ss_disable) == 0 &&
           (state.alternate_flags & ss_autodisarm) == 0 && stack_pointer > state.alternate_stack &&
           stack_pointer - state.alternate_stack <= state.alternate_size;
}

} // namespace

u32 alternate_stack_flags(const SignalState& state, u64 stack_pointer) {
    if ((state.alternate_flags & ss_disable) != 0 || state.alternate_size == 0)
        return ss_disable;
    return on_alternate_stack(state, stack_pointer) ? ss_onstack : 0;
}

bool push_signal_frame(arch::TrapFrame& frame, int signal, const SignalAction& action,
                       const SignalInfo& info, u64 mask_to_restore) {
    Task& task = current_task();
    SignalState& state = *task.signals;
    u64 top = frame.rsp - red_zone;
    const bool nested = on_alternate_stack(state, frame.rsp);
    const bool entering = (action.flags & SA_ONSTACK) != 0 && !nested &&
                          (state.alternate_flags & ss_disable) == 0 && state.alternate_size != 0;
    if (entering)
        top = state.alternate_stack + state.alternate_size;
    const u64 fpu = (top - (arch::fpu_state_size() + FP_XSTATE_MAGIC2_SIZE)) & ~u64{63};
    // At the handler's entry RSP + 8 is a multiple of 16, as after a call.
    const u64 at = ((fpu - sizeof(HandlerFrame)) & ~u64{15}) - 8;
    // Either way the whole frame must have room: what lies below that stack is the program's own,
    // and the vector registers of some CPUs alone take more than the smallest one has.
    if ((nested || entering) &&
        (at <= state.alternate_stack || at - state.alternate_stack > state.alternate_size))
        return false;
    // IRETQ takes no such address; the program could not run there anyway.
    if ((action.flags & SA_RESTORER) == 0 || action.handler >= user_max)
        return false;
    HandlerFrame out = {};
    out.return_address = action.restorer;
    out.context.uc_flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS;
    // SAFETY: a user address in a field that UAPI declares as a pointer.
    out.context.uc_stack.ss_sp = reinterpret_cast<void*>(state.alternate_stack);
    out.context.uc_stack.ss_flags = static_cast<int>(state.alternate_flags);
    out.context.uc_stack.ss_size = state.alternate_size;
    save_registers(frame, state, mask_to_restore, fpu, out.context.uc_mcontext);
    out.context.uc_sigmask = mask_to_restore;
    out.info = info;
    if (!write_fpu_state(task, fpu) || !copy_out_bytes(at, &out, sizeof out))
        return false;
    if ((state.alternate_flags & ss_autodisarm) != 0) {
        state.alternate_stack = state.alternate_size = 0;
        state.alternate_flags = ss_disable;
    }
    frame.rdi = static_cast<u64>(signal);
    frame.rsi = at + offsetof(HandlerFrame, info);
    frame.rdx = at + offsetof(HandlerFrame, context);
    frame.rax = 0; // no vector arguments
    frame.rip = action.handler;
    frame.rsp = at;
    frame.rflags &= ~(trap_flag | direction_flag | resume_flag);
    frame.cs = user_code_selector, frame.ss = user_data_selector;
    frame.orig_rax = ~u64{0};
    return true;
}

void pop_signal_frame(arch::TrapFrame& frame) {
    Task& task = current_task();
    SignalState& state = *task.signals;
    // The handler's RET took the return address off.
    const u64 at = frame.rsp - sizeof(u64);
    HandlerFrame in;
    frame.orig_rax = ~u64{0};
    if (!copy_in_bytes(&in, at, sizeof in)) {
        force_signal(SIGSEGV, SI_KERNEL, 0);
        return;
    }
    const u64 fpu = reinterpret_cast<u64>(in.context.uc_mcontext.fpstate);
    if (fpu != 0 && !read_fpu_state(task, fpu)) {
        force_signal(SIGSEGV, SI_KERNEL, 0);
        return;
    }
    if (fpu == 0) {
        arch::init_fpu_state(task.context.fpu);
        arch::restore_fpu(task);
    }
    load_registers(frame, in.context.uc_mcontext);
    set_blocked(in.context.uc_sigmask);
    const stack_t& stack = in.context.uc_stack;
    const auto flags = static_cast<u32>(stack.ss_flags);
    if (!on_alternate_stack(state, frame.rsp) &&
        (flags & ~(ss_onstack | ss_disable | ss_autodisarm)) == 0) {
        state.alternate_stack = reinterpret_cast<u64>(stack.ss_sp);
        state.alternate_size = stack.ss_size;
        state.alternate_flags = flags & ~ss_onstack;
    }
    if (frame.rip >= user_max)
        refuse_return(frame);
}

void refuse_return(const arch::TrapFrame& frame) {
    SignalState& state = *current_task().signals;
    constexpr u32 page_fault = 14, general_protection = 13;
    constexpr u64 present = 1, user = 4, fetch = 16;
    constexpr unsigned unused_bits = 16; // of an address, which repeat the highest one that is used
    const auto address = static_cast<i64>(frame.rip);
    if (static_cast<i64>(frame.rip << unused_bits) >> unused_bits == address) {
        state.last_trap = page_fault;
        state.last_error = present | user | fetch;
        state.last_address = frame.rip;
        force_signal(SIGSEGV, SEGV_MAPERR, frame.rip);
    } else {
        state.last_trap = general_protection;
        state.last_error = 0;
        force_signal(SIGSEGV, SI_KERNEL, 0);
    }
}

i32 floating_point_code(unsigned vector) {
    Task& task = current_task();
    arch::save_fpu(task);
    const auto* area = static_cast<const u8*>(task.context.fpu);
    u32 raised = 0; // exceptions raised and not masked: the bits are alike in both registers
    if (vector == 16) {
        u16 control = 0;
        u16 status = 0;
        __builtin_memcpy(&control, area, 2);
        __builtin_memcpy(&status, area + 2, 2);
        raised = status & ~u32{control} & 0x3f;
    } else {
        u32 mxcsr = 0;
        __builtin_memcpy(&mxcsr, area + 24, 4);
        raised = ~(mxcsr >> 7) & mxcsr & 0x3f;
    }
    if ((raised & 1) != 0)
        return FPE_FLTINV;
    if ((raised & 4) != 0)
        return FPE_FLTDIV;
    if ((raised & 8) != 0)
        return FPE_FLTOVF;
    if ((raised & (16 | 2)) != 0)
        return FPE_FLTUND;
    return (raised & 32) != 0 ? FPE_FLTRES : FPE_FLTINV;
}

} // namespace kernel
