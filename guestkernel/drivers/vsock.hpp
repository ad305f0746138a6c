// virtio-vsock (virtio 1.2, 5.10): carries the packets of ipc/vsock between this guest and its
// host.
#pragma once

#include "guestkernel/core/result.hpp"

namespace kernel {

// Finds and starts the device; nothing to do without one. Requires: init_vsock() ran.
Result<void> init_vsock_device();
// Waits until the host has taken what programs have sent, for a while; before power-off.
void flush_vsock_device();

#ifdef JOEY_HOSTED
// What an interrupt runs; and, for tests, an end to the device's life.
void vsock_device_interrupt();
void forget_vsock_device();
#endif

} // namespace kernel
