#include "guestkernel/trace/call_dispatch.hpp"

#include <asm/siginfo.h>
#include <linux/audit.h>
#include <linux/errno.h>
#include <linux/prctl.h>
#include <linux/signal.h>

#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

// No handler gets to see it: the selector is wrong, and the handler's calls would be decided by it.
void end_by(int signal) {
    SignalInfo info;
    info.signo = signal;
    info.code = SI_KERNEL;
    info.fault = {};
    end_by_signal(info);
}

} // namespace

Result<long> set_call_dispatch(u64 mode, u64 start, u64 length, u64 selector) {
    Task& task = current_task();
    switch (mode) {
    case PR_SYS_DISPATCH_OFF:
        if ((start | length | selector) != 0)
            return fail(EINVAL);
        clear_call_dispatch(task);
        return 0;
    case PR_SYS_DISPATCH_ON:
        if (start != 0 && start + length <= start)
            return fail(EINVAL);
        if (selector >= user_max)
            return fail(EFAULT);
        task.signals->dispatch = {start, length, selector};
        __atomic_fetch_or(&task.entry_work, entry_dispatch, __ATOMIC_SEQ_CST);
        return 0;
    default:
        return fail(EINVAL);
    }
}

void clear_call_dispatch(Task& task) {
    __atomic_fetch_and(&task.entry_work, ~entry_dispatch, __ATOMIC_SEQ_CST);
    task.signals->dispatch = {};
}

bool dispatched_to_program(Task& task, arch::TrapFrame& frame) {
    const CallDispatch& dispatch = task.signals->dispatch;
    if (frame.rip - dispatch.start < dispatch.length)
        return false;
    if (dispatch.selector != 0) {
        const auto state = UserPtr<const u8>(dispatch.selector).copy_in();
        if (state && *state == SYSCALL_DISPATCH_FILTER_ALLOW)
            return false;
        if (!state || *state != SYSCALL_DISPATCH_FILTER_BLOCK) {
            end_by(state ? SIGSYS : SIGSEGV);
            return true;
        }
    }
    SignalInfo info;
    info.signo = SIGSYS;
    info.code = SYS_USER_DISPATCH;
    info.system_call = {frame.rip, static_cast<i32>(frame.orig_rax), AUDIT_ARCH_X86_64};
    frame.rax = frame.orig_rax; // as before the call
    force_signal_info(info);
    return true;
}

} // namespace kernel
