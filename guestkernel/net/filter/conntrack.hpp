// Connections: which packets belong together, in which direction, and what they are translated to.
//
// A connection is made by its first packet and is nobody's but that packet's until it has passed
// the last hook (confirm()); from then on both of its tuples are in the table, and stay there until
// its time is over. The table is bounded; when it is full, a connection that saw no answer yet (or
// is over) makes room, or the new one's packet is dropped.
//
// Locks: the table's (rank NetTable); a connection's own state (rank Leaf) inside of it.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/net/clock.hpp"
#include "guestkernel/net/packet.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net::filter {

// One direction's addresses. Of ICMP: the identifier as source_port, type and code as the other.
struct Tuple {
    IpAddress source, destination;
    u16 source_port = 0, destination_port = 0;
    u8 protocol = 0;
    bool v6() const { return source.is_v6(); }
    friend bool operator==(const Tuple&, const Tuple&) = default;
};
// The tuple of answers. False: nothing is answered to it (of ICMP).
bool invert(const Tuple& tuple, Tuple& out);

// Packet::tracking: how the packet stands to Packet::connection.
enum class Tracking : u8 { Invalid = 0, Established = 1, Related = 2, New = 3, Untracked = 4 };
inline constexpr u8 tracking_reply = 0x80;
inline Tracking tracking_of(const Packet& packet) {
    return static_cast<Tracking>(packet.tracking & 0x7f);
}

// IPS_* of linux/netfilter/nf_conntrack_common.h.
enum ConnectionStatus : u32 {
    status_seen_reply = 1u << 1,
    status_assured = 1u << 2,
    status_confirmed = 1u << 3,
    status_source_nat = 1u << 4,
    status_destination_nat = 1u << 5,
    status_source_done = 1u << 7,
    status_destination_done = 1u << 8,
    status_dying = 1u << 9,
};

enum class TcpState : u8 { // of linux/netfilter/nf_conntrack_tcp.h
    None,
    SynSent,
    SynReceived,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Close,
    SynSent2,
};
inline constexpr usize tcp_states = 10;

class Connection final : public RefCounted {
public:
    struct End {
        Tuple tuple;
        Connection* connection = nullptr;
        End* next = nullptr;
        u8 direction = 0;
    };
    Connection();
    End ends[2]; // original, reply; under the table's lock once confirmed
    base::Atomic<u32> status{0};
    base::Atomic<u64> expires{0}; // on the stack's clock
    base::Atomic<u32> mark{0};
    base::Atomic<u64> packets[2], bytes[2];
    u32 id = 0;
    bool has_expiry = false;
    bool counted = false; // packets and bytes: as nf_conntrack_acct was when it began
    // Whose address it masquerades with; 0: it does not.
    base::Atomic<u32> masquerade_interface{0};
    // --- under lock
    SpinLock lock{LockRank::Leaf};
    struct TcpSide {
        u32 end = 0, window_end = 0, window = 0; // as nf_conntrack's td_end, td_maxend, td_maxwin
        u32 acknowledged = 0;                    // the most that it did, if it did
        u8 scale = 0;
        bool scaled = false; // the option was there
        bool acknowledges = false;
    };
    TcpState tcp = TcpState::None;
    u8 last_direction = 0;
    bool liberal = false; // picked up in its midst: windows are not known
    u64 started = 0;
    TcpSide sides[2];
    // The last acknowledgement, which comes again where data gets lost.
    struct {
        u32 sequence = 0, acknowledgement = 0, end = 0, window = 0;
        u8 direction = 0;
        u8 repeated = 0;
    } last;

    bool has(u32 bits) const { return (status.load(base::Order::Relaxed) & bits) != 0; }
    u64 left_seconds(u64 now) const {
        const u64 end = expires.load(base::Order::Relaxed);
        return end > now ? (end - now) / nanoseconds_per_second : 0;
    }
};

