// Interval timers of a process (setitimer) and POSIX timers (timer_create).
#pragma once

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

class Process;
class Task;
struct QueuedSignal;
struct SignalInfo;

void destroy_process_timers(Process& process);      // at the end of the process
void delete_posix_timers(Process& process);         // exec
// A timer's signal is about to be delivered: fills in the overrun count and lets the timer queue the next one.
void finish_queued_signal(QueuedSignal& entry, SignalInfo& info);

} // namespace kernel
