#include "tools/joey/containers/table.hpp"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace joey::containers {

namespace {

// Characters, not bytes.
std::size_t width_of(const std::string& text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
    }));
}

} // namespace

std::string table(const std::vector<std::vector<std::string>>& rows) {
    std::vector<std::size_t> widths(rows.front().size());
    for (const auto& row : rows) {
        for (std::size_t i = 0; i < row.size(); ++i)
            widths[i] = std::max(widths[i], width_of(row[i]));
    }
    constexpr std::size_t gap = 3;
    std::string out;
    for (const auto& row : rows) {
        std::string line;
        for (std::size_t i = 0; i < row.size(); ++i)
            line += row[i] + std::string(widths[i] - width_of(row[i]) + gap, ' ');
        line.erase(line.find_last_not_of(' ') + 1);
        out += line + "\n";
    }
    return out;
}

std::string length_of_time(std::int64_t nanoseconds) {
    constexpr std::int64_t minute = 60;
    constexpr std::int64_t hour = 60 * minute;
    constexpr std::int64_t day = 24 * hour;
    const std::int64_t seconds = nanoseconds / 1'000'000'000;
    if (seconds < 1)
        return "Less than a second";
    if (seconds == 1)
        return "1 second";
    if (seconds < minute)
        return fmt::format("{} seconds", seconds);
    if (seconds < 2 * minute)
        return "About a minute";
    if (seconds < hour)
        return fmt::format("{} minutes", seconds / minute);
    if (seconds < 2 * hour)
        return "About an hour";
    if (seconds < 2 * day)
        return fmt::format("{} hours", seconds / hour);
    if (seconds < 14 * day)
        return fmt::format("{} days", seconds / day);
    if (seconds < 60 * day)
        return fmt::format("{} weeks", seconds / (7 * day));
    if (seconds < 730 * day)
        return fmt::format("{} months", seconds / (30 * day));
    return fmt::format("{} years", seconds / (365 * day));
}

std::string size_in_binary(std::uint64_t bytes) {
    constexpr std::array<const char*, 5> units = {"B", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    constexpr double step = 1024;
    for (; value >= step && unit + 1 < units.size(); ++unit)
        value /= step;
    return fmt::format("{:.4g}{}", value, units[unit]);
}

} // namespace joey::containers
