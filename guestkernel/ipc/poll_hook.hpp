// Waits on a file's readiness without a task: a function is called when a queue of the file wakes
// up. Between arm() and disarm() the file stays referenced by the caller.
#pragma once

#include "guestkernel/fs/file.hpp"
#include "guestkernel/ipc/queue_entries.hpp"
#include "guestkernel/task/process.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

class PollHook final : public PollTable {
public:
    // `function` runs with a queue's lock held (Waiter::function); it may queue_work() and nothing
    // that takes locks.
    PollHook(Waiter::WakeFunction function, void* context)
        : function_(function), context_(context) {}
    void watch(WaitQueue& queue) override {
        // A signalfd's queue is of the process that watches it, which may end first.
        if (!process_)
            process_ = Ref<Process>::share(current_task().process);
        failed_ |= !entries_.enter(queue, [this](Waiter& waiter) {
            waiter.function = function_;
            waiter.context = context_;
        });
    }
    // Ensures: the function does not run and will not be called.
    void disarm() {
        entries_.leave_all();
        process_ = nullptr;
    }
    bool failed() const { return failed_; } // a queue could not be watched: ENOMEM

private:
    Waiter::WakeFunction function_;
    void* context_;
    Ref<Process> process_; // outlives the entries
    QueueEntries<2> entries_;
    bool failed_ = false;
};

} // namespace kernel
