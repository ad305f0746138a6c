// arch.hpp on x86-64: processors, work flags, page tables and translation flushes.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/machine.hpp"
#include "guestkernel/arch/x86_64/privileged.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::arch {

namespace {

constexpr u32 msr_x2apic_command = 0x830, msr_tsc_deadline = 0x6e0;

void send_ipi(unsigned cpu, u8 vector) {
    constexpr u64 level_assert = 1u << 14;
    write_msr(msr_x2apic_command, u64{cpu} << 32 | level_assert | vector);
}

} // namespace

Task* current() {
    u64 stack_pointer = 0;
    asm volatile("mov %%rsp, %0" : "=r"(stack_pointer));
    // SAFETY: every kernel stack is aligned to its size and holds its task's address at the base.
    return *reinterpret_cast<Task**>(stack_pointer & ~(u64{kernel_stack_size} - 1));
}

unsigned cpu_id() {
    return current()->cpu;
}
unsigned cpu_count() {
    return boot_block().cpu_count;
}
bool cpu_online(unsigned cpu) {
    return cpu < boot_block().cpu_count && cpu_area(cpu).online != 0;
}

u64 read_tsc() {
    u32 low = 0;
    u32 high = 0;
    asm volatile("rdtsc" : "=a"(low), "=d"(high));
    return u64{high} << 32 | low;
}

void relax() {
    base::cpu_relax();
}

bool work_pending() {
    return cpu_area(cpu_id()).work.load(base::Order::Relaxed) != 0;
}

void halt_until_work() {
    CpuArea& area = cpu_area(cpu_id());
    // SAFETY: Atomic<u32> is a plain u32 in memory.
    auto* flags = reinterpret_cast<volatile u32*>(&area.work);
    if (*flags == 0)
        idle_unless(flags,
                    reinterpret_cast<void*>(reinterpret_cast<u64>(&area) - boot::cpu_area_data));
}

void kick_cpu(unsigned cpu) {
    CpuArea& area = cpu_area(cpu);
    // Whoever set the bit first sends the interrupt; the CPU clears the bit before it looks for
    // work.
    const bool pending = (area.work.fetch_or(work_resched) & work_resched) != 0;
    if (!pending && cpu != cpu_id() && area.online != 0)
        send_ipi(cpu, boot::reschedule_vector);
}

bool need_resched() {
    return (cpu_area(cpu_id()).work.load(base::Order::Relaxed) & work_resched) != 0;
}
void set_need_resched() {
    cpu_area(cpu_id()).work.fetch_or(work_resched);
}
void clear_need_resched() {
    CpuArea& area = cpu_area(cpu_id());
    if ((area.work.load(base::Order::Relaxed) & work_resched) != 0)
        area.work.fetch_and(~work_resched);
}

void raise_softirq(u32 bit, unsigned cpu) {
    cpu_area(cpu).work.fetch_or(1u << (work_softirq_shift + bit));
}

u32 take_softirqs() {
    CpuArea& area = cpu_area(cpu_id());
    constexpr u32 mask = ~u32{0} << work_softirq_shift;
    if ((area.work.load(base::Order::Relaxed) & mask) == 0)
        return 0;
    return area.work.fetch_and(~mask) >> work_softirq_shift;
}

bool softirqs_pending() {
    return cpu_area(cpu_id()).work.load(base::Order::Relaxed) >> work_softirq_shift != 0;
}

void arm_timer(u64 tsc_deadline) {
    write_msr(msr_tsc_deadline, tsc_deadline);
}

void* phys_to_virt(PhysAddr phys) {
    // SAFETY: the VMM maps all of RAM and the device pages there.
    return reinterpret_cast<void*>(boot::direct_map_base + phys.raw());
}

PhysAddr virt_to_phys(const void* address) {
    const u64 raw = reinterpret_cast<u64>(address);
    if (raw >= boot::kernel_virt)
        return PhysAddr(raw - boot::kernel_virt + boot::kernel_phys);
    return PhysAddr(raw - boot::direct_map_base);
}

void init_root_table(void* root) {
    const auto* kernel_half =
        static_cast<const u64*>(phys_to_virt(PhysAddr(boot::kernel_root_table_phys)));
    auto* table = static_cast<u64*>(root);
    for (unsigned i = 256; i < 512; i++)
        if (kernel_half[i] != 0)
            table[i] = kernel_half[i];
}

void load_page_table(PhysAddr root, bool force) {
    CpuArea& area = cpu_area(cpu_id());
    if (area.loaded_root == root.raw() && !force)
        return;
    // Before the load: a flush request for the new table that arrives in between is then served,
    // needlessly at worst.
    area.loaded_root = root.raw();
    write_cr3(root.raw());
}

PhysAddr loaded_page_table() {
    return PhysAddr(cpu_area(cpu_id()).loaded_root);
}

namespace {

u64 read_loaded_root_here() {
    // On the interrupt stack current() does not work; the stack pointer still finds the CPU area
    // there.
    u64 stack_pointer = 0;
    asm volatile("mov %%rsp, %0" : "=r"(stack_pointer));
    const u64 areas = boot::direct_map_base + boot::cpu_areas_phys;
    if (stack_pointer >= areas && stack_pointer < areas + cpu_count() * boot::cpu_area_size)
        return cpu_area(static_cast<unsigned>((stack_pointer - areas) / boot::cpu_area_size))
            .loaded_root;
    return loaded_page_table().raw();
}

base::Atomic<u32> flush_lock{0};

} // namespace

void flush_local(VirtAddr start, usize pages) {
    constexpr usize full_flush_threshold = 2; // an INVLPG costs about as much as a reload of CR3
    if (pages > full_flush_threshold) {
        write_cr3(read_loaded_root_here());
        return;
    }
    for (usize i = 0; i < pages; i++)
        invalidate_page(start.raw() + i * page_size);
}

void flush_on_cpus(u64 cpu_mask, PhysAddr root, VirtAddr start, usize pages) {
    const unsigned self = cpu_id();
    // The changed entries must be visible before we look who has the table loaded: a CPU that loads
    // it after our look reads them.
    base::fence(base::Order::SeqCst);
    if ((cpu_mask >> self & 1) != 0 && loaded_page_table() == root)
        flush_local(start, pages);
    cpu_mask &= ~(u64{1} << self);
    if (cpu_mask == 0)
        return;
    // Interrupts stay on while we wait, so two CPUs that flush each other both get their answer.
    while (flush_lock.exchange(1, base::Order::Acquire) != 0)
        relax();
    u64 asked = 0;
    for (unsigned cpu = 0; cpu < cpu_count(); cpu++) {
        CpuArea& area = cpu_area(cpu);
        if ((cpu_mask >> cpu & 1) == 0 || !cpu_online(cpu) ||
            (root.raw() != 0 && area.loaded_root != root.raw()))
            continue;
        area.flush_root = root.raw();
        area.flush_start = start.raw();
        area.flush_pages = static_cast<u32>(pages > 0xffffffff ? 0xffffffff : pages);
        area.flush_pending.store(1);
        send_ipi(cpu, boot::call_vector);
        asked |= u64{1} << cpu;
    }
    for (unsigned cpu = 0; asked != 0; cpu++, asked >>= 1)
        if ((asked & 1) != 0)
            while (cpu_area(cpu).flush_pending.load(base::Order::Acquire) != 0)
                relax();
    flush_lock.store(0, base::Order::Release);
}

} // namespace kernel::arch
