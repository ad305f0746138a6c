// Putting filters in place, and what happens to them in fork, exit and ptrace.
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/filter.h>
#include <linux/ptrace.h>
#include <linux/seccomp.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/syscalls/task_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/seccomp.hpp"
#include "guestkernel/trace/seccomp_notify.hpp"

namespace kernel {

namespace {

// As Linux: all programs of a path together, each with an overhead of four.
constexpr u32 max_path_length = (1 << 18) / sizeof(BpfInstruction);
constexpr u32 program_overhead = 4;

struct UserProgram { // struct sock_fprog
    u16 length;
    u16 padding[3];
    u64 instructions;
};
static_assert(sizeof(UserProgram) == 16);

bool is_ancestor(const SeccompFilter* ancestor, const SeccompFilter* filter) {
    if (ancestor == nullptr)
        return true;
    for (; filter != nullptr; filter = filter->previous.get())
        if (filter == ancestor)
            return true;
    return false;
}

Result<Ref<SeccompFilter>> read_program(u64 from) {
    TRY(const UserProgram user, UserPtr<const UserProgram>(from).copy_in());
    if (user.length == 0 || user.length > BPF_MAXINSNS)
        return fail(EINVAL);
    const Task& task = current_task();
    if (!task.no_new_privileges && !capable_here(CAP_SYS_ADMIN))
        return fail(EACCES);
    TRY(Ref<SeccompFilter> filter, make_ref<SeccompFilter>());
    TRY(filter->program.resize(user.length));
    TRY(copy_in_bytes(filter->program.data(), user.instructions,
                      usize{user.length} * sizeof(BpfInstruction)));
    TRY(check_bpf(filter->program.span()));
    return filter;
}

// Calls that need not be asked about: this program allows them always, and all earlier ones do.
void prepare_answers(SeccompFilter& filter) {
    for (u32 number = 0; number < seccomp_calls; number++) {
        if (number % 32 == 0)
            cond_resched();
        const u64 bit = u64{1} << number % 64;
        if (filter.previous && (filter.previous->always_allowed[number / 64] & bit) == 0)
            continue;
        u32 answer = 0;
        if (constant_answer(filter.program.span(), number, AUDIT_ARCH_X86_64, answer) &&
            answer == SECCOMP_RET_ALLOW)
            filter.always_allowed[number / 64] |= bit;
    }
}

void drop_user(SeccompFilter* filter) {
    // The filters up to one that others run under as well have no users from here on.
    while (filter != nullptr && filter->users.fetch_sub(1) == 1) {
        if (filter->listener)
            hang_up(*filter->listener);
        filter = filter->previous.get();
    }
}

// Requires: signal_lock, or a task that nobody knows yet. Consumes a reference and a use.
SeccompFilter* assign(Task& task, SeccompFilter* filter) {
    SeccompFilter* old = task.seccomp;
    __atomic_store_n(&task.seccomp, filter, __ATOMIC_RELEASE);
    task.seccomp_mode = SECCOMP_MODE_FILTER;
    __atomic_fetch_or(&task.entry_work, entry_seccomp, __ATOMIC_SEQ_CST);
    return old;
}

// Gives up filters that were replaced, without the lock.
void give_up(SeccompFilter* old) {
    if (old == nullptr)
        return;
    drop_user(old);
    old->release();
}

// The thread that keeps others from being synchronised; 0: none. Requires: signal_lock.
i32 find_obstacle(Process& process, const Task& self) {
    for (const Task& task : process.tasks) {
        if (&task == &self || task.exiting)
            continue;
        const bool fine =
            task.seccomp_mode == SECCOMP_MODE_DISABLED ||
            (task.seccomp_mode == SECCOMP_MODE_FILTER && is_ancestor(task.seccomp, self.seccomp));
        if (!fine)
            return visible_pid(task.tid);
    }
    return 0;
}

Result<long> attach(Ref<SeccompFilter> filter, u32 flags) {
    Task& self = current_task();
    Process& process = *self.process;
    const bool sync = (flags & SECCOMP_FILTER_FLAG_TSYNC) != 0;
    Vector<SeccompFilter*> replaced;
    // Others may start threads meanwhile: they have this thread's filters or the obstacle is found.
    for (;;) {
        u32 count = 0;
        {
            SpinGuard guard(process.signal_lock);
            count = process.live_tasks;
        }
        TRY(replaced.reserve(count + 1));
        SpinGuard guard(process.signal_lock);
        if (process.live_tasks > count)
            continue;
        if (sync) {
            if (const i32 obstacle = find_obstacle(process, self); obstacle != 0) {
                if ((flags & SECCOMP_FILTER_FLAG_TSYNC_ESRCH) != 0)
                    return fail(ESRCH);
                return obstacle;
            }
        }
        const auto put = [&](Task& task) {
            filter->add_ref();
            filter->users.fetch_add(1);
            (void)replaced.push_back(assign(task, filter.get())); // reserved above
            if (self.no_new_privileges)
                task.no_new_privileges = true;
        };
        for (Task& task : process.tasks)
            if (&task == &self || (sync && !task.exiting))
                put(task);
        break;
    }
    for (SeccompFilter* old : replaced)
        give_up(old);
    return 0;
}

} // namespace

Result<long> set_seccomp_strict() {
    Task& task = current_task();
    if (task.seccomp_mode != SECCOMP_MODE_DISABLED && task.seccomp_mode != SECCOMP_MODE_STRICT)
        return fail(EINVAL);
    task.seccomp_mode = SECCOMP_MODE_STRICT;
    __atomic_fetch_or(&task.entry_work, entry_seccomp, __ATOMIC_SEQ_CST);
    return 0;
}

Result<long> install_seccomp_filter(u32 flags, u64 program) {
    constexpr u32 known = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG |
                          SECCOMP_FILTER_FLAG_SPEC_ALLOW | SECCOMP_FILTER_FLAG_NEW_LISTENER |
                          SECCOMP_FILTER_FLAG_TSYNC_ESRCH | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    const auto has = [&](u32 flag) { return (flags & flag) != 0; };
    const bool listens = has(SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if ((flags & ~known) != 0 ||
        (has(SECCOMP_FILTER_FLAG_TSYNC) && listens && !has(SECCOMP_FILTER_FLAG_TSYNC_ESRCH)) ||
        (has(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) && !listens))
        return fail(EINVAL);
    TRY(Ref<SeccompFilter> filter, read_program(program));
    Task& task = current_task();
    if (task.seccomp_mode == SECCOMP_MODE_STRICT)
        return fail(EINVAL);
    filter->log = has(SECCOMP_FILTER_FLAG_LOG);
    filter->wait_killable = has(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
    const auto length = static_cast<u32>(filter->program.size());
    filter->path_length = length;
    if (task.seccomp != nullptr) {
        filter->previous = Ref<SeccompFilter>::share(task.seccomp);
        filter->path_length += task.seccomp->path_length + program_overhead;
        filter->depth = task.seccomp->depth + 1;
        if (filter->path_length > max_path_length)
            return fail(ENOMEM);
    }
    int fd = -1;
    Ref<File> file;
    if (listens) {
        for (const SeccompFilter* at = task.seccomp; at != nullptr; at = at->previous.get())
            if (at->listener)
                return fail(EBUSY);
        TRY(filter->listener, make_ref<SeccompListener>());
        TRY(file, make_listener_file(filter->listener));
        TRY(fd, task.files->reserve());
    }
    prepare_answers(*filter);
    // The use that a later filter makes of an earlier one: the thread's own use of it goes over.
    if (filter->previous)
        filter->previous->users.fetch_add(1);
    const Ref<SeccompFilter> previous = filter->previous;
    auto result = attach(std::move(filter), flags);
    const bool failed = !result || *result != 0;
    if (failed)
        drop_user(previous.get());
    if (!listens)
        return result;
    if (failed) {
        task.files->unreserve(fd);
        return result;
    }
    task.files->fill(fd, std::move(file), true);
    return fd;
}

void inherit_seccomp(Task& child, const Task& parent) {
    child.seccomp_mode = parent.seccomp_mode;
    child.no_new_privileges = parent.no_new_privileges;
    child.entry_work = child.entry_work | (parent.entry_work & entry_seccomp);
    if (parent.seccomp == nullptr)
        return;
    parent.seccomp->add_ref();
    parent.seccomp->users.fetch_add(1);
    child.seccomp = parent.seccomp;
}

void release_seccomp(Task& task) {
    give_up(std::exchange(task.seccomp, nullptr));
}

Result<long> read_seccomp_filter(Task& task, u64 index, u64 to) {
    if (!capable_here(CAP_SYS_ADMIN) || current_task().seccomp_mode != SECCOMP_MODE_DISABLED)
        return fail(EACCES);
    if (task.seccomp_mode != SECCOMP_MODE_FILTER)
        return fail(EINVAL);
    // Counted from the oldest.
    const u32 depth = task.seccomp->depth;
    if (index >= depth)
        return fail(ENOENT);
    const SeccompFilter* filter = task.seccomp;
    for (u64 i = depth - 1; i > index; i--)
        filter = filter->previous.get();
    const auto count = filter->program.size();
    if (to != 0)
        TRY(copy_out_bytes(to, filter->program.data(), count * sizeof(BpfInstruction)));
    return static_cast<long>(count);
}

Result<long> read_seccomp_metadata(Task& task, u64 size, u64 at) {
    if (!capable_here(CAP_SYS_ADMIN) || current_task().seccomp_mode != SECCOMP_MODE_DISABLED)
        return fail(EACCES);
    seccomp_metadata data = {};
    size = size < sizeof data ? size : sizeof data;
    if (size < sizeof data.filter_off)
        return fail(EINVAL);
    TRY(copy_in_bytes(&data.filter_off, at, sizeof data.filter_off));
    if (task.seccomp_mode != SECCOMP_MODE_FILTER)
        return fail(EINVAL);
    const u32 depth = task.seccomp->depth;
    if (data.filter_off >= depth)
        return fail(ENOENT);
    const SeccompFilter* filter = task.seccomp;
    for (u64 i = depth - 1; i > data.filter_off; i--)
        filter = filter->previous.get();
    data.flags = filter->log ? u64{SECCOMP_FILTER_FLAG_LOG} : 0;
    TRY(copy_out_bytes(at, &data, size));
    return static_cast<long>(size);
}

Result<long> sys_seccomp(Task&, u32 operation, u32 flags, u64 argument) {
    switch (operation) {
    case SECCOMP_SET_MODE_STRICT:
        if (flags != 0 || argument != 0)
            return fail(EINVAL);
        return set_seccomp_strict();
    case SECCOMP_SET_MODE_FILTER:
        return install_seccomp_filter(flags, argument);
    case SECCOMP_GET_ACTION_AVAIL: {
        if (flags != 0)
            return fail(EINVAL);
        TRY(const u32 action, UserPtr<const u32>(argument).copy_in());
        constexpr u32 actions[] = {
            SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP, SECCOMP_RET_ERRNO,
            SECCOMP_RET_USER_NOTIF,   SECCOMP_RET_TRACE,       SECCOMP_RET_LOG,  SECCOMP_RET_ALLOW};
        for (const u32 known : actions)
            if (action == known)
                return 0;
        return fail(EOPNOTSUPP);
    }
    case SECCOMP_GET_NOTIF_SIZES: {
        if (flags != 0)
            return fail(EINVAL);
        const seccomp_notif_sizes sizes = {sizeof(seccomp_notif), sizeof(seccomp_notif_resp),
                                           sizeof(seccomp_data)};
        TRY(UserPtr<seccomp_notif_sizes>(argument).copy_out(sizes));
        return 0;
    }
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
