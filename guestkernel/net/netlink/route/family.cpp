// NETLINK_ROUTE: which request goes where, who may, and what is told to whom when something
// changes.
#include "guestkernel/net/netlink/route/family.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/rtnetlink.h>

#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/uevent.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net::netlink {

namespace {

struct Handlers {
    u16 first; // RTM_NEW*, of which RTM_DEL*, RTM_GET* and RTM_SET* are the next three
    Result<void> (*make)(Request& request);
    Result<void> (*remove)(Request& request);
    Result<void> (*get)(Request& request);
    Result<void> (*set)(Request& request);
};

constexpr Handlers handlers[] = {
    {RTM_NEWLINK, new_link, delete_link, get_link, new_link},
    {RTM_NEWADDR, new_address, delete_address, get_address, nullptr},
    {RTM_NEWROUTE, new_route, delete_route, get_route, nullptr},
    {RTM_NEWNEIGH, new_neighbour, delete_neighbour, get_neighbour, nullptr},
    {RTM_NEWRULE, new_rule, delete_rule, get_rule, nullptr},
    {RTM_NEWNETCONF, nullptr, nullptr, get_netconf, nullptr},
    {RTM_NEWNSID, new_namespace_number, nullptr, get_namespace_number, nullptr},
};

constinit Mutex configuration;
// The request that is being worked off: what it changes is told with its numbers. Written under the
// mutex, by the task that compares itself.
struct Active {
    Task* task = nullptr;
    const Request* request = nullptr;
};
constinit Active active;

Result<void> receive(Request& request) {
    if (request.type() > RTM_MAX)
        return fail(EOPNOTSUPP);
    if (request.payload().empty())
        return {}; // not even a family: as if nothing had been asked
    const u16 first = static_cast<u16>(request.type() & ~3u);
    for (const Handlers& known : handlers) {
        if (known.first != first)
            continue;
        const unsigned kind = request.type() & 3;
        Result<void> (*const handler)(Request&) = kind == 0   ? known.make
                                                  : kind == 1 ? known.remove
                                                  : kind == 2 ? known.get
                                                              : known.set;
        const bool gets = kind == 2;
        if (!gets && !request.capable(CAP_NET_ADMIN))
            return fail(EPERM);
        if (handler == nullptr)
            return fail(EOPNOTSUPP);
        if (gets) {
            auto got = handler(request);
            return got || !request.is_dump() || got.error().code == EBUSY
                       ? std::move(got)
                       : request.refuse_dump(got.error().code);
        }
        MutexGuard guard(configuration);
        active = {&current_task(), &request};
        auto done = handler(request);
        active = {};
        return done;
    }
    if ((request.type() & 3) != 2 && !request.capable(CAP_NET_ADMIN))
        return fail(EPERM);
    return fail(EOPNOTSUPP);
}

constexpr Protocol route_protocol = {
    .number = protocol_route,
    .groups = RTNLGRP_MAX,
    .anybody_joins = true,
    .receive = receive,
    .join = [](Endpoint& endpoint, u32 group) -> Result<void> {
        // Statistics of others' multicast routers are no secret to anybody else here, but these
        // two are to Linux.
        if ((group == RTNLGRP_IPV4_MROUTE_R || group == RTNLGRP_IPV6_MROUTE_R) && endpoint.opener &&
            !capable_over(endpoint.stack().owner(), CAP_NET_ADMIN))
            return fail(EPERM);
        return {};
    },
};

// --- what is told

struct Told {
    u32 group;
    u16 type;
};

Told told_of(const Change& change) {
    switch (change.kind) {
    case ChangeKind::InterfaceAdded:
    case ChangeKind::InterfaceChanged:
        return {RTNLGRP_LINK, RTM_NEWLINK};
    case ChangeKind::InterfaceRemoved:
        return {RTNLGRP_LINK, RTM_DELLINK};
    case ChangeKind::AddressAdded:
        return {change.address->address.is_v6() ? u32{RTNLGRP_IPV6_IFADDR}
                                                : u32{RTNLGRP_IPV4_IFADDR},
                RTM_NEWADDR};
    case ChangeKind::AddressRemoved:
        return {change.address->address.is_v6() ? u32{RTNLGRP_IPV6_IFADDR}
                                                : u32{RTNLGRP_IPV4_IFADDR},
                RTM_DELADDR};
    case ChangeKind::RouteAdded:
        return {change.route->v6() ? u32{RTNLGRP_IPV6_ROUTE} : u32{RTNLGRP_IPV4_ROUTE},
                RTM_NEWROUTE};
    case ChangeKind::RouteRemoved:
        return {change.route->v6() ? u32{RTNLGRP_IPV6_ROUTE} : u32{RTNLGRP_IPV4_ROUTE},
                RTM_DELROUTE};
    case ChangeKind::NeighbourChanged:
        return {RTNLGRP_NEIGH, RTM_NEWNEIGH};
    case ChangeKind::NeighbourRemoved:
        return {RTNLGRP_NEIGH, RTM_DELNEIGH};
    case ChangeKind::RuleAdded:
        return {change.rule->v6 ? u32{RTNLGRP_IPV6_RULE} : u32{RTNLGRP_IPV4_RULE}, RTM_NEWRULE};
    case ChangeKind::RuleRemoved:
        return {change.rule->v6 ? u32{RTNLGRP_IPV6_RULE} : u32{RTNLGRP_IPV4_RULE}, RTM_DELRULE};
    }
    return {0, 0};
}

bool fill(MessageWriter& out, Stack& stack, const Change& change, const Heading& heading) {
    switch (change.kind) {
    case ChangeKind::InterfaceAdded:
    case ChangeKind::InterfaceChanged:
    case ChangeKind::InterfaceRemoved: {
        LinkView view;
        view.change = change.kind == ChangeKind::InterfaceChanged ? change.flags_changed : ~u32{0};
        view.going = change.kind == ChangeKind::InterfaceRemoved;
        return fill_link(out, stack, *change.interface, heading, view);
    }
    case ChangeKind::AddressAdded:
    case ChangeKind::AddressRemoved:
        return fill_address(out, stack, *change.interface, *change.address, heading);
    case ChangeKind::RouteAdded:
    case ChangeKind::RouteRemoved:
        return fill_route(out, stack, *change.route, heading);
    case ChangeKind::NeighbourChanged:
    case ChangeKind::NeighbourRemoved:
        return fill_neighbour(out, stack, const_cast<Neighbour&>(*change.neighbour), heading);
    case ChangeKind::RuleAdded:
    case ChangeKind::RuleRemoved:
        return fill_rule(out, *change.rule, heading);
    }
    return false;
}

void on_change(Stack& stack, const Change& change) {
    tell_uevent(stack, change);
    const Told told = told_of(change);
    const Request* request = active.task == &current_task() ? active.request : nullptr;
    const bool echo =
        request != nullptr && request->wants(NLM_F_ECHO) && &request->stack() == &stack;
    if (told.group == 0 || (!echo && !anybody_listens(stack, protocol_route, told.group)))
        return;
    Heading heading{told.type, 0, 0, 0};
    if (request != nullptr) {
        heading.sequence = request->sequence();
        heading.port = request->sender().port();
    }
    if (change.replaced)
        heading.flags |= NLM_F_REPLACE;
    else if (change.kind == ChangeKind::RouteAdded && request != nullptr)
        heading.flags = static_cast<u16>(
            heading.flags | (request->flags() & (NLM_F_CREATE | NLM_F_EXCL | NLM_F_APPEND)));
    MessageWriter out;
    if (!fill(out, stack, change, heading))
        return;
    broadcast(stack, protocol_route, told.group, out.bytes(), echo ? request->sender().port() : 0);
    if (echo)
        (void)unicast(stack, protocol_route, request->sender().port(), out.bytes());
}

} // namespace

Mutex& configuration_mutex() {
    return configuration;
}

Heading Heading::of_dump(const Dump& dump, u16 type) {
    return {type,
            static_cast<u16>(dump.message_flags | (dump.consistent ? 0 : flag_dump_interrupted)),
            dump.sequence, dump.port};
}

Heading Heading::of_reply(const Request& request, u16 type) {
    return {type, 0, request.sequence(), request.sender().port()};
}

void start_route_protocol() {
    register_protocol(route_protocol);
    set_change_listener(on_change);
}

} // namespace kernel::net::netlink
