#pragma once

#include <string>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace startup {

// "unix:PATH", "vsock:PORT" or "fd:NUMBER" (a socket that listens already).
os::Result<os::UniqueFd> open_listener(const std::string& address);
// Connects to "vsock:PORT" of the host; the result is to be kept until it has been heard.
os::Result<os::UniqueFd> say_ready(const std::string& address);

} // namespace startup
