// What programs say to the connector is hostile like all else.
#include <vector>

#include <catch2/catch.hpp>

#include "guestkernel/net/netlink/connector/connector.hpp"

using namespace kernel;
using namespace kernel::net::netlink;

namespace {

// A datagram with struct nlmsghdr, struct cn_msg and these words.
std::vector<u8> datagram(std::vector<u32> words, u16 told_bytes) {
    std::vector<u32> all = {0, 3, 0, 0, 1, 1, 5, 9, told_bytes};
    all.insert(all.end(), words.begin(), words.end());
    all[0] = static_cast<u32>(all.size() * sizeof(u32));
    const auto* bytes = reinterpret_cast<const u8*>(all.data());
    return {bytes, bytes + all[0]};
}

bool reads(std::span<const u8> bytes) {
    ConnectorRequest request;
    return read_connector_request(bytes, request);
}

} // namespace

TEST_CASE("a request to the connector names all events, or those that it wants") {
    ConnectorRequest request;
    REQUIRE(read_connector_request(datagram({1}, 4), request));
    CHECK(request.operation == 1);
    CHECK(request.events == all_process_events);
    CHECK(request.sequence == 5);
    CHECK(request.acknowledged == 9);
    REQUIRE(read_connector_request(datagram({1, 3}, 8), request));
    CHECK(request.events == 3);
    REQUIRE(read_connector_request(datagram({1, 8}, 8), request)); // no such event
    CHECK(request.events == all_process_events);
}

TEST_CASE("what is no request to the connector is not read beyond its end") {
    const std::vector<u8> whole = datagram({1, 3}, 8);
    for (usize length = 0; length < whole.size(); length++) {
        const std::vector<u8> cut(whole.begin(), whole.begin() + static_cast<long>(length));
        CHECK_FALSE(reads(cut));
    }
    CHECK_FALSE(reads(datagram({1}, 8)));
    CHECK_FALSE(reads(datagram({1, 3}, 6)));
    CHECK_FALSE(reads(datagram({}, 0)));
    CHECK_FALSE(reads(datagram({1}, 0xffff)));
    std::vector<u8> short_header = whole;
    short_header[0] = 20; // the header's own length
    CHECK_FALSE(reads(short_header));
    std::vector<u8> long_header = whole;
    long_header[0]++;
    CHECK_FALSE(reads(long_header));
    std::vector<u8> other = whole;
    other[16] = 2; // another connector
    CHECK_FALSE(reads(other));
}
