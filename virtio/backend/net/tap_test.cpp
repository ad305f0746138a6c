// A TAP in a network namespace of the test's own: the guest's side is a fake driver, the host's
// side is this process's own sockets.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sched.h>
#include <string>

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/udp.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "virtio/backend/net/tap.hpp"
#include "virtio/backend/net/testing/own_namespace.hpp"
#include "virtio/device/net/net.hpp"
#include "virtio/device/net/testing/frames.hpp"
#include "virtio/testing/fake_guest.hpp"
#include "virtio/testing/poll_loop.hpp"

using namespace virtio;
using virtio::testing::FakeDriver;
using virtio::testing::FakeRam;
using virtio::testing::Frame;
using virtio::testing::make_frame;
using virtio::testing::PollLoop;

namespace {

constexpr MacAddress guest_mac = {0x52, 0x54, 0, 0, 0, 1};

void enter_namespace() {
    INFO("a network namespace is needed: as root, or where users may make user namespaces");
    REQUIRE(virtio::testing::enter_own_namespace());
}

struct ifreq request_for(const std::string& name) {
    struct ifreq request {};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    return request;
}

UniqueFd open_tun(const std::string& name, int flags) {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
    REQUIRE(fd);
    struct ifreq request = request_for(name);
    request.ifr_flags = static_cast<short>(flags);
    REQUIRE(::ioctl(fd.get(), TUNSETIFF, &request) == 0);
    return fd;
}

// A persistent TAP with 10.9.0.1/24 on it; 10.9.0.2 is the guest.
class Interface {
public:
    explicit Interface(int extra_flags = 0) {
        enter_namespace();
        static int number = 0;
        name_ = "joeytest" + std::to_string(number++);
        flags_ = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | extra_flags;
        const UniqueFd fd = open_tun(name_, flags_);
        REQUIRE(::ioctl(fd.get(), TUNSETPERSIST, 1) == 0);
        // No neighbour discovery of its own: the test wants to see its own packets only.
        std::ofstream("/proc/sys/net/ipv6/conf/" + name_ + "/disable_ipv6") << "1";
        struct ifreq request = request_for(name_);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(0x0a090001);
        std::memcpy(&request.ifr_addr, &address, sizeof address);
        REQUIRE(::ioctl(control_.get(), SIOCSIFADDR, &request) == 0);
        address.sin_addr.s_addr = htonl(0xffffff00);
        std::memcpy(&request.ifr_netmask, &address, sizeof address);
        REQUIRE(::ioctl(control_.get(), SIOCSIFNETMASK, &request) == 0);
        request = request_for(name_);
        request.ifr_flags = IFF_UP | IFF_RUNNING;
        REQUIRE(::ioctl(control_.get(), SIOCSIFFLAGS, &request) == 0);
        struct arpreq neighbour {};
        address.sin_addr.s_addr = htonl(0x0a090002);
        std::memcpy(&neighbour.arp_pa, &address, sizeof address);
        neighbour.arp_ha.sa_family = ARPHRD_ETHER;
        std::memcpy(neighbour.arp_ha.sa_data, guest_mac.data(), guest_mac.size());
        neighbour.arp_flags = ATF_COM | ATF_PERM;
        name_.copy(neighbour.arp_dev, sizeof neighbour.arp_dev - 1);
        REQUIRE(::ioctl(control_.get(), SIOCSARP, &neighbour) == 0);
    }
    ~Interface() { remove(); }
    void remove() {
        UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
        struct ifreq request = request_for(name_);
        request.ifr_flags = static_cast<short>(flags_);
        if (::ioctl(fd.get(), TUNSETIFF, &request) == 0)
            ::ioctl(fd.get(), TUNSETPERSIST, 0);
    }
    MacAddress mac() const {
        struct ifreq request = request_for(name_);
        REQUIRE(::ioctl(control_.get(), SIOCGIFHWADDR, &request) == 0);
        MacAddress mac{};
        std::memcpy(mac.data(), request.ifr_hwaddr.sa_data, mac.size());
        return mac;
    }
    const std::string& name() const { return name_; }
    // A TAP has a carrier while somebody has it open, and the host hears of it a little later: what
    // is sent before that is lost.
    bool is_running() const {
        struct ifreq request = request_for(name_);
        return ::ioctl(control_.get(), SIOCGIFFLAGS, &request) == 0 &&
               (request.ifr_flags & IFF_RUNNING) != 0;
    }

private:
    UniqueFd control_{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    std::string name_;
    int flags_ = 0;
};

UniqueFd udp_socket() {
    UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(0x0a090001);
    address.sin_port = htons(5000);
    REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return fd;
}

// A guest's UDP datagram to 10.9.0.1:5000, with the sum of the pseudo header where the checksum is
// to be.
Frame datagram(const MacAddress& to, std::size_t payload) {
    Frame frame = make_frame({.protocol = IPPROTO_UDP, .payload = payload, .to = to});
    const auto put = [&](std::size_t at, std::initializer_list<unsigned> bytes) {
        for (const unsigned byte : bytes)
            frame.bytes[at++] = static_cast<std::byte>(byte);
    };
    const auto sum = [&](std::size_t at, std::size_t length, std::uint32_t start) {
        for (std::size_t i = 0; i < length; i += 2)
            start += std::to_integer<unsigned>(frame.bytes[at + i]) << 8 |
                     std::to_integer<unsigned>(frame.bytes[at + i + 1]);
        while (start >> 16 != 0)
            start = (start & 0xffff) + (start >> 16);
        return start;
    };
    put(frame.network + 12, {10, 9, 0, 2, 10, 9, 0, 1});
    put(frame.transport, {0x9c, 0x40, 5000 >> 8, 5000 & 0xff});
    const std::uint32_t header = ~sum(frame.network, 20, 0);
    put(frame.network + 10, {header >> 8 & 0xff, header & 0xff});
    const std::uint32_t pseudo =
        sum(frame.network + 12, 8, IPPROTO_UDP + static_cast<std::uint32_t>(8 + payload));
    put(frame.transport + 6, {pseudo >> 8 & 0xff, pseudo & 0xff});
    return frame;
}

struct Fixture {
    explicit Fixture(const Interface& interface, unsigned pairs = 1, std::uint64_t without = 0) {
        auto opened = Tap::open(interface.name(), pairs);
        REQUIRE(opened);
        tap = std::move(*opened);
        REQUIRE(virtio::testing::wait_for([&] { return interface.is_running(); }));
        const std::vector<EventLoop*> loops(tap->pairs(), &loop);
        REQUIRE(tap->connect(loops));
        net = std::make_unique<Net>(*tap, loops, NetOptions{.mac = guest_mac, .mtu = tap->mtu()});
        driver = std::make_unique<FakeDriver>(*net, ram);
        REQUIRE(driver->start(without, 64));
        loop.settle();
    }
    ~Fixture() { driver->reset(); }
    void send(const NetHeader& header, const Frame& frame, std::uint32_t queue = 1) {
        const GuestAddr at = ram.allocate(sizeof header + frame.bytes.size());
        ram.write(at, std::as_bytes(std::span(&header, 1)));
        ram.write(at + sizeof header, frame.bytes);
        driver->ring(queue).offer(
            {{at, static_cast<std::uint32_t>(sizeof header + frame.bytes.size())}});
        driver->notify(queue);
        loop.settle();
    }
    void post(unsigned count, std::uint32_t queue = 0) {
        for (unsigned i = 0; i < count; ++i) {
            buffers.push_back(ram.allocate(4096));
            driver->ring(queue).offer({{buffers.back(), 4096, true}});
        }
        driver->notify(queue);
        loop.settle();
    }
    // The next packet, header and all; empty: none came.
    std::vector<std::byte> take(std::uint32_t queue = 0) {
        std::vector<std::byte> all;
        std::uint16_t expected = 1;
        const std::uint64_t before = taken++;
        virtio::testing::wait_for([&] {
            loop.settle();
            return net->counters().received > before;
        });
        for (std::uint16_t i = 0; i < expected; ++i) {
            const auto used = driver->ring(queue).take_used();
            if (!used)
                return {};
            const auto part = ram.read(buffers[next_buffer++], used->written);
            if (i == 0)
                std::memcpy(&expected, part.data() + offsetof(NetHeader, num_buffers), 2);
            all.insert(all.end(), part.begin(), part.end());
        }
        return all;
    }

