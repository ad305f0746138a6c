// Packet sockets as interfaces see them: copies of what passes.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/net/interface.hpp"

namespace kernel::net {

class PacketTap {
public:
    virtual ~PacketTap() = default;
    virtual bool try_hold() = 0; // under the list's lock
    virtual void let_go() = 0;
    // The packet begins with the link header and is not the tap's: it copies what it wants. Spin
    // locks below Socket may be held by whoever sends.
    virtual void deliver(Interface& interface, const Packet& packet, u32 link_bytes,
                         PacketKind kind) = 0;
    u32 interface = 0; // 0: all
    u16 protocol = 0;  // ETH_P_ALL: both directions
private:
    friend class PacketTaps;
    base::ListNode node_;
};

class PacketTaps {
public:
    // Interfaces count those that concern them: see Interface::taps.
    void add(PacketTap& tap);
    void remove(PacketTap& tap);
    // `packet`: to be sent, with its link header; or received, with the link header taken off.
    void deliver(Interface& interface, const Packet& packet, PacketKind kind);

private:
    SpinLock lock_{LockRank::Leaf};
    base::IntrusiveList<PacketTap, &PacketTap::node_> taps_;
};

} // namespace kernel::net
