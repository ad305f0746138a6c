// The last thing before user mode, and the first of an exception.
#include <linux/signal.h>

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/sched/deadline.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/rseq.hpp"
#include "guestkernel/trace/debug_registers.hpp"

namespace kernel {

extern "C" void arch::joey_return_to_user(TrapFrame* frame) {
    Task& task = current_task();
    u32 due =
        interrupt_signal | interrupt_fatal | interrupt_rseq | interrupt_cgroup | interrupt_deadline;
    for (;;) {
        arch::run_softirqs();
        if (arch::need_resched()) {
            schedule();
            continue;
        }
        if ((task.interrupt_flags & due) != 0) [[unlikely]] {
            if ((task.interrupt_flags & due & interrupt_deadline) != 0) {
                hold_by_deadline(task);
                // Not twice: each period must get it somewhere, even if its runtime is not enough
                // for the way from here to there.
                due &= ~interrupt_deadline;
            }
            if ((task.interrupt_flags & interrupt_cgroup) != 0)
                hold_by_cgroup(task);
            if ((task.interrupt_flags & interrupt_rseq) != 0)
                resume_rseq(task, *frame);
            if (!signal_pending())
                continue;
            // A handler is entered outside of any restartable sequence.
            deliver_signals(*frame);
            continue;
        }
        // An order to restart without a signal left to act on: somebody else took it.
        const auto result = static_cast<i64>(frame->rax);
        if (result <= -restart_syscall && result >= -restart_with_block &&
            static_cast<i64>(frame->orig_rax) >= 0 && !task.result_is_verbatim) [[unlikely]] {
            deliver_signals(*frame);
            continue;
        }
        // Where sigreturn(2) led, and a tracer took the signal for it away. In ring-3 mode there is
        // the kernel.
        if (frame->rip >= user_max) [[unlikely]] {
            refuse_return(*frame);
            continue;
        }
        break;
    }
    offer_waiting_tasks();
    account_kernel_exit(task);
}

void arch::deliver_exception(TrapFrame& frame, unsigned vector, u64 error_code, u64 address) {
    struct Mapping {
        int signal;
        i32 code;
    };
    // By vector: Intel SDM 3A table 6-1; signals as Linux sends them.
    constexpr Mapping mappings[22] = {
        {SIGFPE, FPE_INTDIV}, {SIGTRAP, TRAP_TRACE}, {SIGSEGV, SI_KERNEL},   {SIGTRAP, SI_KERNEL},
        {SIGSEGV, SI_KERNEL}, {SIGSEGV, SI_KERNEL},  {SIGILL, ILL_ILLOPN},   {SIGSEGV, SI_KERNEL},
        {SIGSEGV, SI_KERNEL}, {SIGFPE, SI_KERNEL},   {SIGSEGV, SI_KERNEL},   {SIGBUS, SI_KERNEL},
        {SIGBUS, SI_KERNEL},  {SIGSEGV, SI_KERNEL},  {SIGSEGV, SEGV_MAPERR}, {SIGSEGV, SI_KERNEL},
        {SIGFPE, FPE_FLTINV}, {SIGBUS, BUS_ADRALN},  {SIGSEGV, SI_KERNEL},   {SIGFPE, FPE_FLTINV},
        {SIGSEGV, SI_KERNEL}, {SIGSEGV, SI_KERNEL},
    };
    constexpr unsigned debug_trap = 1, page_fault = 14;
    Mapping mapping = vector < 22 ? mappings[vector] : Mapping{SIGSEGV, SI_KERNEL};
    u64 where = address;
    if (vector == page_fault) {
        // `error_code` is then signal << 8 | si_code, as arch::handle_user_fault() packed it.
        mapping = {static_cast<int>(error_code >> 8), static_cast<i32>(error_code & 0xff)};
    } else if (vector == 0 || vector == 6 || vector == debug_trap) {
        where = frame.rip;
    } else if (vector == 16 || vector == 19) {
        mapping.code = floating_point_code(vector);
        where = frame.rip;
    }
    if (vector == debug_trap) {
        mapping.code = note_debug_exception(frame, error_code);
        if (mapping.code == 0)
            return;
    }
    SignalState& state = *current_task().signals;
    state.last_trap = vector;
    state.last_error = vector == page_fault || vector == debug_trap ? 0 : error_code;
    state.last_address = address;
    force_signal(mapping.signal, mapping.code, where);
}

} // namespace kernel
