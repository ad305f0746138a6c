#include <cstring>
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/net/packet.hpp"
#include "guestkernel/net/socket_filter.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/net/wire.hpp"

using namespace kernel;
using namespace kernel::net;
using kernel::net::testing::ip4;

namespace {

std::vector<u8> pattern(usize bytes) {
    std::vector<u8> out(bytes);
    for (usize i = 0; i < bytes; i++)
        out[i] = static_cast<u8>(i * 7 + i / 251);
    return out;
}

u16 slow_checksum(const std::vector<u8>& data) {
    u32 sum = 0;
    for (usize i = 0; i < data.size(); i++)
        sum += i % 2 == 0 ? u32{data[i]} << 8 : u32{data[i]};
    while (sum > 0xffff)
        sum = (sum & 0xffff) + (sum >> 16);
    return __builtin_bswap16(static_cast<u16>(~sum));
}

std::vector<u8> contents(const Packet& packet) {
    std::vector<u8> out(packet.length());
    REQUIRE(packet.copy_out(0, out.data(), packet.length()));
    return out;
}

PacketPtr packet_of(const std::vector<u8>& data) {
    PacketPtr packet = Packet::allocate(0, 160);
    REQUIRE(packet);
    REQUIRE(packet->append(data.data(), static_cast<u32>(data.size())));
    return packet;
}

} // namespace

TEST_CASE("the checksum agrees with RFC 1071's definition, in pieces of any length") {
    for (const usize length : {0, 1, 2, 3, 7, 8, 9, 63, 64, 65, 127, 200, 1500, 4099}) {
        const std::vector<u8> data = pattern(length);
        CHECK(checksum(data.data(), data.size()) == slow_checksum(data));
        for (const usize cut : {usize{1}, length / 2, length}) {
            if (cut > length)
                continue;
            ChecksumSum sum;
            sum.add(data.data(), cut);
            sum.add(data.data() + cut, length - cut);
            CHECK(sum.finish() == slow_checksum(data));
        }
    }
    const std::vector<u8> ones(1000, 0xff);
    CHECK(checksum(ones.data(), ones.size()) == slow_checksum(ones));
}

TEST_CASE("headers are pushed and pulled, across the border to fragments") {
    net::testing::reset_network();
    const std::vector<u8> data = pattern(70000 - 5000);
    PacketPtr packet = packet_of(data);
    CHECK(packet->length() == data.size());
    CHECK(!packet->fragments().empty());
    CHECK(contents(*packet) == data);
    const u32 linear = packet->linear_length();
    REQUIRE(packet->pull(linear + 100));
    CHECK(packet->length() == data.size() - linear - 100);
    u8 first = 0;
    REQUIRE(packet->read(0, first));
    CHECK(first == data[linear + 100]);
    CHECK(packet->trim(10));
    CHECK(packet->length() == 10);
    CHECK_FALSE(packet->pull(11));
    CHECK_FALSE(packet->trim(11));
    CHECK(packet->linear(11) == nullptr);
    CHECK(packet->linear(10) == nullptr); // headers have been pulled: there is no room behind them
    PacketPtr pages = Packet::allocate(0);
    std::vector<u8> copy = data;
    IoBuffer from(copy.data(), copy.size());
    REQUIRE(pages->append_pages(from, 5000));
    CHECK(pages->linear_length() == 0);
    REQUIRE(pages->linear(10) != nullptr);
    CHECK(pages->linear_length() == 10);
    CHECK(std::memcmp(pages->data(), data.data(), 10) == 0);
    CHECK(pages->length() == 5000);
    u64 beyond = 0;
    CHECK_FALSE(packet->read(3, beyond));
}

TEST_CASE("a clone shares fragments and outlives the original") {
    net::testing::reset_network();
    const std::vector<u8> data = pattern(20000);
    PacketPtr packet = packet_of(data);
    PacketPtr copy = packet->clone();
    REQUIRE(copy);
    CHECK(copy->fragments()[0].frame == packet->fragments()[0].frame);
    packet = {};
    CHECK(contents(*copy) == data);
    PacketPtr part = Packet::allocate(10);
    REQUIRE(part->share_range(*copy, 150, 19000));
    CHECK(contents(*part) == std::vector<u8>(data.begin() + 150, data.begin() + 19150));
    CHECK_FALSE(part->share_range(*copy, 19999, 2));
}

TEST_CASE("more headroom keeps data, positions of headers and the charge") {
    net::testing::reset_network();
    static u32 released = 0;
    released = 0;
    PacketPtr packet = Packet::allocate(100, 20);
    REQUIRE(packet->append(pattern(100).data(), 100));
    packet->mark_network();
    REQUIRE(packet->pull(20));
    packet->mark_transport();
    packet->charge_to({[](void*, u32 bytes) { released += bytes; }, nullptr, 77});
    packet = Packet::with_headroom(std::move(packet), 200);
    REQUIRE(packet);
    CHECK(released == 0);
    CHECK(packet->headroom() >= 200);
    CHECK(packet->network_offset() == -20);
    CHECK(packet->transport_offset() == 0);
    packet->restore_network();
    CHECK(contents(*packet) == pattern(100));
    packet = {};
    CHECK(released == 77);
}

