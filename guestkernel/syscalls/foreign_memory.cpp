// man section 2: process_vm_readv, process_vm_writev, process_madvise.
#include <asm/errno.h>
#include <linux/capability.h>
#include <linux/mman.h>

#include "guestkernel/fs/io_buffer.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/memory_calls.hpp"
#include "guestkernel/task/pidfd.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {
namespace {

constexpr u64 most_vectors = 1024; // IOV_MAX
constexpr usize chunk = 16 * 1024;

struct Bounce {
    Bounce() : memory(static_cast<u8*>(kmalloc(chunk))) {}
    Bounce(const Bounce&) = delete;
    Bounce& operator=(const Bounce&) = delete;
    ~Bounce() { kfree(memory); }
    u8* memory;
};

// The other side's ranges are addresses there: nothing about them is checked beforehand.
Result<void> load_ranges(Vector<UserVector>& ranges, u64 address, u64 count) {
    if (count > most_vectors)
        return fail(EINVAL);
    TRY(ranges.resize(count));
    if (count == 0)
        return {};
    TRY(copy_in_bytes(ranges.data(), address, count * sizeof(UserVector)));
    for (const UserVector& range : ranges.span())
        if (static_cast<i64>(range.length) < 0)
            return fail(EINVAL);
    return {};
}

Result<Ref<AddressSpace>> space_of_other(i32 pid) {
    const Ref<Task> task = find_task(global_pid(pid));
    if (!task || task->is_kernel)
        return fail(ESRCH);
    // First the memory: that of a program that it executes meanwhile may be another's.
    Ref<AddressSpace> space = address_space_of(*task);
    if (!may_access(*task))
        return fail(EPERM);
    if (!space)
        return fail(ESRCH);
    return space;
}

// Moves one piece that fits the bounce buffer; fewer bytes than asked: a side ended there.
usize move_piece(AddressSpace& other, VirtAddr remote, IoBuffer& local, u8* bounce, usize bytes,
                 bool write) {
    if (!write)
        return local.copy_out(bounce, other.read_foreign(remote, bounce, bytes, false));
    const usize ready = local.copy_in(bounce, bytes);
    return other.write_foreign(remote, bounce, ready, false);
}

Result<long> transfer(i32 pid, u64 local_at, u64 local_count, u64 remote_at, u64 remote_count,
                      u64 flags, bool write) {
    if (flags != 0)
        return fail(EINVAL);
    UserVectors vectors;
    TRY(vectors.load(local_at, local_count));
    IoBuffer local(vectors.span());
    if (local.remaining() == 0)
        return 0;
    Vector<UserVector> ranges;
    TRY(load_ranges(ranges, remote_at, remote_count));
    TRY(const Ref<AddressSpace> space, space_of_other(pid));
    const Bounce bounce;
    if (bounce.memory == nullptr)
        return fail(ENOMEM);
    long done = 0;
    for (const UserVector& range : ranges.span()) {
        for (u64 at = 0; at < range.length && local.remaining() != 0;) {
            usize part = range.length - at < chunk ? range.length - at : chunk;
            part = part < local.remaining() ? part : local.remaining();
            const u64 remote = range.base + at;
            if (remote < range.base || fatal_signal_pending())
                return done != 0 ? Result<long>(done) : fail(EFAULT);
            const usize moved =
                move_piece(*space, VirtAddr(remote), local, bounce.memory, part, write);
            done += static_cast<long>(moved);
            if (moved < part)
                return done != 0 ? Result<long>(done) : fail(EFAULT);
            at += moved;
            cond_resched();
        }
    }
    return done;
}

// What one process may tell another one: hints that take nothing away (process_madvise(2)).
bool may_advise_others(int advice) {
    switch (advice) {
    case MADV_COLD:
    case MADV_PAGEOUT:
    case MADV_WILLNEED:
    case MADV_COLLAPSE:
        return true;
    default:
        return false;
    }
}

} // namespace

Result<long> sys_process_vm_readv(Task&, i32 pid, u64 local, u64 local_count, u64 remote,
                                  u64 remote_count, u64 flags) {
    return transfer(pid, local, local_count, remote, remote_count, flags, false);
}

Result<long> sys_process_vm_writev(Task&, i32 pid, u64 local, u64 local_count, u64 remote,
                                   u64 remote_count, u64 flags) {
    return transfer(pid, local, local_count, remote, remote_count, flags, true);
}

Result<long> sys_process_madvise(Task& self, int pidfd, u64 vector, u64 count, int advice,
                                 u32 flags) {
    if (flags != 0)
        return fail(EINVAL);
    Vector<UserVector> ranges;
    TRY(load_ranges(ranges, vector, count));
    TRY(const Ref<Process> process, process_of_pidfd(pidfd));
    if (process.get() != self.process && !may_advise_others(advice))
        return fail(EINVAL);
    Ref<Task> task;
    {
        SpinGuard tree(process_tree_lock());
        task = Ref<Task>::share(process->first_task());
    }
    if (!task)
        return fail(ESRCH);
    const Ref<AddressSpace> space = address_space_of(*task); // first, as in space_of_other()
    if (!may_access(*task))
        return fail(EPERM);
    if (!space)
        return fail(ESRCH);
    // The advice is for somebody else's memory: who may not nice that process may not either.
    if (process.get() != self.process && !capable(CAP_SYS_NICE))
        return fail(EPERM);
    long done = 0;
    for (const UserVector& range : ranges.span()) {
        if (auto advised = space->advise(VirtAddr(range.base), range.length, advice); !advised)
            return done != 0 ? Result<long>(done) : fail(advised.error().code);
        done += static_cast<long>(range.length);
    }
    return done;
}

} // namespace kernel
