#include <string>
#include <vector>

#include <arpa/inet.h>

#include <catch2/catch.hpp>

#include "virtio/backend/net/loopback_guard.hpp"

using namespace virtio;
using Verdict = LoopbackGuard::Verdict;

namespace {

using Bytes = std::vector<std::byte>;

constexpr const char* guest4 = "10.0.2.15";
constexpr const char* guest6 = "fd6a:6f65:7900::15";
constexpr unsigned syn = 0x02, rst = 0x04, ack = 0x10;

void put16(Bytes& out, unsigned value) {
    out.push_back(static_cast<std::byte>(value >> 8));
    out.push_back(static_cast<std::byte>(value));
}

void put_address(Bytes& out, const std::string& text) {
    in6_addr bytes{};
    const bool v6 = text.find(':') != std::string::npos;
    REQUIRE(::inet_pton(v6 ? AF_INET6 : AF_INET, text.c_str(), &bytes) == 1);
    const auto* first = reinterpret_cast<const std::byte*>(&bytes);
    out.insert(out.end(), first, first + (v6 ? 16 : 4));
}

const char* guest_for(const std::string& to) {
    return to.find(':') != std::string::npos ? guest6 : guest4;
}

Bytes packet(const std::string& from, const std::string& to, unsigned protocol, const Bytes& rest,
             unsigned fragment = 0) {
    const bool v6 = to.find(':') != std::string::npos;
    Bytes out(12);
    out[5] = std::byte{0xaa};
    out[11] = std::byte{0xbb};
    put16(out, v6 ? 0x86dd : 0x0800);
    const auto length = static_cast<unsigned>(rest.size());
    if (v6) {
        for (const unsigned word : {0x6000u, 0u, length, protocol << 8 | 64})
            put16(out, word);
    } else {
        for (const unsigned word : {0x4500u, 20 + length, 0u, fragment, 64 << 8 | protocol, 0u})
            put16(out, word);
    }
    put_address(out, from);
    put_address(out, to);
    out.insert(out.end(), rest.begin(), rest.end());
    return out;
}

Bytes udp(const std::string& from, unsigned from_port, const std::string& to, unsigned to_port,
          unsigned fragment = 0) {
    Bytes header;
    for (const unsigned word : {from_port, to_port, 8u, 0u})
        put16(header, word);
    return packet(from, to, IPPROTO_UDP, header, fragment);
}

Bytes tcp(const std::string& to, unsigned to_port, unsigned flags) {
    Bytes header;
    for (const unsigned word :
         {4000u, to_port, 0x1234u, 0x5678u, 0u, 0u, 0x5000u | flags, 1u, 0u, 0u})
        put16(header, word);
    return packet(guest_for(to), to, IPPROTO_TCP, header);
}

Bytes icmp(const std::string& to, unsigned type) {
    const bool v6 = to.find(':') != std::string::npos;
    const unsigned protocol = v6 ? unsigned{IPPROTO_ICMPV6} : unsigned{IPPROTO_ICMP};
    Bytes header;
    put16(header, type << 8);
    header.resize(8);
    return packet(guest_for(to), to, protocol, header);
}

std::uint32_t ones_sum(const Bytes& bytes, std::size_t from, std::size_t to, std::uint32_t sum) {
    for (std::size_t i = from; i + 1 < to; i += 2)
        sum += std::to_integer<unsigned>(bytes[i]) << 8 | std::to_integer<unsigned>(bytes[i + 1]);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

} // namespace

TEST_CASE("loopback guard: other networks are none of its business") {
    LoopbackGuard guard({});
    for (const char* to :
         {"192.0.2.1", "10.0.3.2", "239.1.2.3", "2001:db8::1", "fd6a:6f65:7901::2"}) {
        CHECK(guard.judge(tcp(to, 80, syn), 0) == Verdict::Pass);
        CHECK(guard.judge(udp(guest_for(to), 1, to, 2), 0) == Verdict::Pass);
    }
    CHECK(guard.judge(icmp("192.0.2.1", 8), 0) == Verdict::Pass);
}

TEST_CASE("loopback guard: no name of the host's loopback leads there") {
    LoopbackGuard guard({});
    for (const char* to : {"127.0.0.1", "127.9.9.9", "0.0.0.0", "255.255.255.255", "224.0.0.251",
                           "::1", "::", "::ffff:127.0.0.1", "ff02::1", "fe80::2"}) {
        CHECK(guard.judge(udp(guest_for(to), 1, to, 2), 0) == Verdict::Drop);
        CHECK(guard.judge(tcp(to, 80, syn), 0) == Verdict::Drop);
    }
    for (const char* to : {"10.0.2.2", "10.0.2.3", "10.0.2.77", "10.0.2.255", "fd6a:6f65:7900::2",
                           "fd6a:6f65:7900::3", "fd6a:6f65:7900::77"}) {
        CHECK(guard.judge(udp(guest_for(to), 1, to, 2), 0) == Verdict::Drop);
        CHECK(guard.judge(tcp(to, 80, syn), 0) == Verdict::Refuse);
        CHECK(guard.judge(tcp(to, 80, syn | 1), 0) == Verdict::Refuse);
        CHECK(guard.judge(tcp(to, 80, syn | rst), 0) == Verdict::Drop);
    }
}

TEST_CASE("loopback guard: the host's link is not the guest's, a resolver there excepted") {
    LoopbackGuard guard({});
    for (const char* to : {"169.254.169.254", "169.254.0.1", "169.254.255.255", "fd00:ec2::254"}) {
        CHECK(guard.judge(tcp(to, 80, syn), 0) == Verdict::Refuse);
        CHECK(guard.judge(tcp(to, 80, ack), 0) == Verdict::Drop);
        CHECK(guard.judge(udp(guest_for(to), 1, to, 123), 0) == Verdict::Drop);
        CHECK(guard.judge(udp(guest_for(to), 1, to, 53), 0) == Verdict::Pass);
        CHECK(guard.judge(tcp(to, 53, syn), 0) == Verdict::Pass);
    }
    CHECK(guard.judge(udp(guest4, 1, "169.254.169.254", 53, 8), 0) == Verdict::Drop);
    CHECK(guard.judge(icmp("169.254.169.254", 8), 0) == Verdict::Drop);
    for (const char* to : {"169.253.169.254", "169.255.0.1", "fd00:ec2::253"})
        CHECK(guard.judge(tcp(to, 80, syn), 0) == Verdict::Pass);
}

TEST_CASE("loopback guard: the resolver is reached at its port, the gateway by ping") {
    LoopbackGuard guard({});
    for (const char* to : {"10.0.2.3", "fd6a:6f65:7900::3"}) {
        CHECK(guard.judge(udp(guest_for(to), 999, to, 53), 0) == Verdict::Pass);
        CHECK(guard.judge(tcp(to, 53, syn), 0) == Verdict::Pass);
    }
    CHECK(guard.judge(udp(guest4, 999, "10.0.2.2", 53), 0) == Verdict::Drop);
    CHECK(guard.judge(icmp("10.0.2.2", 8), 0) == Verdict::Pass);
    CHECK(guard.judge(icmp("10.0.2.9", 8), 0) == Verdict::Drop);
    CHECK(guard.judge(icmp("fd6a:6f65:7900::2", 128), 0) == Verdict::Pass);
    CHECK(guard.judge(icmp("fe80::2", 128), 0) == Verdict::Pass);
    // What libslirp cannot forward it would complain of.
    CHECK(guard.judge(icmp("2001:db8::1", 128), 0) == Verdict::Drop);
    CHECK(guard.judge(icmp("ff02::1:ff00:2", 135), 0) == Verdict::Pass);
}

TEST_CASE("loopback guard: connections that come from this machine go on") {
    LoopbackGuard guard({});
    for (const char* to : {"10.0.2.2", "fd6a:6f65:7900::2"}) {
        CHECK(guard.judge(tcp(to, 40000, syn | ack), 0) == Verdict::Pass);
        CHECK(guard.judge(tcp(to, 40000, ack), 0) == Verdict::Pass);
        CHECK(guard.judge(tcp(to, 40000, rst), 0) == Verdict::Pass);
    }
}

TEST_CASE("loopback guard: a published UDP port answers who has asked, for a while") {
    LoopbackGuard guard({});
    const auto check = [&guard](const char* gateway, const char* guest) {
        const auto answer = [&](unsigned from, unsigned to, std::uint64_t now) {
            return guard.judge(udp(guest, from, gateway, to), now);
        };
        CHECK(answer(53, 40000, 1000) == Verdict::Drop);
        guard.delivered(udp(gateway, 40000, guest, 53), 1000);
        CHECK(answer(53, 40000, 1001) == Verdict::Pass);
        CHECK(answer(54, 40000, 1001) == Verdict::Drop);
        CHECK(answer(53, 40001, 1001) == Verdict::Drop);
        CHECK(answer(53, 40000, 241'000) == Verdict::Pass); // and is new again
        CHECK(answer(53, 40000, 481'001) == Verdict::Drop);
    };
    check("10.0.2.2", guest4);
    check("fd6a:6f65:7900::2", guest6);
    // A later fragment has no ports to go by.
    CHECK(guard.judge(udp(guest4, 53, "10.0.2.2", 40000, 100), 241'000) == Verdict::Drop);
    guard.delivered(udp("192.0.2.1", 40002, guest4, 53), 0);
    CHECK(guard.judge(udp(guest4, 53, "10.0.2.2", 40002), 1) == Verdict::Drop);
}

TEST_CASE("loopback guard: of many clients the ones seen last are known") {
    LoopbackGuard guard({});
    for (unsigned i = 0; i < 1000; ++i)
        guard.delivered(udp("10.0.2.2", 10000 + i, guest4, 53), 1000 + i);
    CHECK(guard.judge(udp(guest4, 53, "10.0.2.2", 10999), 2000) == Verdict::Pass);
    CHECK(guard.judge(udp(guest4, 53, "10.0.2.2", 10000), 2000) == Verdict::Drop);
}

TEST_CASE("loopback guard: a datagram of a client on this machine comes from the gateway") {
    const auto check = [](const char* loopback, const char* guest, const char* gateway,
                          std::size_t ip) {
        const auto changed = with_gateway_source(udp(loopback, 40000, guest, 53), {});
        REQUIRE(changed);
        Bytes expected = udp(gateway, 40000, guest, 53);
        REQUIRE(changed->size() == expected.size());
        const std::size_t addresses = ip == 20 ? 8 : 32;
        CHECK(Bytes(changed->begin() + static_cast<long>(14 + ip - addresses),
                    changed->begin() + static_cast<long>(14 + ip + 6)) ==
              Bytes(expected.begin() + static_cast<long>(14 + ip - addresses),
                    expected.begin() + static_cast<long>(14 + ip + 6)));
        const std::uint32_t pseudo =
            ones_sum(*changed, 14 + ip - addresses, 14 + ip, IPPROTO_UDP + 8);
        CHECK(ones_sum(*changed, 14 + ip, changed->size(), pseudo) == 0xffff);
        CHECK((ip == 40 || ones_sum(*changed, 14, 14 + ip, 0) == 0xffff));
    };
    check("127.0.0.1", guest4, "10.0.2.2", 20);
    check("::1", guest6, "fd6a:6f65:7900::2", 40);
    CHECK_FALSE(with_gateway_source(udp("192.0.2.1", 1, guest4, 2), {}));
    CHECK_FALSE(with_gateway_source(udp("2001:db8::1", 1, guest6, 2), {}));
    CHECK_FALSE(with_gateway_source({}, {}));
}

TEST_CASE("loopback guard: a refusal is a reset that the guest's TCP believes") {
    const auto check = [](const char* guest, const char* gateway, std::size_t ip) {
        const auto answer = refusal(tcp(gateway, 80, syn));
        REQUIRE(answer);
        REQUIRE(answer->size() == 14 + ip + 20);
        const Bytes& frame = *answer;
        CHECK(frame[5] == std::byte{0xbb});
        CHECK(frame[11] == std::byte{0xaa});
        Bytes addresses;
        put_address(addresses, gateway);
        put_address(addresses, guest);
        CHECK(Bytes(frame.begin() + static_cast<long>(14 + ip - addresses.size()),
                    frame.begin() + static_cast<long>(14 + ip)) == addresses);
        Bytes tcp_head;
        for (const unsigned word : {80u, 4000u, 0u, 0u, 0x1234u, 0x5679u, 0x5000u | rst | ack})
            put16(tcp_head, word);
        CHECK(Bytes(frame.begin() + static_cast<long>(14 + ip),
                    frame.begin() + static_cast<long>(14 + ip + 14)) == tcp_head);
        const std::uint32_t pseudo = ones_sum(frame, 14 + ip - addresses.size(), 14 + ip, 6 + 20);
        CHECK(ones_sum(frame, 14 + ip, frame.size(), pseudo) == 0xffff);
        CHECK((ip == 40 || ones_sum(frame, 14, 14 + ip, 0) == 0xffff));
    };
    check(guest4, "10.0.2.2", 20);
    check(guest6, "fd6a:6f65:7900::2", 40);
    CHECK_FALSE(refusal(tcp("10.0.2.2", 80, syn | ack)));
    CHECK_FALSE(refusal(udp(guest4, 1, "10.0.2.2", 2)));
    CHECK_FALSE(refusal({}));
}
