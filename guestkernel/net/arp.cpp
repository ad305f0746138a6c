// ARP: RFC 826, with what Linux makes of it (arp(7)).
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

constexpr u16 request = 1, reply = 2;

void send_arp(Interface& interface, u16 operation, const MacAddress& to,
              const MacAddress& target_mac, const IpAddress& sender, const IpAddress& target) {
    if ((interface.flags() & iff_no_arp) != 0)
        return;
    PacketPtr packet = Packet::allocate(sizeof(EthernetHeader) + sizeof(ArpPacket));
    if (!packet)
        return;
    ArpPacket arp;
    arp.hardware.set(static_cast<u16>(LinkType::Ethernet));
    arp.protocol.set(ether_ip);
    arp.hardware_length = sizeof(MacAddress);
    arp.protocol_length = 4;
    arp.operation.set(operation);
    arp.sender_mac = interface.mac();
    arp.sender.set(sender.v4_value());
    arp.target_mac = target_mac;
    arp.target.set(target.v4_value());
    packet->push_header(arp);
    packet->mark_network();
    EthernetHeader link;
    link.destination = to;
    link.source = interface.mac();
    link.protocol.set(ether_arp);
    packet->push_header(link);
    packet->mark_link();
    packet->link_protocol = ether_arp;
    interface.transmit(std::move(packet));
}

} // namespace

void send_arp_request(Stack& stack, Interface& interface, const IpAddress& target,
                      const MacAddress* unicast) {
    const IpAddress sender = stack.select_source(interface, target);
    send_arp(interface, request, unicast != nullptr ? *unicast : MacAddress::broadcast(),
             MacAddress(), sender.is_v4() ? sender : IpAddress::v4_any(), target);
}

void announce_address(Stack&, Interface& interface, const IpAddress& address) {
    if (address.is_v4() && interface.has_link_addresses())
        send_arp(interface, request, MacAddress::broadcast(), MacAddress(), address, address);
}

namespace {

// Whether to answer for an address of ours: arp_ignore and arp_filter of ip-sysctl.
bool may_answer(Stack& stack, Interface& interface, const IpAddress& sender,
                const IpAddress& target) {
    const u8 ignore = stack.settings.greater(interface, &Interface::Settings::arp_ignore);
    SpinGuard guard(stack.lock);
    if (ignore >= 8)
        return false;
    if (ignore > 0) {
        bool answers = false;
        for (const InterfaceAddress& address : interface.addresses) {
            if (!address.address.is_v4())
                continue;
            // 3: none that is good on this host or link only, wherever it is.
            if (ignore == 3 ? address.address == target && address.scope < scope_link
                            : address.address == target &&
                                  (ignore == 1 ||
                                   sender.in_prefix(address.address.prefix(address.prefix_length),
                                                    address.prefix_length)))
                answers = true;
        }
        if (!answers)
            return false;
    }
    if (!stack.settings.either(interface, &Interface::Settings::arp_filter) || sender.is_any())
        return true;
    // Only where packets for the sender would leave.
    RouteKey key;
    key.destination = sender;
    key.source = target;
    auto found = stack.routes().find(key, stack.now());
    return found && found->hop != nullptr && found->hop->interface.get() == &interface;
}

// Whether to answer for somebody whom we would forward to by another interface (proxy_arp).
bool answers_for(Stack& stack, Interface& interface, const IpAddress& sender,
                 const IpAddress& target) {
    if (!interface.settings.forwarding4 ||
        !stack.settings.either(interface, &Interface::Settings::proxy_arp))
        return false;
    RouteKey key;
    key.destination = target;
    key.source = sender;
    key.in = &interface;
    SpinGuard guard(stack.lock);
    auto found = stack.routes().find(key, stack.now());
    return found && found->route->type == RouteType::Unicast && found->hop != nullptr &&
           found->hop->interface.get() != &interface;
}

// Whether what nobody asked for is reason to remember its sender (arp_accept: 1 always, 2 of an
// address of this network).
bool learns_unasked(Stack& stack, Interface& interface, const ArpPacket& arp) {
    const u8 mode = stack.settings.greater(interface, &Interface::Settings::arp_accept);
    const IpAddress sender = IpAddress::v4(arp.sender.get());
    const bool is_reply = arp.operation.get() == reply;
    if (mode == 0 || (!is_reply && arp.sender.get() != arp.target.get()))
        return false;
    if (mode == 1)
        return true;
    SpinGuard guard(stack.lock);
    for (const InterfaceAddress& own : interface.addresses)
        if (own.address.is_v4() &&
            sender.in_prefix(own.address.prefix(own.prefix_length), own.prefix_length))
            return true;
    return false;
}

} // namespace

void arp_input(Stack& stack, PacketPtr packet) {
    ArpPacket arp;
    Interface& interface = *packet->ingress;
    if (!packet->read(0, arp) || arp.hardware.get() != static_cast<u16>(LinkType::Ethernet) ||
        arp.protocol.get() != ether_ip || arp.hardware_length != sizeof(MacAddress) ||
        arp.protocol_length != 4)
        return;
    const u16 operation = arp.operation.get();
    if ((operation != request && operation != reply) || (interface.flags() & iff_no_arp) != 0 ||
        packet->kind == PacketKind::OtherHost)
        return;
    const IpAddress sender = IpAddress::v4(arp.sender.get());
    const IpAddress target = IpAddress::v4(arp.target.get());
    if (target.is_multicast() || target.is_loopback() || sender.is_multicast() ||
        arp.sender_mac.is_group())
        return;
    if (sender == target &&
        stack.settings.either(interface, &Interface::Settings::drop_gratuitous_arp))
        return;
    const bool local = stack.is_local(target);
    const bool ours = operation == request &&
                      (local ? may_answer(stack, interface, sender, target)
                             : !sender.is_any() && answers_for(stack, interface, sender, target));
    // A probe for an address (RFC 5227): answered, but there is nothing to learn from it.
    if (sender.is_any()) {
        if (ours)
            send_arp(interface, reply, arp.sender_mac, arp.sender_mac, target, target);
        return;
    }
    if (stack.is_local(sender))
        return; // somebody has our address, or it is our own packet
    if (ours) {
        if (Ref<Neighbour> neighbour = stack.neighbours().find_or_make(interface, sender))
            neighbour->update(arp.sender_mac, NeighbourState::Stale, true);
        send_arp(interface, reply, arp.sender_mac, arp.sender_mac, target, sender);
        return;
    }
    // Otherwise only what we asked for, or a change of what we know.
    Ref<Neighbour> neighbour = stack.neighbours().find(interface, sender);
    if (!neighbour && learns_unasked(stack, interface, arp))
        neighbour = stack.neighbours().find_or_make(interface, sender);
    if (!neighbour)
        return;
    const bool asked = operation == reply && packet->kind == PacketKind::Host;
    neighbour->update(arp.sender_mac, asked ? NeighbourState::Reachable : NeighbourState::Stale,
                      true);
}

} // namespace kernel::net
