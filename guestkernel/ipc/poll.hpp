// Waiting for several files at once: what poll(2) and select(2) share.
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/ipc/queue_entries.hpp"
#include "guestkernel/lib/vector.hpp"

namespace kernel {

// The wait queues that a sleeping poll(2) is in. The files stay referenced by the caller while it
// exists.
class PollWaiters final : public PollTable {
public:
    void watch(WaitQueue& queue) override {
        out_of_memory_ |= !entries_.enter(queue, [](Waiter& waiter) { init_waiter(waiter); });
    }
    bool out_of_memory() const { return out_of_memory_; }

private:
    QueueEntries<8> entries_;
    bool out_of_memory_ = false;
};

struct PollItem {
    Ref<File> file; // null: ignored
    u32 wanted = 0; // POLL*
    u32 ready = 0;
    u32 unasked = 0x18; // POLLERR, POLLHUP: what counts in any case; select(2) has no such
};

// Fills `ready` of each item; returns how many are not zero. Sleeps until there is one, the
// deadline (monotonic ns; no_deadline: none, 0: do not sleep) has passed, or a signal comes
// (EINTR's kind: restart_no_handler).
Result<usize> poll_files(std::span<PollItem> items, u64 deadline_ns);

} // namespace kernel
