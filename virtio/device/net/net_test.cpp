#include <cstring>
#include <deque>
#include <functional>
#include <string>

#include <linux/virtio_ids.h>

#include <catch2/catch.hpp>

#include "virtio/device/net/net.hpp"
#include "virtio/device/net/testing/frames.hpp"
#include "virtio/testing/fake_guest.hpp"
#include "virtio/testing/poll_loop.hpp"

using namespace virtio;
using virtio::testing::FakeDriver;
using virtio::testing::FakeRam;
using virtio::testing::Frame;
using virtio::testing::make_frame;
using virtio::testing::Piece;
using virtio::testing::PollLoop;

namespace {

using Bytes = std::vector<std::byte>;

struct SentFrame {
    NetHeader header;
    Bytes bytes;
};

class FakePort final : public NetPort {
public:
    void attach(NetPortEvents& to) override { events = &to; }
    Sent send(const NetHeader& header, std::span<const struct iovec> frame,
              std::size_t length) override {
        if (full)
            return Sent::Full;
        Bytes bytes;
        for (const struct iovec& piece : frame) {
            const auto* from = static_cast<const std::byte*>(piece.iov_base);
            bytes.insert(bytes.end(), from, from + piece.iov_len);
        }
        CHECK(bytes.size() == length);
        if (refuse)
            return Sent::Refused;
        sent.push_back({header, std::move(bytes)});
        return Sent::Taken;
    }
    void flush() override { ++flushes; }
    std::size_t receive(std::span<const struct iovec> room) override {
        if (arriving.empty())
            return 0;
        const Bytes all = std::move(arriving.front());
        arriving.pop_front();
        std::size_t at = 0;
        for (const struct iovec& piece : room) {
            const std::size_t here = std::min(piece.iov_len, all.size() - at);
            std::memcpy(piece.iov_base, all.data() + at, here);
            at += here;
        }
        return at;
    }
    void watch(bool on) override { watched = on; }

    void arrive(const NetHeader& header, const Bytes& frame) {
        const auto head = std::as_bytes(std::span(&header, 1));
        Bytes all(head.begin(), head.end());
        all.insert(all.end(), frame.begin(), frame.end());
        arriving.push_back(std::move(all));
        if (watched)
            events->readable();
    }

    NetPortEvents* events = nullptr;
    std::vector<SentFrame> sent;
    std::deque<Bytes> arriving;
    bool full = false;
    bool refuse = false;
    bool watched = false;
    unsigned flushes = 0;
};

class FakeBackend final : public NetBackend {
public:
    explicit FakeBackend(unsigned pairs) : ports(pairs) {}
    unsigned pairs() const override { return static_cast<unsigned>(ports.size()); }
    NetPort& port(unsigned pair) override { return ports[pair]; }
    std::uint64_t offloads() const override {
        std::uint64_t all = 0;
        for (const auto feature :
             {net_feature_csum, net_feature_guest_csum, net_feature_host_tso4,
              net_feature_host_tso6, net_feature_host_ecn, net_feature_host_uso,
              net_feature_guest_tso4, net_feature_guest_tso6, net_feature_guest_ecn,
              net_feature_guest_uso4, net_feature_guest_uso6})
            all |= net_bit(feature);
        return all;
    }
    void set_guest_offloads(std::uint64_t features) override { guest_offloads = features; }
    void set_active_pairs(unsigned count) override { active = count; }

    std::vector<FakePort> ports;
    std::uint64_t guest_offloads = 0;
    unsigned active = 0;
};

constexpr MacAddress our_mac = {0x52, 0x54, 0, 0, 0, 1};

struct Fixture {
    explicit Fixture(std::uint64_t without = 0, unsigned pairs = 1, NetOptions options = {},
                     std::uint16_t ring_size = 64)
        : backend(pairs) {
        options.mac = our_mac;
        const std::vector<EventLoop*> loops(pairs, &loop);
        net = std::make_unique<Net>(backend, loops, options);
        driver = std::make_unique<FakeDriver>(*net, ram);
        REQUIRE(driver->start(without, ring_size));
        loop.settle();
    }
    ~Fixture() { driver.reset(); }

    FakePort& port(std::size_t pair = 0) { return backend.ports[pair]; }

