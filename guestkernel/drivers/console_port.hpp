// One direction of one port of the console: bytes to the host, or bytes from it. Internal to
// drivers/console*.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/fs/io_buffer.hpp"
#include "guestkernel/mm/frame.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

// Bytes on their way to the host. write() copies into frames of the kernel, so it returns before
// the host has the bytes; what may be on the way is bounded, and a slow host makes writers sleep.
class PortOutput {
public:
    Virtqueue queue;

    // Sends at least one byte unless it would block. EAGAIN, EPIPE (the host's reader is gone),
    // EINTR as restart_syscall.
    Result<usize> write(IoBuffer& in, bool non_blocking);
    bool can_write();
    // Also when the device has broken its queue: whoever waited for it would wait for ever.
    bool closed() const { return closed_ || queue.broken(); }
    void set_closed(); // the host's reader is gone
    void on_interrupt();
    void flush(); // sleeps until the host has everything
    // Whether it has; if not, an interrupt says when there is reason to look again.
    bool all_taken();
    WaitQueue waiters;

private:
    static constexpr usize max_in_flight = 512 * 1024;
    static constexpr unsigned max_order = 4; // 64 KiB a chain
    void reclaim_locked();
    bool offer(Frame& frame, bool& notify);

    SpinLock lock_{LockRank::Device};
    usize in_flight_ = 0;
    volatile bool closed_ = false;
};

// Bytes from the host. A buffer is offered only once somebody wants to read, so that input that no
// program of the guest reads stays with joey's caller.
class PortInput {
public:
    Virtqueue queue;

    Result<usize> read(IoBuffer& out, bool non_blocking);
    // Ready to read (data or end of file); asks the host for data if not.
    bool poll_ready();
    usize available();
    void set_end();
    void on_interrupt();
    WaitQueue waiters;

private:
    static constexpr unsigned buffer_order = 4;
    bool request_locked(bool& notify);

    SpinLock lock_{LockRank::Device};
    Frame* buffer_ = nullptr;
    usize filled_ = 0, taken_ = 0;
    bool requested_ = false;
    bool end_ = false;
};

} // namespace kernel
