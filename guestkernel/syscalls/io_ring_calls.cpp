// io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
#include "guestkernel/syscalls/io_ring_calls.hpp"

#include <linux/errno.h>
#include <linux/io_uring.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/time_values.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

namespace {

constexpr u32 most_entries = 32768;
constexpr u32 known_setup = IORING_SETUP_IOPOLL | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF |
                            IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_ATTACH_WQ |
                            IORING_SETUP_R_DISABLED | IORING_SETUP_SUBMIT_ALL |
                            IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                            IORING_SETUP_SQE128 | IORING_SETUP_CQE32 | IORING_SETUP_SINGLE_ISSUER |
                            IORING_SETUP_DEFER_TASKRUN;
constexpr u32 known_enter = IORING_ENTER_GETEVENTS | IORING_ENTER_SQ_WAKEUP | IORING_ENTER_SQ_WAIT |
                            IORING_ENTER_EXT_ARG | IORING_ENTER_REGISTERED_RING;
constexpr u32 features =
    IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE |
    IORING_FEAT_RW_CUR_POS | IORING_FEAT_CUR_PERSONALITY | IORING_FEAT_FAST_POLL |
    IORING_FEAT_POLL_32BITS | IORING_FEAT_SQPOLL_NONFIXED | IORING_FEAT_EXT_ARG |
    IORING_FEAT_NATIVE_WORKERS | IORING_FEAT_CQE_SKIP | IORING_FEAT_LINKED_FILE;

// IORING_REGISTER_RING_FDS: a task's rings by index.
struct RegisteredRings : RefCounted {
    static constexpr usize capacity = 16; // IO_RINGFD_REG_MAX
    Ref<File> files[capacity];
};

u32 power_of_two(u32 value) {
    u32 power = 1;
    while (power < value)
        power *= 2;
    return power;
}

Result<IoRing::Limits> choose_limits(u32 entries, const io_uring_params& parameters) {
    const u32 flags = parameters.flags;
    const auto has = [&](u32 flag) { return (flags & flag) != 0; };
    for (const auto word : parameters.resv)
        if (word != 0)
            return fail(EINVAL);
    if ((flags & ~known_setup) != 0 || entries == 0)
        return fail(EINVAL);
    if (entries > most_entries) {
        if (!has(IORING_SETUP_CLAMP))
            return fail(EINVAL);
        entries = most_entries;
    }
    if (has(IORING_SETUP_SQ_AFF) && !has(IORING_SETUP_SQPOLL))
        return fail(EINVAL);
    const bool runs = has(IORING_SETUP_COOP_TASKRUN) || has(IORING_SETUP_DEFER_TASKRUN);
    if (has(IORING_SETUP_SQPOLL) && (runs || has(IORING_SETUP_TASKRUN_FLAG)))
        return fail(EINVAL);
    if (has(IORING_SETUP_TASKRUN_FLAG) && !runs)
        return fail(EINVAL);
    if (has(IORING_SETUP_DEFER_TASKRUN) && !has(IORING_SETUP_SINGLE_ISSUER))
        return fail(EINVAL);
    IoRing::Limits limits{power_of_two(entries), 0, flags};
    limits.completions = 2 * limits.entries;
    if (has(IORING_SETUP_CQSIZE)) {
        u32 wanted = parameters.cq_entries;
        if (wanted == 0)
            return fail(EINVAL);
        if (wanted > 2 * most_entries) {
            if (!has(IORING_SETUP_CLAMP))
                return fail(EINVAL);
            wanted = 2 * most_entries;
        }
        limits.completions = power_of_two(wanted);
        if (limits.completions < limits.entries)
            return fail(EINVAL);
    }
    return limits;
}

void describe_layout(const IoRing& ring, io_uring_params& out) {
    out.sq_entries = ring.limits.entries;
    out.cq_entries = ring.limits.completions;
    out.features = features;
    out.sq_off = {};
    out.sq_off.head = IoRing::sq_head;
    out.sq_off.tail = IoRing::sq_tail;
    out.sq_off.ring_mask = IoRing::sq_mask;
    out.sq_off.ring_entries = IoRing::sq_entries;
    out.sq_off.flags = IoRing::sq_flags;
    out.sq_off.dropped = IoRing::sq_dropped;
    out.sq_off.array = static_cast<u32>(ring.array_offset());
    out.cq_off = {};
    out.cq_off.head = IoRing::cq_head;
    out.cq_off.tail = IoRing::cq_tail;
    out.cq_off.ring_mask = IoRing::cq_mask;
    out.cq_off.ring_entries = IoRing::cq_entries;
    out.cq_off.overflow = IoRing::cq_overflow;
    out.cq_off.cqes = IoRing::completions_offset;
    out.cq_off.flags = IoRing::cq_flags;
}

Result<Ref<File>> ring_file(Task& task, u32 number, bool registered) {
    if (registered) {
        auto* rings = static_cast<RegisteredRings*>(task.io_rings.get());
        if (rings == nullptr || number >= RegisteredRings::capacity)
            return fail(EINVAL);
        if (!rings->files[number])
            return fail(EBADF);
        return rings->files[number];
    }
    TRY(Ref<File> file, usable_file(task, static_cast<int>(number)));
    if (file_as<IoRingFile>(*file) == nullptr)
        return fail(EOPNOTSUPP);
    return file;
}

struct Waiting {
    u64 deadline = no_deadline;
    u64 mask = 0, mask_size = 0;
};

Result<Waiting> waiting_of(u32 flags, u64 argument, u64 size) {
    Waiting out;
    if ((flags & IORING_ENTER_EXT_ARG) == 0) {
        out.mask = argument;
        out.mask_size = size;
        return out;
    }
    if (size != sizeof(io_uring_getevents_arg))
        return fail(EINVAL);
    TRY(const auto given, UserPtr<const io_uring_getevents_arg>(argument).copy_in());
    if (given.pad != 0)
        return fail(EINVAL);
    out.mask = given.sigmask;
    out.mask_size = given.sigmask_sz;
    if (given.ts != 0) {
        TRY(const u64 ns, copy_in_timespec(given.ts));
        out.deadline = monotonic_ns() + ns;
    }
    return out;
}

Result<long> wait_for_completions(Task& task, IoRing& ring, u32 least, u64 deadline) {
    if (least > ring.limits.completions)
        least = ring.limits.completions;
    const bool own = ring.owner == task.process;
    const auto enough = [&] {
        return ring.completions() >= least || (ring.overflowed() && least != 0);
    };
    if (own)
        ring.entered.fetch_add(1);
    int error = 0;
    for (;;) {
        if (own)
            ring.process_ready();
        ring.flush_overflow();
        if (enough())
            break;
        const auto outcome = wait_until(
            ring.entrants, [&] { return enough() || (own && ring.has_ready()) || ring.dead; },
            deadline);
        if (outcome == WaitOutcome::Interrupted)
            error = EINTR;
        if (outcome == WaitOutcome::TimedOut)
            error = ETIME;
        if (error != 0 || ring.dead)
            break;
    }
    if (own) {
        ring.entered.fetch_sub(1);
        if (ring.has_ready())
            ring.work_waiters.wake_all();
    }
    if (error != 0 && ring.completions() == 0)
        return fail(error);
    return 0;
}

Result<long> get_events(Task& task, IoRing& ring, u32 least, const Waiting& waiting) {
    if (waiting.mask != 0) {
        if (waiting.mask_size != sizeof(u64))
            return fail(EINVAL);
        TRY(const u64 bits, UserPtr<const u64>(waiting.mask).copy_in());
        set_temporary_mask(bits);
    }
    auto result = wait_for_completions(task, ring, least, waiting.deadline);
    if (waiting.mask != 0)
        finish_temporary_mask(!result && result.error().code == EINTR);
    return result;
}

Result<long> register_rings(Task& task, u64 argument, u32 count, bool add) {
    if (count == 0 || count > RegisteredRings::capacity)
        return fail(EINVAL);
    if (!task.io_rings) {
        TRY(Ref<RegisteredRings> fresh, make_ref<RegisteredRings>());
        task.io_rings = std::move(fresh);
    }
    auto& rings = *static_cast<RegisteredRings*>(task.io_rings.get());
    long done = 0;
    for (u32 i = 0; i < count; i++) {
        const auto one = [&]() -> Result<void> {
            const UserPtr<io_uring_rsrc_update> at(argument +
                                                   u64{i} * sizeof(io_uring_rsrc_update));
            TRY(auto item, at.copy_in());
            if (item.resv != 0)
                return fail(EINVAL);
            if (!add) {
                if (item.data != 0 || item.offset >= RegisteredRings::capacity)
                    return fail(EINVAL);
                rings.files[item.offset] = nullptr;
                return {};
            }
            TRY(Ref<File> file, ring_file(task, static_cast<u32>(item.data), false));
            if (item.offset == ~u32{0})
                for (item.offset = 0;
                     item.offset < RegisteredRings::capacity && rings.files[item.offset];)
                    item.offset++;
            if (item.offset >= RegisteredRings::capacity)
                return fail(EINVAL);
            if (rings.files[item.offset])
                return fail(EBUSY);
            rings.files[item.offset] = std::move(file);
            return at.copy_out(item);
        }();
        if (!one)
            return done != 0 ? Result<long>(done) : Result<long>(fail(one.error().code));
        done++;
    }
    return done;
}

} // namespace

