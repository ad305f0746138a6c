#include "guestkernel/fs/procfs/subject.hpp"

#include <linux/errno.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/procfs/mount_options.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"

namespace kernel::procfs {

Result<Ref<Process>> subject_process(const TableContext& of) {
    Ref<Process> process = find_process(of.pid);
    if (!process)
        return fail(ESRCH);
    return process;
}

Result<Ref<Task>> subject_task(const TableContext& of) {
    if (of.tid >= 0) {
        Ref<Task> task = find_task(of.tid);
        if (!task || task->process == nullptr || task->process->pid != of.pid)
            return fail(ESRCH);
        return task;
    }
    TRY(const Ref<Process> process, subject_process(of));
    SpinGuard guard(process_tree_lock());
    Task* first = process->first_task();
    if (first == nullptr)
        return fail(ESRCH);
    return Ref<Task>::share(first);
}

Result<Ref<AddressSpace>> subject_memory(const TableContext& of) {
    auto task = subject_task(of);
    if (!task)
        return Ref<AddressSpace>();
    // First the memory: that of a program that it executes meanwhile may be another's.
    Ref<AddressSpace> space = address_space_of(**task);
    if (!may_access(**task))
        return fail(EACCES);
    return space;
}

Result<Ref<File>> subject_file(const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    // First the file, as with the memory above: a program that it executes meanwhile may be
    // another's and open what is not for the caller.
    const Ref<FileTable> files = files_of(*task);
    auto file = files ? files->get(of.fd) : Result<Ref<File>>(fail(ENOENT));
    if (!may_access(*task))
        return fail(EACCES);
    if (!file)
        return fail(ENOENT);
    return file;
}

bool process_exists(const TableContext& of) {
    return static_cast<bool>(find_process(of.pid)) && !is_hidden(of, Hidden::AllTheMore);
}

bool thread_exists(const TableContext& of) {
    return subject_task(of).has_value();
}

bool descriptor_exists(const TableContext& of) {
    return subject_file(of).has_value();
}

i32 next_process(const TableContext& of, i32 after) {
    i32 pid = after < 0 ? 0 : after;
    while ((pid = next_pid_in(of.pids, pid)) > 0) {
        TableContext found = of;
        found.pid = global_pid_in(of.pids, pid);
        if (!is_hidden(found, Hidden::Existence))
            return pid;
    }
    return -1;
}

i32 next_thread(const TableContext& of, i32 after) {
    const Ref<Process> process = find_process(of.pid);
    if (!process)
        return -1;
    const i32 tid = next_tid_in(of.pids, *process, after < 0 ? 0 : after);
    return tid > 0 ? tid : -1;
}

i32 next_descriptor(const TableContext& of, i32 after) {
    auto task = subject_task(of);
    if (!task || !may_access(**task))
        return -1;
    const Ref<FileTable> files = files_of(**task);
    return files ? files->next_open(after + 1) : -1;
}

void subject_directory_owner(const TableContext& of, u32& uid, u32& gid) {
    auto task = subject_task(of);
    if (!task)
        return;
    if (const Ref<const Credentials> credentials = credentials_of(**task)) {
        uid = credentials->euid;
        gid = credentials->egid;
    }
}

// Root is that of the namespace that may look at the process's memory.
void subject_owner(const TableContext& of, u32& uid, u32& gid) {
    auto process = subject_process(of);
    if (!process || (*process)->dumpable)
        return subject_directory_owner(of, uid, gid);
    Ref<UserNamespace> space;
    {
        SpinGuard guard(process_tree_lock());
        space = (*process)->memory_space;
    }
    const u32 root = to_global_id(space.get(), false, 0);
    const u32 root_group = to_global_id(space.get(), true, 0);
    uid = root == invalid_id ? 0 : root;
    gid = root_group == invalid_id ? 0 : root_group;
}

bool is_callers_process(const TableContext& of) {
    return current_task().process != nullptr && current_task().process->pid == of.pid;
}

} // namespace kernel::procfs
