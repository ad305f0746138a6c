#pragma once

#include "agent/os/error.hpp"

namespace startup {

// Before a container's program runs, its process runs the agent's, and /proc/PID/exe leads there: a
// hostile container could write to it. Unless that is impossible (a read-only file system), the
// agent starts itself again from a sealed copy in memory.
os::Result<void> protect_own_program(char** argv);

} // namespace startup
