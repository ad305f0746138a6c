#include "guestkernel/ipc/aio.hpp"

#include <linux/aio_abi.h>
#include <linux/errno.h>
#include <linux/fs.h>
#include <linux/mman.h>

#include "guestkernel/ipc/event_files.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/ipc/poll_hook.hpp"
#include "guestkernel/mm/shared_pages.hpp"
#include "guestkernel/sched/work.hpp"
#include "guestkernel/syscalls/aio_calls.hpp"
#include "guestkernel/syscalls/file_helpers.hpp"
#include "guestkernel/syscalls/wait_helpers.hpp"

namespace kernel {

namespace {

struct RingHeader { // struct aio_ring: libaio reads it
    u32 id, events, head, tail, magic, compatible, incompatible, header_length;
};
static_assert(sizeof(RingHeader) == 32 && sizeof(io_event) == 32);
constexpr u32 ring_magic = 0xa10a'10a1, ring_compatible = 1;
constexpr u32 largest_ring = 0x1000'0000 / sizeof(io_event);

constinit base::Atomic<u64> event_total{0};

struct AioPoll;

} // namespace

class AioContext : public RefCounted {
public:
    ~AioContext() override { event_total.fetch_sub(charged); }
    u64 id = 0;
    u32 charged = 0;
    u32 slots = 0; // of the ring; one stays empty
    Ref<SharedPages> pages;
    AioContext* next = nullptr;
    WaitQueue waiters;
    volatile bool dead = false;

    // Whether another request may be begun: its event will find room.
    bool take_slot();
    void give_back_slot();
    void complete(const io_event& event);
    usize take(std::span<io_event> out);
    bool any() { return available() != 0; }

    Mutex polls_mutex;
    AioPoll* polls = nullptr; // under polls_mutex; each holds a reference
    void cancel_all();

private:
    RingHeader& header() { return *pages->at<RingHeader>(0); }
    io_event* slot(u32 index) {
        return pages->at<io_event>(sizeof(RingHeader) + u64{index} * sizeof(io_event));
    }
    u32 available();

    SpinLock lock_{LockRank::Leaf};
    u32 tail_ = 0; // ours: what the program finds in the ring it may change
    u32 busy_ = 0; // begun and not complete
};

namespace {

// A pending IOCB_CMD_POLL.
struct AioPoll : RefCounted {
    AioPoll() : hook(&AioPoll::woken, this), work(&AioPoll::look, this) {}
    Ref<AioContext> context;
    Ref<File> file;
    Ref<File> event_file;
    io_event event{};
    u32 wanted = 0;
    PollHook hook;
    Work work;
    bool finished = false; // this, the hook and the link: under the context's polls_mutex
    AioPoll* next = nullptr;

