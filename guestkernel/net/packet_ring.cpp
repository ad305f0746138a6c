#include "guestkernel/net/packet_ring.hpp"

#include <linux/errno.h>
#include <linux/if_packet.h>

#include "guestkernel/core/time.hpp"
#include "guestkernel/net/packet_block_ring.hpp"

namespace kernel::net {

namespace {

constexpr u32 smallest_link_header = 16;

// Where the address stands, behind the header.
constexpr u32 address_at(int version) {
    return version == TPACKET_V1   ? TPACKET_ALIGN(sizeof(tpacket_hdr))
           : version == TPACKET_V2 ? TPACKET_ALIGN(sizeof(tpacket2_hdr))
                                   : TPACKET_ALIGN(sizeof(tpacket3_hdr));
}

} // namespace

// --- memory

Result<void> RingMemory::init(const PacketRingRequest& request, int version, u32 reserve) {
    version_ = version;
    const u64 least = u64{header_bytes()} + reserve;
    if (request.block_bytes == 0 || request.block_bytes > 0x7fff'ffff ||
        request.block_bytes % page_size != 0 || request.frame_bytes % TPACKET_ALIGNMENT != 0 ||
        request.frame_bytes < least || request.frame_bytes > request.block_bytes)
        return fail(EINVAL);
    if (version == TPACKET_V3 &&
        request.block_bytes < block_head_bytes(request.private_bytes) + least)
        return fail(EINVAL);
    const u32 per_block = request.block_bytes / request.frame_bytes;
    if (u64{per_block} * request.blocks != request.frames)
        return fail(EINVAL);
    shape_ = request;
    reserve_ = reserve;
    return bytes() > largest ? Result<void>(fail(ENOMEM)) : Result<void>();
}

void RingMemory::place(Ref<SharedPages> pages, u64 base) {
    pages_ = std::move(pages);
    base_ = base;
}

void RingMemory::move_to(Ref<SharedPages> pages, u64 base) {
    for (u64 done = 0; done < bytes(); done += page_size)
        __builtin_memcpy(pages->at<u8[page_size]>(base + done), at<u8[page_size]>(done), page_size);
    place(std::move(pages), base);
}

u32 RingMemory::header_bytes() const {
    return address_at(version_) + u32{sizeof(sockaddr_ll)};
}

u64 RingMemory::frame(u32 slot) const {
    const u32 per_block = shape_.block_bytes / shape_.frame_bytes;
    return u64{slot / per_block} * shape_.block_bytes + u64{slot % per_block} * shape_.frame_bytes;
}

void RingMemory::write(u64 offset, const void* from, u32 bytes) {
    const u8* source = static_cast<const u8*>(from);
    while (bytes > 0) {
        const u32 left = static_cast<u32>(page_size - offset % page_size);
        const u32 piece = bytes < left ? bytes : left;
        // at() vouches for one byte, and the piece ends within its page.
        __builtin_memcpy(at<u8>(offset), source, piece);
        offset += piece;
        source += piece;
        bytes -= piece;
    }
}

void RingMemory::read(u64 offset, void* to, u32 bytes) {
    u8* target = static_cast<u8*>(to);
    while (bytes > 0) {
        const u32 left = static_cast<u32>(page_size - offset % page_size);
        const u32 piece = bytes < left ? bytes : left;
        __builtin_memcpy(target, at<u8>(offset), piece);
        offset += piece;
        target += piece;
        bytes -= piece;
    }
}

u64 RingMemory::status(u32 slot) const {
    if (version_ == TPACKET_V1)
        return __atomic_load_n(at<u64>(frame(slot)), __ATOMIC_ACQUIRE);
    const u32 word = version_ == TPACKET_V3 ? offsetof(tpacket3_hdr, tp_status) : 0;
    return load_shared(at<u32>(frame(slot) + word));
}

void RingMemory::set_status(u32 slot, u64 value) {
    if (version_ == TPACKET_V1) {
        __atomic_store_n(at<u64>(frame(slot)), value, __ATOMIC_RELEASE);
        return;
    }
    const u32 word = version_ == TPACKET_V3 ? offsetof(tpacket3_hdr, tp_status) : 0;
    store_shared(at<u32>(frame(slot) + word), static_cast<u32>(value));
}

// --- receiving

bool PacketRing::lay_out(const Packet& frame, const RingFrame& about, u32 room, Layout& out) const {
    const u32 link =
        about.link_header < smallest_link_header ? smallest_link_header : about.link_header;
    const u32 header = memory.header_bytes();
    // tpacket_rcv() of Linux: the network header is aligned, the link header lies before it.
    out.network =
        about.cooked ? TPACKET_ALIGN(header) + smallest_link_header : TPACKET_ALIGN(header + link);
    if (memory.reserve() > 0xffff - out.network)
        return false;
    out.network += memory.reserve();
    if (about.has_offloads)
        out.network += u32{sizeof about.offloads};
    out.data = about.cooked ? out.network : out.network - about.link_header;
    if (out.data > room)
        out.data = room;
    out.kept = frame.length() < room - out.data ? frame.length() : room - out.data;
    return true;
}

void PacketRing::write_frame(u64 start, const Packet& frame, const RingFrame& about,
                             const Layout& layout) {
    u64 at = start + layout.data;
    frame.for_pieces(0, layout.kept, [&](const u8* piece, u32 bytes) {
        memory.write(at, piece, bytes);
        at += bytes;
    });
    if (about.has_offloads && layout.data >= memory.header_bytes() + sizeof about.offloads)
        memory.write(start + layout.data - sizeof about.offloads, &about.offloads,
                     sizeof about.offloads);
    static_assert(sizeof about.from == sizeof(sockaddr_ll));
    memory.write(start + address_at(memory.version()), about.from, sizeof about.from);
}

namespace {

// TPACKET_V1 and V2: each frame has a slot of its own.
class SlotRing final : public PacketRing {
public:
    Outcome put(const Packet& frame, const RingFrame& about) override {
        Layout layout{};
        if (memory.status(next_) != TP_STATUS_KERNEL ||
            !lay_out(frame, about, memory.shape().frame_bytes, layout))
            return {false, false};
        const u64 start = memory.frame(next_);
        write_frame(start, frame, about, layout);
        if (memory.version() == TPACKET_V1)
            write_header(start, about, layout);
        else
            write_header2(start, about, layout);
        const bool queued = about.may_queue && layout.kept < frame.length();
        memory.set_status(next_, TP_STATUS_USER | about.status | (queued ? TP_STATUS_COPY : 0));
        next_ = next_ + 1 == memory.shape().frames ? 0 : next_ + 1;
        return {true, true, queued};
    }
    Room room() const override {
        const u32 frames = memory.shape().frames;
        const u32 ahead = (next_ + frames / 4) % frames;
        return memory.status(ahead) == TP_STATUS_KERNEL   ? Room::Normal
               : memory.status(next_) == TP_STATUS_KERNEL ? Room::Low
                                                          : Room::None;
    }
    bool readable() const override {
        const u32 before = next_ == 0 ? memory.shape().frames - 1 : next_ - 1;
        return memory.status(before) != TP_STATUS_KERNEL;
    }

private:
    // Behind the status, which is the last word to be written.
    template <typename Header>
    void write_behind_status(u64 start, const Header& header) {
        const void* const whole = &header;
        constexpr u32 status = sizeof header.tp_status;
        memory.write(start + status, static_cast<const u8*>(whole) + status,
                     sizeof header - status);
    }
    void write_header(u64 start, const RingFrame& about, const Layout& layout) {
        tpacket_hdr header{};
        header.tp_len = about.original;
        header.tp_snaplen = layout.kept;
        header.tp_mac = static_cast<u16>(layout.data);
        header.tp_net = static_cast<u16>(layout.network);
        header.tp_sec = static_cast<u32>(about.wall_ns / nanoseconds_per_second);
        header.tp_usec = static_cast<u32>(about.wall_ns % nanoseconds_per_second / 1000);
        write_behind_status(start, header);
    }
    void write_header2(u64 start, const RingFrame& about, const Layout& layout) {
        tpacket2_hdr header{};
        header.tp_len = about.original;
        header.tp_snaplen = layout.kept;
        header.tp_mac = static_cast<u16>(layout.data);
        header.tp_net = static_cast<u16>(layout.network);
        header.tp_sec = static_cast<u32>(about.wall_ns / nanoseconds_per_second);
        header.tp_nsec = static_cast<u32>(about.wall_ns % nanoseconds_per_second);
        header.tp_vlan_tci = about.vlan;
        header.tp_vlan_tpid = about.vlan_protocol;
        write_behind_status(start, header);
    }
    u32 next_ = 0;
};

} // namespace

Result<Owned<PacketRing>> PacketRing::make(const PacketRingRequest& request, int version,
                                           u32 reserve) {
    Owned<PacketRing> ring;
    if (version == TPACKET_V3) {
        TRY(Owned<BlockRing> made, make_owned<BlockRing>());
        ring = std::move(made);
    } else {
        TRY(Owned<SlotRing> made, make_owned<SlotRing>());
        ring = std::move(made);
    }
    TRY(ring->memory.init(request, version, reserve));
    return ring;
}

// --- sending

Result<Owned<SendRing>> SendRing::make(const PacketRingRequest& request, int version) {
    // Blocks are for receiving.
    if (version == TPACKET_V3 &&
        (request.retire_ms != 0 || request.private_bytes != 0 || request.features != 0))
        return fail(EINVAL);
    TRY(Owned<SendRing> ring, make_owned<SendRing>());
    TRY(ring->memory.init(request, version, 0));
    return ring;
}

bool SendRing::requested() const {
    return memory.status(next_) == TP_STATUS_SEND_REQUEST;
}

Result<SendRing::Wanted> SendRing::next(u32 most, bool has_offset, bool cooked) {
    const u64 start = memory.frame(next_);
    const u32 least = memory.header_bytes() - u32{sizeof(sockaddr_ll)};
    const u32 frame = memory.shape().frame_bytes;
    u32 bytes = 0;
    u16 link = 0, network = 0;
    const auto take = [&](auto header) {
        memory.read(start, &header, sizeof header);
        bytes = header.tp_len;
        link = header.tp_mac;
        network = header.tp_net;
        return header;
    };
    if (memory.version() == TPACKET_V1)
        (void)take(tpacket_hdr{});
    else if (memory.version() == TPACKET_V2)
        (void)take(tpacket2_hdr{});
    else if (take(tpacket3_hdr{}).tp_next_offset != 0) // slots are all as large as the others
        return fail(EINVAL);
    if (bytes > most || bytes > frame - least)
        return fail(EMSGSIZE);
    const u32 offset = !has_offset ? least : cooked ? network : link;
    if (offset < least || offset > frame - bytes)
        return fail(EINVAL);
    return Wanted{bytes, start + offset};
}

} // namespace kernel::net
