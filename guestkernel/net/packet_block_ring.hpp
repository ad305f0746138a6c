// TPACKET_V3: blocks that are filled with frames of any size, and given to the program when they
// are full or have waited for long enough. packet(7), packet_mmap of Linux.
#pragma once

#include "guestkernel/net/packet_ring.hpp"

namespace kernel::net {

// What stands in front of a block's frames: its description, and what is the program's alone.
u64 block_head_bytes(u32 private_bytes);

class BlockRing final : public PacketRing {
public:
    Outcome put(const Packet& frame, const RingFrame& about) override;
    bool readable() const override;
    Room room() const override;
    void start(u64 wall_ns) override { open(wall_ns); }
    u64 retire_ns() const override;
    bool retire(u64 wall_ns, bool losing) override;
    u32 take_freezes() override { return std::exchange(freezes_, 0u); }

private:
    u64 block(u32 number) const { return u64{number} * memory.shape().block_bytes; }
    bool in_use() const; // the current one: the program has it
    void open(u64 wall_ns);
    void close(u64 wall_ns, u32 status);
    bool advance(u64 wall_ns); // to the next block; false: the program has it
    void append(const Packet& frame, const RingFrame& about, const Layout& layout, u32 bytes);

    u32 current_ = 0;
    // Of the current block; what the program could have changed is never read back.
    u32 next_ = 0, last_ = 0; // offsets in it: of the next frame, of the last one
    u32 frames_ = 0;
    u64 opened_at_ = 0, last_at_ = 0;
    u64 sequence_ = 1;
    bool frozen_ = false; // the program has the current block
    u32 freezes_ = 0;
};

} // namespace kernel::net
