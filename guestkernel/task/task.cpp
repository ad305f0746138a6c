#include "guestkernel/task/task.hpp"

#include "guestkernel/cgroup/cgroup.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/sched/deadline.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/trace/seccomp.hpp"

namespace kernel {

namespace {

constexpr u64 stack_pages = arch::kernel_stack_size / page_size;

struct KernelStart {
    void (*entry)(void*);
    void* argument;
};

void run_kernel_task(void* raw) {
    finish_first_switch();
    const KernelStart start = *static_cast<KernelStart*>(raw);
    delete static_cast<KernelStart*>(raw);
    start.entry(start.argument);
    schedule_dead();
}

void copy_name(char (&to)[16], const char* from) {
    usize i = 0;
    for (; from[i] != '\0' && i < sizeof to - 1; i++)
        to[i] = from[i];
    to[i] = '\0';
}

} // namespace

Task::Task() = default;

Task::~Task() {
    ASSERT(!queued);
    release_seccomp(*this);
    if (address_space && address_space->drop_user()) // it never ran
        address_space->release_memory();
    delete deadline_server; // its timer may be under way: before anything of the task is gone
    delete signals;
    if (account)
        account->tasks.fetch_sub(1);
    if (context.fpu != nullptr)
        kfree(context.fpu);
    if (context.kernel_stack != nullptr)
        free_kernel_stack(context.kernel_stack);
    if (stack_owner != 0)
        uncharge_frames(stack_owner, stack_pages, FrameKind::Stack);
    if (process != nullptr)
        process->release();
}

Result<Ref<Task>> allocate_task(bool user) {
    TRY(Ref<Task> task, make_ref<Task>());
    task->context.kernel_stack = alloc_kernel_stack();
    if (task->context.kernel_stack == nullptr)
        return fail(enomem);
    if (user) {
        task->context.fpu = kmalloc(arch::fpu_state_size());
        task->signals = new (std::nothrow) SignalState();
        if (task->context.fpu == nullptr || task->signals == nullptr)
            return fail(enomem);
        task->context.has_user_state = true;
        if (const u16 owner = current_memory_owner(); owner != 0) {
            if (!charge_frames(owner, stack_pages, true, Charge::Try))
                return fail(enomem);
            task->stack_owner = owner;
            note_frame_kind(owner, FrameKind::Stack, stack_pages);
        }
    }
    task->start_time_ns = monotonic_ns();
    return task;
}

Result<void> run_as_kernel_task(Task& task, const char* name, void (*entry)(void*),
                                void* argument) {
    auto* start = new (std::nothrow) KernelStart{entry, argument};
    if (start == nullptr)
        return fail(enomem);
    task.is_kernel = true;
    copy_name(task.name, name);
    arch::init_kernel_stack(task, run_kernel_task, start);
    task.add_ref(); // the scheduler's, dropped when the task is dead
    start_task(task);
    return {};
}

Result<Ref<Task>> start_kernel_task(const char* name, void (*entry)(void*), void* argument) {
    TRY(Ref<Task> task, allocate_task(false));
    TRY(run_as_kernel_task(*task, name, entry, argument));
    return task;
}

} // namespace kernel