    GuestAddr place(const void* data, std::size_t size) {
        const GuestAddr at = ram.allocate(size, 16);
        ram.write(at, std::span(static_cast<const std::byte*>(data), size));
        return at;
    }
    std::uint16_t queue_packet(const NetHeader& header, const Bytes& frame,
                               std::uint32_t queue = 1) {
        return driver->ring(queue).offer(
            {{place(&header, sizeof header), sizeof header},
             {place(frame.data(), frame.size()), static_cast<std::uint32_t>(frame.size())}});
    }
    void send(const NetHeader& header, const Bytes& frame, std::uint32_t queue = 1) {
        queue_packet(header, frame, queue);
        driver->notify(queue);
        loop.settle();
    }
    GuestAddr post(std::uint32_t size, std::uint32_t queue = 0) {
        const GuestAddr at = ram.allocate(size);
        driver->ring(queue).offer({{at, size, true}});
        return at;
    }
    std::optional<Bytes> take_received(std::span<const GuestAddr> buffers,
                                       std::uint32_t queue = 0) {
        Bytes all;
        std::uint16_t expected = 1;
        for (std::uint16_t i = 0; i < expected; ++i) {
            const auto used = driver->ring(queue).take_used();
            if (!used)
                return std::nullopt;
            const Bytes part = ram.read(buffers[i], used->written);
            if (i == 0)
                std::memcpy(&expected, part.data() + offsetof(NetHeader, num_buffers),
                            sizeof expected);
            all.insert(all.end(), part.begin(), part.end());
        }
        return all;
    }
    // The answer of the control queue, or -1.
    int command(std::uint8_t command_class, std::uint8_t number, const Bytes& data = {},
                std::uint32_t queue = 2) {
        const NetControlHead head{command_class, number};
        const GuestAddr answer = ram.allocate(1);
        ram.write(answer, std::array{std::byte{0xee}});
        std::vector<Piece> pieces = {{place(&head, sizeof head), sizeof head}};
        if (!data.empty())
            pieces.push_back(
                {place(data.data(), data.size()), static_cast<std::uint32_t>(data.size())});
        pieces.push_back({answer, 1, true});
        driver->ring(queue).offer(pieces);
        driver->notify(queue);
        loop.settle();
        const auto used = driver->ring(queue).take_used();
        if (!used || used->written != 1)
            return -1;
        return std::to_integer<int>(ram.read(answer, 1).front());
    }

    PollLoop loop;
    FakeRam ram{std::size_t{16} << 20};
    FakeBackend backend;
    std::unique_ptr<Net> net;
    std::unique_ptr<FakeDriver> driver;
};

template <typename T>
Bytes bytes_of(const T& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    return {bytes.begin(), bytes.end()};
}

Bytes frame_to(const MacAddress& to) {
    return make_frame({.to = to}).bytes;
}

constexpr std::uint64_t no_mergeable = net_bit(net_feature_mrg_rxbuf);

} // namespace

TEST_CASE("net: identity, configuration and features") {
    Fixture f(0, 2, {.mtu = 9000});
    CHECK(f.driver->read(0x08) == VIRTIO_ID_NET);
    CHECK(f.driver->read(0x100) == 0x00005452);
    CHECK(f.driver->read(0x104) == (0x0100u | net_link_up << 16));
    CHECK(f.driver->read(0x108) == (2u | 9000u << 16));
    CHECK((f.driver->offered_features() & net_bit(net_feature_mq)) != 0);
    CHECK((Fixture().driver->offered_features() & net_bit(net_feature_mq)) == 0);
}

TEST_CASE("net: a packet goes out as it is, its header checked") {
    Fixture f;
    const Frame frame = make_frame({.payload = 3000});
    f.send(frame.header(1000), frame.bytes);
    REQUIRE(f.port().sent.size() == 1);
    CHECK(f.port().sent[0].bytes == frame.bytes);
    CHECK(f.port().sent[0].header.gso_size == 1000);
    CHECK(f.port().sent[0].header.header_length == frame.payload);
    CHECK(f.port().flushes == 1);
    const auto used = f.driver->ring(1).take_used();
    REQUIRE(used);
    CHECK(used->written == 0);
    CHECK(f.net->counters().sent == 1);
}

