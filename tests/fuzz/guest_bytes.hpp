// GuestBytes: takes a fuzzer's input apart, from the front; zeros when it is used up.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace fuzz {

class GuestBytes {
public:
    GuestBytes(const std::uint8_t* data, std::size_t size)
        : rest_(std::as_bytes(std::span(data, size))) {}

    bool empty() const { return rest_.empty(); }
    std::span<const std::byte> take_bytes(std::size_t count) {
        const auto taken = rest_.first(std::min(count, rest_.size()));
        rest_ = rest_.subspan(taken.size());
        return taken;
    }
    template <typename T>
    requires std::is_integral_v<T> T take() {
        T value{};
        const auto taken = take_bytes(sizeof value);
        if (!taken.empty()) // of an empty input there is nothing to point at
            std::memcpy(&value, taken.data(), taken.size());
        return value;
    }

private:
    std::span<const std::byte> rest_;
};

} // namespace fuzz
