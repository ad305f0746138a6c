// Routing tables and the rules that choose among them (ip-route(8), ip-rule(8)), for both versions.
//
// A table is a hash of prefixes; a lookup tries the lengths that occur, longest first. Everything
// here is under Stack::lock.
#pragma once

#include "guestkernel/net/transport.hpp"

namespace kernel::net {

inline constexpr u32 table_default = 253, table_main = 254, table_local = 255;
// RT_SCOPE_*, RTPROT_* of linux/rtnetlink.h.
inline constexpr u8 scope_universe = 0, scope_site = 200, scope_link = 253, scope_host = 254,
                    scope_nowhere = 255;
inline constexpr u8 origin_redirect = 1, origin_kernel = 2, origin_boot = 3, origin_static = 4,
                    origin_ra = 9;

struct NextHop {
    Ref<Interface> interface;
    IpAddress gateway; // any: the destination is on the link
    u8 weight = 1;
    bool on_link = false; // RTNH_F_ONLINK
    bool has_gateway() const { return !gateway.is_any(); }
};

struct Route {
    IpAddress prefix;
    u8 length = 0;
    u8 tos = 0;
    u8 scope = scope_universe;
    u8 origin = origin_boot;
    RouteType type = RouteType::Unicast;
    u32 table = table_main;
    u32 metric = 0;
    IpAddress source; // preferred; any: none
    u32 mtu = 0, initial_window = 0, initial_receive_window = 0, advertised_mss = 0;
    bool mtu_locked = false;
    u8 hop_limit = 0;
    u64 expires = no_deadline; // of router advertisements
    Vector<NextHop> hops;      // none of blackholes and the like
    Route* next = nullptr;
    u64 serial = 0; // when it was added, among others

    bool v6() const { return prefix.is_v6(); }
    Result<Owned<Route>> copy() const;
};

enum class RuleAction : u8 {
    Table = 1,
    Goto = 2,
    Nop = 3,
    Blackhole = 6,
    Unreachable = 7,
    Prohibit = 8
};
struct RouteRule {
    u32 priority = 0;
    bool v6 = false;
    RuleAction action = RuleAction::Table;
    u32 table = table_main;
    IpAddress source, destination; // with lengths; 0: any
    u8 source_length = 0, destination_length = 0;
    u8 tos = 0;
    bool invert = false;
    u32 mark = 0, mark_mask = 0;
    char in_interface[16] = {}, out_interface[16] = {};
    u32 goto_priority = 0;
    bool goto_unresolved = false; // nothing was there when it was added
    i32 suppress_prefix_length = -1;
    u32 uid_first = 0, uid_last = ~u32{0};
    u8 origin = origin_kernel;
};

struct RouteKey {
    IpAddress destination, source;
    u32 out_interface = 0;
    const Interface* out = nullptr; // that of `out_interface`: rules go by names
    const Interface* in = nullptr;  // where the packet came from; null: from this machine itself
    u32 mark = 0, uid = 0;
    u8 tos = 0;
    u64 hash = 0; // of the flow, for several next hops
};

class RouteTables {
public:
    RouteTables();
    ~RouteTables();
    Result<void> init(); // tables and rules that are always there

    struct Found {
        const Route* route = nullptr;
        const NextHop* hop = nullptr;
    };
    // Requires: Stack::lock. What is found stays valid as long. ENETUNREACH, EINVAL (blackhole),
    // EHOSTUNREACH, EACCES by the type of the route.
    Result<Found> find(const RouteKey& key, u64 now);
    Result<Found> find_in(u32 table, const RouteKey& key, u64 now);

    enum class AddMode : u8 { Exclusive, Replace, Append, Prepend };
    // Takes the route over. EEXIST. `replaced` gets what had to go.
    Result<void> add(Owned<Route> route, AddMode mode, Owned<Route>* replaced = nullptr);
    // The one of the lowest metric that matches what is set in `like` (zero and any are wildcards
    // but for the prefix, and IPv4's type of service): null: none.
    Owned<Route> remove(const Route& like);
    // The first that goes out of the interface, or expired by `now`: to be called until null.
    Owned<Route> remove_of(const Interface& interface);
    Owned<Route> remove_expired(u64 now);
    // In the order of tables, prefixes and metrics.
    void for_each(bool v6, void (*visit)(const Route& route, void* context), void* context);

    Result<void> add_rule(const RouteRule& rule);         // EEXIST
    Result<RouteRule> remove_rule(const RouteRule& like); // ENOENT
    // The first that matches: ENOENT.
    Result<RouteRule> remove_rule_if(bool (*match)(const RouteRule& rule, const void* context),
                                     const void* context);
    std::span<const RouteRule> rules() const { return rules_.span(); }

private:
    struct Table;
    Table* table(u32 id);
    Result<Table*> make_table(u32 id);
    template <typename Match>
    Owned<Route> remove_first(Match&& match);
    static const NextHop* choose(const Route& route, const RouteKey& key);
    bool rule_applies(const RouteRule& rule, const RouteKey& key) const;
    bool has_rule(bool v6, u32 priority) const;
    Vector<Owned<Table>> tables_;
    Vector<RouteRule> rules_; // by priority
    u64 first_serial_ = u64{1} << 62, last_serial_ = u64{1} << 62;
};

// Changes of the tables with all that goes with them: notification, generation. Without
// Stack::lock.
Result<void> add_route(Stack& stack, Owned<Route> route, RouteTables::AddMode mode);
Result<void> remove_route(Stack& stack, const Route& like); // ESRCH
// The routes that an address brings: local, broadcast, prefix.
Result<void> add_address_routes(Stack& stack, Interface& interface,
                                const InterfaceAddress& address);
void remove_address_routes(Stack& stack, Interface& interface, const InterfaceAddress& address);

// Path MTUs that routers told us of (RFC 1191, RFC 8201): bounded, forgotten after a while.
class PathMtuCache {
public:
    void update(const IpAddress& destination, u32 mtu, u64 expires);
    u32 find(const IpAddress& destination, u64 now); // 0: nothing known
    void clear();

private:
    static constexpr usize entries = 256;
    struct Entry {
        IpAddress destination;
        u32 mtu = 0;
        u64 expires = 0;
    };
    SpinLock lock_{LockRank::Leaf};
    base::Atomic<u32> known_{0};
    Entry entries_[entries];
};

} // namespace kernel::net
