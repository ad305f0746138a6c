// PacketEndpoint: what packet sockets of AF_PACKET take from interfaces, into their queue or ring.
#pragma once

#include "guestkernel/net/clock.hpp"
#include "guestkernel/net/packet_ring.hpp"
#include "guestkernel/net/packet_tap.hpp"
#include "guestkernel/net/raw_socket.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

// What a captured frame remembers, in its scratch().
struct FrameInfo {
    u32 interface, original, network_offset;
    u16 protocol, link_type;
    u16 vlan;
    PacketKind kind;
    bool vlan_present, partial, verified;
    u16 gso_size;
    u8 gso_type;
    MacAddress source;
};

struct LinkAddress { // struct sockaddr_ll
    u16 family;
    Be16 protocol;
    i32 interface;
    u16 link_type;
    u8 kind, length;
    u8 address[8];
};
static_assert(sizeof(LinkAddress) == 20);

class PacketEndpoint final : public DatagramEndpoint, public PacketTap {
public:
    explicit PacketEndpoint(Ref<Stack> stack_of)
        : DatagramEndpoint(std::move(stack_of), LockRank::Leaf),
          retire_timer_(stack().clock, retire, this) {}
    bool try_hold() override { return try_add_ref(); }
    void let_go() override { release(); }
    void deliver(Interface& on, const Packet& packet, u32 link_bytes, PacketKind kind) override;

    void describe(PacketSocketRecord& out) const override;
    void interrupt() override;
    Room room() override;

    bool cooked = false;                               // SOCK_DGRAM: without the link header
    u32 uid = 0;                                       // of the maker
    volatile bool attached = false, auxiliary = false; // PACKET_AUXDATA
    volatile bool ignore_outgoing = false;
    volatile bool has_offloads = false; // PACKET_VNET_HDR
    volatile i32 copy_threshold = 0;    // PACKET_COPY_THRESH
    base::Atomic<u32> seen{0}, lost{0}; // PACKET_STATISTICS

    // Exchanges the ring for another one, or none. `moving`: it comes back, and until then frames
    // are lost.
    Owned<PacketRing> exchange_ring(Owned<PacketRing> other, bool moving = false);
    bool has_ring() const { return ring_present; }
    bool ring_readable();
    u32 take_freezes();

private:
    static void retire(NetTimer& timer, void* self);
    bool put_in_ring(PacketPtr& frame, const FrameInfo& info);
    volatile bool ring_present = false;
    Owned<PacketRing> ring_; // under the lock
    NetTimer retire_timer_;  // the last member: it goes first
};

LinkAddress address_of(const FrameInfo& info);
u32 status_of(const FrameInfo& info); // TP_STATUS_* of the frame
// What a program gets in front of a frame, which begins with its link header (PACKET_VNET_HDR).
OffloadHeader offloads_of(const Packet& frame);

} // namespace kernel::net
