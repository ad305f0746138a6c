// RTM_NEWROUTE messages, and RTM_GETROUTE.
#include <linux/errno.h>
#include <linux/in_route.h>
#include <linux/rtnetlink.h>

#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/route/family.hpp"
#include "guestkernel/net/netlink/route/route_order.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 inet = 2, inet6 = 10; // AF_INET, AF_INET6
constexpr u32 local_flag = 0x8000'0000, broadcast_flag = 0x1000'0000, multicast_flag = 0x2000'0000;

u8 short_table(u32 table) {
    return table < 256 ? static_cast<u8>(table) : u8{RT_TABLE_COMPAT};
}

void put_metrics(MessageWriter& out, u32 mtu, bool mtu_locked, u32 window, u32 receive_window,
                 u32 mss, u8 hop_limit) {
    const usize metrics = out.open(RTA_METRICS);
    const auto put = [&](u16 number, u32 value) {
        if (value != 0)
            out.number32(number, value);
    };
    if (mtu_locked)
        out.number32(RTAX_LOCK, 1u << RTAX_MTU);
    put(RTAX_MTU, mtu);
    put(RTAX_ADVMSS, mss);
    put(RTAX_HOPLIMIT, hop_limit);
    put(RTAX_INITCWND, window);
    put(RTAX_INITRWND, receive_window);
    out.close_or_drop(metrics);
}

u32 hop_flags(const NextHop& hop) {
    u32 flags = hop.on_link ? RTNH_F_ONLINK : 0;
    if (!hop.interface->is_up())
        flags |= RTNH_F_DEAD | RTNH_F_LINKDOWN;
    else if ((hop.interface->flags() & iff_lower_up) == 0)
        flags |= RTNH_F_LINKDOWN;
    return flags;
}

void put_gateway(MessageWriter& out, const NextHop& hop, bool v6) {
    if (!hop.has_gateway())
        return;
    if (hop.gateway.is_v6() == v6) {
        out.address(RTA_GATEWAY, hop.gateway);
        return;
    }
    // An IPv6 router of an IPv4 destination: struct rtvia.
    u8 via[2 + 16];
    const u16 family = hop.gateway.is_v6() ? inet6 : inet;
    __builtin_memcpy(via, &family, sizeof family);
    __builtin_memcpy(via + 2, hop.gateway.wire(), hop.gateway.wire_bytes());
    out.attribute(RTA_VIA, via, 2 + hop.gateway.wire_bytes());
}

void put_hops(MessageWriter& out, const Route& route) {
    if (route.hops.size() == 1) {
        put_gateway(out, route.hops[0], route.v6());
        out.number32(RTA_OIF, route.hops[0].interface->index());
        return;
    }
    if (route.hops.empty())
        return;
    const usize all = out.open(RTA_MULTIPATH);
    for (const NextHop& hop : route.hops) {
        rtnexthop entry{};
        const usize at = out.position();
        entry.rtnh_flags = static_cast<u8>(hop_flags(hop));
        entry.rtnh_hops = static_cast<u8>(hop.weight - 1);
        entry.rtnh_ifindex = static_cast<i32>(hop.interface->index());
        out.put(entry);
        put_gateway(out, hop, route.v6());
        out.close(at); // its length stands where an attribute's would
    }
    out.close(all);
}

void put_cache_info(MessageWriter& out, u64 expires, u64 now) {
    rta_cacheinfo info{};
    if (expires != no_deadline)
        info.rta_expires = expires <= now ? 0 : static_cast<i32>(clock_ticks_of(expires - now));
    out.value(RTA_CACHEINFO, info);
}

} // namespace

