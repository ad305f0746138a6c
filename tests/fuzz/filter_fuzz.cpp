// Rules of the packet filter that any program could send, and packets that go through them. The
// input chooses among messages that are nearly right: tables, chains, sets and rules by a few
// names, expressions with plausible and with arbitrary attributes. Whatever is accepted runs, is
// dumped and is taken down again.
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nf_tables_compat.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/filter/protocol.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/testing/virtual_link.hpp"
#include "guestkernel/task/task.hpp"
#include "tests/fuzz/guest_bytes.hpp"
#include "tests/fuzz/netlink_drain.hpp"

using namespace kernel::net;
namespace testing = kernel::net::testing;
using Sender = netlink::Endpoint;
using netlink::MessageHeader;
using Bytes = std::vector<std::uint8_t>;

namespace {

constexpr int netfilter = 12; // NETLINK_NETFILTER
constexpr std::uint64_t ram = std::uint64_t{64} << 20;

// Each with its attributes from type 1 on: a register, a number (small, or of 8 bits or 64 bits), a
// value, a name; '-': none there.
struct Shape {
    std::string_view name, attributes;
};
constexpr Shape expressions[] = {
    {"bitwise", "rrnvvnv"}, {"byteorder", "rrnnn"}, {"cmp", "rnv"},       {"counter", "qq"},
    {"ct", "rnb"},          {"ct", "-nbr"},         {"dynset", "s-nrrq"}, {"fib", "rnn"},
    {"immediate", "rv"},    {"limit", "qqnnn"},     {"log", "-s--n"},     {"lookup", "sr"},
    {"lookup", "srr"},      {"masq", "n"},          {"match", ""},        {"meta", "rn"},
    {"meta", "-nr"},        {"nat", "nnrrrr"},      {"nat", "nnr-r"},     {"notrack", ""},
    {"numgen", "rnnn"},     {"objref", "ns"},       {"payload", "rnnn"},  {"payload", "-nnnrnnn"},
    {"quota", "qn"},        {"range", "rnvv"},      {"redir", "rr"},      {"reject", "nb"},
    {"target", ""}};
constexpr std::string_view chains[] = {"c", "c", "d"}, sets[] = {"s", "m"};
constexpr std::string_view names[] = {"c", "d", "s", "m", "o", "t"};
struct Compat {
    std::string_view name;
    std::uint16_t bytes; // of its data, as some revision has it
};
constexpr Compat compats[] = {
    {"conntrack", 164}, {"state", 4},     {"mark", 12},      {"addrtype", 4},  {"owner", 32},
    {"limit", 40},      {"tcp", 12},      {"udp", 10},       {"icmp", 4},      {"multiport", 48},
    {"iprange", 68},    {"mac", 8},       {"statistic", 32}, {"DNAT", 20},     {"SNAT", 20},
    {"MASQUERADE", 20}, {"REDIRECT", 20}, {"MARK", 8},       {"CONNMARK", 12}, {"REJECT", 4},
    {"LOG", 32},        {"CT", 80},       {"TCPMSS", 2}};

// Attributes within attributes.
class Writer {
public:
    explicit Writer(fuzz::GuestBytes& choices) : in(choices) {}
    void raw(const void* data, std::size_t length) {
        const auto* at = static_cast<const std::uint8_t*>(data);
        out.insert(out.end(), at, at + length);
        while (out.size() % 4 != 0)
            out.push_back(0);
    }
    void attribute(std::uint16_t type, const void* data, std::size_t length) {
        const std::uint16_t head[2] = {static_cast<std::uint16_t>(4 + length), type};
        raw(head, sizeof head);
        raw(data, length);
    }
    void text(std::uint16_t type, std::string_view value) {
        char copy[32] = {};
        std::memcpy(copy, value.data(), value.size());
        attribute(type, copy, value.size() + 1);
    }
    void big(std::uint16_t type, std::uint32_t value) {
        const std::uint32_t swapped = __builtin_bswap32(value);
        attribute(type, &swapped, sizeof swapped);
    }
    template <typename F>
    void nested(std::uint16_t type, F&& fill) {
        const std::size_t start = out.size();
        const std::uint16_t head[2] = {0, static_cast<std::uint16_t>(type | 0x8000)};
        raw(head, sizeof head);
        fill();
        const auto length = static_cast<std::uint16_t>(out.size() - start);
        std::memcpy(out.data() + start, &length, sizeof length);
    }
    template <typename T, std::size_t N>
    const T& one_of(const T (&list)[N]) {
        return list[in.take<std::uint8_t>() % N];
    }
    std::uint32_t small() {
        const auto kind = in.take<std::uint8_t>();
        if (kind >= 250)
            return in.take<std::uint32_t>();
        return kind % (kind < 128 ? 5 : 24);
    }
    void value(std::uint16_t type) { // NFTA_DATA_VALUE of some length
        nested(type, [&] {
            const auto chance = in.take<std::uint8_t>();
            const auto bytes = in.take_bytes(chance < 160 ? 4u : 1u + chance % 18);
            attribute(NFTA_DATA_VALUE, bytes.data(), bytes.size());
        });
    }
    void verdict(std::uint16_t type) {
        nested(type, [&] {
            nested(NFTA_DATA_VERDICT, [&] {
                constexpr std::uint32_t codes[] = {0,
                                                   1,
                                                   static_cast<std::uint32_t>(NFT_JUMP),
                                                   static_cast<std::uint32_t>(NFT_GOTO),
                                                   static_cast<std::uint32_t>(NFT_RETURN),
                                                   static_cast<std::uint32_t>(NFT_CONTINUE),
                                                   77};
                big(NFTA_VERDICT_CODE, one_of(codes));
                if ((in.take<std::uint8_t>() & 1) != 0)
                    text(NFTA_VERDICT_CHAIN, one_of(names));
            });
        });
    }
    void anything(std::uint16_t type, int depth) {
        switch (in.take<std::uint8_t>() % 8) {
        case 0:
            text(type, one_of(names));
            break;
        case 1:
            value(type);
            break;
        case 2:
            verdict(type);
            break;
        case 3: {
            const auto bytes = in.take_bytes(in.take<std::uint8_t>() % 40);
            attribute(type, bytes.data(), bytes.size());
            break;
        }
        case 4:
            if (depth < 4) {
                nested(type, [&] { some(depth + 1); });
                break;
            }
            [[fallthrough]];
        default:
            big(type, small());
        }
    }
    // The first few types of an attribute set, most of them there.
    void some(int depth) {
        const unsigned most = 1 + in.take<std::uint8_t>() % 9;
        for (unsigned type = 1; type <= most; type++)
            if (in.take<std::uint8_t>() % 8 != 0)
                anything(static_cast<std::uint16_t>(type), depth);
    }
    void by_shape(std::string_view shape) {
        for (std::uint16_t type = 1; type <= shape.size(); type++) {
            if (in.take<std::uint8_t>() < 12) { // now and then what does not belong there
                anything(type, 0);
                continue;
            }
            switch (shape[type - 1]) {
            case 'r':
                big(type, 1 + in.take<std::uint8_t>() % 4);
                break;
            case 'n':
                big(type, small());
                break;
            case 'b': {
                const auto byte = static_cast<std::uint8_t>(small());
                attribute(type, &byte, sizeof byte);
                break;
            }
            case 'q': {
                const std::uint64_t number = __builtin_bswap64(small());
                attribute(type, &number, sizeof number);
                break;
            }
            case 'v':
                value(type);
                break;
            case 's':
                text(type, one_of(names));
                break;
            default:
                break;
            }
        }
    }
    void compat() {
        const Compat& which = one_of(compats);
        text(NFTA_MATCH_NAME, which.name); // the same numbers as a target's
        big(NFTA_MATCH_REV, in.take<std::uint8_t>() % 4);
        std::vector<std::uint8_t> data(which.bytes + (in.take<std::uint8_t>() < 16 ? 8u : 0u));
        const auto bytes = in.take_bytes(in.take<std::uint8_t>());
        std::memcpy(data.data(), bytes.data(), std::min(bytes.size(), data.size()));
        attribute(NFTA_MATCH_INFO, data.data(), data.size());
    }
    void expression(std::uint16_t type) {
        nested(type, [&] {
            const Shape& kind = one_of(expressions);
            const std::string_view name = kind.name;
            text(NFTA_EXPR_NAME, name);
            nested(NFTA_EXPR_DATA, [&] {
                if (name == "match" || name == "target")
                    compat();
                else if (name == "immediate" && (in.take<std::uint8_t>() & 1) != 0) {
                    big(NFTA_IMMEDIATE_DREG, 0);
                    verdict(NFTA_IMMEDIATE_DATA);
                } else
                    by_shape(kind.attributes);
            });
        });
    }
    void elements(std::uint16_t type) {
        nested(type, [&] {
            for (unsigned count = in.take<std::uint8_t>() % 5; count > 0; count--)
                nested(NFTA_LIST_ELEM, [&] {
                    if ((in.take<std::uint8_t>() & 3) != 0)
                        value(NFTA_SET_ELEM_KEY);
                    if ((in.take<std::uint8_t>() & 1) != 0)
                        (in.take<std::uint8_t>() & 1) != 0 ? value(NFTA_SET_ELEM_DATA)
                                                           : verdict(NFTA_SET_ELEM_DATA);
                    if ((in.take<std::uint8_t>() & 3) == 0)
                        big(NFTA_SET_ELEM_FLAGS, small());
                    if ((in.take<std::uint8_t>() & 7) == 0)
                        value(NFTA_SET_ELEM_KEY_END);
                    if ((in.take<std::uint8_t>() & 7) == 0)
                        expression(NFTA_SET_ELEM_EXPR);
                });
        });
    }
    void content(std::uint8_t type);

