// PACKET_RX_RING and PACKET_TX_RING: frames in memory that the program maps. packet(7).
//
// A slot (a block of TPACKET_V3) belongs to the kernel while its status word is TP_STATUS_KERNEL,
// to the program else; the program gives them back in any order, and may write what it likes: of
// received frames only the status is ever read, of frames to send everything once.
#pragma once

#include "guestkernel/mm/shared_pages.hpp"
#include "guestkernel/net/offload_header.hpp"
#include "guestkernel/net/packet.hpp"
#include "guestkernel/net/packet_tap.hpp"

namespace kernel::net {

// struct tpacket_req3, whose begin is struct tpacket_req.
struct PacketRingRequest {
    u32 block_bytes = 0, blocks = 0, frame_bytes = 0, frames = 0;
    u32 retire_ms = 0, private_bytes = 0, features = 0;
};

// What stands before a frame.
struct RingFrame {
    u32 status = 0;      // TP_STATUS_* beyond TP_STATUS_USER
    u32 original = 0;    // bytes of the frame before a filter or the slot cut it
    u32 link_header = 0; // bytes of it at the frame's begin; cooked frames have none
    bool cooked = false;
    bool has_offloads = false; // PACKET_VNET_HDR: `offloads` go in front of the frame
    OffloadHeader offloads{};
    bool may_queue = false; // PACKET_COPY_THRESH: one that is cut is also to be had by recv(2)
    u64 wall_ns = 0;
    u16 vlan = 0, vlan_protocol = 0;
    u8 from[20] = {}; // struct sockaddr_ll
};

// Where a ring's frames are: `frames` of them in blocks, which they do not cross.
class RingMemory {
public:
    static constexpr u64 largest = 64 << 20; // bytes
    // `version`: TPACKET_V*. EINVAL as packet(7) has it; ENOMEM above `largest`. place() follows.
    Result<void> init(const PacketRingRequest& request, int version, u32 reserve);
    // Its pages from now on, from `base` on.
    void place(Ref<SharedPages> pages, u64 base);
    // What is in it goes to where `other` is. Requires: as many bytes.
    void move_to(Ref<SharedPages> pages, u64 base);

    u64 bytes() const { return u64{shape_.block_bytes} * shape_.blocks; }
    const PacketRingRequest& shape() const { return shape_; }
    int version() const { return version_; }
    u32 reserve() const { return reserve_; }
    u32 header_bytes() const; // TPACKET*_HDRLEN
    u64 frame(u32 slot) const;
    void write(u64 offset, const void* from, u32 bytes);
    void read(u64 offset, void* to, u32 bytes);
    template <typename T>
    T* at(u64 offset) const {
        return pages_->at<T>(base_ + offset);
    }
    // The status word of a slot. V1 has a long one.
    u64 status(u32 slot) const;
    void set_status(u32 slot, u64 value);

private:
    PacketRingRequest shape_;
    int version_ = 0;
    u32 reserve_ = 0;
    Ref<SharedPages> pages_;
    u64 base_ = 0;
};

// Received frames. Requires: the socket's lock is held, but for make().
class PacketRing {
public:
    static Result<Owned<PacketRing>> make(const PacketRingRequest& request, int version,
                                          u32 reserve);
    virtual ~PacketRing() = default;
    struct Outcome {
        bool kept;           // false: the program has not given back what comes next
        bool tell;           // there is something new for who waits
        bool queued = false; // told that it is to be had by recv(2)
    };
    virtual Outcome put(const Packet& frame, const RingFrame& about) = 0;
    // What poll(2) tells.
    virtual bool readable() const = 0;
    virtual Room room() const = 0;
    // The memory is there: it can begin.
    virtual void start(u64 wall_ns) { (void)wall_ns; }
    // Of blocks that are given to the program after a time: how long, 0 for others.
    virtual u64 retire_ns() const { return 0; }
    // The time is over. True: there is something new for who waits.
    virtual bool retire(u64 wall_ns, bool losing) {
        (void)wall_ns;
        (void)losing;
        return false;
    }
    virtual u32 take_freezes() { return 0; } // PACKET_STATISTICS of V3
    RingMemory memory;

protected:
    struct Layout {
        u32 network, data, kept;
    };
    // Where a frame lies behind its header, of which at most `room` bytes fit. False: it cannot be
    // described.
    bool lay_out(const Packet& frame, const RingFrame& about, u32 room, Layout& out) const;
    void write_frame(u64 start, const Packet& frame, const RingFrame& about, const Layout& layout);
};

// Frames to send. Requires: calls one at a time.
class SendRing {
public:
    static Result<Owned<SendRing>> make(const PacketRingRequest& request, int version);
    struct Wanted {
        u32 bytes = 0;
        u64 data = 0; // where they are, for memory.read()
    };
    // Whether the program asks for the next slot to be sent.
    bool requested() const;
    // What is in it. EMSGSIZE, EINVAL.
    Result<Wanted> next(u32 most, bool has_offset, bool cooked);
    void set_status(u32 status) { memory.set_status(next_, status); }
    void step() { next_ = next_ + 1 == memory.shape().frames ? 0 : next_ + 1; }
    RingMemory memory;

private:
    u32 next_ = 0;
};

} // namespace kernel::net
