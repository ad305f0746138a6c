#include <thread>

#include <linux/virtio_mmio.h>

#include <catch2/catch.hpp>

#include "virtio/testing/fake_guest.hpp"
#include "virtio/transport/mmio_transport.hpp"

using namespace virtio;
using virtio::testing::FakeDriver;
using virtio::testing::FakeRam;
using virtio::testing::FakeRing;

namespace {

constexpr std::uint32_t needs_reset = 64;
constexpr std::uint64_t event_index = 1ull << 29;
constexpr std::uint64_t version_1 = 1ull << 32;

// Returns each chain at once, but keeps those on queue 1.
class Echo final : public Device {
public:
    Echo()
        : Device(DeviceInfo{.id = 42,
                            .features = 1ull << 5 | 1ull << 40,
                            .queues = {{16, NotifyStyle::Inline}, {8, NotifyStyle::Eventfd}},
                            .config = std::vector<std::byte>(6, std::byte{0x11}),
                            .shared_memory = {{3, GuestAddr(0x12'3456'7000), 0x1'0000'0000}}}) {}

    using Device::gate;
    using Device::negotiated;
    using Device::queue;
    using Device::report;
    using Device::update_config;
    unsigned resets = 0;
    std::vector<Chain> kept;

protected:
    Checked<void> on_notify(std::uint32_t index) override {
        for (;;) {
            TRY(Chain chain, queue(index)->pop());
            if (!chain)
                return {};
            if (index == 1)
                kept.push_back(std::move(chain));
            else
                queue(index)->complete(std::move(chain), 0);
        }
    }
    void on_reset() override {
        ++resets;
        kept.clear();
    }
};

struct Fixture {
    FakeRam ram;
    Echo device;
    FakeDriver driver{device, ram};
};

} // namespace

TEST_CASE("mmio: the page identifies the device before anything is written") {
    const Fixture f;
    CHECK(f.driver.read(VIRTIO_MMIO_MAGIC_VALUE) == 0x74726976);
    CHECK(f.driver.read(VIRTIO_MMIO_VERSION) == 2);
    CHECK(f.driver.read(VIRTIO_MMIO_DEVICE_ID) == 42);
    CHECK(f.driver.read(VIRTIO_MMIO_DEVICE_FEATURES) == (1u << 5 | 1u << 28 | 1u << 29));
    CHECK(f.driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX) == 16);
    CHECK(f.driver.read(VIRTIO_MMIO_CONFIG) == 0x11111111);
    CHECK(f.driver.read(VIRTIO_MMIO_CONFIG + 4) == 0x1111);
    CHECK(f.driver.status() == 0);
}

TEST_CASE("mmio: selectors change what the page shows") {
    Fixture f;
    f.driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    CHECK(f.driver.read(VIRTIO_MMIO_DEVICE_FEATURES) == (1u << 8 | 1u));
    f.driver.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    CHECK(f.driver.read(VIRTIO_MMIO_DEVICE_FEATURES) == 0);
    f.driver.write(VIRTIO_MMIO_QUEUE_SEL, 1);
    CHECK(f.driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX) == 8);
    f.driver.write(VIRTIO_MMIO_QUEUE_SEL, 2);
    CHECK(f.driver.read(VIRTIO_MMIO_QUEUE_NUM_MAX) == 0);
    CHECK(f.driver.read(VIRTIO_MMIO_SHM_LEN_HIGH) == 0xffff'ffff);
    f.driver.write(VIRTIO_MMIO_SHM_SEL, 3);
    CHECK(f.driver.read(VIRTIO_MMIO_SHM_LEN_LOW) == 0);
    CHECK(f.driver.read(VIRTIO_MMIO_SHM_LEN_HIGH) == 1);
    CHECK(f.driver.read(VIRTIO_MMIO_SHM_BASE_LOW) == 0x3456'7000);
    CHECK(f.driver.read(VIRTIO_MMIO_SHM_BASE_HIGH) == 0x12);
    CHECK_FALSE(f.driver.needs_reset());
}

TEST_CASE("mmio: a driver that follows the steps gets a device that works") {
    Fixture f;
    REQUIRE(f.driver.start());
    CHECK(f.device.active());
    CHECK(f.device.negotiated(5));
    CHECK(f.device.negotiated(40));
    CHECK(f.driver.read(VIRTIO_MMIO_QUEUE_READY) == 1);

    f.driver.ring(0).offer({{f.ram.place("x"), 1}});
    f.driver.notify(0);
    CHECK(f.driver.ring(0).take_used());
    CHECK(f.driver.interrupt().count() == 1);
    CHECK(f.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_VRING);
    f.driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    CHECK(f.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) == 0);
}

