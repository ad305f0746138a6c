// Packet sockets as interfaces see them: copies of what passes.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/net/interface.hpp"

namespace kernel::net {

// What /proc/net/packet and sock_diag show of a packet socket.
struct PacketSocketRecord {
    u64 inode = 0;
    int type = 0;
    u16 protocol = 0;
    u32 interface = 0;
    bool attached = false, auxiliary = false;
    u32 uid = 0, references = 0, drops = 0;
    u32 receive_memory = 0, receive_buffer = 0, send_memory = 0, send_buffer = 0;
};

class PacketTap {
public:
    virtual ~PacketTap() = default;
    virtual bool try_hold() = 0; // under the list's lock
    virtual void let_go() = 0;
    // The packet begins with the link header and is not the tap's: it copies what it wants. Spin
    // locks below Socket may be held by whoever sends.
    virtual void deliver(Interface& interface, const Packet& packet, u32 link_bytes,
                         PacketKind kind) = 0;
    virtual void describe(PacketSocketRecord& out) const = 0; // under the list's lock
    virtual void interrupt() = 0; // its interface went down; under the list's lock
    static constexpr u32 gone = ~u32{0};
    u32 interface = 0; // 0: all; `gone`: it was removed
    u16 protocol = 0;  // ETH_P_ALL: both directions
private:
    friend class PacketTaps;
    base::ListNode node_, socket_node_;
    u64 serial_ = 0;
};

class PacketTaps {
public:
    // Interfaces count those that concern them: see Interface::taps.
    void add(PacketTap& tap);
    void remove(PacketTap& tap);
    // `packet`: to be sent, with its link header; or received, with the link header taken off.
    void deliver(Interface& interface, const Packet& packet, PacketKind kind);

    // An interface is down from now on; or out of the stack, where another one may get its number.
    void interface_down(u32 index);
    void interface_gone(u32 index);

    // --- all sockets, whether they are attached to an interface or not
    void enroll(PacketTap& tap);
    void expel(PacketTap& tap);
    // The first that was enrolled after `after`, which moves on; false: no more.
    bool next_socket(u64& after, PacketSocketRecord& out);

private:
    static constexpr usize at_once = 32;
    // The next few that want it, each held: those behind `after`, which is held still, or from the
    // first on.
    usize hold(const Interface& interface, const Packet& packet, PacketKind kind, PacketTap* after,
               PacketTap** out);
    SpinLock lock_{LockRank::Leaf};
    base::IntrusiveList<PacketTap, &PacketTap::node_> taps_;
    base::IntrusiveList<PacketTap, &PacketTap::socket_node_> sockets_;
    u64 last_serial_ = 0;
};

} // namespace kernel::net
