#include "guestkernel/ipc/poll.hpp"

#include <linux/errno.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

namespace {

usize look(std::span<PollItem> items, PollTable* table) {
    usize ready = 0;
    for (PollItem& item : items) {
        if (!item.file)
            continue;
        // Once something is ready there will be no sleep, so nothing more needs to be watched.
        item.ready = item.file->poll(ready == 0 ? table : nullptr) & (item.wanted | item.unasked);
        ready += item.ready != 0 ? 1 : 0;
    }
    return ready;
}

} // namespace

Result<usize> poll_files(std::span<PollItem> items, u64 deadline_ns) {
    if (const usize ready = look(items, nullptr); ready > 0 || deadline_ns == 0)
        return ready;
    PollWaiters waiters;
    set_state(TaskState::Interruptible);
    usize ready = look(items, &waiters);
    while (ready == 0) {
        if (waiters.out_of_memory()) {
            set_state(TaskState::Running);
            return fail(ENOMEM);
        }
        if (signal_pending()) {
            set_state(TaskState::Running);
            return fail(restart_no_handler);
        }
        bool in_time = true;
        if (deadline_ns == no_deadline)
            schedule();
        else
            in_time = schedule_until(deadline_ns);
        set_state(TaskState::Interruptible);
        ready = look(items, nullptr);
        if (!in_time)
            break;
    }
    set_state(TaskState::Running);
    return ready;
}

} // namespace kernel
