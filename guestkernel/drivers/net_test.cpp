// The whole way from the stack's interface to the host's backend and back, over one memory: the
// kernel's driver against the VMM's device.
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/boot_config.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/drivers/net.hpp"
#include "guestkernel/drivers/virtio_mmio.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/sched/work.hpp"
#include "virtio/device/net/net.hpp"
#include "virtio/device/net/testing/frames.hpp"
#include "virtio/testing/poll_loop.hpp"
#include "virtio/transport/mmio_transport.hpp"

namespace kernel {

// What the machine's parts of the kernel would say.
static BootConfig test_config;
const BootConfig& boot_config() {
    return test_config;
}
void arch::register_device_interrupt(u8, void (*)(void*), void*) {}

namespace log {
// Weak: the hosted machine may come to have a log of its own.
[[gnu::weak]] void write_line(boot::LogLevel, std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}
} // namespace log

} // namespace kernel

using namespace kernel;
using TestFrame = virtio::testing::Frame;
using virtio::testing::make_frame;

namespace {

constexpr u64 ram_bytes = u64{256} << 20;
constexpr u64 register_page = 0x10000;

using Bytes = std::vector<std::byte>;

struct SentFrame {
    virtio::NetHeader header;
    Bytes bytes;
};

class Port final : public virtio::NetPort {
public:
    void attach(virtio::NetPortEvents& to) override { events = &to; }
    Sent send(const virtio::NetHeader& header, std::span<const struct iovec> frame,
              std::size_t) override {
        if (full)
            return Sent::Full;
        Bytes bytes;
        for (const struct iovec& piece : frame) {
            const auto* from = static_cast<const std::byte*>(piece.iov_base);
            bytes.insert(bytes.end(), from, from + piece.iov_len);
        }
        sent.push_back({header, std::move(bytes)});
        return Sent::Taken;
    }
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
    void arrive(const virtio::NetHeader& header, const Bytes& frame) {
        const auto head = std::as_bytes(std::span(&header, 1));
        Bytes all(head.begin(), head.end());
        all.insert(all.end(), frame.begin(), frame.end());
        arriving.push_back(std::move(all));
        if (watched)
            events->readable();
    }

    virtio::NetPortEvents* events = nullptr;
    std::vector<SentFrame> sent;
    std::deque<Bytes> arriving;
    bool full = false;
    bool watched = false;
};

class Backend final : public virtio::NetBackend {
public:
    explicit Backend(unsigned count) : ports(count) {}
    unsigned pairs() const override { return static_cast<unsigned>(ports.size()); }
    virtio::NetPort& port(unsigned pair) override { return ports[pair]; }
    std::uint64_t offloads() const override { return features; }
    void set_guest_offloads(std::uint64_t bits) override { guest_offloads = bits; }
    void set_active_pairs(unsigned count) override { active = count; }

