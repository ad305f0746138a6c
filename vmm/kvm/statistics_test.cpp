#include <cstddef>
#include <cstring>

#include <linux/kvm.h>

#include <catch2/catch.hpp>

#include "vmm/kvm/statistics.hpp"

namespace {

using vmm::kvm::Statistics;

constexpr std::uint32_t name_size = 16;

std::string head(std::uint32_t count, std::uint32_t size = name_size) {
    kvm_stats_header made{};
    made.name_size = size;
    made.num_desc = count;
    made.data_offset = 400;
    return {reinterpret_cast<const char*>(&made), sizeof made};
}

std::string field(const char* name, std::uint32_t flags, std::uint16_t size, std::uint32_t offset) {
    struct {
        std::uint32_t flags;
        std::int16_t exponent;
        std::uint16_t size;
        std::uint32_t offset;
        std::uint32_t bucket_size;
    } made{flags, 0, size, offset, 0};
    const std::string out(reinterpret_cast<const char*>(&made), sizeof made);
    std::string text(name);
    text.resize(name_size);
    return out + text;
}

} // namespace

TEST_CASE("KVM's statistics: numbers are taken, histograms left out", "[vmm]") {
    const auto layout =
        Statistics::parse(head(3), field("exits", KVM_STATS_TYPE_CUMULATIVE, 1, 8) +
                                       field("wait_hist", KVM_STATS_TYPE_LOG_HIST, 32, 16) +
                                       field("guest_mode", KVM_STATS_TYPE_INSTANT, 1, 272));
    REQUIRE(layout);
    REQUIRE(layout->fields.size() == 2);
    CHECK(layout->fields[0].name == "exits");
    CHECK(layout->fields[0].cumulative);
    CHECK(layout->fields[1].name == "guest_mode");
    CHECK_FALSE(layout->fields[1].cumulative);
    CHECK(layout->values_at == 400);
    CHECK(layout->values_size == 280);
}

TEST_CASE("KVM's statistics: what does not fit together is refused", "[vmm]") {
    const std::string one = field("exits", KVM_STATS_TYPE_CUMULATIVE, 1, 8);
    CHECK_FALSE(Statistics::parse("short", one));
    CHECK_FALSE(Statistics::parse(head(2), one));
    CHECK_FALSE(Statistics::parse(head(1, 0), ""));
    CHECK_FALSE(Statistics::parse(head(1'000'000), one));
    CHECK_FALSE(Statistics::parse(head(1), field("far", KVM_STATS_TYPE_CUMULATIVE, 1, ~0u)));
}
