// From registers to a handler and back. Error numbers become negative values here and nowhere else.
#include <linux/errno.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/counters.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/syscalls/strace.hpp"
#include "guestkernel/syscalls/table.hpp"
#include "guestkernel/task/task.hpp"
#include "guestkernel/trace/call_dispatch.hpp"
#include "guestkernel/trace/seccomp.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

long call(const SyscallEntry* entry, Task& task, const SyscallArgs& args) {
    if (entry == nullptr)
        return -ENOSYS;
    if (entry->handler == nullptr)
        return -(entry->support == Support::Refused ? entry->refusal : ENOSYS);
    const Result<long> result = entry->handler(task, args);
    return result ? *result : -long{result.error().code};
}

SyscallArgs arguments_of(const arch::TrapFrame& frame) {
    return {{frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9}};
}

// A call with more to do than the call.
void call_with_work(Task& task, arch::TrapFrame& frame) {
    const u32 work = task.entry_work;
    task.result_is_verbatim = false;
    if ((work & entry_dispatch) != 0 && dispatched_to_program(task, frame))
        return; // nobody else hears of it
    bool wanted = true;
    if ((work & (entry_trace | entry_emulate)) != 0)
        wanted = trace_syscall_entry(task);
    // Filters hear of what the tracer made of it, be it -1.
    if (wanted && (task.entry_work & entry_seccomp) != 0)
        wanted = seccomp_allows(task, frame);
    // Whoever stopped it may have changed number and arguments; -1 is no call, and its result is
    // what the tracer left.
    const auto number = static_cast<u32>(frame.orig_rax);
    task.syscall_number = number;
    arch::count_syscall(task.cpu, number);
    if (wanted && static_cast<i32>(number) != -1) {
        const SyscallEntry* entry = find_syscall(number);
        const SyscallArgs args = arguments_of(frame);
        if ((work & entry_strace) != 0) {
            StraceLine line(task, number, entry, args);
            const long result = call(entry, task, args);
            frame.rax = static_cast<u64>(result);
            line.finish(result, entry);
        } else {
            frame.rax = static_cast<u64>(call(entry, task, args));
        }
    }
    if (((work | task.entry_work) & (entry_trace | entry_emulate | entry_step)) != 0)
        trace_syscall_exit(task, work);
}

} // namespace

extern "C" void arch::joey_syscall(TrapFrame* frame) {
    Task& task = current_task();
    account_kernel_entry(task);
    if (task.entry_work != 0) [[unlikely]]
        return call_with_work(task, *frame);
    const SyscallArgs args = arguments_of(*frame);
    // The number is the low half: programs may leave rubbish above it, and -1 (a tracer's "skip")
    // is no call.
    const SyscallEntry* entry = find_syscall(static_cast<u32>(frame->orig_rax));
    task.syscall_number = static_cast<u32>(frame->orig_rax);
    arch::count_syscall(task.cpu, task.syscall_number);
    frame->rax = static_cast<u64>(call(entry, task, args));
}

} // namespace kernel
