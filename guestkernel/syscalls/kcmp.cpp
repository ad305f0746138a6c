// kcmp(2): whether two processes share something.
#include <linux/errno.h>
#include <linux/kcmp.h>

#include "guestkernel/fs/file_table.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/epoll.hpp"
#include "guestkernel/ipc/sysv.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/namespaces/pid_namespace.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

Result<Ref<File>> file_of(Task& task, u64 index) {
    const Ref<FileTable> files = files_of(task);
    if (!files)
        return fail(EBADF);
    return files->get(static_cast<int>(index));
}

// The file that an epoll file of the task watches: by the number it was added by, and of several
// with that number the one at an offset.
Result<Ref<File>> watched_file(Task& task, u64 address) {
    TRY(const kcmp_epoll_slot slot, UserPtr<const kcmp_epoll_slot>(address).copy_in());
    TRY(const Ref<File> file, file_of(task, slot.efd));
    auto* epoll = file_as<EpollFile>(*file);
    if (epoll == nullptr)
        return fail(EINVAL);
    return epoll->target(static_cast<int>(slot.tfd), slot.toff);
}

// What a process has of its own from when it first needs it: null until then.
const void* undo_list_of(const Task& task) {
    return has_semaphore_undo(task.process->pid) ? task.process : nullptr;
}
const void* io_context_of(const Task& task) {
    return task.io_priority != 0 ? &task : nullptr;
}

// An order that does not give addresses away.
long compare(const void* left, const void* right) {
    const u64 x = hash_mix(reinterpret_cast<u64>(left));
    const u64 y = hash_mix(reinterpret_cast<u64>(right));
    return left == right ? 0 : x < y ? 1 : 2;
}

} // namespace

Result<long> sys_kcmp(Task&, i32 first, i32 second, int type, u64 index1, u64 index2) {
    const Ref<Task> a = find_task(global_pid(first));
    const Ref<Task> b = find_task(global_pid(second));
    if (!a || !b)
        return fail(ESRCH);
    if (!may_access(*a) || !may_access(*b))
        return fail(EPERM);
    switch (type) {
    case KCMP_FILE: {
        TRY(const Ref<File> left, file_of(*a, index1));
        TRY(const Ref<File> right, file_of(*b, index2));
        return compare(left.get(), right.get());
    }
    case KCMP_EPOLL_TFD: {
        TRY(const Ref<File> left, file_of(*a, index1));
        TRY(const Ref<File> right, watched_file(*b, index2));
        return compare(left.get(), right.get());
    }
    case KCMP_VM:
        return compare(address_space_of(*a).get(), address_space_of(*b).get());
    case KCMP_FILES:
        return compare(files_of(*a).get(), files_of(*b).get());
    case KCMP_FS:
        return compare(fs_of(*a).get(), fs_of(*b).get());
    case KCMP_SIGHAND:
        return compare(a->process->handlers.get(), b->process->handlers.get());
    case KCMP_IO:
        return compare(io_context_of(*a), io_context_of(*b));
    case KCMP_SYSVSEM:
        return compare(undo_list_of(*a), undo_list_of(*b));
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
