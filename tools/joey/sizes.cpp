#include "tools/joey/sizes.hpp"

#include <algorithm>
#include <charconv>

namespace joey {

namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// What is after the point, of one; nothing: there are no digits.
std::optional<double> take_fraction(std::string_view& text) {
    double out = 0;
    double unit = 0.1;
    const std::size_t before = text.size();
    for (; !text.empty() && is_digit(text.front()); text.remove_prefix(1)) {
        out += unit * (text.front() - '0');
        unit /= 10;
    }
    return text.size() == before ? std::nullopt : std::optional(out);
}

// "", "b", "k", "kb", "kib", whatever their case: how far the number is shifted.
std::optional<unsigned> shift_of(std::string_view unit) {
    constexpr std::string_view units = "bkmgtp";
    if (unit.empty())
        return 0;
    const std::size_t which = units.find(static_cast<char>(unit[0] | 0x20));
    std::string_view rest = unit.substr(1);
    if (which != 0 && rest.size() == 2 && (rest[0] | 0x20) == 'i')
        rest.remove_prefix(1);
    const bool is_whole =
        rest.empty() || (which != 0 && rest.size() == 1 && (rest[0] | 0x20) == 'b');
    if (which == std::string_view::npos || !is_whole)
        return std::nullopt;
    return static_cast<unsigned>(10 * which);
}

} // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) {
    const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
    std::uint64_t number = 0;
    if (digits != 0 && std::from_chars(text.data(), text.data() + digits, number).ec != std::errc())
        return std::nullopt;
    text.remove_prefix(digits);
    std::optional<double> fraction;
    if (text.starts_with('.')) {
        text.remove_prefix(1);
        fraction = take_fraction(text);
    }
    const auto shift = shift_of(text);
    if ((digits == 0 && !fraction) || !shift || number > (UINT64_MAX >> *shift))
        return std::nullopt;
    // Less than one unit, so that it fits below the number's bits.
    const double part = fraction.value_or(0) * static_cast<double>(std::uint64_t{1} << *shift);
    std::uint64_t out = 0;
    if (__builtin_add_overflow(number << *shift, static_cast<std::uint64_t>(part), &out))
        return std::nullopt;
    return out;
}

} // namespace joey
