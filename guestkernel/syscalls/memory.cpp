// man section 2: mmap, munmap, mprotect, mremap, madvise, brk, msync, mincore, mlock, memfd_create,
// membarrier, pkey_*.
#include <asm/errno.h>
#include <asm/resource.h>
#include <linux/fcntl.h>
#include <linux/membarrier.h>
#include <linux/memfd.h>
#include <linux/mman.h>
#include <linux/personality.h>

#include "guestkernel/fs/secret_memory.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/address_space.hpp"
#include "guestkernel/syscalls/memory_calls.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {
namespace {

constexpr u32 type_mask = MAP_TYPE;
// The flags that MAP_SHARED_VALIDATE knows; others are EOPNOTSUPP with it and ignored without.
constexpr u32 known_map_flags =
    MAP_SHARED | MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_DENYWRITE | MAP_EXECUTABLE |
    MAP_UNINITIALIZED | MAP_GROWSDOWN | MAP_LOCKED | MAP_NORESERVE | MAP_POPULATE | MAP_NONBLOCK |
    MAP_STACK | MAP_HUGETLB | (MAP_HUGE_MASK << MAP_HUGE_SHIFT) | MAP_32BIT | MAP_FIXED_NOREPLACE;

// mmap(2): READ_IMPLIES_EXEC of personality(2).
u32 effective_protection(const Task& task, u32 protection) {
    if ((protection & PROT_READ) != 0 && (task.personality & READ_IMPLIES_EXEC) != 0)
        protection |= PROT_EXEC;
    return protection;
}

} // namespace

Result<long> sys_mmap(Task& task, u64 address, u64 length, u32 protection, u32 flags, int fd,
                      u64 offset) {
    if (offset % page_size != 0)
        return fail(EINVAL);
    MapRequest request;
    const u32 type = flags & type_mask;
    if ((flags & MAP_ANONYMOUS) == 0) {
        TRY(request.file, task.files->get(fd));
        if (request.file->flags() & O_PATH)
            return fail(EBADF);
        if (type == MAP_SHARED_VALIDATE && (flags & ~(known_map_flags | type_mask)) != 0)
            return fail(EOPNOTSUPP);
        request.offset = offset;
        TRY(request.file, request.file->mapped_file(request.offset, page_up(length)));
    } else if (type == MAP_SHARED_VALIDATE) {
        return fail(EINVAL);
    }
    if (type != MAP_SHARED && type != MAP_PRIVATE && type != MAP_SHARED_VALIDATE)
        return fail(EINVAL);
    if (length == 0)
        return fail(EINVAL);
    if (length > user_max)
        return fail(ENOMEM);
    if ((flags & MAP_HUGETLB) != 0)
        return fail((flags & MAP_ANONYMOUS) != 0 ? ENOMEM
                                                 : EINVAL); // the pool of huge pages is empty
    request.length = page_up(length);
    // The largest file ends where a signed 64-bit offset does.
    if (request.offset + request.length > ~u64{0} >> 1)
        return fail(EOVERFLOW);
    request.hint = VirtAddr(address);
    request.protection = effective_protection(task, protection);
    request.flags =
        (flags & ~type_mask) | (type == MAP_PRIVATE ? u32{MAP_PRIVATE} : u32{MAP_SHARED});
    TRY(const VirtAddr mapped, task.address_space->map(request));
    return static_cast<long>(mapped.raw());
}

Result<long> sys_munmap(Task& task, u64 address, u64 length) {
    TRY(task.address_space->unmap(VirtAddr(address), length));
    return 0;
}

Result<long> sys_mprotect(Task& task, u64 address, u64 length, u32 protection) {
    constexpr u32 grows = PROT_GROWSDOWN | PROT_GROWSUP;
    if ((protection & grows) == grows ||
        (protection & ~(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM | grows)) != 0)
        return fail(EINVAL);
    TRY(task.address_space->protect(VirtAddr(address), length,
                                    effective_protection(task, protection)));
    return 0;
}

Result<long> sys_mremap(Task& task, u64 address, u64 old_length, u64 new_length, u32 flags,
                        u64 new_address) {
    TRY(const VirtAddr moved, task.address_space->remap(VirtAddr(address), old_length, new_length,
                                                        flags, VirtAddr(new_address)));
    return static_cast<long>(moved.raw());
}