    std::vector<Port> ports;
    std::uint64_t features = 0x3 | 1u << 7 | 1u << 8 | 1u << 11 | 1u << 12;
    std::uint64_t guest_offloads = 0;
    unsigned active = 0;
};

struct Interrupt final : virtio::InterruptSink {
    void signal() override { count++; }
    u64 count = 0;
};

virtio::MmioTransport* device_behind = nullptr;
u64 notifications = 0;
std::vector<Bytes> received;
std::vector<net::ChecksumState> received_states;
u16 last_segment_size = 0;

bool keep(net::Interface&, net::PacketPtr& packet) {
    packet->restore_link();
    Bytes bytes(packet->length());
    REQUIRE(packet->copy_out(0, bytes.data(), packet->length()));
    received.push_back(std::move(bytes));
    received_states.push_back(packet->checksum_state);
    last_segment_size = packet->segment_size;
    packet = {};
    return true;
}

struct Fixture {
    explicit Fixture(unsigned pairs = 1, unsigned cpus = 1, std::uint64_t without = 0)
        : backend(pairs) {
        net::testing::reset_network(ram_bytes);
        kernel::testing::stand_in_for_worker(true);
        hosted::set_cpu_count(cpus);
        received.clear();
        received_states.clear();
        backend.features &= ~without;
        auto* ram = static_cast<std::byte*>(arch::phys_to_virt(PhysAddr(0)));
        REQUIRE(memory.add_region({virtio::GuestAddr(0), ram, ram_bytes}));
        const std::vector<virtio::EventLoop*> loops(pairs, &loop);
        device = std::make_unique<virtio::Net>(
            backend, loops, virtio::NetOptions{.mac = {0x52, 0x54, 0, 0, 0, 1}, .mtu = 9000});
        transport = std::make_unique<virtio::MmioTransport>(
            *device, memory,
            std::span<std::byte, virtio::register_page_size>(ram + register_page,
                                                             virtio::register_page_size),
            interrupt);
        device_behind = transport.get();
        hosted_mmio_write = [](volatile u8*, u32 offset, u32 value) {
            if (offset != virtio::queue_notify_offset) {
                device_behind->write(offset, 4, value);
                return;
            }
            notifications++;
            if (device_behind->notify_style(value) == virtio::NotifyStyle::Inline)
                device_behind->write(offset, 4, value);
            else
                device_behind->notify(value);
        };
        auto made = net::Stack::make(net::StackClock(clock), nullptr);
        REQUIRE(made);
        stack = std::move(*made);
        auto opened = open_net_device(VirtioSlot{register_page, 0xe4}, *stack);
        REQUIRE(opened);
        interface = std::move(*opened);
        loop.settle();
        interface->receive_handler.store(keep);
        REQUIRE(stack->set_flags(*interface, net::iff_up, net::iff_up));
        loop.settle();
        for (Port& port : backend.ports)
            port.sent.clear(); // what IPv6 says when a link comes up
        notifications = 0;
    }
    ~Fixture() {
        stack->shutdown(); // says good-bye on the link
        const auto of_interrupt = Ref<net::Interface>::adopt(interface.get());
        interface = nullptr;
        stack = nullptr;
        transport.reset();
        device_behind = nullptr;
    }
    Port& port(std::size_t pair = 0) { return backend.ports[pair]; }
    void serve() {
        loop.settle();
        serve_net_device(*interface);
        loop.settle();
    }
    // A packet with the frame's first `linear` bytes in its linear part, the others in pages.
    net::PacketPtr packet_of(const TestFrame& frame, u32 linear) {
        const auto total = static_cast<u32>(frame.bytes.size());
        linear = std::min(linear, total);
        net::PacketPtr packet = net::Packet::allocate(linear);
        REQUIRE(packet);
        std::memcpy(packet->put(linear), frame.bytes.data(), linear);
        for (u32 at = linear; at < total;) {
            const u32 here = std::min<u32>(total - at, page_size);
            FrameRef page = FrameRef::adopt(alloc_frame());
            REQUIRE(page);
            std::memcpy(page.data(), frame.bytes.data() + at, here);
            REQUIRE(packet->append_fragment(page, 0, here));
            at += here;
        }
        return packet;
    }

    net::VirtualClock clock;
    virtio::testing::PollLoop loop;
    virtio::GuestMemory memory;
    Backend backend;
    Interrupt interrupt;
    std::unique_ptr<virtio::Net> device;
    std::unique_ptr<virtio::MmioTransport> transport;
    Ref<net::Stack> stack;
    Ref<net::Interface> interface;
};

} // namespace

TEST_CASE("net driver: takes the device's address, MTU and offloads") {
    Fixture f;
    CHECK(f.interface->name() == "eth0");
    CHECK(f.interface->mtu() == 9000);
    CHECK(f.interface->mac() == net::MacAddress{{0x52, 0x54, 0, 0, 0, 1}});
    CHECK(f.interface->can(net::feature_checksum));
    CHECK(f.interface->can(net::feature_tso4));
    CHECK(f.interface->can(net::feature_tso6));
    CHECK((f.interface->flags() & net::iff_running) != 0);
    CHECK(f.backend.guest_offloads == (0x2 | 1u << 7 | 1u << 8));
    f.device->set_link(false);
    f.serve();
    CHECK((f.interface->flags() & net::iff_running) == 0);
}

TEST_CASE("net driver: a device that can do little makes the stack do it") {
    Fixture f(1, 1, ~std::uint64_t{0});
    CHECK_FALSE(f.interface->can(net::feature_checksum));
    CHECK_FALSE(f.interface->can(net::feature_tso4));
    const TestFrame frame = make_frame({.payload = 100});
    f.interface->transmit(f.packet_of(frame, 1000));
    f.loop.settle();
    REQUIRE(f.port().sent.size() == 1);
    CHECK(f.port().sent[0].bytes == frame.bytes);
}

