// The tasks that work for a ring: processors, blocking workers, and who submits for it
// (IORING_SETUP_SQPOLL).
#include <linux/errno.h>
#include <linux/io_uring.h>

#include "guestkernel/core/log.hpp"
#include "guestkernel/ipc/io_ring.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/task/signal.hpp"

namespace kernel {

namespace {

constexpr u64 worker_patience_ns = 2'000'000'000; // an idle worker ends after this
constexpr u32 most_workers_in_all = 2048;         // they count against nobody's RLIMIT_NPROC
constinit base::Atomic<u32> worker_total{0};

// What a worker uses is charged to where the process that it works for is now.
void charge_to_process(Task& task) {
    SpinGuard tree(process_tree_lock());
    if (const Task* member = task.process->first_task(); member != nullptr)
        task.memory_owner = member->memory_owner;
}

} // namespace

Result<void> IoRing::spawn(IoWorker::Kind kind) {
    if (worker_total.fetch_add(1) >= most_workers_in_all) {
        worker_total.fetch_sub(1);
        return fail(EAGAIN);
    }
    auto started = start_worker(kind);
    if (!started)
        worker_total.fetch_sub(1);
    return started;
}

Result<void> IoRing::start_worker(IoWorker::Kind kind) {
    const Task& creator_task = current_task();
    TRY(Owned<IoWorker> worker, make_owned<IoWorker>());
    TRY(Ref<Task> task, allocate_task(false));
    task->signals = new (std::nothrow) SignalState();
    if (task->signals == nullptr)
        return fail(ENOMEM);
    task->process = Ref<Process>::share(creator_task.process).leak();
    task->files = creator_task.files;
    task->fs = creator_task.fs;
    task->credentials = creator;
    task->namespaces = creator_task.namespaces;
    task->landlock = creator_task.landlock;
    task->signals->blocked = ~u64{0}; // signals are for the program's own threads
    task->nice = creator_task.nice;
    if (kind == IoWorker::Kind::Submitter && submitter_cpu_ >= 0)
        task->affinity = u64{1} << submitter_cpu_;
    worker->ring = Ref<IoRing>::share(this);
    worker->kind = kind;
    worker->space = creator_task.address_space;
    worker->task = task;
    char name[16] = {};
    (void)log::format(name, sizeof name - 1, "iou-{}-{}",
                      kind == IoWorker::Kind::Submitter ? "sqp" : "wrk", creator_task.process->pid);
    TRY(run_as_kernel_task(*task, name, worker_loop, worker.get()));
    worker.leak();
    return {};
}

Result<void> IoRing::need_processor() {
    if (*static_cast<volatile bool*>(&has_processor_))
        return {};
    if (owner != current_task().process)
        return fail(EAGAIN);
    {
        MutexGuard guard(mutex);
        if (has_processor_)
            return {};
        has_processor_ = true;
    }
    auto spawned = spawn(IoWorker::Kind::Processor);
    if (!spawned)
        has_processor_ = false;
    return spawned;
}

Result<void> IoRing::give_to_worker(Ref<IoRequest> request) {
    if (owner != current_task().process)
        return fail(EAGAIN);
    bool more = false;
    {
        MutexGuard guard(mutex);
        if (request->cancelled || dead || request->state == IoRequest::State::Done)
            return fail(ECANCELED);
        const u32 most = most_workers_[1] != 0 ? most_workers_[1] : 1;
        // An idle worker may be somebody else's already, who has not taken his request yet; what
        // waits behind another request may be what that waits for.
        more = idle_workers_ <= blocking_waits_ && blocking_workers_ < most;
        if (more)
            blocking_workers_++;
    }
    if (more && !spawn(IoWorker::Kind::Blocking)) {
        MutexGuard guard(mutex);
        if (--blocking_workers_ == 0)
            return fail(EAGAIN);
    }
    {
        MutexGuard guard(mutex);
        if (request->state == IoRequest::State::Done)
            return {};
        // Since the mutex was let go: in the queue of a ring that has ended nobody would find it,
        // and it would keep the ring and its file for good.
        if (request->cancelled || dead)
            return fail(ECANCELED);
        request->state = IoRequest::State::Waiting;
        blocking_queue_.push_back(*request.leak());
        blocking_waits_++;
    }
    work_waiters.wake_all();
    return {};
}

void IoRing::worker_loop(void* raw) {
    auto* self = static_cast<IoWorker*>(raw);
    {
        Ref<IoRing> ring = self->ring;
        (void)replace_address_space(std::move(self->space));
        ring->work(*self);
        Task& task = current_task();
        // Out of everything's sight before the files go, which may end the ring.
        leave_address_space();
        Ref<Namespaces> namespaces = std::move(task.namespaces);
        Ref<FileTable> files = std::move(task.files);
        Ref<FsContext> fs = std::move(task.fs);
    }
    delete self;
    worker_total.fetch_sub(1);
}

void IoRing::work(IoWorker& self) {
    {
        MutexGuard guard(mutex);
        workers_.push_back(self);
    }
    serve(self);
    MutexGuard guard(mutex);
    self.node.unlink();
}

// Nobody kills a worker but its ring's end. What it waits for otherwise, a page (userfaultfd(2)) or
// an answer (FUSE), may never come, and it would hold the process's files and memory for good.
void IoRing::end_workers() {
    for (IoWorker& worker : workers_) {
        Task& task = *worker.task;
        __atomic_fetch_or(&task.interrupt_flags, interrupt_signal | interrupt_fatal,
                          __ATOMIC_SEQ_CST);
        wake(task,
             static_cast<u32>(TaskState::Interruptible) | static_cast<u32>(TaskState::Killable));
    }
}

void IoRing::serve(IoWorker& self) {
    Task& task = current_task();
    if (self.kind == IoWorker::Kind::Submitter)
        return poll_submissions(self);
    while (!dead) {
        if (self.kind == IoWorker::Kind::Processor) {
            (void)wait_until(
                work_waiters, [&] { return dead || (ready_waits_ && entered.load() == 0); },
                no_deadline, TaskState::Uninterruptible);
            charge_to_process(task);
            if (!dead)
                process_ready();
            continue;
        }
        Ref<IoRequest> request;
        {
            MutexGuard guard(mutex);
            if (IoRequest* first = blocking_queue_.pop_front()) {
                blocking_waits_--;
                request = Ref<IoRequest>::adopt(first);
                request->state = IoRequest::State::Running;
                request->worker = &self;
            } else {
                idle_workers_++;
            }
        }
        if (!request) {
            const auto outcome = wait_until(
                work_waiters, [&] { return dead || blocking_queue_.front() != nullptr; },
                monotonic_ns() + worker_patience_ns, TaskState::Uninterruptible);
            MutexGuard guard(mutex);
            idle_workers_--;
            if (outcome == WaitOutcome::TimedOut && blocking_queue_.empty()) {
                blocking_workers_--;
                return;
            }
            continue;
        }
        charge_to_process(task);
        IoOutcome outcome;
        {
            const IoRights rights(*request);
            outcome = execute(task, *request);
        }
        bool ours = false;
        {
            MutexGuard guard(mutex);
            request->worker = nullptr;
            task.refuses_sleep = false;
            if (outcome.kind == IoOutcome::Kind::Again)
                outcome = IoOutcome::done(request->cancelled ? -ECANCELED : -EINTR);
            ours =
                outcome.kind == IoOutcome::Kind::Done && request->state != IoRequest::State::Done;
            if (ours)
                request->state = IoRequest::State::Done;
        }
        if (ours)
            complete(std::move(request), outcome);
        if (has_ready() && entered.load() == 0)
            process_ready(); // what was linked to it
    }
}

// --- IORING_SETUP_SQPOLL

Result<void> IoRing::start_submitter(u32 idle_ms, i64 cpu) {
    constexpr u32 default_idle_ms = 1000;
    submitter_idle_ms_ = idle_ms == 0 ? default_idle_ms : idle_ms;
    submitter_cpu_ = cpu;
    return spawn(IoWorker::Kind::Submitter);
}

void IoRing::wake_submitter() {
    submitter_asleep_ = false;
    work_waiters.wake_all();
}

void IoRing::poll_submissions(IoWorker&) {
    u64 busy_until = monotonic_ns() + u64{submitter_idle_ms_} * 1'000'000;
    while (!dead) {
        if (has_ready() && entered.load() == 0)
            process_ready();
        // What is refused (EAGAIN: too many are pending) waits as if there were nothing.
        if (!disabled && unsubmitted() != 0 && submit(limits.entries)) {
            busy_until = monotonic_ns() + u64{submitter_idle_ms_} * 1'000'000;
            waiters.wake_all(poll_out); // IORING_ENTER_SQ_WAIT
            // The program says how much there is, and none of it may be worth a sleep: nothing else
            // would let others, or timers, have this CPU.
            schedule();
            continue;
        }
        if (monotonic_ns() < busy_until) {
            yield();
            cond_resched();
            continue;
        }
        submitter_asleep_ = true;
        __atomic_fetch_or(word(sq_flags), IORING_SQ_NEED_WAKEUP, __ATOMIC_SEQ_CST);
        if (unsubmitted() == 0 || disabled)
            (void)wait_until(
                work_waiters, [&] { return dead || !submitter_asleep_ || has_ready(); },
                no_deadline, TaskState::Uninterruptible);
        submitter_asleep_ = false;
        __atomic_fetch_and(word(sq_flags), ~u32{IORING_SQ_NEED_WAKEUP}, __ATOMIC_SEQ_CST);
        busy_until = monotonic_ns() + u64{submitter_idle_ms_} * 1'000'000;
    }
}

} // namespace kernel
