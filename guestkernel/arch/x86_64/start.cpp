// The first C++ of every CPU.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/control.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/machine.hpp"
#include "guestkernel/core/boot.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/clock.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

extern "C" {
// CPU 0's idle task runs on this stack from the first instruction on (entry.S); its base names the
// task.
alignas(arch::kernel_stack_size) u8 joey_boot_task_stack[arch::kernel_stack_size];
extern u64 joey_boot_stacks[];
using Initializer = void (*)();
extern const Initializer __init_array_start[], __init_array_end[];
}

alignas(Task) u8 boot_task_storage[sizeof(Task)];

// libfdt comes compiled with stack protectors, which read FS:0x28.
alignas(64) u8 boot_thread_area[64];

Task& make_boot_task() {
    // SAFETY: static storage of the right size and alignment, used once.
    auto* task = reinterpret_cast<Task*>(boot_task_storage);
    *reinterpret_cast<Task**>(joey_boot_task_stack) = task; // current() works from here on
    ::new (static_cast<void*>(task)) Task();
    task->context.kernel_stack = joey_boot_task_stack;
    task->is_kernel = true;
    return *task;
}

void start_first_cpu(const boot::BootBlock& block) {
    const u64 entered = arch::read_tsc();
    set_boot_block(block);
    for (const Initializer* init = __init_array_start; init != __init_array_end; init++)
        (*init)();
    Task& boot_task = make_boot_task();
    arch::set_fs_base(boot_task, reinterpret_cast<u64>(boot_thread_area));
    arch::init_cpu(block, 0);
    arch::set_kernel_stack(0, reinterpret_cast<u64>(joey_boot_task_stack) +
                                  arch::kernel_stack_size - 8);
    init_clock(block.tsc_khz, entered, block.wall_clock_ns, block.wall_clock_tsc);
    if (!read_boot_config(block))
        PANIC("the device tree is damaged");
    log::set_level(static_cast<boot::LogLevel>(boot_config().log_level));
    init_frames(block);
    arch::init_fpu();
    init_random();
    boot_kernel(); // goes on in kernel tasks
    idle_loop();
}

} // namespace

extern "C" [[noreturn]] void joey_start_cpu(const boot::BootBlock* block, u64 cpu) {
    if (cpu == 0) {
        if (block->magic != boot::boot_block_magic || block->version != boot::boot_block_version)
            for (;;) // not our VMM: nothing could be told to it
                arch::relax();
        start_first_cpu(*block);
    } else {
        arch::init_cpu(*block, static_cast<unsigned>(cpu));
    }
    idle_loop();
}

// Gives CPU n an idle task and has the VMM start it.
Result<void> arch::bring_up_cpu(unsigned cpu) {
    TRY(Ref<Task> idle, make_ref<Task>());
    void* stack = alloc_kernel_stack();
    if (stack == nullptr)
        return fail(enomem);
    idle->cpu = cpu;
    idle->is_kernel = true;
    idle->context.kernel_stack = stack;
    // SAFETY: a fresh kernel stack; its base names the task.
    *static_cast<Task**>(stack) = idle.leak(); // lives as long as the machine
    joey_boot_stacks[cpu] = reinterpret_cast<u64>(stack) + kernel_stack_size - 8;
    set_kernel_stack(cpu, joey_boot_stacks[cpu]);
    start_cpu(cpu);
    return {};
}

} // namespace kernel
