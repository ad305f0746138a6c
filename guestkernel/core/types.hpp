// Integer shorthands and typed addresses of the kernel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/address.hpp"

namespace kernel {

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i8 = std::int8_t;
using i16 = std::int16_t;
using i32 = std::int32_t;
using i64 = std::int64_t;
using usize = std::size_t;

using PhysAddr = base::Address<struct PhysTag>; // guest-physical
using VirtAddr =
    base::Address<struct VirtTag>; // in a user address space (or, where said, the kernel's)

inline constexpr usize page_size = 4096;
inline constexpr unsigned page_shift = 12;

// User addresses are [user_min, user_max); the last page below the canonical hole stays unmapped,
// as in Linux.
inline constexpr u64 user_min = 0x1'0000;
inline constexpr u64 user_max = 0x7fff'ffff'f000;

constexpr u64 page_down(u64 value) {
    return value & ~(u64{page_size} - 1);
}
constexpr u64 page_up(u64 value) {
    return (value + page_size - 1) & ~(u64{page_size} - 1);
}

} // namespace kernel
