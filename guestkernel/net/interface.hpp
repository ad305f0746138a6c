// Interface: a network device as the stack sees it. Drivers derive from it: virtio-net, loopback,
// veth, the bridge, the link of unit tests.
//
// Sending: transmit() gives the packets to packet taps, does in software what the device cannot
// (segmentation, checksums), and calls start_transmit() with the queue's lock held (rank NetQueue),
// so a queue is one CPU's at a time; afterwards, without the lock, flush_transmit(). A full device
// says so; its packets wait in the queue's list until the driver calls wake_queue().
// Receiving: the driver collects a batch in task context (soft interrupt) and calls receive(); the
// stack has the packets when that returns. Nothing on either path sleeps.
#pragma once

#include <string_view>

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/lib/string.hpp"
#include "guestkernel/net/packet.hpp"

namespace kernel::net {

class Stack;

// Values of net/if.h: IFF_*.
enum InterfaceFlag : u32 {
    iff_up = 0x1,
    iff_broadcast = 0x2,
    iff_loopback = 0x8,
    iff_point_to_point = 0x10,
    iff_running = 0x40,
    iff_no_arp = 0x80,
    iff_promiscuous = 0x100,
    iff_all_multicast = 0x200,
    iff_multicast = 0x1000,
    iff_lower_up = 0x10000,
};

// What the device takes over (sending) or may hand up (receiving).
enum InterfaceFeature : u32 {
    feature_checksum = 1u << 0,  // completes ChecksumState::Partial
    feature_fragments = 1u << 1, // takes packets with fragments
    feature_tso4 = 1u << 2,
    feature_tso6 = 1u << 3,
    feature_uso = 1u << 4,            // Segmentation::Udp
    feature_no_link_header = 1u << 5, // packets begin with the network header on the device
    feature_all_offloads =
        feature_checksum | feature_fragments | feature_tso4 | feature_tso6 | feature_uso,
};

// Values of linux/if_arp.h: ARPHRD_*.
enum class LinkType : u16 { Ethernet = 1, None = 0xfffe, Loopback = 772, Tunnel = 768 };

struct InterfaceCounters {
    base::Atomic<u64> rx_packets{0}, rx_bytes{0}, rx_errors{0}, rx_dropped{0}, multicast{0};
    base::Atomic<u64> tx_packets{0}, tx_bytes{0}, tx_errors{0}, tx_dropped{0};
};
inline void count(base::Atomic<u64>& counter, u64 by = 1) {
    counter.fetch_add(by, base::Order::Relaxed);
}

// An address of an interface.
struct InterfaceAddress {
    IpAddress address;
    IpAddress peer;      // of a point-to-point link; else the same as address
    IpAddress broadcast; // IPv4; any: none
    u8 prefix_length = 0;
    u8 scope = 0;  // RT_SCOPE_*
    u32 flags = 0; // IFA_F_*
    u64 created = 0, updated = 0;
    u64 preferred_until = no_deadline, valid_until = no_deadline;
    u8 probes_left = 0; // of duplicate address detection
    u8 origin = 0;      // IFAPROT_*
    u32 metric = 0;     // of its prefix route
    char label[16] = {};
};

// A group that sockets on this machine joined there.
struct JoinedGroup {
    IpAddress group;
    u32 users = 0;
    u32 excluders = 0; // of them, those that want all sources but some
    u8 reports_left = 0;
    u64 report_at = no_deadline;
};

// A source that users of a group name: how many of them want it, and how many do not.
struct GroupSource {
    IpAddress group, source;
    u32 included = 0, excluded = 0;
};

class Interface : public RefCounted {
public:
    static constexpr usize name_bytes = 16; // IFNAMSIZ
    static constexpr unsigned max_queues = 16;
    static constexpr u32 queue_limit = 1000; // packets that wait for a full device, per queue

    // `name` may end in "%d": the stack puts the first free number there.
    Interface(std::string_view name, LinkType type, u32 mtu, unsigned queues = 1);
    ~Interface() override;

    // --- what a driver implements
    // Takes the packet and returns true (whether it then sends or drops it), or leaves it and
    // returns false: full, wake_queue() will be called. Locks: the queue's is held.
    virtual bool start_transmit(unsigned queue, PacketPtr& packet) = 0;
    // After the last of a batch: tell the device. No lock held by this path.
    virtual void flush_transmit(unsigned queue) { (void)queue; }
    // IFF_UP came or went. May sleep.
    virtual Result<void> open() { return {}; }
    virtual void close() {}
    // The flags or the list of groups changed what should be let in. Must not sleep.
    virtual void receive_filter_changed() {}
    virtual Result<void> set_mac(const MacAddress& mac);
    virtual Result<void> set_mtu(u32 mtu);                 // EINVAL outside of [min_mtu, max_mtu]
    virtual std::string_view kind() const { return {}; }   // "veth", "bridge", ...: IFLA_INFO_KIND
    virtual std::string_view driver() const { return {}; } // as ethtool shows it
    // The interface that this one stands on or leads to (IFLA_LINK), and the stack that has it.
    struct Linked {
        u32 index = 0;
        Ref<Stack> stack;
    };
    virtual Linked linked();
    // One of its ports came, went or changed. Must not sleep.
    virtual void port_changed() {}
    // Whether it may go to another network namespace, and goes with its own's end.
    virtual bool movable() const { return true; }
    // Leaves the stack for good, called once; breaks what refers to it. May sleep.
    virtual void detached() {}
    // One of its ports has left the stack, for good or for another one. May sleep.
    virtual void port_gone(Stack& stack, Interface& port) {
        (void)stack;
        (void)port;
    }

