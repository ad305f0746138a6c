#include <catch2/catch.hpp>

#include "guestkernel/net/port_table.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"

using namespace kernel;
using namespace kernel::net;
using kernel::net::testing::ip4;

namespace {

class Owner final : public PortOwner {
public:
    explicit Owner(const IpAddress& address) {
        local = address;
        v6 = address.is_v6();
        peer = IpAddress::any(v6);
    }
    bool try_hold() override { return true; }
};

struct Table {
    PortTable ports;
    Table() {
        net::testing::reset_network();
        REQUIRE(ports.init());
    }
    bool bind(Owner& owner, u16 port) {
        return ports.bind(owner, port, PortTable::Range(), true).has_value();
    }
    PortOwner* find(const IpAddress& local, u16 port, const IpAddress& peer = ip4(9, 9, 9, 9),
                    u16 peer_port = 9) {
        return ports.find({local, peer, port, peer_port, 1});
    }
};

} // namespace

TEST_CASE("two sockets cannot have the same address and port, nor one of them all addresses") {
    Table table;
    Owner one(ip4(10, 0, 0, 1)), same(ip4(10, 0, 0, 1)), other(ip4(10, 0, 0, 2)),
        any(IpAddress::v4_any());
    CHECK(table.bind(one, 80));
    CHECK_FALSE(table.bind(same, 80));
    CHECK(table.bind(other, 80));
    CHECK_FALSE(table.bind(any, 80));
    table.ports.unbind(one);
    table.ports.unbind(other);
    CHECK(table.bind(any, 80));
    CHECK(table.find(ip4(10, 0, 0, 7), 80) == &any);
    table.ports.unbind(any);
    CHECK(table.find(ip4(10, 0, 0, 7), 80) == nullptr);
}

TEST_CASE("a dual-stack wildcard takes IPv4 too, one of IPv6 only does not") {
    Table table;
    Owner six{IpAddress()}, four(IpAddress::v4_any());
    CHECK(table.bind(six, 53));
    CHECK_FALSE(table.bind(four, 53));
    CHECK(table.find(ip4(10, 0, 0, 1), 53) == &six);
    table.ports.unbind(six);
    six.v6_only = true;
    CHECK(table.bind(six, 53));
    CHECK(table.bind(four, 53));
    CHECK(table.find(ip4(10, 0, 0, 1), 53) == &four);
    CHECK(table.find(IpAddress::loopback(true), 53) == &six);
    table.ports.unbind(six);
    table.ports.unbind(four);
}

TEST_CASE("SO_REUSEADDR shares a port with all but listeners, SO_REUSEPORT among one user's") {
    Table table;
    Owner a(IpAddress::v4_any()), b(IpAddress::v4_any());
    a.reuse_address = b.reuse_address = true;
    CHECK(table.bind(a, 1000));
    CHECK(table.bind(b, 1000));
    CHECK(table.ports.start_listening(a));
    CHECK_FALSE(table.ports.start_listening(b));
    table.ports.unbind(a);
    table.ports.unbind(b);
    Owner c(IpAddress::v4_any()), d(IpAddress::v4_any()), e(IpAddress::v4_any());
    c.reuse_port = d.reuse_port = e.reuse_port = true;
    e.uid = 5;
    CHECK(table.bind(c, 1000));
    CHECK(table.bind(d, 1000));
    CHECK_FALSE(table.bind(e, 1000));
    bool seen_c = false, seen_d = false;
    for (u16 peer = 1; peer < 200; peer++) {
        PortOwner* found = table.find(ip4(10, 0, 0, 1), 1000, ip4(10, 0, 0, 2), peer);
        seen_c = seen_c || found == &c;
        seen_d = seen_d || found == &d;
    }
    CHECK(seen_c);
    CHECK(seen_d);
    table.ports.unbind(c);
    table.ports.unbind(d);
}

TEST_CASE("a connected socket is preferred, then one bound to the address") {
    Table table;
    Owner any(IpAddress::v4_any()), bound(ip4(10, 0, 0, 1)), connected(ip4(10, 0, 0, 1));
    any.reuse_address = bound.reuse_address = connected.reuse_address = true;
    CHECK(table.bind(any, 7));
    CHECK(table.bind(bound, 7));
    CHECK(table.bind(connected, 7));
    table.ports.set_peer(connected, ip4(10, 0, 0, 1), ip4(10, 0, 0, 9), 99, true);
    CHECK(table.find(ip4(10, 0, 0, 1), 7, ip4(10, 0, 0, 9), 99) == &connected);
    CHECK(table.find(ip4(10, 0, 0, 1), 7, ip4(10, 0, 0, 9), 98) == &bound);
    CHECK(table.find(ip4(10, 0, 0, 3), 7) == &any);
    PortOwner* all[4];
    CHECK(table.ports.find_all({ip4(10, 0, 0, 1), ip4(10, 0, 0, 9), 7, 99, 1}, all, 4) == 3);
    table.ports.unbind(any);
    table.ports.unbind(bound);
    table.ports.unbind(connected);
}

TEST_CASE("ephemeral ports run out with EADDRINUSE, unless they may be shared") {
    Table table;
    PortTable::Range range{40000, 40003};
    std::vector<std::unique_ptr<Owner>> owners;
    for (int i = 0; i < 4; i++) {
        owners.push_back(std::make_unique<Owner>(ip4(10, 0, 0, 1)));
        owners.back()->connected = true;
        REQUIRE(table.ports.bind(*owners.back(), 0, range, false));
    }
    Owner more(ip4(10, 0, 0, 1));
    CHECK_FALSE(table.ports.bind(more, 0, range, false));
    const auto only = [](void*, u16 port) { return port == 40002; };
    REQUIRE(table.ports.bind(more, 0, range, false, only));
    CHECK(more.port == 40002);
    table.ports.unbind(more);
    // Nor what somebody has for itself beside connections.
    table.ports.set_peer(*owners[0], ip4(10, 0, 0, 1), IpAddress::v4_any(), 0, false);
    const auto all = [](void*, u16) { return true; };
    const u16 alone = owners[0]->port;
    for (int i = 0; i < 8; i++) {
        Owner shares(ip4(10, 0, 0, 1));
        shares.connected = true;
        REQUIRE(table.ports.bind(shares, 0, range, false, all, nullptr, static_cast<u32>(i)));
        CHECK(shares.port != alone);
        table.ports.unbind(shares);
    }
    for (auto& owner : owners)
        table.ports.unbind(*owner);
}
