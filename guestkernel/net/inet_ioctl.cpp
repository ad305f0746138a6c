// ioctl(2) of sockets: interfaces, addresses, routes, ARP. netdevice(7), arp(7), rtnetlink's
// elders.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/sockios.h>

#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/syscalls/syscall.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net {

namespace {

constexpr usize request_bytes = 40; // struct ifreq
constexpr usize address_at = 16;

// struct ifreq as it comes: a name and 24 bytes.
struct Request {
    char name[16];
    u8 data[24];
    std::string_view text() const {
        usize length = 0;
        while (length < sizeof name && name[length] != 0 && name[length] != ':')
            length++;
        return {name, length};
    }
    template <typename T>
    T value() const {
        T out;
        __builtin_memcpy(&out, data, sizeof out);
        return out;
    }
    template <typename T>
    void set(const T& value) {
        __builtin_memcpy(data, &value, sizeof value);
    }
};
static_assert(sizeof(Request) == request_bytes && offsetof(Request, data) == address_at);

struct InetAddress { // struct sockaddr_in
    u16 family;
    u8 port[2], address[4], zero[8];
};
static_assert(sizeof(InetAddress) == 16);

InetAddress inet_address(const IpAddress& address) {
    InetAddress out{};
    out.family = family_inet;
    __builtin_memcpy(out.address, address.wire(), sizeof out.address);
    return out;
}

IpAddress mask_of(u8 length) {
    return IpAddress::v4(length == 0 ? 0 : ~u32{0} << (32 - length));
}

bool first_address(Stack& stack, Interface& interface, InterfaceAddress& out) {
    SpinGuard guard(stack.lock);
    for (const InterfaceAddress& own : interface.addresses)
        if (own.address.is_v4()) {
            out = own;
            return true;
        }
    return false;
}

Result<void> replace_address(Stack& stack, Interface& interface, const InterfaceAddress& wanted) {
    InterfaceAddress before;
    if (first_address(stack, interface, before))
        TRY(stack.remove_address(interface, before.address, before.prefix_length));
    return stack.add_address(interface, wanted);
}

Result<void> set_address(Stack& stack, Interface& interface, const Request& request) {
    const InetAddress given = request.value<InetAddress>();
    if (given.family != family_inet)
        return fail(EINVAL);
    InterfaceAddress wanted;
    wanted.address = wanted.peer = IpAddress::from_wire(false, given.address);
    wanted.broadcast = IpAddress::v4_any();
    if (wanted.address.is_any()) {
        InterfaceAddress before;
        if (first_address(stack, interface, before))
            TRY(stack.remove_address(interface, before.address, before.prefix_length));
        return {};
    }
    // The class of the address, as it was before there were masks; nobody else on a link of two.
    const u32 value = wanted.address.v4_value();
    wanted.prefix_length = (interface.flags() & iff_point_to_point) != 0 ? 32
                           : (value >> 31) == 0                          ? 8
                           : (value >> 30) == 2                          ? 16
                                                                         : 24;
    wanted.flags = IFA_F_PERMANENT;
    wanted.scope = wanted.address.is_loopback() ? scope_host : scope_universe;
    if ((interface.flags() & iff_broadcast) != 0)
        wanted.broadcast = IpAddress::v4(value | ~u32{0} >> wanted.prefix_length);
    __builtin_memcpy(wanted.label, interface.name().data(), interface.name().size());
    return replace_address(stack, interface, wanted);
}

Result<void> change_address(Stack& stack, Interface& interface, u32 command,
                            const Request& request) {
    InterfaceAddress own;
    if (!first_address(stack, interface, own))
        return fail(EADDRNOTAVAIL);
    const IpAddress given = IpAddress::from_wire(false, request.value<InetAddress>().address);
    if (command == SIOCSIFNETMASK) {
        const u32 mask = given.v4_value();
        if ((~mask & (~mask + 1)) != 0)
            return fail(EINVAL);
        own.prefix_length = static_cast<u8>(std::popcount(mask));
        if ((interface.flags() & iff_broadcast) != 0 && own.prefix_length < 31)
            own.broadcast = IpAddress::v4(own.address.v4_value() | ~mask);
    } else if (command == SIOCSIFBRDADDR) {
        own.broadcast = given;
    } else {
        own.peer = given;
    }
    return replace_address(stack, interface, own);
}

Result<void> get_address(Stack& stack, Interface& interface, u32 command, Request& request) {
    InterfaceAddress own;
    if (!first_address(stack, interface, own))
        return fail(EADDRNOTAVAIL);
    switch (command) {
    case SIOCGIFADDR:
        request.set(inet_address(own.address));
        return {};
    case SIOCGIFNETMASK:
        request.set(inet_address(mask_of(own.prefix_length)));
        return {};
    case SIOCGIFBRDADDR:
        request.set(inet_address(own.broadcast.is_v4() ? own.broadcast : IpAddress::v4_any()));
        return {};
    default:
        request.set(inet_address(own.peer));
        return {};
    }
}

Result<void> get_of_interface(Stack& stack, Interface& interface, u32 command, Request& request) {
    switch (command) {
    case SIOCGIFFLAGS:
        request.set(static_cast<u16>(interface.flags()));
        return {};
    case SIOCGIFMTU:
        request.set(static_cast<i32>(interface.mtu()));
        return {};
    case SIOCGIFINDEX:
        request.set(static_cast<i32>(interface.index()));
        return {};
    case SIOCGIFMETRIC:
        request.set(i32{0});
        return {};
    case SIOCGIFTXQLEN:
        request.set(static_cast<i32>(interface.tx_queue_length));
        return {};
    case SIOCGIFHWADDR: {
        u8 address[16] = {};
        const u16 type = static_cast<u16>(interface.type());
        __builtin_memcpy(address, &type, sizeof type);
        __builtin_memcpy(address + 2, interface.mac().bytes, sizeof(MacAddress));
        request.set(address);
        return {};
    }
    case SIOCGIFMAP: {
        const u8 none[24] = {};
        request.set(none);
        return {};
    }
    default:
        return get_address(stack, interface, command, request);
    }
}

Result<void> set_of_interface(Stack& stack, Interface& interface, u32 command,
                              const Request& request) {
    switch (command) {
    case SIOCSIFFLAGS:
        return stack.set_flags(interface, request.value<u16>(),
                               iff_up | iff_promiscuous | iff_all_multicast | iff_no_arp |
                                   iff_multicast);
    case SIOCSIFMTU:
        if (request.value<i32>() < 0)
            return fail(EINVAL);
        return stack.set_mtu(interface, static_cast<u32>(request.value<i32>()));
    case SIOCSIFHWADDR: {
        MacAddress mac;
        __builtin_memcpy(mac.bytes, request.data + 2, sizeof mac.bytes);
        if (request.value<u16>() != static_cast<u16>(interface.type()))
            return fail(EINVAL);
        return stack.set_mac(interface, mac);
    }
    case SIOCSIFNAME: {
        usize length = 0;
        while (length < 16 && request.data[length] != 0)
            length++;
        return stack.rename(interface,
                            std::string_view(reinterpret_cast<const char*>(request.data), length));
    }
    case SIOCSIFTXQLEN:
        if (request.value<i32>() < 0)
            return fail(EINVAL);
        interface.tx_queue_length = static_cast<u32>(request.value<i32>());
        return {};
    case SIOCSIFADDR:
        return set_address(stack, interface, request);
    default:
        return change_address(stack, interface, command, request);
    }
}

// SIOCGIFCONF: those that have an address.
Result<void> list_addresses(Stack& stack, u64 argument) {
    struct List { // struct ifconf
        i32 length, padding;
        u64 buffer;
    };
    TRY(List list, UserPtr<List>(argument).copy_in());
    if (list.length < 0)
        return fail(EINVAL);
    const usize room = list.buffer == 0 ? 0 : static_cast<usize>(list.length);
    usize used = 0;
    u32 after = 0;
    while (const Ref<Interface> interface = stack.next_interface(after)) {
        after = interface->index();
        for (usize i = 0;; i++) {
            InterfaceAddress own;
            {
                SpinGuard guard(stack.lock);
                if (i >= interface->addresses.size())
                    break;
                own = interface->addresses[i];
            }
            if (own.address.is_v6())
                continue;
            Request entry{};
            const std::string_view name = interface->name();
            __builtin_memcpy(entry.name, name.data(), name.size());
            entry.set(inet_address(own.address));
            if (list.buffer != 0) {
                if (used + sizeof entry > room)
                    break;
                TRY(copy_out_bytes(list.buffer + used, &entry, sizeof entry));
            }
            used += sizeof entry;
        }
    }
    list.length = static_cast<i32>(used);
    return UserPtr<List>(argument).copy_out(list);
}

// SIOCADDRT and SIOCDELRT: struct rtentry.
Result<void> change_route(Stack& stack, u64 argument, bool add) {
    u8 entry[120];
    TRY(copy_in_bytes(entry, argument, sizeof entry));
    const auto address = [&](usize at) { return IpAddress::from_wire(false, entry + at + 4); };
    constexpr usize destination_at = 8, gateway_at = 24, mask_at = 40, flags_at = 56,
                    metric_at = 80, device_at = 88, mtu_at = 96;
    constexpr u16 gateway_flag = 2, host_flag = 4, mtu_flag = 0x40;
    u16 flags = 0;
    i16 metric = 0;
    u64 device = 0, mtu = 0;
    __builtin_memcpy(&flags, entry + flags_at, sizeof flags);
    __builtin_memcpy(&metric, entry + metric_at, sizeof metric);
    __builtin_memcpy(&device, entry + device_at, sizeof device);
    __builtin_memcpy(&mtu, entry + mtu_at, sizeof mtu);
    TRY(Owned<Route> route, make_owned<Route>());
    const u32 mask = address(mask_at).v4_value();
    if ((flags & host_flag) == 0 && (~mask & (~mask + 1)) != 0)
        return fail(EINVAL);
    route->length = (flags & host_flag) != 0 ? u8{32} : static_cast<u8>(std::popcount(mask));
    route->prefix = address(destination_at).prefix(route->length);
    route->source = IpAddress::v4_any();
    route->metric = metric > 0 ? static_cast<u32>(metric - 1) : 0;
    if ((flags & mtu_flag) != 0)
        route->mtu = static_cast<u32>(mtu);
    NextHop hop;
    hop.gateway = (flags & gateway_flag) != 0 ? address(gateway_at) : IpAddress::v4_any();
    if (device != 0) {
        char name[16] = {};
        TRY(copy_in_bytes(name, device, sizeof name - 1));
        hop.interface = stack.interface(std::string_view(name));
        if (!hop.interface)
            return fail(ENODEV);
    } else if (hop.has_gateway()) {
        Flow flow;
        flow.destination = hop.gateway;
        flow.source = IpAddress::v4_any();
        TRY(resolve(stack, flow));
        if (flow.path.gateway || flow.path.type == RouteType::Local)
            return fail(ENETUNREACH);
        hop.interface = flow.path.interface;
    } else if (add) {
        return fail(ENODEV);
    }
    route->scope = hop.has_gateway() ? scope_universe : add ? scope_link : scope_nowhere;
    if (!add) {
        route->scope = scope_nowhere;
        route->origin = 0;
        route->type = RouteType::Unspecified;
        if (hop.interface || hop.has_gateway())
            TRY(route->hops.push_back(std::move(hop)));
        return remove_route(stack, *route);
    }
    if (!hop.interface->is_up())
        return fail(ENETDOWN);
    TRY(route->hops.push_back(std::move(hop)));
    return add_route(stack, std::move(route), RouteTables::AddMode::Exclusive);
}

// SIOCGARP, SIOCSARP, SIOCDARP: struct arpreq.
Result<void> change_arp(Stack& stack, u32 command, u64 argument) {
    u8 entry[68];
    TRY(copy_in_bytes(entry, argument, sizeof entry));
    constexpr usize mac_at = 16, flags_at = 32, name_at = 52;
    const IpAddress address = IpAddress::from_wire(false, entry + 4);
    char name[17] = {};
    __builtin_memcpy(name, entry + name_at, 16);
    Ref<Interface> interface = stack.interface(std::string_view(name));
    if (!interface && name[0] == 0) {
        Flow flow;
        flow.destination = address;
        flow.source = IpAddress::v4_any();
        TRY(resolve(stack, flow));
        interface = flow.path.interface;
    }
    if (!interface)
        return fail(ENODEV);
    if (command == SIOCDARP)
        return stack.neighbours().remove(*interface, address) ? Result<void>()
                                                              : Result<void>(fail(ENXIO));
    if (command == SIOCSARP) {
        Ref<Neighbour> neighbour = stack.neighbours().find_or_make(*interface, address);
        if (!neighbour)
            return fail(ENOBUFS);
        MacAddress mac;
        __builtin_memcpy(mac.bytes, entry + mac_at + 2, sizeof mac.bytes);
        u32 flags = 0;
        __builtin_memcpy(&flags, entry + flags_at, sizeof flags);
        neighbour->update(
            mac, (flags & ATF_PERM) != 0 ? NeighbourState::Permanent : NeighbourState::Stale, true);
        return {};
    }
    const Ref<Neighbour> neighbour = stack.neighbours().find(*interface, address);
    if (!neighbour)
        return fail(ENXIO);
    const Neighbour::View view = neighbour->view();
    const u16 type = static_cast<u16>(interface->type());
    const u32 flags =
        view.state == NeighbourState::Permanent ? ATF_COM | ATF_PERM
        : view.state == NeighbourState::Incomplete || view.state == NeighbourState::Failed
            ? 0
            : ATF_COM;
    __builtin_memcpy(entry + mac_at, &type, sizeof type);
    __builtin_memcpy(entry + mac_at + 2, view.mac.bytes, sizeof view.mac.bytes);
    __builtin_memcpy(entry + flags_at, &flags, sizeof flags);
    return copy_out_bytes(argument, entry, sizeof entry);
}

bool changes_interface(u32 command) {
    switch (command) {
    case SIOCSIFFLAGS:
    case SIOCSIFMTU:
    case SIOCSIFHWADDR:
    case SIOCSIFNAME:
    case SIOCSIFTXQLEN:
    case SIOCSIFADDR:
    case SIOCSIFNETMASK:
    case SIOCSIFBRDADDR:
    case SIOCSIFDSTADDR:
        return true;
    default:
        return false;
    }
}

bool asks_interface(u32 command) {
    switch (command) {
    case SIOCGIFFLAGS:
    case SIOCGIFMTU:
    case SIOCGIFINDEX:
    case SIOCGIFMETRIC:
    case SIOCGIFTXQLEN:
    case SIOCGIFHWADDR:
    case SIOCGIFMAP:
    case SIOCGIFADDR:
    case SIOCGIFNETMASK:
    case SIOCGIFBRDADDR:
    case SIOCGIFDSTADDR:
        return true;
    default:
        return false;
    }
}

Result<long> done(Result<void> result) {
    if (!result)
        return fail(result.error().code);
    return 0;
}

} // namespace

