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

// Finds the host's directory for core files, boot_config().core_directory, by the running task's
// root. Called before the first program runs: later its name may lead anybody elsewhere.
Result<void> find_core_directory();

// /proc/sys/kernel/core_pattern and core_uses_pid.
inline constexpr usize core_pattern_limit = 256;
usize core_pattern(char (&out)[core_pattern_limit]);
Result<void> set_core_pattern(std::string_view pattern); // EINVAL: too long, or a pipe
bool core_uses_pid();
void set_core_uses_pid(bool on);

} // namespace kernel
