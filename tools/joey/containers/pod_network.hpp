// What several containers may share: a pod's VM; and the files that say how its network is.
#pragma once

#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

// hosts, resolv.conf and hostname in the container's directory, from where they are mounted.
os::Result<void> write_network_files(const Registry& registry, const Container& container,
                                     const std::string& directory);

// Starts the VM of the container's pod, if it has one and that does not run.
os::Result<void> join_pod(Registry& registry, const Container& container);
// Ends it with its last container.
void leave_pod(Registry& registry, const Container& container);

} // namespace joey::containers