TEST_CASE("net: header and frame in any pieces, in an indirect table too") {
    Fixture f;
    const Frame frame = make_frame({.payload = 60});
    Bytes all = bytes_of(frame.header());
    all.insert(all.end(), frame.bytes.begin(), frame.bytes.end());
    const std::uint32_t piece = GENERATE(1u, 5u, 12u, 13u, 64u, 300u);
    std::vector<Piece> pieces;
    for (std::uint32_t at = 0; at < all.size(); at += piece) {
        const auto here =
            std::min<std::uint32_t>(piece, static_cast<std::uint32_t>(all.size()) - at);
        pieces.push_back({f.place(all.data() + at, here), here});
    }
    f.driver->ring(1).offer_indirect(pieces);
    f.driver->notify(1);
    f.loop.settle();
    REQUIRE(f.port().sent.size() == 1);
    CHECK(f.port().sent[0].bytes == frame.bytes);
}

TEST_CASE("net: a malformed packet is dropped, and the next one goes out") {
    Fixture f;
    const Frame frame = make_frame();
    NetHeader bad = frame.header(50);
    SECTION("checksum outside") {
        bad.csum_start = 60000;
    }
    SECTION("unknown segmentation") {
        bad.gso_type = 77;
    }
    SECTION("TCP over IPv6 that is IPv4") {
        bad.gso_type = net_gso_tcp6;
    }
    f.send(bad, frame.bytes);
    CHECK(f.port().sent.empty());
    CHECK(f.driver->ring(1).take_used()); // the buffers come back
    f.send(frame.header(), frame.bytes);
    CHECK(f.port().sent.size() == 1);
    CHECK(f.net->counters().sent_dropped == 1);
    CHECK_FALSE(f.driver->needs_reset());
}

TEST_CASE("net: frames that are none are dropped") {
    Fixture f;
    f.send({}, Bytes(13));
    f.send({}, Bytes(net_max_frame + 1));
    CHECK(f.net->counters().sent_dropped == 2);
    f.send({}, Bytes(14));
    f.send({}, Bytes(net_max_frame));
    CHECK(f.port().sent.size() == 2);
}

TEST_CASE("net: a chain without a whole header is the driver's fault") {
    Fixture f;
    const Bytes part(11);
    f.driver->ring(1).offer({{f.place(part.data(), part.size()), 11}});
    f.driver->notify(1);
    CHECK(f.driver->needs_reset());
    // And forgiven after a reset.
    REQUIRE(f.driver->start(0, 64));
    f.loop.settle();
    f.send({}, make_frame().bytes);
    CHECK(f.port().sent.size() == 1);
}

TEST_CASE("net: a driver at fault does not have the backend's thread turn for nothing") {
    Fixture f;
    f.post(2048);
    f.driver->notify(0);
    f.loop.settle();
    REQUIRE(f.port().watched);
    f.driver->ring(1).set_available_index(1000);
    f.port().arrive({}, make_frame().bytes);
    CHECK(f.driver->needs_reset());
    CHECK(f.port().arriving.size() == 1);
    CHECK_FALSE(f.port().watched);

    REQUIRE(f.driver->start(0, 64));
    const GuestAddr buffer = f.post(2048);
    f.post(2048);
    f.driver->notify(0);
    f.loop.settle();
    CHECK(f.take_received(std::array{buffer}));
    CHECK(f.port().watched);
}

TEST_CASE("net: a driver that starts anew and offers no room is not told of packets") {
    Fixture f;
    f.post(2048);
    f.driver->notify(0);
    f.loop.settle();
    REQUIRE(f.port().watched);
    REQUIRE(f.driver->start(0, 64));
    f.loop.settle();
    CHECK_FALSE(f.port().watched);
}

TEST_CASE("net: what was not negotiated cannot be used") {
    Fixture f(net_bit(net_feature_csum));
    const Frame frame = make_frame();
    f.send(frame.header(), frame.bytes);
    CHECK(f.port().sent.empty());
    f.send({}, frame.bytes);
    CHECK(f.port().sent.size() == 1);
}

TEST_CASE("net: a full backend holds packets back in order") {
    Fixture f;
    f.port().full = true;
    for (std::size_t i = 0; i < 5; ++i)
        f.queue_packet({}, make_frame({.payload = 10 + i}).bytes);
    f.driver->notify(1);
    f.loop.settle();
    CHECK(f.port().sent.empty());
    CHECK_FALSE(f.driver->ring(1).take_used());
    f.port().full = false;
    f.port().events->writable();
    REQUIRE(f.port().sent.size() == 5);
    for (std::size_t i = 0; i < 5; ++i)
        CHECK(f.port().sent[i].bytes == make_frame({.payload = 10 + i}).bytes);
    f.send({}, make_frame().bytes);
    CHECK(f.port().sent.size() == 6);
}

