// Arithmetic on numbers that somebody else chose: the result, or nothing when it does not fit.
#pragma once

#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>

namespace base {

template <std::integral T>
constexpr std::optional<T> checked_add(T a, T b) {
    T result{};
    if (__builtin_add_overflow(a, b, &result))
        return std::nullopt;
    return result;
}

template <std::integral T>
constexpr std::optional<T> checked_mul(T a, T b) {
    T result{};
    if (__builtin_mul_overflow(a, b, &result))
        return std::nullopt;
    return result;
}

// The same number in another integer type, or nothing when that type cannot hold it.
template <std::integral To, std::integral From>
constexpr std::optional<To> checked_cast(From value) {
    const To cast = static_cast<To>(value);
    if (static_cast<From>(cast) != value || (cast < To{}) != (value < From{}))
        return std::nullopt;
    return cast;
}

// Requires: `alignment` is a power of two and the result does not wrap.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
    return (value + alignment - 1) & ~(alignment - 1);
}
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) {
    return value & ~(alignment - 1);
}

} // namespace base
