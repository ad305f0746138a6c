// RTM_NEWROUTE and RTM_DELROUTE.
#include <linux/errno.h>
#include <linux/rtnetlink.h>

#include "guestkernel/net/ndp.hpp"
#include "guestkernel/net/netlink/route/family.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 inet = 2, inet6 = 10; // AF_INET, AF_INET6
constexpr u32 user_metric6 = 1024; // IP6_RT_PRIO_USER

constexpr AttributePolicy policy[] = {
    {},
    {},                           // RTA_DST
    {},                           // RTA_SRC
    {AttributeKind::Number32, 0}, // RTA_IIF
    {AttributeKind::Number32, 0}, // RTA_OIF
    {},                           // RTA_GATEWAY
    {AttributeKind::Number32, 0}, // RTA_PRIORITY
    {},                           // RTA_PREFSRC
    {AttributeKind::Nested, 0},   // RTA_METRICS
    {},                           // RTA_MULTIPATH
};
using RouteAttributes = AttributeTable<RTA_MAX + 1>;

struct RouteRequest {
    rtmsg header;
    RouteAttributes attributes;
    bool v6 = false;
};

Result<void> parse(Request& request, RouteRequest& out) {
    TRY(out.header, request.payload_header<rtmsg>());
    out.v6 = out.header.rtm_family == inet6;
    if (!out.v6 && out.header.rtm_family != inet)
        return fail(EOPNOTSUPP);
    TRY(out.attributes.parse(request.attributes_after<rtmsg>(), policy, false, request.ack));
    if (out.header.rtm_dst_len > (out.v6 ? 128 : 32))
        return request.refuse(EINVAL, "Invalid prefix length");
    if (out.header.rtm_type > RTN_MAX)
        return request.refuse(EINVAL, "Invalid route type");
    if (out.attributes[RTA_NH_ID] != nullptr)
        return request.refuse(EINVAL, "Nexthop id does not exist");
    if (out.header.rtm_src_len != 0 && out.v6)
        return request.refuse(EINVAL, "Can not specify source prefix");
    return {};
}

// The gateway that an attribute or two name: any when there is none.
Result<IpAddress> read_gateway(Request& request, const Attribute* gateway, const Attribute* via,
                               bool v6) {
    if (gateway != nullptr && via != nullptr)
        return request.refuse(EINVAL, "Nexthop configuration can not contain both GATEWAY and VIA");
    if (gateway != nullptr)
        return address_of(*gateway, v6);
    if (via == nullptr)
        return IpAddress::any(v6);
    if (v6)
        return request.refuse(EINVAL, "IPv6 does not support RTA_VIA attribute");
    u16 family = 0;
    if (via->data.size() < sizeof family)
        return request.refuse(EINVAL, via, "Invalid attribute length for RTA_VIA");
    __builtin_memcpy(&family, via->data.data(), sizeof family);
    if (family != inet && family != inet6)
        return request.refuse(EINVAL, via, "Unsupported address family in RTA_VIA attribute");
    Attribute address = *via;
    address.data = via->data.subspan(sizeof family);
    return address_of(address, family == inet6);
}

// Where a gateway is, and whether it can be one. Locks: none held.
Result<void> check_gateway(Request& request, const RouteRequest& wanted, NextHop& hop) {
    Stack& stack = request.stack();
    const bool local_hop = !hop.gateway.is_v6() || !hop.gateway.is_link_local();
    if (hop.on_link) {
        if (!hop.interface)
            return request.refuse(ENODEV, "Nexthop device required for onlink");
    } else if (local_hop) {
        Flow flow;
        flow.destination = hop.gateway;
        flow.source = IpAddress::any(hop.gateway.is_v6());
        flow.interface = hop.interface ? hop.interface->index() : 0;
        flow.allow_broadcast = true;
        // With an interface alone Linux asks the tables, too: the gateway must be on its link.
        auto found = [&]() -> Result<bool> {
            SpinGuard guard(stack.lock);
            RouteKey key;
            key.destination = hop.gateway;
            key.source = flow.source;
            key.out_interface = flow.interface;
            key.out = hop.interface.get();
            TRY(const RouteTables::Found at, stack.routes().find(key, stack.now()));
            if (at.hop == nullptr || at.hop->has_gateway())
                return false;
            if (!hop.interface)
                hop.interface = at.hop->interface;
            return at.route->type == RouteType::Unicast || at.route->type == RouteType::Local;
        }();
        if (!found || !*found) {
            if (hop.gateway.is_v6())
                return fail(found ? EINVAL : EHOSTUNREACH);
            return request.refuse(found ? EINVAL : ENETUNREACH, "Nexthop has invalid gateway");
        }
    } else if (!hop.interface) {
        return request.refuse(EINVAL, "Gateway has link-local address without a device");
    }
    (void)wanted;
    return {};
}

