#include "guestkernel/net/packet_block_ring.hpp"

#include <linux/if_packet.h>

#include "guestkernel/core/time.hpp"

namespace kernel::net {

namespace {

constexpr u64 aligned(u64 bytes) {
    return (bytes + 7) & ~u64{7};
}
constexpr u32 status_at = offsetof(tpacket_block_desc, hdr.bh1.block_status);

tpacket_bd_ts split(u64 wall_ns) {
    tpacket_bd_ts out{};
    out.ts_sec = static_cast<u32>(wall_ns / nanoseconds_per_second);
    out.ts_nsec = static_cast<u32>(wall_ns % nanoseconds_per_second);
    return out;
}

} // namespace

u64 block_head_bytes(u32 private_bytes) {
    return aligned(sizeof(tpacket_block_desc)) + aligned(private_bytes);
}

u64 BlockRing::retire_ns() const {
    constexpr u32 usual = 8; // of Linux, for links whose speed is not known
    const u32 wanted = memory.shape().retire_ms;
    return u64{wanted != 0 ? wanted : usual} * 1'000'000;
}

bool BlockRing::in_use() const {
    return (load_shared(memory.at<u32>(block(current_) + status_at)) & TP_STATUS_USER) != 0;
}

Room BlockRing::room() const {
    const u32 blocks = memory.shape().blocks;
    const u64 ahead = block((current_ + blocks / 4) % blocks);
    if ((load_shared(memory.at<u32>(ahead + status_at)) & TP_STATUS_USER) == 0)
        return Room::Normal;
    return in_use() ? Room::None : Room::Low;
}

bool BlockRing::readable() const {
    const u32 before = current_ == 0 ? memory.shape().blocks - 1 : current_ - 1;
    return load_shared(memory.at<u32>(block(before) + status_at)) != TP_STATUS_KERNEL;
}

void BlockRing::open(u64 wall_ns) {
    next_ = static_cast<u32>(block_head_bytes(memory.shape().private_bytes));
    frames_ = last_ = 0;
    opened_at_ = last_at_ = wall_ns;
    frozen_ = false;
}

void BlockRing::close(u64 wall_ns, u32 status) {
    const u64 start = block(current_);
    if (frames_ != 0)
        store_shared(memory.at<u32>(start + last_ + offsetof(tpacket3_hdr, tp_next_offset)), 0);
    tpacket_block_desc about{};
    about.version = TPACKET_V3;
    about.offset_to_priv = static_cast<u32>(aligned(sizeof about));
    tpacket_hdr_v1& header = about.hdr.bh1;
    header.num_pkts = frames_;
    header.offset_to_first_pkt = static_cast<u32>(block_head_bytes(memory.shape().private_bytes));
    header.blk_len = next_;
    header.seq_num = sequence_++;
    header.ts_first_pkt = split(opened_at_);
    header.ts_last_pkt = split(frames_ != 0 ? last_at_ : wall_ns);
    // Around the status, which comes last.
    const void* const whole = &about;
    constexpr u32 behind = status_at + sizeof(u32);
    memory.write(start, whole, status_at);
    memory.write(start + behind, static_cast<const u8*>(whole) + behind, sizeof about - behind);
    store_shared(memory.at<u32>(start + status_at), TP_STATUS_USER | status);
}

bool BlockRing::advance(u64 wall_ns) {
    current_ = current_ + 1 == memory.shape().blocks ? 0 : current_ + 1;
    if (in_use()) {
        frozen_ = true;
        freezes_++;
        return false;
    }
    open(wall_ns);
    return true;
}

PacketRing::Outcome BlockRing::put(const Packet& frame, const RingFrame& about) {
    if (frozen_) {
        if (in_use())
            return {false, false};
        open(about.wall_ns);
    }
    const u32 size = memory.shape().block_bytes;
    const u32 head = static_cast<u32>(block_head_bytes(memory.shape().private_bytes));
    Layout layout{};
    if (!lay_out(frame, about, size - head, layout))
        return {false, false};
    // Both ends are aligned: what fits into an empty block fits with what aligns the next.
    const u32 bytes = static_cast<u32>(aligned(layout.data + layout.kept));
    bool tell = false;
    if (bytes > size - next_) {
        close(about.wall_ns, about.status & TP_STATUS_LOSING);
        tell = true;
        if (!advance(about.wall_ns))
            return {false, true};
    }
    append(frame, about, layout, bytes);
    return {true, tell};
}

void BlockRing::append(const Packet& frame, const RingFrame& about, const Layout& layout,
                       u32 bytes) {
    const u64 start = block(current_) + next_;
    write_frame(start, frame, about, layout);
    tpacket3_hdr header{};
    header.tp_next_offset = bytes;
    header.tp_sec = static_cast<u32>(about.wall_ns / nanoseconds_per_second);
    header.tp_nsec = static_cast<u32>(about.wall_ns % nanoseconds_per_second);
    header.tp_snaplen = layout.kept;
    header.tp_len = about.original;
    header.tp_status = TP_STATUS_USER | (about.status & ~u32{TP_STATUS_LOSING}); // the block's
    header.tp_mac = static_cast<u16>(layout.data);
    header.tp_net = static_cast<u16>(layout.network);
    header.hv1.tp_vlan_tci = about.vlan;
    header.hv1.tp_vlan_tpid = about.vlan_protocol;
    memory.write(start, &header, sizeof header);
    last_ = next_;
    next_ += bytes;
    last_at_ = about.wall_ns;
    frames_++;
}

bool BlockRing::retire(u64 wall_ns, bool losing) {
    if (frozen_) {
        if (!in_use())
            open(wall_ns);
        return false;
    }
    if (frames_ == 0)
        return false;
    close(wall_ns, TP_STATUS_BLK_TMO | (losing ? TP_STATUS_LOSING : 0u));
    (void)advance(wall_ns);
    return true;
}

} // namespace kernel::net