    fuzz::GuestBytes& in;
    Bytes out;
};

// What a request of this type usually has.
void Writer::content(std::uint8_t type) {
    switch (type) {
    case NFT_MSG_NEWTABLE:
    case NFT_MSG_DELTABLE:
        text(NFTA_TABLE_NAME, "t");
        break;
    case NFT_MSG_NEWCHAIN: {
        text(NFTA_CHAIN_TABLE, "t");
        text(NFTA_CHAIN_NAME, one_of(names));
        if ((in.take<std::uint8_t>() & 3) != 0)
            nested(NFTA_CHAIN_HOOK, [&] {
                big(NFTA_HOOK_HOOKNUM, in.take<std::uint8_t>() % 5);
                big(NFTA_HOOK_PRIORITY, small() - 12);
            });
        constexpr std::string_view types[] = {"filter", "nat", "route"};
        text(NFTA_CHAIN_TYPE, one_of(types));
        break;
    }
    case NFT_MSG_NEWRULE:
        text(NFTA_RULE_TABLE, "t");
        text(NFTA_RULE_CHAIN, one_of(chains));
        nested(NFTA_RULE_EXPRESSIONS, [&] {
            for (unsigned count = 1 + in.take<std::uint8_t>() % 5; count > 0; count--)
                expression(NFTA_LIST_ELEM);
        });
        break;
    case NFT_MSG_NEWSET:
        text(NFTA_SET_TABLE, "t");
        text(NFTA_SET_NAME, one_of(names));
        big(NFTA_SET_FLAGS, in.take<std::uint8_t>() & 0x7f);
        big(NFTA_SET_KEY_TYPE, small());
        big(NFTA_SET_KEY_LEN, 1 + in.take<std::uint8_t>() % 18);
        big(NFTA_SET_ID, small());
        if ((in.take<std::uint8_t>() & 1) != 0) {
            big(NFTA_SET_DATA_TYPE, (in.take<std::uint8_t>() & 1) != 0 ? 0xffffff00u : small());
            big(NFTA_SET_DATA_LEN, small());
        }
        break;
    case NFT_MSG_NEWSETELEM:
    case NFT_MSG_DELSETELEM:
    case NFT_MSG_GETSETELEM:
        text(NFTA_SET_ELEM_LIST_TABLE, "t");
        text(NFTA_SET_ELEM_LIST_SET, one_of(sets));
        elements(NFTA_SET_ELEM_LIST_ELEMENTS);
        break;
    default:
        text(1, "t");
        some(0);
    }
}

void put_message(Bytes& all, std::uint16_t type, std::uint16_t flags, std::uint8_t family,
                 const Bytes& content) {
    MessageHeader header{};
    header.length = static_cast<std::uint32_t>(sizeof header + 4 + content.size());
    header.type = type;
    header.flags = static_cast<std::uint16_t>(netlink::flag_request | flags);
    const std::uint8_t general[4] = {family, 0, 0, type < 32 ? std::uint8_t{10} : std::uint8_t{0}};
    const auto* start = reinterpret_cast<const std::uint8_t*>(&header);
    all.insert(all.end(), start, start + sizeof header);
    all.insert(all.end(), general, general + sizeof general);
    all.insert(all.end(), content.begin(), content.end());
}

// One of everything that can be listed.
void dump_all(Sender& endpoint) {
    for (const std::uint8_t type :
         {NFT_MSG_GETTABLE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETOBJ}) {
        Bytes request;
        put_message(request, static_cast<std::uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type),
                    netlink::flag_dump, 0, {});
        endpoint.submit(request);
        fuzz::drain(endpoint);
    }
    Bytes request;
    put_message(request, NFNL_SUBSYS_CTNETLINK << 8 | 1, netlink::flag_dump, 0, {});
    endpoint.submit(request);
    fuzz::drain(endpoint);
}

