#include "vmm/crash/guest_view.hpp"

#include <algorithm>
#include <cstring>

#include "boot/protocol/layout.hpp"

namespace vmm::crash {
namespace {

constexpr std::uint64_t pte_present = 1u << 0;
constexpr std::uint64_t pte_large = 1u << 7;
constexpr std::uint64_t address_mask = 0x000f'ffff'ffff'f000;

bool is_canonical(std::uint64_t virt) {
    const std::uint64_t upper = virt >> 47;
    return upper == 0 || upper == 0x1ffff;
}

} // namespace

std::optional<virtio::GuestAddr> GuestView::translate(std::uint64_t virt) const {
    if (!is_canonical(virt))
        return std::nullopt;
    std::uint64_t table = cr3_ & address_mask;
    for (unsigned level = 4; level >= 1; --level) {
        const unsigned shift = 12 + 9 * (level - 1);
        const std::uint64_t index = virt >> shift & 511;
        const auto entry = memory_.read_object<std::uint64_t>(virtio::GuestAddr(table + index * 8));
        if (!entry || (*entry & pte_present) == 0)
            return std::nullopt;
        const bool leaf = level == 1 || ((*entry & pte_large) != 0 && level <= 3);
        if (leaf) {
            const std::uint64_t in_page = (std::uint64_t{1} << shift) - 1;
            return virtio::GuestAddr((*entry & address_mask & ~in_page) | (virt & in_page));
        }
        table = *entry & address_mask;
    }
    return std::nullopt;
}

std::size_t GuestView::read(std::uint64_t virt, std::span<std::byte> out) const {
    std::size_t done = 0;
    while (done < out.size()) {
        const std::uint64_t at = virt + done;
        const std::size_t chunk =
            std::min<std::size_t>(out.size() - done, boot::page_size - at % boot::page_size);
        const auto phys = translate(at);
        if (!phys)
            break;
        const auto slice = memory_.slice(*phys, chunk, virtio::Access::Read);
        if (!slice)
            break;
        slice->copy_to(0, out.subspan(done, chunk));
        done += chunk;
    }
    return done;
}

std::optional<std::uint64_t> GuestView::read_word(std::uint64_t virt) const {
    std::uint64_t word = 0;
    if (read(virt, std::as_writable_bytes(std::span(&word, 1))) != sizeof(word))
        return std::nullopt;
    return word;
}

} // namespace vmm::crash
