// Finding the way to a destination.
#include <linux/errno.h>

#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

namespace {

constexpr u32 least_mtu6 = 1280, most_mtu4 = 65535; // the total length has 16 bits

void set_path_mtu(Stack& stack, Destination& path, const IpAddress& destination) {
    if (path.mtu_locked || path.type == RouteType::Local)
        return;
    const u32 known = stack.path_mtus().find(destination, stack.now());
    if (known != 0 && known < path.mtu)
        path.mtu = known;
}

// A group, or a link-local address with its interface: no table need be asked.
bool directly_on_link(const Flow& flow) {
    if (flow.interface == 0)
        return false;
    const IpAddress& to = flow.destination;
    return to.is_multicast() || to.is_limited_broadcast() || (to.is_v6() && to.is_link_local());
}

RouteType type_of(const IpAddress& destination) {
    if (destination.is_multicast())
        return RouteType::Multicast;
    return destination.is_limited_broadcast() ? RouteType::Broadcast : RouteType::Unicast;
}

RouteKey key_of(const Flow& flow) {
    RouteKey key;
    key.destination = flow.destination;
    key.source = flow.source;
    key.out_interface = flow.interface;
    key.in = flow.in;
    key.mark = flow.mark;
    key.uid = flow.uid;
    key.tos = flow.traffic_class;
    key.hash =
        hash_mix(flow.destination.hash(flow.source.hash()) ^
                 (u64{flow.source_port} << 32 | u64{flow.destination_port} << 16 | flow.protocol));
    return key;
}

void take_route(Destination& path, const RouteTables::Found& found, const Flow& flow) {
    const Route& route = *found.route;
    path.type = route.type;
    path.interface = found.hop->interface;
    path.gateway = found.hop->has_gateway();
    path.next_hop = path.gateway ? found.hop->gateway : flow.destination;
    path.source = route.source;
    path.mtu_locked = route.mtu_locked;
    path.mtu = route.mtu;
    path.hop_limit = route.hop_limit;
    path.initial_window = route.initial_window;
    path.initial_receive_window = route.initial_receive_window;
    path.advertised_mss = route.advertised_mss;
}

} // namespace

// With Stack::lock for all of it: what is put together here belongs together.
Result<void> find_path(Stack& stack, Flow& flow) {
    Destination path;
    path.generation = stack.generation();
    const bool v6 = flow.destination.is_v6();
    path.source = IpAddress::any(v6);
    if (v6 && flow.destination.is_link_local() && flow.interface == 0)
        return fail(EINVAL);
    SpinGuard guard(stack.lock);
    Interface* bound = nullptr;
    if (flow.interface != 0) {
        for (const Ref<Interface>& interface : stack.interfaces_)
            if (interface->index() == flow.interface)
                bound = interface.get();
        if (bound == nullptr)
            return fail(ENODEV);
        if (!bound->is_up())
            return fail(ENETUNREACH);
    }
    if (directly_on_link(flow)) {
        bool own = false;
        for (const InterfaceAddress& address : bound->addresses)
            own = own || address.address == flow.destination;
        path.interface = Ref<Interface>::share(bound);
        path.next_hop = flow.destination;
        path.type = own ? RouteType::Local : type_of(flow.destination);
    } else {
        RouteKey key = key_of(flow);
        key.out = bound;
        auto found = stack.routes().find(key, stack.now());
        if (found) {
            take_route(path, *found, flow);
            if (flow.destination.is_multicast())
                path.type = RouteType::Multicast;
            else if (flow.destination.is_limited_broadcast())
                path.type = RouteType::Broadcast;
        } else if (bound != nullptr && found.error().code == ENETUNREACH && !v6) {
            // Told where to go: then it is on that link (ip(7), SO_BINDTODEVICE).
            path.interface = Ref<Interface>::share(bound);
            path.next_hop = flow.destination;
            path.type = type_of(flow.destination);
        } else {
            return fail(found.error().code);
        }
    }
    if (flow.dont_route && path.gateway)
        return fail(ENETUNREACH);
    if (path.source.is_any() || path.source.is_v6() != v6) {
        path.source = path.type == RouteType::Local && !flow.destination.is_multicast()
                          ? flow.destination
                          : stack.select_source_locked(*path.interface, flow.destination);
    }
    if (path.type == RouteType::Local)
        path.interface = stack.loopback_;
    if (path.type == RouteType::Broadcast && !flow.allow_broadcast)
        return fail(EACCES);
    const u32 link_mtu = v6 && path.interface->settings.mtu6 != 0 ? path.interface->settings.mtu6
                                                                  : path.interface->mtu();
    if (path.mtu == 0 || path.mtu > link_mtu)
        path.mtu = link_mtu;
    guard.unlock();
    if (!v6 && path.mtu > most_mtu4)
        path.mtu = most_mtu4;
    if (v6 && path.mtu < least_mtu6)
        path.mtu = least_mtu6;
    set_path_mtu(stack, path, flow.destination);
    flow.path = std::move(path);
    return {};
}

Result<void> resolve(Stack& stack, Flow& flow) {
    if (flow.path.generation != stack.generation()) {
        TRY(find_path(stack, flow));
    }
    if (flow.source.is_any()) {
        flow.source = flow.path.source;
        if (flow.source.is_v6() != flow.destination.is_v6())
            return fail(EADDRNOTAVAIL);
    }
    return {};
}

MacAddress multicast_mac(const IpAddress& group) {
    const u8* bytes = group.wire();
    if (group.is_v6()) // RFC 2464, 7
        return {{0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]}};
    return {{0x01, 0x00, 0x5e, static_cast<u8>(bytes[1] & 0x7f), bytes[2], bytes[3]}}; // RFC 1112
}

namespace {

void push_ethernet(Interface& interface, Packet& packet, const MacAddress& to, u16 protocol) {
    EthernetHeader header;
    header.destination = to;
    header.source = interface.mac();
    header.protocol.set(protocol);
    packet.push_header(header);
    packet.mark_link();
    packet.link_protocol = protocol;
}

} // namespace

Result<void> link_output(Stack& stack, Destination& path, PacketPtr packet, const IpAddress& to) {
    Interface& interface = *path.interface;
    const u16 protocol = to.is_v6() ? ether_ipv6 : ether_ip;
    const bool group = path.type == RouteType::Multicast || path.type == RouteType::Broadcast;
    if (interface.has_link_addresses() && !group) {
        if (!path.neighbour) {
            path.neighbour = stack.neighbours().find_or_make(interface, path.next_hop);
            if (!path.neighbour)
                return fail(ENOBUFS);
        }
        path.neighbour->output(std::move(packet), protocol);
        return {};
    }
    packet = Packet::with_headroom(std::move(packet), sizeof(EthernetHeader));
    if (!packet)
        return fail(ENOBUFS);
    if (interface.link_header_bytes() == 0) {
        packet->mark_link();
        packet->link_protocol = protocol;
    } else if (interface.is_loopback()) {
        push_ethernet(interface, *packet, MacAddress(), protocol);
        packet->local = true;
    } else {
        push_ethernet(interface, *packet,
                      path.type == RouteType::Multicast ? multicast_mac(to)
                                                        : MacAddress::broadcast(),
                      protocol);
    }
    interface.transmit(std::move(packet));
    return {};
}

} // namespace kernel::net
