// Handlers: keyrings.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_add_key(Task& task, u64 type, u64 description, u64 payload, u64 bytes, i32 ring);
Result<long> sys_request_key(Task& task, u64 type, u64 description, u64 callout, i32 ring);
Result<long> sys_keyctl(Task& task, int operation, u64 a, u64 b, u64 c, u64 d);

} // namespace kernel
