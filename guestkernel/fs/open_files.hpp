// How many open file descriptions there are: fs.file-nr.
#pragma once

#include "base/atomic.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

extern base::Atomic<u32> open_files;

} // namespace kernel
