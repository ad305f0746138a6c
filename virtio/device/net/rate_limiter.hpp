// RateLimiter: how many bytes and packets may pass, by two token buckets that refill with time.
// Each lets a burst through at once and the rate in the long run.
#pragma once

#include <cstdint>
#include <limits>

namespace virtio {

// rate 0: no limit.
struct RateLimit {
    std::uint64_t rate = 0;  // per second
    std::uint64_t burst = 0; // at once; 0: a tenth of a second's worth
    bool operator==(const RateLimit&) const = default;
};

struct TrafficLimit {
    RateLimit bytes;
    RateLimit packets;
    bool operator==(const TrafficLimit&) const = default;
};

// One bucket. Time comes from outside, in nanoseconds of any steady clock.
class TokenBucket {
public:
    explicit TokenBucket(const RateLimit& limit);

    bool limited() const { return rate_ != 0; }
    // Whether anything may pass. What passes may overdraw the bucket once, so that one packet
    // larger than the burst is delayed, not stuck.
    bool open(std::uint64_t now_ns);
    void take(std::uint64_t amount);
    // When open() will say yes, if nothing passes until then.
    std::uint64_t opens_at(std::uint64_t now_ns) const;

private:
    void refill(std::uint64_t now_ns);

    // Tokens are counted in billionths of a unit: rate * nanoseconds is exact.
    __extension__ using Wide = __int128;
    static constexpr std::uint64_t unit = 1'000'000'000;

    std::uint64_t rate_;
    Wide capacity_;
    Wide tokens_;
    std::uint64_t filled_at_ = 0;
    bool started_ = false;
};

class RateLimiter {
public:
    explicit RateLimiter(const TrafficLimit& limit)
        : bytes_(limit.bytes), packets_(limit.packets) {}

    bool limited() const { return bytes_.limited() || packets_.limited(); }
    bool open(std::uint64_t now_ns) { return bytes_.open(now_ns) && packets_.open(now_ns); }
    void take(std::uint64_t bytes) {
        bytes_.take(bytes);
        packets_.take(1);
    }
    std::uint64_t opens_at(std::uint64_t now_ns) const {
        const std::uint64_t a = bytes_.opens_at(now_ns);
        const std::uint64_t b = packets_.opens_at(now_ns);
        return a > b ? a : b;
    }

private:
    TokenBucket bytes_;
    TokenBucket packets_;
};

} // namespace virtio
