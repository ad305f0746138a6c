#include "guestkernel/fs/virtiofs/fuse_connection.hpp"

#include <linux/errno.h>
#include <linux/fuse.h>

#include "guestkernel/fs/permission.hpp"
#include "guestkernel/fs/virtiofs/virtiofs.hpp"
#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/mm/heap.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel {
namespace {

constexpr int largest_error = 511; // what a server may answer with, as Linux has it
constexpr usize largest_answer = FuseConnection::largest_payload + page_size;

Result<void> append(Vector<u8>& to, const void* data, usize bytes) {
    return to.append(std::span<const u8>(static_cast<const u8*>(data), bytes));
}

bool creates(u32 opcode) {
    return opcode == FUSE_MKNOD || opcode == FUSE_MKDIR || opcode == FUSE_SYMLINK ||
           opcode == FUSE_CREATE || opcode == FUSE_TMPFILE;
}

} // namespace

bool FuseConnection::open() const {
    const State state = state_.load(base::Order::Acquire);
    return state == State::Waiting || state == State::Ready;
}

// --- callers -------------------------------------------------------------------------------------

Result<Ref<FuseConnection::Request>> FuseConnection::make_request(const FuseCall& call) {
    TRY(Ref<Request> made, make_ref<Request>());
    fuse_in_header header{};
    header.opcode = call.opcode;
    header.unique = next_unique_.fetch_add(2, base::Order::Relaxed);
    header.nodeid = call.node;
    header.uid =
        from_global_id(ids_.get(), false, creates(call.opcode) ? call.uid : current_fsuid());
    header.gid =
        from_global_id(ids_.get(), true, creates(call.opcode) ? call.gid : current_fsgid());
    header.pid = static_cast<u32>(current_pid());
    Vector<u8>& message = made->message;
    TRY(append(message, &header, sizeof header));
    TRY(append(message, call.in, call.in_bytes));
    for (const std::string_view name : call.names) {
        if (name.data() == nullptr)
            continue;
        TRY(append(message, name.data(), name.size()));
        TRY(message.push_back(0));
    }
    TRY(append(message, call.in_data.data, call.in_data.bytes));
    if (call.send_frames) {
        usize left = call.frames_bytes;
        for (Frame* frame : call.frames) {
            const usize part = left < page_size ? left : page_size;
            TRY(append(message, frame_data(*frame), part));
            left -= part;
        }
    }
    header.len = static_cast<u32>(message.size());
    __builtin_memcpy(message.data(), &header, sizeof header);
    made->unique = header.unique;
    made->opcode = call.opcode;
    return made;
}

Result<void> FuseConnection::enqueue(Ref<Request> request, bool first) {
    {
        SpinGuard guard(queue_lock_);
        if (!open())
            return fail(ENOTCONN);
        request->queued = true;
        if (first)
            waiting_.push_front(*request);
        else
            waiting_.push_back(*request);
        (void)request.leak();
    }
    readers_.wake_all(poll_in | poll_rdnorm);
    return {};
}

bool FuseConnection::withdraw(Request& request) {
    SpinGuard guard(queue_lock_);
    if (!request.queued)
        return false;
    request.queued = false;
    waiting_.remove(request);
    guard.unlock();
    request.release();
    return true;
}

// The server is told that the answer is of no interest any more; it may answer all the same.
void FuseConnection::interrupt(Request& request) {
    fuse_interrupt_in in{};
    in.unique = request.unique;
    FuseCall call;
    call.opcode = FUSE_INTERRUPT;
    call.in = &in;
    call.in_bytes = sizeof in;
    if (auto made = make_request(call))
        (void)enqueue(std::move(*made), true);
}

