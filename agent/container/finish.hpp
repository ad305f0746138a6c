// The last steps before a program runs, the same for containers and for what is executed in them.
#pragma once

#include <string>

#include "agent/container/plan.hpp"
#include "agent/container/terminal.hpp"

namespace container {

// Standard streams: the terminal's, when there is one, else the plan's.
os::Result<void> connect_streams(const ProcessPlan& plan, const Terminal& terminal);
// Has the builder raise the hard limits that need it.
os::Result<void> ask_for_limits(const spec::Process& process, int sync);
// User, groups, umask and capabilities; CAP_SYS_ADMIN stays until execute(), which may need it for
// the filter. The working directory. Then the program's path, looked up as that user.
os::Result<std::string> become_user(const spec::Process& process);
// Says that it is ready, waits for the agent's word, and returns when it has come. The process ends
// if the agent is gone.
os::Result<void> wait_for_start(const ProcessPlan& plan, int sync);
// Returns only on failure. The preserved descriptors take their numbers.
os::Error execute(const ProcessPlan& plan, const SeccompFilter& filter, const std::string& program);

} // namespace container
