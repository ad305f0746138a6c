// Core files, core(5): what a debugger needs of a program that died of a signal.
#pragma once

#include <string_view>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

struct SignalInfo;
class Task;

// Ends the running task's process by this signal; writes its core file if limits and pattern allow.
// Returns the bit of the wait status that says so, or 0. The caller goes on to exit_process().
u32 dump_core(const SignalInfo& info);
// A thread that ends while another one dumps waits until that has its registers.
void park_for_core(Task& task);

// /proc/sys/kernel/core_pattern and core_uses_pid.
inline constexpr usize core_pattern_limit = 256;
usize core_pattern(char (&out)[core_pattern_limit]);
Result<void> set_core_pattern(std::string_view pattern); // EINVAL: too long, or a pipe
bool core_uses_pid();
void set_core_uses_pid(bool on);

} // namespace kernel
