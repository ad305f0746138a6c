// Sequence numbers: 32 bits on a circle (RFC 9293, 3.4). Comparison means anything only for numbers
// less than 2^31 apart, which the windows guarantee once a segment has been found acceptable.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel::tcp {

class Sequence {
public:
    constexpr Sequence() = default;
    constexpr explicit Sequence(u32 raw) : raw_(raw) {}
    constexpr u32 raw() const { return raw_; }

    constexpr Sequence operator+(u32 bytes) const { return Sequence(raw_ + bytes); }
    constexpr Sequence operator-(u32 bytes) const { return Sequence(raw_ - bytes); }
    constexpr Sequence& operator+=(u32 bytes) {
        raw_ += bytes;
        return *this;
    }
    // How far `other` lies behind this one; negative when it lies ahead.
    constexpr i32 operator-(Sequence other) const { return static_cast<i32>(raw_ - other.raw_); }
    // Requires: `other` is not ahead of this one.
    constexpr u32 since(Sequence other) const { return raw_ - other.raw_; }

    constexpr bool operator==(const Sequence&) const = default;
    constexpr bool operator<(Sequence other) const { return *this - other < 0; }
    constexpr bool operator>(Sequence other) const { return *this - other > 0; }
    constexpr bool operator<=(Sequence other) const { return *this - other <= 0; }
    constexpr bool operator>=(Sequence other) const { return *this - other >= 0; }

private:
    u32 raw_ = 0;
};

constexpr Sequence earlier(Sequence a, Sequence b) {
    return a < b ? a : b;
}
constexpr Sequence later(Sequence a, Sequence b) {
    return a < b ? b : a;
}

struct SequenceRange {
    Sequence start, end; // [start, end)
    constexpr bool empty() const { return start == end; }
    constexpr u32 size() const { return end.since(start); }
    constexpr bool operator==(const SequenceRange&) const = default;
};

} // namespace kernel::tcp
