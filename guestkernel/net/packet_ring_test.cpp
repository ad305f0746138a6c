// Rings of packet sockets: what the kernel writes, and what a hostile program may have written.
#include <vector>

#include <linux/errno.h>
#include <linux/if_packet.h>

#include <catch2/catch.hpp>

#include "guestkernel/fs/test_support.hpp"
#include "guestkernel/net/packet_block_ring.hpp"

using namespace kernel;
using namespace kernel::net;

namespace {

constexpr u32 block = 4096, blocks = 2;

PacketPtr frame_of(u32 bytes) {
    PacketPtr out = Packet::allocate(0);
    const std::vector<u8> data(bytes, 7);
    REQUIRE(out->append(data.data(), bytes));
    return out;
}

struct Fixture : kernel::test::FsFixture {
    Fixture() {
        reset_packet_pool_for_test();
        reset_payload_blocks_for_test();
    }
};
struct Rings : Fixture {
    Ref<SharedPages> pages;
    Owned<PacketRing> ring;
    explicit Rings(int version) {
        auto made = PacketRing::make({block, blocks, 2048, 4, 10, 0, 0}, version, 0);
        REQUIRE(made);
        ring = std::move(*made);
        auto memory = SharedPages::make("ring", ring->memory.bytes());
        REQUIRE(memory);
        pages = std::move(*memory);
        ring->memory.place(pages, 0);
        ring->start(5);
    }
    u32& word(u64 offset) { return *pages->at<u32>(offset); }
    PacketRing::Outcome put(u32 bytes) {
        RingFrame about;
        about.original = bytes;
        about.link_header = 14;
        about.wall_ns = 1'000'000'000;
        return ring->put(*frame_of(bytes), about);
    }
};
constexpr u32 status_at = offsetof(tpacket_block_desc, hdr.bh1.block_status);

} // namespace

TEST_CASE("a ring's blocks are filled in turn, retired, and wait for the program") {
    Rings of(TPACKET_V3);
    CHECK_FALSE(of.ring->readable());
    CHECK_FALSE(of.ring->retire(6, false)); // empty
    CHECK(of.put(1000).kept);
    // A program that says what it likes about a block that is not its own changes nothing.
    for (u32 at = 0; at < sizeof(tpacket_block_desc); at += 4)
        if (at != status_at)
            of.word(at) = ~u32{0};
    of.word(sizeof(tpacket_block_desc)) = ~u32{0};
    CHECK(of.put(1000).kept);
    CHECK(of.ring->retire(7, true));
    CHECK(of.word(status_at) == (TP_STATUS_USER | TP_STATUS_BLK_TMO | TP_STATUS_LOSING));
    const auto& about = *of.pages->at<tpacket_block_desc>(0);
    CHECK(about.hdr.bh1.num_pkts == 2);
    CHECK(about.hdr.bh1.seq_num == 1);
    CHECK(of.ring->readable());
    // The other one is filled, and there is no third.
    u32 kept = 0;
    while (of.put(1000).kept)
        kept++;
    CHECK(kept == 3);
    CHECK(of.ring->take_freezes() == 1);
    CHECK_FALSE(of.put(10).kept);
    CHECK_FALSE(of.ring->retire(8, false));
    of.word(status_at) = TP_STATUS_KERNEL;
    CHECK(of.put(10).kept);
    CHECK(of.ring->take_freezes() == 0);
    // A frame larger than a block is cut, and has one for itself.
    of.word(block + status_at) = TP_STATUS_KERNEL;
    CHECK(of.put(10'000).tell);
    CHECK(of.ring->retire(9, false));
    tpacket3_hdr header;
    of.ring->memory.read(block + 48, &header, sizeof header);
    CHECK(header.tp_len == 10'000);
    CHECK(header.tp_mac + header.tp_snaplen == block - 48);
}

TEST_CASE("slots of the first version have a long status") {
    Rings of(TPACKET_V1);
    *of.pages->at<u64>(0) = u64{1} << 40; // not the kernel's
    CHECK_FALSE(of.put(100).kept);
    *of.pages->at<u64>(0) = 0;
    CHECK(of.put(100).kept);
    CHECK(*of.pages->at<u64>(0) == TP_STATUS_USER);
    CHECK(of.ring->readable());
}

TEST_CASE("what a program asks a ring to send lies within its slot") {
    Fixture fixture;
    auto made = SendRing::make({block, 1, 2048, 2, 0, 0, 0}, TPACKET_V2);
    REQUIRE(made);
    SendRing& ring = **made;
    auto memory = SharedPages::make("ring", ring.memory.bytes());
    REQUIRE(memory);
    ring.memory.place(*memory, 0);
    CHECK_FALSE(ring.requested());
    ring.set_status(TP_STATUS_SEND_REQUEST);
    CHECK(ring.requested());
    auto& header = *(*memory)->at<tpacket2_hdr>(0);
    header.tp_len = ~u32{0};
    CHECK(ring.next(~u32{0}, false, false).error().code == EMSGSIZE);
    header.tp_len = 2048 - sizeof header;
    REQUIRE(ring.next(~u32{0}, false, false));
    CHECK(ring.next(1500, false, false).error().code == EMSGSIZE);
    header.tp_mac = sizeof header + 16;
    CHECK(ring.next(~u32{0}, true, false).error().code == EINVAL);
    header.tp_len = 100;
    CHECK(ring.next(~u32{0}, true, false)->data == sizeof header + 16);
    header.tp_mac = 4;
    CHECK(ring.next(~u32{0}, true, false).error().code == EINVAL);
}
