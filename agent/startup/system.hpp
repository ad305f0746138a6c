#pragma once

#include "agent/os/error.hpp"

namespace startup {

// What pid 1 of a guest finds missing: proc, sysfs, devices, terminals, shared memory, /run,
// control groups. What is mounted already stays, but for a proc of another pid namespace
// (`new_pids`).
os::Result<void> set_up_system(bool new_pids);

// A machine that is out of memory ends its containers' programs, and not what all of them end with.
void outlive_want_of_memory();

} // namespace startup
