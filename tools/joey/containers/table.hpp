// Tables and words as Docker's users know them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace joey::containers {

// Columns as wide as their widest cell, three blanks apart. Requires: a heading.
std::string table(const std::vector<std::vector<std::string>>& rows);
// "Less than a second", "5 minutes", "About an hour", "3 days".
std::string length_of_time(std::int64_t nanoseconds);
// "12.5MiB".
std::string size_in_binary(std::uint64_t bytes);

} // namespace joey::containers
