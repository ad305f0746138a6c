// What becomes of a system call that filters are asked about: seccomp(2).
#include "guestkernel/trace/seccomp.hpp"

#include <asm/unistd_64.h>
#include <linux/audit.h>
#include <linux/errno.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>
#include <linux/signal.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/seccomp_notify.hpp"

namespace kernel {

namespace {

constexpr u32 max_errno = 4095;

// A filter's action, ordered by how strict it is: the strictest wins.
i32 strictness(u32 answer) {
    return static_cast<i32>(answer & SECCOMP_RET_ACTION_FULL);
}

u32 ask(const SeccompFilter& newest, const SeccompData& data, const SeccompFilter*& chosen) {
    u32 result = SECCOMP_RET_ALLOW;
    for (const SeccompFilter* filter = &newest; filter != nullptr;
         filter = filter->previous.get()) {
        const u32 answer = run_bpf(filter->program.span(), data);
        if (strictness(answer) < strictness(result)) {
            result = answer;
            chosen = filter;
        }
    }
    return result;
}

SeccompData describe(const arch::TrapFrame& frame) {
    return {static_cast<i32>(frame.orig_rax),
            AUDIT_ARCH_X86_64,
            frame.rip,
            {frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9}};
}

SignalInfo system_call_signal(const arch::TrapFrame& frame, u32 data) {
    SignalInfo info;
    info.signo = SIGSYS;
    info.code = SYS_SECCOMP;
    info.error = static_cast<i32>(data);
    info.system_call = {frame.rip, static_cast<i32>(frame.orig_rax), AUDIT_ARCH_X86_64};
    return info;
}

bool refuse(arch::TrapFrame& frame, long result) {
    frame.rax = static_cast<u64>(result);
    return false;
}

void log_call(const Task& task, const arch::TrapFrame& frame, u32 answer) {
    log::info("seccomp: {} ({}) system call {} action {x}", std::string_view(task.name), task.tid,
              frame.orig_rax, answer);
}

// Ends the thread, or all with SIGSYS. The registers are put back to what they were before the
// call, for who looks at the remains.
bool kill(Task& task, arch::TrapFrame& frame, u32 answer) {
    Process& process = *task.process;
    log_call(task, frame, answer);
    const SignalInfo info = system_call_signal(frame, answer & SECCOMP_RET_DATA);
    frame.rax = frame.orig_rax;
    bool only = false;
    {
        SpinGuard guard(process.signal_lock);
        only = process.live_tasks == 1;
    }
    if ((answer & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_KILL_THREAD && !only)
        exit_task(SIGSYS);
    end_by_signal(info);
    return false;
}

bool act(Task& task, arch::TrapFrame& frame, bool again);

bool ask_tracer(Task& task, arch::TrapFrame& frame, u32 data, bool again) {
    if (again)
        return true; // the tracer has had its say
    if (!trace_seccomp(task, data))
        return refuse(frame, -ENOSYS);
    if ((task.interrupt_flags & interrupt_fatal) != 0)
        return false;
    // The tracer may have changed the call: the filters are asked about the new one. One that is
    // skipped has the result that the tracer gave it.
    if (static_cast<i32>(frame.orig_rax) < 0)
        return false;
    return act(task, frame, true);
}

bool act(Task& task, arch::TrapFrame& frame, bool again) {
    const SeccompFilter* filters = task.seccomp;
    const auto number = static_cast<u32>(frame.orig_rax);
    if (number < seccomp_calls && (filters->always_allowed[number / 64] >> number % 64 & 1) != 0)
        return true;
    const SeccompData data = describe(frame);
    const SeccompFilter* chosen = nullptr;
    const u32 answer = ask(*filters, data, chosen);
    const u32 value = answer & SECCOMP_RET_DATA;
    const u32 action = answer & SECCOMP_RET_ACTION_FULL;
    if (chosen != nullptr && chosen->log && action != SECCOMP_RET_LOG)
        log_call(task, frame, answer);
    switch (action) {
    case SECCOMP_RET_ALLOW:
        return true;
    case SECCOMP_RET_LOG:
        log_call(task, frame, answer);
        return true;
    case SECCOMP_RET_ERRNO:
        task.result_is_verbatim = true;
        return refuse(frame, -static_cast<long>(value < max_errno ? value : max_errno));
    case SECCOMP_RET_TRAP: {
        const SignalInfo info = system_call_signal(frame, value);
        frame.rax = frame.orig_rax;
        force_signal_info(info);
        return false;
    }
    case SECCOMP_RET_TRACE:
        return ask_tracer(task, frame, value, again);
    case SECCOMP_RET_USER_NOTIF: {
        long result = 0;
        if (ask_supervisor(*chosen, data, result))
            return true;
        return refuse(frame, result);
    }
    default:
        return kill(task, frame, answer);
    }
}

} // namespace

bool seccomp_allows(Task& task, arch::TrapFrame& frame) {
    if (is_traced(task) && (task.trace->options & PTRACE_O_SUSPEND_SECCOMP) != 0)
        return true;
    if (task.seccomp_mode == SECCOMP_MODE_FILTER)
        return act(task, frame, false);
    switch (frame.orig_rax) {
    case __NR_read:
    case __NR_write:
    case __NR_exit:
    case __NR_rt_sigreturn:
        return true;
    default:
        exit_task(SIGKILL);
    }
}

u32 seccomp_filter_count(const Task& task) {
    return task.seccomp != nullptr ? task.seccomp->depth : 0;
}

void SeccompFilter::last_reference() {
    SeccompFilter* at = this;
    while (at != nullptr) {
        SeccompFilter* older = at->previous.leak();
        delete at;
        at = older != nullptr && older->drop_ref() ? older : nullptr;
    }
}

} // namespace kernel
