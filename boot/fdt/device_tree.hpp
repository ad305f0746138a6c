// Writes the device tree of boot/protocol/device_tree.hpp.
#pragma once

#include <cstddef>
#include <vector>

#include "boot/error.hpp"
#include "boot/fdt/guest_description.hpp"

namespace boot {

// The whole of the tree; virtio devices are numbered 0..virtio_devices-1.
Result<std::vector<std::byte>> build_device_tree(const GuestDescription& guest,
                                                 unsigned virtio_devices);

} // namespace boot