bool fill_route(MessageWriter& out, Stack& stack, const Route& route, const Heading& heading,
                u32 as_table) {
    const u32 table = as_table != 0 ? as_table : route.table;
    heading.begin(out);
    const bool v6 = route.v6();
    rtmsg header{};
    header.rtm_family = v6 ? inet6 : inet;
    header.rtm_dst_len = route.length;
    header.rtm_tos = route.tos;
    header.rtm_table = short_table(table);
    header.rtm_protocol = route.origin;
    header.rtm_scope = v6 ? scope_universe : route.scope;
    header.rtm_type = static_cast<u8>(route.type);
    if (route.hops.size() == 1)
        header.rtm_flags = hop_flags(route.hops[0]);
    out.put(header);
    out.number32(RTA_TABLE, table);
    if (route.length != 0)
        out.address(RTA_DST, route.prefix);
    const bool has_source = !route.source.is_any() && route.source.is_v6() == v6;
    if (v6) {
        if (has_source)
            out.address(RTA_PREFSRC, route.source);
    } else if (route.metric != 0) {
        out.number32(RTA_PRIORITY, route.metric);
    }
    put_metrics(out, route.mtu, route.mtu_locked, route.initial_window,
                route.initial_receive_window, route.advertised_mss, route.hop_limit);
    if (v6) {
        out.number32(RTA_PRIORITY, route.metric);
        if (route.hops.empty()) // shown as if they led to the loopback interface
            out.number32(RTA_OIF, stack.loopback().index());
        put_hops(out, route);
        put_cache_info(out, route.expires, stack.now());
        out.number8(RTA_PREF, 0); // ICMPV6_ROUTER_PREF_MEDIUM
    } else {
        if (has_source)
            out.address(RTA_PREFSRC, route.source);
        put_hops(out, route);
    }
    return out.end();
}

// --- dumps

