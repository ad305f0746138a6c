// What uname(2) and /proc/sys/kernel say.
#pragma once

#include <string_view>

#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

inline constexpr usize uts_length = 64; // of each name, without the NUL

inline constexpr std::string_view uts_sysname = "Linux";
// The version of Linux whose ABI is implemented; programs look at the numbers.
inline constexpr std::string_view uts_release = "6.1.0-joey";
inline constexpr std::string_view uts_version = "#1 SMP Joey";
inline constexpr std::string_view uts_machine = "x86_64";

// The node name (at boot: BootConfig::hostname) and the NIS domain. Copies what is there, with a
// NUL; returns the length.
usize get_hostname(char (&out)[uts_length + 1]);
usize get_domainname(char (&out)[uts_length + 1]);
// EINVAL: too long.
Result<void> set_hostname(std::string_view name);
Result<void> set_domainname(std::string_view name);

} // namespace kernel
