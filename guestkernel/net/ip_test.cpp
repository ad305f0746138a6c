// The stack as a whole, over a virtual link.
#include <cstring>
#include <vector>

#include <linux/errno.h>

#include <catch2/catch.hpp>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/link/bridge.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/reassembly.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/net/udp.hpp"

using namespace kernel;
using namespace kernel::net;
using namespace kernel::net::testing;

namespace {

constexpr u64 millisecond = 1'000'000;

struct Fresh {
    Fresh() { reset_network(); }
};
// Before the stacks: allocators are new for each test.
struct Network : Fresh, Pair {
    explicit Network(u64 seed = 1, u32 mtu = 1500, u32 features = 0) : Pair(seed, mtu, features) {}
};

Ref<UdpEndpoint> open_udp(Stack& stack, const IpAddress& local, u16 port) {
    auto made = make_ref<UdpEndpoint>(Ref<Stack>::share(&stack));
    REQUIRE(made);
    Ref<UdpEndpoint> endpoint = std::move(*made);
    endpoint->local = local;
    endpoint->peer = IpAddress::any(local.is_v6());
    endpoint->v6 = local.is_v6();
    REQUIRE(stack.udp_ports.bind(*endpoint, port, PortTable::Range(), true));
    return endpoint;
}

void close_udp(Stack& stack, Ref<UdpEndpoint>& endpoint) {
    stack.udp_ports.unbind(*endpoint);
    endpoint->close();
    endpoint = {};
}

std::vector<u8> pattern(usize bytes, u8 seed = 3) {
    std::vector<u8> out(bytes);
    for (usize i = 0; i < bytes; i++)
        out[i] = static_cast<u8>(i * 13 + seed + i / 256);
    return out;
}

int send_udp(Stack& stack, const IpAddress& to, u16 from_port, u16 to_port,
             const std::vector<u8>& payload, bool dont_fragment = false, u8 hops = 0) {
    PacketPtr packet = Packet::allocate(0);
    REQUIRE(packet->append(payload.data(), static_cast<u32>(payload.size())));
    Flow flow;
    flow.destination = to;
    flow.source = IpAddress::any(to.is_v6());
    flow.protocol = proto_udp;
    flow.dont_fragment = dont_fragment;
    flow.hop_limit = hops;
    flow.allow_broadcast = true;
    if (auto found = resolve(stack, flow); !found)
        return found.error().code;
    UdpHeader header{};
    header.source.set(from_port);
    header.destination.set(to_port);
    header.length.set(static_cast<u16>(payload.size() + 8));
    packet->push_header(header);
    packet->start_checksum(flow_pseudo_header(flow, payload.size() + 8), 0, udp_checksum_field);
    const auto sent = ip_output(stack, flow, std::move(packet));
    return sent ? 0 : sent.error().code;
}

std::vector<u8> receive(UdpEndpoint& endpoint) {
    PacketPtr packet = endpoint.take(false);
    REQUIRE(packet);
    std::vector<u8> out(packet->length());
    REQUIRE(packet->copy_out(0, out.data(), packet->length()));
    return out;
}

const IpAddress four[2] = {ip4(10, 0, 0, 1), ip4(10, 0, 0, 2)};
const IpAddress six[2] = {IpAddress::v6_words(0xfd00'0000'0000'0000, 1),
                          IpAddress::v6_words(0xfd00'0000'0000'0000, 2)};

} // namespace

TEST_CASE("a datagram finds its way by ARP or neighbour discovery, and the answer without") {
    for (const bool v6 : {false, true}) {
        Network net;
        const IpAddress* address = v6 ? six : four;
        Ref<UdpEndpoint> server = open_udp(*net.stacks[1], address[1], 7);
        REQUIRE(send_udp(*net.stacks[0], address[1], 1000, 7, pattern(100)) == 0);
        CHECK_FALSE(server->has_data()); // still asking
        net.run_for(10 * millisecond);
        CHECK(receive(*server) == pattern(100));
        Ref<UdpEndpoint> client = open_udp(*net.stacks[0], address[0], 1000);
        const u64 before = net.link.counts[1].sent;
        REQUIRE(send_udp(*net.stacks[1], address[0], 7, 1000, pattern(50)) == 0);
        net.run_for(millisecond);
        CHECK(receive(*client) == pattern(50));
        CHECK(net.link.counts[1].sent == before + 1); // it knew whom to send to
        close_udp(*net.stacks[1], server);
        close_udp(*net.stacks[0], client);
    }
}

TEST_CASE("the loopback carries whole datagrams and checks nothing") {
    Network net;
    Stack& stack = *net.stacks[0];
    for (const IpAddress& to : {ip4(127, 0, 0, 1), four[0], IpAddress::loopback(true), six[0]}) {
        Ref<UdpEndpoint> server = open_udp(stack, IpAddress::any(to.is_v6()), 7);
        REQUIRE(send_udp(stack, to, 1000, 7, pattern(60000)) == 0);
        run_backlog();
        CHECK(receive(*server) == pattern(60000));
        close_udp(stack, server);
    }
    CHECK(net.link.counts[0].sent <= 4); // nothing but what coming up sends
}

TEST_CASE("large datagrams are cut and put together again, in any order") {
    for (const bool v6 : {false, true}) {
        Network net(7);
        net.link.quality[0].jitter_ns = 5 * millisecond;
        const IpAddress* address = v6 ? six : four;
        Ref<UdpEndpoint> server = open_udp(*net.stacks[1], address[1], 7);
        for (const usize size : {1473, 3000, 20000, 65000}) {
            REQUIRE(send_udp(*net.stacks[0], address[1], 1, 7, pattern(size)) == 0);
            net.run_for(50 * millisecond);
            CHECK(receive(*server) == pattern(size));
        }
        CHECK(net.stacks[1]->reassembly().memory() == 0);
        close_udp(*net.stacks[1], server);
    }
}

TEST_CASE("a datagram with a lost fragment is given up after a while, and its memory with it") {
    Network net(3);
    net.link.quality[0].loss_per_million = 300'000;
    Ref<UdpEndpoint> server = open_udp(*net.stacks[1], four[1], 7);
    u64 arrived = 0;
    for (int i = 0; i < 40; i++) {
        (void)send_udp(*net.stacks[0], four[1], 1, 7, pattern(5000));
        net.run_for(10 * millisecond);
        while (PacketPtr packet = server->take(false)) {
            CHECK(packet->length() == 5000);
            arrived++;
        }
    }
    CHECK(arrived < 40);
    CHECK(net.stacks[1]->reassembly().memory() > 0);
    net.run_for(40'000 * millisecond);
    CHECK(net.stacks[1]->reassembly().memory() == 0);
    CHECK(net.stacks[1]->counters.sum(Counter::IpReassemblyTimeouts) > 0);
    close_udp(*net.stacks[1], server);
}

TEST_CASE("thousands of tiny fragments in the worst order become whole") {
    Network net;
    Stack& stack = *net.stacks[0];
    stack.settings.fragment_high4 = 256 << 20;
    constexpr u32 count = 8000, size = 8;
    PacketPtr whole;
    // From the middle outwards, then nothing is ever behind the last or in front of the first.
    for (u32 i = 0; i < count; i++) {
        const u32 number = i == 0 ? 0 : i == 1 ? count - 1 : i % 2 == 0 ? i / 2 : count - 1 - i / 2;
        REQUIRE_FALSE(whole);
        PacketPtr packet = Packet::allocate(64);
        const u8 payload[size] = {static_cast<u8>(number), static_cast<u8>(number >> 8)};
        Ipv4Header header{};
        header.version_length = 0x45;
        REQUIRE(packet->append(&header, sizeof header));
        REQUIRE(packet->append(payload, sizeof payload));
        packet->mark_network();
        Reassembly::Piece piece;
        piece.source = four[1];
        piece.destination = four[0];
        piece.id = 7;
        piece.protocol = proto_udp;
        piece.offset = number * size;
        piece.more = number + 1 < count;
        piece.header_bytes = sizeof header;
        whole = stack.reassembly().add(std::move(packet), piece);
    }
    REQUIRE(whole);
    REQUIRE(whole->length() == sizeof(Ipv4Header) + count * size);
    bool right = true;
    for (u32 number = 0; number < count; number++) {
        u8 got[2] = {};
        right = right && whole->copy_out(sizeof(Ipv4Header) + number * size, got, sizeof got) &&
                (got[0] | got[1] << 8) == static_cast<int>(number);
    }
    CHECK(right);
    CHECK(stack.reassembly().memory() == 0);
}

namespace {

// The last but one step of ip_output(): to 10.0.0.2, `payload` bytes at `offset` of a datagram.
void send_fragment(Network& net, u16 id, u32 offset, u32 payload, bool more) {
    PacketPtr packet = Packet::allocate(0);
    REQUIRE(packet->append(pattern(payload).data(), payload));
    Ipv4Header header{};
    header.version_length = 0x45;
    header.total_length.set(static_cast<u16>(payload + sizeof header));
    header.id.set(id);
    header.fragment.set(static_cast<u16>(offset / 8 + (more ? Ipv4Header::more_fragments : 0u)));
    header.ttl = 64;
    header.protocol = proto_udp;
    header.source.set(four[0].v4_value());
    header.destination.set(four[1].v4_value());
    packet->push_header(header);
    set_header_checksum(*packet, 20);
    Flow flow;
    flow.destination = four[1];
    flow.source = four[0];
    REQUIRE(resolve(*net.stacks[0], flow));
    REQUIRE(link_output(*net.stacks[0], flow.path, std::move(packet), four[1]));
    net.run_for(millisecond);
}

} // namespace

TEST_CASE("a datagram of IPv4 is at most 65535 bytes long, its header among them") {
    constexpr u32 piece = 1400, most = 65535 - 20;
    for (const u32 size : {most, most + 1}) {
        Network net;
        (void)send_udp(*net.stacks[0], four[1], 1, 7, pattern(10));
        net.run_for(10 * millisecond);
        for (u32 at = 0; at < size; at += piece)
            send_fragment(net, 1, at, size - at < piece ? size - at : piece, size - at > piece);
        auto& counters = net.stacks[1]->counters;
        CHECK(counters.sum(Counter::IpReassembled) == (size == most ? 1u : 0u));
        CHECK(counters.sum(Counter::IpReassemblyFailed) == (size == most ? 0u : 1u));
        CHECK(net.stacks[1]->reassembly().memory() == 0);
    }
}

TEST_CASE("memory for fragments that never become whole is bounded") {
    Network net;
    net.stacks[1]->settings.fragment_high4 = 100'000;
    (void)send_udp(*net.stacks[0], four[1], 1, 7, pattern(10));
    net.run_for(10 * millisecond);
    for (u16 id = 0; id < 1000; id++) {
        send_fragment(net, id, 0, 1000, true);
        REQUIRE(net.stacks[1]->reassembly().memory() <= 100'000);
    }
}

TEST_CASE("a port that nobody has is answered, and the sender's socket hears of it") {
    for (const bool v6 : {false, true}) {
        Network net;
        const IpAddress* address = v6 ? six : four;
        Ref<UdpEndpoint> client = open_udp(*net.stacks[0], address[0], 1000);
        net.stacks[0]->udp_ports.set_peer(*client, address[0], address[1], 9, true);
        REQUIRE(send_udp(*net.stacks[0], address[1], 1000, 9, pattern(10)) == 0);
        net.run_for(10 * millisecond);
        CHECK(client->error.exchange(0) == ECONNREFUSED);
        client->wants_errors4 = true;
        client->wants_errors6 = true;
        REQUIRE(send_udp(*net.stacks[0], address[1], 1000, 9, pattern(10)) == 0);
        net.run_for(10 * millisecond);
        PacketPtr report = client->take_error();
        REQUIRE(report);
        CHECK(report->length() == 10); // what was sent
        const ErrorInfo& info = report->scratch<ErrorInfo>();
        CHECK(info.number == ECONNREFUSED);
        CHECK(info.offender == address[1]);
        report = {};
        close_udp(*net.stacks[0], client);
    }
}

TEST_CASE("errors are sent at a bounded rate") {
    Network net;
    (void)send_udp(*net.stacks[0], four[1], 1, 9, pattern(1));
    net.run_for(10 * millisecond);
    for (int i = 0; i < 500; i++)
        (void)send_udp(*net.stacks[0], four[1], 1, 9, pattern(1));
    net.run_for(10 * millisecond);
    CHECK(net.stacks[1]->counters.icmp_types(false).out[3].load() <= 7);
    CHECK(net.stacks[1]->counters.sum(Counter::IcmpOutRateLimited) >= 490);
}

TEST_CASE("a primary address takes its secondaries along, unless they are to be promoted") {
    Network net;
    Stack& stack = *net.stacks[0];
    InterfaceAddress second;
    second.address = second.peer = ip4(10, 0, 0, 9);
    second.prefix_length = 24;
    for (const bool all : {false, true}) {
        (all ? stack.settings.all_interfaces : net.ends[0]->settings).promote_secondaries = true;
        REQUIRE(stack.add_address(*net.ends[0], second));
        REQUIRE(stack.remove_address(*net.ends[0], four[0], 24));
        CHECK(stack.is_local(second.address));
        // It is the primary one now.
        InterfaceAddress former = second;
        former.address = former.peer = four[0];
        REQUIRE(stack.add_address(*net.ends[0], former));
        net.ends[0]->settings.promote_secondaries = false;
        stack.settings.all_interfaces.promote_secondaries = false;
        REQUIRE(stack.remove_address(*net.ends[0], second.address, 24));
        CHECK_FALSE(stack.is_local(four[0]));
        REQUIRE(stack.add_address(*net.ends[0], former));
    }
}

TEST_CASE("proxy_arp answers for whoever is reached by another interface") {
    Network net;
    Stack& router = *net.stacks[1];
    net.ends[1]->settings.forwarding4 = true;
    const IpAddress target = ip4(10, 0, 0, 77);
    auto way = make_owned<Route>();
    REQUIRE(way);
    (*way)->prefix = target;
    (*way)->length = 32;
    NextHop hop;
    hop.interface = Ref<Interface>::share(&router.loopback());
    REQUIRE(router.set_flags(router.loopback(), iff_up, iff_up));
    REQUIRE((*way)->hops.push_back(std::move(hop)));
    REQUIRE(add_route(router, std::move(*way), RouteTables::AddMode::Exclusive));
    const auto asks = [&] {
        net.stacks[0]->neighbours().flush(*net.ends[0], true);
        REQUIRE(send_udp(*net.stacks[0], target, 1000, 7, pattern(10)) == 0);
        net.run_for(10 * millisecond);
        const Ref<Neighbour> found = net.stacks[0]->neighbours().find(*net.ends[0], target);
        return found && found->view().state == NeighbourState::Reachable;
    };
    CHECK_FALSE(asks());
    router.settings.all_interfaces.proxy_arp = true;
    CHECK(asks());
    net.ends[1]->settings.forwarding4 = false; // it would not forward what came
    CHECK_FALSE(asks());
}

TEST_CASE("a neighbour that does not answer: the packets' senders hear of it") {
    Network net;
    net.run_for(10 * millisecond); // what coming up announces
    net.ends[1]->link = nullptr;
    net.link.quality[0].loss_per_million = 1'000'000;
    Ref<UdpEndpoint> client = open_udp(*net.stacks[0], four[0], 1000);
    net.stacks[0]->udp_ports.set_peer(*client, four[0], four[1], 9, true);
    client->wants_errors4 = true;
    REQUIRE(send_udp(*net.stacks[0], four[1], 1000, 9, pattern(10)) == 0);
    net.run_for(5000 * millisecond);
    CHECK(client->error.load() == EHOSTUNREACH);
    const Ref<Neighbour> neighbour = net.stacks[0]->neighbours().find(*net.ends[0], four[1]);
    REQUIRE(neighbour);
    CHECK(neighbour->view().state == NeighbourState::Failed);
    close_udp(*net.stacks[0], client);
}

TEST_CASE("a neighbour that does not answer may go for the sake of those who hear of it") {
    Network net;
    VirtualLink silent(net.clock, 9);
    silent.quality[0].loss_per_million = 1'000'000;
    auto inner = make_ref<LinkEnd>("eth%d", MacAddress{{2, 0, 0, 0, 1, 1}}, 1500, 0);
    auto outer = make_ref<LinkEnd>("eth%d", MacAddress{{2, 0, 0, 0, 1, 2}}, 1500, 0);
    REQUIRE(inner);
    REQUIRE(outer);
    silent.connect(**inner, **outer);
    Stack& router = *net.stacks[1];
    REQUIRE(router.attach(*inner));
    REQUIRE(router.set_flags(**inner, iff_up, iff_up));
    InterfaceAddress own;
    own.address = own.peer = ip4(10, 0, 1, 1);
    own.broadcast = IpAddress::v4_any();
    own.prefix_length = 24;
    REQUIRE(router.add_address(**inner, own));
    router.settings.forwarding4 = true;
    auto route = make_owned<Route>();
    REQUIRE(route);
    (*route)->prefix = (*route)->source = IpAddress::v4_any();
    NextHop hop;
    hop.interface = net.ends[0];
    hop.gateway = four[1];
    REQUIRE((*route)->hops.push_back(hop));
    REQUIRE(add_route(*net.stacks[0], std::move(*route), RouteTables::AddMode::Exclusive));
    net.run_for(100 * millisecond);
    router.neighbours().settings(false).keep = 1;
    // From addresses that the router has not heard of: each error needs a neighbour of its own.
    for (u8 i = 0; i < 4; i++) {
        PacketPtr packet = Packet::allocate(0);
        REQUIRE(packet);
        REQUIRE(packet->append(pattern(40).data(), 40));
        Flow flow;
        flow.source = ip4(10, 0, 0, static_cast<u8>(100 + i));
        flow.any_source = true;
        flow.destination = ip4(10, 0, 1, 77);
        flow.protocol = 253;
        REQUIRE(ip_output(*net.stacks[0], flow, std::move(packet)));
        net.run_for(millisecond);
    }
    REQUIRE(router.neighbours().find(**inner, ip4(10, 0, 1, 77)));
    net.run_for(5000 * millisecond);
    CHECK_FALSE(router.neighbours().find(**inner, ip4(10, 0, 1, 77)));
    CHECK(router.neighbours().find(*net.ends[1], ip4(10, 0, 0, 103)));
}

TEST_CASE("a scan of a large network does not fill memory with neighbours") {
    Network net;
    net.link.quality[0].loss_per_million = 1'000'000;
    InterfaceAddress wide;
    wide.address = wide.peer = ip4(172, 16, 0, 1);
    wide.broadcast = IpAddress::v4_any();
    wide.prefix_length = 12;
    REQUIRE(net.stacks[0]->add_address(*net.ends[0], wide));
    for (u32 i = 0; i < 5000; i++) {
        (void)send_udp(*net.stacks[0], IpAddress::v4(0xac10'1000 + i), 1, 9, pattern(1));
        net.run_for(millisecond);
    }
    CHECK(net.stacks[0]->neighbours().count(false) <= 1024);
}

TEST_CASE("what waits for a neighbour's address is bounded by bytes") {
    Network net;
    NeighbourTable& table = net.stacks[0]->neighbours();
    table.settings(false).queue_packets = 10'000;
    const Ref<Neighbour> silent = table.find_or_make(*net.ends[0], ip4(10, 0, 0, 77));
    REQUIRE(silent);
    constexpr u32 bytes = 1000, packets = 1000;
    for (u32 i = 0; i < packets; i++) {
        PacketPtr packet = Packet::allocate(0);
        REQUIRE(packet);
        REQUIRE(packet->append(pattern(bytes).data(), bytes));
        silent->output(std::move(packet), ether_ip);
    }
    u32 sent = 0;
    net.link.spy_context = &sent;
    net.link.spy = [](unsigned side, const Packet& packet, void* context) {
        if (side == 0 && packet.length() >= bytes)
            ++*static_cast<u32*>(context);
    };
    silent->update(MacAddress{{2, 0, 0, 0, 0, 77}}, NeighbourState::Reachable, true);
    net.run_for(1000 * millisecond);
    CHECK(sent > 0);
    CHECK(sent <= 212'992 / bytes);
}

TEST_CASE("routes: the longest prefix, metrics, gateways, rules, kinds") {
    Network net;
    Stack& stack = *net.stacks[0];
    const auto add = [&](const IpAddress& prefix, u8 length, const IpAddress& gateway, u32 metric,
                         RouteType type = RouteType::Unicast, u32 table = table_main) {
        auto route = make_owned<Route>();
        REQUIRE(route);
        (*route)->prefix = prefix;
        (*route)->length = length;
        (*route)->metric = metric;
        (*route)->type = type;
        (*route)->table = table;
        (*route)->source = IpAddress::v4_any();
        if (type == RouteType::Unicast) {
            NextHop hop;
            hop.interface = net.ends[0];
            hop.gateway = gateway;
            REQUIRE((*route)->hops.push_back(hop));
        }
        return add_route(stack, std::move(*route), RouteTables::AddMode::Exclusive).has_value();
    };
    CHECK(send_udp(stack, ip4(8, 8, 8, 8), 1, 1, pattern(1)) == ENETUNREACH);
    CHECK(add(IpAddress::v4_any(), 0, ip4(10, 0, 0, 2), 0));
    CHECK_FALSE(add(IpAddress::v4_any(), 0, ip4(10, 0, 0, 3), 0));
    CHECK(add(IpAddress::v4_any(), 0, ip4(10, 0, 0, 4), 50));
    CHECK(add(ip4(8, 8, 0, 0), 16, ip4(10, 0, 0, 5), 0));
    CHECK(add(ip4(8, 8, 4, 0), 24, IpAddress::v4_any(), 0, RouteType::Prohibit));
    const auto next_hop = [&](const IpAddress& to, u32 mark = 0) {
        Flow flow;
        flow.destination = to;
        flow.source = IpAddress::v4_any();
        flow.mark = mark;
        REQUIRE(resolve(stack, flow));
        CHECK(flow.source == four[0]);
        return flow.path.next_hop;
    };
    CHECK(next_hop(ip4(1, 1, 1, 1)) == ip4(10, 0, 0, 2));
    CHECK(next_hop(ip4(8, 8, 8, 8)) == ip4(10, 0, 0, 5));
    CHECK(next_hop(four[1]) == four[1]);
    CHECK(send_udp(stack, ip4(8, 8, 4, 4), 1, 1, pattern(1)) == EACCES);
    CHECK(add(IpAddress::v4_any(), 0, ip4(10, 0, 0, 6), 0, RouteType::Unicast, 100));
    RouteRule rule;
    rule.priority = 1000;
    rule.table = 100;
    rule.mark = rule.mark_mask = 5;
    {
        SpinGuard guard(stack.lock);
        REQUIRE(stack.routes().add_rule(rule));
    }
    stack.routes_changed();
    CHECK(next_hop(ip4(8, 8, 8, 8), 5) == ip4(10, 0, 0, 6));
    CHECK(next_hop(ip4(8, 8, 8, 8), 4) == ip4(10, 0, 0, 5));
    // A rule for another interface than the one a socket is bound to; one that leads nowhere.
    RouteRule other = rule, nowhere, behind = rule;
    other.priority = 900;
    other.mark = other.mark_mask = 0;
    __builtin_memcpy(other.out_interface, "other", 5);
    nowhere.priority = 950;
    nowhere.action = RuleAction::Goto;
    nowhere.goto_priority = 2000;
    behind.mark = behind.mark_mask = 6;
    {
        SpinGuard guard(stack.lock);
        for (const RouteRule& one : {other, nowhere, behind})
            REQUIRE(stack.routes().add_rule(one));
    }
    stack.routes_changed();
    CHECK(next_hop(ip4(8, 8, 8, 8), 6) == ip4(10, 0, 0, 6));
    Flow bound;
    bound.destination = ip4(8, 8, 8, 8);
    bound.source = IpAddress::v4_any();
    bound.interface = net.ends[0]->index();
    REQUIRE(resolve(stack, bound));
    CHECK(bound.path.next_hop == ip4(10, 0, 0, 5));
    REQUIRE(stack.set_flags(*net.ends[0], 0, iff_up));
    CHECK(send_udp(stack, ip4(8, 8, 8, 8), 1, 1, pattern(1)) == ENETUNREACH);
}

TEST_CASE("a path MTU that a router tells of is kept, and forgotten after ten minutes") {
    Network net;
    Stack& stack = *net.stacks[0];
    const auto mtu = [&] {
        Flow flow;
        flow.destination = four[1];
        flow.source = IpAddress::v4_any();
        REQUIRE(resolve(stack, flow));
        return flow.path.mtu;
    };
    CHECK(mtu() == 1500);
    stack.path_mtus().update(four[1], 1000, stack.now() + 600 * nanoseconds_per_second);
    stack.routes_changed();
    CHECK(mtu() == 1000);
    CHECK(send_udp(stack, four[1], 1, 7, pattern(1200), true) == EMSGSIZE);
    net.run_for(601 * nanoseconds_per_second);
    stack.routes_changed();
    CHECK(mtu() == 1500);
}

TEST_CASE("a packet whose header is its sender's passes the hooks of what goes out") {
    static u32 seen[hook_points];
    static HookVerdict verdict;
    const PacketHook hook = [](Stack&, const HookContext& context, PacketPtr&) {
        seen[static_cast<usize>(context.point)]++;
        return context.point == HookPoint::Output ? verdict : HookVerdict::Accept;
    };
    Network net;
    Stack& stack = *net.stacks[0];
    net.run_for(10 * millisecond);
    stack.set_hook(HookPoint::Output, hook);
    stack.set_hook(HookPoint::PostRouting, hook);
    Ref<UdpEndpoint> server = open_udp(*net.stacks[1], four[1], 7);
    const auto send = [&](u32 payload) {
        Ipv4Header header{};
        header.version_length = 0x45;
        header.ttl = 64;
        header.protocol = proto_udp;
        header.total_length.set(static_cast<u16>(sizeof header + sizeof(UdpHeader) + payload));
        header.source.set(four[0].v4_value());
        header.destination.set(four[1].v4_value());
        UdpHeader udp{};
        udp.source.set(1000);
        udp.destination.set(7);
        udp.length.set(static_cast<u16>(sizeof udp + payload));
        PacketPtr packet = Packet::allocate(0, 64);
        REQUIRE(packet);
        REQUIRE(packet->append(&header, sizeof header));
        REQUIRE(packet->append(&udp, sizeof udp));
        REQUIRE(packet->append(pattern(payload).data(), payload));
        set_header_checksum(*packet, sizeof header);
        Flow flow;
        flow.source = four[0];
        flow.destination = four[1];
        flow.protocol = 255;
        REQUIRE(resolve(stack, flow));
        const auto sent = output_with_header(stack, flow, std::move(packet));
        net.run_for(10 * millisecond);
        return sent ? 0 : sent.error().code;
    };
    verdict = HookVerdict::Accept;
    CHECK(send(50) == 0);
    CHECK(receive(*server) == pattern(50));
    CHECK(seen[static_cast<usize>(HookPoint::Output)] == 1);
    CHECK(seen[static_cast<usize>(HookPoint::PostRouting)] == 1);
    CHECK(send(1500) == EMSGSIZE);
    verdict = HookVerdict::Drop;
    CHECK(send(50) == 0);
    CHECK_FALSE(server->has_data());
    CHECK(seen[static_cast<usize>(HookPoint::Output)] == 2);
    CHECK(seen[static_cast<usize>(HookPoint::PostRouting)] == 1);
    stack.set_hook(HookPoint::Output, nullptr);
    stack.set_hook(HookPoint::PostRouting, nullptr);
    close_udp(*net.stacks[1], server);
}

TEST_CASE("packets that are damaged, cut or made up are counted and dropped") {
    Network net(11);
    net.link.quality[0].corrupt_per_million = 1'000'000;
    Ref<UdpEndpoint> server = open_udp(*net.stacks[1], IpAddress::v4_any(), 7);
    const std::vector<u8> sent = pattern(400);
    for (int i = 0; i < 2000; i++) {
        (void)send_udp(*net.stacks[0], four[1], 1, 7, sent);
        net.run_for(millisecond);
        while (PacketPtr packet = server->take(false)) {
            // A bit of the Ethernet header, of the type of service or the TTL may have changed;
            // what arrives is what was sent.
            std::vector<u8> got(packet->length());
            REQUIRE(packet->copy_out(0, got.data(), packet->length()));
            REQUIRE(got == sent);
        }
    }
    close_udp(*net.stacks[1], server);
}

TEST_CASE("random bytes in place of packets do no harm") {
    Network net(5);
    u64 state = 88172645463325252u;
    const auto random = [&state] {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state;
    };
    constexpr u8 protocols[] = {1, 2, 6, 17, 44, 58, 60, 0, 43};
    for (int i = 0; i < 20000; i++) {
        const u32 length = static_cast<u32>(random() % 200);
        std::vector<u8> bytes(length);
        for (u8& byte : bytes)
            byte = static_cast<u8>(random());
        PacketPtr packet = Packet::allocate(0);
        REQUIRE(packet->append(bytes.data(), length));
        EthernetHeader link{};
        link.destination = net.ends[1]->mac();
        link.source = net.ends[0]->mac();
        const u64 kind = random() % 3;
        link.protocol.set(kind == 0 ? ether_ip : kind == 1 ? ether_ipv6 : ether_arp);
        if (kind == 0 && length >= 20) {
            Ipv4Header header;
            REQUIRE(packet->read(0, header));
            header.version_length = static_cast<u8>(0x45 + random() % 3);
            header.total_length.set(static_cast<u16>(length));
            header.protocol = protocols[random() % sizeof protocols];
            header.destination.set(four[1].v4_value());
            header.source.set(four[0].v4_value());
            if (random() % 2 == 0)
                header.fragment.set(0);
            REQUIRE(packet->write(0, header));
            if (header.header_bytes() <= length)
                set_header_checksum(*packet, header.header_bytes());
        } else if (kind == 1 && length >= 40) {
            Ipv6Header header;
            REQUIRE(packet->read(0, header));
            header.version_class_label.set(6u << 28);
            header.payload_length.set(static_cast<u16>(length - 40));
            header.next_header = protocols[random() % sizeof protocols];
            header.hop_limit = 255;
            __builtin_memcpy(header.source, six[0].bytes(), 16);
            __builtin_memcpy(header.destination, six[1].bytes(), 16);
            REQUIRE(packet->write(0, header));
        }
        packet->push_header(link);
        if (random() % 2 == 0)
            packet->checksum_state = ChecksumState::Verified; // past the sums, into the parsers
        net.ends[1]->receive(std::move(packet));
        if (i % 64 == 0)
            net.run_for(millisecond);
    }
    Ref<UdpEndpoint> server = open_udp(*net.stacks[1], four[1], 7);
    REQUIRE(send_udp(*net.stacks[0], four[1], 1, 7, pattern(10)) == 0);
    net.run_for(3000 * millisecond);
    CHECK(receive(*server) == pattern(10));
    close_udp(*net.stacks[1], server);
}

TEST_CASE("a router between two networks forwards, counts hops down and tells of what it cannot") {
    Network net;
    VirtualLink far(net.clock, 9);
    auto third = Stack::make(StackClock(net.clock), nullptr);
    REQUIRE(third);
    auto inner = make_ref<LinkEnd>("eth%d", MacAddress{{2, 0, 0, 0, 1, 1}}, 1400, 0);
    auto outer = make_ref<LinkEnd>("eth%d", MacAddress{{2, 0, 0, 0, 1, 2}}, 1400, 0);
    REQUIRE(inner);
    REQUIRE(outer);
    far.connect(**inner, **outer);
    const auto set_up = [](Stack& stack, const Ref<LinkEnd>& end, const IpAddress& address) {
        REQUIRE(stack.attach(end));
        REQUIRE(stack.set_flags(*end, iff_up, iff_up));
        InterfaceAddress own;
        own.address = own.peer = address;
        own.broadcast = IpAddress::v4_any();
        own.prefix_length = 24;
        REQUIRE(stack.add_address(*end, own));
    };
    set_up(*net.stacks[1], *inner, ip4(10, 0, 1, 1));
    set_up(**third, *outer, ip4(10, 0, 1, 2));
    const auto default_route = [](Stack& stack, const Ref<LinkEnd>& end, const IpAddress& gateway) {
        auto route = make_owned<Route>();
        REQUIRE(route);
        (*route)->prefix = (*route)->source = IpAddress::v4_any();
        NextHop hop;
        hop.interface = end;
        hop.gateway = gateway;
        REQUIRE((*route)->hops.push_back(hop));
        REQUIRE(add_route(stack, std::move(*route), RouteTables::AddMode::Exclusive));
    };
    default_route(*net.stacks[0], net.ends[0], four[1]);
    default_route(**third, *outer, ip4(10, 0, 1, 1));
    Ref<UdpEndpoint> server = open_udp(**third, IpAddress::v4_any(), 7);
    Ref<UdpEndpoint> client = open_udp(*net.stacks[0], four[0], 1000);
    client->wants_errors4 = true;
    REQUIRE(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(100)) == 0);
    net.run_for(20 * millisecond);
    CHECK_FALSE(server->has_data()); // not a router yet
    net.stacks[1]->settings.forwarding4 = true;
    REQUIRE(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(100)) == 0);
    net.run_for(20 * millisecond);
    CHECK(receive(*server) == pattern(100));
    REQUIRE(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(3000)) == 0);
    net.run_for(20 * millisecond);
    CHECK(receive(*server) == pattern(3000));
    REQUIRE(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(10), false, 1) == 0);
    net.run_for(20 * millisecond);
    PacketPtr report = client->take_error();
    REQUIRE(report);
    CHECK(report->scratch<ErrorInfo>().type == 11);
    REQUIRE(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(1450), true) == 0);
    net.run_for(20 * millisecond);
    report = client->take_error();
    REQUIRE(report);
    CHECK(report->scratch<ErrorInfo>().number == EMSGSIZE);
    CHECK(report->scratch<ErrorInfo>().info == 1400);
    report = {};
    CHECK(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(1450), true) == EMSGSIZE);
    // A rule for what comes in there, which is not for what the router sends itself.
    auto refusal = make_owned<Route>();
    REQUIRE(refusal);
    (*refusal)->prefix = (*refusal)->source = IpAddress::v4_any();
    (*refusal)->type = RouteType::Prohibit;
    (*refusal)->table = 100;
    REQUIRE(add_route(*net.stacks[1], std::move(*refusal), RouteTables::AddMode::Exclusive));
    RouteRule incoming;
    incoming.priority = 100;
    incoming.table = 100;
    net.ends[1]->name().copy(incoming.in_interface, sizeof incoming.in_interface - 1);
    {
        SpinGuard guard(net.stacks[1]->lock);
        REQUIRE(net.stacks[1]->routes().add_rule(incoming));
    }
    net.stacks[1]->routes_changed();
    REQUIRE(send_udp(*net.stacks[0], ip4(10, 0, 1, 2), 1000, 7, pattern(100)) == 0);
    net.run_for(20 * millisecond);
    CHECK_FALSE(server->has_data());
    REQUIRE(send_udp(*net.stacks[1], ip4(10, 0, 1, 2), 1000, 7, pattern(50)) == 0);
    net.run_for(20 * millisecond);
    CHECK(receive(*server) == pattern(50));
    close_udp(**third, server);
    close_udp(*net.stacks[0], client);
    (*third)->shutdown();
}

TEST_CASE("a router hands on segments that travel as one packet, if each of them fits") {
    Network net(1, 1500, feature_all_offloads);
    VirtualLink far(net.clock, 9);
    auto inner =
        make_ref<LinkEnd>("eth%d", MacAddress{{2, 0, 0, 0, 1, 1}}, 1500, feature_all_offloads);
    auto outer = make_ref<LinkEnd>("eth%d", MacAddress{{2, 0, 0, 0, 1, 2}}, 1500, 0);
    REQUIRE(inner);
    REQUIRE(outer);
    far.connect(**inner, **outer);
    Stack& router = *net.stacks[1];
    REQUIRE(router.attach(*inner));
    REQUIRE(router.set_flags(**inner, iff_up, iff_up));
    InterfaceAddress own;
    own.address = own.peer = ip4(10, 0, 1, 1);
    own.broadcast = IpAddress::v4_any();
    own.prefix_length = 24;
    REQUIRE(router.add_address(**inner, own));
    router.settings.forwarding4 = true;
    const IpAddress there = ip4(10, 0, 1, 2);
    const Ref<Neighbour> neighbour = router.neighbours().find_or_make(**inner, there);
    REQUIRE(neighbour);
    neighbour->update((*outer)->mac(), NeighbourState::Permanent, true);
    net.run_for(100 * millisecond);
    static std::vector<u32> lengths;
    static u32 firsts;
    far.spy = [](unsigned side, const Packet& packet, void*) {
        Ipv4Header header;
        if (side != 0 || !packet.read(sizeof(EthernetHeader), header) ||
            header.version_length != 0x45 || header.destination.get() != 0x0a00'0102)
            return;
        lengths.push_back(packet.length() - static_cast<u32>(sizeof(EthernetHeader)));
        firsts += (header.fragment.get() & Ipv4Header::offset_mask) == 0 ? 1 : 0;
    };
    // As a device hands it over that puts segments together: nothing is known but their size.
    const auto arrive = [&](Segmentation kind, u32 segment, u32 payload, bool whole) {
        lengths.clear();
        firsts = 0;
        const bool tcp = kind == Segmentation::Tcp4;
        const u32 header_bytes = tcp ? 32 : sizeof(UdpHeader);
        EthernetHeader link;
        link.destination = net.ends[1]->mac();
        link.source = net.ends[0]->mac();
        link.protocol.set(ether_ip);
        Ipv4Header ip{};
        ip.version_length = 0x45;
        ip.ttl = 64;
        ip.protocol = tcp ? proto_tcp : proto_udp;
        ip.fragment.set(whole ? Ipv4Header::dont_fragment : u16{0});
        ip.total_length.set(static_cast<u16>(sizeof ip + header_bytes + payload));
        ip.source.set(four[0].v4_value());
        ip.destination.set(there.v4_value());
        PacketPtr packet = Packet::allocate(0, 0);
        REQUIRE(packet);
        REQUIRE(packet->append(&link, sizeof link));
        REQUIRE(packet->append(&ip, sizeof ip));
        if (tcp) {
            TcpHeader header{};
            header.length_reserved = 8 << 4;
            const u8 options[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
            REQUIRE(packet->append(&header, sizeof header));
            REQUIRE(packet->append(options, sizeof options));
        } else {
            UdpHeader header{};
            header.length.set(static_cast<u16>(header_bytes + payload));
            REQUIRE(packet->append(&header, sizeof header));
        }
        REQUIRE(packet->append(pattern(payload).data(), payload));
        u8 sum_at[sizeof ip];
        REQUIRE(packet->copy_out(sizeof link, sum_at, sizeof ip));
        const u16 sum = checksum(sum_at, sizeof ip);
        REQUIRE(packet->write(sizeof link + offsetof(Ipv4Header, checksum), sum));
        packet->segmentation = kind;
        packet->segment_size = static_cast<u16>(segment);
        packet->checksum_state = ChecksumState::Verified;
        net.ends[1]->receive(std::move(packet));
        net.run_for(10 * millisecond);
    };
    arrive(Segmentation::Tcp4, 1448, 4 * 1448, true); // with 52 bytes of headers each: 1500
    CHECK(lengths == std::vector<u32>{52 + 4 * 1448});
    arrive(Segmentation::Tcp4, 1449, 4 * 1449, true);
    CHECK(lengths.empty());
    // Datagrams that are too large for the next link stay datagrams of their own.
    REQUIRE(router.set_mtu(**inner, 620));
    arrive(Segmentation::Udp, 1000, 3000, false);
    CHECK(firsts == 3);
    CHECK(lengths.size() == 6);
    for (const u32 length : lengths)
        CHECK(length <= 620);
}

TEST_CASE("IPv6 configures itself: a link-local address, duplicates, a router's prefix") {
    reset_network();
    VirtualClock clock;
    VirtualLink link(clock, 1);
    Ref<Stack> stacks[2];
    Ref<LinkEnd> ends[2];
    for (u8 side = 0; side < 2; side++) {
        auto stack = Stack::make(StackClock(clock), nullptr);
        // The same hardware address twice: so are the addresses made of it.
        auto end = make_ref<LinkEnd>("eth0", MacAddress{{2, 0, 0, 0, 0, 7}}, 1500, 0);
        REQUIRE(stack);
        REQUIRE(end);
        stacks[side] = std::move(*stack);
        ends[side] = std::move(*end);
        REQUIRE(stacks[side]->attach(ends[side]));
    }
    link.connect(*ends[0], *ends[1]);
    const IpAddress own = IpAddress::v6_words(0xfe80'0000'0000'0000, 0x0000'00ff'fe00'0007);
    REQUIRE(stacks[0]->set_flags(*ends[0], iff_up, iff_up));
    CHECK_FALSE(stacks[0]->is_local(own));
    run(clock, clock.now() + 3000 * millisecond);
    CHECK(stacks[0]->is_local(own));
    REQUIRE(stacks[1]->set_flags(*ends[1], iff_up, iff_up));
    run(clock, clock.now() + 3000 * millisecond);
    CHECK_FALSE(stacks[1]->is_local(own));
    for (Ref<Stack>& stack : stacks)
        stack->shutdown();
}

TEST_CASE("whoever advertises prefixes without end gets few of them into the routing table") {
    Network net;
    Stack& host = *net.stacks[1];
    const auto prefix_of = [](u32 number) {
        return IpAddress::v6_words(0x2001'0db8'0000'0000 + number, 0);
    };
    constexpr u32 messages = 10, in_each = 30;
    for (u32 i = 0; i < messages; i++) {
        std::vector<u8> advert(16 + in_each * 32);
        advert[0] = 134;
        for (u32 j = 0; j < in_each; j++) {
            u8* option = advert.data() + 16 + j * 32;
            option[0] = 3;
            option[1] = 4;
            option[2] = 64;
            option[3] = 0x80;                 // on the link
            std::memset(option + 4, 0xff, 8); // for ever
            std::memcpy(option + 16, prefix_of(i * in_each + j).bytes(), 16);
        }
        PacketPtr packet = Packet::allocate(0);
        REQUIRE(packet);
        REQUIRE(packet->append(advert.data(), static_cast<u32>(advert.size())));
        Flow flow;
        flow.source = IpAddress::v6_words(0xfe80'0000'0000'0000, 99);
        flow.any_source = true;
        flow.destination = IpAddress::v6_words(0xff02'0000'0000'0000, 1);
        flow.interface = net.ends[0]->index();
        flow.protocol = proto_icmpv6;
        flow.hop_limit = 255;
        REQUIRE(resolve(*net.stacks[0], flow));
        packet->start_checksum(flow_pseudo_header(flow, packet->length()), 0, icmp_checksum_field);
        REQUIRE(ip_output(*net.stacks[0], flow, std::move(packet)));
        net.run_for(millisecond);
    }
    const auto known = [&](u32 number) {
        RouteKey key;
        key.destination = prefix_of(number);
        SpinGuard guard(host.lock);
        return host.routes().find(key, host.now()).has_value();
    };
    CHECK(known(0));
    u32 count = 0;
    for (u32 number = 0; number < messages * in_each; number++)
        count += known(number) ? 1 : 0;
    CHECK(count >= 32);
    CHECK(count <= 64);
}

TEST_CASE("a port that leaves its stack leaves its bridge, and comes back only with the stack") {
    Network net;
    Stack& stack = *net.stacks[1];
    LinkEnd& port = *net.ends[1];
    auto made = make_ref<BridgeInterface>("switch");
    REQUIRE(made);
    BridgeInterface& bridge = **made;
    CHECK(bridge.add_port(stack, port).error().code == ENODEV); // not there yet
    REQUIRE(stack.attach(*made));
    const u32 references = bridge.ref_count();
    REQUIRE(bridge.add_port(stack, port));
    CHECK(bridge.port_of(port));
    stack.detach(port);
    CHECK_FALSE(bridge.port_of(port));
    CHECK(port.master == nullptr);
    CHECK(bridge.ref_count() == references);
    CHECK(bridge.add_port(stack, port).error().code == ENODEV);
}

TEST_CASE("a stack that is shut down takes no interface in: it stays where it was") {
    Network net;
    auto third = Stack::make(StackClock(net.clock), nullptr);
    REQUIRE(third);
    (*third)->shutdown();
    const u32 references = (*third)->ref_count();
    LinkEnd& port = *net.ends[1];
    auto moved = net.stacks[1]->move(port, **third, "moved", 0);
    REQUIRE_FALSE(moved);
    CHECK(moved.error().code == ENODEV);
    CHECK((*third)->ref_count() == references);
    CHECK(net.stacks[1]->interface(port.name()).get() == &port);
    CHECK(port.name() != "moved");
}
