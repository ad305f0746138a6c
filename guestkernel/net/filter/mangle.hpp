// Changing packets: addresses and ports, with the sums of all layers put right, whether they are
// complete, left to the device, or absent.
#pragma once

#include "guestkernel/net/filter/conntrack.hpp"

namespace kernel::net::filter {

// Replaces bytes in a checksum field. `odd`: they begin at an odd place. `partial`: the field holds
// the folded sum itself (ChecksumState::Partial), not its complement.
void replace_in_sum(u8* field, const u8* before, const u8* after, u32 bytes, bool odd,
                    bool partial);
// The same in the sum of the transport header at `transport`, for what its pseudo header covers.
void fix_transport_sum(Packet& packet, u8 protocol, u32 transport, const u8* before,
                       const u8* after, u32 bytes);

// Gives the packet that begins with its network header at `offset` the source (or destination) of
// `to`: address and port, or ICMP's identifier. False: malformed.
enum class Part : u8 {
    Whole,
    Quoted, // by an ICMP error: of its transport header there may be eight bytes only
    AddressOnly,
};
bool set_end(Packet& packet, u32 offset, const Tuple& to, bool source, Part part);

} // namespace kernel::net::filter
