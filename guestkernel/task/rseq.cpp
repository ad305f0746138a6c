#include "guestkernel/task/rseq.hpp"

#include <linux/errno.h>
#include <linux/rseq.h>
#include <linux/signal.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {

namespace {

// The members that every version of struct rseq begins with.
struct Record {
    u32 cpu_id_start;
    u32 cpu_id;
    u64 sequence; // struct rseq_cs of the one under way, or 0
    u32 flags;
};
constexpr u64 original_size = 32; // struct rseq, and its alignment
static_assert(offsetof(Record, sequence) == offsetof(::rseq, rseq_cs));

struct Sequence { // struct rseq_cs
    u32 version, flags;
    u64 start, length, abort;
};
static_assert(sizeof(Sequence) == sizeof(::rseq_cs));

UserPtr<u64> sequence_field(const Task& task) {
    return UserPtr<u64>(task.rseq + offsetof(Record, sequence));
}

// Leaves the sequence that RIP is in, if any. An error: the record makes no sense.
Result<void> leave_sequence(Task& task, arch::TrapFrame& frame) {
    TRY(const u64 at, sequence_field(task).copy_in());
    if (at == 0)
        return {};
    TRY(const Sequence sequence, UserPtr<const Sequence>(at).copy_in());
    if (sequence.version != 0 || sequence.flags != 0 || sequence.start >= user_max ||
        sequence.length > user_max - sequence.start || sequence.abort < sizeof(u32) ||
        sequence.abort >= user_max || sequence.abort - sequence.start < sequence.length)
        return fail(EINVAL);
    // The word in front of the handler: a forged pointer does not make any address one.
    TRY(const u32 signature, UserPtr<const u32>(sequence.abort - sizeof(u32)).copy_in());
    if (signature != task.rseq_signature)
        return fail(EINVAL);
    // Outside of it the pointer was left by a sequence that is long over.
    TRY(sequence_field(task).copy_out(0));
    if (frame.rip - sequence.start < sequence.length)
        frame.rip = sequence.abort;
    return {};
}

Result<void> tell_cpu(Task& task) {
    const u32 cpu = arch::cpu_id();
    if (task.rseq_cpu == cpu)
        return {};
    const u32 both[2] = {cpu, cpu};
    TRY(copy_out_bytes(task.rseq, both, sizeof both));
    task.rseq_cpu = cpu;
    return {};
}

void forget(Task& task) {
    task.rseq = 0;
    task.rseq_length = task.rseq_signature = 0;
    task.rseq_cpu = ~0u;
}

} // namespace

Result<void> register_rseq(u64 address, u32 length, u32 signature) {
    Task& task = current_task();
    if (task.rseq != 0) {
        if (task.rseq != address || task.rseq_length != length)
            return fail(EINVAL);
        return fail(task.rseq_signature != signature ? EPERM : EBUSY);
    }
    if (address == 0 || address % original_size != 0 || length < original_size)
        return fail(EINVAL);
    if (!user_range_ok(address, length))
        return fail(EFAULT);
    TRY(UserPtr<u64>(address + offsetof(Record, sequence)).copy_out(0));
    task.rseq = address;
    task.rseq_length = length;
    task.rseq_signature = signature;
    task.rseq_cpu = ~0u;
    __atomic_fetch_or(&task.interrupt_flags, interrupt_rseq, __ATOMIC_SEQ_CST);
    return {};
}

Result<void> unregister_rseq(u64 address, u32 length, u32 signature) {
    Task& task = current_task();
    if (task.rseq == 0 || task.rseq != address || task.rseq_length != length)
        return fail(EINVAL);
    if (task.rseq_signature != signature)
        return fail(EPERM);
    const u32 none[2] = {0, static_cast<u32>(RSEQ_CPU_ID_UNINITIALIZED)};
    TRY(copy_out_bytes(address, none, sizeof none));
    forget(task);
    return {};
}

void resume_rseq(Task& task, arch::TrapFrame& frame) {
    // First: whoever takes the CPU away during the copies below sets it again.
    __atomic_fetch_and(&task.interrupt_flags, ~interrupt_rseq, __ATOMIC_SEQ_CST);
    if (task.rseq != 0 && (!leave_sequence(task, frame) || !tell_cpu(task)))
        force_signal(SIGSEGV, SI_KERNEL, 0);
}

void abort_rseq(Task& task, arch::TrapFrame& frame) {
    if (task.rseq != 0 && !leave_sequence(task, frame))
        force_signal(SIGSEGV, SI_KERNEL, 0);
}

} // namespace kernel
