// SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF"): the keyed hash behind
// initial sequence numbers, SYN cookies, fast-open cookies and the buckets of the tables, which a
// peer must not be able to predict.
#pragma once

#include "guestkernel/core/types.hpp"

namespace kernel::tcp {

struct HashKey {
    u64 low = 0, high = 0;
};

class KeyedHash {
public:
    explicit KeyedHash(const HashKey& key)
        : v0_(key.low ^ 0x736f'6d65'7073'6575), v1_(key.high ^ 0x646f'7261'6e64'6f6d),
          v2_(key.low ^ 0x6c79'6765'6e65'7261), v3_(key.high ^ 0x7465'6462'7974'6573) {}
    KeyedHash& add(u64 word) {
        bytes_ += 8;
        v3_ ^= word;
        round();
        round();
        v0_ ^= word;
        return *this;
    }
    u64 finish() {
        add((bytes_ & 0xff) << 56);
        v2_ ^= 0xff;
        for (int i = 0; i < 4; i++)
            round();
        return v0_ ^ v1_ ^ v2_ ^ v3_;
    }

private:
    static u64 rotate(u64 value, int bits) { return value << bits | value >> (64 - bits); }
    void round() {
        v0_ += v1_, v1_ = rotate(v1_, 13) ^ v0_, v0_ = rotate(v0_, 32);
        v2_ += v3_, v3_ = rotate(v3_, 16) ^ v2_;
        v0_ += v3_, v3_ = rotate(v3_, 21) ^ v0_;
        v2_ += v1_, v1_ = rotate(v1_, 17) ^ v2_, v2_ = rotate(v2_, 32);
    }
    u64 v0_, v1_, v2_, v3_;
    u64 bytes_ = 0;
};

} // namespace kernel::tcp
