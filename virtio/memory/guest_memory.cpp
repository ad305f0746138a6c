#include "virtio/memory/guest_memory.hpp"

#include <cstring>
#include <limits>

namespace virtio {

namespace {
// Keeps the compiler from merging a copy with what follows: without it, it may read the guest's
// bytes a second time after they were checked.
void copy_once() {
    __asm__ volatile("" ::: "memory");
}
} // namespace

void GuestSlice::copy_to(std::size_t offset, std::span<std::byte> out) const {
    assert(offset <= size_ && out.size() <= size_ - offset);
    if (out.empty())
        return;
    std::memcpy(out.data(), host_ + offset, out.size());
    copy_once();
}

void GuestSlice::copy_from(std::size_t offset, std::span<const std::byte> in) const {
    assert(offset <= size_ && in.size() <= size_ - offset);
    if (in.empty())
        return;
    std::memcpy(host_ + offset, in.data(), in.size());
    copy_once();
}

bool GuestMemory::add_region(const GuestRegion& region) {
    constexpr std::uint64_t alignment = 16;
    // SAFETY: the pointer's number only, for its alignment.
    const auto host = reinterpret_cast<std::uintptr_t>(region.host);
    if (count_ == max_regions || region.host == nullptr || region.size == 0 ||
        region.size > std::numeric_limits<std::size_t>::max() / 2 ||
        host % alignment != region.base.raw() % alignment)
        return false;
    const auto end = region.base.checked_add(region.size);
    if (!end)
        return false;
    for (std::size_t i = 0; i < count_; ++i) {
        const GuestRegion& other = regions_[i];
        if (region.base < other.base + other.size && other.base < *end)
            return false;
    }
    regions_[count_++] = region;
    return true;
}

std::optional<GuestSlice> GuestMemory::slice(GuestAddr address, std::uint64_t length,
                                             Access access) const {
    for (std::size_t i = 0; i < count_; ++i) {
        const GuestRegion& region = regions_[i];
        if (address < region.base)
            continue;
        const std::uint64_t offset = address - region.base;
        // Differences only: sums of what the guest chose could wrap.
        if (offset >= region.size || length > region.size - offset)
            continue;
        if (access == Access::Write && !region.writable)
            return std::nullopt;
        return GuestSlice(region.host + offset, static_cast<std::size_t>(length));
    }
    return std::nullopt;
}

} // namespace virtio
