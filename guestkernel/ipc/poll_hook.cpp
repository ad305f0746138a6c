#include "guestkernel/ipc/poll_hook.hpp"

namespace kernel {

void PollHook::watch(WaitQueue& queue) {
    Entry* entry = nullptr;
    if (used_ < inline_entries) {
        entry = &inline_[used_++];
    } else {
        entry = new (std::nothrow) Entry();
        if (entry == nullptr) {
            failed_ = true;
            return;
        }
        entry->next = more_;
        more_ = entry;
    }
    entry->queue = &queue;
    entry->waiter.function = function_;
    entry->waiter.context = context_;
    queue.add(entry->waiter);
}

void PollHook::disarm() {
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

} // namespace kernel