Result<NextHop> make_hop(Request& request, const RouteRequest& wanted, u32 index,
                         const IpAddress& gateway, u32 flags) {
    NextHop hop;
    hop.gateway = gateway;
    hop.on_link = (flags & RTNH_F_ONLINK) != 0;
    Stack& stack = request.stack();
    if (index != 0) {
        hop.interface = stack.interface(index);
        if (!hop.interface)
            return fail(ENODEV);
    }
    if ((flags & (RTNH_F_DEAD | RTNH_F_LINKDOWN)) != 0)
        return request.refuse(EINVAL, "Invalid flags for nexthop - can not contain DEAD or "
                                      "LINKDOWN");
    if (hop.has_gateway())
        TRY(check_gateway(request, wanted, hop));
    if (!hop.interface)
        return fail(ENODEV);
    if (!hop.interface->is_up())
        return request.refuse(ENETDOWN, hop.has_gateway() && !hop.on_link
                                            ? "Nexthop device is not up"
                                            : "Device for nexthop is not up");
    return hop;
}

Result<void> read_multipath(Request& request, const RouteRequest& wanted,
                            const Attribute& multipath, Vector<NextHop>& out) {
    std::span<const u8> left = multipath.data;
    while (left.size() >= sizeof(rtnexthop)) {
        rtnexthop entry;
        __builtin_memcpy(&entry, left.data(), sizeof entry);
        if (entry.rtnh_len < sizeof entry || entry.rtnh_len > left.size())
            return request.refuse(EINVAL,
                                  "Invalid nexthop configuration - extra data after nexthops");
        RouteAttributes inner;
        TRY(inner.parse(left.subspan(sizeof entry, entry.rtnh_len - sizeof entry), {}, false,
                        request.ack));
        TRY(const IpAddress gateway,
            read_gateway(request, inner[RTA_GATEWAY], inner[RTA_VIA], wanted.v6));
        TRY(NextHop hop, make_hop(request, wanted, static_cast<u32>(entry.rtnh_ifindex), gateway,
                                  entry.rtnh_flags));
        hop.weight = entry.rtnh_hops == 255 ? u8{255} : static_cast<u8>(entry.rtnh_hops + 1);
        constexpr usize most_hops = 64;
        if (out.size() == most_hops)
            return fail(E2BIG);
        TRY(out.push_back(std::move(hop)));
        const usize step = aligned(entry.rtnh_len);
        left = left.subspan(step < left.size() ? step : left.size());
    }
    if (out.empty())
        return request.refuse(EINVAL, "Invalid nexthop configuration");
    return {};
}

Result<void> read_metrics(Request& request, const Attribute& metrics, Route& route) {
    AttributeReader reader(metrics.data);
    Attribute metric;
    while (reader.next(metric)) {
        if (metric.data.size() < sizeof(u32))
            return request.refuse(EINVAL, &metric, "Invalid attribute in metrics");
        const u32 value = metric.number();
        switch (metric.type) {
        case RTAX_LOCK:
            route.mtu_locked = (value >> RTAX_MTU & 1) != 0;
            break;
        case RTAX_MTU:
            route.mtu = value > 65535 - 15 ? 65535 - 15 : value;
            break;
        case RTAX_ADVMSS:
            route.advertised_mss = value > 65535 - 40 ? 65535 - 40 : value;
            break;
        case RTAX_HOPLIMIT:
            route.hop_limit = value > 255 ? u8{255} : static_cast<u8>(value);
            break;
        case RTAX_INITCWND:
            route.initial_window = value;
            break;
        case RTAX_INITRWND:
            route.initial_receive_window = value;
            break;
        default:
            return request.refuse(EOPNOTSUPP, &metric, "Metric is not supported");
        }
    }
    return {};
}

