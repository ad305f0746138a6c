// Routing tables, rules, path MTUs.
#include "guestkernel/net/route.hpp"

#include <linux/errno.h>
#include <linux/if_addr.h>

#include "guestkernel/net/stack.hpp"

namespace kernel::net {

struct RouteTables::Table {
    u32 id = 0;
    u32 lengths[2][129] = {}; // routes by version and prefix length
    HashTable<Route, &Route::next, 64> routes;

    static u64 hash(const IpAddress& prefix, unsigned length) { return prefix.hash(length); }
    ~Table() {
        routes.for_each([this](Route& route) {
            routes.remove(hash(route.prefix, route.length), route);
            delete &route;
        });
    }
    void insert(Route& route) {
        routes.insert(hash(route.prefix, route.length), route);
        lengths[route.v6()][route.length]++;
    }
    void take_out(Route& route) {
        routes.remove(hash(route.prefix, route.length), route);
        lengths[route.v6()][route.length]--;
    }
    bool empty() const {
        for (const auto& version : lengths)
            for (const u32 count : version)
                if (count != 0)
                    return false;
        return true;
    }
};

Result<Owned<Route>> Route::copy() const {
    TRY(Owned<Route> out, make_owned<Route>());
    out->prefix = prefix;
    out->length = length;
    out->tos = tos;
    out->scope = scope;
    out->origin = origin;
    out->type = type;
    out->table = table;
    out->metric = metric;
    out->source = source;
    out->mtu = mtu;
    out->initial_window = initial_window;
    out->initial_receive_window = initial_receive_window;
    out->advertised_mss = advertised_mss;
    out->mtu_locked = mtu_locked;
    out->hop_limit = hop_limit;
    out->expires = expires;
    TRY(out->hops.append(hops.span()));
    return out;
}

RouteTables::RouteTables() = default;
RouteTables::~RouteTables() = default;

Result<void> RouteTables::init() {
    TRY(make_table(table_local));
    TRY(make_table(table_main));
    TRY(make_table(table_default));
    for (const bool v6 : {false, true}) {
        RouteRule rule;
        rule.v6 = v6;
        rule.table = table_local;
        TRY(add_rule(rule));
        rule.priority = 32766;
        rule.table = table_main;
        TRY(add_rule(rule));
        rule.priority = 32767;
        rule.table = table_default;
        if (!v6)
            TRY(add_rule(rule));
    }
    return {};
}

RouteTables::Table* RouteTables::table(u32 id) {
    for (Owned<Table>& known : tables_)
        if (known->id == id)
            return known.get();
    return nullptr;
}

Result<RouteTables::Table*> RouteTables::make_table(u32 id) {
    if (Table* known = table(id))
        return known;
    TRY(Owned<Table> made, make_owned<Table>());
    made->id = id;
    Table* raw = made.get();
    TRY(tables_.push_back(std::move(made)));
    return raw;
}

const NextHop* RouteTables::choose(const Route& route, const RouteKey& key) {
    u32 total = 0;
    for (const NextHop& hop : route.hops)
        if (key.out_interface == 0 || hop.interface->index() == key.out_interface)
            total += hop.weight;
    if (total == 0)
        return nullptr;
    u64 left = route.hops.size() == 1 ? 0 : key.hash % total;
    for (const NextHop& hop : route.hops) {
        if (key.out_interface != 0 && hop.interface->index() != key.out_interface)
            continue;
        if (left < hop.weight)
            return &hop;
        left -= hop.weight;
    }
    return nullptr;
}

namespace {

int type_error(RouteType type) {
    switch (type) {
    case RouteType::Blackhole:
        return EINVAL;
    case RouteType::Unreachable:
        return EHOSTUNREACH;
    case RouteType::Prohibit:
        return EACCES;
    case RouteType::Throw:
        return EAGAIN; // on to the next rule
    default:
        return 0;
    }
}

} // namespace

Result<RouteTables::Found> RouteTables::find_in(u32 id, const RouteKey& key, u64 now) {
    Table* in = table(id);
    if (in == nullptr)
        return fail(ENETUNREACH);
    const bool v6 = key.destination.is_v6();
    for (unsigned length = v6 ? 129 : 33; length-- > 0;) {
        if (in->lengths[v6][length] == 0)
            continue;
        const IpAddress prefix = key.destination.prefix(length);
        Found best;
        (void)in->routes.find(Table::hash(prefix, length), [&](const Route& route) {
            if (route.length != length || !(route.prefix == prefix) || route.expires <= now ||
                (route.tos != 0 && route.tos != (key.tos & 0x1e)))
                return false;
            if (best.route != nullptr &&
                (route.metric > best.route->metric ||
                 (route.metric == best.route->metric && route.serial > best.route->serial)))
                return false;
            const NextHop* hop = choose(route, key);
            // A local destination is one whatever interface the socket is bound to.
            if (hop == nullptr && route.type == RouteType::Local && !route.hops.empty())
                hop = &route.hops[0];
            if (hop != nullptr || type_error(route.type) != 0)
                best = {&route, hop};
            return false; // all of them: the lowest metric wins
        });
        if (best.route == nullptr)
            continue;
        if (const int error = type_error(best.route->type); error != 0)
            return fail(error);
        return best;
    }
    return fail(ENETUNREACH);
}

bool RouteTables::rule_applies(const RouteRule& rule, const RouteKey& key) const {
    const auto named = [](const char(&name)[16], std::string_view interface) {
        return name[0] == 0 || interface == std::string_view(name);
    };
    // What this machine sends counts as come from the loopback (ip-rule(8), iif).
    const std::string_view in = key.in == nullptr ? std::string_view("lo") : key.in->name();
    const std::string_view out = key.out == nullptr ? std::string_view() : key.out->name();
    bool applies =
        (rule.source_length == 0 || key.source.in_prefix(rule.source, rule.source_length)) &&
        (rule.destination_length == 0 ||
         key.destination.in_prefix(rule.destination, rule.destination_length));
    applies = applies && ((key.mark ^ rule.mark) & rule.mark_mask) == 0;
    applies = applies && (rule.tos == 0 || rule.tos == (key.tos & 0x1e));
    applies = applies && named(rule.in_interface, in) && named(rule.out_interface, out);
    applies = applies && key.uid >= rule.uid_first && key.uid <= rule.uid_last;
    return applies != rule.invert;
}

bool RouteTables::has_rule(bool v6, u32 priority) const {
    for (const RouteRule& rule : rules_)
        if (rule.v6 == v6 && rule.priority == priority)
            return true;
    return false;
}

Result<RouteTables::Found> RouteTables::find(const RouteKey& key, u64 now) {
    u32 skip_below = 0;
    for (const RouteRule& rule : rules_) {
        if (rule.v6 != key.destination.is_v6() || rule.priority < skip_below ||
            !rule_applies(rule, key))
            continue;
        switch (rule.action) {
        case RuleAction::Table: {
            auto found = find_in(rule.table, key, now);
            if (found && found->route->length <= rule.suppress_prefix_length)
                continue;
            if (found || (found.error().code != ENETUNREACH && found.error().code != EAGAIN))
                return found;
            break;
        }
        case RuleAction::Goto:
            if (has_rule(rule.v6, rule.goto_priority)) // else it leads nowhere: on to the next
                skip_below = rule.goto_priority;
            break;
        case RuleAction::Nop:
            break;
        case RuleAction::Blackhole:
            return fail(EINVAL);
        case RuleAction::Unreachable:
            return fail(ENETUNREACH);
        case RuleAction::Prohibit:
            return fail(EACCES);
        }
    }
    return fail(ENETUNREACH);
}

Result<void> RouteTables::add(Owned<Route> route, AddMode mode, Owned<Route>* replaced) {
    TRY(Table * in, make_table(route->table));
    Route* same = in->routes.find(Table::hash(route->prefix, route->length), [&](Route& other) {
        return other.prefix == route->prefix && other.length == route->length &&
               other.tos == route->tos && other.metric == route->metric &&
               (mode == AddMode::Replace || other.type == route->type || !route->v6());
    });
    if (same != nullptr && mode == AddMode::Exclusive)
        return fail(EEXIST);
    if (same != nullptr && mode == AddMode::Replace) {
        in->take_out(*same);
        if (replaced != nullptr)
            *replaced = Owned<Route>(same);
        else
            delete same;
    }
    route->serial = mode == AddMode::Prepend ? --first_serial_ : ++last_serial_;
    in->insert(*route.leak());
    return {};
}

template <typename Match>
Owned<Route> RouteTables::remove_first(Match&& match) {
    for (Owned<Table>& in : tables_) {
        Route* found = nullptr;
        in->routes.for_each([&](Route& route) {
            if (found == nullptr && match(route))
                found = &route;
        });
        if (found != nullptr) {
            in->take_out(*found);
            return Owned<Route>(found);
        }
    }
    return {};
}

Owned<Route> RouteTables::remove(const Route& like) {
    Table* in = table(like.table);
    if (in == nullptr)
        return {};
    const auto matches = [&](const Route& route) {
        if (!(route.prefix == like.prefix) || route.length != like.length)
            return false;
        if (!like.v6() && route.tos != like.tos)
            return false;
        if (like.metric != 0 && route.metric != like.metric)
            return false;
        if (like.type != RouteType::Unspecified && route.type != like.type)
            return false;
        if (like.scope != scope_nowhere && route.scope != like.scope)
            return false;
        if (like.origin != 0 && route.origin != like.origin)
            return false;
        if (!like.source.is_any() && !(route.source == like.source))
            return false;
        for (const NextHop& wanted : like.hops) {
            bool there = false;
            for (const NextHop& hop : route.hops)
                there = there || ((!wanted.interface || wanted.interface == hop.interface) &&
                                  (!wanted.has_gateway() || wanted.gateway == hop.gateway));
            if (!there)
                return false;
        }
        return true;
    };
    // Of several the one that packets take.
    Route* found = nullptr;
    (void)in->routes.find(Table::hash(like.prefix, like.length), [&](Route& route) {
        if (matches(route) && (found == nullptr || route.metric < found->metric ||
                               (route.metric == found->metric && route.serial < found->serial)))
            found = &route;
        return false; // all of them
    });
    if (found == nullptr)
        return {};
    in->take_out(*found);
    return Owned<Route>(found);
}

Owned<Route> RouteTables::remove_of(const Interface& interface) {
    return remove_first([&](const Route& route) {
        for (const NextHop& hop : route.hops)
            if (hop.interface.get() == &interface)
                return true;
        return false;
    });
}

Owned<Route> RouteTables::remove_expired(u64 now) {
    return remove_first([&](const Route& route) { return route.expires <= now; });
}

void RouteTables::for_each(bool v6, void (*visit)(const Route& route, void* context),
                           void* context) {
    for (Owned<Table>& in : tables_)
        in->routes.for_each([&](const Route& route) {
            if (route.v6() == v6)
                visit(route, context);
        });
}

Result<void> RouteTables::add_rule(const RouteRule& rule) {
    usize at = 0;
    while (at < rules_.size() && rules_[at].priority <= rule.priority)
        at++;
    TRY(make_table(rule.table));
    return rules_.insert(at, rule);
}

Result<RouteRule> RouteTables::remove_rule(const RouteRule& like) {
    for (usize i = 0; i < rules_.size(); i++) {
        const RouteRule& rule = rules_[i];
        if (rule.v6 != like.v6 || (like.priority != 0 && rule.priority != like.priority) ||
            (like.table != 0 && rule.table != like.table) ||
            rule.source_length != like.source_length ||
            (like.source_length != 0 && !(rule.source == like.source)) ||
            rule.destination_length != like.destination_length ||
            (like.destination_length != 0 && !(rule.destination == like.destination)) ||
            rule.mark != like.mark)
            continue;
        const RouteRule removed = rule;
        rules_.erase(i);
        return removed;
    }
    return fail(ENOENT);
}

Result<RouteRule> RouteTables::remove_rule_if(bool (*match)(const RouteRule&, const void*),
                                              const void* context) {
    for (usize i = 0; i < rules_.size(); i++) {
        if (!match(rules_[i], context))
            continue;
        const RouteRule removed = rules_[i];
        rules_.erase(i);
        return removed;
    }
    return fail(ENOENT);
}

Result<void> add_route(Stack& stack, Owned<Route> route, RouteTables::AddMode mode) {
    TRY(const Owned<Route> shown, route->copy());
    Owned<Route> replaced;
    {
        SpinGuard guard(stack.lock);
        TRY(stack.routes().add(std::move(route), mode, &replaced));
    }
    stack.routes_changed();
    Change change{ChangeKind::RouteAdded};
    change.route = shown.get();
    change.replaced = replaced.get() != nullptr;
    notify_change(stack, change);
    return {};
}

Result<void> remove_route(Stack& stack, const Route& like) {
    Owned<Route> gone;
    {
        SpinGuard guard(stack.lock);
        gone = stack.routes().remove(like);
    }
    if (!gone)
        return fail(ESRCH);
    stack.routes_changed();
    Change change{ChangeKind::RouteRemoved};
    change.route = gone.get();
    notify_change(stack, change);
    return {};
}

namespace {

// The first address of the network that a secondary one is in; others are their own.
IpAddress primary_of(Stack& stack, Interface& interface, const InterfaceAddress& address) {
    if ((address.flags & IFA_F_SECONDARY) == 0)
        return address.address;
    SpinGuard guard(stack.lock);
    for (const InterfaceAddress& other : interface.addresses)
        if (other.address.is_v4() && (other.flags & IFA_F_SECONDARY) == 0 &&
            other.prefix_length == address.prefix_length &&
            address.address.in_prefix(other.address.prefix(other.prefix_length),
                                      other.prefix_length))
            return other.address;
    return address.address;
}

Result<void> add_one(Stack& stack, Interface& interface, const IpAddress& prefix, unsigned length,
                     RouteType type, const InterfaceAddress& address) {
    TRY(Owned<Route> route, make_owned<Route>());
    route->prefix = prefix.prefix(length);
    route->length = static_cast<u8>(length);
    route->type = type;
    route->table = type == RouteType::Unicast ? table_main : table_local;
    route->scope = type == RouteType::Local ? scope_host : scope_link;
    route->origin = origin_kernel;
    if (address.address.is_v6()) {
        route->scope = scope_universe;
        route->metric = type == RouteType::Local ? 0 : 256;
    } else {
        route->source = primary_of(stack, interface, address);
        if (type == RouteType::Unicast)
            route->metric = address.metric;
    }
    NextHop hop;
    hop.interface = Ref<Interface>::share(&interface);
    hop.gateway = IpAddress::any(address.address.is_v6());
    TRY(route->hops.push_back(std::move(hop)));
    auto added = add_route(stack, std::move(route), RouteTables::AddMode::Append);
    return added;
}

void remove_one(Stack& stack, Interface& interface, const IpAddress& prefix, unsigned length,
                RouteType type, const InterfaceAddress& address) {
    Route like;
    like.prefix = prefix.prefix(length);
    like.length = static_cast<u8>(length);
    like.type = type;
    like.table = type == RouteType::Unicast ? table_main : table_local;
    like.scope = scope_nowhere;
    like.origin = origin_kernel;
    // Of a secondary one the source was its primary's, which may have gone.
    like.source = address.address.is_v6()                  ? IpAddress()
                  : (address.flags & IFA_F_SECONDARY) != 0 ? IpAddress::v4_any()
                                                           : address.address;
    NextHop hop;
    hop.interface = Ref<Interface>::share(&interface);
    hop.gateway = IpAddress::any(prefix.is_v6());
    if (like.hops.push_back(std::move(hop)))
        (void)remove_route(stack, like);
}

template <typename F>
void for_address_routes(const Interface& interface, const InterfaceAddress& address, F&& function) {
    const bool v6 = address.address.is_v6();
    const unsigned bits = address.address.bits();
    function(address.address, bits, RouteType::Local);
    if (v6) {
        if (address.prefix_length < bits && (address.flags & IFA_F_NOPREFIXROUTE) == 0)
            function(address.address, unsigned{address.prefix_length}, RouteType::Unicast);
        return;
    }
    const u32 host = address.prefix_length < 32 ? ~u32{0} >> address.prefix_length : 0;
    const IpAddress last = IpAddress::v4(address.address.v4_value() | host);
    if (address.broadcast.is_v4() && !address.broadcast.is_any() &&
        !address.broadcast.is_limited_broadcast() &&
        (address.prefix_length >= 31 || !(address.broadcast == last)))
        function(address.broadcast, 32u, RouteType::Broadcast);
    // The network is the first address's; what others add is only themselves.
    if ((address.flags & IFA_F_SECONDARY) != 0)
        return;
    const bool wider = address.prefix_length < 32 || !(address.peer == address.address);
    if (wider && (address.flags & IFA_F_NOPREFIXROUTE) == 0)
        function(address.peer, unsigned{address.prefix_length},
                 interface.is_loopback() ? RouteType::Local : RouteType::Unicast);
    if (address.prefix_length < 31)
        function(last, 32u, RouteType::Broadcast);
}

} // namespace

Result<void> add_address_routes(Stack& stack, Interface& interface,
                                const InterfaceAddress& address) {
    Result<void> result;
    for_address_routes(
        interface, address, [&](const IpAddress& prefix, unsigned length, RouteType type) {
            if (auto done = add_one(stack, interface, prefix, length, type, address); !done)
                result = std::move(done);
        });
    return result;
}

void remove_address_routes(Stack& stack, Interface& interface, const InterfaceAddress& address) {
    for_address_routes(interface, address,
                       [&](const IpAddress& prefix, unsigned length, RouteType type) {
                           remove_one(stack, interface, prefix, length, type, address);
                       });
}

void PathMtuCache::update(const IpAddress& destination, u32 mtu, u64 expires) {
    SpinGuard guard(lock_);
    // Two places for each: the newer one of two that meet there stays.
    Entry* chosen = nullptr;
    const u64 hash = destination.hash();
    for (const u64 place : {hash, hash >> 16}) {
        Entry& entry = entries_[place % entries];
        if (entry.destination == destination && entry.mtu != 0) {
            chosen = &entry;
            break;
        }
        if (chosen == nullptr || entry.expires < chosen->expires)
            chosen = &entry;
    }
    *chosen = {destination, mtu, expires};
    known_.store(1);
}

u32 PathMtuCache::find(const IpAddress& destination, u64 now) {
    if (known_.load(base::Order::Relaxed) == 0)
        return 0;
    SpinGuard guard(lock_);
    const u64 hash = destination.hash();
    for (const u64 place : {hash, hash >> 16}) {
        const Entry& entry = entries_[place % entries];
        if (entry.mtu != 0 && entry.expires > now && entry.destination == destination)
            return entry.mtu;
    }
    return 0;
}

void PathMtuCache::clear() {
    SpinGuard guard(lock_);
    for (Entry& entry : entries_)
        entry = {};
    known_.store(0);
}

} // namespace kernel::net
