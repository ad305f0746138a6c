#include "guestkernel/drivers/console_port.hpp"

#include <linux/errno.h>

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

namespace {

unsigned order_for(usize bytes, unsigned limit) {
    unsigned order = 0;
    while (order < limit && (usize{page_size} << order) < bytes)
        order++;
    return order;
}

} // namespace

void PortOutput::reclaim_locked() {
    Virtqueue::Used used;
    while (queue.take_used(used)) {
        auto* frame = static_cast<Frame*>(used.token);
        in_flight_ -= frame->index; // the chain's length was parked there
        frame->index = 0;
        put_frame(*frame);
    }
}

bool PortOutput::can_write() {
    SpinGuard guard(lock_);
    reclaim_locked();
    const bool room = closed() || (in_flight_ < max_in_flight && queue.free_descriptors() > 0);
    if (!room && !queue.enable_interrupts()) {
        reclaim_locked();
        return true;
    }
    return room;
}

// The chain's length is in `frame.index`. False: there is no descriptor for it.
bool PortOutput::offer(Frame& frame, bool& notify) {
    SpinGuard guard(lock_);
    const DeviceSegment segment[] = {{frame_to_phys(frame), static_cast<u32>(frame.index)}};
    if (!queue.submit(segment, {}, &frame))
        return false;
    in_flight_ += frame.index;
    notify = queue.needs_notification();
    return true;
}

Result<usize> PortOutput::write(IoBuffer& in, bool non_blocking) {
    usize sent = 0;
    while (in.remaining() > 0) {
        if (closed())
            return fail(EPIPE);
        if (!can_write()) {
            if (sent > 0 && non_blocking)
                return sent;
            if (non_blocking)
                return fail(EAGAIN);
            if (wait_until(waiters, [&] { return can_write(); }) == WaitOutcome::Interrupted) {
                if (sent > 0)
                    return sent;
                return fail(restart_syscall);
            }
            continue;
        }
        const unsigned order = order_for(in.remaining(), max_order);
        Frame* frame = alloc_frames(order);
        if (frame == nullptr && order > 0)
            frame = alloc_frame();
        if (frame == nullptr)
            return fail(ENOMEM);
        const usize capacity = usize{page_size} << frame->order;
        const usize copied =
            in.copy_in(frame_data(*frame), in.remaining() < capacity ? in.remaining() : capacity);
        if (copied == 0) {
            put_frame(*frame);
            if (sent > 0)
                return sent;
            return fail(EFAULT);
        }
        frame->index = copied;
        bool notify = false;
        // Another writer may have taken the last descriptor: these bytes were copied in and must
        // not be lost.
        while (!offer(*frame, notify)) {
            if (closed()) {
                frame->index = 0;
                put_frame(*frame);
                return fail(EPIPE);
            }
            wait_until(
                waiters, [&] { return can_write(); }, no_deadline, TaskState::Uninterruptible);
        }
        if (notify)
            queue.notify_now();
        sent += copied;
    }
    return sent;
}

void PortOutput::set_closed() {
    closed_ = true;
    waiters.wake_all();
}

void PortOutput::on_interrupt() {
    {
        SpinGuard guard(lock_);
        reclaim_locked();
        if (in_flight_ > 0 && waiters.has_waiters() && !queue.enable_interrupts())
            reclaim_locked();
    }
    waiters.wake_all();
}

bool PortOutput::all_taken() {
    SpinGuard guard(lock_);
    reclaim_locked();
    // Until the wish for an interrupt stands behind all that came back: one that stands before some
    // of it is not heard of any more.
    while (in_flight_ > 0 && !queue.enable_interrupts() && !queue.broken())
        reclaim_locked();
    return in_flight_ == 0 || closed_ || queue.broken();
}

void PortOutput::flush() {
    wait_until(
        waiters, [this] { return all_taken(); }, no_deadline, TaskState::Uninterruptible);
}

// Asks the host for data. False: the answer was quicker than the wish to hear of it, so that nobody
// will say that it is there.
bool PortInput::request_locked(bool& notify) {
    if (requested_)
        return true;
    if (buffer_ == nullptr)
        buffer_ = alloc_frames(buffer_order, false);
    if (buffer_ == nullptr)
        buffer_ = alloc_frames(0, false);
    if (buffer_ == nullptr)
        return true; // the next poll or read tries again
    filled_ = taken_ = 0;
    const DeviceSegment segment[] = {
        {frame_to_phys(*buffer_), static_cast<u32>(usize{page_size} << buffer_->order)}};
    if (!queue.submit({}, segment, this))
        return true;
    requested_ = true;
    notify = queue.needs_notification() || notify;
    return queue.enable_interrupts();
}

bool PortInput::poll_ready() {
    bool notify = false;
    bool ready = false;
    {
        SpinGuard guard(lock_);
        do {
            Virtqueue::Used used;
            while (queue.take_used(used)) {
                requested_ = false;
                filled_ = used.written;
                taken_ = 0;
            }
            ready = taken_ < filled_ || end_;
        } while (!ready && !request_locked(notify) && !queue.broken());
    }
    if (notify)
        queue.notify_now();
    return ready;
}

usize PortInput::available() {
    poll_ready();
    SpinGuard guard(lock_);
    return filled_ - taken_;
}

Result<usize> PortInput::read(IoBuffer& out, bool non_blocking) {
    if (out.remaining() == 0)
        return usize{0};
    for (;;) {
        if (!poll_ready()) {
            if (non_blocking)
                return fail(EAGAIN);
            if (wait_until(waiters, [&] { return poll_ready(); }) == WaitOutcome::Interrupted)
                return fail(restart_syscall);
        }
        // Taken out of the lock for the copy, which may fault and sleep: a second reader goes for
        // what comes after.
        Frame* frame = nullptr;
        usize from = 0;
        usize bytes = 0;
        {
            SpinGuard guard(lock_);
            if (taken_ == filled_) {
                if (end_)
                    return usize{0};
                continue; // another reader was faster
            }
            frame = buffer_;
            get_frame(*frame);
            from = taken_;
            bytes = filled_ - taken_ < out.remaining() ? filled_ - taken_ : out.remaining();
            taken_ += bytes;
            if (taken_ == filled_) {
                put_frame(*buffer_); // our own reference keeps it until the copy is done
                buffer_ = nullptr;
                taken_ = filled_ = 0;
            }
        }
        const usize copied = out.copy_out(static_cast<u8*>(frame_data(*frame)) + from, bytes);
        put_frame(*frame);
        if (copied == 0)
            return fail(EFAULT);
        return copied;
    }
}

void PortInput::set_end() {
    {
        SpinGuard guard(lock_);
        end_ = true;
    }
    waiters.wake_all();
}

void PortInput::on_interrupt() {
    waiters.wake_all();
}

} // namespace kernel