bool without_hops(RouteType type) {
    return type == RouteType::Blackhole || type == RouteType::Unreachable ||
           type == RouteType::Prohibit || type == RouteType::Throw;
}

Result<void> read_destination(Request& request, const RouteRequest& wanted, Route& route) {
    const RouteAttributes& attributes = wanted.attributes;
    const bool v6 = wanted.v6;
    IpAddress destination = IpAddress::any(v6);
    if (const Attribute* given = attributes[RTA_DST]) {
        TRY(destination, address_of(*given, v6));
    }
    route.length = wanted.header.rtm_dst_len;
    route.prefix = destination.prefix(route.length);
    if (!v6 && !(route.prefix == destination))
        return request.refuse(EINVAL, "Invalid prefix for given prefix length");
    route.tos = wanted.header.rtm_tos;
    route.table = attributes.number(RTA_TABLE, wanted.header.rtm_table);
    if (route.table == 0)
        route.table = table_main;
    route.metric = attributes.number(RTA_PRIORITY);
    route.source = IpAddress::any(v6);
    if (const Attribute* source = attributes[RTA_PREFSRC]) {
        TRY(route.source, address_of(*source, v6));
    }
    return {};
}

Result<void> read_hops(Request& request, const RouteRequest& wanted, Route& route) {
    const RouteAttributes& attributes = wanted.attributes;
    if (without_hops(route.type))
        return {};
    if (const Attribute* multipath = attributes[RTA_MULTIPATH];
        multipath != nullptr && !multipath->data.empty())
        return read_multipath(request, wanted, *multipath, route.hops);
    TRY(const IpAddress gateway,
        read_gateway(request, attributes[RTA_GATEWAY], attributes[RTA_VIA], wanted.v6));
    u32 index = attributes.number(RTA_OIF);
    if (index == 0 && gateway.is_any() && route.type == RouteType::Local)
        index = request.stack().loopback().index();
    TRY(NextHop hop, make_hop(request, wanted, index, gateway, wanted.header.rtm_flags));
    return route.hops.push_back(std::move(hop));
}

Result<Owned<Route>> read_route(Request& request, const RouteRequest& wanted) {
    TRY(Owned<Route> route, make_owned<Route>());
    TRY(read_destination(request, wanted, *route));
    const bool v6 = wanted.v6;
    route->origin = wanted.header.rtm_protocol;
    route->type = static_cast<RouteType>(wanted.header.rtm_type);
    if (route->type == RouteType::Unspecified)
        route->type = RouteType::Unicast;
    route->scope = v6 ? scope_universe : wanted.header.rtm_scope;
    if (!v6 && route->scope > scope_host)
        return request.refuse(EINVAL, "Invalid scope");
    if (v6 && route->origin == 0)
        route->origin = origin_boot;
    if (v6 && route->metric == 0)
        route->metric = user_metric6;
    if (const Attribute* expires = wanted.attributes[RTA_EXPIRES]; expires != nullptr && v6)
        route->expires = request.stack().now() + u64{expires->number()} * nanoseconds_per_second;
    TRY(read_hops(request, wanted, *route));
    if (const Attribute* metrics = wanted.attributes[RTA_METRICS])
        TRY(read_metrics(request, *metrics, *route));
    if (!route->source.is_any() && !request.stack().is_local(route->source))
        return request.refuse(EINVAL, v6 ? "Invalid source address" : "Invalid prefsrc address");
    if (!v6) {
        for (const NextHop& hop : route->hops) {
            if (route->scope >= scope_host && hop.has_gateway())
                return request.refuse(EINVAL, "Route with host scope can not have a gateway");
            if (route->scope == scope_link && hop.has_gateway())
                return request.refuse(EINVAL, "Nexthop has invalid scope");
        }
    }
    return route;
}