TEST_CASE("net: a refused packet is gone, not stuck") {
    Fixture f;
    f.port().refuse = true;
    f.send({}, make_frame().bytes);
    CHECK(f.driver->ring(1).take_used());
    CHECK(f.net->counters().sent_dropped == 1);
}

TEST_CASE("net: a reset with a packet in hand drops it") {
    Fixture f;
    f.port().full = true;
    f.send({}, make_frame().bytes);
    f.driver->reset();
    f.port().full = false;
    f.port().events->writable();
    CHECK(f.port().sent.empty());
}

TEST_CASE("net: one interrupt for a batch that went out") {
    Fixture f;
    for (int i = 0; i < 10; ++i)
        f.queue_packet({}, make_frame().bytes);
    const unsigned before = f.driver->interrupt().count();
    f.driver->notify(1);
    f.loop.settle();
    CHECK(f.port().sent.size() == 10);
    CHECK(f.driver->interrupt().count() == before + 1);
}

TEST_CASE("net: a received packet lies in one buffer, behind its header") {
    const std::uint64_t without = GENERATE(std::uint64_t{0}, no_mergeable);
    Fixture f(without);
    const GuestAddr buffer = f.post(2048);
    f.driver->notify(0);
    const Frame frame = make_frame({.payload = 500});
    f.port().arrive({.flags = net_needs_csum, .csum_start = 34, .csum_offset = 16}, frame.bytes);
    const auto got = f.take_received(std::array{buffer});
    REQUIRE(got);
    NetHeader header;
    std::memcpy(&header, got->data(), sizeof header);
    CHECK(header.flags == net_needs_csum);
    CHECK(header.num_buffers == 1);
    CHECK(Bytes(got->begin() + sizeof header, got->end()) == frame.bytes);
}

TEST_CASE(
    "net: a long packet is spread over as many buffers as it takes, which come back at once") {
    Fixture f;
    const std::uint32_t size = GENERATE(12u, 13u, 29u, 30u, 31u, 1000u, 4096u);
    const std::size_t payload = size < 100 ? 300 : 30000;
    const Frame frame = make_frame({.payload = payload});
    std::vector<GuestAddr> buffers;
    for (int i = 0; i < 60; ++i)
        buffers.push_back(f.post(size));
    f.driver->notify(0);
    f.port().arrive({.flags = net_needs_csum, .gso_type = net_gso_tcp4, .gso_size = 1448},
                    frame.bytes);
    const auto got = f.take_received(buffers);
    REQUIRE(got);
    CHECK(Bytes(got->begin() + sizeof(NetHeader), got->end()) == frame.bytes);
    const std::size_t used = (sizeof(NetHeader) + frame.bytes.size() + size - 1) / size;
    CHECK_FALSE(f.driver->ring(0).take_used());
    // The next packet begins in the buffer after.
    f.port().arrive({}, make_frame({.payload = 1}).bytes);
    CHECK(f.take_received(std::span(buffers).subspan(used)));
}

TEST_CASE("net: a packet that finds too few buffers waits for more, and is whole") {
    Fixture f;
    const Frame frame = make_frame({.payload = 9000});
    std::vector<GuestAddr> buffers = {f.post(4096), f.post(20)};
    f.driver->notify(0);
    f.port().arrive({}, frame.bytes);
    f.port().arrive({}, make_frame({.payload = 7}).bytes);
    CHECK_FALSE(f.driver->ring(0).take_used());
    CHECK_FALSE(f.port().watched);
    buffers.push_back(f.post(2000));
    f.driver->notify(0);
    f.loop.settle();
    CHECK_FALSE(f.driver->ring(0).take_used());
    buffers.push_back(f.post(4096));
    buffers.push_back(f.post(4096));
    f.driver->notify(0);
    f.loop.settle();
    const auto got = f.take_received(buffers);
    REQUIRE(got);
    CHECK(Bytes(got->begin() + sizeof(NetHeader), got->end()) == frame.bytes);
    CHECK(f.take_received(std::span(buffers).subspan(4)));
}

