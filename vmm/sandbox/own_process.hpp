// The one value of a filter that is known only when joey runs: the number of its own process. Where
// a row of rules.def has this in its place, it is written into the program before that is
// installed.
#pragma once

#include <cstdint>

namespace vmm {

// No process has it (proc(5), pid_max), and nothing else is compared with it.
inline constexpr std::uint32_t own_process = 0x7f6f'6579;

} // namespace vmm
