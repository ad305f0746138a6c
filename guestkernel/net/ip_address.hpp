// Addresses of both IP versions in one type, and the big-endian integers of wire formats.
#pragma once

#include <bit>
#include <span>

#include "guestkernel/core/types.hpp"
#include "guestkernel/lib/hash_map.hpp"

namespace kernel::net {

// An integer as it stands in a packet: big-endian, at any address, never used without get().
template <typename T>
class BigEndian {
public:
    BigEndian() = default;
    constexpr explicit BigEndian(T value) { set(value); }
    constexpr T get() const {
        T value = 0;
        for (const u8 byte : bytes_)
            value = static_cast<T>(static_cast<T>(value << 8) | byte);
        return value;
    }
    constexpr void set(T value) {
        for (usize i = sizeof(T); i-- > 0; value = static_cast<T>(value >> 8))
            bytes_[i] = static_cast<u8>(value);
    }
    // The bytes as memory has them, for sums and for structures of the ABI in network order.
    T raw() const {
        T value;
        __builtin_memcpy(&value, bytes_, sizeof value);
        return value;
    }
    friend bool operator==(const BigEndian&, const BigEndian&) = default;

private:
    u8 bytes_[sizeof(T)];
};
template <>
constexpr u8 BigEndian<u8>::get() const {
    return bytes_[0];
}
using Be16 = BigEndian<u16>;
using Be32 = BigEndian<u32>;
static_assert(sizeof(Be16) == 2 && alignof(Be32) == 1);

// An IPv4 address is kept as its IPv4-mapped form (RFC 4291, 2.5.5.2): comparisons and tables need
// not know of versions. A mapped address on the wire of IPv6 is refused on input.
class IpAddress {
public:
    constexpr IpAddress() = default;             // the unspecified address of IPv6
    static constexpr IpAddress v4(u32 address) { // in host order
        IpAddress out;
        out.bytes_[10] = out.bytes_[11] = 0xff;
        for (usize i = 0; i < 4; i++)
            out.bytes_[12 + i] = static_cast<u8>(address >> (24 - 8 * i));
        return out;
    }
    static constexpr IpAddress v4_any() { return v4(0); }
    static constexpr IpAddress any(bool v6) { return v6 ? IpAddress() : v4_any(); }
    static constexpr IpAddress loopback(bool v6) {
        if (!v6)
            return v4(0x7f00'0001);
        IpAddress out;
        out.bytes_[15] = 1;
        return out;
    }
    static IpAddress v6(const void* bytes) {
        IpAddress out;
        __builtin_memcpy(out.bytes_, bytes, sizeof out.bytes_);
        return out;
    }
    static IpAddress from_wire(bool v6_address, const void* bytes) {
        if (v6_address)
            return v6(bytes);
        Be32 address;
        __builtin_memcpy(&address, bytes, sizeof address);
        return v4(address.get());
    }
    static constexpr IpAddress v6_words(u64 high, u64 low) {
        IpAddress out;
        for (usize i = 0; i < 8; i++) {
            out.bytes_[i] = static_cast<u8>(high >> (56 - 8 * i));
            out.bytes_[8 + i] = static_cast<u8>(low >> (56 - 8 * i));
        }
        return out;
    }

    bool is_v4() const { return word(0) == 0 && (word(1) & 0xffff'ffff) == mapped_prefix; }
    bool is_v6() const { return !is_v4(); }
    u32 v4_value() const { // Requires: is_v4()
        return static_cast<u32>(bytes_[12]) << 24 | static_cast<u32>(bytes_[13]) << 16 |
               static_cast<u32>(bytes_[14]) << 8 | bytes_[15];
    }
    const u8* bytes() const { return bytes_; }
    // As it stands in a packet: 4 or 16 bytes.
    const u8* wire() const { return is_v4() ? bytes_ + 12 : bytes_; }
    usize wire_bytes() const { return is_v4() ? 4 : 16; }
    unsigned bits() const { return is_v4() ? 32 : 128; }

    bool is_any() const { return is_v4() ? v4_value() == 0 : (word(0) | word(1)) == 0; }
    bool is_loopback() const { return is_v4() ? bytes_[12] == 127 : *this == loopback(true); }
    bool is_multicast() const { return is_v4() ? (bytes_[12] & 0xf0) == 0xe0 : bytes_[0] == 0xff; }
    bool is_limited_broadcast() const { return is_v4() && v4_value() == ~u32{0}; }
    bool is_link_local() const {
        return is_v4() ? bytes_[12] == 169 && bytes_[13] == 254
                       : bytes_[0] == 0xfe && (bytes_[1] & 0xc0) == 0x80;
    }
    // Of a multicast address of IPv6: interface- or link-local.
    bool is_link_scope_multicast() const {
        return is_v6() && bytes_[0] == 0xff && (bytes_[1] & 0xf) <= 2;
    }
    // The first `length` bits of the address in its own version, the others zero.
    IpAddress prefix(unsigned length) const;
    bool in_prefix(const IpAddress& network, unsigned length) const {
        return is_v4() == network.is_v4() && prefix(length) == network;
    }
    unsigned common_bits(const IpAddress& other) const;

    u64 hash(u64 seed = 0) const { return hash_mix(hash_mix(word(0) ^ seed) ^ word(1)); }
    friend bool operator==(const IpAddress& a, const IpAddress& b) {
        return a.word(0) == b.word(0) && a.word(1) == b.word(1);
    }

private:
    static constexpr u64 mapped_prefix = 0xffff'0000; // ff ff in bytes 10 and 11
    u64 word(usize index) const {
        u64 value;
        __builtin_memcpy(&value, bytes_ + 8 * index, sizeof value);
        return value;
    }
    alignas(8) u8 bytes_[16] = {};
};

// An address with a port; `scope` is the interface's number of a link-local address (RFC 4007).
struct Endpoint {
    IpAddress address;
    u16 port = 0;
    u32 scope = 0;
    friend bool operator==(const Endpoint&, const Endpoint&) = default;
};

struct MacAddress {
    u8 bytes[6] = {};
    bool is_group() const { return (bytes[0] & 1) != 0; }
    bool is_broadcast() const { return *this == broadcast(); }
    bool is_zero() const { return *this == MacAddress(); }
    static constexpr MacAddress broadcast() { return {{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}; }
    friend bool operator==(const MacAddress&, const MacAddress&) = default;
};

} // namespace kernel::net
