// User-mode networking over the host's loopback: the guest is a few hand-made packets.
#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <optional>
#include <string>

#include <arpa/inet.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "virtio/backend/net/testing/own_namespace.hpp"
#include "virtio/backend/net/user_net.hpp"
#include "virtio/device/net/packet_check.hpp"
#include "virtio/testing/poll_loop.hpp"

using namespace virtio;
using virtio::testing::PollLoop;

namespace {

using Bytes = std::vector<std::byte>;

constexpr MacAddress guest_mac = {0x52, 0x54, 0, 0, 0, 1};
constexpr std::uint32_t guest_address = 0x0a00020f;
constexpr std::uint32_t gateway = 0x0a000202;
constexpr std::uint32_t loopback = 0x7f000001;

struct Inbox final : NetPortEvents {
    void readable() override {}
    void writable() override {}
    bool deliver(std::span<const std::byte> frame) override {
        if (!has_room)
            return false;
        frames.emplace_back(frame.begin(), frame.end());
        return true;
    }
    std::deque<Bytes> frames;
    bool has_room = true;
};

void put16(Bytes& out, unsigned value) {
    out.push_back(static_cast<std::byte>(value >> 8 & 0xff));
    out.push_back(static_cast<std::byte>(value & 0xff));
}
void put32(Bytes& out, std::uint32_t value) {
    put16(out, value >> 16);
    put16(out, value & 0xffff);
}
std::uint32_t sum16(std::span<const std::byte> bytes, std::uint32_t sum = 0) {
    for (std::size_t i = 0; i < bytes.size(); i += 2)
        sum += std::to_integer<unsigned>(bytes[i]) << 8 |
               (i + 1 < bytes.size() ? std::to_integer<unsigned>(bytes[i + 1]) : 0u);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}
unsigned get16(const Bytes& bytes, std::size_t at) {
    return std::to_integer<unsigned>(bytes[at]) << 8 | std::to_integer<unsigned>(bytes[at + 1]);
}
std::uint32_t get32(const Bytes& bytes, std::size_t at) {
    return get16(bytes, at) << 16 | get16(bytes, at + 2);
}

Bytes ethernet(unsigned type) {
    Bytes out;
    for (const unsigned byte : {0x52, 0x55, 0x0a, 0x00, 0x02, 0x02})
        out.push_back(static_cast<std::byte>(byte));
    for (const std::uint8_t byte : guest_mac)
        out.push_back(static_cast<std::byte>(byte));
    put16(out, type);
    return out;
}

// An IPv4 packet around `transport`, whose checksum field (at `field`) gets the pseudo header's
// sum.
Bytes ipv4(std::uint32_t to, unsigned protocol, Bytes transport, std::size_t field) {
    Bytes out = ethernet(0x0800);
    Bytes pseudo;
    put32(pseudo, guest_address);
    put32(pseudo, to);
    put32(pseudo, protocol);
    const std::uint32_t sum = sum16(pseudo, static_cast<std::uint32_t>(transport.size()));
    transport[field] = static_cast<std::byte>(sum >> 8);
    transport[field + 1] = static_cast<std::byte>(sum & 0xff);
    Bytes header;
    put16(header, 0x4500);
    put16(header, static_cast<unsigned>(20 + transport.size()));
    put32(header, 0);
    put16(header, 64 << 8 | protocol);
    put16(header, 0);
    put32(header, guest_address);
    put32(header, to);
    const std::uint32_t own = ~sum16(header) & 0xffff;
    header[10] = static_cast<std::byte>(own >> 8);
    header[11] = static_cast<std::byte>(own & 0xff);
    out.insert(out.end(), header.begin(), header.end());
    out.insert(out.end(), transport.begin(), transport.end());
    return out;
}

struct Fixture {
    explicit Fixture(bool host_loopback = true,
                     const std::function<void(UserNet&)>& prepare = nullptr,
                     std::size_t most_sockets = 100) {
        REQUIRE(virtio::testing::enter_own_namespace());
        auto made = UserNet::create(
            {.guest_mac = guest_mac, .host_loopback = host_loopback, .most_sockets = most_sockets});
        REQUIRE(made);
        net = std::move(*made);
        if (prepare)
            prepare(*net);
        net->port(0).attach(inbox);
        REQUIRE(net->connect(loop));
        net->port(0).watch(true);
    }
    NetPort::Sent send(const Bytes& frame, std::size_t field = 0, std::uint16_t segment = 0) {
        NetHeader header;
        if (field != 0) {
            header = {.flags = net_needs_csum,
                      .csum_start = 34,
                      .csum_offset = static_cast<std::uint16_t>(field)};
            header.gso_size = segment;
            header.gso_type = segment != 0 ? net_gso_tcp4 : net_gso_none;
        }
        return send_with(header, frame);
    }
    NetPort::Sent send_with(const NetHeader& header, const Bytes& frame) {
        Bytes copy = frame;
        const std::size_t head = std::min<std::size_t>(copy.size(), 256);
        const std::array<struct iovec, 2> pieces = {
            {{copy.data(), head}, {copy.data() + head, copy.size() - head}}};
        const auto sent = net->port(0).send(header, pieces, copy.size());
        net->port(0).flush();
        return sent;
    }
    // Turns the loop until there is an answer to `wanted`'s taste; ARP questions are answered.
    std::optional<Bytes> await(const std::function<bool(const Bytes&)>& wanted) {
        std::optional<Bytes> found;
        virtio::testing::wait_for([&] {
            loop.settle();
            while (!found && !inbox.frames.empty()) {
                Bytes frame = std::move(inbox.frames.front());
                inbox.frames.pop_front();
                if (get16(frame, 12) == 0x0806 && get16(frame, 20) == 1)
                    answer_arp();
                else if (wanted(frame))
                    found = std::move(frame);
            }
            return found.has_value();
        });
        return found;
    }
    void answer_arp() {
        Bytes reply = ethernet(0x0806);
        put16(reply, 1);
        put16(reply, 0x0800);
        put16(reply, 0x0604);
        put16(reply, 2);
        for (const std::uint8_t byte : guest_mac)
            reply.push_back(static_cast<std::byte>(byte));
        put32(reply, guest_address);
        reply.insert(reply.end(), reply.begin(), reply.begin() + 6);
        put32(reply, gateway);
        send(reply);
    }
    void send_udp(std::uint32_t to, unsigned port, std::string_view text, unsigned from = 4000) {
        Bytes transport;
        put16(transport, from);
        put16(transport, port);
        put16(transport, static_cast<unsigned>(8 + text.size()));
        put16(transport, 0);
        for (const char letter : text)
            transport.push_back(static_cast<std::byte>(letter));
        last_sent = send(ipv4(to, IPPROTO_UDP, std::move(transport), 6), 6);
    }
    void send_tcp(unsigned port, std::uint32_t sequence, std::uint32_t acknowledged, unsigned flags,
                  std::string_view text = {}, std::uint16_t segment = 0, unsigned from = 4000) {
        Bytes transport;
        put16(transport, from);
        put16(transport, port);
        put32(transport, sequence);
        put32(transport, acknowledged);
        put16(transport, 0x5000 | flags);
        put16(transport, 0xffff);
        put32(transport, 0);
        for (const char letter : text)
            transport.push_back(static_cast<std::byte>(letter));
        last_sent = send(ipv4(gateway, IPPROTO_TCP, std::move(transport), 16), 16, segment);
    }

