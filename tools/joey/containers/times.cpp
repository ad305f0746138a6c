// Times and durations as people type them.
#include <charconv>
#include <ctime>
#include <optional>

#include "tools/joey/containers/log_file.hpp"

namespace joey::containers {

namespace {

constexpr std::int64_t second = 1'000'000'000;

// The digits after a point, as nanoseconds.
std::int64_t fraction_of(std::string_view& text) {
    std::int64_t unit = second;
    std::int64_t out = 0;
    while (!text.empty() && text.front() >= '0' && text.front() <= '9') {
        unit /= 10;
        out += unit * (text.front() - '0');
        text.remove_prefix(1);
    }
    return out;
}

struct Unit {
    std::string_view name;
    std::int64_t nanoseconds;
};
constexpr Unit units[] = {{"ns", 1},     {"us", 1000},       {"ms", 1'000'000},
                          {"s", second}, {"m", 60 * second}, {"h", 3600 * second}};

} // namespace

os::Result<std::int64_t> parse_duration(std::string_view text) {
    constexpr std::int64_t longest = std::int64_t{100} * 365 * 86400 * second;
    const auto wrong = [&] {
        return os::fail(os::Code::InvalidArgument, "'", text.substr(0, 40),
                        "' is no length of time; give one such as 30s, 1m30s or 500ms");
    };
    std::string_view rest = text;
    std::int64_t sum = 0;
    if (rest.empty())
        return wrong();
    while (!rest.empty()) {
        std::int64_t whole = 0;
        const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), whole);
        if (error != std::errc() || whole < 0)
            return wrong();
        rest.remove_prefix(static_cast<std::size_t>(end - rest.data()));
        std::int64_t fraction = 0;
        if (rest.starts_with('.')) {
            rest.remove_prefix(1);
            fraction = fraction_of(rest);
        }
        const std::string_view name =
            rest.substr(0, std::min(rest.find_first_of("0123456789"), rest.size()));
        std::int64_t scale = 0;
        for (const Unit& unit : units)
            scale = unit.name == name ? unit.nanoseconds : scale;
        if (scale == 0 && !(name.empty() && text == "0"))
            return wrong();
        rest.remove_prefix(name.size());
        std::int64_t product = 0;
        if (__builtin_mul_overflow(whole, scale, &product) ||
            __builtin_add_overflow(sum, product, &sum) || sum > longest)
            return wrong();
        sum += static_cast<std::int64_t>(static_cast<double>(fraction) / second *
                                         static_cast<double>(scale));
    }
    return sum;
}

namespace {

// Nanoseconds end in 2262: what is later, or long ago, is the last or first of them.
std::int64_t in_nanoseconds(std::int64_t seconds, std::int64_t fraction) {
    std::int64_t out = 0;
    if (__builtin_mul_overflow(seconds, second, &out) ||
        __builtin_add_overflow(out, fraction, &out))
        return seconds < 0 ? INT64_MIN : INT64_MAX;
    return out;
}

// "+02:00"
std::optional<std::int64_t> zone_in(std::string_view text) {
    int hours = 0;
    int minutes = 0;
    if (text == "Z")
        return 0;
    if (text.size() != 6 || (text.front() != '+' && text.front() != '-'))
        return std::nullopt;
    std::from_chars(text.data() + 1, text.data() + 3, hours);
    std::from_chars(text.data() + 4, text.data() + 6, minutes);
    const std::int64_t offset = hours * 3600 + minutes * 60;
    return text.front() == '+' ? offset : -offset;
}

// A date, with as much of the time as is given. Without a zone it is of the one here.
std::optional<std::int64_t> absolute_time(std::string_view text, bool is_local) {
    const std::string whole(text.substr(0, 40));
    for (const char* format : {"%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H", "%Y-%m-%d"}) {
        tm parts{};
        const char* end = ::strptime(whole.c_str(), format, &parts);
        if (end == nullptr)
            continue;
        std::string_view rest(end);
        std::int64_t fraction = 0;
        if (rest.starts_with('.')) {
            rest.remove_prefix(1);
            fraction = fraction_of(rest);
        }
        const auto zone = zone_in(rest);
        if (!zone && !rest.empty())
            return std::nullopt;
        parts.tm_isdst = -1; // the zone says whether it is summer
        const std::int64_t seconds =
            zone || !is_local ? ::timegm(&parts) - zone.value_or(0) : ::mktime(&parts);
        return in_nanoseconds(seconds, fraction);
    }
    return std::nullopt;
}

} // namespace

std::int64_t nanoseconds_of(std::string_view rfc3339) {
    return absolute_time(rfc3339, false).value_or(0);
}

std::int64_t now_nanoseconds() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return now.tv_sec * second + now.tv_nsec;
}

os::Result<std::int64_t> parse_time(std::string_view text) {
    if (const auto time = absolute_time(text, true))
        return *time;
    std::int64_t whole = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), whole);
    std::string_view rest(end, static_cast<std::size_t>(text.data() + text.size() - end));
    constexpr std::int64_t last = 9'000'000'000; // seconds; nanoseconds still fit
    if (error == std::errc() && whole >= 0 && whole < last && (rest.empty() || rest[0] == '.')) {
        if (!rest.empty())
            rest.remove_prefix(1);
        return whole * second + fraction_of(rest);
    }
    TRY(const std::int64_t ago, parse_duration(text));
    return now_nanoseconds() - ago;
}

} // namespace joey::containers
