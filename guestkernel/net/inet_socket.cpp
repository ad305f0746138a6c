// Sockets of AF_INET and AF_INET6: making them, their addresses, options of SOL_SOCKET.
#include "guestkernel/net/inet_socket.hpp"

#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/netlink/socket.hpp"
#include "guestkernel/net/raw_socket.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/net/tcp/protocol.hpp"
#include "guestkernel/net/tcp/socket.hpp"
#include "guestkernel/net/udp.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net {

namespace {

constexpr u32 length4 = 16, length6 = 28, least_length6 = 24;
constinit MakeStreamSocket make_stream = nullptr;

Result<Ref<SocketFile>> create(int family, int type, int protocol, u32 flags) {
    Ref<NetNamespace> space = Ref<NetNamespace>::share(current_net_namespace());
    if (protocol < 0 || protocol > 255 + 7) // IPPROTO_MPTCP
        return fail(EINVAL);
    const bool v6 = family == family_inet6;
    switch (type) {
    case socket_stream:
        if ((protocol != 0 && protocol != IPPROTO_TCP) || make_stream == nullptr)
            return fail(EPROTONOSUPPORT);
        return make_stream(std::move(space), family, flags);
    case socket_datagram:
        if (protocol == (v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
            return make_ping_socket(std::move(space), family, flags);
        if (protocol != 0 && protocol != IPPROTO_UDP && protocol != IPPROTO_UDPLITE)
            return fail(EPROTONOSUPPORT);
        return make_udp_socket(std::move(space), family, protocol == 0 ? IPPROTO_UDP : protocol,
                               flags);
    case socket_raw:
        return make_raw_socket(std::move(space), family, protocol, flags);
    default:
        return fail(ESOCKTNOSUPPORT);
    }
}

Result<Ref<SocketFile>> create_inet(int type, int protocol, u32 flags) {
    return create(family_inet, type, protocol, flags);
}
Result<Ref<SocketFile>> create_inet6(int type, int protocol, u32 flags) {
    return create(family_inet6, type, protocol, flags);
}

const SocketFamily inet = {family_inet, create_inet, nullptr};
const SocketFamily inet6 = {family_inet6, create_inet6, nullptr};
const SocketFamily packet = {family_packet, make_packet_socket, nullptr};

Result<int> int_value(std::span<const u8> value) {
    int out = 0;
    if (value.size() < sizeof out)
        return fail(EINVAL);
    __builtin_memcpy(&out, value.data(), sizeof out);
    return out;
}

usize put(std::span<u8> out, const void* value, usize size) {
    const usize bytes = out.size() < size ? out.size() : size;
    __builtin_memcpy(out.data(), value, bytes);
    return bytes;
}

} // namespace

void set_stream_sockets(MakeStreamSocket make) {
    make_stream = make;
}

void register_protocols() {
    register_transport(icmp_protocol);
    register_transport(icmpv6_protocol);
    register_transport(udp_protocol);
    register_transport(udplite_protocol);
    tcp::register_tcp();
}

void start_network() {
    start_backlog();
    set_stream_sockets(tcp::make_tcp_socket);
    register_socket_family(inet);
    register_socket_family(inet6);
    register_socket_family(packet);
    netlink::start_netlink();
    // Programs expect to find it up, as every init and container runtime leaves it.
    Stack& first = stack_of(nullptr);
    (void)first.set_flags(first.loopback(), iff_up, iff_up);
}

Stack& stack_of(NetNamespace* space) {
    if (space == nullptr)
        space = initial_namespaces->net.get();
    return *space->stack;
}

Result<Endpoint> parse_address(const SocketAddress& address, int family) {
    if (address.length < sizeof(u16))
        return fail(EINVAL);
    const u16 given = address.family();
    Endpoint out;
    Be16 port;
    __builtin_memcpy(&port, address.bytes + 2, sizeof port);
    out.port = port.get();
    if (given == family_inet && family == family_inet) {
        if (address.length < length4)
            return fail(EINVAL);
        out.address = IpAddress::from_wire(false, address.bytes + 4);
        return out;
    }
    if (given != family_inet6 || family != family_inet6)
        return fail(EAFNOSUPPORT);
    if (address.length < least_length6)
        return fail(EINVAL);
    out.address = IpAddress::v6(address.bytes + 8);
    if (address.length >= length6 && out.address.is_v6() &&
        (out.address.is_link_local() || out.address.is_link_scope_multicast()))
        __builtin_memcpy(&out.scope, address.bytes + 24, sizeof out.scope);
    return out;
}

void write_address(const Endpoint& endpoint, int family, SocketAddress& out) {
    __builtin_memset(out.bytes, 0, length6);
    out.set_family(family);
    const Be16 port(endpoint.port);
    __builtin_memcpy(out.bytes + 2, &port, sizeof port);
    if (family == family_inet) {
        __builtin_memcpy(out.bytes + 4, endpoint.address.wire(), 4);
        out.length = length4;
        return;
    }
    __builtin_memcpy(out.bytes + 8, endpoint.address.bytes(), 16);
    if (endpoint.address.is_v6() && endpoint.address.is_link_local())
        __builtin_memcpy(out.bytes + 24, &endpoint.scope, sizeof endpoint.scope);
    out.length = length6;
}

InetSocketFile::InetSocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol,
                               Ref<NetNamespace> space)
    : SocketFile(std::move(inode), flags, family, type, protocol), space_(std::move(space)),
      stack_(Ref<Stack>::share(&stack_of(space_.get()))) {
    if (family == family_inet6 && stack_->settings.bind_v6_only)
        ip_.flags |= ip6_v6_only;
    ip_.path_mtu4 = stack_->settings.no_pmtu_disc != 0 ? 0 : 1;
}

InetSocketFile::~InetSocketFile() = default;

bool InetSocketFile::capable(unsigned capability) const {
    return capable_over(space_ ? space_->owner() : nullptr, capability);
}

void InetSocketFile::fill_flow(Flow& flow, const IpAddress& destination, u32 scope) const {
    const bool as_v6 = destination.is_v6();
    flow.destination = destination;
    flow.source = IpAddress::any(as_v6);
    flow.mark = ip_.mark;
    flow.priority = static_cast<u8>(options_.priority);
    flow.allow_broadcast = option_on(SO_BROADCAST);
    flow.dont_route = option_on(SO_DONTROUTE);
    flow.any_source = ip_.on(ip_transparent) || (as_v6 && ip_.on(ip_freebind));
    flow.traffic_class = as_v6 ? ip_.traffic_class : ip_.tos;
    if (as_v6 && ip_.flow_label != 0)
        flow.flow_label = ip_.flow_label;
    else if (as_v6 && ip_.on(ip6_auto_flow_label))
        flow.flow_label = automatic_flow_label(destination);
    flow.interface = ip_.bound_interface != 0 ? ip_.bound_interface : scope;
    if (destination.is_multicast()) {
        flow.hop_limit = as_v6 ? ip_.multicast_hops : ip_.multicast_ttl;
        flow.hop_limit_given = true;
        flow.multicast_loop = ip_.on(as_v6 ? ip6_multicast_loop : ip_multicast_loop);
        if (flow.interface == 0)
            flow.interface = as_v6 ? ip_.multicast_interface6 : ip_.multicast_interface4;
        if (!as_v6 && !ip_.multicast_source.is_any())
            flow.source = ip_.multicast_source;
    } else {
        if (flow.interface == 0 && type() != socket_stream)
            flow.interface = ip_.unicast_interface;
        const i16 hops = as_v6 ? ip_.hop_limit : ip_.ttl;
        flow.hop_limit = hops > 0 ? static_cast<u8>(hops) : u8{0};
    }
    // IP_PMTUDISC_*: DONT 0, WANT 1, DO 2, PROBE 3, INTERFACE 4, OMIT 5.
    const u8 discover = as_v6 ? ip_.path_mtu6 : ip_.path_mtu4;
    flow.dont_fragment = discover == 2 || discover == 3 || (as_v6 && ip_.on(ip6_dont_fragment));
    flow.ignore_path_mtu = discover >= 3;
    flow.discover_mtu = discover == 1;
    if (!as_v6 && ip_.header_options_length > 0)
        flow.options = {ip_.header_options, ip_.header_options_length};
}

// RFC 6437, 3: the same for all packets of a conversation, unlike others'; never zero.
u32 InetSocketFile::automatic_flow_label(const IpAddress& destination) const {
    const u32 label =
        static_cast<u32>(destination.hash(stack_->secret() ^ inode_->number())) & 0xf'ffff;
    return label != 0 ? label : 1;
}

Result<void> InetSocketFile::check_source(const Flow& flow) const {
    const IpAddress& source = flow.source;
    if (flow.any_source || source.is_v6() || source.is_any() || source.is_multicast() ||
        source.is_limited_broadcast() || stack_->is_local(source))
        return {};
    RouteKey key;
    key.destination = source;
    SpinGuard guard(stack_->lock);
    const auto found = stack_->routes().find_in(table_local, key, stack_->now());
    return found ? Result<void>() : Result<void>(fail(ENETUNREACH));
}

Result<Endpoint> InetSocketFile::parse_bind(const SocketAddress& address) {
    SocketAddress as_given = address;
    if (!v6() && address.length >= length4 && address.family() == family_unspecified) {
        u32 any = 0;
        __builtin_memcpy(&any, address.bytes + 4, sizeof any);
        if (any == 0)
            as_given.set_family(family_inet);
    }
    if (!v6() && address.length < length4)
        return fail(EINVAL);
    return parse_address(as_given, family());
}

Result<void> InetSocketFile::check_bind(const Endpoint& where) {
    const IpAddress& address = where.address;
    if (v6() && address.is_v4() && ip_.on(ip6_v6_only))
        return fail(EINVAL);
    if (!address.is_any() && !address.is_multicast() && !address.is_limited_broadcast()) {
        if (address.is_v6() && address.is_link_local()) {
            if (where.scope == 0 && ip_.bound_interface == 0)
                return fail(EINVAL);
        }
        const bool any_will_do =
            ip_.on(ip_freebind) || ip_.on(ip_transparent) ||
            (address.is_v6() ? stack_->settings.non_local_bind6 : stack_->settings.non_local_bind4);
        if (!any_will_do && !stack_->is_local(address) && !stack_->is_broadcast(address))
            return fail(EADDRNOTAVAIL);
    }
    if (where.port != 0 && where.port < stack_->settings.unprivileged_port_start &&
        !capable(CAP_NET_BIND_SERVICE))
        return fail(EACCES);
    return {};
}

Result<void> InetSocketFile::set_socket_level(int name, std::span<const u8> value) {
    if (name == SO_BINDTODEVICE) {
        char text[Interface::name_bytes] = {};
        const usize bytes = value.size() < sizeof text - 1 ? value.size() : sizeof text - 1;
        __builtin_memcpy(text, value.data(), bytes);
        const std::string_view wanted(text);
        u32 number = 0;
        if (!wanted.empty()) {
            const Ref<Interface> interface = stack_->interface(wanted);
            if (!interface)
                return fail(ENODEV);
            number = interface->index();
        }
        if (ip_.bound_interface != 0 && !capable(CAP_NET_RAW))
            return fail(EPERM);
        ip_.bound_interface = number;
        option_changed();
        return {};
    }
    TRY(const int number, int_value(value));
    switch (name) {
    case SO_BINDTOIFINDEX:
        if (number < 0 || (number != 0 && !stack_->interface(static_cast<u32>(number))))
            return fail(number < 0 ? EINVAL : ENODEV);
        if (ip_.bound_interface != 0 && !capable(CAP_NET_RAW))
            return fail(EPERM);
        ip_.bound_interface = static_cast<u32>(number);
        option_changed();
        return {};
    case SO_MARK:
        if (!capable(CAP_NET_ADMIN) && !capable(CAP_NET_RAW))
            return fail(EPERM);
        ip_.mark = static_cast<u32>(number);
        option_changed();
        return {};
    case SO_TIMESTAMP_OLD:
    case SO_TIMESTAMPNS_OLD:
    case SO_TIMESTAMP_NEW:
    case SO_TIMESTAMPNS_NEW: {
        const bool fine = name == SO_TIMESTAMPNS_OLD || name == SO_TIMESTAMPNS_NEW;
        packet_options_.timestamp = number != 0 && !fine;
        packet_options_.timestamp_ns = number != 0 && fine;
        return {};
    }
    case SO_TIMESTAMPING_OLD:
    case SO_TIMESTAMPING_NEW:
        packet_options_.timestamping = static_cast<u32>(number);
        return {};
    case SO_NO_CHECK:
        packet_options_.no_check = number != 0;
        return {};
    case SO_RXQ_OVFL:
        packet_options_.overflow = number != 0;
        return {};
    case SO_INCOMING_CPU:
        ip_.incoming_cpu = static_cast<u32>(number);
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<usize> InetSocketFile::get_socket_level(int name, std::span<u8> out) {
    int value = 0;
    switch (name) {
    case SO_BINDTODEVICE: {
        if (ip_.bound_interface == 0)
            return usize{0};
        if (out.size() < Interface::name_bytes)
            return fail(EINVAL);
        const Ref<Interface> interface = stack_->interface(ip_.bound_interface);
        if (!interface)
            return fail(ENODEV);
        char text[Interface::name_bytes] = {};
        __builtin_memcpy(text, interface->name().data(), interface->name().size());
        return put(out, text, interface->name().size() + 1);
    }
    case SO_BINDTOIFINDEX:
        value = static_cast<int>(ip_.bound_interface);
        break;
    case SO_MARK:
        value = static_cast<int>(ip_.mark);
        break;
    case SO_TIMESTAMP_OLD:
    case SO_TIMESTAMP_NEW:
        value = packet_options_.timestamp ? 1 : 0;
        break;
    case SO_TIMESTAMPNS_OLD:
    case SO_TIMESTAMPNS_NEW:
        value = packet_options_.timestamp_ns ? 1 : 0;
        break;
    case SO_TIMESTAMPING_OLD:
    case SO_TIMESTAMPING_NEW:
        value = static_cast<int>(packet_options_.timestamping);
        break;
    case SO_NO_CHECK:
        value = packet_options_.no_check ? 1 : 0;
        break;
    case SO_RXQ_OVFL:
        value = packet_options_.overflow ? 1 : 0;
        break;
    case SO_INCOMING_CPU:
        value = static_cast<int>(ip_.incoming_cpu);
        break;
    default:
        return fail(ENOPROTOOPT);
    }
    return put(out, &value, sizeof value);
}

} // namespace kernel::net
