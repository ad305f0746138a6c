#include "guestkernel/net/ndp.hpp"

#include <linux/if_addr.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::net {

namespace {

constexpr u8 router_solicit = 133, router_advert = 134, neighbour_solicit = 135,
             neighbour_advert = 136;
constexpr u8 option_source = 1, option_target = 2, option_prefix = 3, option_mtu = 5;
constexpr u8 all_hops = 255; // no router has touched it (RFC 4861, 3.1)
constexpr u32 advert_router = 0x8000'0000, advert_solicited = 0x4000'0000,
              advert_override = 0x2000'0000;
constexpr u32 solicitations = 3;
// Of one interface by advertisements, which anybody on the link can send.
constexpr usize most_addresses = 16, most_routes = 64;
constexpr u64 second = nanoseconds_per_second;

const IpAddress all_nodes = IpAddress::v6_words(0xff02'0000'0000'0000, 1);
const IpAddress all_routers = IpAddress::v6_words(0xff02'0000'0000'0000, 2);

void send(Stack& stack, Interface& interface, const IpAddress& from, const IpAddress& to,
          PacketPtr message, const MacAddress* unicast) {
    Flow flow;
    flow.source = from;
    flow.destination = to;
    flow.interface = interface.index();
    flow.protocol = proto_icmpv6;
    flow.hop_limit = all_hops;
    flow.any_source = true;
    message->start_checksum(pseudo_header(from, to, proto_icmpv6, message->length()), 0,
                            icmp_checksum_field);
    message->finish_checksum();
    Ipv6Header header{};
    header.version_class_label.set(6u << 28);
    header.payload_length.set(static_cast<u16>(message->length()));
    header.next_header = proto_icmpv6;
    header.hop_limit = all_hops;
    __builtin_memcpy(header.source, from.bytes(), sizeof header.source);
    __builtin_memcpy(header.destination, to.bytes(), sizeof header.destination);
    message->push_header(header);
    message->mark_network();
    u8 type = 0;
    if (message->read(sizeof header, type))
        stack.counters.count_icmp(true, true, type);
    stack.counters.count(Counter::Icmp6OutMessages);
    if (!interface.has_link_addresses()) {
        interface.transmit(std::move(message));
        return;
    }
    if (unicast == nullptr && !to.is_multicast()) {
        if (Ref<Neighbour> neighbour = stack.neighbours().find_or_make(interface, to))
            neighbour->output(std::move(message), ether_ipv6);
        return;
    }
    EthernetHeader link;
    link.destination = unicast != nullptr ? *unicast : multicast_mac(to);
    link.source = interface.mac();
    link.protocol.set(ether_ipv6);
    message->push_header(link);
    message->mark_link();
    message->link_protocol = ether_ipv6;
    interface.transmit(std::move(message));
}

struct LinkOption {
    u8 type, length;
    MacAddress mac;
};
static_assert(sizeof(LinkOption) == 8);

PacketPtr make_message(Interface& interface, u8 type, u32 word, const IpAddress* target,
                       u8 option) {
    PacketPtr message = Packet::allocate(80, 128);
    if (!message)
        return {};
    IcmpHeader header{};
    header.type = type;
    const Be32 rest(word);
    __builtin_memcpy(header.rest, &rest, sizeof rest);
    if (!message->append(&header, sizeof header))
        return {};
    if (target != nullptr && !message->append(target->bytes(), 16))
        return {};
    if (option != 0 && interface.has_link_addresses()) {
        const LinkOption link{option, 1, interface.mac()};
        if (!message->append(&link, sizeof link))
            return {};
    }
    return message;
}

void send_advert(Stack& stack, Interface& interface, const IpAddress& target, const IpAddress& to,
                 bool solicited) {
    u32 flags = advert_override | (solicited ? advert_solicited : 0);
    if (stack.settings.forwarding6 || interface.settings.forwarding6)
        flags |= advert_router;
    PacketPtr message = make_message(interface, neighbour_advert, flags, &target, option_target);
    if (message)
        send(stack, interface, target, to, std::move(message), nullptr);
}

// Calls function(type, offset of the option, its bytes); false: malformed, the message is ignored.
template <typename F>
bool for_options(const Packet& packet, u32 from, F&& function) {
    while (from < packet.length()) {
        u8 start[2];
        if (!packet.read(from, start) || start[1] == 0)
            return false;
        const u32 bytes = start[1] * 8u;
        if (bytes > packet.length() - from)
            return false;
        function(start[0], from, bytes);
        from += bytes;
    }
    return true;
}

bool link_option(const Packet& packet, u32 from, u8 wanted, MacAddress& mac, bool& found) {
    found = false;
    return for_options(packet, from, [&](u8 type, u32 offset, u32 bytes) {
        if (type == wanted && bytes >= sizeof(LinkOption) && packet.read(offset + 2, mac))
            found = !mac.is_group();
    });
}

// Somebody has an address that we were about to use, or have.
void note_duplicate(Stack& stack, Interface& interface, const IpAddress& address) {
    bool failed = false;
    {
        SpinGuard guard(stack.lock);
        for (InterfaceAddress& own : interface.addresses)
            if (own.address == address && (own.flags & IFA_F_TENTATIVE) != 0) {
                own.flags |= IFA_F_DADFAILED;
                own.probes_left = 0;
                failed = true;
            }
    }
    if (failed)
        stack.routes_changed();
}

bool is_tentative(Stack& stack, Interface& interface, const IpAddress& address) {
    SpinGuard guard(stack.lock);
    for (const InterfaceAddress& own : interface.addresses)
        if (own.address == address)
            return (own.flags & IFA_F_TENTATIVE) != 0;
    return false;
}

void on_solicitation(Stack& stack, Packet& packet, const IpInfo& info) {
    u8 bytes[16];
    if (!packet.read(sizeof(IcmpHeader), bytes))
        return;
    const IpAddress target = IpAddress::v6(bytes);
    Interface& interface = *info.interface;
    MacAddress mac;
    bool has_mac = false;
    if (target.is_multicast() || target.is_v4() ||
        !link_option(packet, sizeof(IcmpHeader) + 16, option_source, mac, has_mac))
        return;
    const bool probe = info.source.is_any();
    if (probe && has_mac)
        return;
    if (is_tentative(stack, interface, target)) {
        // Another one probes for the same address; our own probe coming back is not one.
        if (probe && !packet.looped)
            note_duplicate(stack, interface, target);
        return;
    }
    if (!stack.is_local(target, interface.index()))
        return;
    if (probe) {
        send_advert(stack, interface, target, all_nodes, false);
        return;
    }
    if (has_mac) {
        if (Ref<Neighbour> neighbour = stack.neighbours().find_or_make(interface, info.source))
            neighbour->update(mac, NeighbourState::Stale, true);
    }
    send_advert(stack, interface, target, info.source, true);
}

void on_advert(Stack& stack, Packet& packet, const IpInfo& info, const IcmpHeader& header) {
    u8 bytes[16];
    if (!packet.read(sizeof header, bytes))
        return;
    const IpAddress target = IpAddress::v6(bytes);
    Be32 word;
    __builtin_memcpy(&word, header.rest, sizeof word);
    const u32 flags = word.get();
    MacAddress mac;
    bool has_mac = false;
    if (target.is_multicast() || target.is_v4() || packet.looped ||
        (info.multicast && (flags & advert_solicited) != 0) ||
        !link_option(packet, sizeof header + 16, option_target, mac, has_mac))
        return;
    note_duplicate(stack, *info.interface, target);
    Ref<Neighbour> neighbour = stack.neighbours().find(*info.interface, target);
    if (!neighbour)
        return; // nobody asked
    neighbour->router.store((flags & advert_router) != 0);
    const bool solicited = (flags & advert_solicited) != 0;
    if (has_mac)
        neighbour->update(mac, solicited ? NeighbourState::Reachable : NeighbourState::Stale,
                          (flags & advert_override) != 0);
    else if (solicited)
        neighbour->confirm();
}

struct RouterAdvert {
    u8 hop_limit, flags;
    Be16 lifetime;
    Be32 reachable, retransmit;
};
static_assert(sizeof(RouterAdvert) == 12);

struct PrefixOption {
    u8 type, length, prefix_length, flags;
    Be32 valid, preferred, reserved;
    u8 prefix[16];
    static constexpr u8 on_link = 0x80, autonomous = 0x40;
};
static_assert(sizeof(PrefixOption) == 32);

u64 until(u64 now, u32 seconds) {
    return seconds == ~u32{0} ? no_deadline : now + seconds * second;
}

IpAddress interface_identifier(const Interface& interface, const IpAddress& prefix) {
    // Modified EUI-64 (RFC 4291, appendix A).
    const u8* mac = interface.mac().bytes;
    u8 bytes[16];
    __builtin_memcpy(bytes, prefix.bytes(), 8);
    const u8 tail[8] = {
        static_cast<u8>(mac[0] ^ 2), mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
    __builtin_memcpy(bytes + 8, tail, sizeof tail);
    return IpAddress::v6(bytes);
}

// Those that its addresses brought are among them.
bool has_room_for_route(Stack& stack, const Interface& interface) {
    struct Counted {
        const Interface* interface;
        usize routes;
    } counted{&interface, 0};
    SpinGuard guard(stack.lock);
    stack.routes().for_each(
        true,
        [](const Route& route, void* context) {
            Counted& into = *static_cast<Counted*>(context);
            const bool by_itself = route.origin == origin_kernel || route.origin == origin_ra;
            if (by_itself && route.table == table_main && route.hops.size() == 1 &&
                route.hops[0].interface.get() == into.interface)
                into.routes++;
        },
        &counted);
    return counted.routes < most_routes;
}

void add_ra_route(Stack& stack, Interface& interface, const IpAddress& prefix, u8 length,
                  const IpAddress* gateway, u64 expires, u8 origin) {
    Route like;
    like.prefix = prefix;
    like.length = length;
    like.type = RouteType::Unicast;
    like.scope = scope_nowhere;
    like.origin = origin;
    NextHop hop;
    hop.interface = Ref<Interface>::share(&interface);
    hop.gateway = gateway != nullptr ? *gateway : IpAddress();
    if (!like.hops.push_back(hop))
        return;
    (void)remove_route(stack, like);
    if (expires <= stack.now() || !has_room_for_route(stack, interface))
        return;
    auto made = make_owned<Route>();
    if (!made)
        return;
    Owned<Route> route = std::move(*made);
    route->prefix = prefix;
    route->length = length;
    route->origin = origin;
    route->metric = gateway != nullptr ? 1024 : 256;
    route->expires = expires;
    if (route->hops.push_back(std::move(hop)))
        (void)add_route(stack, std::move(route), RouteTables::AddMode::Append);
}

void take_prefix(Stack& stack, Interface& interface, const PrefixOption& option) {
    const IpAddress prefix = IpAddress::v6(option.prefix);
    const u32 valid = option.valid.get(), preferred = option.preferred.get();
    if (prefix.is_link_local() || prefix.is_multicast() || prefix.is_v4() || preferred > valid ||
        option.prefix_length > 128)
        return;
    const u64 now = stack.now();
    if ((option.flags & PrefixOption::on_link) != 0)
        add_ra_route(stack, interface, prefix.prefix(option.prefix_length), option.prefix_length,
                     nullptr, valid == 0 ? 0 : until(now, valid), origin_kernel);
    if ((option.flags & PrefixOption::autonomous) == 0 || option.prefix_length != 64 ||
        !interface.settings.autoconf || !interface.has_link_addresses())
        return;
    InterfaceAddress address;
    address.address = address.peer = interface_identifier(interface, prefix);
    address.broadcast = IpAddress();
    address.prefix_length = 64;
    address.flags = IFA_F_TENTATIVE | IFA_F_MANAGETEMPADDR;
    address.valid_until = until(now, valid);
    address.preferred_until = until(now, preferred);
    address.probes_left = interface.settings.dad_transmits;
    bool known = false;
    usize count = 0;
    {
        SpinGuard guard(stack.lock);
        for (InterfaceAddress& own : interface.addresses) {
            count += own.address.is_v6() ? 1 : 0;
            if (!(own.address == address.address))
                continue;
            known = true;
            // RFC 4862, 5.5.3 (e): nobody may end an address before two hours are over.
            constexpr u64 two_hours = 7200 * second;
            if (address.valid_until > now + two_hours || address.valid_until > own.valid_until)
                own.valid_until = address.valid_until;
            else if (own.valid_until > now + two_hours)
                own.valid_until = now + two_hours;
            own.preferred_until = address.preferred_until;
            own.flags &= ~u32{IFA_F_DEPRECATED};
        }
    }
    if (known || valid == 0 || count >= most_addresses)
        return;
    if (stack.add_address(interface, address)) {
        (void)stack.join_group(interface, solicited_node(address.address));
        stack.address_timer().soon(now);
    }
}

void on_router_advert(Stack& stack, Packet& packet, const IpInfo& info) {
    Interface& interface = *info.interface;
    RouterAdvert advert;
    if (!info.source.is_link_local() || packet.looped || !packet.read(4, advert))
        return;
    const bool forwards = interface.settings.forwarding6;
    if (interface.settings.accept_ra == 0 || (forwards && interface.settings.accept_ra < 2))
        return;
    const u64 now = stack.now();
    if (advert.hop_limit != 0)
        interface.settings.hop_limit = advert.hop_limit;
    if (interface.settings.accept_ra_defrtr) {
        const u32 lifetime = advert.lifetime.get();
        add_ra_route(stack, interface, IpAddress(), 0, &info.source,
                     lifetime == 0 ? 0 : until(now, lifetime), origin_ra);
    }
    interface.router_solicits_left = 0;
    (void)for_options(packet, 16, [&](u8 type, u32 offset, u32 bytes) {
        if (type == option_source && bytes >= sizeof(LinkOption)) {
            MacAddress mac;
            if (packet.read(offset + 2, mac) && !mac.is_group())
                if (Ref<Neighbour> router =
                        stack.neighbours().find_or_make(interface, info.source)) {
                    router->router.store(true);
                    router->update(mac, NeighbourState::Stale, true);
                }
        } else if (type == option_prefix && bytes == sizeof(PrefixOption) &&
                   interface.settings.accept_ra_pinfo) {
            PrefixOption option;
            if (packet.read(offset, option))
                take_prefix(stack, interface, option);
        } else if (type == option_mtu && bytes == 8) {
            Be32 mtu;
            if (packet.read(offset + 4, mtu) && mtu.get() >= 1280 && mtu.get() <= interface.mtu() &&
                interface.settings.mtu6 != mtu.get()) {
                interface.settings.mtu6 = mtu.get();
                stack.routes_changed();
            }
        }
    });
    stack.address_timer().soon(now + second);
}

} // namespace

IpAddress solicited_node(const IpAddress& address) {
    const u8* tail = address.bytes() + 13;
    return IpAddress::v6_words(0xff02'0000'0000'0000, 0x0000'0001'ff00'0000 | u64{tail[0]} << 16 |
                                                          u64{tail[1]} << 8 | tail[2]);
}

void send_neighbour_solicitation(Stack& stack, Interface& interface, const IpAddress& target,
                                 const MacAddress* unicast) {
    PacketPtr message = make_message(interface, neighbour_solicit, 0, &target, option_source);
    if (!message)
        return;
    send(stack, interface, stack.select_source(interface, target),
         unicast != nullptr ? target : solicited_node(target), std::move(message), unicast);
}

void ndp_input(Stack& stack, Packet& packet, const IpInfo& info, const IcmpHeader& header) {
    if (header.type < router_solicit || header.type > neighbour_advert)
        return;
    if (info.hop_limit != all_hops || header.code != 0)
        return;
    switch (header.type) {
    case neighbour_solicit:
        on_solicitation(stack, packet, info);
        return;
    case neighbour_advert:
        on_advert(stack, packet, info, header);
        return;
    case router_advert:
        on_router_advert(stack, packet, info);
        return;
    default:
        return; // we are nobody's router unless a daemon says so, by a raw socket
    }
}

// --- coming and going

void ipv6_interface_up(Stack& stack, Interface& interface) {
    if (interface.settings.disable_ipv6)
        return;
    if (interface.is_loopback()) {
        InterfaceAddress own;
        own.broadcast = IpAddress();
        own.address = own.peer = IpAddress::loopback(true);
        own.prefix_length = 128;
        own.scope = scope_host;
        own.flags = IFA_F_PERMANENT;
        (void)stack.add_address(interface, own);
        return;
    }
    // Those that were there before the link came up.
    for (usize i = 0;; i++) {
        InterfaceAddress address;
        {
            SpinGuard guard(stack.lock);
            if (i >= interface.addresses.size())
                break;
            address = interface.addresses[i];
        }
        if (address.address.is_v6()) {
            (void)add_address_routes(stack, interface, address);
            (void)stack.join_group(interface, solicited_node(address.address));
        }
    }
    ipv6_add_link_local(stack, interface);
}

void ipv6_add_link_local(Stack& stack, Interface& interface) {
    if (!interface.has_link_addresses() || interface.settings.addr_gen_mode == 1)
        return;
    InterfaceAddress own;
    own.broadcast = IpAddress();
    own.address = own.peer =
        interface_identifier(interface, IpAddress::v6_words(0xfe80'0000'0000'0000, 0));
    own.prefix_length = 64;
    own.scope = scope_link;
    own.flags = IFA_F_PERMANENT;
    if (stack.settings.greater(interface, &Interface::Settings::accept_dad) != 0 &&
        (interface.flags() & iff_no_arp) == 0) {
        own.flags |= IFA_F_TENTATIVE;
        own.probes_left = interface.settings.dad_transmits;
    }
    if (stack.add_address(interface, own))
        (void)stack.join_group(interface, solicited_node(own.address));
    interface.router_solicits_left =
        interface.settings.accept_ra != 0 ? static_cast<u8>(solicitations) : u8{0};
    stack.address_timer().start(interface);
}

void ipv6_interface_down(Stack& stack, Interface& interface) {
    for (;;) {
        InterfaceAddress gone;
        bool found = false;
        {
            SpinGuard guard(stack.lock);
            for (const InterfaceAddress& own : interface.addresses)
                if (own.address.is_v6()) {
                    gone = own;
                    found = true;
                    break;
                }
        }
        if (!found)
            break;
        stack.leave_group(interface, solicited_node(gone.address));
        (void)stack.remove_address(interface, gone.address, gone.prefix_length);
    }
    interface.router_solicits_left = 0;
}

// --- what happens by itself

AddressTimer::AddressTimer(Stack& stack) : stack_(stack), timer_(stack.clock, expired, this) {}

void AddressTimer::start(Interface&) {
    // Up to a second, so that machines that start together do not speak together.
    soon(stack_.now() + random_u64() % (second / 10));
}

void AddressTimer::soon(u64 when) {
    SpinGuard guard(lock_);
    if (timer_.pending() && next_ <= when)
        return;
    next_ = when;
    timer_.arm(when);
}

void AddressTimer::expired(NetTimer&, void* argument) {
    static_cast<AddressTimer*>(argument)->run();
}

// The next thing to do for an interface, done; returns when there is more.
u64 AddressTimer::run_interface(Interface& interface) {
    const u64 now = stack_.now();
    u64 next = no_deadline;
    IpAddress probe, ready, ended;
    u8 ended_length = 0;
    bool has_probe = false, has_ready = false, has_ended = false;
    {
        SpinGuard guard(stack_.lock);
        for (InterfaceAddress& own : interface.addresses) {
            if (own.address.is_v6() && (own.flags & IFA_F_TENTATIVE) != 0 &&
                (own.flags & IFA_F_DADFAILED) == 0) {
                if (own.updated > now) {
                    next = own.updated < next ? own.updated : next;
                } else if (own.probes_left > 0) {
                    own.probes_left--;
                    own.updated = now + second; // RetransTimer
                    probe = own.address;
                    has_probe = true;
                } else {
                    own.flags &= ~u32{IFA_F_TENTATIVE};
                    ready = own.address;
                    has_ready = true;
                }
                if (has_probe || has_ready)
                    break;
            }
            if (own.valid_until <= now) {
                ended = own.address;
                ended_length = own.prefix_length;
                has_ended = true;
                break;
            }
            if (own.preferred_until <= now)
                own.flags |= IFA_F_DEPRECATED;
            else if (own.preferred_until < next)
                next = own.preferred_until;
            if (own.valid_until < next)
                next = own.valid_until;
        }
    }
    if (has_probe) {
        PacketPtr message = make_message(interface, neighbour_solicit, 0, &probe, 0);
        if (message)
            send(stack_, interface, IpAddress(), solicited_node(probe), std::move(message),
                 nullptr);
        return now;
    }
    if (has_ready) {
        stack_.routes_changed();
        return now;
    }
    if (has_ended) {
        if (ended.is_v6())
            stack_.leave_group(interface, solicited_node(ended));
        (void)stack_.remove_address(interface, ended, ended_length);
        return now;
    }
    if (interface.router_solicits_left > 0) {
        if (interface.router_solicit_at <= now) {
            interface.router_solicits_left--;
            interface.router_solicit_at = now + 4 * second;
            const IpAddress from = stack_.select_source(interface, all_routers);
            PacketPtr message = make_message(interface, router_solicit, 0, nullptr,
                                             from.is_any() ? u8{0} : option_source);
            if (message)
                send(stack_, interface, from, all_routers, std::move(message), nullptr);
        }
        next = interface.router_solicit_at < next ? interface.router_solicit_at : next;
    }
    return next;
}

void AddressTimer::run() {
    u64 next = no_deadline;
    u32 index = 0;
    while (const Ref<Interface> interface = stack_.next_interface(index)) {
        index = interface->index();
        if (!interface->is_up() || interface->is_loopback())
            continue;
        u64 when = 0;
        for (u32 steps = 0; steps < 64; steps++) {
            when = run_interface(*interface);
            if (when > stack_.now())
                break;
        }
        if (when < next)
            next = when;
    }
    bool expired_route = false;
    for (;;) {
        Owned<Route> gone;
        {
            SpinGuard guard(stack_.lock);
            gone = stack_.routes().remove_expired(stack_.now());
        }
        if (!gone)
            break;
        expired_route = true;
        Change change{ChangeKind::RouteRemoved};
        change.route = gone.get();
        notify_change(stack_, change);
    }
    if (expired_route)
        stack_.routes_changed();
    if (next != no_deadline)
        soon(next);
}

} // namespace kernel::net
