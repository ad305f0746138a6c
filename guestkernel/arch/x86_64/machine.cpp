// Setting up a CPU: descriptor tables, system call entry, local APIC. One implementation for both
// privilege modes; what differs is which code segment the gates name and how privileged
// instructions are reached (privileged.hpp).
#include "guestkernel/arch/x86_64/machine.hpp"

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/counters.hpp"
#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/offsets.hpp"
#include "guestkernel/arch/x86_64/privileged.hpp"
#include "guestkernel/arch/x86_64/speculation.hpp"
#include "guestkernel/core/panic.hpp"

namespace kernel::arch {

bool joey_ring3_mode = true;

const CounterPlaces counter_places = {
    boot::direct_map_base + boot::cpu_areas_phys + boot::cpu_area_counters, boot::cpu_area_size};

namespace {

static_assert(sizeof(TrapFrame) == FRAME_SIZE && __builtin_offsetof(TrapFrame, r11) == FRAME_R11 &&
              __builtin_offsetof(TrapFrame, rax) == FRAME_RAX &&
              __builtin_offsetof(TrapFrame, rcx) == FRAME_RCX &&
              __builtin_offsetof(TrapFrame, rflags) == FRAME_RFLAGS &&
              __builtin_offsetof(TrapFrame, rsp) == FRAME_RSP &&
              __builtin_offsetof(TrapFrame, ss) == FRAME_SS &&
              __builtin_offsetof(TrapFrame, orig_rax) == FRAME_ORIG_RAX &&
              __builtin_offsetof(TrapFrame, rip) == FRAME_RIP);
static_assert(__builtin_offsetof(CpuArea, kernel_stack_top) + boot::cpu_area_data ==
              AREA_KERNEL_STACK);
static_assert(__builtin_offsetof(CpuArea, exception_cr2) + boot::cpu_area_data == AREA_CR2);
static_assert(__builtin_offsetof(CpuArea, exception_vector) + boot::cpu_area_data == AREA_VECTOR);
static_assert(__builtin_offsetof(CpuArea, idle_rsp) + boot::cpu_area_data == AREA_IDLE_RSP);
static_assert(__builtin_offsetof(CpuArea, debug_status) + boot::cpu_area_data == AREA_DEBUG_STATUS);
static_assert(boot::direct_map_base + boot::cpu_areas_phys == AREA_BASE &&
              boot::cpu_area_size == AREA_SIZE);
static_assert((boot::direct_map_base + boot::cpu_areas_phys) % AREA_SIZE == 0);

extern "C" {
extern const u8 joey_exception_entries[], joey_debug_stub[], joey_debug_exception[],
    joey_page_fault_stub[], joey_page_fault_ring3[], joey_page_fault_ring0[], joey_nucleus[],
    joey_breakpoint_ring3[], joey_interrupt_stubs[], joey_interrupt_entries_ring3[],
    joey_interrupt_entries_ring0[], joey_syscall_stubs[], joey_syscall_forward_stubs[],
    joey_syscall_continue_stubs[], joey_syscall_probe[];
struct SyscallSlot {
    u64 user_rsp, kernel_stack_top;
};
extern SyscallSlot joey_syscall_slots[];
extern u64 joey_forward_frames[][5];
extern u8 joey_smap_on, joey_sysret_on;
}

constexpr u32 msr_star = 0xc0000081, msr_lstar = 0xc0000082, msr_sfmask = 0xc0000084;
constexpr u32 msr_x2apic_spurious = 0x80f, msr_x2apic_lvt_timer = 0x832,
              msr_x2apic_task_priority = 0x808;
constexpr u64 flag_trap = 0x100, flag_interrupt = 0x200, flag_direction = 0x400,
              flag_nested = 0x4000, flag_alignment = 0x40000;

enum class GateRing : u8 { Ring0, Kernel };
constexpr u8 interrupt_gate = 0xe, trap_gate = 0xf;

struct Gate {
    u64 low, high;
};

bool syscall_enters_ring0 = false;

Gate make_gate(const u8* handler, u16 selector, u8 ist, u8 type, u8 dpl) {
    const u64 address = reinterpret_cast<u64>(handler);
    return {(address & 0xffff) | u64{selector} << 16 | u64{ist} << 32 |
                u64{static_cast<u8>(0x80 | dpl << 5 | type)} << 40 | (address >> 16 & 0xffff) << 48,
            address >> 32};
}

u64 area_base(unsigned cpu) {
    return boot::direct_map_base + boot::cpu_areas_phys + cpu * boot::cpu_area_size;
}

// SAFETY (here and below): `base` is this CPU's area in the direct map; offsets lie inside its 32
// KiB.
void put64(u64 address, u64 value) {
    *reinterpret_cast<u64*>(address) = value;
}

void put_frame(u64 at, const u8* rip, u64 rsp, u64 flags = flag_interrupt) {
    put64(at, reinterpret_cast<u64>(rip));
    put64(at + 8, boot::user_code_selector);
    put64(at + 16, flags | 2);
    put64(at + 24, rsp);
    put64(at + 32, boot::user_data_selector);
}

void write_gdt_and_tss(u64 base) {
    const u64 tss = base + boot::cpu_area_tss;
    const u64 gdt = base + boot::cpu_area_gdt;
    // The fifth, where Linux has 32-bit code of programs, stays empty: no program leaves 64-bit
    // mode. From there SYSCALL would enter ring 0 at the address in CSTAR, on CPUs of AMD, and with
    // the program's stack pointer.
    const u64 entries[9] = {0,
                            0,
                            0x00af9b000000ffff,
                            0x00cf93000000ffff,
                            0,
                            0x00cff3000000ffff,
                            0x00affb000000ffff,
                            0x67 | (tss & 0xffffff) << 16 | u64{0x8b} << 40 |
                                (tss >> 24 & 0xff) << 56,
                            tss >> 32};
    for (unsigned i = 0; i < 9; i++)
        put64(gdt + 8 * i, entries[i]);
    // The 64-bit TSS is packed: RSP0 at 4, IST1 at 0x24 (Intel SDM 3A 8.7).
    auto* words = reinterpret_cast<u32*>(tss);
    for (unsigned i = 0; i < 26; i++)
        words[i] = 0;
    const auto put = [&](unsigned offset, u64 value) {
        words[offset / 4] = static_cast<u32>(value);
        words[offset / 4 + 1] = static_cast<u32>(value >> 32);
    };
    put(0x04, base + AREA_RSP0_TOP);
    put(0x24, base + AREA_IST1_TOP);
    put(0x2c, base + AREA_IST2_TOP);
    put(0x34, base + AREA_IST3_TOP);
    put(0x3c, base + AREA_IST4_TOP);
    words[25] = 104u << 16; // no I/O bitmap
}

void write_idt(u64 base) {
    auto* idt = reinterpret_cast<Gate*>(base + boot::cpu_area_idt);
    const u16 kernel_cs = ring3_mode ? boot::user_code_selector : boot::kernel_code_selector;
    // Trap gates: the kernel runs with interrupts on (CPUs that flush each other's translations
    // wait for each other), and ring 3 could never set IF again.
    for (unsigned vector = 0; vector < 32; vector++) {
        const u8 ist = vector == 8 || vector == 2 ? 3 : 1;
        const u8 dpl = vector == 3 || vector == 4 ? 3 : 0;
        idt[vector] = make_gate(joey_exception_entries + 16 * (vector <= 21 ? vector : 15),
                                kernel_cs, ist, trap_gate, dpl);
    }
    for (unsigned vector = 32; vector < 256; vector++)
        idt[vector] = Gate{0, 0};
    if (ring3_mode) {
        idt[3] = make_gate(joey_nucleus, boot::kernel_code_selector, 0, interrupt_gate, 3);
        idt[14] = make_gate(joey_page_fault_stub, boot::kernel_code_selector, 1, interrupt_gate, 0);
        put_frame(base + AREA_IST1_TOP, joey_page_fault_ring3, base + AREA_IST1_TOP - 56);
        put_frame(base + AREA_IST1_TOP + 40, joey_breakpoint_ring3, base + AREA_IST1_TOP - 56);
    } else {
        idt[14] = make_gate(joey_page_fault_ring0, boot::kernel_code_selector, 1, trap_gate, 0);
    }
    for (unsigned slot = 0; slot < 16; slot++) {
        const u8* entry =
            (ring3_mode ? joey_interrupt_stubs : joey_interrupt_entries_ring0) + 16 * slot;
        idt[boot::timer_vector + slot] =
            make_gate(entry, boot::kernel_code_selector, 2, interrupt_gate, 0);
        put_frame(base + AREA_IST2_TOP + 40 * slot, joey_interrupt_entries_ring3 + 16 * slot,
                  base + AREA_IRQ_STACK_TOP, 0);
    }
}

// On hardware SYSCALL enters ring 0 also from a ring-3 kernel; under shadow paging without hardware
// behind it, it does not. The answer decides which entry stub LSTAR names.
bool probe_syscall() {
    write_msr(msr_star, u64{0x00230010} << 32);
    write_msr(msr_sfmask, 0);
    write_msr(msr_lstar, reinterpret_cast<u64>(joey_syscall_probe));
    u64 cs = 0;
    asm volatile("syscall" : "=a"(cs) : : "rcx", "rdx", "rsi", "r11", "memory", "cc");
    return (cs & 3) == 0;
}

void init_syscalls(unsigned cpu) {
    // Not interrupts: they have a stack of their own, so that any moment will do, the first
    // instruction too.
    constexpr u64 masked = flag_trap | flag_direction | flag_nested | flag_alignment;
    if (ring3_mode && cpu == 0)
        syscall_enters_ring0 = probe_syscall();
    const u8* entry = joey_syscall_stubs;
    u64 mask = masked;
    if (ring3_mode && syscall_enters_ring0) {
        mask |= flag_interrupt; // the ready-made frame's RFLAGS sets it again
        entry = joey_syscall_forward_stubs;
        u64* frame = joey_forward_frames[cpu];
        frame[0] = reinterpret_cast<u64>(joey_syscall_continue_stubs + 64 * cpu);
        frame[1] = boot::user_code_selector;
        frame[2] = flag_interrupt | 2;
        frame[3] = area_base(cpu) + AREA_BOOT_STACK_TOP;
        frame[4] = boot::user_data_selector;
    }
    write_msr(msr_star, u64{0x00230010} << 32);
    write_msr(msr_sfmask, mask);
    write_msr(msr_lstar, reinterpret_cast<u64>(entry + 64 * cpu));
}

// What RDTSCP and RDPID tell a program: the CPU that it runs on, as on Linux. The node, above it,
// is 0.
void number_cpu(unsigned cpu) {
    constexpr u32 leaf_extended_features = 0x8000'0001, msr_tsc_aux = 0xc0000103;
    constexpr unsigned edx_rdtscp = 27;
    if ((cpuid(leaf_extended_features).edx >> edx_rdtscp & 1) != 0)
        write_msr(msr_tsc_aux, cpu);
}

} // namespace

void init_cpu(const boot::BootBlock& block, unsigned cpu) {
    if (cpu == 0)
        ring3_mode = block.privilege == boot::Privilege::Ring3;
    const u64 base = area_base(cpu);
    CpuArea& area = cpu_area(cpu);
    area.cpu = cpu;
    area.loaded_root = boot::kernel_root_table_phys;
    write_gdt_and_tss(base);
    write_idt(base);
    init_speculation(cpu); // tries registers that may fault
    if (!ring3_mode) {
        u64 cr4 = 0;
        asm volatile("mov %%cr4, %0" : "=r"(cr4));
        joey_sysret_on = 1;
        joey_smap_on = (cr4 >> 21 & 1) != 0;
    }
    init_syscalls(cpu);
    if (!ring3_mode) // in which the register may be the host's
        number_cpu(cpu);
    write_msr(msr_x2apic_spurious, 0x1ff); // enable; spurious vector 255
    write_msr(msr_x2apic_task_priority, 0);
    write_msr(msr_x2apic_lvt_timer, 0x40000 | boot::timer_vector); // TSC-deadline mode
    area.online = 1;
    if (!ring3_mode)
        asm volatile("sti");
}

void catch_breakpoints(unsigned cpu) {
    const u64 base = area_base(cpu);
    put_frame(base + AREA_IST4_TOP, joey_debug_exception, base + AREA_IST4_TOP - 40);
    // SAFETY: the IDT in this CPU's area, as write_idt() filled it.
    auto* idt = reinterpret_cast<Gate*>(base + boot::cpu_area_idt);
    idt[1] = make_gate(joey_debug_stub, boot::kernel_code_selector, 4, interrupt_gate, 0);
}

void set_kernel_stack(unsigned cpu, u64 top) {
    cpu_area(cpu).kernel_stack_top = top;
    joey_syscall_slots[cpu].kernel_stack_top = top;
}

} // namespace kernel::arch
