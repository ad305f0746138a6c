// Waits on a file's readiness without a task: a function is called when a queue of the file wakes
// up. Between arm() and disarm() the file stays referenced by the caller.
#pragma once

#include "guestkernel/fs/file.hpp"

namespace kernel {

class PollHook final : public PollTable {
public:
    // `function` runs with a queue's lock held (Waiter::function); it may queue_work() and nothing
    // that takes locks.
    PollHook(Waiter::WakeFunction function, void* context)
        : function_(function), context_(context) {}
    ~PollHook() override { disarm(); }
    void watch(WaitQueue& queue) override;
    // Ensures: the function does not run and will not be called.
    void disarm();
    bool failed() const { return failed_; } // a queue could not be watched: ENOMEM

private:
    struct Entry {
        Waiter waiter;
        WaitQueue* queue = nullptr;
        Entry* next = nullptr;
    };
    static constexpr usize inline_entries = 2;
    Waiter::WakeFunction function_;
    void* context_;
    Entry inline_[inline_entries];
    usize used_ = 0;
    Entry* more_ = nullptr;
    bool failed_ = false;
};

} // namespace kernel
