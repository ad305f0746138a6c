// Stack: everything that a network namespace has for itself: interfaces, addresses, routes,
// neighbours, ports, settings, counters. Independent of tasks, so unit tests make as many as they
// like, on a clock of their own.
//
// Locks: `lock` (rank NetStack) guards the list of interfaces, their addresses and groups, routes
// and rules; it is taken inside of socket locks. Inside of it: NetTable (ports, reassembly), then
// NetNeighbour, then NetQueue (devices, backlog). Settings are plain words that anybody reads.
#pragma once

#include "guestkernel/ipc/buffer_sizes.hpp"
#include "guestkernel/net/clock.hpp"
#include "guestkernel/net/counters.hpp"
#include "guestkernel/net/interface.hpp"
#include "guestkernel/net/port_table.hpp"
#include "guestkernel/net/transport.hpp"

namespace kernel {
class NetNamespace;
class UserNamespace;
} // namespace kernel

namespace kernel::net {

class NeighbourTable;
class RouteTables;
class Reassembly;
class PathMtuCache;
class RawTable;
class PacketTaps;
class AddressTimer;

// What a protocol keeps per stack. Destroyed with the stack; shutdown() comes first, when the last
// socket is gone and interfaces are about to go.
class StackPart {
public:
    virtual ~StackPart() = default;
    virtual void shutdown() {}
};

// Which sources of a group a user wants: these, or all but these (RFC 3376, 3.1).
struct GroupFilter {
    bool exclude = true;
    std::span<const IpAddress> sources;
};

// /proc/sys/net of a namespace, apart from what protocols have in their parts.
struct StackSettings {
    u8 default_ttl = 64;
    u8 no_pmtu_disc = 0;
    bool forwarding4 = false, forwarding6 = false; // "all"; interfaces have their own
    bool non_local_bind4 = false, non_local_bind6 = false;
    bool bind_v6_only = false;
    bool echo_ignore_all = false, echo_ignore_broadcasts = true, ignore_bogus_errors = true;
    ReservedPorts reserved_ports;
    PortTable::Range local_ports{.reserved = &reserved_ports};
    u16 unprivileged_port_start = 1024;
    u32 ping_group_first = 1, ping_group_last = 0; // net.ipv4.ping_group_range: nobody
    bool icmp_errors_by_inbound = false;           // net.ipv4.icmp_errors_use_inbound_ifaddr
    u32 icmp_rate_limit_ms = 1000, icmp_rate_mask = 6168;
    u32 icmp_messages_per_second = 1000, icmp_burst = 50;
    u32 fragment_high4 = 4 * 1024 * 1024, fragment_time4_ms = 30'000;
    u32 fragment_high6 = 4 * 1024 * 1024, fragment_time6_ms = 60'000;
    u32 min_pmtu = 552, mtu_expires_s = 600;
    u32 receive_buffer_default = default_socket_buffer;
    u32 send_buffer_default = default_socket_buffer;
    u32 igmp_max_memberships = 20;
    u32 igmp_max_sources = 10; // net.ipv4.igmp_max_msf
    Interface::Settings default_interface;
    // What "all" says. It counts together with an interface's own by either() and greater(); of
    // what these are not asked about it is a number that programs read and write (ip-sysctl).
    Interface::Settings all_interfaces{.accept_source_route = false, .accept_dad = 0};
    template <typename T>
    bool either(const Interface& interface, T Interface::Settings::*which) const {
        return interface.settings.*which != 0 || all_interfaces.*which != 0;
    }
    u8 greater(const Interface& interface, u8 Interface::Settings::*which) const {
        const u8 own = interface.settings.*which, all = all_interfaces.*which;
        return own > all ? own : all;
    }
};

// Points of the IP path where filters hook in (netfilter's).
enum class HookPoint : u8 { PreRouting, Input, Forward, Output, PostRouting };
inline constexpr usize hook_points = 5;
struct HookContext {
    HookPoint point;
    bool v6;
    Interface* in; // null where there is none
    Interface* out;
    Flow* flow; // of packets sent or forwarded here: the way that was found
};
enum class HookVerdict : u8 { Accept, Drop, Stolen };
// The packet begins with its network header. Soft-interrupt or sender's context; no sleeping. On
// Stolen the hook has taken the packet.
using PacketHook = HookVerdict (*)(Stack& stack, const HookContext& context, PacketPtr& packet);

// What happened to a stack's configuration: for netlink's multicast groups.
enum class ChangeKind : u8 {
    InterfaceAdded,
    InterfaceRemoved,
    InterfaceChanged,
    AddressAdded,
    AddressRemoved,
    RouteAdded,
    RouteRemoved,
    NeighbourChanged,
    NeighbourRemoved,
    RuleAdded,
    RuleRemoved,
};
struct Change {
    ChangeKind kind;
    Interface* interface = nullptr;
    const InterfaceAddress* address = nullptr;
    const struct Route* route = nullptr;
    const Neighbour* neighbour = nullptr;
    const struct RouteRule* rule = nullptr;
    u32 flags_changed = 0;        // IFF_* of an interface that changed
    bool replaced = false;        // a route took another one's place
    std::string_view former_name; // of an interface that has another one now
};
// Called without the stack's lock; may not sleep. Null: nobody listens.
using ChangeListener = void (*)(Stack& stack, const Change& change);
void set_change_listener(ChangeListener listener);
void notify_change(Stack& stack, const Change& change);

class Stack final : public RefCounted {
public:
    // With a loopback interface, which is down. `owner`: whose capabilities count (null: the
    // initial user namespace).
    static Result<Ref<Stack>> make(const StackClock& clock, UserNamespace* owner);
    // Nobody can reach it any more by a namespace: interfaces are taken apart. May sleep.
    void shutdown();
    ~Stack() override;

