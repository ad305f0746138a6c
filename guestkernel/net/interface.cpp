// Interfaces: what every device does alike when it sends and receives.
#include "guestkernel/net/interface.hpp"

#include <linux/errno.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/packet_tap.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

Interface::Interface(std::string_view wanted, LinkType type, u32 mtu, unsigned queues)
    : type_(type), flags_(type == LinkType::Ethernet ? iff_broadcast | iff_multicast : 0),
      mtu_(mtu), queue_count_(queues < 1            ? 1
                              : queues > max_queues ? max_queues
                                                    : queues) {
    set_name(wanted);
}

Interface::~Interface() = default;

void Interface::set_name(std::string_view name) {
    const usize bytes = name.size() < name_bytes - 1 ? name.size() : name_bytes - 1;
    // It may be the name that is there already.
    __builtin_memmove(name_storage_, name.data(), bytes);
    __builtin_memset(name_storage_ + bytes, 0, sizeof name_storage_ - bytes);
    name_ = std::string_view(name_storage_, bytes);
}

Result<void> Interface::set_mac(const MacAddress& mac) {
    if (mac.is_group() || mac.is_zero())
        return fail(EADDRNOTAVAIL);
    mac_ = mac;
    return {};
}

Result<void> Interface::set_mtu(u32 mtu) {
    if (mtu < min_mtu || mtu > max_mtu)
        return fail(EINVAL);
    mtu_ = mtu;
    return {};
}

Interface::Linked Interface::linked() {
    return {};
}

Ref<Stack> Interface::stack() {
    SpinGuard guard(stack_lock_);
    return stack_;
}

void Interface::set_carrier(bool on) {
    constexpr u32 bits = iff_running | iff_lower_up;
    const u32 before = on ? flags_.fetch_or(bits) : flags_.fetch_and(~bits);
    reports_carrier.store(true);
    if (((before & bits) == bits) == on)
        return;
    (on ? carrier_ups : carrier_downs).fetch_add(1);
    if (Ref<Stack> at = stack()) {
        if (!on)
            at->neighbours().flush(*this, false);
        Change change{ChangeKind::InterfaceChanged};
        change.interface = this;
        change.flags_changed = iff_running;
        notify_change(*at, change);
    }
}

// --- sending

// Does what the device cannot do; false: the packet is dropped.
bool Interface::prepare(PacketPtr packet, PacketList& out) {
    bool whole = true;
    switch (packet->segmentation) {
    case Segmentation::None:
        break;
    case Segmentation::Tcp4:
        whole = can(feature_tso4);
        break;
    case Segmentation::Tcp6:
        whole = can(feature_tso6);
        break;
    case Segmentation::Udp:
        whole = can(feature_uso);
        break;
    }
    if (!whole) {
        PacketList segments = segment_packet(std::move(packet), !can(feature_checksum));
        if (segments.empty())
            return false;
        while (PacketPtr segment = segments.pop_front())
            if (!prepare(std::move(segment), out))
                return false;
        return true;
    }
    if (packet->checksum_state == ChecksumState::Partial && !can(feature_checksum))
        packet->finish_checksum();
    if (!can(feature_fragments)) {
        packet = Packet::without_fragments(std::move(packet));
        if (!packet)
            return false;
    }
    out.push_back(std::move(packet));
    return true;
}

// Locks: the queue's is held.
bool Interface::send_locked(Queue& queue, unsigned number, PacketPtr packet) {
    const u32 bytes = packet->length();
    if (queue.waiting.empty() && start_transmit(number, packet)) {
        count(counters.tx_packets);
        count(counters.tx_bytes, bytes);
        return true;
    }
    if (queue.waiting.size() >= tx_queue_length) {
        count(counters.tx_dropped);
        return false;
    }
    queue.waiting.push_back(std::move(packet));
    return true;
}

void Interface::transmit(PacketPtr packet, bool tapped) {
    PacketList one;
    one.push_back(std::move(packet));
    transmit(std::move(one), tapped);
}