TEST_CASE("net: a packet for which the whole ring has no room is dropped") {
    Fixture f(0, 1, {}, 4);
    std::vector<GuestAddr> buffers;
    for (int i = 0; i < 4; ++i)
        buffers.push_back(f.post(100));
    f.driver->notify(0);
    f.port().arrive({}, make_frame({.payload = 2000}).bytes);
    CHECK(f.net->counters().received_dropped == 1);
    const Frame small = make_frame({.payload = 1});
    f.port().arrive({}, small.bytes);
    const auto got = f.take_received(buffers);
    REQUIRE(got);
    CHECK(Bytes(got->begin() + sizeof(NetHeader), got->end()) == small.bytes);
}

TEST_CASE("net: without mergeable buffers a packet that is too long is dropped") {
    Fixture f(no_mergeable);
    const GuestAddr buffer = f.post(200);
    f.post(200);
    f.driver->notify(0);
    f.port().arrive({}, make_frame({.payload = 1000}).bytes);
    CHECK_FALSE(f.driver->ring(0).take_used());
    CHECK(f.net->counters().received_dropped == 1);
    f.port().arrive({}, make_frame({.payload = 10}).bytes);
    CHECK(f.take_received(std::array{buffer}));
}

TEST_CASE("net: nothing is read from the backend while the driver has no room") {
    Fixture f;
    CHECK_FALSE(f.port().watched);
    f.port().arrive({}, make_frame().bytes);
    CHECK(f.port().arriving.size() == 1);
    const GuestAddr buffer = f.post(2048);
    f.driver->notify(0);
    f.loop.settle();
    CHECK(f.take_received(std::array{buffer}));
}

TEST_CASE("net: a receive buffer that cannot hold a header is the driver's fault") {
    Fixture f;
    f.post(11);
    f.driver->notify(0);
    CHECK(f.driver->needs_reset());
}

TEST_CASE("net: offloads that the driver does not take never reach it") {
    Fixture f(net_bit(net_feature_guest_tso4));
    const GuestAddr buffer = f.post(4096);
    f.driver->notify(0);
    f.port().arrive({.gso_type = net_gso_tcp4, .gso_size = 100}, make_frame().bytes);
    CHECK_FALSE(f.driver->ring(0).take_used());
    f.port().arrive({.gso_type = net_gso_tcp6, .gso_size = 100}, make_frame().bytes);
    CHECK(f.take_received(std::array{buffer}));
    CHECK((f.backend.guest_offloads & net_bit(net_feature_guest_tso4)) == 0);
    CHECK((f.backend.guest_offloads & net_bit(net_feature_guest_tso6)) != 0);
}

TEST_CASE("net: without GUEST_CSUM there are no flags, and no segments either") {
    Fixture f(net_bit(net_feature_guest_csum));
    CHECK(f.backend.guest_offloads == 0);
    const GuestAddr buffer = f.post(4096);
    f.driver->notify(0);
    f.port().arrive({.flags = net_data_valid}, make_frame().bytes);
    const auto got = f.take_received(std::array{buffer});
    REQUIRE(got);
    CHECK(got->front() == std::byte{0});
}

TEST_CASE("net: a port may deliver by itself") {
    Fixture f;
    const Frame frame = make_frame({.payload = 6000});
    CHECK_FALSE(f.port().events->deliver(frame.bytes)); // no room: the port keeps it
    std::vector<GuestAddr> buffers;
    for (int i = 0; i < 3; ++i)
        buffers.push_back(f.post(4096));
    CHECK(f.port().events->deliver(frame.bytes));
    const auto got = f.take_received(buffers);
    REQUIRE(got);
    CHECK(got->front() == std::byte{net_data_valid});
    CHECK(Bytes(got->begin() + sizeof(NetHeader), got->end()) == frame.bytes);
    f.driver->reset();
    CHECK(f.port().events->deliver(frame.bytes)); // to nobody
}

