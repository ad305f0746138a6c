// Filters of sock_diag: what ss sends is run, and nothing hostile runs away.
#include <cerrno>
#include <cstring>
#include <random>
#include <vector>

#include <linux/inet_diag.h>

#include <catch2/catch.hpp>

#include "guestkernel/net/netlink/diag/inet_filter.hpp"

using namespace kernel;
using namespace kernel::net;
using namespace kernel::net::netlink;

namespace {

struct Code {
    std::vector<u8> bytes;
    Code& op(u8 code, u8 yes, u16 no) {
        const inet_diag_bc_op what{code, yes, no};
        return put(what);
    }
    template <typename T>
    Code& put(const T& what) {
        const auto* at = reinterpret_cast<const u8*>(&what);
        bytes.insert(bytes.end(), at, at + sizeof what);
        return *this;
    }
    int check(bool administrator = true) const {
        auto done = check_filter(bytes, administrator);
        return done ? 0 : done.error().code;
    }
};

SocketRecord record_of(u16 port, u16 peer_port) {
    SocketRecord out;
    out.local = IpAddress::v4(0x7f00'0001);
    out.peer = IpAddress::v4(0x0a00'0002);
    out.port = port;
    out.peer_port = peer_port;
    return out;
}

Code host(u8 code, u8 family, u8 bits, int port, std::initializer_list<u8> address) {
    Code out;
    const u8 length = static_cast<u8>(4 + sizeof(inet_diag_hostcond) + address.size());
    out.op(code, length, static_cast<u16>(length + 4));
    inet_diag_hostcond condition{};
    condition.family = family;
    condition.prefix_len = bits;
    condition.port = port;
    out.put(condition);
    for (const u8 byte : address)
        out.put(byte);
    return out;
}

} // namespace

TEST_CASE("sock_diag filter: ports compare, jumps choose between conditions") {
    Code between; // 100 <= local port <= 200
    between.op(INET_DIAG_BC_S_GE, 8, 20).op(0, 0, 100).op(INET_DIAG_BC_S_LE, 8, 12).op(0, 0, 200);
    REQUIRE(between.check() == 0);
    CHECK(run_filter(between.bytes, record_of(100, 1)));
    CHECK(run_filter(between.bytes, record_of(200, 1)));
    CHECK_FALSE(run_filter(between.bytes, record_of(99, 1)));
    CHECK_FALSE(run_filter(between.bytes, record_of(201, 1)));
    Code either; // peer port 5, or 7: the first goes over the second by a jump
    either.op(INET_DIAG_BC_D_EQ, 8, 12).op(0, 0, 5).op(INET_DIAG_BC_JMP, 4, 12);
    either.op(INET_DIAG_BC_D_EQ, 8, 12).op(0, 0, 7);
    REQUIRE(either.check() == 0);
    CHECK(run_filter(either.bytes, record_of(1, 5)));
    CHECK(run_filter(either.bytes, record_of(1, 7)));
    CHECK_FALSE(run_filter(either.bytes, record_of(1, 6)));
}

TEST_CASE("sock_diag filter: addresses match by prefix, and IPv4 behind an IPv6 socket") {
    const Code net = host(INET_DIAG_BC_D_COND, 2, 8, -1, {10, 9, 9, 9});
    REQUIRE(net.check() == 0);
    CHECK(run_filter(net.bytes, record_of(1, 1)));
    const Code other = host(INET_DIAG_BC_D_COND, 2, 31, -1, {10, 0, 0, 0});
    REQUIRE(other.check() == 0);
    CHECK_FALSE(run_filter(other.bytes, record_of(1, 1)));
    SocketRecord dual = record_of(1, 1);
    dual.v6 = true;
    CHECK(run_filter(net.bytes, dual));
    const Code with_port = host(INET_DIAG_BC_S_COND, 0, 0, 80, {});
    REQUIRE(with_port.check() == 0);
    CHECK(run_filter(with_port.bytes, record_of(80, 1)));
    CHECK_FALSE(run_filter(with_port.bytes, record_of(81, 1)));
}

TEST_CASE("sock_diag filter: marks are the administrator's to ask for") {
    Code mark;
    mark.op(INET_DIAG_BC_MARK_COND, 12, 16).put(inet_diag_markcond{4, 6});
    CHECK(mark.check(false) == EPERM);
    REQUIRE(mark.check() == 0);
    SocketRecord record = record_of(1, 1);
    record.mark = 5;
    CHECK(run_filter(mark.bytes, record));
    record.mark = 3;
    CHECK_FALSE(run_filter(mark.bytes, record));
}

TEST_CASE("sock_diag filter: what is cut off, jumps backwards or into the middle is refused") {
    CHECK(Code().check() == EINVAL);
    CHECK(Code().op(200, 4, 8).check() == EINVAL);
    CHECK(Code().op(INET_DIAG_BC_S_EQ, 8, 12).check() == EINVAL); // without its port
    CHECK(Code().op(INET_DIAG_BC_JMP, 4, 0).check() == EINVAL);
    CHECK(Code().op(INET_DIAG_BC_AUTO, 4, 12).check() == EINVAL);
    CHECK(Code().op(INET_DIAG_BC_AUTO, 8, 8).check() == EINVAL);
    CHECK(host(INET_DIAG_BC_S_COND, 2, 33, -1, {1, 2, 3, 4}).check() == EINVAL);
    CHECK(host(INET_DIAG_BC_S_COND, 2, 8, -1, {1, 2}).check() == EINVAL);
    Code middle;
    middle.op(INET_DIAG_BC_JMP, 4, 8).op(INET_DIAG_BC_S_EQ, 8, 12).op(0, 0, 1);
    CHECK(middle.check() == EINVAL);
}

TEST_CASE("sock_diag filter: whatever passes the check comes to an end") {
    std::mt19937 random(7);
    unsigned passed = 0;
    for (int i = 0; i < 200'000; i++) {
        Code code;
        const auto count = static_cast<unsigned>(1 + random() % 6);
        for (unsigned j = 0; j < count; j++)
            code.op(static_cast<u8>(random() % 15), static_cast<u8>(random() % 7 * 4),
                    static_cast<u16>(random() % 9 * 4));
        if (code.check() != 0)
            continue;
        passed++;
        (void)run_filter(code.bytes, record_of(static_cast<u16>(random()), 1));
    }
    CHECK(passed > 100);
}
