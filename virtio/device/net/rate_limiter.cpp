#include "virtio/device/net/rate_limiter.hpp"

#include <algorithm>

namespace virtio {

TokenBucket::TokenBucket(const RateLimit& limit)
    : rate_(limit.rate),
      capacity_(Wide{limit.burst != 0 ? limit.burst : std::max<std::uint64_t>(limit.rate / 10, 1)} *
                unit),
      tokens_(capacity_) {}

void TokenBucket::refill(std::uint64_t now_ns) {
    if (!started_) {
        started_ = true;
        filled_at_ = now_ns;
    }
    if (now_ns <= filled_at_)
        return;
    tokens_ = std::min(capacity_, tokens_ + Wide{rate_} * (now_ns - filled_at_));
    filled_at_ = now_ns;
}

bool TokenBucket::open(std::uint64_t now_ns) {
    if (!limited())
        return true;
    refill(now_ns);
    return tokens_ > 0;
}

void TokenBucket::take(std::uint64_t amount) {
    if (limited())
        tokens_ -= Wide{amount} * unit;
}

std::uint64_t TokenBucket::opens_at(std::uint64_t now_ns) const {
    if (!limited() || tokens_ > 0)
        return now_ns;
    // The first nanosecond with more than nothing in the bucket.
    const Wide wait = -tokens_ / rate_ + 1;
    constexpr Wide most = Wide{3600} * unit;
    return filled_at_ + static_cast<std::uint64_t>(std::min(wait, most));
}

} // namespace virtio