void send_packet(testing::Pair& net, fuzz::GuestBytes& in) {
    const bool outward = (in.take<std::uint8_t>() & 1) != 0;
    kernel::net::Stack& stack = *net.stacks[outward ? 1 : 0];
    constexpr std::uint8_t protocols[] = {proto_udp, proto_tcp, proto_icmp, 99};
    Flow flow;
    flow.source = IpAddress::v4_any();
    flow.destination = testing::ip4(10, 0, 0, outward ? 1 : 2);
    flow.protocol = protocols[in.take<std::uint8_t>() % 4];
    if (!resolve(stack, flow))
        return;
    PacketPtr packet = Packet::allocate(0);
    const auto bytes = in.take_bytes(in.take<std::uint8_t>() % 64);
    if (!packet || !packet->append(bytes.data(), static_cast<kernel::u32>(bytes.size())))
        return;
    (void)ip_output(stack, flow, std::move(packet));
    net.run_for(1'000'000);
}

// What the rest stands on: chains at two hooks and one that is jumped to, a set, a map of verdicts.
Bytes foundation(fuzz::GuestBytes& in) {
    Bytes all;
    const auto add = [&](std::uint8_t type, auto&& fill) {
        Writer writer(in);
        fill(writer);
        put_message(all, static_cast<std::uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type),
                    netlink::flag_create, 2, writer.out);
    };
    put_message(all, NFNL_MSG_BATCH_BEGIN, 0, 0, {});
    add(NFT_MSG_NEWTABLE, [](Writer& out) { out.text(NFTA_TABLE_NAME, "t"); });
    add(NFT_MSG_NEWCHAIN, [&](Writer& out) {
        out.text(NFTA_CHAIN_TABLE, "t");
        out.text(NFTA_CHAIN_NAME, "c");
        out.nested(NFTA_CHAIN_HOOK, [&] {
            out.big(NFTA_HOOK_HOOKNUM, in.take<std::uint8_t>() % 5);
            out.big(NFTA_HOOK_PRIORITY, 0);
        });
        out.text(NFTA_CHAIN_TYPE, (in.take<std::uint8_t>() & 1) != 0 ? "nat" : "filter");
    });
    add(NFT_MSG_NEWCHAIN, [](Writer& out) {
        out.text(NFTA_CHAIN_TABLE, "t");
        out.text(NFTA_CHAIN_NAME, "d");
    });
    for (const char* name : {"s", "m"})
        add(NFT_MSG_NEWSET, [&](Writer& out) {
            const bool map = name[0] == 'm';
            out.text(NFTA_SET_TABLE, "t");
            out.text(NFTA_SET_NAME, name);
            out.big(NFTA_SET_FLAGS, map ? 8u : (in.take<std::uint8_t>() & 1) * 4u);
            out.big(NFTA_SET_KEY_TYPE, 7);
            out.big(NFTA_SET_KEY_LEN, 4);
            out.big(NFTA_SET_ID, map ? 2 : 1);
            if (map) {
                out.big(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
                out.big(NFTA_SET_DATA_LEN, 0);
            }
        });
    put_message(all, NFNL_MSG_BATCH_END, 0, 0, {});
    return all;
}

