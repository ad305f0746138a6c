// Monitor: the process that looks after one container: its streams, its log, those who watch it,
// its health, and what is to happen when it ends. It lives as long as the container runs or is to
// be started again.
#pragma once

#include "tools/joey/containers/attachment.hpp"
#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

// What whoever starts a container wants of it.
struct Start {
    unsigned wants = 0; // of `Wants`
    Size size;          // of the terminal
};

// Starts the container's monitor, which starts the container. The result: a socket on which it says
// Started or Failed, then what is wanted, and last Ended. Requires: the container's lock, and that
// it does not run.
os::Result<os::UniqueFd> start_monitor(Registry& registry, const Container& container,
                                       const Start& start);

// The exit status that Docker's users know for a container that could not be started.
int status_of_failure(const os::Error& error);

} // namespace joey::containers
