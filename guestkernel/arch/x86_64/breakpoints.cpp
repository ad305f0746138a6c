// Hardware breakpoints of programs: Intel SDM 3B, 18.2.
#include "base/atomic.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/cpuid.hpp"
#include "guestkernel/arch/x86_64/cpu_area.hpp"
#include "guestkernel/arch/x86_64/machine.hpp"
#include "guestkernel/arch/x86_64/privileged.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::arch {
namespace {

constexpr u64 control_always = 0x400, status_idle = 0xffff0ff0;
constexpr Breakpoints no_breakpoints = {{}, control_always};

enum class Tried : u8 { No, Work, Fail };
constinit base::Atomic<Tried> tried{Tried::No};

// Some hypervisors take breakpoints and never report one, or forget them at the next exit. So one
// is set on a word of the program's stack, which is written with what it holds.
Tried try_one() {
    Task& task = current_task();
    const u64 place = user_frame(task).rsp & ~u64{3};
    u32 word = 0, found = 0;
    if (place >= user_max || copy_from_user(&word, place, sizeof word) != 0 ||
        !compare_exchange_user(place, word, word, found))
        return Tried::No;
    constexpr u64 four_bytes_written = 0xd0002;
    const Breakpoints one = {{place}, control_always | four_bytes_written};
    task.faults_disabled++; // nothing else may run here meanwhile
    load_breakpoints(&one);
    CpuArea& area = cpu_area(cpu_id());
    area.debug_status = status_idle;
    (void)cpuid(0); // an exit to the hypervisor
    const bool written = compare_exchange_user(place, found, found, word);
    const u64 status = __atomic_load_n(&area.debug_status, __ATOMIC_RELAXED);
    load_breakpoints(nullptr);
    task.faults_disabled--;
    if (!written)
        return Tried::No;
    return (status & 1) != 0 ? Tried::Work : Tried::Fail;
}

} // namespace

bool breakpoints_work() {
    if (tried.load() == Tried::No) {
        const Tried answer = try_one();
        if (answer == Tried::No)
            return false; // the next who asks may have a stack to try it on
        tried.store(answer);
    }
    return tried.load() == Tried::Work;
}

void load_breakpoints(const Breakpoints* wanted) {
    const Breakpoints& set = wanted != nullptr ? *wanted : no_breakpoints;
    const unsigned cpu = cpu_id();
    if (CpuArea& area = cpu_area(cpu); area.catches_breakpoints == 0) {
        area.catches_breakpoints = 1;
        catch_breakpoints(cpu);
    }
    if (ring3_mode) {
        u64 op = reinterpret_cast<u64>(joey_op_debug);
        asm volatile("int3" : "+a"(op) : "d"(&set) : "memory", "cc");
        return;
    }
    asm volatile("mov %0, %%db0\n\t"
                 "mov %1, %%db1\n\t"
                 "mov %2, %%db2\n\t"
                 "mov %3, %%db3\n\t"
                 "mov %4, %%db6\n\t"
                 "mov %5, %%db7"
                 :
                 : "r"(set.addresses[0]), "r"(set.addresses[1]), "r"(set.addresses[2]),
                   "r"(set.addresses[3]), "r"(status_idle), "r"(set.control)
                 : "memory");
}

} // namespace kernel::arch