Result<long> network_ioctl(Stack& stack, u32 command, u64 argument) {
    // Over the network, which may be a user namespace's own.
    const bool privileged = capable_over(stack.owner(), CAP_NET_ADMIN);
    switch (command) {
    case SIOCGIFCONF:
        return done(list_addresses(stack, argument));
    case SIOCADDRT:
    case SIOCDELRT:
        if (!privileged)
            return fail(EPERM);
        return done(change_route(stack, argument, command == SIOCADDRT));
    case SIOCGARP:
        return done(change_arp(stack, command, argument));
    case SIOCSARP:
    case SIOCDARP:
        if (!privileged)
            return fail(EPERM);
        return done(change_arp(stack, command, argument));
    default:
        break;
    }
    const bool changes = changes_interface(command);
    if (!changes && !asks_interface(command) && command != SIOCGIFNAME && command != SIOCETHTOOL)
        return fail(ENOTTY);
    TRY(Request request, UserPtr<Request>(argument).copy_in());
    if (command == SIOCGIFNAME) {
        const Ref<Interface> interface = stack.interface(static_cast<u32>(request.value<i32>()));
        if (!interface)
            return fail(ENODEV);
        __builtin_memset(request.name, 0, sizeof request.name);
        __builtin_memcpy(request.name, interface->name().data(), interface->name().size());
        TRY(UserPtr<Request>(argument).copy_out(request));
        return 0;
    }
    if (changes && !privileged)
        return fail(EPERM);
    const Ref<Interface> interface = stack.interface(request.text());
    if (!interface)
        return fail(ENODEV);
    if (command == SIOCETHTOOL)
        return done(ethtool_ioctl(*interface, request.value<u64>()));
    if (changes)
        return done(set_of_interface(stack, *interface, command, request));
    TRY(get_of_interface(stack, *interface, command, request));
    TRY(UserPtr<Request>(argument).copy_out(request));
    return 0;
}

Result<long> network_ioctl_of_caller(u32 command, u64 argument) {
    return network_ioctl(stack_of(current_net_namespace()), command, argument);
}

Result<long> InetSocketFile::ioctl(u32 command, u64 argument) {
    return network_ioctl(stack(), command, argument);
}

} // namespace kernel::net
