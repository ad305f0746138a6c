#include <array>
#include <limits>
#include <vector>

#include <catch2/catch.hpp>

#include "virtio/memory/guest_memory.hpp"

using virtio::Access;
using virtio::GuestAddr;
using virtio::GuestMemory;

namespace {

struct TwoRegions {
    alignas(16) std::array<std::byte, 4096> low{};
    alignas(16) std::array<std::byte, 4096> high{};
    alignas(16) std::array<std::byte, 4096> image{};
    GuestMemory memory;

    TwoRegions() {
        REQUIRE(memory.add_region({GuestAddr(0), low.data(), low.size()}));
        REQUIRE(memory.add_region({GuestAddr(1ull << 32), high.data(), high.size()}));
        REQUIRE(memory.add_region({GuestAddr(0xd000'0000), image.data(), image.size(), false}));
    }
};

} // namespace

TEST_CASE("guest memory: slices are found in each region and end with it") {
    const TwoRegions guest;
    CHECK(guest.memory.slice(GuestAddr(0), 4096)->as_iovec().iov_base == guest.low.data());
    CHECK(guest.memory.slice(GuestAddr((1ull << 32) + 4095), 1)->as_iovec().iov_base ==
          guest.high.data() + 4095);
    CHECK_FALSE(guest.memory.slice(GuestAddr(0), 4097));
    CHECK_FALSE(guest.memory.slice(GuestAddr(4095), 2));
    CHECK_FALSE(guest.memory.slice(GuestAddr(4096), 0));
    CHECK(guest.memory.slice(GuestAddr(4095), 0));
    CHECK_FALSE(guest.memory.slice(GuestAddr(0x8000'0000), 1));
}

TEST_CASE("guest memory: lengths and addresses that wrap are outside") {
    const TwoRegions guest;
    constexpr auto all = std::numeric_limits<std::uint64_t>::max();
    CHECK_FALSE(guest.memory.slice(GuestAddr(16), all));
    CHECK_FALSE(guest.memory.slice(GuestAddr(16), all - 15));
    CHECK_FALSE(guest.memory.slice(GuestAddr(all), 1));
    CHECK_FALSE(guest.memory.slice(GuestAddr(all), 2));
    CHECK_FALSE(guest.memory.slice(GuestAddr(all - 7), 16));
}

TEST_CASE("guest memory: a read-only region can be read and not written") {
    const TwoRegions guest;
    CHECK(guest.memory.slice(GuestAddr(0xd000'0000), 8, Access::Read));
    CHECK_FALSE(guest.memory.slice(GuestAddr(0xd000'0000), 8, Access::Write));
    CHECK_FALSE(guest.memory.write_object(GuestAddr(0xd000'0000), std::uint32_t{1}));
    CHECK(guest.memory.read_object<std::uint32_t>(GuestAddr(0xd000'0000)) == 0u);
}

TEST_CASE("guest memory: objects go in and out unchanged at any alignment") {
    const TwoRegions guest;
    REQUIRE(guest.memory.write_object(GuestAddr(13), std::uint64_t{0x1122'3344'5566'7788}));
    CHECK(guest.memory.read_object<std::uint64_t>(GuestAddr(13)) == 0x1122'3344'5566'7788u);
    CHECK_FALSE(guest.memory.write_object(GuestAddr(4092), std::uint64_t{1}));
    CHECK_FALSE(guest.memory.read_object<std::uint64_t>(GuestAddr(4092)));
}

TEST_CASE("guest memory: regions that make no sense are refused") {
    alignas(16) static std::array<std::byte, 64> bytes{};
    GuestMemory memory;
    CHECK_FALSE(memory.add_region({GuestAddr(0), bytes.data(), 0}));
    CHECK_FALSE(memory.add_region({GuestAddr(0), nullptr, 64}));
    CHECK_FALSE(memory.add_region({GuestAddr(8), bytes.data(), 32}));
    CHECK_FALSE(memory.add_region({GuestAddr(~std::uint64_t{31}), bytes.data(), 64}));
    REQUIRE(memory.add_region({GuestAddr(64), bytes.data(), 64}));
    CHECK_FALSE(memory.add_region({GuestAddr(112), bytes.data(), 32}));
    CHECK_FALSE(memory.add_region({GuestAddr(48), bytes.data(), 64}));
    CHECK(memory.add_region({GuestAddr(128), bytes.data(), 64}));
    CHECK(memory.add_region({GuestAddr(0), bytes.data(), 64}));
    CHECK(memory.add_region({GuestAddr(1024), bytes.data(), 64}));
    CHECK_FALSE(memory.add_region({GuestAddr(2048), bytes.data(), 64}));
}