    PollLoop loop;
    FakeRam ram{std::size_t{16} << 20};
    std::unique_ptr<Tap> tap;
    std::unique_ptr<Net> net;
    std::unique_ptr<FakeDriver> driver;
    std::vector<GuestAddr> buffers;
    std::size_t next_buffer = 0;
    std::uint64_t taken = 0; // packets
};

// The next message of a socket; -1: none came.
ssize_t receive(const UniqueFd& socket, std::span<std::byte> into) {
    ssize_t got = -1;
    virtio::testing::wait_for([&] {
        got = ::recv(socket.get(), into.data(), into.size(), MSG_DONTWAIT);
        return got >= 0;
    });
    return got;
}

void send_datagram(int fd, std::size_t payload, int segment = 0) {
    if (segment != 0)
        REQUIRE(::setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &segment, sizeof segment) == 0);
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(0x0a090002);
    to.sin_port = htons(7000);
    const std::vector<std::byte> bytes(payload, std::byte{0x5a});
    REQUIRE(::sendto(fd, bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&to),
                     sizeof to) == static_cast<ssize_t>(payload));
}

NetHeader header_of(const std::vector<std::byte>& packet) {
    NetHeader header;
    REQUIRE(packet.size() >= sizeof header);
    std::memcpy(&header, packet.data(), sizeof header);
    return header;
}

} // namespace

