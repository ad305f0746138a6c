#pragma once

#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace startup {

// "unix:PATH", "vsock:PORT" or "fd:NUMBER" (a socket that listens already).
os::Result<os::UniqueFd> open_listener(const std::string& address);

} // namespace startup
