// The Internet checksum (RFC 1071): sums are kept unfolded, in host byte order of 16-bit words as
// they lie in memory, so that what finish() returns is stored as it is.
#pragma once

#include "guestkernel/net/ip_address.hpp"

namespace kernel::net {

class ChecksumSum {
public:
    // Appends bytes; pieces of odd length are put together correctly.
    void add(const void* data, usize bytes);
    void add_word(u16 raw) { // in memory order; Requires: an even number of bytes so far
        value_ += raw;
    }
    void add_be(u16 value) { add_word(__builtin_bswap16(value)); }
    void add_folded(u16 sum, usize bytes); // the sum of a piece of so many bytes
    u16 folded() const;
    u16 finish() const { return static_cast<u16>(~folded()); }

private:
    u64 value_ = 0;
    bool odd_ = false;
};

// The pseudo header of TCP, UDP and ICMPv6 (RFC 9293, 3.1; RFC 8200, 8.1), not complemented.
ChecksumSum pseudo_header(const IpAddress& source, const IpAddress& destination, u8 protocol,
                          usize length);
u16 checksum(const void* data, usize bytes);
// RFC 1624: the checksum after a 16-bit word has changed (raw values, as in memory).
u16 checksum_after(u16 checksum, u16 old_word, u16 new_word);

} // namespace kernel::net
