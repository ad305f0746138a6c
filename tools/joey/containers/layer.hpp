// A container's root directory: an image's, which nobody writes to, with a layer of the container's
// own above it, by the host's overlayfs. It is mounted in the monitor's mount namespace, from where
// the pod's share takes it; the host's own namespace never has it, so nothing stays mounted when
// everybody is killed.
#pragma once

#include "tools/joey/containers/container.hpp"

namespace joey::containers {

// Makes what `container.layer` needs, and decides between an overlay and, where the host's file
// system cannot have one, a copy. Sets root, layer and lower.
os::Result<void> prepare_layer(Container& container, const std::string& directory,
                               const std::string& image_root);
// A mount namespace of this process's own. Requires: one thread.
os::Result<void> enter_own_mounts();
// Mounts the root directory, if it is one to be mounted. Requires: enter_own_mounts().
os::Result<void> mount_root(const Container& container);

// Takes it away again.
void unmount_root(const Container& container);

// All that is below an open directory, to an existing one; owners, times and links as they are.
os::Result<void> copy_tree(int from, const std::string& to);

} // namespace joey::containers
