#include "guestkernel/net/packet_tap.hpp"

#include "guestkernel/net/wire.hpp"

namespace kernel::net {

void PacketTaps::add(PacketTap& tap) {
    SpinGuard guard(lock_);
    taps_.push_back(tap);
}

void PacketTaps::remove(PacketTap& tap) {
    SpinGuard guard(lock_);
    if (tap.node_.linked())
        tap.node_.unlink();
}

void PacketTaps::interface_down(u32 index) {
    SpinGuard guard(lock_);
    for (PacketTap& tap : taps_)
        if (tap.interface == index)
            tap.interrupt();
}

void PacketTaps::interface_gone(u32 index) {
    SpinGuard guard(lock_);
    for (PacketTap& tap : taps_)
        if (tap.interface == index)
            tap.interface = PacketTap::gone;
}

void PacketTaps::enroll(PacketTap& tap) {
    SpinGuard guard(lock_);
    tap.serial_ = ++last_serial_;
    sockets_.push_back(tap);
}

void PacketTaps::expel(PacketTap& tap) {
    SpinGuard guard(lock_);
    if (tap.socket_node_.linked())
        tap.socket_node_.unlink();
}

bool PacketTaps::leads(PacketFanout& group, const PacketTap& tap) {
    SpinGuard guard(lock_);
    return group.members.front() == &tap;
}

bool PacketTaps::next_socket(u64& after, PacketSocketRecord& out) {
    SpinGuard guard(lock_);
    for (const PacketTap& tap : sockets_) {
        if (tap.serial_ <= after)
            continue;
        after = tap.serial_;
        tap.describe(out);
        return true;
    }
    return false;
}

usize PacketTaps::hold(const Interface& interface, const Packet& packet, PacketKind kind,
                       PacketTap* after, PacketTap** out) {
    const auto wants = [&](const PacketTap& tap) {
        return (tap.interface == 0 || tap.interface == interface.index()) &&
               (tap.protocol == ether_all ||
                (kind != PacketKind::Outgoing && tap.protocol == packet.link_protocol));
    };
    usize found = 0;
    SpinGuard guard(lock_);
    // One that left meanwhile does not say where to go on.
    if (after != nullptr && !after->node_.linked())
        return 0;
    PacketTap* tap = after != nullptr ? taps_.next(*after) : taps_.front();
    for (; tap != nullptr && found < at_once; tap = taps_.next(*tap))
        if (wants(*tap) && tap->try_hold())
            out[found++] = tap;
    return found;
}

void PacketTaps::deliver(Interface& interface, const Packet& packet, PacketKind kind) {
    // A looped packet was seen when it was sent, and so was one of the loopback interface: there
    // both directions are shown, as in Linux.
    if (packet.looped)
        return;
    const u32 link_bytes =
        packet.has_link() && packet.link_offset() < 0 ? static_cast<u32>(-packet.link_offset()) : 0;
    PacketTap* held[at_once];
    PacketTap* last = nullptr; // of those before
    for (;;) {
        const usize found = hold(interface, packet, kind, last, held);
        for (usize i = 0; i < found; i++) {
            if (last != nullptr)
                last->let_go();
            last = held[i];
            const Ref<PacketFanout> group = group_of(*last);
            if (!group) {
                last->deliver(interface, packet, link_bytes, kind);
                continue;
            }
            // Its first member stands for all of a group.
            if (!group->wants(kind) || !leads(*group, *last))
                continue;
            const u32 network_at = link_bytes > 0 ? 0 : interface.link_header_bytes();
            if (PacketTap* const chosen = choose(*group, packet, network_at)) {
                chosen->deliver(interface, packet, link_bytes, kind);
                chosen->let_go();
            }
        }
        if (found < at_once)
            break;
    }
    if (last != nullptr)
        last->let_go();
}

} // namespace kernel::net
