// Rings: their memory, submission and completion.
#include "guestkernel/ipc/io_ring.hpp"

#include <asm/resource.h>
#include <linux/errno.h>
#include <linux/io_uring.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/ipc/poll_events.hpp"

namespace kernel {

namespace {

constexpr u32 most_overflow = 65536;
constexpr u32 most_requests_beyond = 65536;
constinit Mutex rings_mutex;
constinit IoRing* all_rings = nullptr; // not references: a ring takes itself out
constinit base::Atomic<u32> ring_total{0};
constexpr unsigned cap_ipc_lock = 14, cap_sys_admin = 21, cap_sys_nice = 23;

bool completes_quietly(const IoRequest& request, const IoOutcome& outcome) {
    return (request.entry.flags & (1u << IOSQE_CQE_SKIP_SUCCESS_BIT)) != 0 && outcome.result >= 0;
}

// A short transfer breaks a chain as a failure does (io_uring_enter(2)).
bool breaks_link(const IoRequest& request, i32 result) {
    const IoEntry& entry = request.entry;
    switch (entry.opcode) {
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
        return result < 0 || static_cast<u32>(result) != entry.length;
    case IORING_OP_TIMEOUT:
        return result < 0 &&
               !(result == -ETIME && (entry.op_flags & IORING_TIMEOUT_ETIME_SUCCESS) != 0);
    default:
        return result < 0;
    }
}

// A transfer's I/O priority, as ioprio_set(2) takes it. It has no effect.
int check_priority(u16 priority) {
    // From linux/ioprio.h, which is not valid C++.
    constexpr unsigned class_shift = 13, realtime = 1, best_effort = 2, idle = 3, levels = 8;
    const unsigned io_class = priority >> class_shift;
    const unsigned level = priority & ((1u << class_shift) - 1);
    if (io_class == realtime && !capable(cap_sys_nice) && !capable(cap_sys_admin))
        return EPERM;
    if (io_class == realtime || io_class == best_effort)
        return level < levels ? 0 : EINVAL;
    return io_class == idle || priority == 0 ? 0 : EINVAL;
}

bool transfers(const IoEntry& entry) {
    switch (entry.opcode) {
    case IORING_OP_READ:
    case IORING_OP_WRITE:
    case IORING_OP_READV:
    case IORING_OP_WRITEV:
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
        return true;
    default:
        return false;
    }
}

// Whether an entry can be a request at all: what Linux finds before anything runs.
int check_entry(const IoRing& ring, const IoEntry& entry) {
    constexpr u8 known = (1u << IOSQE_FIXED_FILE_BIT) | (1u << IOSQE_IO_DRAIN_BIT) |
                         (1u << IOSQE_IO_LINK_BIT) | (1u << IOSQE_IO_HARDLINK_BIT) |
                         (1u << IOSQE_ASYNC_BIT) | (1u << IOSQE_BUFFER_SELECT_BIT) |
                         (1u << IOSQE_CQE_SKIP_SUCCESS_BIT);
    if (entry.opcode >= IORING_OP_LAST || (entry.flags & ~known) != 0)
        return EINVAL;
    if (!ring.allowed(entry))
        return EACCES;
    if (transfers(entry))
        if (const int error = check_priority(entry.priority); error != 0)
            return error;
    if ((entry.flags & (1u << IOSQE_BUFFER_SELECT_BIT)) != 0)
        switch (entry.opcode) {
        case IORING_OP_READ:
        case IORING_OP_READV:
        case IORING_OP_RECV:
        case IORING_OP_RECVMSG:
            break;
        default:
            return EOPNOTSUPP;
        }
    return 0;
}

} // namespace

Result<Ref<IoRing>> IoRing::make(const Limits& limits) {
    TRY(Ref<IoRing> ring, make_ref<IoRing>());
    ring->limits = limits;
    const u64 cqe = (limits.flags & IORING_SETUP_CQE32) != 0 ? 32 : 16;
    const u64 sqe = (limits.flags & IORING_SETUP_SQE128) != 0 ? 128 : 64;
    ring->array_offset_ = completions_offset + cqe * limits.completions;
    ring->entries_offset_ = page_up(ring->array_offset_ + sizeof(u32) * u64{limits.entries});
    const u64 bytes = ring->entries_offset_ + page_up(sqe * limits.entries);
    const Ref<UserAccount>& account = current_task().account;
    if (account && !capable(cap_ipc_lock)) {
        if (account->ring_bytes.fetch_add(bytes) + bytes > current_limit(RLIMIT_MEMLOCK)) {
            account->ring_bytes.fetch_sub(bytes);
            return fail(ENOMEM);
        }
        ring->account = account;
    }
    ring->charged_ = bytes;
    TRY(ring->pages, SharedPages::make("[io_uring]", bytes));
    *ring->word(sq_mask) = limits.entries - 1;
    *ring->word(cq_mask) = limits.completions - 1;
    *ring->word(sq_entries) = limits.entries;
    *ring->word(cq_entries) = limits.completions;
    Task& task = current_task();
    ring->owner = task.process;
    ring->space = task.address_space;
    ring->creator = task.credentials;
    MutexGuard guard(rings_mutex);
    ring->next_ring = all_rings;
    all_rings = ring.get();
    ring_total.fetch_add(1);
    ring->listed_ = true;
    return ring;
}

IoRing::~IoRing() {
    if (listed_) {
        MutexGuard guard(rings_mutex);
        IoRing** at = &all_rings;
        while (*at != this)
            at = &(*at)->next_ring;
        *at = next_ring;
        ring_total.fetch_sub(1);
    }
    while (Overflow* entry = overflow_first_) {
        overflow_first_ = entry->next;
        delete entry;
    }
    while (IoBufferGroup* group = groups_) {
        groups_ = group->next;
        delete group;
    }
    if (account)
        account->ring_bytes.fetch_sub(charged_);
}

void IoRights::swap() {
    Task& task = current_task();
    if (credentials_ == task.credentials && landlock_ == task.landlock)
        return;
    SpinGuard tree(process_tree_lock()); // others read them
    std::swap(task.credentials, credentials_);
    std::swap(task.landlock, landlock_);
}

void end_io_rings(Process& process) {
    current_task().io_rings = nullptr;
    if (ring_total.load(base::Order::Relaxed) == 0)
        return;
    for (;;) {
        Ref<IoRing> ring;
        {
            MutexGuard guard(rings_mutex);
            for (IoRing* at = all_rings; at != nullptr && !ring; at = at->next_ring)
                if (at->owner == &process && at->try_add_ref())
                    ring = Ref<IoRing>::adopt(at);
            if (ring)
                ring->owner = nullptr;
        }
        if (!ring)
            return;
        ring->shut_down();
    }
}

// --- completion

// Requires: cq_lock_. False: no room.
bool IoRing::put_completion(u64 user_data, i32 result, u32 flags) {
    // The head is the program's: whatever it is, the entry written is one of the ring's.
    const u32 used = cq_position_ - load_shared(word(cq_head));
    if (used >= limits.completions)
        return false;
    const u64 size = (limits.flags & IORING_SETUP_CQE32) != 0 ? 32 : 16;
    struct Completion {
        u64 user_data;
        i32 result;
        u32 flags;
    };
    const u64 index = cq_position_ & (limits.completions - 1);
    *pages->at<Completion>(completions_offset + index * size) = {user_data, result, flags};
    if (size == 32)
        *pages->at<Completion>(completions_offset + index * size + 16) = {0, 0, 0};
    cq_position_++;
    store_shared(word(cq_tail), cq_position_);
    return true;
}

void IoRing::post(u64 user_data, i32 result, u32 flags) {
    Ref<File> notified;
    auto* spare = new (std::nothrow) Overflow{nullptr, user_data, result, flags};
    {
        SpinGuard guard(cq_lock_);
        posted_++;
        if (overflow_first_ != nullptr || !put_completion(user_data, result, flags)) {
            if (spare != nullptr && overflow_count_ < most_overflow) {
                if (overflow_first_ == nullptr)
                    overflow_first_ = spare;
                else
                    overflow_last_->next = spare;
                overflow_last_ = spare;
                spare = nullptr;
                overflow_count_++;
                __atomic_fetch_or(word(sq_flags), IORING_SQ_CQ_OVERFLOW, __ATOMIC_RELEASE);
            } else {
                __atomic_fetch_add(word(cq_overflow), 1, __ATOMIC_RELEASE);
            }
        }
        if (event_file_ && (load_shared(word(cq_flags)) & IORING_CQ_EVENTFD_DISABLED) == 0)
            notified = event_file_;
    }
    delete spare;
    if (notified)
        static_cast<EventFile&>(*notified).signal(1);
    waiters.wake_all(poll_in | poll_rdnorm);
    entrants.wake_all();
}

bool IoRing::signals(const File& file) {
    SpinGuard guard(cq_lock_);
    return event_file_.get() == &file;
}

void IoRing::flush_overflow() {
    for (;;) {
        Overflow* entry = nullptr;
        {
            SpinGuard guard(cq_lock_);
            entry = overflow_first_;
            if (entry == nullptr || !put_completion(entry->user_data, entry->result, entry->flags))
                return;
            overflow_first_ = entry->next;
            overflow_count_--;
            if (overflow_first_ == nullptr)
                __atomic_fetch_and(word(sq_flags), ~u32{IORING_SQ_CQ_OVERFLOW}, __ATOMIC_RELEASE);
        }
        delete entry;
    }
}

u32 IoRing::completions() {
    return *static_cast<volatile u32*>(&cq_position_) - load_shared(word(cq_head));
}

// What was linked to a request that is done: begun next, or cancelled with it.
void IoRing::finish_links(IoRequest& request, bool failed, Ref<IoRequest>& following) {
    Ref<IoRequest> timer = std::exchange(request.link_timer, nullptr);
    if (timer && timer->state != IoRequest::State::Done) {
        timer->timed = nullptr;
        (void)timer->timer.cancel();
        timer->state = IoRequest::State::Done;
        following = std::exchange(request.next, nullptr);
        post(timer->entry.user_data, -ECANCELED, 0);
        timer->all_node.unlink();
        request_count_--;
        timer->release();
    } else {
        following = std::exchange(request.next, nullptr);
    }
    const bool hard = (request.entry.flags & (1u << IOSQE_IO_HARDLINK_BIT)) != 0;
    if (!dead && (!failed || hard))
        return;
    while (following) {
        Ref<IoRequest> doomed = std::exchange(following, nullptr);
        following = std::exchange(doomed->next, nullptr);
        if (doomed->link_timer) {
            doomed->link_timer->next = std::move(following);
            following = std::exchange(doomed->link_timer, nullptr);
        }
        doomed->state = IoRequest::State::Done;
        outstanding_ -= doomed->counted ? 1 : 0;
        if ((doomed->entry.flags & (1u << IOSQE_CQE_SKIP_SUCCESS_BIT)) == 0)
            post(doomed->entry.user_data, -ECANCELED, 0);
        if (doomed->all_node.linked()) {
            doomed->all_node.unlink();
            request_count_--;
            doomed->release();
        }
    }
}

// Requires: its state is Done already, set by who calls this.
void IoRing::complete(Ref<IoRequest> request, IoOutcome outcome) {
    if (request->holds_buffer) // else nobody would know of it any more
        outcome.flags |= told_buffer(*request);
    if (!completes_quietly(*request, outcome))
        post(request->entry.user_data, outcome.result, outcome.flags);
    Ref<IoRequest> following;
    bool drained = false;
    {
        MutexGuard guard(mutex);
        finish_links(*request, breaks_link(*request, outcome.result) || dead, following);
        if (request->all_node.linked()) {
            request->all_node.unlink();
            request_count_--;
            request->release();
        }
        if (request->counted && --outstanding_ == 0 && !deferred_.empty())
            drained = true;
        // Begun by a processor, or by the submission that goes on. With the mutex held, so that
        // shut_down() finds it among the ready ones.
        if (following)
            push_ready(*following);
    }
    request->file = nullptr;
    check_counts();
    if (drained)
        run_deferred();
}

// --- submission

bool IoRing::read_entry(u32 position, IoEntry& out) {
    const u32 index =
        load_shared(pages->at<u32>(array_offset_ + u64{position & (limits.entries - 1)} * 4));
    if (index >= limits.entries) {
        __atomic_fetch_add(word(sq_dropped), 1, __ATOMIC_RELEASE);
        return false;
    }
    const u64 size = (limits.flags & IORING_SETUP_SQE128) != 0 ? 128 : 64;
    __builtin_memcpy(&out, pages->at<IoEntry>(entries_offset_ + index * size), sizeof out);
    return true;
}

u32 IoRing::unsubmitted() {
    const u32 waiting = load_shared(word(sq_tail)) - *static_cast<volatile u32*>(&sq_position_);
    return waiting <= limits.entries ? waiting : limits.entries;
}

Result<Ref<IoRequest>> IoRing::prepare(const IoEntry& entry) {
    TRY(Ref<IoRequest> request, make_ref<IoRequest>());
    request->ring = Ref<IoRing>::share(this);
    request->entry = entry;
    const Task& task = current_task();
    request->submitter = task.process;
    request->landlock = task.landlock;
    if (entry.personality == 0)
        request->credentials = task.credentials;
    MutexGuard guard(mutex);
    if (entry.personality != 0)
        for (const Personality& known : personalities_)
            if (known.id == entry.personality)
                request->credentials = known.credentials;
    request->add_ref(); // the list's
    requests_.push_back(*request);
    request_count_++;
    return request;
}

Result<u32> IoRing::submit(u32 count) {
    MutexGuard submission(submit_mutex);
    const u32 waiting = unsubmitted();
    count = count < waiting ? count : waiting;
    u32 taken = 0;
    Ref<IoRequest> head, last;
    bool broken = false; // an entry of the chain was refused: the others are cancelled
    const auto end_chain = [&] {
        last = nullptr;
        if (!head)
            return;
        Ref<IoRequest> chain = std::exchange(head, nullptr);
        if (std::exchange(broken, false)) {
            chain->entry.flags &= static_cast<u8>(~(1u << IOSQE_IO_HARDLINK_BIT));
            chain->state = IoRequest::State::Done;
            complete(std::move(chain), IoOutcome::done(-ECANCELED));
            return;
        }
        begin_chain(std::move(chain));
    };
    while (taken < count) {
        IoEntry entry;
        if (request_count_ >= limits.completions + most_requests_beyond) {
            if (taken == 0)
                return fail(EAGAIN);
            break;
        }
        const bool read = read_entry(sq_position_, entry);
        sq_position_ = sq_position_ + 1;
        store_shared(word(sq_head), sq_position_);
        if (!read) {
            taken++;
            break; // dropped: Linux ends the submission here
        }
        taken++;
        int error = check_entry(*this, entry);
        auto request = prepare(entry);
        if (!request) {
            post(entry.user_data, -ENOMEM, 0);
            continue;
        }
        if (entry.personality != 0 && !(*request)->credentials)
            error = EINVAL;
        constexpr u8 links = (1u << IOSQE_IO_LINK_BIT) | (1u << IOSQE_IO_HARDLINK_BIT);
        const bool goes_on = (entry.flags & links) != 0;
        if (entry.opcode == IORING_OP_LINK_TIMEOUT && error == 0 && !last)
            error = EINVAL; // on nothing
        if (error != 0) {
            Ref<IoRequest> refused = std::move(*request);
            refused->entry.flags &= static_cast<u8>(~links);
            refused->state = IoRequest::State::Done;
            complete(std::move(refused), IoOutcome::done(-error));
            if (head || goes_on)
                broken = head ? true : false;
            if (!goes_on)
                end_chain();
            if ((limits.flags & IORING_SETUP_SUBMIT_ALL) == 0) {
                end_chain();
                break;
            }
            continue;
        }
        if (last && entry.opcode == IORING_OP_LINK_TIMEOUT && !last->link_timer) {
            last->link_timer = *request; // what follows the timeout follows what it times
            (*request)->timed = last.get();
            if (!goes_on)
                end_chain();
            continue;
        }
        if (last)
            last->next = *request;
        else
            head = *request;
        last = std::move(*request);
        if (!goes_on)
            end_chain();
        cond_resched();
    }
    end_chain();
    submission.unlock();
    // What was linked goes on here, in the submitter's own context.
    if (has_ready())
        process_ready();
    return taken;
}

// A request and those linked to it: at once, or after all that came before (IOSQE_IO_DRAIN).
void IoRing::begin_chain(Ref<IoRequest> head) {
    {
        MutexGuard guard(mutex);
        bool drains = false;
        for (IoRequest* at = head.get(); at != nullptr; at = at->next.get())
            drains = drains || (at->entry.flags & (1u << IOSQE_IO_DRAIN_BIT)) != 0;
        if (drains)
            head->entry.flags |= (1u << IOSQE_IO_DRAIN_BIT);
        if (!dead && (!deferred_.empty() || (drains && outstanding_ != 0))) {
            deferred_.push_back(*head.leak()); // with its reference
            return;
        }
        for (IoRequest* at = head.get(); at != nullptr; at = at->next.get()) {
            at->counted = true;
            outstanding_++;
        }
    }
    start(std::move(head));
}

void IoRing::run_deferred() {
    for (;;) {
        Ref<IoRequest> head;
        MutexGuard guard(mutex);
        IoRequest* first = deferred_.front();
        if (first == nullptr || dead) // those of a ring that ends are cancelled where they are
            return;
        if ((first->entry.flags & (1u << IOSQE_IO_DRAIN_BIT)) != 0 && outstanding_ != 0)
            return;
        deferred_.pop_front();
        head = Ref<IoRequest>::adopt(first);
        for (IoRequest* at = first; at != nullptr; at = at->next.get()) {
            at->counted = true;
            outstanding_++;
        }
        push_ready(*head);
    }
}

// Begins a request of this task's own process. Another one's has no meaning here: its addresses
// and descriptors are that one's.
void IoRing::start(Ref<IoRequest> request) {
    const bool foreign = request->submitter != current_task().process;
    {
        MutexGuard guard(mutex);
        if (request->state != IoRequest::State::Queued)
            return;
        request->state = foreign ? IoRequest::State::Done : IoRequest::State::Running;
    }
    if (foreign)
        return complete(std::move(request), IoOutcome::done(-ECANCELED));
    arm_link_timeout(*request);
    const bool elsewhere = (request->entry.flags & (1u << IOSQE_ASYNC_BIT)) != 0 &&
                           request->entry.opcode != IORING_OP_POLL_ADD &&
                           request->entry.opcode != IORING_OP_TIMEOUT;
    if (elsewhere && owner == current_task().process) {
        if (give_to_worker(request))
            return;
    }
    issue(std::move(request));
}

void IoRing::issue(Ref<IoRequest> request) {
    Task& task = current_task();
    const bool own = owner == task.process;
    IoOutcome outcome = IoOutcome::done(-ECANCELED);
    // A poll touches nothing of its submitter's; the rest only runs in its process.
    if (request->submitter == task.process || request->entry.opcode == IORING_OP_POLL_ADD) {
        const IoRights rights(*request);
        // Without workers of its process, what would wait waits here.
        task.refuses_sleep = own;
        outcome = execute(task, *request);
        task.refuses_sleep = false;
    }
    if (outcome.kind == IoOutcome::Kind::Armed)
        return;
    if (outcome.kind == IoOutcome::Kind::Again) {
        outcome = watch(*request, request->watched);
        if (outcome.kind == IoOutcome::Kind::Armed)
            return;
        if (outcome.kind == IoOutcome::Kind::Again) {
            if (auto given = give_to_worker(request); given)
                return;
            outcome = IoOutcome::done(request->cancelled || dead ? -ECANCELED : -EAGAIN);
        }
    }
    {
        MutexGuard guard(mutex);
        if (request->state == IoRequest::State::Done)
            return; // cancelled meanwhile
        request->state = IoRequest::State::Done;
    }
    complete(std::move(request), outcome);
}

// --- the file

IoRingFile::~IoRingFile() {
    ring_->shut_down();
}

bool IoRingFile::describe(String& out) {
    return out.append("anon_inode:[io_uring]").has_value();
}

u32 IoRingFile::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(ring_->waiters);
    u32 ready = 0;
    if (ring_->completions() != 0 || ring_->overflowed())
        ready |= poll_in | poll_rdnorm;
    if (ring_->unsubmitted() < ring_->limits.entries)
        ready |= poll_out | poll_wrnorm;
    return ready;
}

Result<Ref<File>> IoRingFile::mapped_file(u64& offset, u64 length) {
    const u64 entries_bytes = ring_->pages->bytes() - ring_->entries_offset();
    switch (offset) {
    case IORING_OFF_SQ_RING:
    case IORING_OFF_CQ_RING:
        if (length > ring_->ring_bytes())
            return fail(EINVAL);
        offset = 0;
        break;
    case IORING_OFF_SQES:
        if (length > entries_bytes)
            return fail(EINVAL);
        offset = ring_->entries_offset();
        break;
    default:
        return fail(EINVAL);
    }
    return ring_->pages->file();
}

} // namespace kernel
