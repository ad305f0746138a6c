// What /proc/PID says about a process without looking into its memory; proc(5).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/resource.h>

#include "guestkernel/cgroup/view.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/procfs/subject.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/terminal.hpp"
#include "guestkernel/sched/lend.hpp"
#include "guestkernel/sched/scheduler.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/trace/seccomp.hpp"

namespace kernel::procfs {
namespace {

constexpr u64 nanoseconds_per_tick = nanoseconds_per_second / clock_ticks;
constexpr usize longest_comm = 15;

std::string_view name_of(const Task& task) {
    usize length = 0;
    while (length < sizeof task.name && task.name[length] != '\0')
        length++;
    return {task.name, length};
}

// The facts of a process that its tree lock guards, taken at once. `task` is null for a zombie.
struct Snapshot {
    Ref<Process> process;
    Ref<Task> task;
    i32 parent = 0, group = 0, session = 0, tracer = 0;
    i32 global_group = 0, global_session = 0;
    u32 seccomp_mode = 0, seccomp_filters = 0;
    u64 terminal = 0;    // the controlling one's device number
    i32 foreground = -1; // its foreground group
    u32 threads = 0;
    char state = 'Z';
    bool is_thread = false;
    u64 start_ns = 0;
    Process::Usage usage, children;
    u32 exit_status = 0;
    char name[16] = {};
    usize name_length = 0;
    u64 pending = 0, shared_pending = 0, blocked = 0, ignored = 0, caught = 0;
    bool has_account = false;
    u32 queued_signals = 0; // of its user
    int exit_signal = 0;
};

Result<Snapshot> take(const TableContext& of) {
    Snapshot out;
    TRY(out.process, subject_process(of));
    auto task = subject_task(of);
    if (task)
        out.task = *task;
    else if (of.tid >= 0)
        return fail(ESRCH);
    out.is_thread = of.tid >= 0;
    if (out.task) {
        out.state = task_state_letter(*out.task);
        const std::string_view name = name_of(*out.task);
        out.name_length = name.size();
        __builtin_memcpy(out.name, name.data(), name.size());
    }
    Process& process = *out.process;
    SpinGuard guard(process_tree_lock());
    out.parent = process.parent == nullptr ? 0 : pid_in(of.pids, process.parent->pid);
    if (out.task) {
        SpinGuard signals(process.signal_lock);
        out.seccomp_mode = out.task->seccomp_mode;
        out.seccomp_filters = seccomp_filter_count(*out.task);
    }
    if (out.task)
        out.tracer = pid_in(of.pids, tracer_of_locked(*out.task));
    out.global_group = process.group_id();
    out.global_session = process.session_id();
    out.group = pid_in(of.pids, process.group_id());
    out.session = pid_in(of.pids, process.session_id());
    if (const Session* session = session_of(process);
        session != nullptr && session->terminal != nullptr) {
        out.terminal = session->terminal->device_number();
        out.foreground = pid_in(of.pids, session->terminal->foreground());
    }
    for ([[maybe_unused]] const Task& each : process.tasks)
        out.threads++;
    if (process.state != ProcessState::Alive && !out.is_thread)
        out.state = 'Z';
    out.start_ns = process.start_time_ns;
    out.usage = out.is_thread && out.task ? task_usage(*out.task) : process.usage();
    out.children = process.waited_children;
    out.exit_status = process.exit_status;
    out.exit_signal = process.exit_signal;
    SpinGuard signals(process.signal_lock);
    out.shared_pending = process.pending.set();
    if (process.handlers)
        process.handlers->masks(out.ignored, out.caught);
    if (out.task && out.task->signals != nullptr) {
        out.pending = out.task->signals->pending.set();
        out.blocked = out.task->signals->blocked;
    }
    if (out.task && out.task->account) {
        out.has_account = true;
        out.queued_signals = out.task->account->queued_signals.load(base::Order::Relaxed);
    }
    return out;
}

const char* state_name(char state) {
    switch (state) {
    case 'R':
        return "R (running)";
    case 'S':
        return "S (sleeping)";
    case 'D':
        return "D (disk sleep)";
    case 'T':
        return "T (stopped)";
    case 't':
        return "t (tracing stop)";
    case 'Z':
        return "Z (zombie)";
    default:
        return "X (dead)";
    }
}

} // namespace

Result<void> show_stat(TextBuilder& out, const TableContext& of) {
    TRY(const Snapshot s, take(of));
    // As /proc/uptime: ps(1) and others compare the two.
    const u64 born_ns = resource_view().born_ns;
    const i32 number = pid_in(of.pids, s.is_thread ? of.tid : of.pid);
    AddressSpace::Usage memory{};
    AddressSpace::Layout layout{};
    u64 rss_limit = ~u64{0};
    i32 nice = 0, rt_priority = 0, priority = 20;
    u32 policy = 0, cpu = 0;
    if (s.task) {
        if (const Ref<AddressSpace> space = address_space_of(*s.task)) {
            memory = space->usage();
            if (may_access(*s.task))
                layout = space->layout;
        }
        nice = s.task->nice;
        rt_priority = s.task->rt_priority;
        policy = s.task->policy;
        cpu = s.task->cpu;
        // Real-time priorities count downwards from -2; others are 20 + nice. With what others lend
        // it.
        const i32 realtime = urgency(*s.task);
        priority = realtime > 0 ? -1 - realtime : 20 + effective_nice(*s.task);
        rss_limit = s.process->limits[RLIMIT_RSS].soft;
    }
    const u64 resident = memory.resident_anonymous + memory.resident_file + memory.resident_shared;
    out.print("{} (", number);
    out.append({s.name, s.name_length});
    const char state[2] = {s.state, '\0'};
    out.print(") {} {} {} {} {} {} {}", state, s.parent, s.group, s.session, s.terminal,
              s.foreground, 0x400000);
    out.print(" {} {} {} {}", s.usage.minor_faults, s.children.minor_faults, s.usage.major_faults,
              s.children.major_faults);
    out.print(" {} {} {} {}", s.usage.user_ns / nanoseconds_per_tick,
              s.usage.system_ns / nanoseconds_per_tick, s.children.user_ns / nanoseconds_per_tick,
              s.children.system_ns / nanoseconds_per_tick);
    out.print(" {} {} {} 0 {}", priority, nice, s.threads,
              (s.start_ns > born_ns ? s.start_ns - born_ns : 0) / nanoseconds_per_tick);
    out.print(" {} {} {}", memory.virtual_pages * page_size, resident, rss_limit);
    out.print(" {} {} {} 0 0", layout.code_start, layout.code_end, layout.stack_start);
    constexpr u64 first_31 = 0x7fff'ffff; // the old fields know the first signals only
    out.print(" {} {} {} {}", (s.pending | s.shared_pending) & first_31, s.blocked & first_31,
              s.ignored & first_31, s.caught & first_31);
    out.print(" 0 0 0 {} {} {} {} 0 0 0", s.exit_signal, cpu, rt_priority, policy);
    out.print(" {} {} {} {} {} {} {} {}\n", layout.data_start, layout.data_end, layout.break_start,
              layout.args_start, layout.args_end, layout.env_start, layout.env_end, s.exit_status);
    return {};
}

namespace {

u32 as_reader_sees(bool group, u32 id) {
    return from_global_id(current_task().credentials->user_ns.get(), group, id);
}

void show_ids(TextBuilder& out, const Credentials& who) {
    const auto line = [&](std::string_view label, bool group, const u32(&ids)[4]) {
        out.append(label);
        for (const u32 id : ids)
            out.print("\t{}", as_reader_sees(group, id));
        out.append("\n");
    };
    line("Uid:", false, {who.uid, who.euid, who.suid, who.fsuid});
    line("Gid:", true, {who.gid, who.egid, who.sgid, who.fsgid});
}

// The numbers of a process or group in the reader's namespace and in those below.
void show_numbers(TextBuilder& out, std::string_view label, const PidNamespace* space, i32 global) {
    Vector<i32> numbers;
    out.append(label);
    if (numbers_below(space, global, numbers))
        for (const i32 number : numbers)
            out.print("\t{}", number);
    out.append("\n");
}

void show_memory(TextBuilder& out, const AddressSpace& space) {
    const AddressSpace::Usage use = space.usage();
    const u64 resident = use.resident_anonymous + use.resident_file + use.resident_shared;
    const auto line = [&](std::string_view label, u64 pages) {
        out.append(label);
        out.append(":\t");
        out.number(pages * (page_size / 1024), 8);
        out.append(" kB\n");
    };
    line("VmPeak", use.peak_virtual);
    line("VmSize", use.virtual_pages);
    line("VmLck", use.locked_pages);
    line("VmPin", 0);
    line("VmHWM", use.peak_resident);
    line("VmRSS", resident);
    line("RssAnon", use.resident_anonymous);
    line("RssFile", use.resident_file);
    line("RssShmem", use.resident_shared);
    line("VmData", use.data_pages);
    line("VmStk", use.stack_pages);
    line("VmExe", use.text_pages);
    line("VmLib", 0);
    line("VmPTE", use.table_pages);
    line("VmSwap", 0);
    out.append("HugetlbPages:\t       0 kB\n");
}

void show_cpu_mask(TextBuilder& out, u64 mask) {
    const unsigned cpus = arch::cpu_count();
    if (cpus < 64)
        mask &= (u64{1} << cpus) - 1;
    out.append("Cpus_allowed:\t");
    if (mask >> 32 != 0) {
        out.hex(mask >> 32, 8);
        out.append(",");
    }
    out.hex(mask & 0xffff'ffff, cpus > 32 ? 8 : 0);
    out.append("\nCpus_allowed_list:\t");
    out.bits(mask);
    out.append("\n");
}

} // namespace

Result<void> show_status(TextBuilder& out, const TableContext& of) {
    TRY(const Snapshot s, take(of));
    const i32 number = pid_in(of.pids, s.is_thread ? of.tid : of.pid);
    out.append("Name:\t");
    out.escaped({s.name, s.name_length});
    out.append("\n");
    const Ref<FsContext> place = s.task ? fs_of(*s.task) : Ref<FsContext>();
    if (place) {
        out.append("Umask:\t");
        out.octal(place->umask(), 4);
        out.append("\n");
    }
    out.print("State:\t{}\nTgid:\t{}\nNgid:\t0\nPid:\t{}\nPPid:\t{}\nTracerPid:\t{}\n",
              state_name(s.state), pid_in(of.pids, of.pid), number, s.parent, s.tracer);
    const Ref<const Credentials> who = s.task ? credentials_of(*s.task) : nullptr;
    if (who)
        show_ids(out, *who);
    const Ref<FileTable> files = s.task ? files_of(*s.task) : Ref<FileTable>();
    out.print("FDSize:\t{}\nGroups:\t", files ? files->capacity() : usize{0});
    if (who)
        for (const u32 group : who->groups)
            out.print("{} ", as_reader_sees(true, group));
    out.append("\n");
    show_numbers(out, "NStgid:", of.pids, of.pid);
    show_numbers(out, "NSpid:", of.pids, s.is_thread ? of.tid : of.pid);
    show_numbers(out, "NSpgid:", of.pids, s.global_group);
    show_numbers(out, "NSsid:", of.pids, s.global_session);
    if (s.task)
        if (const Ref<AddressSpace> space = address_space_of(*s.task))
            show_memory(out, *space);
    out.print("Threads:\t{}\n", s.threads);
    const auto mask = [&](std::string_view label, u64 value) {
        out.append(label);
        out.hex(value, 16);
        out.append("\n");
    };
    if (s.has_account)
        out.print("SigQ:\t{}/{}\n", s.queued_signals, s.process->limits[RLIMIT_SIGPENDING].soft);
    mask("SigPnd:\t", s.pending);
    mask("ShdPnd:\t", s.shared_pending);
    mask("SigBlk:\t", s.blocked);
    mask("SigIgn:\t", s.ignored);
    mask("SigCgt:\t", s.caught);
    if (who) {
        mask("CapInh:\t", who->cap_inheritable);
        mask("CapPrm:\t", who->cap_permitted);
        mask("CapEff:\t", who->cap_effective);
        mask("CapBnd:\t", who->cap_bounding);
        mask("CapAmb:\t", who->cap_ambient);
    }
    if (s.task) {
        out.print("NoNewPrivs:\t{}\n", s.task->no_new_privileges ? 1 : 0);
        out.print("Seccomp:\t{}\nSeccomp_filters:\t{}\n", s.seccomp_mode, s.seccomp_filters);
        out.print("Speculation_Store_Bypass:\t{}\nSpeculationIndirectBranch:\t{}\n",
                  speculation::store_bypass_text(s.task->speculation),
                  speculation::indirect_branch_text(s.task->speculation));
        show_cpu_mask(out, s.task->affinity);
        out.append("Mems_allowed:\t1\nMems_allowed_list:\t0\n");
        out.print("voluntary_ctxt_switches:\t{}\nnonvoluntary_ctxt_switches:\t{}\n",
                  s.task->voluntary_switches, s.task->involuntary_switches);
    }
    return {};
}

Result<void> show_comm(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    out.append(name_of(*task));
    out.append("\n");
    return {};
}

Result<void> store_comm(std::string_view text, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    if (task->process != current_task().process)
        return fail(EINVAL); // proc(5): one's own threads only
    if (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    text = text.substr(0, longest_comm);
    char name[16] = {};
    __builtin_memcpy(name, text.data(), text.size());
    __builtin_memcpy(task->name, name, sizeof name);
    tell_process_event(ProcessEvent::Name, *task);
    return {};
}

Result<void> show_limits(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    static constexpr struct {
        const char* name;
        const char* unit;
        u32 number;
    } rows[] = {
        {"Max cpu time", "seconds", RLIMIT_CPU},
        {"Max file size", "bytes", RLIMIT_FSIZE},
        {"Max data size", "bytes", RLIMIT_DATA},
        {"Max stack size", "bytes", RLIMIT_STACK},
        {"Max core file size", "bytes", RLIMIT_CORE},
        {"Max resident set", "bytes", RLIMIT_RSS},
        {"Max processes", "processes", RLIMIT_NPROC},
        {"Max open files", "files", RLIMIT_NOFILE},
        {"Max locked memory", "bytes", RLIMIT_MEMLOCK},
        {"Max address space", "bytes", RLIMIT_AS},
        {"Max file locks", "locks", RLIMIT_LOCKS},
        {"Max pending signals", "signals", RLIMIT_SIGPENDING},
        {"Max msgqueue size", "bytes", RLIMIT_MSGQUEUE},
        {"Max nice priority", "", RLIMIT_NICE},
        {"Max realtime priority", "", RLIMIT_RTPRIO},
        {"Max realtime timeout", "us", RLIMIT_RTTIME},
    };
    const auto value = [&](u64 limit) {
        char text[24];
        const usize length = limit == ~u64{0} ? log::format(text, sizeof text, "unlimited")
                                              : log::format(text, sizeof text, "{}", limit);
        out.text({text, length}, 21);
    };
    out.append("Limit                     Soft Limit           Hard Limit           Units     \n");
    for (const auto& row : rows) {
        out.text(row.name, 26);
        value(process->limits[row.number].soft);
        value(process->limits[row.number].hard);
        out.text(row.unit, 10);
        out.append("\n");
    }
    return {};
}

// Time on a CPU, time spent waiting for one, and how often it got one.
Result<void> show_schedstat(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    out.print("{} {} {}\n", task_run_time(*task), task->waited_ns,
              task->voluntary_switches + task->involuntary_switches);
    return {};
}

// No line, as Linux has none for a thread that runs: the kernel keeps no names of its functions.
Result<void> show_stack(TextBuilder&, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    return capable(CAP_SYS_ADMIN) ? Result<void>() : Result<void>(fail(EACCES));
}

Result<void> show_oom_score_adj(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    out.print("{}\n", process->oom_score_adj);
    return {};
}

Result<void> store_oom_score_adj(std::string_view text, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    TRY(const i64 value, parse_number(text));
    if (value < -1000 || value > 1000)
        return fail(EINVAL);
    // What a process raised by itself it may lower again, down to what the privileged set last.
    const bool privileged = capable(24); // CAP_SYS_RESOURCE
    if (value < process->oom_score_adj_least && !privileged)
        return fail(EACCES);
    process->oom_score_adj = static_cast<i32>(value);
    if (privileged)
        process->oom_score_adj_least = process->oom_score_adj;
    return {};
}

Result<void> show_oom_score(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Process> process, subject_process(of));
    u64 pages = 0;
    if (auto task = subject_task(of))
        if (const Ref<AddressSpace> space = address_space_of(**task)) {
            const AddressSpace::Usage use = space->usage();
            pages =
                use.resident_anonymous + use.resident_file + use.resident_shared + use.table_pages;
        }
    // Thousandths of memory, shifted by the adjustment and scaled to 0..2000 as Linux shows it.
    const u64 total = memory_stats().total;
    const i64 share = total == 0 ? 0 : static_cast<i64>(pages * 1000 / total);
    const i64 score = (1000 + share + process->oom_score_adj) * 2 / 3;
    out.print("{}\n", process->oom_score_adj == -1000 || score < 0 ? i64{0} : score);
    return {};
}

Result<void> show_personality(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    out.hex(task->personality, 8);
    out.append("\n");
    return {};
}

// --- descriptors and places ----------------------------------------------------------------------

Result<void> show_fdinfo(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<File> file, subject_file(of));
    TRY(const Ref<Task> task, subject_task(of));
    u32 flags = file->flags();
    const Ref<FileTable> files = files_of(*task);
    if (files)
        if (auto closes = files->close_on_exec(of.fd); closes && *closes)
            flags |= O_CLOEXEC;
    out.print("pos:\t{}\nflags:\t0", file->position());
    out.octal(flags);
    const Mount* mount = file->path().mount();
    out.print("\nmnt_id:\t{}\nino:\t{}\n", mount == nullptr ? 0u : mount->id(),
              file->inode() == nullptr ? u64{0} : file->inode()->number());
    show_locks_of(out, of, *file, files.get());
    String state;
    TRY(file->describe_state(state));
    out.append(state.view());
    return {};
}

Result<void> describe_file(TextBuilder& out, File& file) {
    String name;
    if (file.describe(name)) {
        out.append(name.view());
        return {};
    }
    TRY(const Path path, path_of(file));
    TRY(name, path_name(path));
    out.append(name.view());
    return {};
}

Result<void> link_fd(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<File> file, subject_file(of));
    return describe_file(out, *file);
}

