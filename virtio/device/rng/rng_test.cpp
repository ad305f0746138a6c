#include <catch2/catch.hpp>

#include "virtio/backend/host_entropy.hpp"
#include "virtio/device/rng/rng.hpp"
#include "virtio/testing/fake_guest.hpp"

using namespace virtio;
using virtio::testing::FakeDriver;
using virtio::testing::FakeRam;
using virtio::testing::UsedElement;

TEST_CASE("rng: fills what it is given, within its bounds") {
    HostEntropy entropy;
    Rng rng(entropy);
    FakeRam ram;
    FakeDriver driver(rng, ram);
    REQUIRE(driver.start());
    const GuestAddr at = ram.allocate(200'000);
    driver.ring(0).offer({{at, 16, true}, {at + 32, 16, true}});
    driver.notify(0);
    CHECK(driver.ring(0).take_used() == UsedElement{0, 32});
    CHECK(ram.read(at, 16) != std::vector<std::byte>(16));
    CHECK(ram.read(at + 16, 16) == std::vector<std::byte>(16));
    CHECK(ram.read(at + 32, 16) != std::vector<std::byte>(16));
    driver.ring(0).offer({{at, 200'000, true}});
    driver.notify(0);
    CHECK(driver.ring(0).take_used()->written == 65'536);
    driver.ring(0).offer({{at, 16, false}});
    driver.notify(0);
    CHECK(driver.ring(0).take_used()->written == 0);
    CHECK(driver.interrupt().count() == 3);
}
