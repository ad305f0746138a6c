// core/speculation.hpp's measures, carried out on this machine.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {
class Task;
}

namespace kernel::arch {

// For each CPU as it starts; the first one decides for all. Requires: ring3_mode is set, interrupts
// are off, one CPU runs when it is the first.
void init_speculation(unsigned cpu);
// Before the running CPU's stacks change to those of `to`: what another program trained must not
// steer it, if either asked.
void switch_speculation(const Task& to);

} // namespace kernel::arch