TEST_CASE("net: the filter takes what the driver asked for") {
    Fixture f;
    constexpr MacAddress other = {0x52, 0x54, 0, 0, 0, 9};
    constexpr MacAddress group = {0x01, 0x00, 0x5e, 0, 0, 1};
    constexpr MacAddress everyone = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    for (int i = 0; i < 20; ++i)
        f.post(2048);
    f.driver->notify(0);
    const auto passes = [&](const MacAddress& to) {
        f.port().arrive({}, frame_to(to));
        return f.driver->ring(0).take_used().has_value();
    };
    CHECK(passes(other)); // until told otherwise
    CHECK(f.command(net_class_rx, net_rx_promiscuous, {std::byte{0}}) == net_control_ok);
    CHECK(passes(our_mac));
    CHECK(passes(everyone));
    CHECK_FALSE(passes(other));
    CHECK_FALSE(passes(group));

    SECTION("multicast") {
        CHECK(f.command(net_class_rx, net_rx_all_multicast, {std::byte{1}}) == net_control_ok);
        CHECK(passes(group));
        CHECK(f.command(net_class_rx, net_rx_no_multicast, {std::byte{1}}) == net_control_ok);
        CHECK_FALSE(passes(group));
    }
    SECTION("unicast and broadcast") {
        CHECK(f.command(net_class_rx, net_rx_all_unicast, {std::byte{1}}) == net_control_ok);
        CHECK(passes(other));
        CHECK(f.command(net_class_rx, net_rx_no_unicast, {std::byte{1}}) == net_control_ok);
        CHECK_FALSE(passes(our_mac));
        CHECK(f.command(net_class_rx, net_rx_no_broadcast, {std::byte{1}}) == net_control_ok);
        CHECK_FALSE(passes(everyone));
    }
    SECTION("another address of its own") {
        CHECK(f.command(net_class_mac, net_mac_address_set, bytes_of(other)) == net_control_ok);
        CHECK(passes(other));
        CHECK_FALSE(passes(our_mac));
        CHECK(f.command(net_class_mac, net_mac_address_set, bytes_of(group)) == net_control_error);
        CHECK(f.command(net_class_mac, net_mac_address_set, Bytes(5)) == net_control_error);
    }
    SECTION("tables") {
        Bytes tables = bytes_of(std::uint32_t{1});
        const auto append = [&](const Bytes& more) {
            tables.insert(tables.end(), more.begin(), more.end());
        };
        append(bytes_of(other));
        append(bytes_of(std::uint32_t{1}));
        append(bytes_of(group));
        CHECK(f.command(net_class_mac, net_mac_table_set, tables) == net_control_ok);
        CHECK(passes(other));
        CHECK(passes(group));
        CHECK_FALSE(passes({0x52, 0x54, 0, 0, 0, 8}));
        tables.pop_back();
        CHECK(f.command(net_class_mac, net_mac_table_set, tables) == net_control_error);
    }
    SECTION("tables that are too long mean everything") {
        Bytes tables = bytes_of(std::uint32_t{100});
        tables.resize(4 + 600);
        tables.resize(4 + 600 + 4);
        CHECK(f.command(net_class_mac, net_mac_table_set, tables) == net_control_ok);
        CHECK(passes(other));
        CHECK_FALSE(passes(group));
    }
    SECTION("a table that claims to be endless") {
        CHECK(f.command(net_class_mac, net_mac_table_set, bytes_of(~std::uint32_t{0})) ==
              net_control_error);
    }
    SECTION("VLANs") {
        const auto tagged = make_frame({.vlan_tags = 1, .to = our_mac}).bytes;
        f.port().arrive({}, tagged);
        CHECK_FALSE(f.driver->ring(0).take_used());
        CHECK(f.command(net_class_vlan, net_vlan_add, bytes_of(std::uint16_t{5})) ==
              net_control_ok);
        f.port().arrive({}, tagged);
        CHECK(f.driver->ring(0).take_used());
        CHECK(f.command(net_class_vlan, net_vlan_remove, bytes_of(std::uint16_t{5})) ==
              net_control_ok);
        f.port().arrive({}, tagged);
        CHECK_FALSE(f.driver->ring(0).take_used());
        CHECK(f.command(net_class_vlan, net_vlan_add, bytes_of(std::uint16_t{4096})) ==
              net_control_error);
    }
}