// What the packet's headers say, for tracking.
struct PacketTuple {
    Tuple tuple;
    u32 transport = 0; // offset of its header
    bool fragment = false;
};
// From a packet that begins with a network header at `offset`. False: malformed or truncated.
bool read_tuple(const Packet& packet, u32 offset, PacketTuple& out);

struct TrackingSettings { // seconds
    u32 tcp[tcp_states] = {10, 120, 60, 432000, 120, 60, 30, 120, 10, 120};
    u32 tcp_unacknowledged = 300, tcp_retransmitted = 300;
    u32 udp = 30, udp_stream = 120, icmp = 30, icmpv6 = 30, generic = 600;
    u32 tcp_most_retransmitted = 3; // before the time for that counts
    bool tcp_loose = true, tcp_liberal = false, checksum = true, accounting = false;
};
// nf_conntrack_max: how many each network namespace may have.
extern base::Atomic<u32> most_connections;

class Connections {
public:
    explicit Connections(Stack& stack);
    ~Connections();
    Result<void> init(); // makes the table, once: ENOMEM. Locks: Filter::mutex is held.

    // The packet's connection, looked up or made; sets Packet::connection and tracking.
    HookVerdict track(const HookContext& context, PacketPtr& packet);
    // The packet has passed the last hook: its new connection goes into the table.
    HookVerdict confirm(Packet& packet);
    // Whether another connection uses the answers' tuple that `reply` would be.
    bool taken(const Tuple& reply, const Connection& but);
    void remove(Connection& connection);
    Ref<Connection> find(const Tuple& tuple, u8* direction = nullptr);
    // Those behind `after` in the table's order, at most `capacity`, and where to go on. 0: none.
    usize list(u64& after, Ref<Connection>* out, usize capacity);
    // All that `match` says, which is asked under the table's lock.
    template <typename F>
    void remove_if(F&& match);

    TrackingSettings settings;
    u32 count() const { return count_.load(base::Order::Relaxed); }
    static constexpr u32 buckets = 8192;
    base::Atomic<u64> found{0}, invalid{0}, inserted{0}, insert_failed{0}, dropped{0},
        early_dropped{0};
    void renew(Connection& connection, u32 seconds);

private:
    using End = Connection::End;
    u64 hash(const Tuple& tuple) const;
    End* find_end(const Tuple& tuple, u64 place);
    void unlink(Connection& connection);
    template <typename F>
    Ref<Connection> take_first(usize bucket, F&& match);
    bool make_room(u64 place, Ref<Connection>& gone);
    void complain();
    HookVerdict track_error(const HookContext& context, PacketPtr& packet,
                            const PacketTuple& outer);
    Ref<Connection> start(Packet& packet, const PacketTuple& from);
    bool follow(Connection& connection, Packet& packet, const PacketTuple& from, u8 direction);
    bool follow_tcp(Connection& connection, Packet& packet, const PacketTuple& from, u8 direction);
    static void expired(NetTimer& timer, void* argument);
    void collect();

    Stack& stack_;
    SpinLock lock_{LockRank::NetTable};
    End** table_ = nullptr;
    usize bucket_count_ = 0;
    base::Atomic<u32> count_{0};
    u32 last_id_ = 0;
    usize next_bucket_ = 0; // where the collector goes on
    NetTimer timer_;
    base::Atomic<u64> quiet_until_{0}; // of complaints about a full table
};

template <typename F>
Ref<Connection> Connections::take_first(usize bucket, F&& match) {
    SpinGuard guard(lock_);
    for (End* end = table_[bucket]; end != nullptr; end = end->next)
        if (Connection& one = *end->connection; end->direction == 0 && match(one)) {
            unlink(one);
            return Ref<Connection>::adopt(&one);
        }
    return {};
}

// Not by list(): what goes makes places in its bucket others'.
template <typename F>
void Connections::remove_if(F&& match) {
    for (usize bucket = 0; bucket < bucket_count_; bucket++)
        while (take_first(bucket, match)) {
        }
}

} // namespace kernel::net::filter