TEST_CASE("net driver: packets go out whole, linear or in pages") {
    Fixture f;
    const u32 linear = GENERATE(14u, 54u, 200u);
    const TestFrame frame = make_frame({.payload = 9000});
    f.interface->transmit(f.packet_of(frame, linear));
    f.loop.settle();
    REQUIRE(f.port().sent.size() == 1);
    CHECK(f.port().sent[0].bytes == frame.bytes);
    CHECK(f.port().sent[0].header == virtio::NetHeader{});
}

TEST_CASE("net driver: a segment of 60 KB with its checksum to be made is one packet") {
    Fixture f;
    const bool v6 = GENERATE(false, true);
    const TestFrame frame = make_frame({.ipv6 = v6, .payload = 60000});
    net::PacketPtr packet = f.packet_of(frame, 100);
    packet->segmentation = v6 ? net::Segmentation::Tcp6 : net::Segmentation::Tcp4;
    packet->segment_size = 1448;
    REQUIRE(packet->set_partial_checksum(static_cast<u32>(frame.transport), 16));
    f.interface->transmit(std::move(packet));
    f.loop.settle();
    REQUIRE(f.port().sent.size() == 1);
    const SentFrame& sent = f.port().sent[0];
    CHECK(sent.bytes == frame.bytes);
    CHECK(sent.header.flags == virtio::net_needs_csum);
    CHECK(sent.header.gso_type == (v6 ? virtio::net_gso_tcp6 : virtio::net_gso_tcp4));
    CHECK(sent.header.gso_size == 1448);
    CHECK(sent.header.csum_start == frame.transport);
    CHECK(sent.header.csum_offset == 16);
}

TEST_CASE("net driver: what a full device does not take waits, and goes out in order") {
    Fixture f;
    f.port().full = true;
    constexpr std::size_t count = 600; // twice the ring
    for (std::size_t i = 0; i < count; ++i)
        f.interface->transmit(f.packet_of(make_frame({.payload = 1 + i}), 1000));
    f.loop.settle();
    CHECK(f.port().sent.empty());
    f.port().full = false;
    f.port().events->writable();
    for (int i = 0; i < 10 && f.port().sent.size() < count; ++i)
        f.serve();
    REQUIRE(f.port().sent.size() == count);
    for (std::size_t i = 0; i < count; ++i)
        CHECK(f.port().sent[i].bytes == make_frame({.payload = 1 + i}).bytes);
}

TEST_CASE("net driver: received packets of all sizes are what was sent") {
    Fixture f;
    for (const std::size_t payload :
         {std::size_t{1}, std::size_t{400}, std::size_t{500}, std::size_t{1400}, std::size_t{4000},
          std::size_t{4096}, std::size_t{9000}, std::size_t{60000}}) {
        received.clear();
        const TestFrame frame = make_frame({.payload = payload});
        virtio::NetHeader header = frame.header(payload > 9000 ? 1448 : 0);
        f.port().arrive(header, frame.bytes);
        f.serve();
        REQUIRE(received.size() == 1);
        CHECK(received[0] == frame.bytes);
        CHECK(received_states.back() == net::ChecksumState::Partial);
        CHECK(last_segment_size == header.gso_size);
    }
    f.port().arrive({.flags = virtio::net_data_valid}, make_frame().bytes);
    f.serve();
    CHECK(received_states.back() == net::ChecksumState::Verified);
    f.port().arrive({}, make_frame().bytes);
    f.serve();
    CHECK(received_states.back() == net::ChecksumState::None);
}

TEST_CASE("net driver: thousands of packets, and no page is lost") {
    Fixture f;
    std::mt19937 random(7);
    const auto one_round = [&] {
        for (int i = 0; i < 300; ++i) {
            const TestFrame frame = make_frame({.payload = 1 + random() % 20000});
            f.port().arrive(frame.header(1448), frame.bytes);
            f.interface->transmit(f.packet_of(make_frame({.payload = random() % 9000}), 200));
            if (i % 7 == 0)
                f.serve();
        }
        f.serve();
    };
    one_round();
    received.clear();
    const u64 free_before = memory_stats().free;
    for (int round = 0; round < 20; ++round)
        one_round();
    CHECK(received.size() == 20 * 300);
    const u64 free_after = memory_stats().free;
    // Sent packets may still lie in the ring, some more or less of them.
    CHECK(free_after + 1000 > free_before);
    CHECK(free_before + 1000 > free_after);
    CHECK_FALSE(f.transport->first_fault().kind != virtio::FaultKind::None);
}