TEST_CASE("a linear part that leaves no room for headers goes to pages at its end") {
    net::testing::reset_network();
    static u32 released = 0;
    released = 0;
    const std::vector<u8> data = pattern(Packet::max_linear() - 20);
    PacketPtr packet = Packet::allocate(static_cast<u32>(data.size()), 20);
    REQUIRE(packet->append(data.data(), static_cast<u32>(data.size())));
    packet->mark_network();
    REQUIRE(packet->pull(30));
    packet->mark_transport();
    packet->charge_to({[](void*, u32 bytes) { released += bytes; }, nullptr, 77});
    packet = Packet::with_headroom(std::move(packet), 600);
    REQUIRE(packet);
    CHECK(released == 0);
    CHECK(packet->headroom() >= 600);
    CHECK(packet->linear_length() < data.size() - 30);
    CHECK(packet->transport_offset() == 0);
    packet->restore_network();
    CHECK(contents(*packet) == data);
    packet = {};
    CHECK(released == 77);
    packet = Packet::allocate(100, 20);
    CHECK_FALSE(Packet::with_headroom(std::move(packet), Packet::max_linear() + 1));
}

TEST_CASE("segments of a large TCP packet have their own headers and right checksums") {
    net::testing::reset_network();
    const std::vector<u8> payload = pattern(10000);
    PacketPtr packet = packet_of(payload);
    TcpHeader tcp{};
    tcp.sequence.set(0xffff'ff00);
    tcp.length_reserved = 0x50;
    tcp.flags = TcpHeader::ack | TcpHeader::psh | TcpHeader::fin | TcpHeader::cwr;
    packet->push_header(tcp);
    packet->mark_transport();
    Ipv4Header ip{};
    ip.version_length = 0x45;
    ip.protocol = proto_tcp;
    ip.id.set(100);
    ip.source.set(0x0a000001);
    ip.destination.set(0x0a000002);
    packet->push_header(ip);
    packet->mark_network();
    packet->segmentation = Segmentation::Tcp4;
    packet->segment_size = 1460;
    PacketList segments = segment_packet(std::move(packet), true);
    REQUIRE(segments.size() == 7);
    std::vector<u8> together;
    for (u32 number = 0; number < 7; number++) {
        PacketPtr segment = segments.pop_front();
        Ipv4Header header;
        TcpHeader transport;
        REQUIRE(segment->read(0, header));
        REQUIRE(segment->read(20, transport));
        CHECK(header.total_length.get() == segment->length());
        CHECK(header.id.get() == 100 + number);
        CHECK(checksum(contents(*segment).data(), 20) == 0);
        CHECK(transport.sequence.get() == static_cast<u32>(0xffff'ff00 + number * 1460));
        CHECK(((transport.flags & TcpHeader::fin) != 0) == (number == 6));
        CHECK(((transport.flags & TcpHeader::cwr) != 0) == (number == 0));
        ChecksumSum sum =
            pseudo_header(ip4(10, 0, 0, 1), ip4(10, 0, 0, 2), proto_tcp, segment->length() - 20);
        segment->add_to(sum, 20, segment->length() - 20);
        CHECK(sum.finish() == 0);
        const std::vector<u8> bytes = contents(*segment);
        together.insert(together.end(), bytes.begin() + 40, bytes.end());
    }
    CHECK(together == payload);
}

TEST_CASE("segmentation refuses headers that do not lie within the packet") {
    net::testing::reset_network();
    PacketPtr packet = packet_of(pattern(30));
    packet->mark_network();
    packet->mark_transport(20);
    packet->segmentation = Segmentation::Tcp4;
    packet->segment_size = 100;
    CHECK(segment_packet(std::move(packet), true).empty());
}

TEST_CASE("a filter's programs are checked, and loads outside of the packet end them") {
    net::testing::reset_network();
    PacketPtr packet = packet_of(pattern(64));
    const FilterInstruction accept_if[] = {
        {0x28, 0, 0, 12},             // ldh [12]
        {0x15, 0, 1, (84 << 8) | 91}, // jeq
        {0x06, 0, 0, 40},             // ret #40
        {0x06, 0, 0, 0},              // ret #0
    };
    auto filter = SocketFilter::make(accept_if);
    REQUIRE(filter);
    CHECK((*filter)->run(*packet) == 40);
    const FilterInstruction outside[] = {{0x20, 0, 0, 61}, {0x06, 0, 0, 1}};
    auto beyond = SocketFilter::make(outside);
    REQUIRE(beyond);
    CHECK((*beyond)->run(*packet) == 0);
    const FilterInstruction wild_jump[] = {{0x15, 5, 0, 0}, {0x06, 0, 0, 1}};
    CHECK_FALSE(SocketFilter::make(wild_jump));
    const FilterInstruction no_return[] = {{0x20, 0, 0, 0}};
    CHECK_FALSE(SocketFilter::make(no_return));
    const FilterInstruction by_zero[] = {{0x34, 0, 0, 0}, {0x06, 0, 0, 1}};
    CHECK_FALSE(SocketFilter::make(by_zero));
}

TEST_CASE("addresses: prefixes, versions, classes") {
    CHECK(ip4(10, 1, 2, 3).prefix(8) == ip4(10, 0, 0, 0));
    CHECK(ip4(10, 1, 2, 255).prefix(31) == ip4(10, 1, 2, 254));
    CHECK(ip4(10, 1, 2, 3).prefix(0) == IpAddress::v4_any());
    CHECK(ip4(10, 1, 2, 3).common_bits(ip4(10, 1, 3, 3)) == 23);
    const IpAddress six = IpAddress::v6_words(0xfe80'0000'0000'0000, 1);
    CHECK(six.is_link_local());
    CHECK(six.prefix(10) == IpAddress::v6_words(0xfe80'0000'0000'0000, 0));
    CHECK_FALSE(IpAddress().is_v4());
    CHECK(IpAddress().is_any());
    CHECK(IpAddress::v4_any().is_any());
    CHECK_FALSE(IpAddress() == IpAddress::v4_any());
    CHECK(ip4(224, 0, 0, 1).is_multicast());
    CHECK(ip4(127, 3, 0, 1).is_loopback());
}