void run(fuzz::GuestBytes& in) {
    testing::Pair net;
    auto made = kernel::make_ref<Sender>(net.stacks[1], *netlink::find_protocol(netfilter));
    if (!made || !(*made)->bind_port(1))
        std::abort();
    Sender& endpoint = **made;
    endpoint.submit(foundation(in));
    fuzz::drain(endpoint);
    for (int batches = 0; !in.empty() && batches < 64; batches++) {
        Bytes all;
        put_message(all, NFNL_MSG_BATCH_BEGIN, 0, 0, {});
        const auto several = in.take<std::uint8_t>();
        for (unsigned count = several < 200 ? 1 : several % 4; count > 0; count--) {
            const auto choice = in.take<std::uint8_t>();
            constexpr std::uint8_t usual[] = {NFT_MSG_NEWCHAIN, NFT_MSG_NEWSET, NFT_MSG_NEWRULE,
                                              NFT_MSG_NEWSETELEM, NFT_MSG_NEWRULE};
            const std::uint8_t type = batches == 0 && count == 1 ? std::uint8_t{NFT_MSG_NEWTABLE}
                                      : choice < 200             ? usual[choice % 5]
                                                     : static_cast<std::uint8_t>(choice % 28);
            Writer writer(in);
            writer.content(type);
            const std::uint8_t family = choice % 16 == 15 ? std::uint8_t{1} : std::uint8_t{2};
            put_message(all, static_cast<std::uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type),
                        netlink::flag_create, family, writer.out);
        }
        put_message(all, NFNL_MSG_BATCH_END, 0, 0, {});
        endpoint.submit(all);
        fuzz::drain(endpoint);
        send_packet(net, in);
    }
    dump_all(endpoint);
    endpoint.close();
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    testing::reset_network(ram);
    filter::start_filter();
    {
        kernel::Task task;
        kernel::hosted::set_current(&task);
        fuzz::GuestBytes in(data, size);
        run(in);
    }
    kernel::hosted::set_current(nullptr);
    set_change_listener(nullptr);
    return 0;
}