Result<long> sys_io_uring_setup(Task& task, u32 entries, u64 address) {
    const UserPtr<io_uring_params> user(address);
    TRY(io_uring_params parameters, user.copy_in());
    TRY(const IoRing::Limits limits, choose_limits(entries, parameters));
    if ((limits.flags & IORING_SETUP_ATTACH_WQ) != 0)
        TRY(ring_file(task, parameters.wq_fd, false));
    const bool on_cpu = (limits.flags & IORING_SETUP_SQ_AFF) != 0;
    if (on_cpu && parameters.sq_thread_cpu >= arch::cpu_count())
        return fail(EINVAL);
    TRY(Ref<IoRing> ring, IoRing::make(limits));
    ring->disabled = ring->has(IORING_SETUP_R_DISABLED);
    if (!ring->disabled && ring->has(IORING_SETUP_SINGLE_ISSUER))
        ring->issuer = &task;
    describe_layout(*ring, parameters);
    TRY(Ref<Inode> inode, make_anonymous_inode(0600));
    constexpr u32 read_write = 2;
    TRY(Ref<IoRingFile> file, make_ref<IoRingFile>(std::move(inode), read_write, ring));
    TRY(const int fd, task.files->reserve());
    auto started = user.copy_out(parameters);
    if (started && (limits.flags & IORING_SETUP_SQPOLL) != 0)
        started = ring->start_submitter(parameters.sq_thread_idle,
                                        on_cpu ? i64{parameters.sq_thread_cpu} : -1);
    if (!started) {
        task.files->unreserve(fd);
        return fail(started.error().code);
    }
    task.files->fill(fd, Ref<File>(std::move(file)), true);
    return fd;
}

