// arch.hpp on x86-64: kernel stacks, task switches, FPU state, segment bases, user memory.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/machine.hpp"
#include "guestkernel/arch/x86_64/offsets.hpp"
#include "guestkernel/arch/x86_64/speculation.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::arch {

namespace {

constinit usize fpu_size = 0;
constinit u64 fpu_mask = 0; // XCR0

extern "C" {
void joey_switch_stacks(u64* save_rsp, u64 load_rsp);
extern const u8 joey_task_start[];
usize joey_copy_user(void* to, const void* from, usize bytes);
usize joey_clear_user(void* to, usize bytes);
i64 joey_copy_string(char* to, const char* from, usize capacity);
u32 joey_compare_exchange_user(u32* address, u32 expected, u32 desired, u32* found);
}

void xsave(void* area) {
    asm volatile("xsave64 (%0)"
                 :
                 : "r"(area), "a"(static_cast<u32>(fpu_mask)), "d"(static_cast<u32>(fpu_mask >> 32))
                 : "memory");
}
void xrstor(const void* area) {
    asm volatile("xrstor64 (%0)"
                 :
                 : "r"(area), "a"(static_cast<u32>(fpu_mask)), "d"(static_cast<u32>(fpu_mask >> 32))
                 : "memory");
}
u64 read_fs() {
    u64 value = 0;
    asm volatile("rdfsbase %0" : "=r"(value));
    return value;
}
u64 read_gs() {
    u64 value = 0;
    asm volatile("rdgsbase %0" : "=r"(value));
    return value;
}
void write_fs(u64 value) {
    asm volatile("wrfsbase %0" : : "r"(value));
}
void write_gs(u64 value) {
    asm volatile("wrgsbase %0" : : "r"(value));
}

} // namespace

void init_fpu() {
    u32 low = 0;
    u32 high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    fpu_mask = u64{high} << 32 | low;
    fpu_size = (cpuid(0xd).ebx + 63) & ~63u; // for what XCR0 enables
}

usize fpu_state_size() {
    return fpu_size;
}

u64 fpu_features() {
    return fpu_mask;
}

void init_fpu_state(void* area) {
    auto* bytes = static_cast<u8*>(area);
    for (usize i = 0; i < fpu_size; i++)
        bytes[i] = 0;
    // Intel SDM 1 13.4: FCW and MXCSR as after FNINIT; XSTATE_BV = 0 means initial state for all,
    // MXCSR excepted.
    bytes[0] = 0x7f;
    bytes[1] = 0x03;
    bytes[24] = 0x80;
    bytes[25] = 0x1f;
}

void save_fpu(Task& task) {
    if (task.context.has_user_state && &task == current())
        xsave(task.context.fpu);
}
void restore_fpu(Task& task) {
    if (task.context.has_user_state && &task == current())
        xrstor(task.context.fpu);
}
void set_fs_base(Task& task, u64 base) {
    task.context.fs_base = base;
    if (&task == current())
        write_fs(base);
}
void set_gs_base(Task& task, u64 base) {
    task.context.gs_base = base;
    if (&task == current())
        write_gs(base);
}
u64 get_fs_base(Task& task) {
    return &task == current() ? read_fs() : task.context.fs_base;
}
u64 get_gs_base(Task& task) {
    return &task == current() ? read_gs() : task.context.gs_base;
}

TrapFrame& user_frame(Task& task) {
    // SAFETY: the frame's place at the top of the stack is fixed; entry.S builds it there.
    return *reinterpret_cast<TrapFrame*>(reinterpret_cast<u64>(task.context.kernel_stack) +
                                         kernel_stack_size - 8 - FRAME_SIZE);
}

void init_kernel_stack(Task& task, void (*entry)(void*), void* argument) {
    // SAFETY: kernel_stack is a fresh stack of kernel_stack_size bytes.
    *static_cast<Task**>(task.context.kernel_stack) = &task;
    auto* stack = reinterpret_cast<u64*>(&user_frame(task)) - 8;
    // What joey_switch_stacks pops: r15 r14 r13 r12 rbp rbx, return address.
    stack[0] = stack[1] = stack[2] = 0;
    stack[3] = reinterpret_cast<u64>(argument);
    stack[4] = 0;
    stack[5] = reinterpret_cast<u64>(entry);
    stack[6] = reinterpret_cast<u64>(joey_task_start);
    task.context.saved_rsp = reinterpret_cast<u64>(stack);
}

void switch_to(Task& from, Task& to) {
    if (from.context.has_user_state) {
        xsave(from.context.fpu);
        from.context.fs_base = read_fs();
        from.context.gs_base = read_gs();
    }
    if (to.context.has_user_state) {
        xrstor(to.context.fpu);
        write_fs(to.context.fs_base);
        write_gs(to.context.gs_base);
    }
    if (from.context.breakpoints != nullptr || to.context.breakpoints != nullptr) [[unlikely]]
        load_breakpoints(to.context.breakpoints);
    switch_speculation(to);
    set_kernel_stack(to.cpu,
                     reinterpret_cast<u64>(to.context.kernel_stack) + kernel_stack_size - 8);
    joey_switch_stacks(&from.context.saved_rsp, to.context.saved_rsp);
}

namespace {

// The caller's range check is a branch, and a CPU may guess it wrong: an address of the kernel's
// half becomes all ones, by arithmetic, so that nothing of the kernel is read on a wrong guess
// either (Spectre variant 1).
template <typename T>
T* user_pointer(u64 address) {
    u64 sign = address;
    asm volatile("sar $63, %0" : "+r"(sign) : : "cc");
    return reinterpret_cast<T*>(address | sign);
}

} // namespace

// SAFETY, for the copies: the user side was range-checked by the caller; faults there are served or
// fixed up.
usize copy_from_user(void* to, u64 from, usize bytes) {
    return joey_copy_user(to, user_pointer<const void>(from), bytes);
}
usize copy_to_user(u64 to, const void* from, usize bytes) {
    return joey_copy_user(user_pointer<void>(to), from, bytes);
}
usize clear_user(u64 to, usize bytes) {
    return joey_clear_user(user_pointer<void>(to), bytes);
}
i64 copy_string_from_user(char* to, u64 from, usize capacity) {
    return joey_copy_string(to, user_pointer<const char>(from), capacity);
}
bool compare_exchange_user(u64 address, u32 expected, u32 desired, u32& found) {
    return joey_compare_exchange_user(user_pointer<u32>(address), expected, desired, &found) != 0;
}

} // namespace kernel::arch
