// How large a machine can be: for who reads options and configurations, too.
#pragma once

#include <cstdint>

namespace vmm {

inline constexpr std::uint64_t min_memory_bytes = 32u << 20; // less does not boot
inline constexpr std::uint64_t max_memory_bytes = 1ull << 40;

} // namespace vmm
