// What a member of a limited group sees of the machine in /proc: as many CPUs and as much memory as
// it may use, and its group's use of them. Without limits: the machine itself.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

struct ResourceView {
    bool limited = false; // there is a limit somewhere: the figures below are the group's
    u64 cpus = ~u64{0};   // which may be used, by cpuset and bandwidth
    bool memory = false;  // memory is limited
    u64 memory_total = 0, memory_used = 0; // pages
    u64 anonymous = 0, file = 0, shared = 0, tables = 0, stacks = 0, kernel = 0;
    u64 born_ns = 0; // when the group was made: its uptime counts from there
    u64 usage_ns = 0, system_ns = 0, nice_ns = 0;
    u64 load[3] = {}; // as load_averages()
    u32 running = 0, tasks = 0;
};

// Of the running task's group. `with_load`: load, running and tasks are wanted.
ResourceView resource_view(bool with_load = false);

} // namespace kernel