void Interface::transmit(PacketList&& packets, bool tapped) {
    if (!is_up()) {
        count(counters.tx_dropped, packets.size());
        packets.clear();
        return;
    }
    if (tapped && taps.load(base::Order::Relaxed) != 0) {
        if (Ref<Stack> at = stack())
            for (Packet* packet = packets.front(); packet != nullptr; packet = packet->next)
                at->taps().deliver(*this, *packet, PacketKind::Outgoing);
    }
    PacketList ready;
    while (PacketPtr packet = packets.pop_front())
        if (!prepare(std::move(packet), ready))
            count(counters.tx_errors);
    const unsigned number = queue_count_ == 1 ? 0 : arch::cpu_id() % queue_count_;
    Queue& queue = queues_[number];
    {
        SpinGuard guard(queue.lock);
        while (PacketPtr packet = ready.pop_front())
            send_locked(queue, number, std::move(packet));
    }
    flush_transmit(number);
}

void Interface::wake_queue(unsigned number) {
    Queue& queue = queues_[number];
    bool sent = false;
    {
        SpinGuard guard(queue.lock);
        while (PacketPtr packet = queue.waiting.pop_front()) {
            const u32 bytes = packet->length();
            if (!start_transmit(number, packet)) {
                queue.waiting.push_front(std::move(packet));
                break;
            }
            count(counters.tx_packets);
            count(counters.tx_bytes, bytes);
            sent = true;
        }
    }
    if (sent)
        flush_transmit(number);
}

// --- receiving

namespace {

// Takes the link header off and says what the packet is. False: it is malformed.
bool open_frame(Interface& interface, Packet& packet) {
    packet.mark_link();
    if (interface.link_header_bytes() == 0) {
        u8 first = 0;
        if (!packet.read(0, first))
            return false;
        packet.link_protocol = first >> 4 == 6 ? ether_ipv6 : ether_ip;
        packet.kind = PacketKind::Host;
        packet.mark_network();
        return true;
    }
    EthernetHeader header;
    if (!packet.read(0, header) || packet.linear(sizeof header) == nullptr)
        return false;
    packet.link_protocol = header.protocol.get();
    if (header.destination.is_group())
        packet.kind =
            header.destination.is_broadcast() ? PacketKind::Broadcast : PacketKind::Multicast;
    else
        packet.kind = interface.is_loopback() || header.destination == interface.mac()
                          ? PacketKind::Host
                          : PacketKind::OtherHost;
    if (!packet.pull(sizeof header))
        return false;
    packet.mark_network();
    return true;
}

void dispatch(Stack& stack, Interface& interface, PacketPtr packet) {
    packet->ingress = &interface;
    packet->ingress_index = interface.index();
    if (packet->kind == PacketKind::Multicast)
        count(interface.counters.multicast);
    if (interface.taps.load(base::Order::Relaxed) != 0)
        stack.taps().deliver(interface, *packet, packet->kind);
    const auto handler = interface.receive_handler.load(base::Order::Acquire);
    if (handler != nullptr && handler(interface, packet))
        return;
    if (packet->kind == PacketKind::OtherHost)
        return; // promiscuous mode lets it in for taps
    switch (packet->link_protocol) {
    case ether_ip:
        ipv4_input(stack, std::move(packet));
        return;
    case ether_ipv6:
        ipv6_input(stack, std::move(packet));
        return;
    case ether_arp:
        if (interface.has_link_addresses())
            arp_input(stack, std::move(packet));
        return;
    default:
        count(interface.counters.rx_dropped);
        return;
    }
}

} // namespace

void Interface::receive(PacketPtr packet) {
    PacketList one;
    one.push_back(std::move(packet));
    receive(std::move(one));
}

void Interface::receive(PacketList&& packets) {
    const Ref<Stack> at = stack();
    count_received(packets.size());
    while (PacketPtr packet = packets.pop_front()) {
        if (!at || !is_up()) {
            count(counters.rx_dropped);
            continue;
        }
        count(counters.rx_packets);
        count(counters.rx_bytes, packet->length());
        if (open_frame(*this, *packet))
            dispatch(*at, *this, std::move(packet));
        else
            count(counters.rx_errors);
    }
}

} // namespace kernel::net
