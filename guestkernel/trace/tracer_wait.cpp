// wait(2) for tracees: stops that only a tracer sees, and the ends of traced threads.
#include <linux/signal.h>
#include <linux/wait.h>

#include "guestkernel/task/process.hpp"
#include "guestkernel/task/wait.hpp"
#include "guestkernel/trace/tracee.hpp"

namespace kernel {

namespace {

bool matches(const Tracee& tracee, const WaitRequest& request) {
    if ((request.options & __WNOTHREAD) != 0 && tracee.tracer != &current_task())
        return false;
    switch (request.kind) {
    case WaitFor::Any:
        return true;
    case WaitFor::Pid:
        return tracee.tid == request.id;
    case WaitFor::Group:
        return tracee.process->group_id() == request.id;
    }
    return false;
}

void report_end(u32 status, WaitReport& report) {
    report.status = status;
    report.code = (status & 0x7f) == 0   ? CLD_EXITED
                  : (status & 0x80) != 0 ? CLD_DUMPED
                                         : CLD_KILLED;
}

// One that ended. A leader's end is told when its whole process is over.
bool examine_ended(Tracee& tracee, const WaitRequest& request, WaitReport& report,
                   Process*& reaped) {
    Process& process = *tracee.process;
    const bool leader = tracee.tid == process.pid;
    if ((request.options & WEXITED) == 0 || (leader && process.state != ProcessState::Zombie))
        return false;
    report_end(leader ? process.exit_status : tracee.end_status, report);
    report.uid = visible_uid(process.exit_uid);
    report.usage = process.ended_threads;
    report.usage.add(process.waited_children);
    if ((request.options & WNOWAIT) != 0)
        return true;
    const Ref<Tracee> keep = Ref<Tracee>::share(&tracee);
    if (!leader) {
        detach_locked(tracee);
    } else if (process.parent == &current_process()) {
        reap_locked(process); // forgets the record as well
        reaped = &process;
    } else {
        detach_locked(tracee);
        if (hand_over_zombie_locked(process))
            reaped = &process;
    }
    return true;
}

bool examine_alive(Tracee& tracee, const WaitRequest& request, WaitReport& report) {
    Process& process = *tracee.process;
    const bool keep = (request.options & WNOWAIT) != 0;
    SpinGuard guard(process.signal_lock);
    if (tracee.stopped && !tracee.reported && !tracee.listening) {
        report.code = CLD_TRAPPED;
        report.status = tracee.stop_code << 8 | 0x7f;
        if (!keep) {
            tracee.reported = true;
            tracee.resume_signal = 0;
        }
    } else if (process.continue_unreported && (request.options & WCONTINUED) != 0) {
        process.continue_unreported = keep;
        report.code = CLD_CONTINUED;
        report.status = 0xffff;
    } else {
        return false;
    }
    if (tracee.task->credentials)
        report.uid = visible_uid(tracee.task->credentials->uid);
    report.usage = process.usage();
    return true;
}

} // namespace

void scan_tracees_locked(const WaitRequest& request, WaitReport& report, bool& any,
                         Process*& reaped) {
    for (Tracee& tracee : current_process().tracees) {
        if (!matches(tracee, request))
            continue;
        any = true;
        const i32 number = visible_pid(tracee.tid); // gone when the end was told
        const bool found = tracee.task == nullptr ? examine_ended(tracee, request, report, reaped)
                                                  : examine_alive(tracee, request, report);
        if (!found)
            continue;
        report.pid = number;
        return; // the list may have changed
    }
}

} // namespace kernel
