// The number of /dev/vsock. Linux gives it any free one among the miscellaneous devices.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr u32 misc_major = 10, vsock_minor = 258;

} // namespace kernel
