// NETLINK_ROUTE's parts, for each other: rtnetlink(7). Requests that change something run one at a
// time, under configuration_mutex(), so that a change of several steps is seen whole by the next.
#pragma once

#include "guestkernel/net/netlink/protocol.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/sched/mutex.hpp"

namespace kernel::net::netlink {

inline constexpr int protocol_route = 0; // NETLINK_ROUTE

// How a message about something is headed: an answer, a part of a dump, a notification.
struct Heading {
    u16 type = 0, flags = 0;
    u32 sequence = 0, port = 0;
    static Heading of_dump(const Dump& dump, u16 type);
    static Heading of_reply(const Request& request, u16 type);
    void begin(MessageWriter& out) const { out.begin(type, flags, sequence, port); }
};

// --- links (link.cpp, link_change.cpp)
struct LinkView {
    u32 change = 0;   // ifi_change
    u32 ext_mask = 0; // RTEXT_FILTER_*
    bool going = false;
};
bool fill_link(MessageWriter& out, Stack& stack, Interface& interface, const Heading& heading,
               const LinkView& view);
Result<void> get_link(Request& request);
Result<void> new_link(Request& request); // also RTM_SETLINK
Result<void> delete_link(Request& request);

// --- addresses (address.cpp)
bool fill_address(MessageWriter& out, Stack& stack, const Interface& interface,
                  const InterfaceAddress& address, const Heading& heading);
Result<void> get_address(Request& request);
Result<void> new_address(Request& request);
Result<void> delete_address(Request& request);

// --- routes (route.cpp, route_change.cpp)
// `as_table`: instead of the route's own; 0: that.
bool fill_route(MessageWriter& out, Stack& stack, const Route& route, const Heading& heading,
                u32 as_table = 0);
Result<void> get_route(Request& request);
Result<void> new_route(Request& request);
Result<void> delete_route(Request& request);

// --- rules (rule.cpp)
bool fill_rule(MessageWriter& out, const RouteRule& rule, const Heading& heading);
Result<void> get_rule(Request& request);
Result<void> new_rule(Request& request);
Result<void> delete_rule(Request& request);

// --- neighbours (neighbour.cpp)
bool fill_neighbour(MessageWriter& out, Stack& stack, Neighbour& neighbour, const Heading& heading);
Result<void> get_neighbour(Request& request);
Result<void> new_neighbour(Request& request);
Result<void> delete_neighbour(Request& request);

// --- settings of interfaces (netconf.cpp)
Result<void> get_netconf(Request& request);

// --- numbers of network namespaces (namespace_numbers.cpp)
Result<void> get_namespace_number(Request& request);
Result<void> new_namespace_number(Request& request);
// The number by which `from` knows `other`, made up if it has none; -1: it cannot be told.
i32 namespace_number(Stack& from, Stack& other);
// Without making one up.
i32 known_namespace_number(Stack& from, Stack& other);
// The stack of the network namespace that a process (as the caller numbers it) or an open file
// stands for: EINVAL, ESRCH, EBADF. Its network administration is the caller's to check.
Result<Ref<Stack>> stack_of_pid(u32 pid);
Result<Ref<Stack>> stack_of_fd(u32 fd);

Mutex& configuration_mutex();
// A jiffy count of Linux's 100 a second, which ABI structures have.
inline u32 clock_ticks_of(u64 ns) {
    return static_cast<u32>(ns / 10'000'000);
}
// What is left of a time, in seconds; forever for no_deadline.
u32 seconds_left(u64 until, u64 now);
void start_route_protocol();

} // namespace kernel::net::netlink
