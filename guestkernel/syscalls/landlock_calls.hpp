// Handlers: landlock.
#pragma once

#include "guestkernel/syscalls/syscall.hpp"

namespace kernel {

Result<long> sys_landlock_create_ruleset(Task& task, u64 attributes, u64 size, u32 flags);
Result<long> sys_landlock_add_rule(Task& task, int ruleset, u32 type, u64 rule, u32 flags);
Result<long> sys_landlock_restrict_self(Task& task, int ruleset, u32 flags);

} // namespace kernel
