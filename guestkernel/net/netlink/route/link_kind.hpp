// Kinds of links that programs can make (ip-link(8)): veth, bridge, dummy, ... Each registers.
#pragma once

#include "guestkernel/net/netlink/route/family.hpp"

namespace kernel::net::netlink {

// What RTM_NEWLINK says of the link to be made.
struct LinkWanted {
    Stack* stack = nullptr; // where it is to be
    std::string_view name;  // may end in "%d"
    u32 index = 0;          // 0: any
    const MacAddress* mac = nullptr;
    u32 mtu = 0;                // 0: the kind's own
    u32 queue_length = ~u32{0}; // likewise
    u32 group = 0;
    std::span<const u8> data; // IFLA_INFO_DATA
};

struct LinkKind {
    std::string_view name;
    // Makes and attaches it.
    Result<Ref<Interface>> (*make)(Request& request, const LinkWanted& wanted) = nullptr;
    // Settings of one that is there (IFLA_INFO_DATA). Null: EOPNOTSUPP.
    Result<void> (*change)(Request& request, Interface& interface,
                           std::span<const u8> data) = nullptr;
    // IFLA_INFO_DATA; null: nothing to tell.
    void (*fill)(Interface& interface, MessageWriter& out) = nullptr;
    // Of links that have ports: IFLA_MASTER, IFLA_INFO_SLAVE_DATA.
    Result<void> (*add_port)(Request& request, Interface& master, Interface& port) = nullptr;
    Result<void> (*remove_port)(Interface& master, Interface& port) = nullptr;
    void (*fill_port)(Interface& master, Interface& port, MessageWriter& out) = nullptr;
    Result<void> (*change_port)(Request& request, Interface& port,
                                std::span<const u8> data) = nullptr;
};
// At boot; the object stays the caller's.
void register_link_kind(const LinkKind& kind);
const LinkKind* find_link_kind(std::string_view name);
// Takes the interface out of its master, if it has one. May sleep.
void leave_master(Stack& stack, Interface& port);

// The network namespace that the attributes IFLA_NET_NS_FD or IFLA_NET_NS_PID mean (null: not
// given), the request's own one if neither; whoever asks must be able to administer it.
Result<Ref<Stack>> target_stack(Request& request, const Attribute* fd, const Attribute* pid);

// A locally administered address that nobody else has.
MacAddress random_mac();

} // namespace kernel::net::netlink