Result<u32> FuseConnection::call(const FuseCall& request) {
    const auto started = [this] { return state_.load(base::Order::Acquire) != State::Waiting; };
    if (wait_until(ready_, started) == WaitOutcome::Interrupted)
        return fail(EINTR);
    TRY(Ref<Request> mine, make_request(request));
    // Nobody waits for these, so that the end of a program, which may not wait, can send them too.
    if (request.opcode == FUSE_RELEASE || request.opcode == FUSE_RELEASEDIR) {
        TRY(enqueue(std::move(mine), false));
        return u32{0};
    }
    mine->call = &request;
    TRY(enqueue(mine, false));
    const auto done = [&] { return mine->done.load(base::Order::Acquire); };
    if (wait_until(mine->waiters, done) == WaitOutcome::Interrupted) {
        if (withdraw(*mine))
            return fail(EINTR);
        interrupt(*mine);
        if (wait_until(mine->waiters, done, no_deadline, TaskState::Killable) ==
            WaitOutcome::Interrupted) {
            // The answer will find nobody.
            MutexGuard guard(answer_mutex_);
            mine->call = nullptr;
        }
    }
    if (!done())
        return fail(EINTR);
    if (mine->error != 0)
        return fail(mine->error);
    return mine->length;
}

void FuseConnection::forget(u64 node, u64 lookups) {
    fuse_forget_in in{};
    in.nlookup = lookups;
    FuseCall call;
    call.opcode = FUSE_FORGET;
    call.node = node;
    call.in = &in;
    call.in_bytes = sizeof in;
    if (auto made = make_request(call)) // else the server keeps the node a while longer
        (void)enqueue(std::move(*made), false);
}

// --- beginning and end ---------------------------------------------------------------------------

Result<void> FuseConnection::start(VirtiofsSuperblock& fs, Ref<UserNamespace> ids) {
    MutexGuard guard(answer_mutex_);
    if (started())
        return fail(EINVAL);
    ids_ = std::move(ids);
    fuse_init_in in{};
    VirtiofsSuperblock::fill_init(in, largest_payload);
    FuseCall call;
    call.opcode = FUSE_INIT;
    call.in = &in;
    call.in_bytes = sizeof in;
    TRY(Ref<Request> made, make_request(call));
    first_unique_ = made->unique;
    fs_ = &fs;
    state_.store(State::Waiting, base::Order::Release);
    return enqueue(std::move(made), true);
}

void FuseConnection::disconnect(bool unmounted) {
    List orphans;
    {
        SpinGuard guard(queue_lock_);
        const State now = unmounted ? State::Unmounted : State::Closed;
        if (state_.load() == State::Unmounted)
            return;
        state_.store(now, base::Order::Release);
        for (List* list : {&waiting_, &sent_})
            while (Request* request = list->pop_front()) {
                request->queued = request->sent = false;
                orphans.push_back(*request);
            }
    }
    while (Request* request = orphans.pop_front()) {
        finish(*request, ENOTCONN, 0);
        request->release();
    }
    readers_.wake_all();
    ready_.wake_all();
    if (unmounted) {
        MutexGuard guard(answer_mutex_);
        fs_ = nullptr;
    }
}

void FuseConnection::finish(Request& request, int error, u32 length) {
    request.error = error;
    request.length = length;
    request.done.store(true, base::Order::Release);
    request.waiters.wake_all();
}

// --- the server ----------------------------------------------------------------------------------

Result<usize> FuseConnection::read(IoBuffer& out, bool non_blocking) {
    if (!started())
        return fail(EPERM);
    if (out.remaining() < FUSE_MIN_READ_BUFFER)
        return fail(EINVAL);
    for (;;) {
        Ref<Request> request;
        {
            SpinGuard guard(queue_lock_);
            if (!open())
                return fail(state_.load() == State::Unmounted ? ENODEV : ECONNABORTED);
            if (Request* first = waiting_.pop_front()) {
                request = Ref<Request>::adopt(first);
                request->queued = false;
                // Those that are not answered are done with.
                if (request->opcode != FUSE_FORGET && request->opcode != FUSE_INTERRUPT) {
                    request->sent = true;
                    request->add_ref();
                    sent_.push_back(*request);
                }
            }
        }
        if (!request) {
            if (non_blocking)
                return fail(EAGAIN);
            const auto more = [this] {
                SpinGuard guard(queue_lock_);
                return !waiting_.empty() || !open();
            };
            if (wait_until(readers_, more, no_deadline, TaskState::Interruptible, true) ==
                WaitOutcome::Interrupted)
                return fail(EINTR);
            continue;
        }
        const usize size = request->message.size();
        int error = 0;
        if (out.remaining() < size)
            error = EIO; // the server's buffer is too small for it: a request that fails
        else if (out.copy_out(request->message.data(), size) < size)
            error = EFAULT;
        if (error == 0) {
            request->message = Vector<u8>();
            return size;
        }
        if (Ref<Request> taken = take_sent(request->unique))
            finish(*taken, EIO, 0);
        if (error == EFAULT)
            return fail(EFAULT);
    }
}

