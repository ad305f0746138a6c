// joey-init: what --init puts before a container's program.
#pragma once

#include <string>

#include "agent/os/error.hpp"

namespace joey::containers {

// Beside joey, or where it was built or installed.
os::Result<std::string> find_init();

} // namespace joey::containers
