// WildRings: a virtqueue's rings in RAM, made from few bytes of input, so that mutations mean
// something: mostly plausible descriptors, with enough freedom to be none.
#pragma once

#include "tests/fuzz/guest_bytes.hpp"
#include "virtio/testing/fake_guest.hpp"

namespace fuzz {

class WildRings {
public:
    static constexpr std::size_t bytes = 4096; // of RAM, rings and an indirect table
    static constexpr std::size_t indirect_table = 1536;
    static constexpr std::size_t available = 2048;
    static constexpr std::size_t used = 3072;

    WildRings(virtio::testing::FakeRam& ram, virtio::GuestAddr base) : ram_(ram), base_(base) {}

    virtio::QueueConfig config(std::uint16_t index, std::uint8_t shape) const {
        const auto size = static_cast<std::uint16_t>(1u << (shape & 7));
        return {.index = index,
                .size = size,
                .max_size = 64,
                .ready = true,
                .descriptors = base_,
                .available = base_ + available,
                .used = base_ + used};
    }

    // One change to the rings.
    void mutate(GuestBytes& input) {
        const auto what = input.take<std::uint8_t>();
        const std::size_t slot = what >> 3;
        switch (what & 7) {
        case 0:
        case 1:
            return write_descriptor(slot * 16, input);
        case 2:
            return write_descriptor(indirect_table + slot * 16, input);
        case 3: // a descriptor that names the table
            put(slot * 16, (base_ + indirect_table).raw());
            put(slot * 16 + 8, std::uint32_t{16} * (input.take<std::uint8_t>() & 7));
            return put(slot * 16 + 12, std::uint16_t{4});
        case 4: // offer a head or two
            put(available + 4 + slot * 2, static_cast<std::uint16_t>(input.take<std::uint8_t>()));
            return put(available + 2, ++available_index_);
        case 5:
            available_index_ = input.take<std::uint16_t>();
            return put(available + 2, available_index_);
        case 6: // flags or used_event
            return put(available + (slot % 32) * 2, input.take<std::uint16_t>());
        default:
            return put(input.take<std::uint16_t>() % (bytes - 8), input.take<std::uint64_t>());
        }
    }

private:
    void write_descriptor(std::size_t at, GuestBytes& input) {
        const auto kind = input.take<std::uint8_t>();
        const std::uint64_t near = base_.raw() + input.take<std::uint16_t>();
        put(at, (kind & 0xc0) == 0xc0 ? input.take<std::uint64_t>() : near);
        put(at + 8, (kind & 0x20) != 0 ? input.take<std::uint32_t>()
                                       : static_cast<std::uint32_t>(input.take<std::uint8_t>()));
        put(at + 12, static_cast<std::uint16_t>(kind & 3));
        put(at + 14, static_cast<std::uint16_t>(input.take<std::uint8_t>() & 0x3f));
    }
    template <typename T>
    void put(std::size_t at, T value) {
        ram_.write(base_ + at, std::as_bytes(std::span(&value, 1)));
    }

    virtio::testing::FakeRam& ram_;
    virtio::GuestAddr base_;
    std::uint16_t available_index_ = 0;
};

} // namespace fuzz
