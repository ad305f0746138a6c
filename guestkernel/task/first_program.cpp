// Processes 1 and 2: the kernel's own init, and the program that the VM was started for.
#include "guestkernel/task/first_program.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/resource.h>
#include <linux/signal.h>

#include "guestkernel/arch/control.hpp"
#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/drivers/console.hpp"
#include "guestkernel/drivers/vsock.hpp"
#include "guestkernel/fs/mount.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/syscalls/file_calls.hpp"
#include "guestkernel/syscalls/strace.hpp"
#include "guestkernel/task/address_layout.hpp"
#include "guestkernel/task/exec.hpp"
#include "guestkernel/task/job_control.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/signal.hpp"
#include "guestkernel/trace/core_dump.hpp"

namespace kernel {

namespace {

constexpr i32 init_pid = 1, program_pid = 2;
constexpr std::string_view default_path =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// What every process starts with; the configuration changes some. As Linux's INIT_RLIMITS, with
// systemd's files.
void set_default_limits(Process& process) {
    constexpr u64 megabyte = u64{1} << 20;
    const u64 tasks = max_tasks() / 2;
    auto& limits = process.limits;
    limits[RLIMIT_STACK] = {8 * megabyte, ~u64{0}};
    limits[RLIMIT_CORE] = {0, ~u64{0}};
    limits[RLIMIT_NPROC] = {tasks, tasks};
    limits[RLIMIT_NOFILE] = {1024, 1024 * 1024};
    limits[RLIMIT_MEMLOCK] = {8 * megabyte, 8 * megabyte};
    limits[RLIMIT_SIGPENDING] = {tasks, tasks};
    limits[RLIMIT_MSGQUEUE] = {819200, 819200};
    limits[RLIMIT_NICE] = {0, 0};
    limits[RLIMIT_RTPRIO] = {0, 0};
    const BootConfig& config = boot_config();
    for (u32 i = 0; i < config.rlimit_count; i++)
        if (config.rlimits[i].resource < resource_limit_count)
            limits[config.rlimits[i].resource] = {config.rlimits[i].soft, config.rlimits[i].hard};
}

Result<Ref<Credentials>> make_credentials() {
    const BootConfig& config = boot_config();
    TRY(Ref<Credentials> credentials, make_ref<Credentials>());
    Credentials& c = *credentials;
    c.uid = c.euid = c.suid = c.fsuid = config.uid;
    c.gid = c.egid = c.sgid = c.fsgid = config.gid;
    TRY(c.groups.append(std::span<const u32>(config.groups, config.group_count)));
    c.cap_bounding = all_capabilities;
    if (config.uid == 0)
        c.cap_permitted = c.cap_effective = all_capabilities;
    return credentials;
}

// Adopts orphans: those are reaped at their end without its doing. It waits for the program only.
void run_init(void*) {
    Process& self = *kernel_init_process;
    Process* program = nullptr;
    u32 status = 0;
    (void)wait_until(
        self.child_events,
        [&] {
            SpinGuard tree(process_tree_lock());
            for (Process& child : self.children)
                if (is_first_program(child) && child.state == ProcessState::Zombie) {
                    program = &child;
                    status = child.exit_status;
                }
            return program != nullptr;
        },
        no_deadline, TaskState::Uninterruptible);
    flush_vsock_device();
    flush_console();
    (void)sys_sync(current_task());
    arch::power_off(status);
}

Result<Ref<Task>> make_process(i32 pid, bool user, Process* parent, Ref<ProcessGroup> group) {
    TRY(Ref<Process> process, allocate_process(pid));
    TRY(process->handlers, make_ref<SignalHandlers>());
    TRY(Ref<Task> task, allocate_task(user));
    TRY(Ref<Credentials> credentials, make_credentials());
    TRY(task->account, user_account(credentials->uid));
    task->account->tasks.fetch_add(1);
    task->credentials = std::move(credentials);
    task->tid = task->own_tid = pid;
    process->pid_namespace = initial_namespaces->pid_for_children;
    task->namespaces = Ref<Namespaces>::share(initial_namespaces);
    set_default_limits(*process);
    SpinGuard tree(process_tree_lock());
    process->tasks.push_back(*task);
    join_root_cgroup_locked();
    process->live_tasks = 1;
    process->parent = parent;
    process->exit_signal = SIGCHLD;
    if (parent != nullptr)
        parent->children.push_back(*process);
    process->join_group(std::move(group));
    insert_process_locked(*process);
    insert_task_locked(*task);
    process->add_ref(); // the table's
    task->process = process.leak();
    return task;
}

Result<Ref<ProcessGroup>> make_session(i32 pid) {
    TRY(Ref<Session> session, make_ref<Session>(pid));
    TRY(Ref<ProcessGroup> group, make_ref<ProcessGroup>(pid, session));
    SpinGuard tree(process_tree_lock());
    insert_session_locked(*session);
    insert_group_locked(*group);
    session = nullptr;
    return group;
}

Result<void> open_streams(Task& task) {
    for (int stream = 0; stream < 3; stream++) {
        TRY(Ref<File> file, open_standard_stream(stream));
        if (!file)
            continue;
        TRY(const int reserved, task.files->reserve(stream));
        task.files->fill(reserved, std::move(file), false);
    }
    return {};
}

// As execvp(3): a name without a slash is looked for in PATH.
Result<void> exec_by_name(std::string_view name, ExecRequest& request) {
    if (name.find('/') != std::string_view::npos || name.empty()) {
        TRY(request.path, String::from(name));
        return exec_program(request);
    }
    std::string_view path = default_path;
    boot_config().environment.for_each([&](std::string_view variable) {
        if (variable.substr(0, 5) == "PATH=")
            path = variable.substr(5);
    });
    int error = ENOENT;
    for (usize at = 0; at <= path.size();) {
        usize end = path.find(':', at);
        end = end == std::string_view::npos ? path.size() : end;
        request.path.clear();
        TRY(request.path.append(end == at ? "." : path.substr(at, end - at)));
        TRY(request.path.append("/"));
        TRY(request.path.append(name));
        auto done = exec_program(request);
        if (done)
            return done;
        const int code = done.error().code;
        if (code == EACCES)
            error = EACCES; // goes on looking, but tells of it
        else if (code != ENOENT && code != ENOTDIR && code != ESTALE)
            return done;
        at = end + 1;
    }
    return fail(error);
}

Result<void> prepare_streams_and_cwd(Task& task) {
    TRY(task.fs, make_ref<FsContext>(MountTree::root(), MountTree::root(), boot_config().umask));
    TRY(task.files, make_ref<FileTable>());
    TRY(open_streams(task));
    if (auto cwd = lookup_path(at_fdcwd, boot_config().cwd, lookup_follow | lookup_directory); cwd)
        task.fs->set_cwd(*cwd);
    else
        return fail(cwd.error().code);
    return {};
}

Result<void> become_program(Task& task) {
    const BootConfig& config = boot_config();
    TRY(prepare_streams_and_cwd(task));
    ExecRequest request;
    request.directory = at_fdcwd;
    Result<void> added;
    const auto add = [&](std::string_view text) {
        if (added)
            added = request.strings.add(text);
    };
    config.arguments.for_each(add);
    request.strings.begin_environment();
    config.environment.for_each(add);
    TRY(std::move(added));
    return exec_by_name(config.arguments[0], request);
}

// --core: every program's core file goes there.
void set_core_directory() {
    const std::string_view directory = boot_config().core_directory;
    if (directory.empty())
        return;
    char pattern[core_pattern_limit];
    const usize length = log::format(pattern, sizeof pattern, "{}/core.%e.%p", directory);
    if (auto set = set_core_pattern({pattern, length}); !set)
        log::error("the name of the directory for core files is too long");
    if (auto found = find_core_directory(); !found)
        log::error("the directory for core files is not there: error {}", found.error().code);
}

void run_program(void*) {
    finish_first_switch();
    Task& task = current_task();
    arch::mark(boot::Mark::exec_started);
    if (auto done = become_program(task); !done) {
        arch::report_exec_failure(done.error().code);
        flush_console();
        arch::power_off(0);
    }
    set_blocked(0);
    set_core_directory();
    if (boot_config().strace) {
        set_strace_filter(boot_config().strace_filter);
        task.entry_work = entry_strace;
    }
    // The next instruction of this task is the program's own.
    arch::mark(boot::Mark::first_user_instruction);
}

// A signal of the host's user: to the foreground group of the terminal, which the terminal layer
// knows, or to the program.
void host_signal(int signal) {
    if (signal >= 1 && signal <= signal_count)
        (void)send_signal_to_process(program_pid, signal);
}

} // namespace

bool is_first_program(const Process& process) {
    return process.pid == program_pid;
}

Result<void> start_first_program() {
    set_address_randomization(static_cast<i32>(boot_config().address_randomization));
    TRY(start_reaper());
    TRY(Ref<ProcessGroup> init_group, make_session(init_pid));
    TRY(Ref<Task> init, make_process(init_pid, false, nullptr, std::move(init_group)));
    kernel_init_process = init->process;
    TRY(Ref<ProcessGroup> program_group, make_session(program_pid));
    TRY(Ref<Task> program,
        make_process(program_pid, true, kernel_init_process, std::move(program_group)));
    {
        SpinGuard tree(process_tree_lock());
        (void)allocate_pid_locked(); // 1 and 2 are taken
        (void)allocate_pid_locked();
    }
    // A signal of the host's user that comes early waits for the program; it must not interrupt the
    // exec.
    program->signals->blocked = ~u64{0};
    set_console_signal_handler(host_signal);
    arch::init_fpu_state(program->context.fpu);
    arch::init_kernel_stack(*program, run_program, nullptr);
    program->add_ref(); // the scheduler's
    TRY(run_as_kernel_task(*init, "init", run_init, nullptr));
    start_task(*program);
    return {};
}

} // namespace kernel
