// unshare(2) and setns(2).
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/sched.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/mount_tree.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/namespaces/namespace_file.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/namespaces/uts_namespace.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

bool alone_in_process() {
    SpinGuard tree(process_tree_lock());
    return current_process().live_tasks == 1;
}

// What a call will change, made beforehand so that it happens as a whole.
struct Change {
    Ref<Credentials> credentials;
    Ref<Namespaces> namespaces;
    Ref<FsContext> fs;
    Ref<FileTable> files;
    bool leaves_ipc = false;
};

void commit(Change& change) {
    Task& task = current_task();
    if (change.leaves_ipc)
        undo_semaphores(task.process->pid); // while the old namespace is the current one
    if (change.credentials)
        set_credentials(std::move(change.credentials));
    SpinGuard tree(process_tree_lock());
    if (change.namespaces)
        std::swap(task.namespaces, change.namespaces);
    if (change.fs)
        std::swap(task.fs, change.fs);
    if (change.files)
        std::swap(task.files, change.files);
} // what was there before is dropped by the caller, without the lock

u32 with_implied(u32 flags) {
    if ((flags & CLONE_NEWUSER) != 0)
        flags |= CLONE_THREAD | CLONE_FS;
    if ((flags & CLONE_VM) != 0)
        flags |= CLONE_SIGHAND;
    if ((flags & CLONE_SIGHAND) != 0)
        flags |= CLONE_THREAD;
    if ((flags & CLONE_NEWNS) != 0)
        flags |= CLONE_FS;
    if ((flags & CLONE_NEWIPC) != 0)
        flags |= CLONE_SYSVSEM;
    return flags;
}

Result<void> check_sharing(u32 flags) {
    const Task& task = current_task();
    if ((flags & (CLONE_THREAD | CLONE_SIGHAND | CLONE_VM)) != 0 && !alone_in_process())
        return fail(EINVAL);
    if ((flags & CLONE_SIGHAND) != 0 && task.process->handlers->ref_count() > 1)
        return fail(EINVAL);
    // References: this task and the run queue that has it loaded.
    if ((flags & CLONE_VM) != 0 && task.address_space->ref_count() > 2)
        return fail(EINVAL);
    return {};
}

} // namespace

Result<void> unshare(u32 flags) {
    constexpr u32 known = all_namespace_flags | CLONE_THREAD | CLONE_FS | CLONE_SIGHAND | CLONE_VM |
                          CLONE_FILES | CLONE_SYSVSEM;
    if ((flags & ~known) != 0)
        return fail(EINVAL);
    flags = with_implied(flags);
    TRY(check_sharing(flags));
    Task& task = current_task();
    Change change;
    if ((flags & CLONE_FS) != 0 && task.fs->ref_count() > 1) {
        TRY(change.fs, task.fs->clone());
    }
    if ((flags & CLONE_FILES) != 0 && task.files->ref_count() > 1) {
        TRY(change.files, task.files->clone());
    }
    Ref<const Credentials> who = task.credentials;
    if ((flags & CLONE_NEWUSER) != 0) {
        TRY(change.credentials, task.credentials->clone());
        TRY(const Ref<UserNamespace> made, make_user_namespace(*change.credentials));
        who = change.credentials;
    }
    const u32 others = flags & all_namespace_flags & ~u32{CLONE_NEWUSER};
    if (others != 0) {
        Namespaces& own = *current_namespaces();
        TRY(change.namespaces, unshare_namespaces(own, others, *who));
        if ((others & CLONE_NEWNS) != 0) {
            TRY(change.namespaces->mount,
                MountNamespace::copy(*current_mount_namespace(),
                                     Ref<UserNamespace>::share(who->user_space()),
                                     change.fs ? change.fs.get() : task.fs.get()));
        }
        change.leaves_ipc = (others & CLONE_NEWIPC) != 0;
    }
    commit(change);
    return {};
}

