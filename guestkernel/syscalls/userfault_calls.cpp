// man section 2: userfaultfd, process_mrelease.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/userfaultfd.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/userfault_file.hpp"
#include "guestkernel/syscalls/memory_calls.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

// Without privilege, only faults that come from user mode can be served: as
// vm.unprivileged_userfaultfd = 0.
Result<long> sys_userfaultfd(Task&, u32 flags) {
    if ((flags & ~u32{O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY}) != 0)
        return fail(EINVAL);
    if ((flags & UFFD_USER_MODE_ONLY) == 0 && !capable(CAP_SYS_PTRACE))
        return fail(EPERM);
    TRY(const int fd, install_userfault_file(flags));
    return fd;
}

// The memory of a process that was killed, at once: it may take long until it has ended by itself.
Result<long> sys_process_mrelease(Task&, int pidfd, u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    TRY(const Ref<Process> process, process_of_pidfd(pidfd));
    Ref<Task> task;
    u32 tasks = 0;
    {
        SpinGuard tree(process_tree_lock());
        task = Ref<Task>::share(process->first_task());
        for (const Task& each : process->tasks)
            tasks += each.exiting ? 0 : 1;
    }
    if (!task)
        return fail(ESRCH);
    const Ref<AddressSpace> space = address_space_of(*task);
    if (!space)
        return fail(ESRCH);
    bool ending = false;
    {
        SpinGuard guard(process->signal_lock);
        ending = process->group_exiting;
    }
    // Other processes that work in the same memory go on needing it.
    if (!ending || space->users() > tasks)
        return fail(EINVAL);
    space->release_private();
    return 0;
}

} // namespace kernel
