// Building the first tree: the root share under its overlay, /proc, /sys, /dev, /tmp's behaviour,
// volumes.
#pragma once

#include "guestkernel/core/result.hpp"

namespace kernel {

// By boot_config(): mounts the root, the kernel's file systems and the volumes. Called once, in a
// kernel task.
Result<void> mount_first_root();

} // namespace kernel
