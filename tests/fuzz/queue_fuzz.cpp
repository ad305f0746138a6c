// A virtqueue whose rings, descriptors and indices are whatever the fuzzer likes, changed between
// pops as a hostile guest would. Every chain must lie inside of RAM: the sanitizer sees it if one
// does not.
#include <array>
#include <cstdlib>
#include <vector>

#include "tests/fuzz/guest_bytes.hpp"
#include "tests/fuzz/wild_rings.hpp"
#include "virtio/queue/queue.hpp"
#include "virtio/testing/fake_guest.hpp"

using namespace virtio;

namespace {

constexpr std::size_t ram_size = 16384;

void touch(const Chain& chain, unsigned& sink) {
    ChainReader reader(chain);
    std::array<std::byte, 64> some{};
    while (reader.remaining() > 0 && reader.position() < 4096) {
        const auto part = std::span(some).first(std::min<std::size_t>(64, reader.remaining()));
        if (!reader.read(part))
            std::abort();
        sink += static_cast<unsigned>(part.front());
    }
    ChainWriter writer(chain);
    std::array<struct iovec, 4> pieces;
    for (const struct iovec& piece : writer.peek(pieces, 128))
        std::memset(piece.iov_base, 0x5a, piece.iov_len);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::GuestBytes input(data, size);
    testing::FakeRam ram(ram_size);
    fuzz::WildRings rings(ram, testing::FakeRam::base);
    const auto features = input.take<std::uint8_t>();
    QueueConfig config = rings.config(0, features >> 2);
    if ((features & 0x80) != 0) {
        config.size = input.take<std::uint16_t>();
        config.descriptors = GuestAddr(input.take<std::uint64_t>());
        config.available = GuestAddr(input.take<std::uint64_t>());
        config.used = GuestAddr(input.take<std::uint64_t>());
    }
    auto made =
        Queue::activate(config, {(features & 1) != 0, (features & 2) != 0}, ram.memory(), nullptr);
    if (!made)
        return 0;
    Queue& queue = **made;
    std::vector<Chain> kept;
    unsigned sink = 0;
    while (!input.empty()) {
        const auto action = input.take<std::uint8_t>();
        for (unsigned changes = action & 15; changes > 0; --changes)
            rings.mutate(input);
        auto chain =
            queue.pop((action & 16) != 0 ? Queue::WhenEmpty::Arm : Queue::WhenEmpty::StaySilent);
        if (!chain)
            break;
        if (*chain) {
            touch(*chain, sink);
            kept.push_back(std::move(*chain));
        }
        if ((action & 32) != 0 && !kept.empty()) {
            queue.complete(std::move(kept.back()), sink);
            kept.pop_back();
        }
    }
    return 0;
}
