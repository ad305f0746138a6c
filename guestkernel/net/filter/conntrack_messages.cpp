#include "guestkernel/net/filter/conntrack_messages.hpp"

#include <linux/errno.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/filter/message.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net::filter {

namespace {

using netlink::Dump;
using netlink::Request;

void put_tuple(MessageWriter& out, u16 type, const Tuple& tuple) {
    const usize whole = out.open(type, true);
    const usize addresses = out.open(CTA_TUPLE_IP, true);
    out.address(tuple.v6() ? CTA_IP_V6_SRC : CTA_IP_V4_SRC, tuple.source);
    out.address(tuple.v6() ? CTA_IP_V6_DST : CTA_IP_V4_DST, tuple.destination);
    out.close(addresses);
    const usize protocol = out.open(CTA_TUPLE_PROTO, true);
    out.number8(CTA_PROTO_NUM, tuple.protocol);
    const u8 kind = static_cast<u8>(tuple.destination_port >> 8);
    const u8 code = static_cast<u8>(tuple.destination_port);
    switch (tuple.protocol) {
    case proto_icmp:
        put_be16(out, CTA_PROTO_ICMP_ID, tuple.source_port);
        out.number8(CTA_PROTO_ICMP_TYPE, kind);
        out.number8(CTA_PROTO_ICMP_CODE, code);
        break;
    case proto_icmpv6:
        put_be16(out, CTA_PROTO_ICMPV6_ID, tuple.source_port);
        out.number8(CTA_PROTO_ICMPV6_TYPE, kind);
        out.number8(CTA_PROTO_ICMPV6_CODE, code);
        break;
    default:
        put_be16(out, CTA_PROTO_SRC_PORT, tuple.source_port);
        put_be16(out, CTA_PROTO_DST_PORT, tuple.destination_port);
        break;
    }
    out.close(protocol);
    out.close(whole);
}

void put_tcp(MessageWriter& out, const Connection& connection) {
    const usize info = out.open(CTA_PROTOINFO, true);
    const usize tcp = out.open(CTA_PROTOINFO_TCP, true);
    out.number8(CTA_PROTOINFO_TCP_STATE, static_cast<u8>(connection.tcp));
    out.number8(CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, connection.sides[0].scale);
    out.number8(CTA_PROTOINFO_TCP_WSCALE_REPLY, connection.sides[1].scale);
    for (u8 i = 0; i < 2; i++) {
        const nf_ct_tcp_flags flags{
            static_cast<u8>((connection.sides[i].scaled ? 1 : 0) | (connection.liberal ? 8 : 0)),
            0};
        out.value(i == 0 ? CTA_PROTOINFO_TCP_FLAGS_ORIGINAL : CTA_PROTOINFO_TCP_FLAGS_REPLY, flags);
    }
    out.close(tcp);
    out.close(info);
}

bool write_connection(MessageWriter& out, const Filter& filter, u8 message,
                      const Connection& connection, const Heading& heading) {
    out.begin(static_cast<u16>(NFNL_SUBSYS_CTNETLINK << 8 | message), heading.flags,
              heading.sequence, heading.port);
    const Tuple& original = connection.ends[0].tuple;
    FamilyHeader header;
    header.family = original.v6() ? 10 : 2; // AF_INET6, AF_INET
    header.version = NFNETLINK_V0;
    header.resource.set(0);
    out.put(header);
    put_tuple(out, CTA_TUPLE_ORIG, original);
    put_tuple(out, CTA_TUPLE_REPLY, connection.ends[1].tuple);
    put_be32(out, CTA_STATUS, connection.status.load());
    put_be32(out, CTA_TIMEOUT, static_cast<u32>(connection.left_seconds(filter.stack.now())));
    if (connection.counted)
        for (u8 i = 0; i < 2; i++) {
            const usize counters = out.open(i == 0 ? CTA_COUNTERS_ORIG : CTA_COUNTERS_REPLY, true);
            put_be64(out, CTA_COUNTERS_PACKETS, connection.packets[i].load());
            put_be64(out, CTA_COUNTERS_BYTES, connection.bytes[i].load());
            out.close(counters);
        }
    if (original.protocol == proto_tcp)
        put_tcp(out, connection);
    put_be32(out, CTA_MARK, connection.mark.load());
    put_be32(out, CTA_ID, connection.id);
    put_be32(out, CTA_USE, 1);
    return out.end();
}

class ConnectionsDump final : public netlink::DumpContext {
public:
    Filter* filter = nullptr;
    u8 family = 0;
    bool reset = false;
    bool by_mark = false;
    u32 mark = 0, mark_mask = ~u32{0};
};

Result<bool> step(Dump& dump, MessageWriter& out) {
    auto& context = static_cast<ConnectionsDump&>(*dump.context);
    Connections& all = context.filter->connections;
    for (;;) {
        Ref<Connection> one;
        u64 next = dump.words[0];
        if (all.list(next, &one, 1) == 0)
            return true;
        const bool v6 = one->ends[0].tuple.v6();
        const bool wanted =
            (context.family == 0 || (context.family == 10) == v6) &&
            (!context.by_mark || (one->mark.load() & context.mark_mask) == context.mark) &&
            one->expires.load() > context.filter->stack.now();
        if (wanted &&
            !write_connection(out, *context.filter, IPCTNL_MSG_CT_NEW, *one, Heading::of(dump)))
            return false;
        if (wanted && context.reset)
            for (u8 i = 0; i < 2; i++) {
                one->packets[i].store(0);
                one->bytes[i].store(0);
            }
        dump.words[0] = next;
    }
}

// The tuple that a request names: EINVAL.
Result<Tuple> parse_tuple(std::span<const u8> bytes, bool v6) {
    Attributes<CTA_TUPLE_MAX + 1> parts;
    TRY(parts.parse(bytes));
    Attributes<CTA_IP_MAX + 1> addresses;
    Attributes<CTA_PROTO_MAX + 1> protocol;
    TRY(addresses.parse(parts.data(CTA_TUPLE_IP)));
    TRY(protocol.parse(parts.data(CTA_TUPLE_PROTO)));
    const Attribute* source = addresses[v6 ? CTA_IP_V6_SRC : CTA_IP_V4_SRC];
    const Attribute* destination = addresses[v6 ? CTA_IP_V6_DST : CTA_IP_V4_DST];
    if (source == nullptr || destination == nullptr || protocol[CTA_PROTO_NUM] == nullptr)
        return fail(EINVAL);
    Tuple out;
    TRY(out.source, netlink::address_of(*source, v6));
    TRY(out.destination, netlink::address_of(*destination, v6));
    out.protocol = protocol[CTA_PROTO_NUM]->as<u8>();
    const auto number = [&](u16 type) {
        return protocol[type] == nullptr ? u16{0} : protocol[type]->as<Be16>().get();
    };
    const auto byte = [&](u16 type) {
        return protocol[type] == nullptr ? u8{0} : protocol[type]->as<u8>();
    };
    if (out.protocol == proto_icmp || out.protocol == proto_icmpv6) {
        const bool six = out.protocol == proto_icmpv6;
        out.source_port = number(six ? CTA_PROTO_ICMPV6_ID : CTA_PROTO_ICMP_ID);
        out.destination_port =
            static_cast<u16>(u32{byte(six ? CTA_PROTO_ICMPV6_TYPE : CTA_PROTO_ICMP_TYPE)} << 8 |
                             byte(six ? CTA_PROTO_ICMPV6_CODE : CTA_PROTO_ICMP_CODE));
    } else {
        out.source_port = number(CTA_PROTO_SRC_PORT);
        out.destination_port = number(CTA_PROTO_DST_PORT);
    }
    return out;
}

Result<Ref<Connection>> named(Filter& filter, Request& request,
                              const Attributes<CTA_MAX + 1>& parts) {
    const bool v6 = request.payload()[0] == 10; // AF_INET6
    const Attribute* which =
        parts[CTA_TUPLE_ORIG] != nullptr ? parts[CTA_TUPLE_ORIG] : parts[CTA_TUPLE_REPLY];
    if (which == nullptr)
        return fail(EINVAL);
    TRY(const Tuple tuple, parse_tuple(which->data, v6));
    Ref<Connection> found = filter.connections.find(tuple);
    if (!found || (parts[CTA_ID] != nullptr && parts.number(CTA_ID) != found->id))
        return fail(ENOENT);
    return found;
}

Result<bool> step_statistics(Dump& dump, MessageWriter& out) {
    const Connections& all = static_cast<ConnectionsDump&>(*dump.context).filter->connections;
    dump.begin(out, static_cast<u16>(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS_CPU));
    FamilyHeader header;
    header.family = 0;
    header.version = NFNETLINK_V0;
    header.resource.set(0); // the CPU: all of them together
    out.put(header);
    const auto put = [&](u16 type, const base::Atomic<u64>& value) {
        put_be32(out, type, static_cast<u32>(value.load()));
    };
    put(CTA_STATS_FOUND, all.found);
    put(CTA_STATS_INVALID, all.invalid);
    put(CTA_STATS_INSERT, all.inserted);
    put(CTA_STATS_INSERT_FAILED, all.insert_failed);
    put(CTA_STATS_DROP, all.dropped);
    put(CTA_STATS_EARLY_DROP, all.early_dropped);
    return out.end();
}

// A dump begins without Filter::mutex, which the steps of those that are about rules take inside of
// the endpoint's.
Result<void> start_dump(Filter& filter, Request& request, const Attributes<CTA_MAX + 1>& parts) {
    const u32 message = request.type() & 0xff;
    TRY(Owned<ConnectionsDump> context, make_owned<ConnectionsDump>());
    context->filter = &filter;
    if (message == IPCTNL_MSG_CT_GET_STATS_CPU)
        return request.start_dump(step_statistics, std::move(context), false);
    context->family = request.payload()[0];
    context->reset = message == IPCTNL_MSG_CT_GET_CTRZERO;
    context->by_mark = parts[CTA_MARK] != nullptr;
    context->mark = parts.number(CTA_MARK);
    context->mark_mask = parts.number(CTA_MARK_MASK, ~u32{0});
    return request.start_dump(step, std::move(context), false);
}

bool is_dump(const Request& request) {
    const u32 message = request.type() & 0xff;
    return message == IPCTNL_MSG_CT_GET_STATS_CPU ||
           (request.is_dump() &&
            (message == IPCTNL_MSG_CT_GET || message == IPCTNL_MSG_CT_GET_CTRZERO));
}

Result<void> get(Filter& filter, Request& request, const Attributes<CTA_MAX + 1>& parts) {
    TRY(const Ref<Connection> found, named(filter, request, parts));
    MessageWriter out;
    (void)write_connection(out, filter, IPCTNL_MSG_CT_NEW, *found, Heading::of(request));
    return request.reply(out);
}

Result<void> remove(Filter& filter, Request& request, const Attributes<CTA_MAX + 1>& parts) {
    if (parts[CTA_TUPLE_ORIG] != nullptr || parts[CTA_TUPLE_REPLY] != nullptr) {
        TRY(const Ref<Connection> found, named(filter, request, parts));
        filter.connections.remove(*found);
        return {};
    }
    // Programs of before it counted name a family, and mean all of them.
    const bool counts = request.payload()[1] != NFNETLINK_V0;
    const u8 family = counts ? request.payload()[0] : u8{0};
    const bool by_mark = parts[CTA_MARK] != nullptr;
    const u32 mark = parts.number(CTA_MARK), mask = parts.number(CTA_MARK_MASK, ~u32{0});
    filter.connections.remove_if([&](const Connection& one) {
        return (family == 0 || (family == 10) == one.ends[0].tuple.v6()) &&
               (!by_mark || (one.mark.load() & mask) == mark);
    });
    return {};
}

// What may be changed of one that is there; none is made from outside.
Result<void> change(Filter& filter, Request& request, const Attributes<CTA_MAX + 1>& parts) {
    auto found = named(filter, request, parts);
    if (!found)
        return fail(found.error().code == ENOENT && request.wants(netlink::flag_create)
                        ? EOPNOTSUPP
                        : found.error().code);
    if (request.wants(netlink::flag_exclusive))
        return fail(EEXIST);
    for (const u16 refused : {CTA_NAT_SRC, CTA_NAT_DST, CTA_HELP, CTA_TUPLE_MASTER})
        if (parts[refused] != nullptr)
            return fail(EOPNOTSUPP);
    if (parts[CTA_MARK] != nullptr)
        (*found)->mark.store(parts.number(CTA_MARK));
    if (parts[CTA_TIMEOUT] != nullptr)
        filter.connections.renew(**found, parts.number(CTA_TIMEOUT));
    return {};
}

Result<void> count(Filter& filter, Request& request) {
    MessageWriter out;
    out.begin(static_cast<u16>(NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS), 0,
              request.sequence(), request.sender().port());
    FamilyHeader header;
    header.family = 0;
    header.version = NFNETLINK_V0;
    header.resource.set(0);
    out.put(header);
    put_be32(out, CTA_STATS_GLOBAL_ENTRIES, filter.connections.count());
    put_be32(out, CTA_STATS_GLOBAL_MAX_ENTRIES, most_connections.load());
    (void)out.end();
    return request.reply(out);
}

} // namespace

Result<void> receive_conntrack(Request& request) {
    TRY(Filter * filter, Filter::of(request.stack()));
    Attributes<CTA_MAX + 1> parts;
    TRY(parts.parse(request.attributes_after<FamilyHeader>()));
    if (is_dump(request))
        return start_dump(*filter, request, parts);
    MutexGuard guard(filter->mutex);
    switch (request.type() & 0xff) {
    case IPCTNL_MSG_CT_GET:
    case IPCTNL_MSG_CT_GET_CTRZERO:
        return get(*filter, request, parts);
    case IPCTNL_MSG_CT_DELETE:
        return remove(*filter, request, parts);
    case IPCTNL_MSG_CT_NEW:
        return change(*filter, request, parts);
    case IPCTNL_MSG_CT_GET_STATS:
        return count(*filter, request);
    default:
        return fail(EINVAL);
    }
}

} // namespace kernel::net::filter
