// KVM's structures that end in an array: a count, four bytes of zeros, the elements. Linux's header
// declares them with __DECLARE_FLEX_ARRAY, whose empty struct has a size in C++ (Linux 6.1): sizes,
// offsets and ioctl numbers made from them are wrong there, so they are made from FlexibleHead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <linux/kvm.h>

namespace vmm::kvm {

struct FlexibleHead {
    std::uint32_t count;
    std::uint32_t zero;
};

inline constexpr unsigned long get_supported_cpuid = _IOWR(KVMIO, 0x05, FlexibleHead);
inline constexpr unsigned long set_gsi_routing = _IOW(KVMIO, 0x6a, FlexibleHead);
inline constexpr unsigned long get_msrs = _IOWR(KVMIO, 0x88, FlexibleHead);
inline constexpr unsigned long set_msrs = _IOW(KVMIO, 0x89, FlexibleHead);
inline constexpr unsigned long set_cpuid2 = _IOW(KVMIO, 0x90, FlexibleHead);

template <typename T>
std::vector<std::byte> to_flexible(std::span<const T> elements) {
    const FlexibleHead head{static_cast<std::uint32_t>(elements.size()), 0};
    std::vector<std::byte> buffer(sizeof(head) + elements.size_bytes());
    std::memcpy(buffer.data(), &head, sizeof(head));
    if (!elements.empty())
        std::memcpy(buffer.data() + sizeof(head), elements.data(), elements.size_bytes());
    return buffer;
}

// Requires: `buffer` was made by to_flexible<T>, and KVM did not raise the count.
template <typename T>
std::vector<T> from_flexible(std::span<const std::byte> buffer) {
    FlexibleHead head{};
    std::memcpy(&head, buffer.data(), sizeof(head));
    std::vector<T> elements(head.count);
    if (!elements.empty())
        std::memcpy(elements.data(), buffer.data() + sizeof(head), elements.size() * sizeof(T));
    return elements;
}

} // namespace vmm::kvm