    static bool woken(Waiter& waiter, u32 events);
    static void look(void* raw);
    void finish(u32 ready);
};

void signal_file(const Ref<File>& file) {
    if (file)
        static_cast<EventFile&>(*file).signal(1);
}

} // namespace

u32 AioContext::available() {
    // The head is the program's: any value leads to some slot of the ring, never beyond.
    const u32 head = load_shared(&header().head) % slots;
    return (tail_ + slots - head) % slots;
}

bool AioContext::take_slot() {
    SpinGuard guard(lock_);
    if (dead || busy_ + available() + 1 >= slots)
        return false;
    busy_++;
    return true;
}

void AioContext::give_back_slot() {
    SpinGuard guard(lock_);
    busy_--;
}

void AioContext::complete(const io_event& event) {
    {
        SpinGuard guard(lock_);
        busy_--;
        *slot(tail_) = event;
        tail_ = (tail_ + 1) % slots;
        store_shared(&header().tail, tail_);
    }
    waiters.wake_all();
}

usize AioContext::take(std::span<io_event> out) {
    SpinGuard guard(lock_);
    u32 head = load_shared(&header().head) % slots;
    usize count = 0;
    while (count < out.size() && head != tail_) {
        out[count++] = *slot(head);
        head = (head + 1) % slots;
    }
    store_shared(&header().head, head);
    return count;
}

void AioContext::cancel_all() {
    for (;;) {
        Ref<AioPoll> poll;
        {
            MutexGuard guard(polls_mutex);
            if (polls == nullptr)
                return;
            poll = Ref<AioPoll>::share(polls);
        }
        poll->finish(0);
    }
}

namespace {

// The first one to finish it tells and lets go.
void AioPoll::finish(u32 ready) {
    {
        MutexGuard guard(context->polls_mutex);
        if (finished)
            return;
        finished = true;
        hook.disarm();
        AioPoll** at = &context->polls;
        while (*at != this)
            at = &(*at)->next;
        *at = next;
    }
    event.res = static_cast<i64>(ready);
    context->complete(event);
    signal_file(event_file);
    release(); // the list's reference
}

bool AioPoll::woken(Waiter& waiter, u32 events) {
    auto& self = *static_cast<AioPoll*>(waiter.context);
    if (events != 0 && (events & self.wanted) == 0)
        return false;
    // The hook lives as long as a queue knows it: so does the object. The work holds another
    // reference, which its run gives up.
    self.add_ref();
    if (!queue_work(self.work))
        self.release();
    return true;
}

void AioPoll::look(void* raw) {
    auto& self = *static_cast<AioPoll*>(raw);
    const Ref<AioPoll> held = Ref<AioPoll>::adopt(&self); // queue_work()'s
    const u32 ready = self.file->poll(nullptr) & self.wanted;
    if (ready != 0)
        self.finish(ready); // else still armed
}

struct Submission {
    Task& task;
    AioContext& context;
    const iocb& request;
    Ref<File> file;
    Ref<File> event_file;
};

Result<void> check_request(const iocb& request) {
    if (request.aio_reserved2 != 0 || static_cast<i64>(request.aio_nbytes) < 0 ||
        (request.aio_flags & ~u32{IOCB_FLAG_RESFD | IOCB_FLAG_IOPRIO}) != 0)
        return fail(EINVAL);
    return {};
}

// What the request's buffer or vectors are: found wrong, it is not begun.
Result<void> load_buffers(const iocb& request, UserVectors& vectors, UserVector& one,
                          std::span<const UserVector>& span) {
    if (request.aio_lio_opcode == IOCB_CMD_PREADV || request.aio_lio_opcode == IOCB_CMD_PWRITEV) {
        TRY(vectors.load(request.aio_buf, request.aio_nbytes));
        span = vectors.span();
        return {};
    }
    if (!user_range_ok(request.aio_buf, request.aio_nbytes))
        return fail(EFAULT);
    one.base = request.aio_buf;
    one.length = request.aio_nbytes < largest_transfer ? request.aio_nbytes : largest_transfer;
    span = {&one, 1};
    return {};
}

// Errors of its being asked for are io_submit(2)'s, those of its execution the event's.
Result<void> start_poll(const Submission& it, u64 address) {
    const iocb& request = it.request;
    if (request.aio_buf > 0xffff || request.aio_offset != 0 || request.aio_nbytes != 0 ||
        request.aio_rw_flags != 0)
        return fail(EINVAL);
    TRY(start_work_queue());
    TRY(Ref<AioPoll> poll, make_ref<AioPoll>());
    poll->context = Ref<AioContext>::share(&it.context);
    poll->file = it.file;
    poll->event_file = it.event_file;
    poll->event.data = request.aio_data;
    poll->event.obj = address;
    poll->wanted = static_cast<u32>(request.aio_buf) | poll_err | poll_hup;
    u32 ready = 0;
    {
        MutexGuard guard(it.context.polls_mutex);
        if (it.context.dead)
            return fail(EINVAL);
        ready = poll->file->poll(&poll->hook) & poll->wanted;
        if (poll->hook.failed()) {
            // A queue that could be watched may have woken it already: that run is to find nothing.
            poll->finished = true;
            poll->hook.disarm();
            return fail(ENOMEM);
        }
        poll->add_ref(); // the list's
        poll->next = it.context.polls;
        it.context.polls = poll.get();
    }
    if (ready != 0)
        poll->finish(ready);
    return {};
}

Result<void> submit_one(Task& task, AioContext& context, u64 address) {
    TRY(const iocb request, UserPtr<const iocb>(address).copy_in());
    TRY(check_request(request));
    const u16 operation = request.aio_lio_opcode;
    const bool reads = operation == IOCB_CMD_PREAD || operation == IOCB_CMD_PREADV;
    const bool writes = operation == IOCB_CMD_PWRITE || operation == IOCB_CMD_PWRITEV;
    TRY(Ref<File> file, usable_file(task, static_cast<int>(request.aio_fildes)));
    Ref<File> event_file;
    if ((request.aio_flags & IOCB_FLAG_RESFD) != 0) {
        TRY(event_file, usable_file(task, static_cast<int>(request.aio_resfd)));
        if (file_as<EventFile>(*event_file) == nullptr)
            return fail(EINVAL);
    }
    if ((reads && !file->readable()) || (writes && !file->writable()))
        return fail(EBADF);
    if (!reads && !writes && operation != IOCB_CMD_FSYNC && operation != IOCB_CMD_FDSYNC &&
        operation != IOCB_CMD_POLL)
        return fail(EINVAL);
    UserVectors vectors;
    UserVector one{0, 0};
    std::span<const UserVector> span;
    if (reads || writes)
        TRY(load_buffers(request, vectors, one, span));
    // The key that io_cancel(2) will want to see.
    TRY(UserPtr<u32>(address + __builtin_offsetof(iocb, aio_key)).copy_out(0));
    if (!context.take_slot())
        return fail(EAGAIN);
    const Submission it{task, context, request, file, event_file};
    if (operation == IOCB_CMD_POLL) {
        auto started = start_poll(it, address);
        if (!started)
            context.give_back_slot();
        return started;
    }
    Result<long> result = 0;
    if (reads || writes)
        result = transfer_file(*file, span, request.aio_offset,
                               static_cast<u32>(request.aio_rw_flags), writes);
    else if (auto synced = file->sync(operation == IOCB_CMD_FDSYNC); !synced)
        result = fail(synced.error().code);
    // Orders to begin again make no sense for a request (they become EINTR).
    const int error = result ? 0 : result.error().code;
    context.complete({.data = request.aio_data,
                      .obj = address,
                      .res = result                     ? *result
                             : error >= restart_syscall ? -EINTR
                                                        : -error,
                      .res2 = 0});
    signal_file(event_file);
    return {};
}

AioTable* table_of(AddressSpace& space) {
    return static_cast<AioTable*>(space.aio.get());
}

Result<Ref<AioContext>> find_context(Task& task, u64 id) {
    Ref<AioContext> context;
    if (AioTable* table = table_of(*task.address_space))
        context = table->find(id);
    if (!context)
        return fail(EINVAL);
    return context;
}

Result<long> wait_events(Task& task, u64 id, i64 least, i64 most, u64 events, u64 deadline) {
    TRY(Ref<AioContext> context, find_context(task, id));
    if (least < 0 || most < 0 || least > most)
        return fail(EINVAL);
    i64 done = 0;
    while (done < most) {
        io_event some[16];
        const usize room = most - done < 16 ? static_cast<usize>(most - done) : 16;
        const usize got = context->take({some, room});
        if (got != 0) {
            const u64 to = events + static_cast<u64>(done) * sizeof(io_event);
            if (!copy_out_bytes(to, some, got * sizeof(io_event)))
                return done != 0 ? Result<long>(done) : Result<long>(fail(EFAULT));
            done += static_cast<i64>(got);
            continue;
        }
        if (done >= least || deadline == 0)
            break;
        const auto outcome = wait_until(
            context->waiters, [&] { return context->any() || context->dead; }, deadline);
        if (outcome == WaitOutcome::Interrupted)
            return done != 0 ? Result<long>(done) : Result<long>(fail(EINTR));
        if (outcome == WaitOutcome::TimedOut || context->dead)
            deadline = 0;
    }
    return done;
}

Result<u64> events_deadline(u64 timeout) {
    if (timeout == 0)
        return no_deadline;
    TRY(const WaitTime time, UserPtr<const WaitTime>(timeout).copy_in());
    return deadline_after(time.seconds, time.nanoseconds);
}

} // namespace

u64 aio_event_total() {
    return event_total.load(base::Order::Relaxed);
}

AioTable::~AioTable() {
    clear();
}

Result<void> AioTable::add(Ref<AioContext> context) {
    MutexGuard guard(mutex_);
    context->next = first_;
    first_ = context.leak();
    return {};
}

Ref<AioContext> AioTable::find(u64 id) {
    MutexGuard guard(mutex_);
    for (AioContext* context = first_; context != nullptr; context = context->next)
        if (context->id == id)
            return Ref<AioContext>::share(context);
    return {};
}

Ref<AioContext> AioTable::remove(u64 id) {
    MutexGuard guard(mutex_);
    for (AioContext** at = &first_; *at != nullptr; at = &(*at)->next)
        if ((*at)->id == id) {
            AioContext* context = *at;
            *at = context->next;
            return Ref<AioContext>::adopt(context);
        }
    return {};
}

void AioTable::clear() {
    for (;;) {
        Ref<AioContext> context;
        {
            MutexGuard guard(mutex_);
            if (first_ == nullptr)
                return;
            context = Ref<AioContext>::adopt(first_);
            first_ = context->next;
        }
        context->dead = true;
        context->cancel_all();
        context->waiters.wake_all();
    }
}

Result<long> sys_io_setup(Task& task, u32 events, UserPtr<u64> out) {
    TRY(const u64 before, out.copy_in());
    if (before != 0 || events == 0 || events > largest_ring)
        return fail(EINVAL);
    // Counted first, so that nobody gets past the limit.
    if (event_total.fetch_add(events) + events > aio_event_limit) {
        event_total.fetch_sub(events);
        return fail(EAGAIN);
    }
    auto made = make_ref<AioContext>();
    if (!made) {
        event_total.fetch_sub(events);
        return fail(ENOMEM);
    }
    Ref<AioContext> context = std::move(*made);
    context->charged = events;
    // As Linux: at least four for each CPU, twice, and what fills the last page.
    const u32 cpus = arch::cpu_count();
    const u32 wanted = 2 * (events > 4 * cpus ? events : 4 * cpus) + 2;
    const u64 bytes = page_up(sizeof(RingHeader) + u64{wanted} * sizeof(io_event));
    TRY(context->pages, SharedPages::make("[aio]", bytes));
    context->slots = static_cast<u32>((bytes - sizeof(RingHeader)) / sizeof(io_event));
    *context->pages->at<RingHeader>(0) = {0,          context->slots,  0, 0,
                                          ring_magic, ring_compatible, 0, sizeof(RingHeader)};
    AddressSpace& space = *task.address_space;
    {
        static constinit Mutex creation;
        MutexGuard guard(creation);
        if (!space.aio) {
            TRY(Ref<AioTable> fresh, make_ref<AioTable>());
            space.aio = std::move(fresh);
        }
    }
    MapRequest request;
    request.length = bytes;
    request.protection = PROT_READ | PROT_WRITE;
    request.flags = MAP_SHARED;
    request.file = context->pages->file();
    TRY(const VirtAddr mapped, space.map(request));
    context->id = mapped.raw();
    if (auto told = out.copy_out(context->id); !told) {
        (void)space.unmap(mapped, bytes);
        return fail(EFAULT);
    }
    TRY(table_of(space)->add(std::move(context)));
    return 0;
}

Result<long> sys_io_destroy(Task& task, u64 id) {
    Ref<AioContext> context;
    if (AioTable* table = table_of(*task.address_space))
        context = table->remove(id);
    if (!context)
        return fail(EINVAL);
    {
        MutexGuard guard(context->polls_mutex);
        context->dead = true;
    }
    context->cancel_all();
    context->waiters.wake_all();
    (void)task.address_space->unmap(VirtAddr(id), context->pages->bytes());
    return 0;
}

Result<long> sys_io_submit(Task& task, u64 id, i64 count, UserPtr<const u64> requests) {
    if (count < 0)
        return fail(EINVAL);
    TRY(Ref<AioContext> context, find_context(task, id));
    if (count > i64{context->slots})
        count = i64{context->slots};
    i64 done = 0;
    while (done < count) {
        const auto one = [&]() -> Result<void> {
            TRY(const u64 address, (requests + static_cast<usize>(done)).copy_in());
            return submit_one(task, *context, address);
        }();
        if (!one)
            return done != 0 ? Result<long>(done) : Result<long>(fail(one.error().code));
        done++;
        cond_resched();
    }
    return done;
}

Result<long> sys_io_cancel(Task& task, u64 id, u64 request, u64) {
    TRY(const u32 key, UserPtr<const u32>(request + __builtin_offsetof(iocb, aio_key)).copy_in());
    if (key != 0)
        return fail(EINVAL);
    TRY(Ref<AioContext> context, find_context(task, id));
    Ref<AioPoll> poll;
    {
        MutexGuard guard(context->polls_mutex);
        for (AioPoll* at = context->polls; at != nullptr && !poll; at = at->next)
            if (at->event.obj == request)
                poll = Ref<AioPoll>::share(at);
    }
    if (!poll)
        return fail(EINVAL);
    poll->finish(0);
    return fail(EINPROGRESS); // the event is in the ring (io_cancel(2) of Linux 4.18 and later)
}

Result<long> sys_io_getevents(Task& task, u64 context, i64 least, i64 most, u64 events,
                              u64 timeout) {
    TRY(const u64 deadline, events_deadline(timeout));
    return wait_events(task, context, least, most, events, deadline);
}

Result<long> sys_io_pgetevents(Task& task, u64 context, i64 least, i64 most, u64 events,
                               u64 timeout, u64 mask) {
    struct MaskArgument {
        u64 address, size;
    } argument{};
    TRY(const u64 deadline, events_deadline(timeout));
    if (mask != 0) {
        TRY(argument, UserPtr<const MaskArgument>(mask).copy_in());
    }
    return with_signal_mask(UserPtr<const u64>(argument.address), argument.size, [&] {
        return wait_events(task, context, least, most, events, deadline);
    });
}

} // namespace kernel