    // --- for drivers
    void receive(PacketList&& packets);
    void receive(PacketPtr packet);
    // There is room again: sends what waits. Soft-interrupt or task context, no queue lock held.
    void wake_queue(unsigned queue);
    SpinLock& queue_lock(unsigned queue) { return queues_[queue].lock; }
    void set_carrier(bool on); // IFF_RUNNING, IFF_LOWER_UP

    // --- for the stack
    // Complete link-layer frames.
    // Not `tapped`: no packet socket sees it go.
    void transmit(PacketPtr packet, bool tapped = true);
    void transmit(PacketList&& packets, bool tapped = true);
    // Keeps the stack for the time of a call; null once detached.
    Ref<Stack> stack();

    std::string_view name() const { return name_; }
    u32 index() const { return index_; }
    LinkType type() const { return type_; }
    u32 flags() const { return flags_.load(base::Order::Relaxed); }
    bool is_up() const { return (flags() & iff_up) != 0; }
    bool is_loopback() const { return (flags() & iff_loopback) != 0; }
    bool has_link_addresses() const { return type_ == LinkType::Ethernet; }
    u32 mtu() const { return mtu_; }
    const MacAddress& mac() const { return mac_; }
    u32 features() const { return features_; }
    bool can(InterfaceFeature feature) const { return (features_ & feature) != 0; }
    unsigned queue_count() const { return queue_count_; }
    u32 link_header_bytes() const { return type_ == LinkType::Ethernet || is_loopback() ? 14 : 0; }

    InterfaceCounters counters;
    u32 min_mtu = 68, max_mtu = 65535;
    u32 tx_queue_length = queue_limit;
    base::Atomic<u32> promiscuous{0}, all_multicast{0}; // users: packet sockets, multicast routing
    base::Atomic<u32> taps{0};                          // packet sockets that want what passes here
    // A bridge or a bond that takes all that comes in; true: it did.
    base::Atomic<bool (*)(Interface& port, PacketPtr& packet)> receive_handler{nullptr};
    Interface* master = nullptr;    // of a bridge port; under Stack::lock
    void* port_of_master = nullptr; // what the master keeps for it; likewise
    u32 group = 0;                  // netdevice groups of ip-link(8)
    String alias;                   // likewise; under Stack::lock
    base::Atomic<u32> carrier_ups{0}, carrier_downs{0};
    base::Atomic<bool> reports_carrier{false}; // it has told of its carrier (RFC 2863)
    // Under Stack::lock (rank NetStack).
    Vector<InterfaceAddress> addresses;
    Vector<JoinedGroup> groups;
    Vector<GroupSource> group_sources;
    // Of IPv6 autoconfiguration (ndp.cpp).
    u8 router_solicits_left = 0;
    u64 router_solicit_at = 0;
    // Settings of /proc/sys/net/ipv{4,6}/conf/NAME.
    struct Settings {
        bool forwarding4 = false, forwarding6 = false, accept_redirects = true;
        bool accept_local = false, route_localnet = false, send_redirects = true;
        bool accept_source_route = true, src_valid_mark = false, log_martians = false;
        bool proxy_arp = false, drop_gratuitous_arp = false, promote_secondaries = false;
        u8 rp_filter = 0, arp_ignore = 0, arp_announce = 0, arp_filter = 0, arp_accept = 0;
        bool disable_ipv6 = false, autoconf = true, accept_ra_defrtr = true;
        bool accept_ra_pinfo = true;
        u8 accept_ra = 1, accept_dad = 1, dad_transmits = 1;
        u8 hop_limit = 64;
        u8 use_tempaddr = 0, addr_gen_mode = 0;
        u32 mtu6 = 0; // 0: the interface's
        // Those of IPv4 that somebody set, by their offsets: they follow "default" no more.
        u64 own4 = 0;
    } settings;

protected:
    // Before it is attached, of kinds that differ from others of their type.
    void set_first_flags(u32 flags) { flags_.store(flags); }
    MacAddress mac_;
    u32 features_ = 0;

private:
    friend class Stack;
    struct Queue {
        SpinLock lock{LockRank::NetQueue};
        PacketList waiting;
    };
    bool send_locked(Queue& queue, unsigned number, PacketPtr packet);
    bool prepare(PacketPtr packet, PacketList& out);
    void set_name(std::string_view name);

    char name_storage_[name_bytes] = {};
    std::string_view name_;
    const LinkType type_;
    u32 index_ = 0;
    base::Atomic<u32> flags_;
    u32 mtu_;
    const unsigned queue_count_;
    SpinLock stack_lock_{LockRank::Leaf};
    Ref<Stack> stack_; // until detached: the two keep each other
    Queue queues_[max_queues];
};

} // namespace kernel::net
