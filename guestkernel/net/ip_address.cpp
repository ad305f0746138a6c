#include "guestkernel/net/ip_address.hpp"

namespace kernel::net {

IpAddress IpAddress::prefix(unsigned length) const {
    IpAddress out = *this;
    const unsigned kept = is_v4() ? 96 + length : length;
    for (unsigned byte = 0; byte < 16; byte++) {
        const unsigned first = byte * 8;
        if (first >= kept)
            out.bytes_[byte] = 0;
        else if (kept - first < 8)
            out.bytes_[byte] = static_cast<u8>(bytes_[byte] & (0xff00u >> (kept - first)));
    }
    // A prefix of an IPv4 address is one itself, /0 included: the mapped part is always kept.
    return out;
}

unsigned IpAddress::common_bits(const IpAddress& other) const {
    const unsigned skipped = is_v4() ? 96 : 0;
    for (unsigned byte = skipped / 8; byte < 16; byte++) {
        const unsigned different = bytes_[byte] ^ other.bytes_[byte];
        if (different != 0)
            return byte * 8 - skipped + static_cast<unsigned>(std::countl_zero(different)) - 24;
    }
    return bits();
}

} // namespace kernel::net