Result<long> sys_madvise(Task& task, u64 address, u64 length, int advice) {
    TRY(task.address_space->advise(VirtAddr(address), length, advice));
    return 0;
}

Result<long> sys_brk(Task& task, u64 address) {
    return static_cast<long>(task.address_space->set_break(VirtAddr(address)).raw());
}

Result<long> sys_msync(Task& task, u64 address, u64 length, int flags) {
    TRY(task.address_space->sync(VirtAddr(address), length, flags));
    return 0;
}

Result<long> sys_mincore(Task& task, u64 address, u64 length, u64 vector) {
    if (address % page_size != 0)
        return fail(EINVAL);
    if (length > user_max || address > user_max - page_up(length))
        return fail(ENOMEM);
    u8 part[256];
    u64 pages = page_up(length) >> page_shift;
    while (pages > 0) {
        const u64 count = pages < sizeof part ? pages : sizeof part;
        TRY(task.address_space->resident(VirtAddr(address), count << page_shift, part, true));
        TRY(copy_out_bytes(vector, part, count));
        address += count << page_shift;
        vector += count;
        pages -= count;
    }
    return 0;
}

Result<long> sys_mlock(Task& task, u64 address, u64 length) {
    TRY(task.address_space->lock_range(VirtAddr(address), length, true));
    return 0;
}

Result<long> sys_mlock2(Task& task, u64 address, u64 length, u32 flags) {
    if ((flags & ~u32{MLOCK_ONFAULT}) != 0)
        return fail(EINVAL);
    TRY(task.address_space->lock_range(VirtAddr(address), length, true, flags != 0));
    return 0;
}

Result<long> sys_munlock(Task& task, u64 address, u64 length) {
    TRY(task.address_space->lock_range(VirtAddr(address), length, false));
    return 0;
}

Result<long> sys_mlockall(Task& task, u32 flags) {
    if (flags == 0 || flags == MCL_ONFAULT ||
        (flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)) != 0)
        return fail(EINVAL);
    TRY(task.address_space->lock_all((flags & MCL_CURRENT) != 0, (flags & MCL_FUTURE) != 0,
                                     (flags & MCL_ONFAULT) != 0));
    return 0;
}

Result<long> sys_munlockall(Task& task) {
    TRY(task.address_space->lock_all(false, false, false));
    return 0;
}

Result<long> sys_remap_file_pages(Task& task, u64 address, u64 length, u64 protection,
                                  u64 page_offset, u32 flags) {
    address = page_down(address);
    length = page_down(length);
    const u64 pages = length >> page_shift;
    if (protection != 0 || length == 0 || address + length < address ||
        address + length > user_max || page_offset + pages < page_offset ||
        page_offset + pages > (~u64{0} >> page_shift))
        return fail(EINVAL);
    TRY(task.address_space->show_other_part(VirtAddr(address), length, page_offset << page_shift,
                                            (flags & MAP_NONBLOCK) == 0));
    return 0;
}

// The CPU that programs see has no protection keys (pkeys(7)).
Result<long> sys_pkey_mprotect(Task& task, u64 address, u64 length, u32 protection, int key) {
    if (key != -1)
        return fail(EINVAL);
    return sys_mprotect(task, address, length, protection);
}
Result<long> sys_pkey_alloc(Task&, u32 flags, u64 rights) {
    return fail(flags != 0 || (rights & ~u64{PKEY_ACCESS_MASK}) != 0 ? EINVAL : ENOSPC);
}
Result<long> sys_pkey_free(Task&, int) {
    return fail(EINVAL);
}

Result<long> sys_memfd_create(Task& task, u64 name, u32 flags) {
    constexpr u32 known = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    constexpr usize longest = 249; // NAME_MAX - strlen("memfd:"), memfd_create(2)
    if ((flags & MFD_HUGETLB) != 0)
        return fail(ENODEV);
    if ((flags & ~known) != 0)
        return fail(EINVAL);
    TRY(String full, String::from("memfd:"));
    auto given = copy_in_string(name, longest + 1);
    if (!given)
        return fail(given.error().code == ENAMETOOLONG ? EINVAL : given.error().code);
    TRY(full.append(given->view()));
    TRY(const int fd, task.files->reserve());
    auto file = make_shared_memory_file(full.view(), 0, flags);
    if (!file) {
        task.files->unreserve(fd);
        return fail(file.error().code);
    }
    task.files->fill(fd, std::move(*file), (flags & MFD_CLOEXEC) != 0);
    return fd;
}

