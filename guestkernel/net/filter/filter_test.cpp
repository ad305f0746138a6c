// Rules, connections and translation, over a virtual link. Programs' messages are put together here
// as they put them together.
#include <cstring>
#include <string>
#include <vector>

#include <linux/errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/filter/mangle.hpp"
#include "guestkernel/net/filter/message.hpp"
#include "guestkernel/net/filter/protocol.hpp"
#include "guestkernel/net/filter/set.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/task/task.hpp"

using namespace kernel;
using namespace kernel::net;
using namespace kernel::net::filter;
using namespace kernel::net::testing;
using netlink::MessageWriter;

namespace {

constexpr u64 millisecond = 1'000'000;

struct Fresh {
    Fresh() {
        reset_network();
        start_filter();
    }
};
struct Network : Fresh, Pair {};

// One batch for a stack, and what its sender is told.
class Batch {
public:
    explicit Batch(Stack& stack) : stack_(stack) {
        begin(NFNL_MSG_BATCH_BEGIN, 0, 0);
        REQUIRE(out_.end());
    }
    void begin(u16 message, u16 flags, u8 family = NFPROTO_IPV4) {
        const bool edge = message == NFNL_MSG_BATCH_BEGIN || message == NFNL_MSG_BATCH_END;
        out_.begin(edge ? message : static_cast<u16>(NFNL_SUBSYS_NFTABLES << 8 | message),
                   static_cast<u16>(netlink::flag_request | flags), ++sequence_, 0);
        FamilyHeader header;
        header.family = edge ? u8{0} : family;
        header.version = 0;
        header.resource.set(edge ? NFNL_SUBSYS_NFTABLES : 0);
        out_.put(header);
    }
    void end() { REQUIRE(out_.end()); }
    void table() {
        begin(NFT_MSG_NEWTABLE, netlink::flag_create);
        out_.text(NFTA_TABLE_NAME, "t");
        end();
    }
    void chain(const char* name) {
        begin(NFT_MSG_NEWCHAIN, netlink::flag_create);
        out_.text(NFTA_CHAIN_TABLE, "t");
        out_.text(NFTA_CHAIN_NAME, name);
        end();
    }
    void base_chain(const char* name, u32 hook, i32 priority, const char* type) {
        begin(NFT_MSG_NEWCHAIN, netlink::flag_create);
        out_.text(NFTA_CHAIN_TABLE, "t");
        out_.text(NFTA_CHAIN_NAME, name);
        const usize nested = out_.open(NFTA_CHAIN_HOOK, true);
        put_be32(out_, NFTA_HOOK_HOOKNUM, hook);
        put_be32(out_, NFTA_HOOK_PRIORITY, static_cast<u32>(priority));
        out_.close(nested);
        out_.text(NFTA_CHAIN_TYPE, type);
        end();
    }
    // A rule whose expressions `fill` adds by expression().
    template <typename F>
    void rule(const char* chain_name, F&& fill) {
        begin(NFT_MSG_NEWRULE, netlink::flag_create | netlink::flag_append);
        out_.text(NFTA_RULE_TABLE, "t");
        out_.text(NFTA_RULE_CHAIN, chain_name);
        const usize list = out_.open(NFTA_RULE_EXPRESSIONS, true);
        fill();
        out_.close(list);
        end();
    }
    template <typename F>
    void expression(const char* name, F&& fill) {
        const usize whole = out_.open(NFTA_LIST_ELEM, true);
        out_.text(NFTA_EXPR_NAME, name);
        const usize data = out_.open(NFTA_EXPR_DATA, true);
        fill(out_);
        out_.close(data);
        out_.close(whole);
    }
    void protocol_is(u8 protocol) {
        expression("meta", [](MessageWriter& out) {
            put_be32(out, NFTA_META_KEY, NFT_META_L4PROTO);
            put_be32(out, NFTA_META_DREG, NFT_REG_1);
        });
        expression("cmp", [&](MessageWriter& out) {
            put_be32(out, NFTA_CMP_SREG, NFT_REG_1);
            put_be32(out, NFTA_CMP_OP, NFT_CMP_EQ);
            const usize data = out.open(NFTA_CMP_DATA, true);
            out.number8(NFTA_DATA_VALUE, protocol);
            out.close(data);
        });
    }
    void counter() {
        expression("counter", [](MessageWriter&) {});
    }
    void verdict(i32 code, const char* chain_name = nullptr) {
        expression("immediate", [&](MessageWriter& out) {
            put_be32(out, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
            const usize data = out.open(NFTA_IMMEDIATE_DATA, true);
            const usize nested = out.open(NFTA_DATA_VERDICT, true);
            put_be32(out, NFTA_VERDICT_CODE, static_cast<u32>(code));
            if (chain_name != nullptr)
                out.text(NFTA_VERDICT_CHAIN, chain_name);
            out.close(nested);
            out.close(data);
        });
    }
    void value(u16 port) {
        expression("immediate", [&](MessageWriter& out) {
            put_be32(out, NFTA_IMMEDIATE_DREG, NFT_REG_1);
            const usize data = out.open(NFTA_IMMEDIATE_DATA, true);
            out.value(NFTA_DATA_VALUE, Be16(port));
            out.close(data);
        });
    }
    // The errors that its sender is told, in order; 0 for what succeeded with an acknowledgement.
    std::vector<int> send() {
        begin(NFNL_MSG_BATCH_END, 0);
        REQUIRE(out_.end());
        auto made = make_ref<netlink::Endpoint>(Ref<Stack>::share(&stack_),
                                                *netlink::find_protocol(NETLINK_NETFILTER));
        REQUIRE(made);
        netlink::Endpoint& endpoint = **made;
        REQUIRE(endpoint.bind_port(77));
        endpoint.submit(out_.bytes());
        std::vector<int> errors;
        while (netlink::QueuedMessage* message = endpoint.take()) {
            i32 error = 0;
            std::memcpy(&error, message->data() + sizeof(netlink::MessageHeader), sizeof error);
            errors.push_back(-error);
            destroy_message(message);
        }
        endpoint.close();
        return errors;
    }
    MessageWriter& out() { return out_; }

private:
    Stack& stack_;
    MessageWriter out_;
    u32 sequence_ = 0;
};

// What side 0 gets by its link.
struct Seen {
    std::vector<std::vector<u8>> packets; // from their network headers on
    explicit Seen(Network& net) {
        net.link.spy_context = this;
        net.link.spy = [](unsigned side, const Packet& packet, void* context) {
            if (side != 1)
                return;
            std::vector<u8> bytes(packet.length());
            REQUIRE(packet.copy_out(0, bytes.data(), packet.length()));
            if (bytes.size() > sizeof(EthernetHeader) && bytes[12] == 8 && bytes[13] == 0)
                static_cast<Seen*>(context)->packets.emplace_back(
                    bytes.begin() + sizeof(EthernetHeader), bytes.end());
        };
    }
};

void send_udp(Network& net, u16 from, u16 to) {
    Flow flow;
    flow.source = IpAddress::v4_any();
    flow.destination = ip4(10, 0, 0, 2);
    flow.protocol = proto_udp;
    REQUIRE(resolve(*net.stacks[0], flow));
    PacketPtr packet = Packet::allocate(0);
    REQUIRE(packet);
    REQUIRE(packet->append("hello!", 6));
    UdpHeader header{};
    header.source.set(from);
    header.destination.set(to);
    header.length.set(14);
    packet->push_header(header);
    packet->start_checksum(flow_pseudo_header(flow, 14), 0, udp_checksum_field);
    REQUIRE(ip_output(*net.stacks[0], flow, std::move(packet)));
    net.run_for(200 * millisecond);
}

} // namespace

TEST_CASE("a rule drops and counts what it is for, and no hook is left when it is gone") {
    Network net;
    Stack& stack = *net.stacks[1];
    Batch batch(stack);
    batch.table();
    batch.base_chain("in", NF_INET_LOCAL_IN, 0, "filter");
    batch.rule("in", [&] {
        batch.protocol_is(proto_udp);
        batch.counter();
        batch.verdict(NF_DROP);
    });
    REQUIRE(batch.send().empty());
    REQUIRE(stack.hooked(HookPoint::Input));
    REQUIRE_FALSE(stack.hooked(HookPoint::Output));
    Seen seen(net);
    send_udp(net, 1000, 7000);
    REQUIRE(seen.packets.empty()); // no port unreachable

    Batch flush(stack);
    flush.begin(NFT_MSG_DELTABLE, 0, NFPROTO_UNSPEC);
    flush.end();
    REQUIRE(flush.send().empty());
    REQUIRE_FALSE(stack.hooked(HookPoint::Input));
    send_udp(net, 1000, 7000);
    REQUIRE(seen.packets.size() == 1);
}

TEST_CASE("a batch with one wrong message leaves nothing of the others") {
    Network net;
    Stack& stack = *net.stacks[1];
    Batch batch(stack);
    batch.table();
    batch.base_chain("in", NF_INET_LOCAL_IN, 0, "filter");
    batch.rule("nowhere", [&] { batch.verdict(NF_DROP); });
    REQUIRE(batch.send() == std::vector<int>{ENOENT});
    REQUIRE(Filter::existing(stack)->tables.empty());
    REQUIRE_FALSE(stack.hooked(HookPoint::Input));
}

TEST_CASE("chains that lead in a circle are refused at the rule that closes it") {
    Network net;
    Batch batch(*net.stacks[1]);
    batch.table();
    batch.base_chain("in", NF_INET_LOCAL_IN, 0, "filter");
    batch.chain("a");
    batch.chain("b");
    batch.rule("in", [&] { batch.verdict(NFT_JUMP, "a"); });
    batch.rule("a", [&] { batch.verdict(NFT_JUMP, "b"); });
    batch.rule("b", [&] { batch.verdict(NFT_JUMP, "a"); });
    REQUIRE(batch.send() == std::vector<int>{EMLINK});
    REQUIRE(Filter::existing(*net.stacks[1])->tables.empty());
}

TEST_CASE("a packet that rules would keep busy for ever is dropped") {
    Network net;
    Stack& stack = *net.stacks[1];
    Batch batch(stack);
    batch.table();
    batch.base_chain("in", NF_INET_LOCAL_IN, 0, "filter");
    constexpr int levels = 14, rules = 20; // 20^14 ways through
    for (int level = 0; level < levels; level++)
        batch.chain(std::to_string(level).c_str());
    for (int level = -1; level + 1 < levels; level++)
        for (int i = 0; i < rules; i++)
            batch.rule(level < 0 ? "in" : std::to_string(level).c_str(),
                       [&] { batch.verdict(NFT_JUMP, std::to_string(level + 1).c_str()); });
    REQUIRE(batch.send().empty());
    Seen seen(net);
    send_udp(net, 1000, 7000);
    REQUIRE(seen.packets.empty()); // no port unreachable
}

TEST_CASE("a register that nothing was put into cannot be compared") {
    Network net;
    Batch batch(*net.stacks[1]);
    batch.table();
    batch.chain("c");
    batch.rule("c", [&] {
        batch.expression("cmp", [](MessageWriter& out) {
            put_be32(out, NFTA_CMP_SREG, NFT_REG_2);
            put_be32(out, NFTA_CMP_OP, NFT_CMP_EQ);
            const usize data = out.open(NFTA_CMP_DATA, true);
            out.number8(NFTA_DATA_VALUE, 1);
            out.close(data);
        });
    });
    REQUIRE(batch.send() == std::vector<int>{ENODATA});
}

TEST_CASE("the error about a redirected datagram quotes it as it was sent") {
    Network net;
    Stack& stack = *net.stacks[1];
    Batch batch(stack);
    batch.table();
    batch.base_chain("pre", NF_INET_PRE_ROUTING, -100, "nat");
    batch.rule("pre", [&] {
        batch.protocol_is(proto_udp);
        batch.value(7001);
        batch.expression("redir", [](MessageWriter& out) {
            put_be32(out, NFTA_REDIR_REG_PROTO_MIN, NFT_REG_1);
        });
    });
    REQUIRE(batch.send().empty());
    Seen seen(net);
    send_udp(net, 1000, 7000);
    REQUIRE(seen.packets.size() == 1);
    const std::vector<u8>& answer = seen.packets[0];
    REQUIRE(answer.size() >= 20 + 8 + 20 + 8);
    REQUIRE(answer[9] == proto_icmp);
    REQUIRE(answer[20] == 3); // destination unreachable
    REQUIRE(checksum(answer.data() + 20, answer.size() - 20) == 0);
    // The datagram's destination port, in its header behind the error's and its own IP header.
    REQUIRE((answer[50] << 8 | answer[51]) == 7000);
    REQUIRE(Filter::existing(stack)->connections.count() == 1);
    net.run_for(u64{40'000} * millisecond); // its time is over: collected
    REQUIRE(Filter::existing(stack)->connections.count() == 0);
}

TEST_CASE("a full table gives up connections without an answer for new ones") {
    Network net;
    Stack& stack = *net.stacks[1];
    Batch batch(stack);
    batch.table();
    batch.base_chain("pre", NF_INET_PRE_ROUTING, -100, "nat");
    REQUIRE(batch.send().empty());
    Connections& connections = Filter::existing(stack)->connections;
    const u32 usual = most_connections.load();
    most_connections.store(32);
    for (u16 port = 1; port <= 200; port++)
        send_udp(net, static_cast<u16>(2000 + port), 7000);
    REQUIRE(connections.count() <= 32);
    REQUIRE(connections.inserted.load() > 32);
    most_connections.store(usual);
}

TEST_CASE("sums stay right when addresses and ports are replaced") {
    Network net;
    for (const bool partial : {false, true}) {
        const IpAddress from = ip4(10, 0, 0, 1), to = ip4(10, 0, 0, 2);
        PacketPtr packet = Packet::allocate(0);
        REQUIRE(packet->append("odd", 3));
        UdpHeader udp{};
        udp.source.set(1000);
        udp.destination.set(2000);
        udp.length.set(11);
        packet->push_header(udp);
        packet->start_checksum(pseudo_header(from, to, proto_udp, 11), 0, udp_checksum_field);
        if (!partial)
            packet->finish_checksum();
        Ipv4Header ip{};
        ip.version_length = 0x45;
        ip.total_length.set(31);
        ip.ttl = 64;
        ip.protocol = proto_udp;
        ip.source.set(from.v4_value());
        ip.destination.set(to.v4_value());
        packet->push_header(ip);
        packet->mark_network();
        set_header_checksum(*packet, sizeof ip);
        Tuple wanted;
        wanted.source = ip4(192, 168, 77, 3);
        wanted.destination = ip4(203, 0, 113, 250);
        wanted.source_port = 40001;
        wanted.destination_port = 53;
        wanted.protocol = proto_udp;
        REQUIRE(set_end(*packet, 0, wanted, true, Part::Whole));
        REQUIRE(set_end(*packet, 0, wanted, false, Part::Whole));
        packet->finish_checksum();
        REQUIRE(checksum(packet->data(), sizeof ip) == 0);
        ChecksumSum sum = pseudo_header(wanted.source, wanted.destination, proto_udp, 11);
        packet->add_to(sum, sizeof ip, 11);
        REQUIRE(sum.finish() == 0);
    }
}

TEST_CASE("an interval holds what lies between its ends, and ends next to each other do not mix") {
    Network net;
    auto made = make_ref<Set>();
    REQUIRE(made);
    Set& set = **made;
    set.flags = NFT_SET_INTERVAL;
    set.key_length = 2;
    const auto add = [&](u8 high, u8 low, bool end) {
        auto element = make_owned<Element>();
        REQUIRE(element);
        (*element)->key[0] = high;
        (*element)->key[1] = low;
        (*element)->interval_end = end;
        (*element)->state = ElementState::Live;
        REQUIRE(set.insert(std::move(*element), 0));
    };
    add(1, 0, false);
    add(2, 0, true);
    add(2, 0, false);
    add(3, 0, true);
    const auto holds = [&](u8 high, u8 low) {
        const u8 key[2] = {high, low};
        return set.with(key, 0, [](Element&) {});
    };
    REQUIRE_FALSE(holds(0, 255));
    REQUIRE(holds(1, 0));
    REQUIRE(holds(1, 255));
    REQUIRE(holds(2, 0));
    REQUIRE(holds(2, 255));
    REQUIRE_FALSE(holds(3, 0));
}

TEST_CASE("elements whose time is over go from a set without a size, and intervals as a whole") {
    Network net;
    constexpr u64 second = 1000 * millisecond;
    auto made = make_ref<Set>();
    REQUIRE(made);
    Set& set = **made;
    set.flags = NFT_SET_TIMEOUT | NFT_SET_EVAL;
    set.key_length = 4;
    set.timeout_ms = 1000;
    const auto add = [&](u32 number, u64 now) {
        const u8 key[4] = {static_cast<u8>(number >> 8), static_cast<u8>(number)};
        return set.add_by_packet(key, nullptr, 0, now, [](Element&) {});
    };
    for (u32 number = 0; number < 500; number++)
        REQUIRE(add(number, second));
    REQUIRE(set.count() == 500);
    REQUIRE(add(1000, 10 * second));
    REQUIRE(set.count() == 1);
    // A full one is not gone through for each packet.
    set.size = 1;
    REQUIRE_FALSE(add(1001, 10 * second + 999 * millisecond));
    set.timeout_ms = 100;
    REQUIRE(add(1002, 11 * second + 1 * millisecond));
    REQUIRE_FALSE(add(1003, 11 * second + 500 * millisecond));
    REQUIRE(add(1004, 12 * second + 2 * millisecond));

    auto other = make_ref<Set>();
    REQUIRE(other);
    Set& intervals = **other;
    intervals.flags = NFT_SET_TIMEOUT | NFT_SET_INTERVAL;
    intervals.key_length = 1;
    const auto add_boundary = [&](u8 key, bool end, u64 expires_at, u64 now) {
        auto element = make_owned<Element>();
        REQUIRE(element);
        (*element)->key[0] = key;
        (*element)->interval_end = end;
        (*element)->expires_at = expires_at;
        (*element)->state = ElementState::Live;
        REQUIRE(intervals.insert(std::move(*element), now));
    };
    add_boundary(10, false, 2 * second, second);
    add_boundary(20, true, 0, second);
    add_boundary(20, false, 0, second); // for ever
    add_boundary(30, true, 0, second);
    add_boundary(40, false, 0, 10 * second);
    REQUIRE(intervals.count() == 3);
    const u8 inside = 25;
    REQUIRE(intervals.with(&inside, 10 * second, [](Element&) {}));

    // One that ends where the next begins, without a boundary of its own, does not get longer.
    const auto holds = [&](u8 key, u64 now) { return intervals.with(&key, now, [](Element&) {}); };
    add_boundary(50, false, 0, 10 * second);
    add_boundary(60, false, 11 * second, 10 * second);
    add_boundary(70, true, 0, 10 * second);
    REQUIRE(holds(65, 10 * second));
    REQUIRE_FALSE(holds(65, 12 * second));
    add_boundary(90, false, 0, 20 * second); // what is over is looked for
    REQUIRE(holds(55, 20 * second));
    REQUIRE_FALSE(holds(65, 20 * second));
    REQUIRE_FALSE(holds(75, 20 * second));
}
