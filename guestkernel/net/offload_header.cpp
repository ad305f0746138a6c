#include "guestkernel/net/offload_header.hpp"

namespace kernel::net {

namespace {

constexpr u8 needs_csum = 1, data_valid = 2; // OffloadHeader::flags
constexpr u8 gso_ecn = 0x80;                 // OffloadHeader::gso_type

} // namespace

OffloadHeader describe_offloads(const Packet& packet) {
    OffloadHeader header{};
    if (packet.checksum_state != ChecksumState::Partial)
        return header;
    header.flags = needs_csum;
    header.csum_start = static_cast<u16>(packet.checksum_start_offset());
    header.csum_offset = packet.checksum_offset;
    if (packet.segmentation == Segmentation::None)
        return header;
    header.gso_type = static_cast<u8>(static_cast<u8>(packet.segmentation) |
                                      (packet.segments_have_ecn ? gso_ecn : 0));
    header.gso_size = packet.segment_size;
    header.header_length = static_cast<u16>(packet.linear_length());
    return header;
}

bool apply_offloads(const OffloadHeader& header, Packet& packet) {
    if ((header.flags & needs_csum) != 0) {
        if (!packet.set_partial_checksum(header.csum_start, header.csum_offset))
            return false;
    } else if ((header.flags & data_valid) != 0) {
        packet.checksum_state = ChecksumState::Verified;
    }
    if (header.gso_type == 0)
        return true;
    const u8 type = header.gso_type & static_cast<u8>(~gso_ecn);
    const bool known =
        type == static_cast<u8>(Segmentation::Tcp4) || type == static_cast<u8>(Segmentation::Tcp6);
    if (!known || header.gso_size == 0)
        return false;
    packet.segmentation = static_cast<Segmentation>(type);
    packet.segment_size = header.gso_size;
    packet.segments_have_ecn = (header.gso_type & gso_ecn) != 0;
    return true;
}

} // namespace kernel::net
