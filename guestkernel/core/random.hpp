// The kernel's random numbers: ChaCha20, seeded from RDSEED/RDRAND, the TSC and the virtio entropy
// device.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

void init_random();
void add_entropy(const void* data, usize bytes);
void random_bytes(void* out, usize bytes); // cryptographic quality; any task context
inline u64 random_u64() {
    u64 value = 0;
    random_bytes(&value, sizeof value);
    return value;
}

} // namespace kernel
