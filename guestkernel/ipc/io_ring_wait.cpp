// What waits: watched files and timeouts; and how it ends early.
#include <linux/errno.h>
#include <linux/io_uring.h>

#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/time_values.hpp"

namespace kernel {

namespace {

constexpr u32 tries_before_worker = 4; // a file that says ready and makes wait all the same

// The deadline of a timeout's time, by its clock. EINVAL.
Result<u64> timeout_deadline(u64 address, u32 flags) {
    TRY(const u64 ns, copy_in_timespec(address));
    if ((flags & IORING_TIMEOUT_ABS) == 0)
        return monotonic_ns() + ns;
    return (flags & IORING_TIMEOUT_REALTIME) != 0 ? wall_deadline(ns) : ns;
}

} // namespace

// --- the ready list: filled with any lock held

void IoRing::push_ready(IoRequest& request) {
    {
        SpinGuard guard(ready_lock_);
        if (request.ready || dead)
            return;
        request.ready = true;
        request.add_ref();
        ready_.push_back(request);
        ready_waits_ = true;
    }
    // Not `waiters`: whose lock may be held, when it is this ring that is watched.
    if (entered.load() != 0)
        entrants.wake_all();
    else
        work_waiters.wake_all();
}

bool IoRequest::woken(Waiter& waiter, u32 events) {
    auto& self = *static_cast<IoRequest*>(waiter.context);
    if (events != 0 && (events & (self.watched | poll_err | poll_hup)) == 0)
        return false;
    self.ring->push_ready(self);
    return true;
}

void IoRequest::expired(Timer&, void* raw) {
    auto& self = *static_cast<IoRequest*>(raw);
    self.expired_now = true;
    self.ring->push_ready(self);
}

void IoRing::process_ready() {
    for (;;) {
        Ref<IoRequest> request;
        {
            const Process* self = current_task().process;
            SpinGuard guard(ready_lock_);
            IoRequest* first = ready_.front();
            // Who only has the ring from its owner does what it submitted itself.
            while (first != nullptr && self != owner && self != first->submitter)
                first = ready_.next(*first);
            // What is done here may make more ready without end, by way of other rings say. Who is
            // to die leaves it: it is cancelled with the ring.
            if (first == nullptr || fatal_signal_pending()) {
                ready_waits_ = !ready_.empty();
                return;
            }
            ready_.remove(*first);
            first->ready = false;
            request = Ref<IoRequest>::adopt(first);
        }
        IoRequest::State state;
        Ref<IoRequest> timed;
        {
            MutexGuard guard(mutex);
            state = request->state;
            if (state == IoRequest::State::Watching) {
                request->state = IoRequest::State::Running;
            } else if (state == IoRequest::State::Timing && request->expired_now) {
                request->state = IoRequest::State::Done;
                if (request->timed != nullptr) {
                    timed = Ref<IoRequest>::share(request->timed);
                    // Told here: what it times is done otherwise.
                    timed->link_timer = nullptr;
                    request->timed = nullptr;
                }
            }
        }
        switch (state) {
        case IoRequest::State::Queued:
            start(std::move(request));
            break;
        case IoRequest::State::Watching:
            request->hook.disarm();
            issue(std::move(request));
            break;
        case IoRequest::State::Timing:
            if (!request->expired_now)
                break;
            if (timed) {
                timed->next = std::exchange(timed->next, nullptr);
                (void)cancel(*timed);
            }
            complete(std::move(request), IoOutcome::done(-ETIME));
            break;
        default:
            break;
        }
        cond_resched();
    }
}

// --- watching a file

IoOutcome IoRing::watch(IoRequest& request, u32 events) {
    if (events == 0 || !request.file || ++request.tries > tries_before_worker)
        return IoOutcome::again();
    if (auto done = need_processor(); !done)
        return IoOutcome::done(-ENOMEM);
    request.watched = events;
    u32 now = 0;
    {
        MutexGuard guard(mutex);
        if (request.cancelled || dead) {
            return IoOutcome::done(-ECANCELED);
        }
        request.state = IoRequest::State::Watching;
        now = request.file->poll(&request.hook) & (events | poll_err | poll_hup);
        if (request.hook.failed()) {
            request.state = IoRequest::State::Running;
            request.hook.disarm();
            return IoOutcome::done(-ENOMEM);
        }
    }
    if (now != 0)
        push_ready(request);
    return IoOutcome::armed();
}

IoOutcome IoRing::watch_edges(IoRequest& request, u32 events) {
    if (auto done = need_processor(); !done)
        return IoOutcome::done(-ENOMEM);
    request.watched = events;
    u32 now = 0;
    {
        MutexGuard guard(mutex);
        if (request.cancelled || dead)
            return IoOutcome::done(-ECANCELED);
        request.state = IoRequest::State::Watching;
        now = request.file->poll(&request.hook) & events;
        if (request.hook.failed()) {
            request.state = IoRequest::State::Running;
            request.hook.disarm();
            return IoOutcome::done(-ENOMEM);
        }
    }
    if (now != 0)
        post(request.entry.user_data, static_cast<i32>(now), IORING_CQE_F_MORE);
    return IoOutcome::armed();
}

// --- timeouts

IoOutcome IoRing::arm_timeout(IoRequest& request) {
    const IoEntry& entry = request.entry;
    constexpr u32 known =
        IORING_TIMEOUT_ABS | IORING_TIMEOUT_CLOCK_MASK | IORING_TIMEOUT_ETIME_SUCCESS;
    if ((entry.op_flags & ~known) != 0 || entry.length != 1 ||
        (entry.op_flags & IORING_TIMEOUT_CLOCK_MASK) == IORING_TIMEOUT_CLOCK_MASK)
        return IoOutcome::done(-EINVAL);
    const auto deadline = timeout_deadline(entry.address, entry.op_flags);
    if (!deadline)
        return IoOutcome::done(-deadline.error().code);
    if (auto done = need_processor(); !done)
        return IoOutcome::done(-ENOMEM);
    MutexGuard guard(mutex);
    if (request.cancelled || dead)
        return IoOutcome::done(-ECANCELED);
    request.state = IoRequest::State::Timing;
    if (entry.offset != 0) {
        request.has_target = true;
        request.target = *static_cast<volatile u32*>(&posted_) + static_cast<u32>(entry.offset);
        timeouts_++;
    }
    request.timer.arm(*deadline);
    return IoOutcome::armed();
}

void IoRing::arm_link_timeout(IoRequest& request) {
    Ref<IoRequest> timer;
    {
        MutexGuard guard(mutex);
        timer = request.link_timer;
        if (!timer)
            return;
        // What was linked behind the timeout follows the request that it times.
        if (timer->next)
            request.next = std::exchange(timer->next, nullptr);
    }
    const auto deadline = timeout_deadline(timer->entry.address, timer->entry.op_flags);
    if (!deadline || !need_processor())
        return; // it never expires: told as cancelled when the request is done
    MutexGuard guard(mutex);
    if (request.state == IoRequest::State::Done)
        return;
    timer->state = IoRequest::State::Timing;
    timer->timer.arm(*deadline);
}

// Timeouts whose count of completions is reached.
void IoRing::check_counts() {
    if (*static_cast<volatile u32*>(&timeouts_) == 0)
        return;
    for (;;) {
        Ref<IoRequest> reached;
        {
            MutexGuard guard(mutex);
            for (IoRequest& request : requests_) {
                if (request.state != IoRequest::State::Timing || !request.has_target ||
                    static_cast<i32>(*static_cast<volatile u32*>(&posted_) - request.target) < 0)
                    continue;
                request.state = IoRequest::State::Done;
                request.has_target = false;
                timeouts_--;
                reached = Ref<IoRequest>::share(&request);
                break;
            }
        }
        if (!reached)
            return;
        (void)reached->timer.cancel();
        complete(std::move(reached), IoOutcome::done(0));
    }
}

// --- cancellation

int IoRing::cancel(IoRequest& request) {
    Ref<Task> running;
    {
        MutexGuard guard(mutex);
        switch (request.state) {
        case IoRequest::State::Done:
            return ENOENT;
        case IoRequest::State::Running:
            request.cancelled = true;
            if (request.worker != nullptr)
                running = request.worker->task;
            break;
        case IoRequest::State::Queued:
            if (!request.queue_node.linked())
                return ENOENT; // linked to another one: goes with it
            request.queue_node.unlink();
            request.state = IoRequest::State::Done;
            request.release(); // the deferred list's
            break;
        case IoRequest::State::Waiting:
            request.queue_node.unlink();
            blocking_waits_--;
            request.state = IoRequest::State::Done;
            request.release(); // the queue's
            break;
        default:
            if (request.has_target) {
                request.has_target = false;
                timeouts_--;
            }
            request.state = IoRequest::State::Done;
            break;
        }
        if (request.state == IoRequest::State::Running) {
            if (running) {
                running->refuses_sleep = true;
                wake(*running, static_cast<u32>(TaskState::Interruptible));
            }
            return EALREADY;
        }
    }
    request.hook.disarm();
    (void)request.timer.cancel();
    complete(Ref<IoRequest>::share(&request), IoOutcome::done(-ECANCELED));
    return 0;
}

IoRequest* IoRing::find_request(u64 user_data, u8 opcode) {
    for (IoRequest& request : requests_)
        if (request.entry.user_data == user_data && request.entry.opcode == opcode &&
            request.state != IoRequest::State::Done)
            return &request;
    return nullptr;
}

// IORING_OP_ASYNC_CANCEL. How many were cancelled with IORING_ASYNC_CANCEL_ALL, else 0; ENOENT.
i32 IoRing::cancel_by_entry(const IoEntry& entry) {
    constexpr u32 known = IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_FD |
                          IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_FD_FIXED;
    const u32 flags = entry.op_flags;
    if ((flags & ~known) != 0 ||
        ((flags & IORING_ASYNC_CANCEL_FD) != 0 && (flags & IORING_ASYNC_CANCEL_ANY) != 0))
        return -EINVAL;
    Ref<File> file;
    if ((flags & IORING_ASYNC_CANCEL_FD) != 0) {
        if ((flags & IORING_ASYNC_CANCEL_FD_FIXED) != 0) {
            file = fixed_file(static_cast<u32>(entry.fd));
        } else if (auto found = current_task().files->get(entry.fd)) {
            file = *found;
        }
        if (!file)
            return -EBADF;
    }
    const bool all = (flags & (IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY)) != 0;
    i32 count = 0;
    i32 worst = -ENOENT;
    for (;;) {
        Ref<IoRequest> found;
        {
            MutexGuard guard(mutex);
            for (IoRequest& request : requests_) {
                const bool matches =
                    (flags & IORING_ASYNC_CANCEL_ANY) != 0 ||
                    (file ? request.file == file : request.entry.user_data == entry.address);
                if (!matches || request.cancelled || request.state == IoRequest::State::Done ||
                    (request.state == IoRequest::State::Running && request.worker == nullptr) ||
                    request.entry.opcode == IORING_OP_LINK_TIMEOUT)
                    continue;
                found = Ref<IoRequest>::share(&request);
                break;
            }
        }
        if (!found)
            break;
        found->cancelled = true;
        const int error = cancel(*found);
        if (!all)
            return -error;
        if (error == 0)
            count++;
        else
            worst = -error;
    }
    if (all)
        return count;
    return worst;
}

void IoRing::cancel_everything() {
    for (;;) {
        Ref<IoRequest> found;
        {
            MutexGuard guard(mutex);
            for (IoRequest& request : requests_)
                if (request.state != IoRequest::State::Done && !request.cancelled &&
                    (request.state != IoRequest::State::Queued || request.queue_node.linked())) {
                    found = Ref<IoRequest>::share(&request);
                    break;
                }
        }
        if (!found)
            return;
        found->cancelled = true;
        (void)cancel(*found);
    }
}

// Ends what was ready to be done. Requests refer to the ring: none may stay in its lists.
void IoRing::cancel_ready() {
    for (;;) {
        Ref<IoRequest> request;
        {
            SpinGuard guard(ready_lock_);
            IoRequest* first = ready_.pop_front();
            ready_waits_ = false;
            if (first == nullptr)
                return;
            first->ready = false;
            request = Ref<IoRequest>::adopt(first);
        }
        {
            MutexGuard guard(mutex);
            if (request->state != IoRequest::State::Queued)
                continue; // cancelled already
            request->state = IoRequest::State::Done;
        }
        complete(std::move(request), IoOutcome::done(-ECANCELED));
    }
}

void IoRing::shut_down() {
    {
        // From here on nothing moves from the deferred ones, or from a chain, to the ready ones.
        MutexGuard guard(mutex);
        if (dead)
            return;
        dead = true;
        end_workers();
    }
    cancel_everything();
    cancel_ready();
    Vector<Ref<File>> files;
    {
        MutexGuard guard(mutex);
        space = nullptr;
        std::swap(files, files_);
        SpinGuard spin(cq_lock_);
        // The event file may be the last of its kind: closed without the lock.
        if (event_file_ && !files.push_back(std::move(event_file_)))
            event_file_ = nullptr;
    }
    work_waiters.wake_all();
    waiters.wake_all(poll_hup);
    entrants.wake_all();
}

} // namespace kernel
