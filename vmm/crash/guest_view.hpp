// Guest-virtual memory as a crash report sees it: through the guest's own page tables, which may
// hold anything. Every step is checked; what cannot be read is reported as such, never guessed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "virtio/memory/guest_memory.hpp"

namespace vmm::crash {

class GuestView {
public:
    GuestView(const virtio::GuestMemory& memory, std::uint64_t cr3) : memory_(memory), cr3_(cr3) {}

    // The physical address, by four levels of paging (Intel SDM 3A 4.5).
    std::optional<virtio::GuestAddr> translate(std::uint64_t virt) const;
    // Reads as much of `out` as is mapped without a gap; the number of bytes.
    std::size_t read(std::uint64_t virt, std::span<std::byte> out) const;
    std::optional<std::uint64_t> read_word(std::uint64_t virt) const;

private:
    const virtio::GuestMemory& memory_;
    std::uint64_t cr3_;
};

} // namespace vmm::crash
