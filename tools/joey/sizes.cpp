#include "tools/joey/sizes.hpp"

#include <algorithm>
#include <charconv>

namespace joey {

std::optional<std::uint64_t> parse_size(std::string_view text) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + digits, number);
    std::string_view unit = text.substr(digits);
    for (const std::string_view suffix : {"iB", "B"}) {
        if (unit.size() > suffix.size() && unit.ends_with(suffix)) {
            unit.remove_suffix(suffix.size());
            break;
        }
    }
    if (digits == 0 || error != std::errc() || unit.size() > 1)
        return std::nullopt;
    unsigned shift = 0;
    if (!unit.empty()) {
        constexpr std::string_view units = "kmgt";
        const std::size_t which = units.find(static_cast<char>(unit[0] | 0x20));
        if (which == std::string_view::npos)
            return std::nullopt;
        shift = static_cast<unsigned>(10 * (which + 1));
    }
    if (number > (UINT64_MAX >> shift))
        return std::nullopt;
    return number << shift;
}

} // namespace joey
