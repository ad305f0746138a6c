// What a container's VM said, kept beyond its end.
#pragma once

#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

// Before the VM goes: its log becomes the container's vm.log, in place of an earlier one. Not of a
// pod's, which is not this container's alone, and not if the container is removed at its end.
void keep_vm_log(const Registry& registry, const Container& container);

} // namespace joey::containers
