// What entry.S calls: exceptions and interrupts.
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/crash.hpp"
#include "guestkernel/arch/x86_64/privileged.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::arch {

namespace {

struct UserFixup {
    u64 at, to;
};
extern "C" const UserFixup __user_fixups_start[], __user_fixups_end[];
extern "C" const u8 joey_user_return_window[], joey_user_return_end[], joey_user_return[];
extern "C" const u8 joey_user_iretq[], joey_text_start[], joey_text_end[];
extern "C" const u8 joey_idle_hlt[];

constexpr u64 vector_debug = 1, vector_page_fault = 14;

const UserFixup* find_fixup(u64 rip) {
    for (const UserFixup* fixup = __user_fixups_start; fixup != __user_fixups_end; fixup++)
        if (fixup->at == rip)
            return fixup;
    return nullptr;
}

// A program can put anything in its RIP, the kernel's addresses too; entry.S decides in the same
// way.
bool from_program(u64 rip, u64 cs) {
    if (!ring3_mode)
        return (cs & 3) != 0;
    return (cs & 3) != 0 && (rip < reinterpret_cast<u64>(joey_text_start) ||
                             rip >= reinterpret_cast<u64>(joey_text_end));
}

// The IRETQ to a program faulted, with the program's registers in place. Every value of RIP, CS, SS
// and RFLAGS is checked where it comes in: this is the second line. The frame of the fault lies
// over the program's own, but for what IRETQ takes.
bool give_up_return(const TrapFrame& fault) {
    const TrapFrame registers = fault;
    TrapFrame& frame = user_frame(current_task());
    const u64 rip = frame.rip, rsp = frame.rsp, rflags = frame.rflags;
    frame = registers;
    frame.rip = rip < user_max ? rip : 0;
    frame.rsp = rsp;
    frame.rflags = rflags & ~u64{0x4000}; // nested task
    frame.cs = boot::user_code_selector, frame.ss = boot::user_data_selector;
    frame.orig_rax = ~u64{0};
    deliver_exception(frame, 13, 0, 0);
    return true;
}

// What IRETQ returns to; on IST2.
struct InterruptFrame {
    u64 rip, cs, rflags, rsp, ss;
};

struct DeviceCallback {
    u8 slot;
    void (*function)(void*);
    void* context;
};
constinit DeviceCallback device_callbacks[64] = {};
constinit unsigned device_callback_count = 0;

void serve_flush_request(CpuArea& area) {
    if (area.flush_pending.load(base::Order::Acquire) == 0)
        return;
    if (area.loaded_root == area.flush_root)
        flush_local(VirtAddr(area.flush_start), area.flush_pages);
    area.flush_pending.store(0, base::Order::Release);
}

} // namespace

void register_device_interrupt(u8 vector, void (*callback)(void*), void* context) {
    if (device_callback_count == 64)
        PANIC("too many interrupting devices");
    device_callbacks[device_callback_count++] = {static_cast<u8>(vector - boot::timer_vector),
                                                 callback, context};
}

void run_device_callbacks() {
    const u32 raised = cpu_area(cpu_id()).raised_slots.exchange(0);
    for (unsigned i = 0; i < device_callback_count; i++)
        if ((raised >> device_callbacks[i].slot & 1) != 0)
            device_callbacks[i].function(device_callbacks[i].context);
}

// Whether a program goes on, by joey_user_return; else the kernel does, with `frame`.
extern "C" bool joey_exception(TrapFrame* frame, u64 vector, u64 error_code, u64 cr2) {
    const bool from_user = from_program(frame->rip, frame->cs);
    // A gate with an IST stack may leave a null SS behind (QEMU's does, even where the ring stays
    // the same), which no IRETQ to ring 3 takes. Those through ring 0 have loaded it anew.
    if (ring3_mode && vector != vector_page_fault)
        asm volatile("mov %0, %%ss" : : "r"(u32{boot::user_data_selector}));
    if (vector == vector_page_fault) {
        const UserFixup* fixup = from_user ? nullptr : find_fixup(frame->rip);
        const u64 access = (error_code & ~fault_user) | (from_user ? fault_user : 0);
        u32 signal_code = 0;
        if (from_user || (fixup != nullptr && cr2 < user_max)) {
            if (handle_user_fault(cr2, access, from_user, signal_code))
                return from_user;
            if (from_user) {
                deliver_exception(*frame, vector_page_fault, signal_code, cr2);
                return true;
            }
        }
        if (fixup != nullptr) {
            frame->rip = fixup->to;
            return false;
        }
        crash(*frame, static_cast<u32>(vector), error_code, cr2, "page fault in the kernel");
    }
    if (from_user) {
        if (vector == vector_debug)
            error_code = cpu_area(cpu_id()).debug_status;
        deliver_exception(*frame, static_cast<u32>(vector), error_code, 0);
        return true;
    }
    if (const UserFixup* fixup = find_fixup(frame->rip); fixup != nullptr && vector == 13) {
        frame->rip = fixup->to;
        return false;
    }
    if (frame->rip == reinterpret_cast<u64>(joey_user_iretq))
        return give_up_return(*frame);
    crash(*frame, static_cast<u32>(vector), error_code, cr2, "exception in the kernel");
}

// On the interrupt stack. Takes no locks, calls nothing that could fault: it notes the work.
// Returns 1 when a program was interrupted and there is work to do before it goes on, 2 when HLT
// was (ring-3 mode), else 0.
extern "C" u32 joey_interrupt(u64 slot, InterruptFrame* frame, u64 area_address) {
    // SAFETY: entry.S passes this CPU's area.
    auto& area = *reinterpret_cast<CpuArea*>(area_address + boot::cpu_area_data);
    constexpr u64 timer_slot = 0, reschedule_slot = 1, call_slot = 2;
    if (ring3_mode && (frame->cs & 3) == 3)
        frame->ss = boot::user_data_selector; // it may be null: see joey_exception()
    if (slot == timer_slot) {
        area.work.fetch_or(1u << (work_softirq_shift + static_cast<u32>(Softirq::Timers)));
    } else if (slot == call_slot) {
        serve_flush_request(area);
    } else if (slot != reschedule_slot) {
        area.raised_slots.fetch_or(1u << slot);
        area.work.fetch_or(1u << (work_softirq_shift + static_cast<u32>(Softirq::Devices)));
    }
    if (from_program(frame->rip, frame->cs))
        return area.work.load(base::Order::Relaxed) != 0 ? 1 : 0;
    if (ring3_mode && (frame->cs & 3) == 0)
        return 2;
    if (frame->rip == reinterpret_cast<u64>(joey_idle_hlt))
        frame->rip++; // HLT is one byte
    const u64 window = reinterpret_cast<u64>(joey_user_return_window);
    if (frame->rip >= window && frame->rip < reinterpret_cast<u64>(joey_user_return_end) &&
        area.work.load() != 0)
        frame->rip = reinterpret_cast<u64>(joey_user_return);
    return 0;
}

extern "C" const volatile u32* joey_finish_return(TrapFrame* frame) {
    joey_return_to_user(frame);
    // SAFETY: Atomic<u32> is a plain u32 in memory; entry.S only compares it with zero.
    return reinterpret_cast<const volatile u32*>(&cpu_area(cpu_id()).work);
}

} // namespace kernel::arch
