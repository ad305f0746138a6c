// The checksum of IP, TCP and UDP (RFC 1071).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace virtio {

// Of all 16-bit words as they lie in memory, an odd last byte with a zero. `sum`: of what came
// before, not complemented.
inline std::uint16_t internet_checksum(std::span<const std::byte> bytes, std::uint64_t sum = 0) {
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    for (; left >= 4; left -= 4, at += 4) {
        std::uint32_t word = 0;
        std::memcpy(&word, at, sizeof word);
        sum += word;
    }
    std::uint32_t last = 0;
    if (left > 0)
        std::memcpy(&last, at, left);
    sum += last;
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum);
}

} // namespace virtio
