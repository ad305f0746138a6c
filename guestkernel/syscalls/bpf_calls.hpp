// Handlers: bpf.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_bpf(Task& task, u32 command, u64 attributes, u32 size);

} // namespace kernel
