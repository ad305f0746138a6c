// How many bytes a socket's buffers take if nobody says otherwise.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

// net.core.rmem_default, wmem_default, rmem_max and wmem_max at boot, as Linux has them.
inline constexpr u32 default_socket_buffer = 212992;

} // namespace kernel