    PollLoop loop;
    Inbox inbox;
    std::unique_ptr<UserNet> net;
    NetPort::Sent last_sent = NetPort::Sent::Refused;
};

struct HostSocket {
    explicit HostSocket(int type) {
        REQUIRE(virtio::testing::enter_own_namespace());
        fd = UniqueFd(::socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(loopback);
        REQUIRE(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
        socklen_t length = sizeof address;
        REQUIRE(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) == 0);
        port = ntohs(address.sin_port);
    }
    UniqueFd fd;
    unsigned port = 0;
};

bool is_udp(const Bytes& frame) {
    return get16(frame, 12) == 0x0800 && std::to_integer<unsigned>(frame[23]) == IPPROTO_UDP;
}
bool is_tcp(const Bytes& frame) {
    return get16(frame, 12) == 0x0800 && std::to_integer<unsigned>(frame[23]) == IPPROTO_TCP;
}
std::string text_of(const Bytes& frame, std::size_t header) {
    std::string text;
    for (std::size_t i = header; i < frame.size(); ++i)
        text += static_cast<char>(std::to_integer<unsigned char>(frame[i]));
    return text;
}

// A port of the host that nobody has, for the moment.
unsigned free_port(int type) {
    return HostSocket(type).port;
}

} // namespace

TEST_CASE("user net: the gateway answers ARP") {
    Fixture f;
    Bytes question = ethernet(0x0806);
    std::fill_n(question.begin(), 6, std::byte{0xff});
    put16(question, 1);
    put16(question, 0x0800);
    put16(question, 0x0604);
    put16(question, 1);
    for (const std::uint8_t byte : guest_mac)
        question.push_back(static_cast<std::byte>(byte));
    put32(question, guest_address);
    question.resize(question.size() + 6);
    put32(question, gateway);
    f.send(question);
    const auto answer = f.await([](const Bytes& frame) { return get16(frame, 12) == 0x0806; });
    REQUIRE(answer);
    CHECK(get32(*answer, 28) == gateway);
}

TEST_CASE("user net: a datagram to the host's loopback and back, by the gateway's address") {
    Fixture f;
    const HostSocket host(SOCK_DGRAM);
    f.send_udp(gateway, host.port, "hello");
    char text[16];
    sockaddr_in from{};
    socklen_t length = sizeof from;
    ssize_t got = -1;
    virtio::testing::wait_for([&] {
        f.loop.settle();
        got = ::recvfrom(host.fd.get(), text, sizeof text, 0, reinterpret_cast<sockaddr*>(&from),
                         &length);
        return got >= 0;
    });
    REQUIRE(std::string_view(text, static_cast<std::size_t>(std::max<ssize_t>(got, 0))) == "hello");
    REQUIRE(::sendto(host.fd.get(), "world!", 6, 0, reinterpret_cast<sockaddr*>(&from), length) ==
            6);
    const auto answer = f.await(is_udp);
    REQUIRE(answer);
    CHECK(text_of(*answer, 42) == "world!");
    CHECK(get32(*answer, 26) == gateway);
}

TEST_CASE("user net: the host's loopback is out of reach unless it is opened") {
    const HostSocket host(SOCK_DGRAM);
    const auto arrives = [&host](bool opened, std::uint32_t address) {
        Fixture f(opened);
        f.send_udp(address, host.port, "x");
        f.loop.settle();
        // Comes after the guest's, if that came.
        const UniqueFd own(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_in to{};
        to.sin_family = AF_INET;
        to.sin_addr.s_addr = htonl(loopback);
        to.sin_port = htons(static_cast<std::uint16_t>(host.port));
        REQUIRE(::sendto(own.get(), "own", 3, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) == 3);
        bool came = false;
        REQUIRE(virtio::testing::wait_for([&] {
            char text[16];
            const ssize_t got = ::recv(host.fd.get(), text, sizeof text, 0);
            came = came || got == 1;
            return got == 3;
        }));
        return came;
    };
    CHECK(arrives(true, gateway));
    CHECK_FALSE(arrives(false, gateway));
    // By its own names, too: 127.0.0.1 and what Linux takes for it.
    CHECK_FALSE(arrives(false, loopback));
    CHECK_FALSE(arrives(false, 0x7f123456));
    CHECK_FALSE(arrives(false, 0));
    CHECK_FALSE(arrives(false, 0xffffffff));
}

TEST_CASE("user net: a sum left to the device makes no other packet of one that was judged") {
    Fixture f(false);
    const HostSocket host(SOCK_DGRAM);
    Bytes transport;
    put16(transport, 4000);
    put16(transport, host.port);
    put16(transport, 8 + 1);
    put16(transport, 0);
    transport.push_back(std::byte{'x'});
    Bytes frame = ipv4(gateway, IPPROTO_UDP, std::move(transport), 6);
    constexpr std::size_t ip = 14, udp_sum = ip + 20 + 6;
    frame[udp_sum] = frame[udp_sum + 1] = std::byte{0}; // none
    // Of no version of IP, until the sum of the whole, with a word behind the datagram that sees to
    // it, gives version and header length.
    frame[ip] = frame[ip + 1] = std::byte{0};
    frame.push_back(std::byte{0});
    constexpr std::uint32_t wanted = 0xffff - 0x4500;
    put16(frame, (wanted + 0xffff - sum16(std::span(frame).subspan(ip))) % 0xffff);
    const NetHeader header{.flags = net_needs_csum, .csum_start = ip, .csum_offset = 0};
    REQUIRE(check_transmit(header, frame, frame.size(), net_bit(net_feature_csum)));
    CHECK(f.send_with(header, frame) == NetPort::Sent::Refused);
    f.loop.settle();
    char text[16];
    CHECK(::recv(host.fd.get(), text, sizeof text, 0) < 0);
}

TEST_CASE("user net: a connection to the host's loopback is refused at once") {
    Fixture f(false);
    const HostSocket host(SOCK_STREAM);
    REQUIRE(::listen(host.fd.get(), 1) == 0);
    f.send_tcp(host.port, 1000, 0, 0x02); // SYN
    const auto answer = f.await(is_tcp);
    REQUIRE(answer);
    CHECK((get16(*answer, 46) & 0x3f) == 0x14); // RST, ACK
    CHECK(get32(*answer, 42) == 1001);
}

TEST_CASE("user net: the host's loopback is out of reach by IPv6 as well") {
    Fixture f(false);
    const auto send_to = [&f](std::initializer_list<unsigned> front, unsigned last) {
        Bytes frame = ethernet(0x86dd);
        put32(frame, 0x60000000);
        put16(frame, 8);
        put16(frame, IPPROTO_UDP << 8 | 64);
        frame.resize(frame.size() + 16);
        for (const unsigned byte : front)
            frame.push_back(static_cast<std::byte>(byte));
        frame.resize(14 + 40 - 1);
        frame.push_back(static_cast<std::byte>(last));
        frame.resize(frame.size() + 8);
        return f.send(frame);
    };
    CHECK(send_to({}, 1) == NetPort::Sent::Refused);
    CHECK(send_to({}, 0) == NetPort::Sent::Refused);
    CHECK(send_to({0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0}, 1) ==
          NetPort::Sent::Refused);
    CHECK(send_to({0x20, 0x01, 0x0d, 0xb8}, 1) == NetPort::Sent::Taken);
}

TEST_CASE("user net: TCP, with 40 KB in one segment of the guest") {
    Fixture f;
    const HostSocket host(SOCK_STREAM);
    REQUIRE(::listen(host.fd.get(), 1) == 0);
    f.send_tcp(host.port, 1000, 0, 0x02); // SYN
    const auto greeting = f.await(is_tcp);
    REQUIRE(greeting);
    REQUIRE((get16(*greeting, 46) & 0x3f) == 0x12); // SYN, ACK
    const std::uint32_t theirs = get32(*greeting, 38) + 1;
    f.send_tcp(host.port, 1001, theirs, 0x10);
    UniqueFd peer;
    REQUIRE(virtio::testing::wait_for([&] {
        f.loop.settle();
        peer = UniqueFd(::accept4(host.fd.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
        return static_cast<bool>(peer);
    }));

    std::string big(40000, 'a');
    for (std::size_t i = 0; i < big.size(); ++i)
        big[i] = static_cast<char>('a' + i % 23);
    f.send_tcp(host.port, 1001, theirs, 0x18, big, 1448);
    std::string got;
    virtio::testing::wait_for([&] {
        f.loop.settle();
        char block[8192];
        const ssize_t count = ::recv(peer.get(), block, sizeof block, 0);
        if (count > 0)
            got.append(block, static_cast<std::size_t>(count));
        return got.size() >= big.size();
    });
    CHECK(got == big);

    REQUIRE(::send(peer.get(), "thanks", 6, 0) == 6);
    const auto answer = f.await([](const Bytes& frame) {
        return is_tcp(frame) && text_of(frame, 14 + 20 + 20).find("thanks") != std::string::npos;
    });
    REQUIRE(answer);
    CHECK(get32(*answer, 42) == 1001 + big.size()); // and acknowledges ours
}

TEST_CASE("user net: a published port leads to the guest") {
    const unsigned port = free_port(SOCK_DGRAM);
    Fixture f(false, [&](UserNet& net) {
        PublishedPort published{
            .udp = true, .host_port = static_cast<std::uint16_t>(port), .guest_port = 53};
        published.host4.s_addr = htonl(loopback);
        REQUIRE(net.publish(published));
    });
    const UniqueFd client(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_addr.s_addr = htonl(loopback);
    to.sin_port = htons(static_cast<std::uint16_t>(port));
    REQUIRE(::sendto(client.get(), "query", 5, 0, reinterpret_cast<sockaddr*>(&to), sizeof to) ==
            5);
    const auto frame = f.await(is_udp);
    REQUIRE(frame);
    CHECK(get32(*frame, 30) == guest_address);
    CHECK(get16(*frame, 36) == 53);
    CHECK(text_of(*frame, 42) == "query");

    // The client is on this machine, and so has the gateway's address; others there are not heard.
    f.send_udp(get32(*frame, 26), get16(*frame, 34), "answer", 53);
    const HostSocket other(SOCK_DGRAM);
    f.send_udp(get32(*frame, 26), other.port, "hello", 53);
    char text[16];
    REQUIRE(::recv(client.get(), text, sizeof text, 0) == 6);
    CHECK(std::string_view(text, 6) == "answer");
    CHECK(::recv(other.fd.get(), text, sizeof text, 0) < 0);
}

TEST_CASE("user net: a port published by IPv6 leads to a guest that has not said a word yet") {
    const unsigned port = free_port(SOCK_STREAM);
    Fixture f(false, [&](UserNet& net) {
        REQUIRE(net.publish({.ipv6 = true,
                             .host6 = in6addr_loopback,
                             .host_port = static_cast<std::uint16_t>(port),
                             .guest_port = 80}));
    });
    const UniqueFd client(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in6 to{};
    to.sin6_family = AF_INET6;
    to.sin6_addr = in6addr_loopback;
    to.sin6_port = htons(static_cast<std::uint16_t>(port));
    REQUIRE(::connect(client.get(), reinterpret_cast<sockaddr*>(&to), sizeof to) != 0);
    REQUIRE(errno == EINPROGRESS);
    const auto syn = f.await([](const Bytes& frame) {
        return get16(frame, 12) == 0x86dd && std::to_integer<unsigned>(frame[20]) == IPPROTO_TCP;
    });
    REQUIRE(syn);
    CHECK(get16(*syn, 56) == 80);
    CHECK(std::memcmp(syn->data(), guest_mac.data(), guest_mac.size()) == 0);
}

TEST_CASE("user net: a port that is taken cannot be published") {
    const HostSocket host(SOCK_STREAM);
    REQUIRE(::listen(host.fd.get(), 1) == 0);
    auto net = UserNet::create({});
    REQUIRE(net);
    PublishedPort port{.host_port = static_cast<std::uint16_t>(host.port), .guest_port = 80};
    port.host4.s_addr = htonl(loopback);
    const auto published = (*net)->publish(port);
    REQUIRE_FALSE(published);
    CHECK(published.error().code == EADDRINUSE);
}

TEST_CASE("user net: frames wait while the guest has no room, and come in order") {
    Fixture f;
    const HostSocket host(SOCK_DGRAM);
    f.send_udp(gateway, host.port, "x");
    char text[16];
    sockaddr_in from{};
    socklen_t length = sizeof from;
    REQUIRE(virtio::testing::wait_for([&] {
        f.loop.settle();
        return ::recvfrom(host.fd.get(), text, sizeof text, 0, reinterpret_cast<sockaddr*>(&from),
                          &length) == 1;
    }));
    REQUIRE(::sendto(host.fd.get(), "0", 1, 0, reinterpret_cast<sockaddr*>(&from), length) == 1);
    REQUIRE(f.await(is_udp)); // after ARP
    f.inbox.has_room = false;
    for (const char* letter : {"1", "2", "3"})
        REQUIRE(::sendto(host.fd.get(), letter, 1, 0, reinterpret_cast<sockaddr*>(&from), length) ==
                1);
    std::array<std::byte, 12> head{};
    std::array<std::byte, 31> middle{};
    std::array<std::byte, 2000> rest{};
    const std::array<struct iovec, 3> room = {
        {{head.data(), head.size()}, {middle.data(), middle.size()}, {rest.data(), rest.size()}}};
    std::string got;
    virtio::testing::wait_for([&] {
        f.loop.settle();
        while (const std::size_t received = f.net->port(0).receive(room)) {
            CHECK(received == 12 + 42 + 1);
            CHECK(head[0] == std::byte{net_data_valid});
            got += static_cast<char>(std::to_integer<unsigned char>(rest[11]));
        }
        return got.size() >= 3;
    });
    CHECK(got == "123");
}

TEST_CASE(
    "user net: connections have a bound, at which they are refused; names can still be asked for") {
    constexpr unsigned most = 4;
    Fixture f(true, nullptr, most);
    const HostSocket host(SOCK_STREAM);
    REQUIRE(::listen(host.fd.get(), 16) == 0);
    const auto answer_to = [&](unsigned from) {
        f.send_tcp(host.port, 1000, 0, 0x02, {}, 0, from);
        const auto answer =
            f.await([&](const Bytes& frame) { return is_tcp(frame) && get16(frame, 36) == from; });
        REQUIRE(answer);
        return get16(*answer, 46) & 0x3f;
    };
    for (unsigned i = 0; i < most; ++i)
        CHECK(answer_to(5000 + i) == 0x12); // SYN, ACK
    CHECK(answer_to(6000) == 0x14);         // RST, ACK
    f.send_udp(gateway, 53, "x");
    CHECK(f.last_sent == NetPort::Sent::Taken);
    // Those that end make room for others.
    for (unsigned i = 0; i < 2; ++i)
        f.send_tcp(host.port, 1001, 0, 0x04, {}, 0, 5000 + i); // RST
    f.loop.settle();
    CHECK(answer_to(6001) == 0x12);
}

TEST_CASE("user net: what waits for the rest of its datagram has a bound") {
    Fixture f;
    Bytes piece = ipv4(gateway, IPPROTO_UDP, Bytes(1480), 6);
    const auto send_fragment = [&](unsigned number) {
        // Of datagrams that never become whole: more to come, each with a number of its own.
        piece[18] = static_cast<std::byte>(number >> 8);
        piece[19] = static_cast<std::byte>(number);
        piece[20] = std::byte{0x20};
        piece[24] = piece[25] = std::byte{0};
        const std::uint32_t sum = ~sum16(std::span(piece).subspan(14, 20)) & 0xffff;
        piece[24] = static_cast<std::byte>(sum >> 8);
        piece[25] = static_cast<std::byte>(sum & 0xff);
        return f.send(piece);
    };
    CHECK(send_fragment(0) == NetPort::Sent::Taken);
    unsigned taken = 0;
    for (unsigned i = 1; i < 20'000; ++i)
        taken += send_fragment(i) == NetPort::Sent::Taken ? 1 : 0;
    CHECK(taken < 10'000);
    f.send_udp(gateway, 53, "whole");
    CHECK(f.last_sent == NetPort::Sent::Taken);
}

TEST_CASE("user net: garbage for packets") {
    Fixture f(false);
    std::uint32_t state = 1;
    const auto random = [&state] { return state = state * 1664525 + 1013904223, state >> 16; };
    for (int i = 0; i < 5000; ++i) {
        Bytes frame = ethernet(std::array{0x0800u, 0x86ddu, 0x0806u, 0x8035u}[random() % 4]);
        const std::size_t length = random() % 120;
        for (std::size_t k = 0; k < length; ++k)
            frame.push_back(static_cast<std::byte>(random()));
        if (random() % 2 == 0 && length > 20)
            frame[14] = static_cast<std::byte>(get16(frame, 12) == 0x0800 ? 0x45 : 0x60);
        f.send(frame);
        f.loop.settle();
        f.inbox.frames.clear();
    }
}
