// Which sockets own which local ports: UDP has one such table per network namespace, TCP another.
// Binding follows bind(2) of Linux with SO_REUSEADDR, SO_REUSEPORT, wildcard addresses, addresses
// of both versions (IPV6_V6ONLY) and SO_BINDTODEVICE.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/net/ip_address.hpp"
#include "guestkernel/net/socket_filter.hpp"

namespace kernel::net {

struct PortGroup;
class PortOwner;

// The sockets of one user that share a port and an address (SO_REUSEPORT), in the order they came;
// the last takes the place of one that leaves. Under the table's lock.
class ReuseGroup final : public RefCounted {
public:
    static constexpr usize most = 65536;
    Vector<PortOwner*> members;
    Ref<SocketFilter> chooser; // SO_ATTACH_REUSEPORT_CBPF: says whose a packet is, by number
};

// The part of a socket that ports are bound to. Fields are written by the socket before it binds
// and, once bound, only through the table (set_peer, become_v4, set_receiving) or while nobody
// looks.
class PortOwner {
public:
    virtual ~PortOwner() = default;
    // Both under the table's lock. False: it is about to die.
    virtual bool try_hold() = 0;

    IpAddress local; // any: all addresses
    IpAddress peer;  // of a connected datagram socket; any: none
    u16 port = 0;    // 0: not bound
    u16 peer_port = 0;
    u32 interface = 0; // SO_BINDTODEVICE; 0: any
    u32 uid = 0;       // of the maker: SO_REUSEPORT groups are one user's
    bool v6 = false;   // an AF_INET6 socket
    bool v6_only = false;
    bool reuse_address = false; // SO_REUSEADDR
    bool reuse_port = false;    // SO_REUSEPORT
    bool listening = false;     // a TCP listener: SO_REUSEADDR does not get past it
    bool connected = false;
    bool lite = false; // of UDP-Lite, whose ports are others (RFC 3828)

private:
    friend class PortTable;
    friend struct PortGroup;
    base::ListNode port_node_;     // all owners of a port
    base::ListNode receiver_node_; // those that lookups find
    PortGroup* group_ = nullptr;   // of the port, while bound
    Ref<ReuseGroup> reuse_group_;
    bool receiving_ = false;
    bool alone_ = false; // counted as one that shares its port with no connection
};

// net.ipv4.ip_local_reserved_ports: those that nobody gets who asks for any. Changed as a whole and
// looked at without a lock: who asks meanwhile may meet the old set or the new one.
class ReservedPorts {
public:
    static constexpr usize words = 65536 / 64;
    ReservedPorts() = default;
    ~ReservedPorts();
    ReservedPorts(const ReservedPorts&) = delete;
    ReservedPorts& operator=(const ReservedPorts&) = delete;

    bool contains(u16 port) const;
    // ENOMEM; nothing has changed then.
    Result<void> replace(std::span<const u64, words> ports);

private:
    base::Atomic<u64>* volatile bits_ = nullptr; // null: none ever
    SpinLock lock_{LockRank::NetTable};
};

class PortTable {
public:
    static constexpr usize buckets = 2048;
    struct Range {
        u16 first = 32768, last = 60999; // net.ipv4.ip_local_port_range
        const ReservedPorts* reserved = nullptr;
    };

    PortTable();
    ~PortTable();
    PortTable(const PortTable&) = delete;
    PortTable& operator=(const PortTable&) = delete;
    Result<void> init();

    // Binds `owner` (its address and flags are set) to `port`, or to a free one for 0. `receiving`:
    // lookups find it from now on. EADDRINUSE, ENOMEM. `usable`, if given, is asked under the
    // bucket's lock about ephemeral ports that only `connected` owners have (a TCP connect may
    // share a port when the connection as a whole is new).
    using Usable = bool (*)(void* context, u16 port);
    Result<void> bind(PortOwner& owner, u16 port, const Range& range, bool receiving,
                      Usable usable = nullptr, void* context = nullptr, u32 seed = 0);
    // Puts `child` (a connection that was accepted) beside `listener`, on its port, unchecked. Of a
    // port that nobody has any more it has the number only.
    void join(PortOwner& child, const PortOwner& listener);
    void unbind(PortOwner& owner);
    // Whether lookups find it: false for a TCP socket that does not listen.
    void set_receiving(PortOwner& owner, bool receiving);
    // Changes what lookups compare.
    void set_peer(PortOwner& owner, const IpAddress& local, const IpAddress& peer, u16 peer_port,
                  bool connected);
    // IPV6_ADDRFORM: one that is connected to IPv4 is a socket of AF_INET from now on.
    void become_v4(PortOwner& owner);
    // SO_REUSEADDR and SO_REUSEPORT may come after bind(2): they count when the next one binds.
    void set_reuse(PortOwner& owner, bool address, bool port);
    // SO_ATTACH_REUSEPORT_CBPF, or null to detach it: of the group, and before there is one of the
    // group that `owner` will be the first of. EINVAL: it shares no port; ENOENT: nothing is
    // attached; ENOMEM. Not while `owner` is being bound.
    Result<void> set_chooser(PortOwner& owner, Ref<SocketFilter> chooser);
    // Whether `owner`, bound already, may listen: EADDRINUSE if another one listens there.
    Result<void> start_listening(PortOwner& owner);

    // A packet's four values and where it came in.
    struct Key {
        IpAddress local, peer;
        u16 port = 0, peer_port = 0;
        u32 interface = 0;
        bool lite = false;
        const Packet* packet = nullptr; // for a group's program, its data beginning at `payload`
        u32 payload = 0;
    };
    // The receiver that fits best (connected before bound to the address before wildcard; among
    // equals of one SO_REUSEPORT group by its program, or the flow's hash), held by try_hold().
    // Null: none.
    PortOwner* find(const Key& key);
    // Every receiver that would take it (multicast, broadcast), each held: at most `capacity`,
    // those behind `after`, which is held still, or from the first on.
    usize find_all(const Key& key, PortOwner** out, usize capacity, PortOwner* after = nullptr);
    // Visits all owners; under locks, must not sleep.
    void for_each(void (*visit)(PortOwner& owner, void* context), void* context);
    // Likewise those of one bucket, for whoever goes through them in steps.
    void for_each_in(usize index, void (*visit)(PortOwner& owner, void* context), void* context);

private:
    struct Bucket;
    Bucket& bucket(u16 port) const;
    static int score(const PortOwner& owner, const Key& key);
    static bool conflicts(const PortOwner& a, const PortOwner& b);
    static bool taken(PortGroup* group, const PortOwner& owner);
    static Result<void> insert(Bucket& bucket, PortGroup* group, PortOwner& owner, u16 port,
                               bool receiving);
    static void enter(PortGroup& group, PortOwner& owner, bool receiving);
    static void note_connected(PortOwner& owner);
    static void start_receiving(PortGroup& group, PortOwner& owner);
    static void join_reuse_group(PortGroup& group, PortOwner& owner);
    static void leave_reuse_group(PortOwner& owner);
    static PortOwner* chosen(const PortOwner& best, int points, const Key& key);
    Bucket* buckets_ = nullptr;
};

} // namespace kernel::net