namespace {

// setns(2): CAP_SYS_ADMIN both where the namespace belongs and where the caller is.
Result<void> check_entry(const Namespace& target, const Credentials& who) {
    if (!capable_in(who, target.owner(), CAP_SYS_ADMIN) || !who.capable_here(CAP_SYS_ADMIN))
        return fail(EPERM);
    return {};
}

Result<void> enter_user(Change& change, UserNamespace& target) {
    Task& task = current_task();
    if (&target == task.credentials->user_space() || !alone_in_process() ||
        shares_places(task, Among::AllTasks))
        return fail(EINVAL);
    if (!capable_in(*task.credentials, &target, CAP_SYS_ADMIN))
        return fail(EPERM);
    TRY(change.credentials, task.credentials->clone());
    enter_user_namespace(*change.credentials, target);
    return {};
}

Result<void> enter_mount(Change& change, MountNamespace& target, const Credentials& who) {
    Task& task = current_task();
    TRY(check_entry(target, who));
    if (!who.capable_here(CAP_SYS_CHROOT))
        return fail(EPERM);
    if (target.anonymous() || shares_places(task, Among::AllTasks))
        return fail(EINVAL);
    const Path root = target.root();
    if (!root)
        return fail(EINVAL);
    change.namespaces->mount = Ref<MountNamespace>::share(&target);
    TRY(change.fs, task.fs->clone());
    change.fs->set_root(root);
    change.fs->set_cwd(root);
    return {};
}

Result<void> enter_pid(Change& change, PidNamespace& target, const Credentials& who) {
    TRY(check_entry(target, who));
    // One's own or one below it.
    const PidNamespace* own = current_task().process->pid_namespace.get();
    const PidNamespace* at = &target;
    while (at != nullptr && at != own)
        at = at->parent();
    if (at == nullptr)
        return fail(EINVAL);
    change.namespaces->pid_for_children = Ref<PidNamespace>::share(&target);
    return {};
}

Result<void> enter_time(Change& change, TimeNamespace& target, const Credentials& who) {
    if (!alone_in_process())
        return fail(EUSERS);
    TRY(check_entry(target, who));
    target.frozen.store(true);
    TRY(use_clock_offsets(*current_task().address_space, target));
    change.namespaces->time = Ref<TimeNamespace>::share(&target);
    change.namespaces->time_for_children = change.namespaces->time;
    return {};
}

Result<void> enter_one(Change& change, Namespace& target) {
    const Credentials& who = change.credentials ? *change.credentials : *current_task().credentials;
    if (target.kind() != NamespaceKind::User && !change.namespaces) {
        TRY(change.namespaces, current_namespaces()->clone());
    }
    switch (target.kind()) {
    case NamespaceKind::User:
        return enter_user(change, static_cast<UserNamespace&>(target));
    case NamespaceKind::Mount:
        return enter_mount(change, static_cast<MountNamespace&>(target), who);
    case NamespaceKind::Pid:
        return enter_pid(change, static_cast<PidNamespace&>(target), who);
    case NamespaceKind::Time:
        return enter_time(change, static_cast<TimeNamespace&>(target), who);
    case NamespaceKind::Uts:
        TRY(check_entry(target, who));
        change.namespaces->uts = Ref<UtsNamespace>::share(static_cast<UtsNamespace*>(&target));
        return {};
    case NamespaceKind::Ipc:
        TRY(check_entry(target, who));
        change.namespaces->ipc = Ref<IpcNamespace>::share(static_cast<IpcNamespace*>(&target));
        change.leaves_ipc = true;
        return {};
    case NamespaceKind::Net:
        TRY(check_entry(target, who));
        change.namespaces->net = Ref<NetNamespace>::share(static_cast<NetNamespace*>(&target));
        return {};
    case NamespaceKind::Cgroup:
        TRY(check_entry(target, who));
        change.namespaces->cgroup =
            Ref<CgroupNamespace>::share(static_cast<CgroupNamespace*>(&target));
        return {};
    }
    return fail(EINVAL);
}

// All that a process has of the kinds asked for, that of users first: it gives the rights to the
// others.
Result<void> enter_all_of(Change& change, Process& process, u32 flags) {
    Ref<Task> task;
    {
        SpinGuard tree(process_tree_lock());
        task = Ref<Task>::share(process.first_task());
    }
    if (!task)
        return fail(ESRCH);
    if (!may_access(*task))
        return fail(EPERM);
    constexpr NamespaceKind order[] = {
        NamespaceKind::User, NamespaceKind::Mount,  NamespaceKind::Uts, NamespaceKind::Ipc,
        NamespaceKind::Pid,  NamespaceKind::Cgroup, NamespaceKind::Net, NamespaceKind::Time};
    for (const NamespaceKind kind : order) {
        if ((flags & namespace_flag(kind)) == 0)
            continue;
        Ref<Namespace> target = namespace_of_task(*task, kind, false);
        if (!target)
            return fail(ESRCH);
        TRY(enter_one(change, *target));
    }
    return {};
}

} // namespace

Result<void> enter_namespaces(int fd, u32 flags) {
    if ((flags & ~all_namespace_flags) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, current_task().files->get(fd));
    Change change;
    if (Namespace* target = namespace_of_file(*file)) {
        if (flags != 0 && flags != namespace_flag(target->kind()))
            return fail(EINVAL);
        TRY(enter_one(change, *target));
    } else {
        auto process = process_of_pidfd(fd);
        if (!process)
            return fail(EINVAL);
        if (flags == 0)
            return fail(EINVAL);
        TRY(enter_all_of(change, **process, flags));
    }
    commit(change);
    return {};
}

} // namespace kernel
