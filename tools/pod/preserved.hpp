// Descriptors beside the standard streams that a caller hands to a program in the guest, as runc's
// --preserve-fds: what is a stream of bytes is relayed, what is anything else cannot be.
#pragma once

#include <vector>

#include "agent/os/error.hpp"
#include "agent/protocol/agent.pb.h"

namespace pod {

struct PreservedFd {
    int fd = -1;
    joey::agent::v1::Preserved kind = joey::agent::v1::DEV_NULL;
};

// The caller's descriptors from 3 on, `count` of them. An error names the first that is not open or
// cannot be relayed, and what it is.
os::Result<std::vector<PreservedFd>> preserved_fds(unsigned count);

// How many descriptors a service manager has passed to this process (sd_listen_fds(3)).
unsigned passed_by_service_manager();

} // namespace pod
