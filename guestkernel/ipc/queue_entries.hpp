// The wait queues that one waiter stands in: a few without memory of their own, more with it.
#pragma once

#include <new>

#include "guestkernel/sched/wait_queue.hpp"

namespace kernel {

template <usize Few>
class QueueEntries {
public:
    QueueEntries() = default;
    QueueEntries(const QueueEntries&) = delete;
    QueueEntries& operator=(const QueueEntries&) = delete;
    ~QueueEntries() { leave_all(); }

    // `prepare` fills the Waiter in. False: there is no memory, and the queue is not waited on.
    template <typename Prepare>
    bool enter(WaitQueue& queue, const Prepare& prepare) {
        Entry* entry = used_ < Few ? &inline_[used_++] : extra();
        if (entry == nullptr)
            return false;
        entry->queue = &queue;
        prepare(entry->waiter);
        queue.add(entry->waiter);
        return true;
    }
    // Ensures: no waiter's function runs or will be called.
    void leave_all() {
        while (used_ > 0) {
            Entry& entry = inline_[--used_];
            entry.queue->remove(entry.waiter);
        }
        while (more_ != nullptr) {
            Entry* entry = more_;
            more_ = entry->next;
            entry->queue->remove(entry->waiter);
            delete entry;
        }
    }

private:
    struct Entry {
        Waiter waiter;
        WaitQueue* queue = nullptr;
        Entry* next = nullptr;
    };
    Entry* extra() {
        auto* entry = new (std::nothrow) Entry();
        if (entry != nullptr) {
            entry->next = more_;
            more_ = entry;
        }
        return entry;
    }
    Entry inline_[Few];
    usize used_ = 0;
    Entry* more_ = nullptr;
};

} // namespace kernel
