#include "guestkernel/arch/hosted/hosted.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <sys/mman.h>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/counters.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/mm/memory_internal.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

void panic(const char* message, const char* file, int line) {
    std::fprintf(stderr, "kernel panic: %s (%s:%d)\n", message, file, line);
    std::abort();
}

void log::write_line(boot::LogLevel, std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

} // namespace kernel

namespace kernel::arch {

namespace {
boot::CpuCounters all_counters[boot::max_cpus];
} // namespace

const CounterPlaces counter_places = {reinterpret_cast<u64>(all_counters),
                                      sizeof(boot::CpuCounters)};

} // namespace kernel::arch

namespace kernel::hosted {
namespace {

struct Machine {
    u8* ram = nullptr;
    u64 ram_bytes = 0;
    unsigned cpus = 1;
    const u8* user_start = nullptr;
    usize user_bytes = 0;
    AddressSpace* space = nullptr;
    Counters counters;
    Meanwhile meanwhile;
};
Machine machine;
thread_local unsigned this_cpu = 0;
thread_local Task* this_task = nullptr;
thread_local PhysAddr loaded{};
thread_local bool wants_resched = false;
thread_local u32 softirqs = 0;

} // namespace

void reset(u64 ram_bytes, bool ram_is_zeroed, u64 first_frame) {
    if (machine.ram != nullptr)
        ::munmap(machine.ram, machine.ram_bytes);
    void* ram = ::mmap(nullptr, ram_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (ram == MAP_FAILED)
        PANIC("no memory for the hosted machine");
    machine = Machine{};
    machine.ram = static_cast<u8*>(ram);
    machine.ram_bytes = ram_bytes;
    loaded = PhysAddr{};
    wants_resched = false; // of whom an earlier test had run
    reset_heap_for_test();
    reset_page_cache_for_test();
    reset_page_tables_for_test();
    reset_frames_for_test();
    init_frame_range(first_frame, ram_bytes, ram_is_zeroed);
}

void set_cpu(unsigned cpu) {
    this_cpu = cpu;
}
void set_cpu_count(unsigned count) {
    machine.cpus = count;
}
void set_current(Task* task) {
    this_task = task;
}
Counters& counters() {
    return machine.counters;
}
Meanwhile& meanwhile() {
    return machine.meanwhile;
}

void register_user_range(const void* start, usize bytes) {
    machine.user_start = static_cast<const u8*>(start);
    machine.user_bytes = bytes;
}
void use_address_space(AddressSpace* space) {
    machine.space = space;
}

u64 leaf_entry(AddressSpace& space, u64 address) {
    u64 table = space.root_table().raw();
    for (unsigned level = 4; level >= 1; level--) {
        u64 entry = 0;
        std::memcpy(&entry, machine.ram + table + (address >> (12 + 9 * (level - 1)) & 511) * 8,
                    sizeof entry);
        if (level == 1 || (entry & arch::pte_present) == 0)
            return level == 1 ? entry : 0;
        table = entry & arch::pte_address;
    }
    return 0;
}

u8* access(AddressSpace& space, u64 address, u64 access_bits, u32& signal_code) {
    for (unsigned attempt = 0; attempt < 8; attempt++) {
        const u64 entry = leaf_entry(space, address);
        const bool allowed =
            (entry & arch::pte_present) != 0 && (entry & arch::pte_user) != 0 &&
            ((access_bits & arch::fault_write) == 0 || (entry & arch::pte_write) != 0) &&
            ((access_bits & arch::fault_fetch) == 0 || (entry & arch::pte_no_exec) == 0);
        if (allowed)
            return machine.ram + (entry & arch::pte_address) + address % page_size;
        machine.counters.faults++;
        const u64 error = access_bits | arch::fault_user | (entry & arch::pte_present);
        if (!space.handle_fault(VirtAddr(address), error, signal_code))
            return nullptr;
    }
    PANIC("an access faults again and again");
}

namespace {

// The kernel's view of one user byte, or null.
u8* user_byte(u64 address, bool write) {
    if (machine.space != nullptr) {
        u32 signal_code = 0;
        return access(*machine.space, address, write ? arch::fault_write : 0, signal_code);
    }
    const u64 start = reinterpret_cast<u64>(machine.user_start);
    if (address < start || address - start >= machine.user_bytes)
        return nullptr;
    return reinterpret_cast<u8*>(address);
}

// Page by page; returns what could not be done.
template <typename F>
usize for_each_part(u64 address, usize bytes, bool write, F&& function) {
    usize done = 0;
    while (done < bytes) {
        usize part = page_size - (address + done) % page_size;
        if (part > bytes - done)
            part = bytes - done;
        u8* at = user_byte(address + done, write);
        if (at == nullptr ||
            (machine.space == nullptr && user_byte(address + done + part - 1, write) == nullptr))
            break;
        function(at, done, part);
        done += part;
    }
    return bytes - done;
}

} // namespace
} // namespace kernel::hosted

namespace kernel::arch {

using namespace hosted;

unsigned cpu_id() {
    return this_cpu;
}
unsigned cpu_count() {
    return machine.cpus;
}
bool cpu_online(unsigned cpu) {
    return cpu < machine.cpus;
}
Task* current() {
    return this_task;
}
u64 read_tsc() {
    return __builtin_ia32_rdtsc();
}
bool work_pending() {
    return need_resched();
}

void halt_until_work() {
    PANIC("a hosted CPU would sleep for ever");
}
void kick_cpu(unsigned) {
    machine.counters.kicks++;
}
bool need_resched() {
    return wants_resched;
}
void set_need_resched() {
    wants_resched = true;
}
void clear_need_resched() {
    wants_resched = false;
}
void relax() {
    base::cpu_relax();
}
void raise_softirq(u32 bit, unsigned) {
    softirqs |= u32{1} << bit;
}
u32 take_softirqs() {
    const u32 pending = softirqs;
    softirqs = 0;
    return pending;
}
bool softirqs_pending() {
    return softirqs != 0;
}
void arm_timer(u64) {}
void run_device_callbacks() {}

void* phys_to_virt(PhysAddr phys) {
    return machine.ram + phys.raw();
}
PhysAddr virt_to_phys(const void* address) {
    return PhysAddr(static_cast<u64>(static_cast<const u8*>(address) - machine.ram));
}
void init_root_table(void*) {}
void load_page_table(PhysAddr root, bool force) {
    if (loaded == root && !force)
        return;
    loaded = root;
    machine.counters.table_loads++;
}
PhysAddr loaded_page_table() {
    return loaded;
}
void flush_local(VirtAddr, usize pages) {
    machine.counters.flushes++;
    machine.counters.flushed_pages += pages;
}
void flush_on_cpus(u64 cpu_mask, PhysAddr, VirtAddr, usize pages) {
    if (cpu_mask == 0)
        return;
    machine.counters.flushes++;
    machine.counters.flushed_pages += pages;
    if (const auto other = std::exchange(machine.meanwhile.flush, nullptr))
        other();
}

usize copy_from_user(void* to, u64 from, usize bytes) {
    if (bytes > 1)
        if (const auto other = std::exchange(machine.meanwhile.copy, nullptr))
            other();
    return for_each_part(from, bytes, false, [to](const u8* at, usize done, usize part) {
        std::memcpy(static_cast<u8*>(to) + done, at, part);
    });
}
usize copy_to_user(u64 to, const void* from, usize bytes) {
    return for_each_part(to, bytes, true, [from](u8* at, usize done, usize part) {
        std::memcpy(at, static_cast<const u8*>(from) + done, part);
    });
}
usize clear_user(u64 to, usize bytes) {
    return for_each_part(to, bytes, true,
                         [](u8* at, usize, usize part) { std::memset(at, 0, part); });
}
i64 copy_string_from_user(char* to, u64 from, usize capacity) {
    for (usize i = 0; i < capacity; i++) {
        const u8* at = user_byte(from + i, false);
        if (at == nullptr)
            return -1;
        to[i] = static_cast<char>(*at);
        if (to[i] == '\0')
            return static_cast<i64>(i);
    }
    return static_cast<i64>(capacity);
}
bool compare_exchange_user(u64 address, u32 expected, u32 desired, u32& found) {
    u8* at = user_byte(address, true);
    if (at == nullptr)
        return false;
    found = expected;
    __atomic_compare_exchange_n(reinterpret_cast<u32*>(at), &found, desired, false,
                                __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return true;
}

usize fpu_state_size() {
    return 512;
}
u64 fpu_features() {
    return 3; // x87 and SSE
}
void init_fpu_state(void* area) {
    std::memset(area, 0, fpu_state_size());
}
void save_fpu(Task&) {}
void restore_fpu(Task&) {}
u64 get_fs_base(Task& task) {
    return task.context.fs_base;
}
u64 get_gs_base(Task& task) {
    return task.context.gs_base;
}
void set_fs_base(Task& task, u64 base) {
    task.context.fs_base = base;
}
void set_gs_base(Task& task, u64 base) {
    task.context.gs_base = base;
}
TrapFrame& user_frame(Task&) {
    static TrapFrame frame{};
    return frame;
}
// Hosted tests run as one task on the test's own stack.
void init_kernel_stack(Task&, void (*)(void*), void*) {}
void switch_to(Task&, Task&) {
    PANIC("a hosted task cannot switch to another");
}

} // namespace kernel::arch
