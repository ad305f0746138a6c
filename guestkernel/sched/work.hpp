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

// Before the first queue_work(), by each who will call that; later calls do nothing. May sleep.
Result<void> start_work_queue();
// Runs it soon; one that is running is run again. False: this call brings no run about, since it
// was queued already, or since nobody has started the queue, which is a mistake of the caller's
// and said in the log. From wake functions too. The object must live until it has run.
bool queue_work(Work& work);

namespace testing {

// Unit tests have no tasks: the queue counts as started (or not), and run_queued_work() runs what
// lies there, as the kernel's task would.
void stand_in_for_worker(bool started);
void run_queued_work();

} // namespace testing

} // namespace kernel
