// Packets: payload from and to programs, in pages that many packets share.
#include <linux/errno.h>

#include "boot/protocol/layout.hpp"
#include "guestkernel/arch/arch.hpp"
#include "guestkernel/mm/memory_group.hpp"
#include "guestkernel/net/packet.hpp"

namespace kernel::net {

namespace {

// Payload pages are cut from blocks of this order: one reference count for 32 KB, and fragments
// that follow each other are joined into one.
constexpr unsigned block_order = 3;
constexpr u32 block_bytes = u32{page_size} << block_order;

struct PayloadBlock {
    Frame* frame = nullptr; // with a reference for the rest that is still free
    u32 used = 0, size = 0;
};
constinit PayloadBlock blocks[boot::max_cpus];

// Cuts a piece of at least one byte and at most `wanted` from this CPU's block.
bool cut_piece(u32 wanted, FrameRef& frame, u32& offset, u32& length) {
    PayloadBlock* block = &blocks[arch::cpu_id()];
    if (block->frame == nullptr) {
        // May be called by soft interrupts: no reclaim. For the same reason a group at its limit
        // gets it all the same, for its page cache could not be given up first; sockets' buffers
        // bound how much that can be.
        u32 size = block_bytes;
        Frame* fresh = alloc_frames(block_order, false, Charge::Force);
        if (fresh == nullptr) {
            size = page_size;
            fresh = alloc_frames(0, false, Charge::Force);
        }
        if (fresh == nullptr)
            return false;
        block = &blocks[arch::cpu_id()];
        *block = {fresh, 0, size};
    }
    const u32 left = block->size - block->used;
    length = wanted < left ? wanted : left;
    offset = block->used;
    block->used += length; // without gaps: pieces of one packet that follow each other are joined
    if (block->used >= block->size) {
        frame = FrameRef::adopt(block->frame);
        block->frame = nullptr;
    } else {
        frame = FrameRef::share(*block->frame);
    }
    return true;
}

} // namespace

void reset_payload_blocks_for_test() {
    for (PayloadBlock& block : blocks)
        block = {};
}

Result<void> Packet::append(const void* from, u32 bytes) {
    IoBuffer buffer_of(const_cast<void*>(from), bytes); // only read
    return append(buffer_of, bytes);
}

Result<void> Packet::append(IoBuffer& from, u32 bytes) {
    if (bytes > max_bytes - length())
        return fail(EMSGSIZE);
    if (fragment_count_ == 0) {
        const u32 piece = bytes < tailroom() ? bytes : tailroom();
        const u32 copied = static_cast<u32>(from.copy_in(data() + linear_, piece));
        linear_ += copied;
        if (copied < piece)
            return fail(EFAULT);
        bytes -= piece;
    }
    return append_pages(from, bytes);
}

Result<void> Packet::append_pages(IoBuffer& from, u32 bytes) {
    if (bytes > max_bytes - length())
        return fail(EMSGSIZE);
    while (bytes > 0) {
        FrameRef frame;
        u32 offset = 0, piece = 0;
        if (!cut_piece(bytes, frame, offset, piece))
            return fail(ENOMEM);
        const u32 copied =
            static_cast<u32>(from.copy_in(static_cast<u8*>(frame.data()) + offset, piece));
        if (copied > 0 && !append_fragment(frame, offset, copied))
            return fail(EMSGSIZE);
        if (copied < piece)
            return fail(EFAULT);
        bytes -= piece;
    }
    return {};
}

Result<u32> Packet::copy_to(IoBuffer& out, u32 offset, u32 bytes) const {
    u32 done = 0;
    bool faulted = false;
    if (offset > length())
        return u32{0};
    const u32 there = length() - offset;
    (void)for_pieces(offset, bytes < there ? bytes : there, [&](const u8* piece, u32 count) {
        if (faulted)
            return;
        const u32 copied = static_cast<u32>(out.copy_out(piece, count));
        done += copied;
        faulted = copied < count && out.remaining() > 0;
    });
    if (faulted && done == 0)
        return fail(EFAULT);
    return done;
}

} // namespace kernel::net
