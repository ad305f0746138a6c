#include <catch2/catch.hpp>

#include "guestkernel/net/socket_groups.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"

using namespace kernel;
using namespace kernel::net;
using kernel::net::testing::ip4;

namespace {

const IpAddress group6 = IpAddress::v6_words(0xff15'0000'0000'0000, 7);
const IpAddress source6 = IpAddress::v6_words(0x2001'0db8'0000'0000, 1);
const IpAddress other6 = IpAddress::v6_words(0x2001'0db8'0000'0000, 2);

void join(SocketGroups& groups, const IpAddress& group, bool exclude, const IpAddress* source) {
    GroupMembership own;
    own.group = group;
    own.interface = 3;
    own.exclude = exclude;
    if (source != nullptr)
        REQUIRE(own.sources.push_back(*source));
    REQUIRE(groups.all.push_back(std::move(own)));
}

} // namespace

TEST_CASE("a socket takes what comes to its groups from the sources that it includes") {
    SocketGroups groups;
    CHECK(groups.admits(group6, source6, 3, true));
    CHECK_FALSE(groups.admits(group6, source6, 3, false));
    join(groups, group6, false, &source6);
    CHECK(groups.admits(group6, source6, 3, false));
    CHECK_FALSE(groups.admits(group6, other6, 3, true));
}

TEST_CASE("a socket takes what comes to its groups but from the sources that it excludes") {
    SocketGroups groups;
    join(groups, group6, true, &source6);
    CHECK_FALSE(groups.admits(group6, source6, 3, true));
    CHECK(groups.admits(group6, other6, 3, false));
}

TEST_CASE("a group of IPv4 is one of an interface, a group of IPv6 of any") {
    SocketGroups groups;
    const IpAddress group = ip4(239, 1, 1, 1), source = ip4(10, 0, 0, 1);
    join(groups, group, true, nullptr);
    join(groups, group6, true, nullptr);
    CHECK(groups.admits(group, source, 3, false));
    CHECK_FALSE(groups.admits(group, source, 4, false));
    CHECK(groups.admits(group6, source6, 4, false));
}