Result<long> sys_memfd_secret(Task& task, u32 flags) {
    if ((flags & ~u32{O_CLOEXEC}) != 0)
        return fail(EINVAL);
    TRY(const int fd, task.files->reserve());
    auto file = make_secret_file();
    if (!file) {
        task.files->unreserve(fd);
        return fail(file.error().code);
    }
    task.files->fill(fd, std::move(*file), (flags & O_CLOEXEC) != 0);
    return fd;
}

namespace {

constexpr u32 membarrier_commands =
    MEMBARRIER_CMD_GLOBAL | MEMBARRIER_CMD_GLOBAL_EXPEDITED |
    MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED |
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED | MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE |
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE | MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ |
    MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;

// An interrupt, answered and waited for, orders memory; its IRETQ serializes the core.
void interrupt_cpus(u64 mask) {
    base::fence(base::Order::SeqCst);
    mask &= ~(u64{1} << arch::cpu_id());
    if (mask != 0)
        arch::flush_on_cpus(mask, PhysAddr(0), VirtAddr(0), 0);
    base::fence(base::Order::SeqCst);
}

// Restartable sequences of the process's other threads that are under way begin anew: on one CPU,
// or on all (-1).
Result<long> restart_sequences(Task& task, int cpu) {
    if ((task.address_space->membarrier_registered.load() &
         MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ) == 0)
        return fail(EPERM);
    const bool one = cpu >= 0;
    if (one && static_cast<unsigned>(cpu) >= arch::cpu_count())
        return 0; // nobody runs there
    {
        // Before the interrupt: on its way back to user mode the thread finds the mark.
        SpinGuard tree(process_tree_lock());
        for (Task& other : task.process->tasks)
            if (other.rseq != 0 && &other != &task)
                __atomic_fetch_or(&other.interrupt_flags, interrupt_rseq, __ATOMIC_SEQ_CST);
    }
    u64 running = task.address_space->active_cpus.load();
    if (one)
        running &= u64{1} << cpu;
    // A mere interrupt returns to user mode without a look at the marks.
    for (unsigned other = 0; other < arch::cpu_count(); other++)
        if ((running >> other & 1) != 0 && other != arch::cpu_id())
            arch::kick_cpu(other);
    interrupt_cpus(running);
    return 0;
}

} // namespace

Result<long> sys_membarrier(Task& task, int command, u32 flags, int cpu) {
    constexpr u32 with_cpu = MEMBARRIER_CMD_FLAG_CPU;
    if (flags != 0 && (flags != with_cpu || command != MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ))
        return fail(EINVAL);
    AddressSpace& space = *task.address_space;
    const unsigned cpus = arch::cpu_count();
    const u64 everyone = cpus >= 64 ? ~u64{0} : (u64{1} << cpus) - 1;
    switch (command) {
    case MEMBARRIER_CMD_QUERY:
        return static_cast<long>(membarrier_commands);
    case MEMBARRIER_CMD_GLOBAL:
    case MEMBARRIER_CMD_GLOBAL_EXPEDITED:
        interrupt_cpus(everyone);
        return 0;
    case MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED:
        return 0;
    case MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED:
        space.membarrier_registered.fetch_or(MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        return 0;
    case MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE:
        space.membarrier_registered.fetch_or(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE);
        return 0;
    case MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ:
        space.membarrier_registered.fetch_or(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ);
        return 0;
    case MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ:
        return restart_sequences(task, flags == with_cpu && cpu >= 0 ? cpu : -1);
    case MEMBARRIER_CMD_PRIVATE_EXPEDITED:
    case MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE:
        if ((space.membarrier_registered.load() & static_cast<u32>(command)) == 0)
            return fail(EPERM);
        interrupt_cpus(space.active_cpus.load());
        return 0;
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel
