#include <catch2/catch.hpp>

#include "virtio/device/net/packet_check.hpp"
#include "virtio/device/net/testing/frames.hpp"

using namespace virtio;
using virtio::testing::Frame;
using virtio::testing::FrameShape;
using virtio::testing::make_frame;

namespace {

constexpr std::uint64_t every_offload =
    net_bit(net_feature_csum) | net_bit(net_feature_host_tso4) | net_bit(net_feature_host_tso6) |
    net_bit(net_feature_host_ecn) | net_bit(net_feature_host_uso);

std::optional<NetHeader> check(const NetHeader& header, const Frame& frame,
                               std::uint64_t features = every_offload) {
    const std::span<const std::byte> bytes(frame.bytes);
    return check_transmit(header, bytes.first(std::min(bytes.size(), net_head_bytes)), bytes.size(),
                          features);
}

} // namespace

TEST_CASE("packet check: layouts of all that we know") {
    const FrameShape shape =
        GENERATE(FrameShape{}, FrameShape{.ipv6 = true}, FrameShape{.protocol = IPPROTO_UDP},
                 FrameShape{.ipv6 = true, .protocol = IPPROTO_UDP}, FrameShape{.vlan_tags = 1},
                 FrameShape{.vlan_tags = 2, .ip_options = 40, .tcp_options = 40},
                 FrameShape{.ipv6 = true, .ip_options = 64, .tcp_options = 12});
    const Frame frame = make_frame(shape);
    const PacketLayout layout = read_layout(std::span(frame.bytes));
    CHECK(layout.ip_version == (shape.ipv6 ? 6 : 4));
    CHECK(layout.protocol == shape.protocol);
    CHECK(layout.network == frame.network);
    CHECK(layout.transport == frame.transport);
    CHECK(layout.payload == frame.payload);
    CHECK_FALSE(layout.fragment);
}

TEST_CASE("packet check: a head that ends anywhere is read no further") {
    const bool v6 = GENERATE(false, true);
    const Frame frame =
        make_frame({.ipv6 = v6, .vlan_tags = 1, .ip_options = 16, .tcp_options = 8});
    for (std::size_t length = 0; length < frame.payload; ++length) {
        const PacketLayout layout = read_layout(std::span(frame.bytes).first(length));
        CHECK(layout.payload == 0);
    }
}

TEST_CASE("packet check: a plain packet's header comes out empty") {
    const Frame frame = make_frame();
    // Offsets without the flag mean nothing, and unknown flags are ignored.
    const NetHeader header{
        .flags = net_data_valid | 0xf0, .header_length = 9, .csum_start = 0xffff};
    CHECK(check(header, frame) == NetHeader{});
    CHECK(check(header, frame, 0) == NetHeader{});
}

TEST_CASE("packet check: a checksum is to be where the transport has it") {
    const bool v6 = GENERATE(false, true);
    const bool tcp = GENERATE(false, true);
    const auto protocol = static_cast<std::uint8_t>(tcp ? IPPROTO_TCP : IPPROTO_UDP);
    const Frame frame = make_frame({.ipv6 = v6, .protocol = protocol});
    NetHeader header = frame.header();
    CHECK(check(header, frame) == header);
    SECTION("not without the feature") {
        CHECK_FALSE(check(header, frame, every_offload & ~net_bit(net_feature_csum)));
    }
    SECTION("nor elsewhere in the header") {
        header.csum_offset = 2;
        CHECK_FALSE(check(header, frame));
    }
    SECTION("nor from the network header on") {
        header.csum_start = static_cast<std::uint16_t>(frame.network);
        CHECK_FALSE(check(header, frame));
    }
    SECTION("nor outside of the packet") {
        header.csum_start = static_cast<std::uint16_t>(frame.bytes.size() - 1);
        CHECK_FALSE(check(header, frame));
        header.csum_start = 0xffff;
        header.csum_offset = 0xffff;
        CHECK_FALSE(check(header, frame));
    }
    SECTION("nor inside of the Ethernet header") {
        header.csum_start = 2;
        CHECK_FALSE(check(header, frame));
    }
}

TEST_CASE("packet check: a checksum of what we do not know need only be inside") {
    const Frame frame = make_frame({.protocol = IPPROTO_ICMP});
    NetHeader header{.flags = net_needs_csum,
                     .csum_start = static_cast<std::uint16_t>(frame.transport),
                     .csum_offset = 2};
    CHECK(check(header, frame) == header);
    header.csum_offset = static_cast<std::uint16_t>(frame.bytes.size() - frame.transport - 1);
    CHECK_FALSE(check(header, frame));
}

TEST_CASE("packet check: segmentation of what it says it is") {
    const bool v6 = GENERATE(false, true);
    const bool tcp = GENERATE(false, true);
    const auto protocol = static_cast<std::uint8_t>(tcp ? IPPROTO_TCP : IPPROTO_UDP);
    const Frame frame =
        make_frame({.ipv6 = v6, .protocol = protocol, .payload = 5000, .ip_options = 8});
    NetHeader header = frame.header(1400);
    const auto checked = check(header, frame);
    REQUIRE(checked);
    CHECK(checked->gso_type == header.gso_type);
    CHECK(checked->gso_size == 1400);
    CHECK(checked->header_length == frame.payload); // ours, not the driver's

    SECTION("needs the feature") {
        CHECK_FALSE(check(header, frame, net_bit(net_feature_csum)));
    }
    SECTION("needs the checksum") {
        header.flags = 0;
        CHECK_FALSE(check(header, frame));
    }
    SECTION("needs a size") {
        header.gso_size = 0;
        CHECK_FALSE(check(header, frame));
    }
    SECTION("of another kind is refused") {
        const std::uint8_t right = header.gso_type;
        for (unsigned type = 1; type < 0x80; ++type) {
            header.gso_type = static_cast<std::uint8_t>(type);
            CHECK(check(header, frame).has_value() == (type == right));
        }
    }
    SECTION("with ECN is TCP's alone, and a feature") {
        header.gso_type |= net_gso_ecn;
        CHECK(check(header, frame).has_value() == tcp);
        CHECK_FALSE(check(header, frame, every_offload & ~net_bit(net_feature_host_ecn)));
    }
    SECTION("ECN of nothing is nothing known") {
        header.gso_type = net_gso_ecn;
        CHECK_FALSE(check(header, frame));
    }
    SECTION("into one segment is none") {
        header.gso_size = 5000;
        const auto one = check(header, frame);
        REQUIRE(one);
        CHECK(one->gso_type == net_gso_none);
        CHECK(one->gso_size == 0);
        CHECK(one->csum_start == frame.transport);
    }
}

TEST_CASE("packet check: a fragment, or headers out of sight, cannot be segmented") {
    Frame frame = make_frame({.payload = 5000, .fragment = 0x2000});
    CHECK_FALSE(check(frame.header(1400), frame));
    // 256 bytes and more of options in front of TCP.
    frame = make_frame({.ipv6 = true, .payload = 5000, .ip_options = 256});
    CHECK_FALSE(check(frame.header(1400), frame));
}

TEST_CASE("packet check: too short and too long for any frame") {
    const std::vector<std::byte> bytes(net_head_bytes);
    CHECK_FALSE(check_transmit({}, std::span(bytes).first(13), 13, every_offload));
    CHECK(check_transmit({}, std::span(bytes).first(14), 14, every_offload));
    CHECK(check_transmit({}, bytes, net_max_frame, every_offload));
    CHECK_FALSE(check_transmit({}, bytes, net_max_frame + 1, every_offload));
}

TEST_CASE("packet check: what the driver did not ask for is not for it") {
    CHECK(may_receive({}, 0));
    CHECK(may_receive({.flags = net_data_valid}, 0));
    CHECK_FALSE(may_receive({.flags = net_needs_csum}, 0));
    const std::uint64_t sums = net_bit(net_feature_guest_csum);
    CHECK(may_receive({.flags = net_needs_csum}, sums));
    CHECK_FALSE(may_receive({.gso_type = net_gso_tcp4}, sums));
    CHECK(may_receive({.gso_type = net_gso_tcp4}, sums | net_bit(net_feature_guest_tso4)));
    CHECK_FALSE(may_receive({.gso_type = net_gso_tcp6}, sums | net_bit(net_feature_guest_tso4)));
    CHECK_FALSE(may_receive({.gso_type = net_gso_tcp4 | net_gso_ecn},
                            sums | net_bit(net_feature_guest_tso4)));
    CHECK(may_receive({.gso_type = net_gso_udp}, sums | net_bit(net_feature_guest_uso4)));
    CHECK_FALSE(may_receive({.gso_type = 3}, ~std::uint64_t{0}));
}