TEST_CASE("mmio: features that were not offered, or without version 1, are not accepted") {
    Fixture f;
    CHECK_FALSE(f.driver.start(version_1));
    CHECK_FALSE(f.driver.needs_reset());

    f.driver.reset();
    f.driver.write(VIRTIO_MMIO_STATUS, 1);
    f.driver.write(VIRTIO_MMIO_STATUS, 3);
    f.driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    f.driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 1u | 1u << 2);
    f.driver.write(VIRTIO_MMIO_STATUS, 11);
    CHECK(f.driver.status() == 3);
    f.driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 1u);
    f.driver.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
    f.driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 1u);
    f.driver.write(VIRTIO_MMIO_STATUS, 11);
    CHECK(f.driver.status() == 3);
}

TEST_CASE("mmio: without the event index the device runs as well") {
    Fixture f;
    REQUIRE(f.driver.start(event_index));
    f.driver.ring(0).offer({{f.ram.place("x"), 1}});
    f.driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    CHECK(f.driver.ring(0).take_used());
    CHECK(f.driver.interrupt().count() == 1);
}

TEST_CASE("mmio: status only goes forward") {
    Fixture f;
    SECTION("driver without acknowledge") {
        f.driver.write(VIRTIO_MMIO_STATUS, 2);
    }
    SECTION("driver ok without features ok") {
        f.driver.write(VIRTIO_MMIO_STATUS, 1);
        f.driver.write(VIRTIO_MMIO_STATUS, 3);
        f.driver.write(VIRTIO_MMIO_STATUS, 7);
    }
    SECTION("a bit taken back") {
        f.driver.write(VIRTIO_MMIO_STATUS, 3);
        f.driver.write(VIRTIO_MMIO_STATUS, 1);
    }
    SECTION("a bit that does not exist") {
        f.driver.write(VIRTIO_MMIO_STATUS, 1 | 16);
    }
    SECTION("a bit beyond the register") {
        f.driver.write(VIRTIO_MMIO_STATUS, 1 | 256);
    }
    SECTION("driver ok where features were refused") {
        f.driver.write(VIRTIO_MMIO_STATUS, 3);
        f.driver.write(VIRTIO_MMIO_STATUS, 15);
    }
    CHECK(f.driver.needs_reset());
    CHECK_FALSE(f.device.active());
    f.driver.reset();
    CHECK(f.driver.status() == 0);
    CHECK(f.driver.start());
}

