// The devices that are not somebody else's: major 1.
#pragma once

namespace kernel {

// Once at boot; again is harmless.
void register_memory_devices();

} // namespace kernel
