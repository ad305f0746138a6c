// struct virtio_net_hdr (virtio 1.2, 5.1.6) without num_buffers: what a packet's receiver has still
// to do about checksum and segments. Goes in front of packets to and from virtio-net devices and
// programs that have a tun device.
#pragma once

#include "guestkernel/net/packet.hpp"

namespace kernel::net {

struct OffloadHeader {
    u8 flags;
    u8 gso_type;
    u16 header_length;
    u16 gso_size;
    u16 csum_start;
    u16 csum_offset;
};
static_assert(sizeof(OffloadHeader) == 10);

// The packet begins with what follows the header.
OffloadHeader describe_offloads(const Packet& packet);
// Believes the sender's word about its packet; false: it makes no sense.
bool apply_offloads(const OffloadHeader& header, Packet& packet);

} // namespace kernel::net