TEST_CASE("mmio: writes that the protocol forbids set needs-reset") {
    Fixture f;
    SECTION("a read-only register") {
        f.driver.write(VIRTIO_MMIO_MAGIC_VALUE, 0);
    }
    SECTION("queue reset, which is not offered") {
        f.driver.write(0xc0, 1);
    }
    SECTION("configuration space") {
        f.driver.write(VIRTIO_MMIO_CONFIG, 1);
    }
    SECTION("a wrong size") {
        f.driver.transport().write(VIRTIO_MMIO_STATUS, 1, 1);
    }
    SECTION("a wrong alignment") {
        f.driver.transport().write(VIRTIO_MMIO_STATUS + 2, 4, 1);
    }
    SECTION("far outside") {
        f.driver.transport().write(0xffff'fffc, 4, 1);
    }
    SECTION("a queue that is not there") {
        f.driver.write(VIRTIO_MMIO_QUEUE_SEL, 2);
        f.driver.write(VIRTIO_MMIO_QUEUE_NUM, 8);
    }
    SECTION("a notification of a queue that is not there") {
        f.driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    }
    SECTION("an unusable queue") {
        f.driver.write(VIRTIO_MMIO_QUEUE_NUM, 0x1'0008);
        f.driver.write(VIRTIO_MMIO_QUEUE_READY, 1);
        CHECK(f.driver.read(VIRTIO_MMIO_QUEUE_READY) == 0);
    }
    SECTION("a ready queue that is moved") {
        const FakeRing ring(f.ram, 8);
        f.driver.set_up_queue(ring.config());
        CHECK_FALSE(f.driver.needs_reset());
        f.driver.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
    }
    SECTION("a queue stopped while the device runs") {
        REQUIRE(f.driver.start());
        f.driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
        CHECK(f.driver.interrupt().count() == 1);
        CHECK(f.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_CONFIG);
    }
    SECTION("features after they were settled") {
        REQUIRE(f.driver.start());
        f.driver.write(VIRTIO_MMIO_DRIVER_FEATURES, 0);
    }
    CHECK(f.driver.needs_reset());
    CHECK(f.driver.transport().first_fault().kind != FaultKind::None);
    f.driver.reset();
    CHECK(f.driver.transport().first_fault().kind == FaultKind::None);
    CHECK(f.driver.start());
}

TEST_CASE("mmio: a probe for a missing queue is no offence") {
    Fixture f;
    f.driver.write(VIRTIO_MMIO_QUEUE_SEL, 9);
    f.driver.write(VIRTIO_MMIO_QUEUE_READY, 0);
    CHECK_FALSE(f.driver.needs_reset());
}

TEST_CASE("mmio: a hostile ring breaks the device, not the process, until a reset") {
    Fixture f;
    REQUIRE(f.driver.start());
    f.driver.ring(0).offer_head(99);
    f.driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    CHECK(f.driver.status() == (15 | needs_reset));
    CHECK(f.driver.interrupt().count() == 1);
    const DriverFault fault = f.driver.transport().first_fault();
    CHECK(fault.kind == FaultKind::DescriptorIndex);
    CHECK(fault.detail == 99);

    f.driver.ring(1).offer({{f.ram.place("x"), 1}});
    f.driver.notify(1);
    CHECK(f.device.kept.empty());                         // the device does nothing any more
    f.driver.write(VIRTIO_MMIO_STATUS, 15 | needs_reset); // writing back what was read is harmless
    CHECK(f.driver.transport().first_fault().kind == FaultKind::DescriptorIndex);

    REQUIRE(f.driver.start());
    f.driver.ring(0).offer({{f.ram.place("x"), 1}});
    f.driver.notify(0);
    CHECK(f.driver.ring(0).take_used());
}

TEST_CASE("mmio: reset drops what the device holds and forgets the queues") {
    Fixture f;
    REQUIRE(f.driver.start());
    f.driver.ring(1).offer({{f.ram.place("x"), 1}});
    f.driver.notify(1);
    CHECK(f.device.kept.size() == 1);
    f.driver.reset();
    CHECK(f.driver.status() == 0);
    CHECK(f.device.resets == 1);
    CHECK_FALSE(f.device.active());
    CHECK(f.driver.read(VIRTIO_MMIO_QUEUE_READY) == 0);
    f.driver.transport().notify(1); // a late eventfd
    f.driver.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    CHECK_FALSE(f.driver.needs_reset());
    CHECK(f.driver.start());
}

TEST_CASE("mmio: reset waits for a thread that is inside of the device") {
    Fixture f;
    REQUIRE(f.driver.start());
    f.driver.ring(1).offer({{f.ram.place("x"), 1}});
    f.driver.notify(1);
    std::atomic<bool> inside{false};
    std::atomic<bool> completed{false};
    std::thread worker([&] {
        const Gate::Pass pass(f.device.gate());
        inside.store(true);
        inside.notify_one();
        while (f.device.active()) // until the reset closes the gate
            std::this_thread::yield();
        f.device.report({FaultKind::Request, 1, 0}); // must not deadlock with the reset
        f.device.queue(1)->complete(std::move(f.device.kept.front()), 0);
        completed.store(true);
    });
    inside.wait(false);
    f.driver.reset();
    CHECK(completed.load());
    CHECK(f.driver.status() == 0);
    worker.join();
}

TEST_CASE("mmio: a changed configuration is published with a new generation") {
    Fixture f;
    const std::uint32_t before = f.driver.read(VIRTIO_MMIO_CONFIG_GENERATION);
    const std::array<std::byte, 2> change{std::byte{0x22}, std::byte{0x33}};
    f.device.update_config(4, change);
    CHECK(f.driver.read(VIRTIO_MMIO_CONFIG + 4) == 0x3322);
    CHECK(f.driver.read(VIRTIO_MMIO_CONFIG_GENERATION) != before);
    CHECK(f.driver.interrupt().count() == 0); // no driver yet
    REQUIRE(f.driver.start());
    f.device.update_config(4, change);
    CHECK(f.driver.interrupt().count() == 1);
    CHECK(f.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_CONFIG);
}
