// PACKET_RX_RING, version TPACKET_V2: captured frames in memory that the program maps. packet(7).
//
// A slot belongs to the kernel while its status word is TP_STATUS_KERNEL, to the program else; the
// program gives slots back in any order, and may write what it likes: only the status is ever read.
#pragma once

#include "guestkernel/mm/shared_pages.hpp"
#include "guestkernel/net/packet.hpp"

namespace kernel::net {

// struct tpacket_req.
struct PacketRingRequest {
    u32 block_bytes, blocks, frame_bytes, frames;
};

// What stands before a frame.
struct RingFrame {
    u32 status = 0;      // TP_STATUS_* beyond TP_STATUS_USER
    u32 original = 0;    // bytes of the frame before a filter or the slot cut it
    u32 link_header = 0; // bytes of it at the frame's begin; cooked frames have none
    bool cooked = false;
    u64 wall_ns = 0;
    u16 vlan = 0, vlan_protocol = 0;
    u8 from[20] = {}; // struct sockaddr_ll
};

class PacketRing {
public:
    static constexpr u64 largest = 64 << 20; // bytes
    // `reserve`: bytes left free in front of each frame (PACKET_RESERVE). EINVAL as packet(7) has
    // it; ENOMEM, also above `largest`.
    static Result<Owned<PacketRing>> make(const PacketRingRequest& request, u32 reserve);

    // The next slot becomes the caller's to fill(): its number, or none when the program has not
    // given it back. Requires: the socket's lock is held, as for filled().
    static constexpr u32 none = ~u32{0};
    u32 claim();
    // Copies the frame and hands the slot to the program. No lock is needed.
    void fill(u32 slot, const Packet& frame, const RingFrame& about);
    void filled(u32 slot) { busy_[slot] = 0; }
    // Whether the slot before the next one is the program's: what poll(2) tells.
    bool readable() const;

    const Ref<File>& file() const { return pages_->file(); }
    u64 bytes() const { return pages_->bytes(); }

private:
    u64 place(u32 slot) const;
    void write(u64 offset, const void* from, u32 bytes);

    Ref<SharedPages> pages_;
    Vector<u8> busy_; // slots that are being filled
    u32 frame_bytes_ = 0, block_bytes_ = 0, frames_per_block_ = 0, frames_ = 0, reserve_ = 0;
    u32 next_ = 0;
};

} // namespace kernel::net
