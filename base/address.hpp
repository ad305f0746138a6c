// Typed addresses: a number that names a place in one address space and nothing else. No conversion
// between the kinds, no dereference; addition is checked.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

namespace base {

template <typename Tag>
class Address {
public:
    constexpr Address() = default;
    constexpr explicit Address(std::uint64_t raw) : raw_(raw) {}

    constexpr std::uint64_t raw() const { return raw_; }
    constexpr auto operator<=>(const Address&) const = default;

    // The address `bytes` further on, or nothing if that wraps.
    constexpr std::optional<Address> checked_add(std::uint64_t bytes) const {
        std::uint64_t sum = 0;
        if (__builtin_add_overflow(raw_, bytes, &sum))
            return std::nullopt;
        return Address(sum);
    }
    // Requires: the sum does not wrap, which the caller has established.
    constexpr Address operator+(std::uint64_t bytes) const { return Address(raw_ + bytes); }
    constexpr Address operator-(std::uint64_t bytes) const { return Address(raw_ - bytes); }
    constexpr std::uint64_t operator-(Address other) const { return raw_ - other.raw_; }
    constexpr Address& operator+=(std::uint64_t bytes) {
        raw_ += bytes;
        return *this;
    }
    // Requires: `alignment` is a power of two.
    constexpr Address align_down(std::uint64_t alignment) const {
        return Address(raw_ & ~(alignment - 1));
    }
    constexpr Address align_up(std::uint64_t alignment) const {
        return Address((raw_ + alignment - 1) & ~(alignment - 1));
    }
    constexpr bool is_aligned(std::uint64_t alignment) const {
        return (raw_ & (alignment - 1)) == 0;
    }

private:
    std::uint64_t raw_ = 0;
};

} // namespace base
