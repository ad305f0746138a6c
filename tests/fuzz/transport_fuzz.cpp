// A driver that writes any register at any time, with any RAM, against the console and the entropy
// device. Afterwards a reset must bring the device back to a state in which a good driver can start
// it.
#include <algorithm>
#include <array>
#include <cstdlib>

#include "tests/fuzz/guest_bytes.hpp"
#include "tests/fuzz/wild_rings.hpp"
#include "virtio/backend/ports.hpp"
#include "virtio/device/console/console.hpp"
#include "virtio/device/rng/rng.hpp"
#include "virtio/testing/fake_guest.hpp"
#include "virtio/testing/poll_loop.hpp"

using namespace virtio;

namespace {

constexpr std::size_t ram_size = std::size_t{64} << 10;
constexpr std::size_t wild_queues = 2;

class Zeros final : public EntropySource {
public:
    std::size_t fill(std::span<std::byte> out) override {
        std::fill(out.begin(), out.end(), std::byte{0});
        return out.size();
    }
};

void accept_version_1(testing::FakeDriver& driver) {
    driver.write(0x24, 0);
    driver.write(0x20, 1u << 28 | 1u << 29); // indirect descriptors, event index
    driver.write(0x24, 1);
    driver.write(0x20, 1);
}

void misbehave(fuzz::GuestBytes& input, std::array<fuzz::WildRings, wild_queues>& rings,
               testing::FakeDriver& driver, MessagePort& port, testing::PollLoop& loop) {
    for (unsigned step = 0; step < 256 && !input.empty(); ++step) {
        const auto action = input.take<std::uint8_t>();
        switch (action % 8) {
        case 0:
            rings[(action >> 3) % wild_queues].mutate(input);
            break;
        case 1:
            driver.transport().write(input.take<std::uint32_t>(), input.take<std::uint8_t>(),
                                     input.take<std::uint64_t>());
            break;
        case 2:
            driver.transport().notify(input.take<std::uint8_t>());
            break;
        case 3:
            port.send(input.take_bytes(16));
            loop.settle();
            break;
        case 4: // the next step of a good driver
            if ((driver.status() & 8) == 0)
                accept_version_1(driver);
            driver.write(0x70, driver.status() | 1u << (input.take<std::uint8_t>() & 3));
            break;
        case 5: { // a queue with wild rings
            const std::size_t which = (action >> 3) % wild_queues;
            const auto index = static_cast<std::uint16_t>(input.take<std::uint8_t>() % 6);
            driver.set_up_queue(rings[which].config(index, action >> 4));
            break;
        }
        case 6: // all steps, with wild rings
            driver.reset();
            driver.write(0x70, 1);
            driver.write(0x70, 3);
            accept_version_1(driver);
            driver.write(0x70, 11);
            for (const fuzz::WildRings& one : rings) {
                const auto index = static_cast<std::uint16_t>(input.take<std::uint8_t>() % 6);
                driver.set_up_queue(one.config(index, 4));
            }
            driver.write(0x70, 15);
            break;
        default:
            driver.write(static_cast<std::uint32_t>(input.take<std::uint8_t>() & 0x3f) * 4,
                         input.take<std::uint32_t>());
        }
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::GuestBytes input(data, size);
    testing::PollLoop loop;
    testing::FakeRam ram(ram_size);
    std::array rings{fuzz::WildRings(ram, ram.allocate(fuzz::WildRings::bytes)),
                     fuzz::WildRings(ram, ram.allocate(fuzz::WildRings::bytes))};
    MessagePort first;
    MessagePort second;
    Zeros zeros;
    Rng rng(zeros);
    Console console(loop, {{&first, "first", true}, {&second, "second", false}});
    const bool use_console = (input.take<std::uint8_t>() & 1) != 0;
    Device& device = use_console ? static_cast<Device&>(console) : rng;
    testing::FakeDriver driver(device, ram);
    misbehave(input, rings, driver, first, loop);
    loop.settle();
    if (!driver.start())
        std::abort();
    return 0;
}
