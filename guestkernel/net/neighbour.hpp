// Neighbours: which link-layer address an address on the link has (RFC 826, RFC 4861, 7.3).
//
// A neighbour that is known to be reachable costs one atomic load per packet. The table holds one
// reference of each, paths of sockets hold others. Locks: the table's (rank NetTable), then one
// neighbour's own (rank NetNeighbour); solicitations are sent without either.
#pragma once

#include "guestkernel/net/clock.hpp"
#include "guestkernel/net/interface.hpp"

namespace kernel::net {

// Values of linux/neighbour.h: NUD_*.
enum class NeighbourState : u8 {
    None = 0,
    Incomplete = 0x01,
    Reachable = 0x02,
    Stale = 0x04,
    Delay = 0x08,
    Probe = 0x10,
    Failed = 0x20,
    NoArp = 0x40,
    Permanent = 0x80,
};

struct NeighbourSettings { // /proc/sys/net/ipv4/neigh/default
    u64 base_reachable_ns = 30 * nanoseconds_per_second;
    u64 retransmit_ns = nanoseconds_per_second;
    u64 delay_first_probe_ns = 5 * nanoseconds_per_second;
    u64 stale_ns = 60 * nanoseconds_per_second; // unused for so long: may be forgotten
    u32 unicast_probes = 3, multicast_probes = 3;
    u32 queue_packets = 101;
    u32 keep = 128, soft_limit = 512, hard_limit = 1024; // gc_thresh1..3, each version for itself
};

class Neighbour final : public RefCounted {
public:
    Neighbour(Stack& stack, Ref<Interface> interface, const IpAddress& address);
    ~Neighbour() override;

    // Sends a packet that begins with its network header, now or once the address is known.
    void output(PacketPtr packet, u16 protocol);
    // What the network, or whoever configures us, says of it. `override`: replaces another address.
    void update(const MacAddress& mac, NeighbourState state, bool override_mac);
    // It answers: something from higher up shows that packets arrive (MSG_CONFIRM, TCP's progress).
    void confirm();
    void fail_now();
    // What an administrator says of it: any state, `mac` null for the one it has. `override_mac`:
    // as in update().
    void configure(const MacAddress* mac, NeighbourState state, bool override_mac);

    struct View {
        NeighbourState state;
        MacAddress mac;
        u64 confirmed, used, updated;
        u32 probes;
        bool router;
    };
    View view();
    const Ref<Interface> interface;
    const IpAddress address;
    base::Atomic<bool> router{false};
    bool proxy = false;

private:
    friend class NeighbourTable;
    static void expired(NetTimer& timer, void* argument);
    void on_timer();
    void set_state(NeighbourState state); // Locks: lock_ is held
    void send_now(PacketPtr packet, u16 protocol, u64 link);
    void solicit();
    // Both with lock_ held. `dropped`: what had to go, to be let go of without it.
    void enqueue(PacketPtr packet, u32 most_packets, PacketList& dropped);
    PacketList take_queue();
    static constexpr u64 usable = u64{1} << 63;
    static u64 pack(const MacAddress& mac);

    Stack& stack_; // the table, and with it this timer, go first
    SpinLock lock_{LockRank::NetNeighbour};
    base::Atomic<u64> link_{0}; // the address in 48 bits; `usable`: nothing else needs looking at
    base::Atomic<u64> used_{0};
    NeighbourState state_ = NeighbourState::None;
    MacAddress mac_;
    bool dead_ = false;
    u32 probes_ = 0;
    u64 confirmed_ = 0, updated_ = 0;
    PacketList queue_; // with their protocols in link_protocol
    u32 queue_bytes_ = 0;
    bool in_timer_ = false; // its own callback must not be what destroys it
    NetTimer timer_;
    Neighbour* next_ = nullptr;
};

class NeighbourTable {
public:
    explicit NeighbourTable(Stack& stack);
    ~NeighbourTable();
    // Null: no memory, or the table is full of neighbours in use.
    Ref<Neighbour> find_or_make(Interface& interface, const IpAddress& address);
    Ref<Neighbour> find(const Interface& interface, const IpAddress& address);
    bool remove(const Interface& interface, const IpAddress& address);
    // The link lost its carrier or the interface goes: all but permanent ones, or all.
    void flush(const Interface& interface, bool permanent_too);
    void for_each(bool v6, void (*visit)(Neighbour& neighbour, void* context), void* context);
    NeighbourSettings& settings(bool v6) { return settings_[v6]; }
    u32 count(bool v6) const { return counts_[v6]; }
    // Packets that begin with their network header and that `on`'s link has nobody for: their
    // senders hear of it, soon.
    void report_lost(const Interface& on, PacketList packets);

private:
    static void lost_due(NetTimer& timer, void* self);
    void answer_lost();
    static constexpr usize buckets = 256;
    void collect(bool v6, bool forced);
    void drop(Ref<Neighbour> neighbour);
    u64 hash(const Interface& interface, const IpAddress& address) const;
    Stack& stack_;
    SpinLock lock_{LockRank::NetTable};
    HashTable<Neighbour, &Neighbour::next_, buckets> table_;
    u32 counts_[2] = {};
    u64 collected_at_ = 0;
    NeighbourSettings settings_[2];
    PacketList lost_;     // under lock_
    NetTimer lost_timer_; // the last member: it goes first
};

// Asks on the link: ARP (arp.cpp) or neighbour discovery (ndp.cpp). `unicast`: to a known address.
void send_arp_request(Stack& stack, Interface& interface, const IpAddress& target,
                      const MacAddress* unicast);
void send_neighbour_solicitation(Stack& stack, Interface& interface, const IpAddress& target,
                                 const MacAddress* unicast);
void arp_input(Stack& stack, PacketPtr packet);
// Tells the link of an address that is new here.
void announce_address(Stack& stack, Interface& interface, const IpAddress& address);

} // namespace kernel::net
