// The network device over rings and packets that are whatever the fuzzer likes: headers, frames,
// commands and buffers change between notifications, as a hostile guest would do it. The backend
// sends a few frames of its own and checks what comes through.
#include <array>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "tests/fuzz/guest_bytes.hpp"
#include "tests/fuzz/wild_rings.hpp"
#include "virtio/device/net/net.hpp"
#include "virtio/device/net/packet_check.hpp"
#include "virtio/testing/fake_guest.hpp"
#include "virtio/testing/poll_loop.hpp"

using namespace virtio;

namespace {

constexpr std::size_t queues = 5; // two pairs and the control queue
constexpr std::size_t ram_size = 32768;

void require(bool holds) {
    if (!holds)
        std::abort();
}

class WildPort final : public NetPort {
public:
    void attach(NetPortEvents& to) override { events = &to; }
    Sent send(const NetHeader& header, std::span<const struct iovec> frame,
              std::size_t length) override {
        std::size_t sum = 0;
        for (const struct iovec& piece : frame) {
            sum += piece.iov_len;
            for (std::size_t i = 0; i < piece.iov_len; i += 61)
                sink_ = sink_ + static_cast<const unsigned char*>(piece.iov_base)[i];
        }
        require(sum == length && length >= net_ethernet_header && length <= net_max_frame);
        // What the device promises of each header.
        require((header.flags & ~net_needs_csum) == 0);
        if (header.flags != 0)
            require(std::size_t{header.csum_start} + header.csum_offset + 2 <= length);
        if (header.gso_type != net_gso_none)
            require(header.gso_size > 0 && header.header_length < length &&
                    header.csum_start < header.header_length);
        return (++count_ & 7) == 0 ? Sent::Full : (count_ & 7) == 1 ? Sent::Refused : Sent::Taken;
    }
    std::size_t receive(std::span<const struct iovec> room) override {
        if (waiting == 0)
            return 0;
        --waiting;
        std::size_t at = 0;
        for (const struct iovec& piece : room) {
            const std::size_t here = std::min(piece.iov_len, arriving - at);
            std::memset(piece.iov_base, pattern, here);
            at += here;
        }
        return at;
    }
    void watch(bool) override {}

    NetPortEvents* events = nullptr;
    unsigned waiting = 0;
    std::size_t arriving = 0;
    unsigned char pattern = 0;

private:
    unsigned count_ = 0;
    volatile unsigned sink_ = 0;
};

class WildBackend final : public NetBackend {
public:
    unsigned pairs() const override { return 2; }
    NetPort& port(unsigned pair) override { return ports[pair]; }
    std::uint64_t offloads() const override {
        return net_bit(net_feature_csum) | net_bit(net_feature_guest_csum) |
               net_bit(net_feature_host_tso4) | net_bit(net_feature_host_tso6) |
               net_bit(net_feature_host_ecn) | net_bit(net_feature_host_uso) |
               net_bit(net_feature_guest_tso4) | net_bit(net_feature_guest_tso6);
    }
    void set_guest_offloads(std::uint64_t) override {}
    void set_active_pairs(unsigned) override {}

    std::uint64_t features = 0;
    std::array<WildPort, 2> ports;
};

struct NoInterrupt final : QueueInterrupt {
    void used_buffer() override {}
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    fuzz::GuestBytes input(data, size);
    virtio::testing::FakeRam ram(ram_size);
    virtio::testing::PollLoop loop;
    WildBackend backend;
    const std::array<EventLoop*, 2> loops = {&loop, &loop};
    Net device(backend, loops, {.mac = {0x52, 0x54, 0, 0, 0, 1}});
    NoInterrupt interrupt;

    std::vector<fuzz::WildRings> rings;
    std::vector<QueueConfig> configs;
    for (std::uint16_t i = 0; i < queues; ++i) {
        rings.emplace_back(ram, virtio::testing::FakeRam::base + i * fuzz::WildRings::bytes);
        configs.push_back(rings.back().config(i, input.take<std::uint8_t>()));
    }
    const std::uint64_t features =
        device.offered_features() & ~std::uint64_t{input.take<std::uint32_t>()};
    if (!device.activate(features, configs, ram.memory(), interrupt))
        return 0;
    loop.settle();
    while (!input.empty()) {
        const auto action = input.take<std::uint8_t>();
        const std::size_t queue = (action >> 4) % queues;
        for (unsigned changes = action & 7; changes > 0; --changes)
            rings[queue].mutate(input);
        if ((action & 8) != 0) {
            WildPort& port = backend.ports[(action >> 4) & 1];
            port.waiting = 1 + (input.take<std::uint8_t>() & 3);
            port.arriving = sizeof(NetHeader) + input.take<std::uint16_t>();
            port.pattern = input.take<std::uint8_t>();
            port.events->readable();
            const std::vector<std::byte> frame(input.take<std::uint8_t>() * 4u);
            port.events->deliver(frame);
            port.events->writable();
        }
        device.notify(static_cast<std::uint32_t>(queue));
        loop.settle();
    }
    device.reset();
    return 0;
}
