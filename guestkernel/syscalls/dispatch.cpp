// From registers to a handler and back. Error numbers become negative values here and nowhere else.
#include <linux/errno.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/syscalls/strace.hpp"
#include "guestkernel/syscalls/table.hpp"
#include "guestkernel/task/task.hpp"

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

} // namespace

extern "C" void arch::joey_syscall(TrapFrame* frame) {
    Task& task = current_task();
    account_kernel_entry(task);
    const SyscallArgs args = {
        {frame->rdi, frame->rsi, frame->rdx, frame->r10, frame->r8, frame->r9}};
    // The number is the low half: programs may leave rubbish above it, and -1 (a tracer's "skip")
    // is no call.
    const SyscallEntry* entry = find_syscall(static_cast<u32>(frame->orig_rax));
    task.syscall_number = static_cast<u32>(frame->orig_rax);
    if (boot_config().strace) [[unlikely]] {
        StraceLine line(task, static_cast<u32>(frame->orig_rax), entry, args);
        const long result = call(entry, task, args);
        frame->rax = static_cast<u64>(result);
        line.finish(result, entry);
        return;
    }
    frame->rax = static_cast<u64>(call(entry, task, args));
}

} // namespace kernel
