// What /proc/PID tells of a process's doings: I/O, the call it is in, its children; proc(5).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/sched.h>
#include <linux/signal.h>
#include <linux/time.h>

#include "guestkernel/arch/trap_frame.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/process_timers.hpp"

namespace kernel::procfs {

// What went through read(2) and write(2) and their kin. Storage is not told apart: zero.
Result<void> show_io(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    auto task = subject_task(of);
    if (task && !may_access(**task))
        return fail(EACCES);
    Process::Usage usage;
    {
        SpinGuard tree(process_tree_lock());
        usage = of.tid >= 0 && task ? task_usage(**task) : process->usage();
    }
    out.print("rchar: {}\nwchar: {}\nsyscr: {}\nsyscw: {}\n", usage.read_bytes, usage.written_bytes,
              usage.reads, usage.writes);
    out.append("read_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n");
    return {};
}

Result<void> show_sched(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    u32 threads = 0;
    {
        SpinGuard tree(process_tree_lock());
        if (task->process != nullptr)
            for ([[maybe_unused]] const Task& each : task->process->tasks)
                threads++;
    }
    const auto milliseconds = [&](std::string_view name, u64 ns) {
        out.text(name, 45);
        out.append(":");
        out.number(ns / 1'000'000, 14);
        out.append(".");
        out.number(ns % 1'000'000, 6, '0');
        out.append("\n");
    };
    const auto count = [&](std::string_view name, u64 value) {
        out.text(name, 45);
        out.append(":");
        out.number(value, 21);
        out.append("\n");
    };
    usize length = 0;
    while (length < sizeof task->name && task->name[length] != '\0')
        length++;
    out.append({task->name, length});
    out.print(" ({}, #threads: {})\n", pid_in(of.pids, task->tid), threads);
    out.append("-------------------------------------------------------------------\n");
    milliseconds("se.exec_start", task->exec_start_ns);
    milliseconds("se.vruntime", task->virtual_runtime);
    milliseconds("se.sum_exec_runtime", task_run_time(*task));
    count("nr_switches", task->voluntary_switches + task->involuntary_switches);
    count("nr_voluntary_switches", task->voluntary_switches);
    count("nr_involuntary_switches", task->involuntary_switches);
    count("policy", task->policy);
    if (task->policy == SCHED_DEADLINE) {
        out.append("prio                                         :                   -1\n");
        count("dl.deadline", task->deadline_ns);
        return {};
    }
    const bool realtime = task->policy == SCHED_FIFO || task->policy == SCHED_RR;
    count("prio",
          realtime ? static_cast<u64>(99 - task->rt_priority) : static_cast<u64>(120 + task->nice));
    return {};
}

// "running", or the number, the arguments, and the program's stack pointer and place.
Result<void> show_syscall(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    if (!may_access(*task))
        return fail(EPERM);
    if (task->state == static_cast<u32>(TaskState::Running) || !task->context.has_user_state) {
        out.append("running\n");
        return {};
    }
    const arch::TrapFrame frame = arch::user_frame(*task);
    const auto call = static_cast<i64>(frame.orig_rax);
    out.print("{}", call < 0 ? i64{-1} : call);
    if (call >= 0)
        for (const u64 argument :
             {frame.rdi, frame.rsi, frame.rdx, frame.r10, frame.r8, frame.r9}) {
            out.append(" 0x");
            out.hex(argument, 0);
        }
    out.append(" 0x");
    out.hex(frame.rsp, 0);
    out.append(" 0x");
    out.hex(frame.rip, 0);
    out.append("\n");
    return {};
}

Result<void> show_children(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    SpinGuard tree(process_tree_lock());
    for (const Process& child : process->children)
        if (child.parent_task == of.tid)
            if (const i32 number = pid_in(of.pids, child.pid); number != 0)
                out.print("{} ", number);
    return {};
}

// The newest first; CPU clocks as the numbers that mean the caller's own.
Result<void> show_timers(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    Vector<PosixTimerListing> timers;
    TRY(list_posix_timers(*process, timers));
    for (usize i = timers.size(); i-- > 0;) {
        const PosixTimerRequest& timer = timers[i].request;
        const bool to_thread = timer.tid != 0;
        out.print("ID: {}\nsignal: {}/", timers[i].id, timer.signal);
        out.hex(timer.value_is_id ? static_cast<u64>(timers[i].id) : timer.value, 16);
        out.append(timer.notify == SIGEV_NONE     ? "\nnotify: none/"
                   : timer.notify == SIGEV_THREAD ? "\nnotify: thread/"
                                                  : "\nnotify: signal/");
        out.append(to_thread ? "tid." : "pid.");
        out.print("{}\nClockID: ", pid_in(of.pids, to_thread ? timer.tid : of.pid));
        constexpr i32 own_process = -6, own_thread = -2;
        out.print("{}\n", timer.clock == CLOCK_PROCESS_CPUTIME_ID  ? own_process
                          : timer.clock == CLOCK_THREAD_CPUTIME_ID ? own_thread
                                                                   : timer.clock);
    }
    return {};
}

Result<void> show_timer_slack(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    if (task.get() != &current_task() && !capable(CAP_SYS_NICE))
        return fail(EPERM);
    out.print("{}\n", task->timer_slack_ns);
    return {};
}

Result<void> store_timer_slack(std::string_view text, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    TRY(const i64 value, parse_number(text));
    if (task.get() != &current_task() && !capable(CAP_SYS_NICE))
        return fail(EPERM);
    if (value < 0)
        return fail(EINVAL);
    task->timer_slack_ns = value == 0 ? task->default_slack_ns : static_cast<u64>(value);
    return {};
}

// The old scale of -17 to 15.
Result<void> show_oom_adj(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    const i32 value = process->oom_score_adj;
    out.print("{}\n", value == 1000 ? 15 : value * 17 / 1000);
    return {};
}

Result<void> store_oom_adj(std::string_view text, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    TRY(const i64 value, parse_number(text));
    if (value < -17 || value > 15)
        return fail(EINVAL);
    const i32 adjustment = value == 15 ? 1000 : static_cast<i32>(value) * 1000 / 17;
    if (adjustment < process->oom_score_adj && !capable(CAP_SYS_RESOURCE))
        return fail(EACCES);
    process->oom_score_adj = adjustment;
    return {};
}

// The group as the controller of CPUs sees it: in the one hierarchy, the same.
Result<void> show_cpuset(TextBuilder& out, const TableContext& of) {
    TextBuilder all;
    TRY(show_cgroup(all, of));
    constexpr std::string_view hierarchy = "0::";
    out.append(all.view().substr(hierarchy.size()));
    return {};
}

} // namespace kernel::procfs