    const StackClock clock;
    SpinLock lock{LockRank::NetStack};
    base::Atomic<u32> other_sockets{0}; // of all families, but of TCP: /proc/net/sockstat
    StackSettings settings;
    CounterSet counters;
    // Counts changes of interfaces, addresses, routes and rules: who goes through them in several
    // steps sees by it that they did not stay the same.
    base::Atomic<u32> change_sequence{1};
    // Of the network namespaces that this one knows by numbers (netlink's business).
    Owned<StackPart> namespace_numbers;
    // Netfilter's, made when a program first asks for it, deleted with the stack.
    base::Atomic<StackPart*> filter{nullptr};
    u64 now() const { return clock.now(); }
    UserNamespace* owner() const { return owner_.get(); }

    // --- interfaces
    // Gives it an index and its final name: EEXIST, EINVAL, ENFILE; ENODEV after shutdown().
    Result<void> attach(Ref<Interface> interface, u32 wanted_index = 0);
    void detach(Interface& interface); // may sleep
    Ref<Interface> interface(u32 index);
    Ref<Interface> interface(std::string_view name);
    Ref<Interface> next_interface(u32 after_index); // in the order of indices; null: no more
    Interface& loopback() { return *loopback_; }
    Result<void> set_flags(Interface& interface, u32 flags, u32 mask); // IFF_UP and others
    Result<void> set_mtu(Interface& interface, u32 mtu);
    Result<void> set_mac(Interface& interface, const MacAddress& mac);
    Result<void> rename(Interface& interface, std::string_view name);
    // To another stack, down and without its addresses; `name` and `index` if the own ones are not
    // wanted there. EEXIST, ENODEV (the other one is shut down). May sleep.
    Result<void> move(Interface& interface, Stack& to, std::string_view name, u32 index);

    // --- addresses
    Result<void> add_address(Interface& interface, const InterfaceAddress& address);
    Result<void> remove_address(Interface& interface, const IpAddress& address, u8 prefix_length);
    // Whether packets to it are for this stack: unicast addresses of interfaces (those still
    // probed for duplicates not), and the loopback network.
    bool is_local(const IpAddress& address, u32 interface = 0);
    bool is_broadcast(const IpAddress& address); // of a network here
    u32 interface_of(const IpAddress& address);  // that has the address; 0: none
    // The address that packets out of `interface` to `destination` should have: RFC 6724 for IPv6.
    IpAddress select_source(Interface& interface, const IpAddress& destination);
    Result<void> join_group(Interface& interface, const IpAddress& group,
                            const GroupFilter& wanted = {});
    void leave_group(Interface& interface, const IpAddress& group, const GroupFilter& wanted = {});
    // Of one user, who has `from` now. ENOMEM; nothing has changed then.
    Result<void> change_filter(Interface& interface, const IpAddress& group,
                               const GroupFilter& from, const GroupFilter& to);
    // With a source: whether some user wants what comes from there.
    bool in_group(Interface& interface, const IpAddress& group, const IpAddress* source = nullptr);