TEST_CASE("net: commands that make no sense are refused, and the device lives") {
    Fixture f;
    CHECK(f.command(99, 0) == net_control_error);
    CHECK(f.command(net_class_rx, 6, {std::byte{1}}) == net_control_error);
    CHECK(f.command(net_class_rx, net_rx_promiscuous) == net_control_error);
    CHECK(f.command(net_class_mac, 2, Bytes(6)) == net_control_error);
    CHECK(f.command(net_class_vlan, 2, Bytes(2)) == net_control_error);
    CHECK(f.command(net_class_announce, 1) == net_control_error);
    CHECK(f.command(net_class_mq, net_mq_pairs_set, bytes_of(std::uint16_t{1})) ==
          net_control_error);
    CHECK(f.command(net_class_offloads, net_offloads_set, bytes_of(std::uint64_t{1} << 40)) ==
          net_control_error);
    CHECK_FALSE(f.driver->needs_reset());
}

TEST_CASE("net: a command without room for the answer is the driver's fault") {
    Fixture f;
    const NetControlHead head{net_class_announce, net_announce_ack};
    f.driver->ring(2).offer({{f.place(&head, sizeof head), sizeof head}});
    f.driver->notify(2);
    CHECK(f.driver->needs_reset());
}

TEST_CASE("net: offloads change while the device runs") {
    Fixture f;
    const std::uint64_t all = net_bit(net_feature_guest_csum) | net_bit(net_feature_guest_tso4);
    CHECK(f.command(net_class_offloads, net_offloads_set, bytes_of(all)) == net_control_ok);
    CHECK(f.backend.guest_offloads == all);
    // Segments cannot be without checksums.
    CHECK(f.command(net_class_offloads, net_offloads_set,
                    bytes_of(net_bit(net_feature_guest_tso4))) == net_control_ok);
    CHECK(f.backend.guest_offloads == 0);
}

TEST_CASE("net: however many commands the guest gives, one task of the event loop waits") {
    Fixture f(0, 3);
    const NetControlHead head{net_class_mq, net_mq_pairs_set};
    const std::uint16_t pairs = 3;
    const GuestAddr answer = f.ram.allocate(1);
    for (int i = 0; i < 100; ++i) {
        f.driver->ring(6).offer({{f.place(&head, sizeof head), sizeof head},
                                 {f.place(&pairs, sizeof pairs), sizeof pairs},
                                 {answer, 1, true}});
        f.driver->notify(6);
        REQUIRE(f.driver->ring(6).take_used());
    }
    CHECK(f.loop.tasks() == 1);
    f.loop.settle();
    CHECK(f.backend.active == 3);
}

TEST_CASE("net: commands behind a full round of the ring are served, too") {
    Fixture f(0, 1, {}, 16);
    const NetControlHead head{net_class_announce, net_announce_ack};
    const GuestAddr at = f.place(&head, sizeof head);
    const GuestAddr answer = f.ram.allocate(1);
    const auto offer = [&] {
        f.driver->ring(2).offer_indirect({{at, sizeof head}, {answer, 1, true}});
    };
    for (int i = 0; i < 16; ++i)
        offer();
    f.driver->notify(2);
    for (int i = 0; i < 16; ++i)
        REQUIRE(f.driver->ring(2).take_used());
    f.loop.settle();
    offer();
    f.driver->notify(2);
    CHECK(f.driver->ring(2).take_used());
}

TEST_CASE("net: announcing, and the link's state") {
    Fixture f;
    const auto status = [&] { return f.driver->read(0x104) >> 16; };
    f.net->announce();
    CHECK(status() == (net_link_up | net_announce));
    CHECK(f.command(net_class_announce, net_announce_ack) == net_control_ok);
    CHECK(status() == net_link_up);
    f.net->set_link(false);
    CHECK(status() == 0);
}

TEST_CASE("net: several pairs, of which one works until the driver asks for more") {
    Fixture f(0, 3);
    CHECK(f.backend.active == 1);
    for (std::uint32_t pair = 0; pair < 3; ++pair) {
        f.post(2048, net_receive_queue(pair));
        f.driver->notify(net_receive_queue(pair));
    }
    CHECK(f.port(0).watched);
    CHECK_FALSE(f.port(1).watched);
    CHECK(f.command(net_class_mq, net_mq_pairs_set, bytes_of(std::uint16_t{0}), 6) ==
          net_control_error);
    CHECK(f.command(net_class_mq, net_mq_pairs_set, bytes_of(std::uint16_t{4}), 6) ==
          net_control_error);
    CHECK(f.command(net_class_mq, net_mq_pairs_set, bytes_of(std::uint16_t{3}), 6) ==
          net_control_ok);
    CHECK(f.backend.active == 3);
    CHECK(f.port(2).watched);
    f.send({}, make_frame().bytes, net_transmit_queue(2));
    CHECK(f.port(2).sent.size() == 1);
    CHECK(f.port(0).sent.empty());
    f.port(1).arrive({}, make_frame().bytes);
    CHECK(f.driver->ring(net_receive_queue(1)).take_used());
    CHECK(f.command(net_class_mq, net_mq_pairs_set, bytes_of(std::uint16_t{1}), 6) ==
          net_control_ok);
    CHECK(f.backend.active == 1);
    CHECK_FALSE(f.port(1).watched);
}

