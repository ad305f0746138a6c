#include "guestkernel/net/packet_ring.hpp"

#include <linux/errno.h>
#include <linux/if_packet.h>

namespace kernel::net {

namespace {

constexpr u32 address_at = TPACKET_ALIGN(sizeof(tpacket2_hdr));
constexpr u32 header_bytes = address_at + sizeof(sockaddr_ll); // TPACKET2_HDRLEN
constexpr u32 smallest_link_header = 16;

} // namespace

Result<Owned<PacketRing>> PacketRing::make(const PacketRingRequest& request, u32 reserve) {
    if (request.block_bytes == 0 || request.block_bytes % page_size != 0 ||
        request.frame_bytes % TPACKET_ALIGNMENT != 0 || request.frame_bytes < header_bytes ||
        request.frame_bytes - header_bytes < reserve || request.frame_bytes > request.block_bytes)
        return fail(EINVAL);
    const u32 per_block = request.block_bytes / request.frame_bytes;
    const u64 bytes = u64{request.block_bytes} * request.blocks;
    if (u64{per_block} * request.blocks != request.frames)
        return fail(EINVAL);
    if (bytes > largest)
        return fail(ENOMEM);
    TRY(Owned<PacketRing> ring, make_owned<PacketRing>());
    TRY(ring->pages_, SharedPages::make("packet-ring", bytes));
    TRY(ring->busy_.resize(request.frames));
    ring->frame_bytes_ = request.frame_bytes;
    ring->block_bytes_ = request.block_bytes;
    ring->frames_per_block_ = per_block;
    ring->frames_ = request.frames;
    ring->reserve_ = reserve;
    return ring;
}

u64 PacketRing::place(u32 slot) const {
    return u64{slot / frames_per_block_} * block_bytes_ +
           u64{slot % frames_per_block_} * frame_bytes_;
}

u32 PacketRing::claim() {
    const u32 slot = next_;
    if (busy_[slot] != 0 || load_shared(pages_->at<u32>(place(slot))) != TP_STATUS_KERNEL)
        return none;
    busy_[slot] = 1;
    next_ = slot + 1 == frames_ ? 0 : slot + 1;
    return slot;
}

bool PacketRing::readable() const {
    const u32 next = next_;
    const u32 before = next == 0 ? frames_ - 1 : next - 1;
    return busy_[before] == 0 && load_shared(pages_->at<u32>(place(before))) != TP_STATUS_KERNEL;
}

void PacketRing::write(u64 offset, const void* from, u32 bytes) {
    const u8* source = static_cast<const u8*>(from);
    while (bytes > 0) {
        const u32 left = static_cast<u32>(page_size - offset % page_size);
        const u32 piece = bytes < left ? bytes : left;
        // at() vouches for one byte, and the piece ends within its page.
        __builtin_memcpy(pages_->at<u8>(offset), source, piece);
        offset += piece;
        source += piece;
        bytes -= piece;
    }
}

void PacketRing::fill(u32 slot, const Packet& frame, const RingFrame& about) {
    const u64 start = place(slot);
    const u32 link =
        about.link_header < smallest_link_header ? smallest_link_header : about.link_header;
    // tpacket_rcv() of Linux: the network header is aligned, the link header lies before it.
    const u32 network = about.cooked ? TPACKET_ALIGN(header_bytes) + smallest_link_header + reserve_
                                     : TPACKET_ALIGN(header_bytes + link) + reserve_;
    const u32 data = about.cooked ? network : network - about.link_header;
    const u32 room = data < frame_bytes_ ? frame_bytes_ - data : 0;
    const u32 kept = frame.length() < room ? frame.length() : room;
    u64 at = start + data;
    frame.for_pieces(0, kept, [&](const u8* piece, u32 bytes) {
        write(at, piece, bytes);
        at += bytes;
    });
    tpacket2_hdr header{};
    header.tp_len = about.original;
    header.tp_snaplen = kept;
    header.tp_mac = static_cast<u16>(data);
    header.tp_net = static_cast<u16>(network);
    header.tp_sec = static_cast<u32>(about.wall_ns / 1'000'000'000);
    header.tp_nsec = static_cast<u32>(about.wall_ns % 1'000'000'000);
    header.tp_vlan_tci = about.vlan;
    header.tp_vlan_tpid = about.vlan_protocol;
    static_assert(sizeof about.from == sizeof(sockaddr_ll));
    write(start + address_at, about.from, sizeof about.from);
    constexpr u32 status = sizeof header.tp_status; // the last word to be written
    write(start + status, reinterpret_cast<const u8*>(&header) + status, sizeof header - status);
    store_shared(pages_->at<u32>(start), TP_STATUS_USER | about.status);
}

} // namespace kernel::net
