#include "guestkernel/task/exec.hpp"

#include <linux/binfmts.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/resource.h>
#include <linux/signal.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/fs/dentry.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/process_events.hpp"
#include "guestkernel/task/process_timers.hpp"
#include "guestkernel/task/program_identity.hpp"
#include "guestkernel/task/program_image.hpp"
#include "guestkernel/trace/debug_registers.hpp"

namespace kernel {

namespace {

constexpr usize header_bytes = 4096;
constexpr usize script_line_bytes = 256; // BINPRM_BUF_SIZE
constexpr unsigned max_scripts = 4;
constexpr u64 user_code_selector = 0x33, user_data_selector = 0x2b;
constexpr u64 initial_rflags = 0x202;

// The file to run in the end, with the words that scripts put before the arguments.
struct Program {
    Ref<File> file;
    u8* header = nullptr;
    usize header_size = 0;
    Vector<String> prefix;
    bool is_script = false;

    ~Program() { kfree(header); }
};

bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

struct ScriptLine {
    std::string_view interpreter, argument;
};

// "#! interpreter [one argument]", as fs/binfmt_script.c of Linux reads it.
Result<ScriptLine> parse_script_line(std::string_view text) {
    usize end = text.find('\n');
    if (end == std::string_view::npos) {
        // Cut off in the middle of the interpreter's name: better no program than another one.
        usize at = 2;
        while (at < text.size() && is_blank(text[at]))
            at++;
        while (at < text.size() && !is_blank(text[at]) && text[at] != '\0')
            at++;
        if (at >= text.size() && text.size() >= script_line_bytes)
            return fail(ENOEXEC);
        end = text.size();
    }
    std::string_view line = text.substr(2, end - 2);
    if (const usize nul = line.find('\0'); nul != std::string_view::npos)
        line = line.substr(0, nul);
    while (!line.empty() && is_blank(line.back()))
        line.remove_suffix(1);
    while (!line.empty() && is_blank(line.front()))
        line.remove_prefix(1);
    if (line.empty())
        return fail(ENOEXEC);
    usize split = 0;
    while (split < line.size() && !is_blank(line[split]))
        split++;
    ScriptLine result{line.substr(0, split), line.substr(split)};
    while (!result.argument.empty() && is_blank(result.argument.front()))
        result.argument.remove_prefix(1);
    return result;
}

Result<void> read_header(Program& program) {
    TRY(program.header_size, read_file(*program.file, program.header, header_bytes, 0));
    return {};
}

bool is_script(const Program& program) {
    return program.header_size >= 2 && program.header[0] == '#' && program.header[1] == '!';
}

bool is_by_descriptor(const ExecRequest& request) {
    return request.directory != at_fdcwd && request.path.view().substr(0, 1) != "/";
}

// The program's name as it, its interpreter and others get to see it: execveat(2).
Result<String> public_name(const ExecRequest& request) {
    if (!is_by_descriptor(request))
        return request.path.clone();
    char directory[24];
    const usize length = log::format(directory, sizeof directory, "/dev/fd/{}", request.directory);
    TRY(String name, String::from({directory, length}));
    if (!request.path.empty()) {
        TRY(name.push_back('/'));
        TRY(name.append(request.path.view()));
    }
    return name;
}

// The descriptor is closed before the interpreter of a script could open what its name says.
bool vanishes_on_exec(const ExecRequest& request) {
    if (!is_by_descriptor(request))
        return false;
    const auto closed = current_task().files->close_on_exec(request.directory);
    return closed && *closed;
}

// Follows #! lines to the binary. `name`: its public_name().
Result<void> find_program(const ExecRequest& request, std::string_view name, Program& program) {
    program.header = static_cast<u8*>(kmalloc(header_bytes));
    if (program.header == nullptr)
        return fail(ENOMEM);
    TRY(program.file, open_for_exec(request.directory, request.path.view(), request.at_flags));
    TRY(read_header(program));
    for (unsigned depth = 0; is_script(program); depth++) {
        if (depth > max_scripts)
            return fail(ELOOP);
        const usize length =
            program.header_size < script_line_bytes ? program.header_size : script_line_bytes;
        // SAFETY: bytes as characters.
        const std::string_view text(reinterpret_cast<const char*>(program.header), length);
        TRY(const ScriptLine line, parse_script_line(text));
        if (vanishes_on_exec(request))
            return fail(ENOENT);
        // interpreter, argument, script take the place of the first argument (which the caller
        // drops).
        if (depth == 0) {
            TRY(String copy, String::from(name));
            TRY(program.prefix.push_back(std::move(copy)));
        }
        if (!line.argument.empty()) {
            TRY(String argument, String::from(line.argument));
            TRY(program.prefix.insert(0, std::move(argument)));
        }
        TRY(String interpreter, String::from(line.interpreter));
        TRY(String first, interpreter.clone());
        TRY(program.prefix.insert(0, std::move(first)));
        program.is_script = true;
        TRY(program.file, open_for_exec(at_fdcwd, interpreter.view(), 0));
        TRY(read_header(program));
    }
    return {};
}

// The strings of a script: what its #! lines say, then the arguments without the first.
Result<ExecStrings> prepend(const Program& program, const ExecStrings& given) {
    ExecStrings out;
    for (const String& word : program.prefix)
        TRY(out.add(word.view()));
    TRY(given.copy_to(out, 1));
    return out;
}

// Ends the process's other threads and takes over its number. Fails only when the task itself is to
// die, or another thread got there first.
Result<void> become_only_thread(Task& task, Process& process) {
    const auto alone = [&] {
        return process.tasks.front() == &task && process.tasks.next(task) == nullptr;
    };
    {
        SpinGuard guard(process.signal_lock);
        if (process.group_exiting || process.exec_task != nullptr)
            return fail(restart_no_interrupt);
        if (!alone()) {
            process.exec_task = &task;
            end_other_threads_locked(process, task);
        }
    }
    if (process.exec_task == &task) {
        const WaitOutcome outcome = wait_until(
            process.thread_events,
            [&] {
                SpinGuard guard(process.signal_lock);
                return alone();
            },
            no_deadline, TaskState::Killable);
        SpinGuard guard(process.signal_lock);
        process.exec_task = nullptr;
        if (outcome == WaitOutcome::Interrupted)
            return fail(restart_no_interrupt);
    }
    if (task.tid != process.pid) {
        SpinGuard tree(process_tree_lock());
        remove_task_locked(task);
        task.tid = process.pid;
        task.own_tid = process.own_pid;
        insert_task_locked(task);
        trace_renumber_locked(task);
    }
    return {};
}

// Of one given by nothing but its descriptor the number would say little.
Result<String> name_of_task(const ExecRequest& request, std::string_view name, const File& file) {
    if (is_by_descriptor(request) && request.path.empty() && file.path())
        return file.path().dentry()->copy_name();
    return String::from(name);
}

void set_name(Task& task, std::string_view path) {
    const usize slash = path.rfind('/');
    const std::string_view name = slash == std::string_view::npos ? path : path.substr(slash + 1);
    usize i = 0;
    for (; i < name.size() && i < sizeof task.name - 1; i++)
        task.name[i] = name[i];
    task.name[i] = '\0';
}

Result<void> unshare_for_exec(Process& process, Task& task, Ref<SignalHandlers>& handlers,
                              Ref<FileTable>& files) {
    if (process.handlers->ref_count() > 1) {
        TRY(handlers, process.handlers->clone());
    }
    if (task.files->ref_count() > 1) {
        TRY(files, task.files->clone());
    }
    return {};
}

void reset_signals(Process& process, Task& task, Ref<SignalHandlers> own) {
    if (own) {
        SpinGuard guard(process.signal_lock);
        std::swap(process.handlers, own);
    }
    process.handlers->reset_for_exec();
    SignalState& state = *task.signals;
    state.alternate_stack = state.alternate_size = 0;
    clear_call_dispatch(task);
    clear_debug_registers(task);
    state.alternate_flags = 2; // SS_DISABLE
    state.restart = nullptr;
    state.restore_saved = false;
}

void enter_program(Task& task, const ProgramImage& image) {
    arch::TrapFrame& frame = arch::user_frame(task);
    const u64 call = frame.orig_rax; // debuggers know the stop after execve by it
    frame = {};
    frame.rip = image.entry;
    frame.rsp = image.stack_pointer;
    frame.cs = user_code_selector;
    frame.ss = user_data_selector;
    frame.rflags = initial_rflags;
    frame.orig_rax = call;
    arch::init_fpu_state(task.context.fpu);
    arch::restore_fpu(task);
    arch::set_fs_base(task, 0);
    arch::set_gs_base(task, 0);
}

// The rights were decided on before the program was loaded and the other threads had ended: whoever
// traces it, shares its places or filters its calls by now must not get a program of another's
// privilege, and nobody may begin to, nor look into the new memory by what the old program was.
// EAGAIN.
Result<void> close_to_others(Process& process, const Task& task, const ProgramIdentity& identity) {
    if (!identity.guarded && !identity.unreadable)
        return {};
    SpinGuard tree(process_tree_lock());
    if (identity.gains && is_traced(task) && !task.trace->tracer_capable && !identity.was_traced)
        return fail(EAGAIN);
    if (identity.gains && !identity.shared_places &&
        shares_places_locked(task, Among::OtherProcesses))
        return fail(EAGAIN);
    // Another thread has laid its filter over this one since (SECCOMP_FILTER_FLAG_TSYNC), and the
    // promise to gain nothing with it: a program of more rights must not run under such a filter.
    if (identity.gains && task.no_new_privileges)
        return fail(EAGAIN);
    process.dumpable = false; // not before: the old program goes on after an error
    return {};
}

// From here on there is no way back.
void commit(Task& task, Process& process, ProgramImage image, ProgramIdentity identity,
            std::string_view name, Ref<SignalHandlers> handlers, Ref<FileTable> files) {
    delete_posix_timers(process);
    if (task.address_space)
        release_address_space_users(task);
    Ref<AddressSpace> old = replace_address_space(std::move(image.space));
    release_vfork_parent(task);
    old = nullptr;
    reset_signals(process, task, std::move(handlers));
    if (files) {
        SpinGuard tree(process_tree_lock());
        std::swap(task.files, files);
    }
    task.files->close_for_exec();
    files = nullptr;
    if (identity.secure || identity.guarded)
        process.parent_death_signal = 0;
    {
        SpinGuard tree(process_tree_lock());
        process.dumpable = !identity.guarded && !identity.unreadable;
        std::swap(process.memory_space, identity.memory_space);
    }
    const ChangedIds changed = changed_ids(*task.credentials, *identity.credentials);
    set_credentials(std::move(identity.credentials));
    tell_changed_ids(task, changed);
    task.personality &= ~identity.lost_personality;
    set_name(task, name);
    task.speculation.after_exec();
    arch::apply_speculation(task);
    arch::forget_program();
    keys_on_exec(task);
    end_io_rings(process);
    task.robust_list = task.rseq = 0;
    task.rseq_length = task.rseq_signature = 0;
    task.rseq_cpu = ~0u;
    task.clear_child_tid = task.set_child_tid = 0;
    task.default_slack_ns = task.timer_slack_ns;
    {
        SpinGuard tree(process_tree_lock());
        process.has_executed = true;
        process.executions++;
        process.exit_signal = SIGCHLD;
    }
    enter_program(task, image);
}

Result<void> check_process_limit(Task& task) {
    // A setuid(2) that went over RLIMIT_NPROC shows here, where a failure is noticed. Who has more
    // processes for another reason, a limit that was lowered since, may execute all the same.
    if (task.over_process_limit && task.account &&
        task.account->tasks.load() > current_limit(RLIMIT_NPROC))
        return fail(EAGAIN);
    task.over_process_limit = false;
    return {};
}

} // namespace

Result<void> exec_program(ExecRequest& request) {
    Task& task = current_task();
    Process& process = *task.process;
    TRY(check_process_limit(task));
    TRY(const String name, public_name(request));
    Program program;
    TRY(find_program(request, name.view(), program));
    TRY(ProgramIdentity identity, identity_by(*program.file));
    const Credentials& ids = *identity.credentials;
    const ExecStrings* strings = &request.strings;
    ExecStrings with_prefix;
    if (program.is_script) {
        TRY(with_prefix, prepend(program, request.strings));
        strings = &with_prefix;
    } else if (request.strings.argument_count() == 0) {
        // A program that walks argv from its second word must not run into the environment
        // (CVE-2021-4034).
        TRY(with_prefix.add(""));
        TRY(request.strings.copy_to(with_prefix, 0));
        strings = &with_prefix;
    }
    TRY(ProgramImage image,
        build_program(program.file, std::span<const u8>(program.header, program.header_size),
                      name.view(), *strings,
                      {from_global_id(ids.user_ns.get(), false, ids.uid),
                       from_global_id(ids.user_ns.get(), false, ids.euid),
                       from_global_id(ids.user_ns.get(), true, ids.gid),
                       from_global_id(ids.user_ns.get(), true, ids.egid), identity.secure,
                       task.personality & ~identity.lost_personality}));
    TRY(const String task_name, name_of_task(request, name.view(), *program.file));
    TRY(enter_time_namespace_for_exec(task));
    const i32 old_tid = number_for_tracer(task.tid);
    TRY(become_only_thread(task, process));
    Ref<SignalHandlers> handlers;
    Ref<FileTable> files;
    TRY(unshare_for_exec(process, task, handlers, files));
    TRY(close_to_others(process, task, identity));
    commit(task, process, std::move(image), std::move(identity), task_name.view(),
           std::move(handlers), std::move(files));
    trace_exec(task, old_tid);
    tell_process_event(ProcessEvent::Exec, task);
    return {};
}

} // namespace kernel
