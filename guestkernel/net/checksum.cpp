#include "guestkernel/net/checksum.hpp"

namespace kernel::net {

namespace {

__extension__ using Wide = unsigned long long; // what the carry built-in takes

u64 load64(const u8* at) {
    u64 value;
    __builtin_memcpy(&value, at, sizeof value);
    return value;
}

u64 add_carry(u64 a, u64 b) {
    u64 sum = 0;
    return __builtin_add_overflow(a, b, &sum) ? sum + 1 : sum;
}

// The sum of memory as 64-bit words with end-around carry; 2^64 - 1 is a multiple of 2^16 - 1, so
// folding it gives the sum of 16-bit words.
u64 sum_words(const u8* at, usize bytes) {
    u64 total = 0;
    Wide sum = 0;
    while (bytes >= 64) {
        unsigned char carry = 0;
        for (usize i = 0; i < 8; i++)
            carry = __builtin_ia32_addcarryx_u64(carry, sum, load64(at + 8 * i), &sum);
        carry = __builtin_ia32_addcarryx_u64(carry, sum, 0, &sum);
        sum += carry;
        at += 64;
        bytes -= 64;
    }
    total = sum;
    for (; bytes >= 8; bytes -= 8, at += 8)
        total = add_carry(total, load64(at));
    if (bytes > 0) {
        u64 last = 0;
        __builtin_memcpy(&last, at, bytes);
        total = add_carry(total, last);
    }
    return total;
}

u16 fold(u64 sum) {
    sum = (sum & 0xffff'ffff) + (sum >> 32);
    sum = (sum & 0xffff'ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<u16>((sum & 0xffff) + (sum >> 16));
}

} // namespace

void ChecksumSum::add(const void* data, usize bytes) {
    add_folded(fold(sum_words(static_cast<const u8*>(data), bytes)), bytes);
}

void ChecksumSum::add_folded(u16 sum, usize bytes) {
    // A piece that begins at an odd place has its bytes in the other halves of the words.
    value_ += odd_ ? __builtin_bswap16(sum) : sum;
    odd_ = odd_ != ((bytes & 1) != 0);
}

u16 ChecksumSum::folded() const {
    return fold(value_);
}

namespace {

// Few whole words, as every packet has them several times over: without a call for each.
void add_quads(ChecksumSum& sum, const u8* at, usize bytes) {
    for (usize i = 0; i < bytes; i += sizeof(u32)) {
        u32 word = 0;
        __builtin_memcpy(&word, at + i, sizeof word);
        sum.add_word(static_cast<u16>(word));
        sum.add_word(static_cast<u16>(word >> 16));
    }
}

} // namespace

ChecksumSum pseudo_header(const IpAddress& source, const IpAddress& destination, u8 protocol,
                          usize length) {
    ChecksumSum sum;
    add_quads(sum, source.wire(), source.wire_bytes());
    add_quads(sum, destination.wire(), destination.wire_bytes());
    sum.add_be(protocol);
    sum.add_be(static_cast<u16>(length));
    sum.add_be(static_cast<u16>(length >> 16));
    return sum;
}

u16 checksum(const void* data, usize bytes) {
    constexpr usize plain_ip_header = 20;
    ChecksumSum sum;
    if (bytes == plain_ip_header)
        add_quads(sum, static_cast<const u8*>(data), plain_ip_header);
    else
        sum.add(data, bytes);
    return sum.finish();
}

u16 checksum_after(u16 checksum, u16 old_word, u16 new_word) {
    ChecksumSum sum;
    sum.add_word(static_cast<u16>(~checksum));
    sum.add_word(static_cast<u16>(~old_word));
    sum.add_word(new_word);
    return sum.finish();
}

} // namespace kernel::net
