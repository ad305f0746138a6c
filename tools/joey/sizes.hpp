// Sizes as people type them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace joey {

// 4096, 64K, 512m, 2GiB, 1.5gb: powers of 1024, as Docker's users type them.
std::optional<std::uint64_t> parse_size(std::string_view text);

} // namespace joey
