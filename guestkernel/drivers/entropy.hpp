// The virtio entropy device (virtio 1.2, 5.4): seeds the kernel's generator.
#pragma once

namespace kernel {

// Asks the device, if there is one, for a seed. Without one RDRAND has to do.
void init_entropy();

} // namespace kernel