Ref<FuseConnection::Request> FuseConnection::take_sent(u64 unique) {
    SpinGuard guard(queue_lock_);
    for (Request& request : sent_)
        if (request.unique == unique) {
            sent_.remove(request);
            request.sent = false;
            return Ref<Request>::adopt(&request);
        }
    return {};
}

// Lengths are checked against what was asked: the server is a program like any other.
Result<void> FuseConnection::deliver(Request& request, const fuse_out_header& header,
                                     const u8* body, u32 bytes) {
    const FuseCall* call = request.call;
    if (call == nullptr)
        return {};
    if (header.error != 0) {
        finish(request, -header.error, 0);
        return bytes == 0 ? Result<void>() : Result<void>(fail(EINVAL));
    }
    u32 room = call->out_bytes + call->out_data.bytes;
    if (!call->send_frames)
        room += call->frames_bytes;
    if (bytes < call->out_minimum || bytes > room) {
        finish(request, EIO, 0);
        return fail(EINVAL);
    }
    const u32 fixed = bytes < call->out_bytes ? bytes : call->out_bytes;
    if (call->out_bytes > 0) {
        __builtin_memcpy(call->out, body, fixed);
        __builtin_memset(static_cast<u8*>(call->out) + fixed, 0, call->out_bytes - fixed);
    }
    u32 at = fixed;
    const u32 data = bytes - at < call->out_data.bytes ? bytes - at : call->out_data.bytes;
    if (data > 0)
        __builtin_memcpy(call->out_data.data, body + at, data);
    at += data;
    for (usize i = 0; at < bytes; i++) {
        const u32 part = bytes - at < page_size ? bytes - at : static_cast<u32>(page_size);
        __builtin_memcpy(frame_data(*call->frames[i]), body + at, part);
        at += part;
    }
    finish(request, 0, bytes - fixed);
    return {};
}

Result<usize> FuseConnection::write(IoBuffer& in) {
    if (!started())
        return fail(EPERM);
    const usize size = in.remaining();
    fuse_out_header header{};
    if (size < sizeof header || size > largest_answer)
        return fail(EINVAL);
    auto* buffer = static_cast<u8*>(kmalloc(size));
    if (buffer == nullptr)
        return fail(ENOMEM);
    const bool copied = in.copy_in(buffer, size) == size;
    __builtin_memcpy(&header, buffer, sizeof header);
    const auto answer = [&]() -> Result<void> {
        if (!copied)
            return fail(EFAULT);
        // Notifications (unique 0) are not known here, which servers must expect.
        if (header.len != size || header.unique == 0 || header.error > 0 ||
            header.error < -largest_error)
            return fail(EINVAL);
        Ref<Request> request = take_sent(header.unique);
        if (!request)
            return fail(ENOENT);
        const u8* body = buffer + sizeof header;
        const u32 bytes = header.len - static_cast<u32>(sizeof header);
        MutexGuard guard(answer_mutex_);
        if (request->unique != first_unique_)
            return deliver(*request, header, body, bytes);
        const bool good = header.error == 0 && fs_ != nullptr && fs_->accept_init(body, bytes);
        guard.unlock();
        if (!good) {
            disconnect(false);
            return {};
        }
        State expected = State::Waiting;
        state_.compare_exchange(expected, State::Ready);
        ready_.wake_all();
        return {};
    };
    auto done = answer();
    kfree(buffer);
    if (!done)
        return fail(done.error().code);
    return size;
}

u32 FuseConnection::poll(PollTable* table) {
    if (table != nullptr)
        table->watch(readers_);
    if (!started())
        return poll_err;
    SpinGuard guard(queue_lock_);
    if (!open())
        return poll_out | poll_wrnorm | poll_err;
    return poll_out | poll_wrnorm | (waiting_.empty() ? 0u : poll_in | poll_rdnorm);
}

} // namespace kernel