Result<Path> follow_fd(const TableContext& of) {
    TRY(const Ref<File> file, subject_file(of));
    return path_of(*file);
}

u32 fd_link_mode(const TableContext& of) {
    auto file = subject_file(of);
    if (!file)
        return 0;
    return ((*file)->readable() ? 0500u : 0u) | ((*file)->writable() ? 0300u : 0u);
}

namespace {

Result<void> link_path(TextBuilder& out, Result<Path> path) {
    if (!path)
        return fail(path.error().code);
    TRY(const String name, path_name(*path));
    out.append(name.view());
    return {};
}

} // namespace

Result<Path> follow_exe(const TableContext& of) {
    TRY(const Ref<AddressSpace> space, subject_memory(of));
    const Ref<File> program = space ? space->program() : Ref<File>();
    if (!program)
        return fail(ENOENT);
    return Path(program->path());
}

namespace {

// First the place, then the rights, as in subject_file().
Result<Path> follow_place(const TableContext& of, Path (FsContext::*which)() const) {
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<FsContext> place = fs_of(*task);
    Path found = place ? (*place.*which)() : Path();
    if (!may_access(*task))
        return fail(EACCES);
    if (!place)
        return fail(ENOENT);
    return found;
}

} // namespace

Result<Path> follow_cwd(const TableContext& of) {
    return follow_place(of, &FsContext::cwd);
}

Result<Path> follow_root(const TableContext& of) {
    return follow_place(of, &FsContext::root);
}

Result<void> link_exe(TextBuilder& out, const TableContext& of) {
    return link_path(out, follow_exe(of));
}
Result<void> link_cwd(TextBuilder& out, const TableContext& of) {
    return link_path(out, follow_cwd(of));
}
Result<void> link_root(TextBuilder& out, const TableContext& of) {
    return link_path(out, follow_root(of));
}

} // namespace kernel::procfs
