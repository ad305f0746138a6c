// The kernel log: typed formatting into one line, one exit to the VMM per line (20 us), off by
// level.
//   log::info("mounted {} with {} inodes", name, count);   {} decimal or text, {x} hexadecimal
#pragma once

#include <string_view>
#include <type_traits>

#include "boot/protocol/control.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel::log {

// NOLINTBEGIN(google-explicit-constructor): conversions are the point, as in the standard library's
// types
struct Argument {
    enum class Kind : u8 { Signed, Unsigned, Text } kind;
    u64 number = 0;
    std::string_view text{};

    template <typename T>
    requires(std::is_integral_v<T> || std::is_enum_v<T>) Argument(T value)
        : kind(std::is_signed_v<T> ? Kind::Signed : Kind::Unsigned),
          number(static_cast<u64>(static_cast<i64>(value))) {
        if constexpr (std::is_unsigned_v<T>)
            number = static_cast<u64>(value);
    }
    Argument(std::string_view value) : kind(Kind::Text), text(value) {}
    Argument(const char* value) : kind(Kind::Text), text(value) {}
    template <typename T>
    Argument(const T* value) : kind(Kind::Unsigned), number(reinterpret_cast<u64>(value)) {}
};

// NOLINTEND(google-explicit-constructor)
// Formats into `out` and returns the length used; what does not fit is cut.
usize format_to(char* out, usize capacity, std::string_view format, const Argument* arguments,
                usize count);

template <typename... A>
usize format(char* out, usize capacity, std::string_view text, const A&... arguments) {
    const Argument list[] = {Argument(0), Argument(arguments)...};
    return format_to(out, capacity, text, list + 1, sizeof...(A));
}

void write_line(boot::LogLevel level, std::string_view line); // to the VMM
// Keeps it for dmesg(1), and sends it to the VMM at its level.
void emit(boot::LogLevel level, std::string_view line);
// What is kept or sent at all.
bool wanted(boot::LogLevel level);
bool enabled(boot::LogLevel level);
void set_level(boot::LogLevel level);

template <typename... A>
void print(boot::LogLevel level, std::string_view text, const A&... arguments) {
    if (!wanted(level))
        return;
    char line[512];
    const usize length = format(line, sizeof line, text, arguments...);
    emit(level, std::string_view(line, length));
}
template <typename... A>
void error(std::string_view text, const A&... a) {
    print(boot::LogLevel::Error, text, a...);
}
template <typename... A>
void warning(std::string_view text, const A&... a) {
    print(boot::LogLevel::Warning, text, a...);
}
template <typename... A>
void info(std::string_view text, const A&... a) {
    print(boot::LogLevel::Info, text, a...);
}
template <typename... A>
void debug(std::string_view text, const A&... a) {
    print(boot::LogLevel::Debug, text, a...);
}

} // namespace kernel::log