Result<long> sys_io_uring_enter(Task& task, u32 number, u32 count, u32 least, u32 flags,
                                u64 argument, u64 size) {
    if ((flags & ~known_enter) != 0)
        return fail(EINVAL);
    TRY(Ref<File> file, ring_file(task, number, (flags & IORING_ENTER_REGISTERED_RING) != 0));
    IoRing& ring = *static_cast<IoRingFile&>(*file).ring();
    if (ring.disabled)
        return fail(EBADFD);
    if (ring.dead)
        return fail(EOWNERDEAD);
    long submitted = 0;
    if ((ring.limits.flags & IORING_SETUP_SQPOLL) != 0) {
        if ((flags & IORING_ENTER_SQ_WAKEUP) != 0)
            ring.wake_submitter();
        if ((flags & IORING_ENTER_SQ_WAIT) != 0)
            (void)wait_until(ring.waiters,
                             [&] { return ring.unsubmitted() < ring.limits.entries || ring.dead; });
        submitted = count;
    } else if (count != 0) {
        if (ring.belongs_to_other(task))
            return fail(EEXIST);
        TRY(submitted, ring.submit(count));
        if (submitted != static_cast<long>(count))
            return submitted;
    }
    if ((flags & IORING_ENTER_GETEVENTS) != 0) {
        const auto waited = [&]() -> Result<long> {
            // Its requests go on in the issuer's context only.
            if (ring.has(IORING_SETUP_DEFER_TASKRUN) && ring.belongs_to_other(task))
                return fail(EEXIST);
            TRY(const Waiting waiting, waiting_of(flags, argument, size));
            return get_events(task, ring, least, waiting);
        }();
        if (!waited && submitted == 0)
            return fail(waited.error().code);
    }
    return submitted;
}

Result<long> sys_io_uring_register(Task& task, u32 number, u32 operation, u64 argument, u32 count) {
    TRY(Ref<File> file, ring_file(task, number, false));
    if (operation == IORING_REGISTER_RING_FDS || operation == IORING_UNREGISTER_RING_FDS)
        return register_rings(task, argument, count, operation == IORING_REGISTER_RING_FDS);
    IoRing& ring = *static_cast<IoRingFile&>(*file).ring();
    if (ring.dead)
        return fail(ENXIO);
    if (ring.belongs_to_other(task))
        return fail(EEXIST);
    return ring.register_resource(task, operation, argument, count);
}

} // namespace kernel