TEST_CASE("tap: what cannot be used is said in a line") {
    enter_namespace();
    const auto reason = [](const std::string& name) {
        auto opened = Tap::open(name, 1);
        return opened ? std::string("opened") : opened.error().reason;
    };
    CHECK(reason("nosuchtap").find("no such interface") == 0);
    CHECK(reason("lo") == "not a TAP interface");
    CHECK(reason("") == "not the name of an interface");
    CHECK(reason("a-name-that-is-too-long") == "not the name of an interface");

    const auto adopt = [](UniqueFd fd) {
        std::vector<UniqueFd> descriptors;
        descriptors.push_back(std::move(fd));
        auto adopted = Tap::adopt(std::move(descriptors));
        return adopted ? std::string("adopted") : adopted.error().reason;
    };
    CHECK(adopt(UniqueFd(::open("/dev/null", O_RDWR))) == "not a descriptor of a TAP interface");
    CHECK(adopt(open_tun("joeytun", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)) ==
          "a TUN, not a TAP interface");
    CHECK(adopt(open_tun("joeytap", IFF_TAP | IFF_NO_PI)) ==
          "was opened without IFF_VNET_HDR and IFF_NO_PI");
    CHECK(adopt(open_tun("joeytap", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) == "adopted");

    const Interface interface;
    const UniqueFd other = open_tun(interface.name(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    CHECK(reason(interface.name()) == "in use by another program");
}

TEST_CASE("tap: a datagram of the guest arrives, its checksum made by the host") {
    const Interface interface;
    const UniqueFd socket = udp_socket();
    Fixture f(interface);
    const Frame frame = datagram(interface.mac(), 1000);
    f.send(frame.header(), frame);
    std::array<std::byte, 2000> got{};
    REQUIRE(receive(socket, got) == 1000);
    CHECK(std::equal(got.begin(), got.begin() + 1000,
                     frame.bytes.begin() + static_cast<std::ptrdiff_t>(frame.payload)));
    // With a sum that is wrong it does not.
    f.send({}, frame);
    const Frame next = datagram(interface.mac(), 500);
    f.send(next.header(), next);
    CHECK(receive(socket, got) == 500);
}

TEST_CASE("tap: segments of the guest are cut by the host") {
    const Interface interface;
    const UniqueFd socket = udp_socket();
    Fixture f(interface);
    if ((f.driver->offered_features() & net_bit(net_feature_host_uso)) == 0) {
        WARN("this host's kernel does not segment UDP");
        return;
    }
    const Frame frame = datagram(interface.mac(), 3500);
    f.send(frame.header(1000), frame);
    std::array<std::byte, 4000> got{};
    for (const ssize_t expected : {1000, 1000, 1000, 500})
        CHECK(receive(socket, got) == expected);
}

TEST_CASE("tap: TCP of 60 KB goes into the host's stack in one piece") {
    const Interface interface;
    Fixture f(interface);
    const UniqueFd sniffer(
        ::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(interface.name().c_str()));
    REQUIRE(::bind(sniffer.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    const Frame frame = make_frame({.payload = 60000, .to = interface.mac()});
    f.send(frame.header(1448), frame);
    std::vector<std::byte> got(70000);
    CHECK(receive(sniffer, got) == static_cast<ssize_t>(frame.bytes.size()));
}

TEST_CASE("tap: a datagram of the host arrives with its checksum still to be made, or made") {
    const Interface interface;
    const UniqueFd socket = udp_socket();
    const bool offload = GENERATE(true, false);
    Fixture f(interface, 1, offload ? 0 : net_bit(net_feature_guest_csum));
    f.post(4);
    send_datagram(socket.get(), 500);
    const auto packet = f.take();
    CHECK((header_of(packet).flags & net_needs_csum) == (offload ? net_needs_csum : 0));
    REQUIRE(packet.size() == sizeof(NetHeader) + 14 + 20 + 8 + 500);
    CHECK(std::memcmp(packet.data() + sizeof(NetHeader), guest_mac.data(), 6) == 0);
    CHECK(packet.back() == std::byte{0x5a});
}

TEST_CASE("tap: segments of the host come in one piece to a driver that takes them") {
    const Interface interface;
    const UniqueFd socket = udp_socket();
    const bool offload = GENERATE(true, false);
    Fixture f(interface, 1,
              offload ? 0 : net_bit(net_feature_guest_uso4) | net_bit(net_feature_guest_uso6));
    if ((f.driver->offered_features() & net_bit(net_feature_guest_uso4)) == 0) {
        WARN("this host's kernel does not segment UDP");
        return;
    }
    f.post(40);
    send_datagram(socket.get(), 30000, 1400);
    const auto packet = f.take();
    if (offload) {
        CHECK(header_of(packet).gso_type == net_gso_udp);
        CHECK(header_of(packet).gso_size == 1400);
        CHECK(header_of(packet).num_buffers == 8);
        CHECK(packet.size() == sizeof(NetHeader) + 42 + 30000);
    } else {
        CHECK(header_of(packet).gso_type == net_gso_none);
        CHECK(packet.size() == sizeof(NetHeader) + 42 + 1400);
    }
}

TEST_CASE("tap: packets wait in the host while the driver has no room") {
    const Interface interface;
    const UniqueFd socket = udp_socket();
    Fixture f(interface);
    for (std::size_t i = 1; i <= 5; ++i)
        send_datagram(socket.get(), i);
    f.loop.settle();
    f.post(8);
    for (std::size_t i = 1; i <= 5; ++i)
        CHECK(f.take().size() == sizeof(NetHeader) + 42 + i);
}

TEST_CASE("tap: several queues, as many as the driver serves") {
    const Interface interface(IFF_MULTI_QUEUE);
    const UniqueFd socket = udp_socket();
    Fixture f(interface, 3);
    REQUIRE(f.tap->pairs() == 3);
    f.post(8);
    // One active pair: all that comes comes there.
    for (int i = 0; i < 3; ++i)
        send_datagram(socket.get(), 10);
    for (int i = 0; i < 3; ++i)
        CHECK_FALSE(f.take().empty());
    f.tap->set_active_pairs(3);
    f.tap->set_active_pairs(1);
    send_datagram(socket.get(), 10);
    CHECK_FALSE(f.take().empty());
    // The other pairs send all the same once they are active.
    f.tap->set_active_pairs(3);
    const Frame frame = datagram(interface.mac(), 10);
    f.send(frame.header(), frame, net_transmit_queue(2));
    std::array<std::byte, 100> got{};
    CHECK(receive(socket, got) == 10);
}

TEST_CASE("tap: one that was made for one queue has one") {
    const Interface interface;
    auto opened = Tap::open(interface.name(), 4);
    REQUIRE(opened);
    CHECK((*opened)->pairs() == 1);
    CHECK((*opened)->mtu() == 1500);
}

TEST_CASE("tap: an interface that goes down, or away, stops nothing else") {
    const Interface interface;
    Fixture f(interface);
    f.post(4);
    const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq request = request_for(interface.name());
    request.ifr_flags = 0;
    REQUIRE(::ioctl(control.get(), SIOCSIFFLAGS, &request) == 0);
    const Frame frame = datagram(interface.mac(), 10);
    f.send(frame.header(), frame);
    CHECK(f.net->counters().sent_dropped == 1);
    CHECK_FALSE(f.driver->needs_reset());
    request.ifr_flags = IFF_UP;
    REQUIRE(::ioctl(control.get(), SIOCSIFFLAGS, &request) == 0);
    f.send(frame.header(), frame);
    CHECK(f.net->counters().sent == 1);
    f.loop.settle(); // ends
}
