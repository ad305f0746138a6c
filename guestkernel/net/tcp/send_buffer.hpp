// The bytes that a program has handed over and the peer has not acknowledged: a ring of fragments
// of frames. Packets share the frames; nothing is copied again.
//
// Two parties use it. The sender, alone by its mutex, fills room() without a lock and then
// commits it with the connection's lock held; everything else needs the connection's lock. A byte
// never changes once it is committed.
#pragma once

#include "guestkernel/net/packet.hpp"

namespace kernel::tcp {

class SendBuffer {
public:
    SendBuffer() = default;
    SendBuffer(const SendBuffer&) = delete;
    SendBuffer& operator=(const SendBuffer&) = delete;
    ~SendBuffer() { clear(); }
    void clear(); // the ring; the open block stays the sender's

    struct Room {
        u8* data = nullptr;
        u32 bytes = 0;
    };
    // --- the sender, without a lock; may sleep
    // Memory for up to `wanted` of the next bytes; none: no memory.
    Room room(u32 wanted);
    // Gives up the block that room() hands out pieces of.
    void close_block();
    // --- with the lock
    // The first `bytes` of room() are now the stream's. False: no memory for the ring; nothing
    // changed.
    [[nodiscard]] bool commit(u32 bytes);
    u32 bytes() const { return bytes_; }
    // The first `bytes` have arrived at the peer.
    void release(u32 bytes);
    // Adds [offset, offset + length) to a packet: small pieces by copy, others by reference.
    // Returns how many bytes went in: fewer where the packet has no more room for fragments.
    u32 fill(net::Packet& packet, u32 offset, u32 length);

private:
    static constexpr u32 inline_slots = 4;
    static constexpr u32 small_piece = 512; // cheaper copied than shared

    net::Fragment& slot(u32 index) { return ring()[(head_ + index) & (capacity_ - 1)]; }
    net::Fragment* ring() { return heap_ != nullptr ? heap_ : inline_; }
    bool grow();
    bool push(Frame* frame, u32 offset, u32 length);

    net::Fragment inline_[inline_slots] = {};
    net::Fragment* heap_ = nullptr;
    u32 capacity_ = inline_slots, head_ = 0, count_ = 0;
    u32 bytes_ = 0;
    // Where fill() was last: slot `hint_slot_` begins at byte `hint_offset_`.
    u32 hint_slot_ = 0, hint_offset_ = 0;
    // The sender's block.
    FrameRef block_;
    u32 block_used_ = 0, block_size_ = 0;
};

} // namespace kernel::tcp
