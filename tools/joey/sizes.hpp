// Sizes as people type them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace joey {

// 4096, 64K, 512M, 2G, 2GiB: powers of 1024.
std::optional<std::uint64_t> parse_size(std::string_view text);

} // namespace joey
