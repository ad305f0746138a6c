// Files that a crash of the machine may take: those that the next start of a container makes anew,
// and all of a container that is removed at its end.
#pragma once

#include <string>
#include <string_view>

#include "agent/os/error.hpp"

namespace joey::containers {

// The old file or the new one, for every reader; but not synced, which costs milliseconds on a
// disk. What is found empty after a crash counts as not there.
os::Result<void> write_quickly(const std::string& path, std::string_view text,
                               unsigned mode = 0600);

} // namespace joey::containers