namespace {

struct RouteFilter final : DumpContext {
    u8 family = 0, origin = 0, type = 0;
    u32 table = 0, interface = 0;
};

bool passes(const RouteFilter& filter, const Route& route) {
    if (filter.table != 0 && route.table != filter.table)
        return false;
    if (filter.origin != 0 && route.origin != filter.origin)
        return false;
    if (filter.type != 0 && static_cast<u8>(route.type) != filter.type)
        return false;
    if (filter.interface == 0)
        return true;
    for (const NextHop& hop : route.hops)
        if (hop.interface->index() == filter.interface)
            return true;
    return false;
}

Result<bool> dump_routes(Dump& dump, MessageWriter& out) {
    const auto& filter = static_cast<const RouteFilter&>(*dump.context);
    Stack& stack = *dump.stack;
    // Words: the version, how many of it are done.
    for (; dump.words[0] < 2; dump.words[0]++, dump.words[1] = 0) {
        const bool v6 = dump.words[0] == 1;
        if (filter.family != 0 && filter.family != (v6 ? inet6 : inet))
            continue;
        SpinGuard guard(stack.lock);
        Vector<const Route*> routes;
        TRY(routes_in_order(stack, v6, routes));
        for (; dump.words[1] < routes.size(); dump.words[1]++) {
            const Route& route = *routes[dump.words[1]];
            if (passes(filter, route) &&
                !fill_route(out, stack, route, Heading::of_dump(dump, RTM_NEWROUTE)))
                return false;
        }
    }
    return true;
}

Result<void> start_route_dump(Request& request) {
    rtmsg header{};
    if (request.payload().size() >= sizeof header) {
        TRY(header, request.payload_header<rtmsg>());
    } else if (request.strict()) {
        return request.refuse(EINVAL, "Invalid header for FIB dump request");
    } else if (!request.payload().empty()) {
        header.rtm_family = request.payload()[0];
    }
    TRY(Owned<RouteFilter> filter, make_owned<RouteFilter>());
    filter->family =
        header.rtm_family == inet || header.rtm_family == inet6 ? header.rtm_family : u8{0};
    // The cache of routes is gone: who asks for cloned ones gets none.
    if ((header.rtm_flags & RTM_F_CLONED) != 0)
        return request.start_dump([](Dump&, MessageWriter&) -> Result<bool> { return true; });
    if (!request.strict())
        return request.start_dump(dump_routes, std::move(filter));
    if (header.rtm_dst_len != 0 || header.rtm_src_len != 0 || header.rtm_tos != 0 ||
        header.rtm_scope != 0)
        return request.refuse(EINVAL, "Invalid values in header for FIB dump request");
    if ((header.rtm_flags & ~u32{RTM_F_CLONED | RTM_F_PREFIX}) != 0)
        return request.refuse(EINVAL, "Invalid flags for FIB dump request");
    AttributeTable<RTA_MAX + 1> attributes;
    TRY(attributes.parse(request.attributes_after<rtmsg>(), {}, true, request.ack));
    filter->table = header.rtm_table;
    filter->origin = header.rtm_protocol;
    filter->type = header.rtm_type;
    if (attributes[RTA_TABLE] != nullptr)
        filter->table = attributes.number(RTA_TABLE);
    if (attributes[RTA_OIF] != nullptr) {
        filter->interface = attributes.number(RTA_OIF);
        if (!request.stack().interface(filter->interface))
            return fail(ENODEV);
    }
    const bool filtered =
        filter->table != 0 || filter->origin != 0 || filter->type != 0 || filter->interface != 0;
    TRY(request.start_dump(dump_routes, std::move(filter), true, filtered));
    return {};
}

// --- one destination: RTM_GETROUTE without NLM_F_DUMP

struct Question {
    rtmsg header;
    RouteKey key;
    Ref<Interface> in, out;
    IpAddress source;
    bool has_source = false, has_uid = false;
};

Result<Question> read_question(Request& request) {
    Question out{};
    TRY(out.header, request.payload_header<rtmsg>());
    const bool v6 = out.header.rtm_family == inet6;
    if (!v6 && out.header.rtm_family != inet)
        return fail(EOPNOTSUPP);
    AttributeTable<RTA_MAX + 1> attributes;
    TRY(attributes.parse(request.attributes_after<rtmsg>(), {}, request.strict(), request.ack));
    out.key.destination = out.key.source = IpAddress::any(v6);
    out.source = IpAddress::any(v6);
    if (const Attribute* destination = attributes[RTA_DST]) {
        TRY(out.key.destination, address_of(*destination, v6));
    }
    if (const Attribute* source = attributes[RTA_SRC]) {
        TRY(out.source, address_of(*source, v6));
        out.key.source = out.source;
        out.has_source = true;
    }
    out.key.out_interface = attributes.number(RTA_OIF);
    out.out = request.stack().interface(out.key.out_interface);
    out.key.out = out.out.get();
    out.key.mark = attributes.number(RTA_MARK);
    out.key.tos = out.header.rtm_tos;
    out.key.uid = request.sender().opener ? current_task().credentials->euid : 0;
    if (attributes[RTA_UID] != nullptr)
        out.key.uid = attributes.number(RTA_UID);
    if (attributes[RTA_IIF] != nullptr) {
        out.in = request.stack().interface(attributes.number(RTA_IIF));
        if (!out.in)
            return fail(ENODEV);
        out.key.in = out.in.get();
    }
    return out;
}

u32 cached_flags(RouteType type) {
    switch (type) {
    case RouteType::Local:
        return local_flag;
    case RouteType::Broadcast:
        return broadcast_flag | local_flag;
    case RouteType::Multicast:
        return multicast_flag;
    default:
        return 0;
    }
}

// As long as there are no other rules than those that are always there, Linux keeps what is local
// together with the main table, and says so.
u32 shown_table(Stack& stack, const Route& route) {
    u32 rules = 0;
    for (const RouteRule& rule : stack.routes().rules())
        rules += rule.v6 ? 0 : 1;
    return !route.v6() && route.table == table_local && rules == 3 ? table_main : route.table;
}

// What a packet that is to be sent there would be told: "ip route get".
Result<void> answer_with_path(Request& request, const Question& question, MessageWriter& out) {
    Stack& stack = request.stack();
    const bool v6 = question.key.destination.is_v6();
    Flow flow;
    flow.destination = question.key.destination;
    flow.source = question.has_source ? question.source : IpAddress::any(v6);
    flow.interface = question.key.out_interface;
    flow.mark = question.key.mark;
    flow.uid = question.key.uid;
    flow.traffic_class = question.key.tos;
    flow.allow_broadcast = true;
    TRY(resolve(stack, flow));
    u32 table = RT_TABLE_MAIN, metric = 0;
    u8 origin = 0;
    {
        SpinGuard guard(stack.lock);
        RouteKey key = question.key;
        key.out_interface = 0;
        if (auto found = stack.routes().find(key, stack.now()); found) {
            table = shown_table(stack, *found->route);
            metric = found->route->metric;
            origin = found->route->origin;
        }
    }
    const Destination& path = flow.path;
    request.begin(out, RTM_NEWROUTE);
    rtmsg header{};
    header.rtm_family = v6 ? inet6 : inet;
    header.rtm_dst_len = v6 ? 128 : 32;
    header.rtm_tos = question.key.tos;
    if (!v6 && (question.header.rtm_flags & RTM_F_LOOKUP_TABLE) == 0)
        table = RT_TABLE_MAIN;
    header.rtm_table = short_table(table);
    header.rtm_src_len = v6 ? 128 : 0;
    header.rtm_protocol = v6 ? origin : u8{0};
    header.rtm_type = static_cast<u8>(path.type);
    header.rtm_flags = v6 ? 0 : RTM_F_CLONED | cached_flags(path.type);
    out.put(header);
    if (!v6)
        out.number32(RTA_TABLE, table);
    out.address(RTA_DST, question.key.destination);
    if (v6)
        out.number32(RTA_TABLE, table);
    if (question.has_source || v6)
        out.address(RTA_SRC, question.source);
    out.number32(RTA_OIF, path.interface->index());
    if (!question.has_source || v6)
        out.address(RTA_PREFSRC, flow.source);
    if (path.gateway)
        out.address(path.next_hop.is_v6() == v6 ? RTA_GATEWAY : RTA_VIA, path.next_hop);
    const u32 known_mtu = stack.path_mtus().find(question.key.destination, stack.now());
    put_metrics(out, known_mtu, false, path.initial_window, path.initial_receive_window,
                path.advertised_mss, path.hop_limit);
    if (v6)
        out.number32(RTA_PRIORITY, metric);
    if (question.key.mark != 0)
        out.number32(RTA_MARK, question.key.mark);
    if (!v6)
        out.number32(RTA_UID, question.key.uid);
    put_cache_info(out, no_deadline, stack.now());
    if (v6)
        out.number8(RTA_PREF, 0);
    return out.end() ? Result<void>() : fail(ENOBUFS);
}

// What the tables say, whether about a packet that comes in, or for RTM_F_FIB_MATCH.
Result<void> answer_with_route(Request& request, const Question& question, bool as_it_is,
                               MessageWriter& out) {
    Stack& stack = request.stack();
    SpinGuard guard(stack.lock);
    TRY(const RouteTables::Found found, stack.routes().find(question.key, stack.now()));
    const Route& route = *found.route;
    if (as_it_is)
        return fill_route(out, stack, route, Heading::of_reply(request, RTM_NEWROUTE),
                          shown_table(stack, route))
                   ? Result<void>()
                   : fail(ENOBUFS);
    const bool v6 = route.v6();
    request.begin(out, RTM_NEWROUTE);
    rtmsg header{};
    header.rtm_family = v6 ? inet6 : inet;
    header.rtm_dst_len = v6 ? 128 : 32;
    header.rtm_tos = question.key.tos;
    header.rtm_table = short_table(route.table);
    header.rtm_type = static_cast<u8>(route.type);
    header.rtm_flags = RTM_F_CLONED | (v6 ? 0 : cached_flags(route.type));
    out.put(header);
    out.number32(RTA_TABLE, route.table);
    out.address(RTA_DST, question.key.destination);
    if (question.has_source)
        out.address(RTA_SRC, question.source);
    if (found.hop != nullptr) {
        put_gateway(out, *found.hop, v6);
        out.number32(RTA_OIF, found.hop->interface->index());
    }
    out.number32(RTA_IIF, question.in->index());
    put_cache_info(out, no_deadline, stack.now());
    return out.end() ? Result<void>() : fail(ENOBUFS);
}

} // namespace

Result<void> get_route(Request& request) {
    if (request.is_dump())
        return start_route_dump(request);
    TRY(const Question question, read_question(request));
    MessageWriter out;
    const bool match = (question.header.rtm_flags & RTM_F_FIB_MATCH) != 0;
    if (match || question.in) {
        TRY(answer_with_route(request, question, match, out));
    } else {
        TRY(answer_with_path(request, question, out));
    }
    return request.reply(out);
}

} // namespace kernel::net::netlink
