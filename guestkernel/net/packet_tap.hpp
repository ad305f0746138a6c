// Packet sockets as interfaces see them: copies of what passes.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/net/interface.hpp"
#include "guestkernel/net/socket_filter.hpp"

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

class PacketFanout;

// How much more a socket can take before what comes is lost.
enum class Room : u8 { None, Low, Normal };

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
    virtual Room room() = 0;

    // Of a member of a group (packet_fanout.hpp): what it had to leave to others.
    struct Rollover {
        static constexpr usize lately = 16;
        base::Atomic<u64> all{0}, huge{0}, failed{0}; // PACKET_ROLLOVER_STATS
        base::Atomic<u32> next{0};
        volatile u32 history[lately] = {}; // hashes; whichever CPU wrote last
        bool is_huge(u32 hash);
    };
    Rollover rollover;

private:
    friend class PacketTaps;
    friend class PacketFanout;
    base::ListNode node_, socket_node_, group_node_;
    Ref<PacketFanout> group_;
    u64 serial_ = 0;
};

// What setsockopt(2) asks for.
struct FanoutRequest {
    u16 id = 0;
    u8 type = 0;  // PACKET_FANOUT_*
    u8 flags = 0; // PACKET_FANOUT_FLAG_* >> 8
    u32 most = 0; // members; 0: the group's, or 256 of a new one
};

// PACKET_FANOUT: sockets that divide what passes an interface among themselves. packet(7).
class PacketFanout final : public RefCounted {
public:
    explicit PacketFanout(const FanoutRequest& request) : asked(request) {}
    FanoutRequest asked;
    u32 interface = 0; // all members'
    u16 protocol = 0;
    base::Atomic<u32> turn{0}; // PACKET_FANOUT_LB
    FilterSlot chooser;        // PACKET_FANOUT_CBPF
    bool rolls_over() const;   // PACKET_FANOUT_FLAG_ROLLOVER
    bool wants(PacketKind kind) const;

    // --- under the taps' lock
    base::ListNode node;
    base::IntrusiveList<PacketTap, &PacketTap::group_node_> members;
    u32 count = 0;
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

    // --- groups (packet_fanout.cpp)
    // EINVAL, EALREADY, ENOSPC, ENOMEM as packet(7) has it.
    Result<void> join_group(PacketTap& tap, const FanoutRequest& request);
    void leave_group(PacketTap& tap);
    Ref<PacketFanout> group_of(PacketTap& tap); // null: none

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
    bool leads(PacketFanout& group, const PacketTap& tap);
    PacketFanout* find_group(u16 id);
    bool new_group_id(u16& id);
    PacketTap* hold_member(PacketFanout& group, u32 index);
    PacketTap* hold_next(PacketFanout& group, PacketTap& before);
    PacketTap* roll_over(PacketFanout& group, u32 index, u32 count, bool self, u32 hash);
    PacketTap* choose(PacketFanout& group, const Packet& packet, u32 network_at);

    SpinLock lock_{LockRank::Leaf};
    base::IntrusiveList<PacketTap, &PacketTap::node_> taps_;
    base::IntrusiveList<PacketTap, &PacketTap::socket_node_> sockets_;
    u64 last_serial_ = 0;
    base::IntrusiveList<PacketFanout, &PacketFanout::node> groups_;
    u16 next_group_id_ = 0;
};

} // namespace kernel::net
