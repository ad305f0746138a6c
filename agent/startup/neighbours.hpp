#pragma once

#include <string>

#include "agent/os/error.hpp"

namespace startup {

// "ADDRESS=MAC": for good, on the first interface that is not loopback.
os::Result<void> add_neighbour(const std::string& text);

} // namespace startup