TEST_CASE("net driver: a ring that ran empty for lack of memory is filled again by itself") {
    Fixture f;
    static std::vector<net::PacketPtr> held;
    f.interface->receive_handler.store([](net::Interface&, net::PacketPtr& packet) {
        held.push_back(std::move(packet));
        return true;
    });
    // No page is free, but places for packets are, here and there.
    std::vector<net::PacketPtr> packets;
    for (int i = 0; i < 1000; ++i)
        packets.push_back(net::Packet::allocate(192));
    std::vector<FrameRef> pages;
    while (FrameRef page = FrameRef::adopt(alloc_frames(0, false, Charge::None)))
        pages.push_back(std::move(page));
    for (std::size_t i = 0; i < packets.size(); i += 2)
        packets[i] = {};
    for (int i = 0; i < 300; ++i)
        f.port().arrive({}, make_frame({.payload = 2000}).bytes);
    for (int i = 0; i < 10; ++i)
        f.serve();
    CHECK(held.size() == 256);
    CHECK(f.port().arriving.size() == 300 - 256);
    pages.clear();
    f.clock.advance_to(f.clock.now() + nanoseconds_per_second);
    kernel::testing::run_queued_work();
    f.loop.settle();
    CHECK(f.port().arriving.empty());
    f.serve();
    CHECK(held.size() == 300);
    held.clear();
}

TEST_CASE("net driver: a busy device is not notified, an idle driver is not missed") {
    Fixture f;
    // One notification for a batch.
    net::PacketList packets;
    for (int i = 0; i < 20; ++i)
        packets.push_back(f.packet_of(make_frame(), 1000));
    f.interface->transmit(std::move(packets));
    CHECK(notifications == 1);
    CHECK(f.port().sent.size() == 20);
    // No interrupt for what was sent.
    const u64 before = f.interrupt.count;
    f.interface->transmit(f.packet_of(make_frame(), 1000));
    CHECK(f.interrupt.count == before);
    // One for the first of many that come.
    for (int i = 0; i < 20; ++i)
        f.port().arrive({}, make_frame().bytes);
    CHECK(f.interrupt.count == before + 1);
    f.serve();
    CHECK(received.size() == 20);
    f.port().arrive({}, make_frame().bytes);
    CHECK(f.interrupt.count == before + 2);
}

TEST_CASE(
    "net driver: a flood is received to its end, in turns, and the packet after it is heard") {
    Fixture f;
    constexpr std::size_t flood = 5000, tail = 3;
    for (std::size_t i = 0; i < flood; ++i)
        f.port().arrive({}, make_frame({.payload = 1 + i % 300}).bytes);
    serve_net_device(*f.interface);
    // Others have their turn, and until the rest was taken nothing interrupts.
    const std::size_t first_turn = received.size();
    CHECK(first_turn >= 1000);
    CHECK(first_turn < flood);
    const u64 interrupts = f.interrupt.count;
    f.port().arrive({}, make_frame({.payload = 77}).bytes);
    CHECK(f.interrupt.count == interrupts);
    kernel::testing::run_queued_work();
    REQUIRE(received.size() == flood + 1);
    for (std::size_t i = 0; i < flood; ++i)
        REQUIRE(received[i] == make_frame({.payload = 1 + i % 300}).bytes);
    for (std::size_t i = 0; i < tail; ++i) {
        f.port().arrive({}, make_frame().bytes);
        CHECK(f.interrupt.count == interrupts + 1 + i);
        f.serve();
        CHECK(received.size() == flood + 2 + i);
    }
}

TEST_CASE("net driver: floods on several pairs are all received") {
    Fixture f(2, 2);
    constexpr std::size_t flood = 3000;
    for (std::size_t i = 0; i < flood; ++i)
        for (std::size_t pair = 0; pair < 2; ++pair)
            f.port(pair).arrive({}, make_frame().bytes);
    serve_net_device(*f.interface);
    CHECK(received.size() < 2 * flood);
    kernel::testing::run_queued_work();
    CHECK(received.size() == 2 * flood);
    hosted::set_cpu_count(1);
}

TEST_CASE("net driver: as many pairs as CPUs and device have") {
    Fixture f(4, 2);
    CHECK(f.interface->queue_count() == 2);
    CHECK(f.backend.active == 2);
    hosted::set_cpu(1);
    f.interface->transmit(f.packet_of(make_frame(), 1000));
    hosted::set_cpu(0);
    CHECK(f.port(1).sent.size() == 1);
    f.port(1).arrive({}, make_frame().bytes);
    f.serve();
    CHECK(received.size() == 1);
}
