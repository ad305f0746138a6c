// Work for a kernel task: what a wake-up or a timer finds out and may not do itself, because it
// holds a lock or must not sleep.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/result.hpp"

namespace kernel {

struct Work {
    Work(void (*function)(void*), void* argument) : run(function), context(argument) {}
    base::ListNode node;
    void (*run)(void*);
    void* context;
    bool queued = false;
};

// Once, before the first queue_work(); later calls do nothing. May sleep.
Result<void> start_work_queue();
// Runs it soon; one that is running is run again. False: it was queued already. From wake functions
// too. The object must live until it has run.
bool queue_work(Work& work);

} // namespace kernel
