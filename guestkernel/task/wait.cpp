#include "guestkernel/task/wait.hpp"

#include <linux/errno.h>
#include <linux/signal.h>
#include <linux/wait.h>

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

namespace {

enum class Scan : u8 { Found, Nothing, NoChildren };

bool matches(const Process& child, const WaitRequest& request) {
    switch (request.kind) {
    case WaitFor::Any:
        break;
    case WaitFor::Pid:
        if (child.pid != request.id)
            return false;
        break;
    case WaitFor::Group:
        if (child.group_id() != request.id)
            return false;
        break;
    }
    // "Clone children" do not signal their end with SIGCHLD.
    const bool is_clone = child.exit_signal != SIGCHLD;
    return (request.options & __WALL) != 0 || is_clone == ((request.options & __WCLONE) != 0);
}

u32 uid_of(Process& child) {
    const Task* task = child.first_task();
    return task != nullptr && task->credentials ? task->credentials->uid : child.exit_uid;
}

void report_end(Process& child, WaitReport& report) {
    const u32 status = child.exit_status;
    report.status = status;
    report.code = (status & 0x7f) == 0   ? CLD_EXITED
                  : (status & 0x80) != 0 ? CLD_DUMPED
                                         : CLD_KILLED;
    report.usage = child.ended_threads;
    report.usage.add(child.waited_children);
}

// Looks at one child. Requires: the tree lock. `reaped` receives the table's reference to a child
// that is gone.
bool examine(Process& child, const WaitRequest& request, WaitReport& report, Process*& reaped) {
    const bool keep = (request.options & WNOWAIT) != 0;
    report.uid = visible_uid(uid_of(child));
    if (child.state == ProcessState::Zombie) {
        if ((request.options & WEXITED) == 0)
            return false;
        report_end(child, report);
        report.pid = visible_pid(child.pid);
        if (!keep) {
            reap_locked(child);
            reaped = &child;
        }
        return true;
    }
    SpinGuard guard(child.signal_lock);
    if (child.stop_unreported && (request.options & WSTOPPED) != 0) {
        child.stop_unreported = keep;
        report.code = CLD_STOPPED;
        report.status = static_cast<u32>(child.stop_signal) << 8 | 0x7f;
    } else if (child.continue_unreported && (request.options & WCONTINUED) != 0) {
        child.continue_unreported = keep;
        report.code = CLD_CONTINUED;
        report.status = 0xffff;
    } else {
        return false;
    }
    report.pid = visible_pid(child.pid);
    report.usage = child.usage();
    return true;
}

Scan scan(const WaitRequest& request, WaitReport& report) {
    Process& parent = current_process();
    Process* reaped = nullptr;
    bool any = false;
    {
        SpinGuard tree(process_tree_lock());
        for (Process& child : parent.children) {
            if (!matches(child, request))
                continue;
            any = true;
            // Its tracer, who is the parent itself or not, comes first.
            const Tracee* leader = leader_trace_locked(child);
            if (leader != nullptr &&
                (leader->tracer->process == &parent || child.state == ProcessState::Zombie))
                continue;
            if (examine(child, request, report, reaped))
                break;
        }
        if (report.pid == 0)
            scan_tracees_locked(request, report, any, reaped);
    }
    if (reaped != nullptr)
        reaped->release();
    if (report.pid != 0)
        return Scan::Found;
    return any ? Scan::Nothing : Scan::NoChildren;
}

} // namespace

Result<WaitReport> wait_for_child(const WaitRequest& request) {
    WaitReport report;
    Scan result = scan(request, report);
    if (result == Scan::NoChildren)
        return fail(ECHILD);
    if (result == Scan::Found || (request.options & WNOHANG) != 0)
        return report;
    const WaitOutcome outcome = wait_until(current_process().child_events, [&] {
        result = scan(request, report);
        return result != Scan::Nothing;
    });
    if (outcome == WaitOutcome::Interrupted)
        return fail(restart_syscall);
    if (result == Scan::NoChildren)
        return fail(ECHILD);
    return report;
}

} // namespace kernel