// Whether one of this prefix and metric is there; what it says is copied.
Result<Owned<Route>> same_route(Stack& stack, const Route& route) {
    struct Search {
        const Route& wanted;
        const Route* found = nullptr;
    } search{route};
    SpinGuard guard(stack.lock);
    stack.routes().for_each(
        route.v6(),
        [](const Route& other, void* context) {
            auto& at = *static_cast<Search*>(context);
            const Route& wanted = at.wanted;
            if (other.table == wanted.table && other.length == wanted.length &&
                other.prefix == wanted.prefix && other.tos == wanted.tos &&
                other.metric == wanted.metric &&
                (at.found == nullptr || other.serial < at.found->serial))
                at.found = &other;
        },
        &search);
    if (search.found == nullptr)
        return Owned<Route>();
    return search.found->copy();
}

bool same_hops(const Route& a, const Route& b) {
    if (a.hops.size() != b.hops.size())
        return false;
    for (usize i = 0; i < a.hops.size(); i++)
        if (!(a.hops[i].interface == b.hops[i].interface) ||
            !(a.hops[i].gateway == b.hops[i].gateway))
            return false;
    return true;
}

// IPv6: another next hop of a route that is there makes it one of several.
Result<void> add_sibling(Stack& stack, Owned<Route> route, Owned<Route> known) {
    for (const NextHop& hop : route->hops) {
        for (const NextHop& other : known->hops)
            if (other.interface == hop.interface && other.gateway == hop.gateway)
                return fail(EEXIST);
        TRY(known->hops.push_back(hop));
    }
    return add_route(stack, std::move(known), RouteTables::AddMode::Replace);
}

} // namespace

Result<void> new_route(Request& request) {
    RouteRequest wanted;
    TRY(parse(request, wanted));
    TRY(Owned<Route> route, read_route(request, wanted));
    Stack& stack = request.stack();
    TRY(Owned<Route> known, same_route(stack, *route));
    const bool has_expiry = route->expires != no_deadline;
    auto mode = RouteTables::AddMode::Append;
    if (known) {
        if (request.wants(NLM_F_EXCL))
            return fail(EEXIST);
        if (request.wants(NLM_F_REPLACE)) {
            mode = RouteTables::AddMode::Replace;
        } else if (known->type == route->type && same_hops(*known, *route) &&
                   known->source == route->source && known->scope == route->scope) {
            return fail(EEXIST);
        } else if (wanted.v6) {
            if (!known->hops.empty() && known->hops[0].has_gateway() && !route->hops.empty() &&
                route->hops[0].has_gateway())
                return add_sibling(stack, std::move(route), std::move(known));
        } else if (!request.wants(NLM_F_APPEND)) {
            mode = RouteTables::AddMode::Prepend;
        }
    } else if (!request.wants(NLM_F_CREATE)) {
        return fail(ENOENT);
    }
    TRY(add_route(stack, std::move(route), mode));
    if (has_expiry)
        stack.address_timer().soon(stack.now());
    return {};
}

Result<void> delete_route(Request& request) {
    RouteRequest wanted;
    TRY(parse(request, wanted));
    Route like;
    TRY(read_destination(request, wanted, like));
    const RouteAttributes& attributes = wanted.attributes;
    like.origin = wanted.header.rtm_protocol;
    like.type = static_cast<RouteType>(wanted.header.rtm_type);
    like.scope = wanted.v6 ? u8{scope_nowhere} : wanted.header.rtm_scope;
    if (attributes[RTA_NH_ID] != nullptr)
        return fail(ESRCH);
    const auto add_hop = [&](u32 index, const IpAddress& gateway) -> Result<void> {
        NextHop hop;
        hop.gateway = gateway;
        if (index != 0) {
            hop.interface = request.stack().interface(index);
            if (!hop.interface)
                return fail(wanted.v6 ? ESRCH : ENODEV);
        }
        if (index != 0 || hop.has_gateway())
            TRY(like.hops.push_back(std::move(hop)));
        return {};
    };
    if (without_hops(like.type) && attributes[RTA_GATEWAY] == nullptr)
        return remove_route(request.stack(), like);
    if (const Attribute* multipath = attributes[RTA_MULTIPATH]) {
        TRY(read_multipath(request, wanted, *multipath, like.hops));
    } else {
        TRY(const IpAddress gateway,
            read_gateway(request, attributes[RTA_GATEWAY], attributes[RTA_VIA], wanted.v6));
        TRY(add_hop(attributes.number(RTA_OIF), gateway));
    }
    return remove_route(request.stack(), like);
}

} // namespace kernel::net::netlink
