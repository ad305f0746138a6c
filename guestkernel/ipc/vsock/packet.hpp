// What goes over a vsock transport: packets as virtio 1.2, 5.10.6 has them, for the device and the
// loopback alike.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel {

// As struct virtio_vsock_hdr (linux/virtio_vsock.h): little-endian, packed; compared in the test.
struct [[gnu::packed]] VsockHeader {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port;
    u32 len; // of the payload
    u16 type, op;
    u32 flags;
    u32 buf_alloc, fwd_cnt;
};
static_assert(sizeof(VsockHeader) == 44);

// A packet in memory that a device can reach: the payload follows the header without a gap.
struct VsockSegment {
    VsockSegment* next = nullptr;
    u32 start = 0, end = 0, capacity = 0; // the payload's bytes: taken, there, room
    u32 flags = 0;                        // of VIRTIO_VSOCK_OP_RW: where records end
    VsockHeader header{};

    u8* data() { return reinterpret_cast<u8*>(&header) + sizeof header; }
    u32 size() const { return end - start; }
};

// With room for so many bytes of payload, maybe for more. Null: no memory. Does not sleep.
VsockSegment* allocate_vsock_segment(usize bytes);
void free_vsock_segment(VsockSegment* segment);
// The largest that is allocated.
inline constexpr usize largest_vsock_allocation = 8 * page_size;
inline constexpr usize largest_vsock_payload =
    largest_vsock_allocation - __builtin_offsetof(VsockSegment, header) - sizeof(VsockHeader);

} // namespace kernel
