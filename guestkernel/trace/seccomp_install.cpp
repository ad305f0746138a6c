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
    for (u64& word : filter.always_allowed)
        word = 0;
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

// Puts the filter on top of those that the running thread has now. EBUSY: a second listener;
// ENOMEM: too long together.
Result<void> stack(SeccompFilter& filter) {
    const Task& task = current_task();
    Ref<SeccompFilter> previous;
    {
        SpinGuard guard(task.process->signal_lock);
        previous = Ref<SeccompFilter>::share(task.seccomp);
    }
    filter.path_length = static_cast<u32>(filter.program.size());
    filter.depth = 1;
    if (previous) {
        filter.path_length += previous->path_length + program_overhead;
        filter.depth += previous->depth;
        if (filter.path_length > max_path_length)
            return fail(ENOMEM);
    }
    if (filter.listener)
        for (const SeccompFilter* at = previous.get(); at != nullptr; at = at->previous.get())
            if (at->listener)
                return fail(EBUSY);
    filter.previous = std::move(previous);
    prepare_answers(filter);
    return {};
}

// Another thread gave the running one a filter (SECCOMP_FILTER_FLAG_TSYNC) since stack(): below the
// new filter it would be missing.
constexpr long stacked_too_early = -1;

// 0, the thread that is in the way of others, or stacked_too_early.
Result<long> attach(const Ref<SeccompFilter>& filter, u32 flags) {
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
        if (self.seccomp != filter->previous.get())
            return stacked_too_early;
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

Result<long> stack_and_attach(const Ref<SeccompFilter>& filter, u32 flags) {
    for (;;) {
        TRY(stack(*filter));
        // A later filter uses the earlier one: the thread's own use of that goes over to it.
        const Ref<SeccompFilter> previous = filter->previous;
        if (previous)
            previous->users.fetch_add(1);
        auto result = attach(filter, flags);
        if (!result || *result != 0)
            drop_user(previous.get());
        if (!result || *result != stacked_too_early)
            return result;
    }
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
    int fd = -1;
    Ref<File> file;
    if (listens) {
        TRY(filter->listener, make_ref<SeccompListener>());
        TRY(file, make_listener_file(filter->listener));
        TRY(fd, task.files->reserve());
    }
    auto result = stack_and_attach(filter, flags);
    if (!listens)
        return result;
    if (!result || *result != 0) {
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
    if (task.seccomp == nullptr) // so it is with tasks of the kernel, which have no process
        return;
    SeccompFilter* old = nullptr;
    {
        // /proc/PID/status counts them under the lock.
        SpinGuard guard(task.process->signal_lock);
        old = std::exchange(task.seccomp, nullptr);
    }
    give_up(old);
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