TEST_CASE("net: a driver that knows nothing of pairs finds the control queue third") {
    Fixture f(net_bit(net_feature_mq), 2);
    CHECK(f.command(net_class_announce, net_announce_ack, {}, 2) == net_control_ok);
}

TEST_CASE("net: rate limits hold packets back, in both directions, and let them go") {
    // A packet at once, then one in 20 ms: slow enough to see, quick enough to wait for.
    const TrafficLimit limit{.packets = {.rate = 50, .burst = 1}};
    Fixture f(0, 1, {.receive = limit, .transmit = limit});
    const auto wait_for = [&](const std::function<bool()>& done) {
        for (int i = 0; i < 1'000'000 && !done(); ++i)
            f.loop.settle();
        return done();
    };
    for (int i = 0; i < 3; ++i)
        f.queue_packet({}, make_frame().bytes);
    f.driver->notify(1);
    f.loop.settle();
    CHECK(f.port().sent.size() < 3);
    CHECK(wait_for([&] { return f.port().sent.size() == 3; }));

    for (int i = 0; i < 3; ++i)
        f.post(2048);
    f.driver->notify(0);
    for (int i = 0; i < 3; ++i)
        f.port().arrive({}, make_frame().bytes);
    CHECK(f.net->counters().received < 3);
    CHECK(wait_for([&] { return f.net->counters().received == 3; }));
}

TEST_CASE("net: what a port delivers while a limit holds it back arrives when that ends") {
    const TrafficLimit limit{.packets = {.rate = 50, .burst = 1}};
    Fixture f(0, 1, {.receive = limit});
    for (int i = 0; i < 64; ++i)
        f.post(2048);
    f.driver->notify(0);
    f.loop.settle();
    const Frame frame = make_frame();
    std::uint64_t taken = 0;
    while (f.port().events->deliver(frame.bytes))
        ++taken;
    REQUIRE((taken >= 1 && taken < 64)); // the port keeps the last one
    f.port().watched = false;            // and has nothing to tell of: it delivers by itself
    f.port().arrive({}, frame.bytes);
    for (int i = 0; i < 1'000'000 && f.net->counters().received == taken; ++i)
        f.loop.settle();
    CHECK(f.net->counters().received == taken + 1);
}

TEST_CASE("net: a direction that a limit holds back for long does not put off the other") {
    // The first go through at once; then it is one in 20 ms out, one in minutes in.
    Fixture f(0, 1,
              {.receive = {.bytes = {.rate = 1, .burst = 1}},
               .transmit = {.packets = {.rate = 50, .burst = 1}}});
    for (int i = 0; i < 3; ++i)
        f.post(2048);
    f.driver->notify(0);
    f.port().arrive({}, make_frame().bytes);
    f.port().arrive({}, make_frame().bytes);
    for (int i = 0; i < 3; ++i)
        f.queue_packet({}, make_frame().bytes);
    f.driver->notify(1);
    for (int i = 0; i < 1'000'000 && f.port().sent.size() < 3; ++i)
        f.loop.settle();
    CHECK(f.port().sent.size() == 3);
}

TEST_CASE("net: a pair that polls finds what comes without being woken") {
    Fixture f(0, 1, {.poll_ns = 1'000'000});
    f.send({}, make_frame().bytes);
    CHECK(f.port().sent.size() == 1);
    const GuestAddr buffer = f.post(2048);
    f.driver->notify(0);
    f.port().arrive({}, make_frame().bytes);
    CHECK(f.take_received(std::array{buffer}));
    // It asked to be notified before it stopped looking.
    f.queue_packet({}, make_frame().bytes);
    CHECK(f.driver->ring(1).must_notify());
}