    // --- routing decisions made elsewhere are stale after this
    u32 generation() const { return generation_.load(base::Order::Acquire); }
    void routes_changed() { generation_.fetch_add(1, base::Order::AcqRel); }

    RouteTables& routes() { return *routes_; }
    NeighbourTable& neighbours() { return *neighbours_; }
    Reassembly& reassembly() { return *reassembly_; }
    PathMtuCache& path_mtus() { return *path_mtus_; }
    RawTable& raw_sockets() { return *raw_; }
    PacketTaps& taps() { return *taps_; }
    AddressTimer& address_timer() { return *address_timer_; }
    PortTable udp_ports, tcp_ports;
    base::Atomic<u32> taps_of_all{0}; // packet sockets that are bound to no interface
    // The part that the protocol of this number made: a static_cast away.
    StackPart* part(u8 protocol);

    // --- filters: one test of a flag while there are none
    bool hooked(HookPoint point) const {
        return hooks_[static_cast<usize>(point)].load(base::Order::Relaxed) != nullptr;
    }
    void set_hook(HookPoint point, PacketHook hook) {
        hooks_[static_cast<usize>(point)].store(hook, base::Order::Release);
    }
    // True: go on with the packet.
    bool run_hook(const HookContext& context, PacketPtr& packet) {
        const PacketHook hook =
            hooks_[static_cast<usize>(context.point)].load(base::Order::Acquire);
        return hook == nullptr || run_hook_slow(hook, context, packet);
    }

    u16 next_ip_id() { return static_cast<u16>(ip_id_.fetch_add(1, base::Order::Relaxed)); }
    // A key for hashes that the network must not foresee.
    u64 secret() const { return secret_; }
    // The global token bucket for ICMP errors, and the one per destination.
    bool may_send_icmp(const IpAddress& to, bool limited_type);

private:
    Stack(const StackClock& stack_clock, UserNamespace* owner);
    Result<void> init();
    void bring_up(Interface& interface);
    void take_out(Interface& gone, bool for_good);
    void leave_master(Interface& gone);
    void remove_secondaries(Interface& interface, const IpAddress& primary, u8 prefix_length);
    void bring_down(Interface& interface);
    IpAddress select_source_locked(Interface& interface, const IpAddress& destination);
    friend Result<void> find_path(Stack& stack, Flow& flow);
    bool run_hook_slow(PacketHook hook, const HookContext& context, PacketPtr& packet);

    // Kept: whoever was about to use the stack when its namespace ended still asks for it.
    const Ref<UserNamespace> owner_;
    Vector<Ref<Interface>> interfaces_; // sorted by index
    Ref<Interface> loopback_;
    u32 last_index_ = 0;
    base::Atomic<u32> generation_{1};
    base::Atomic<u32> ip_id_{0};
    bool shut_down_ = false; // under `lock`
    u64 secret_ = 0;
    base::Atomic<PacketHook> hooks_[hook_points];
    Owned<RouteTables> routes_;
    Owned<NeighbourTable> neighbours_;
    Owned<Reassembly> reassembly_;
    Owned<PathMtuCache> path_mtus_;
    Owned<RawTable> raw_;
    Owned<PacketTaps> taps_;
    Owned<AddressTimer> address_timer_;
    struct ProtocolPart {
        u8 number = 0;
        Owned<StackPart> part;
    };
    ProtocolPart parts_[8];
    struct IcmpBucket {
        u64 key = 0, filled_at = 0;
        u32 tokens = 0;
    };
    static constexpr usize icmp_buckets = 64;
    SpinLock icmp_lock_{LockRank::Leaf};
    IcmpBucket icmp_global_, icmp_by_destination_[icmp_buckets];
};

// The stack of a network namespace (null: the initial one's), and that of the running task.
Stack& stack_of(class NetNamespace* space);

} // namespace kernel::net
