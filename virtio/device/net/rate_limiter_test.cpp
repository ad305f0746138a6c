#include <catch2/catch.hpp>

#include "virtio/device/net/rate_limiter.hpp"

using namespace virtio;

namespace {
constexpr std::uint64_t second = 1'000'000'000;
}

TEST_CASE("rate limiter: without a limit it is always open") {
    RateLimiter limiter({});
    CHECK_FALSE(limiter.limited());
    for (int i = 0; i < 1000; ++i) {
        CHECK(limiter.open(0));
        limiter.take(1u << 30);
    }
    CHECK(limiter.opens_at(5) == 5);
}

TEST_CASE("rate limiter: the burst at once, the rate in the long run") {
    TokenBucket bucket({.rate = 1000, .burst = 300});
    std::uint64_t passed = 0;
    for (; bucket.open(second); ++passed)
        bucket.take(1);
    CHECK(passed == 300);
    for (std::uint64_t now = second; now <= 11 * second; now += second / 100)
        for (; bucket.open(now); ++passed)
            bucket.take(1);
    CHECK(passed == 300 + 10 * 1000);
}

TEST_CASE("rate limiter: says when it opens, to the nanosecond") {
    TokenBucket bucket({.rate = 3, .burst = 1});
    CHECK(bucket.open(7 * second));
    bucket.take(4); // three more than there were
    const std::uint64_t at = bucket.opens_at(7 * second);
    CHECK(at > 8 * second);
    CHECK(at < 8 * second + 2);
    CHECK_FALSE(bucket.open(at - 1));
    CHECK(bucket.open(at));
}

TEST_CASE("rate limiter: time that stands still or goes back gives nothing") {
    TokenBucket bucket({.rate = 1'000'000, .burst = 1});
    CHECK(bucket.open(second));
    bucket.take(1);
    CHECK_FALSE(bucket.open(second));
    CHECK_FALSE(bucket.open(second / 2));
    CHECK(bucket.open(second + 1000));
}

TEST_CASE("rate limiter: the largest numbers do not overflow") {
    TokenBucket bucket({.rate = ~std::uint64_t{0}, .burst = ~std::uint64_t{0}});
    CHECK(bucket.open(1));
    bucket.take(~std::uint64_t{0});
    bucket.take(~std::uint64_t{0});
    CHECK_FALSE(bucket.open(2));
    CHECK(bucket.open(3600 * second));
}

TEST_CASE("rate limiter: bytes and packets are counted apart") {
    RateLimiter limiter(
        {.bytes = {.rate = 1000, .burst = 1000}, .packets = {.rate = 2, .burst = 2}});
    CHECK(limiter.open(second));
    limiter.take(10);
    CHECK(limiter.open(second));
    limiter.take(10);
    CHECK_FALSE(limiter.open(second)); // two packets
    CHECK(limiter.opens_at(second) > second);
    CHECK(limiter.open(2 * second));
    limiter.take(5000);
    CHECK_FALSE(limiter.open(3 * second)); // bytes
}
