// What sockets of AF_INET and AF_INET6 have in common, whatever protocol they speak: addresses,
// options of the levels IPPROTO_IP and IPPROTO_IPV6, and how those shape what is sent.
#pragma once

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/net/ip_extensions.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net {

inline constexpr int family_inet = 2, family_inet6 = 10, family_packet = 17;

// Options that are on or off, as bits of IpOptions::flags.
enum IpOptionFlag : u64 {
    ip_receive_info = 1ull << 0, // IP_PKTINFO
    ip_receive_ttl = 1ull << 1,
    ip_receive_tos = 1ull << 2,
    ip_receive_options = 1ull << 3,
    ip_receive_original = 1ull << 4, // IP_RECVORIGDSTADDR
    ip_receive_error = 1ull << 5,
    ip_receive_fragment_size = 1ull << 6,
    ip_freebind = 1ull << 7,
    ip_transparent = 1ull << 8,
    ip_header_included = 1ull << 9,
    ip_multicast_loop = 1ull << 10,
    ip_multicast_all = 1ull << 11,
    ip_router_alert = 1ull << 12,
    ip_bind_no_port = 1ull << 13, // IP_BIND_ADDRESS_NO_PORT
    ip6_receive_info = 1ull << 14,
    ip6_receive_hop_limit = 1ull << 15,
    ip6_receive_class = 1ull << 16,
    ip6_receive_error = 1ull << 17,
    ip6_receive_path_mtu = 1ull << 18,
    ip6_multicast_loop = 1ull << 19,
    ip6_multicast_all = 1ull << 20,
    ip6_dont_fragment = 1ull << 21,
    ip6_flow_info_send = 1ull << 22,
    ip6_receive_flow_info = 1ull << 23,
    ip6_v6_only = 1ull << 24,
    ip6_auto_flow_label = 1ull << 25,
    ip6_receive_original = 1ull << 26,
    ip6_receive_hop_options = 1ull << 27,
    ip6_receive_fragment_size = 1ull << 28,
    ip6_receive_old_info =
        1ull << 29, // IPV6_2292PKTINFO, IPV6_2292HOPLIMIT: other names in messages
    ip6_receive_old_hop_limit = 1ull << 30,
    ip6_receive_routing = 1ull << 31,
    ip6_receive_destination_options = 1ull << 32,
    ip6_receive_old_hop_options = 1ull << 33, // IPV6_2292HOPOPTS, RTHDR, DSTOPTS
    ip6_receive_old_routing = 1ull << 34,
    ip6_receive_old_destination_options = 1ull << 35,
    ip_return_options = 1ull << 36, // IP_RETOPTS
    ip_pass_security = 1ull << 37,
    ip_receive_checksum = 1ull << 38,
    ip_no_defragmentation = 1ull << 39, // IP_NODEFRAG
    ip_receive_extensions = 1ull << 40, // IP_RECVERR_RFC4884
    ip6_receive_extensions = 1ull << 41,
    ip6_alert_isolate = 1ull << 42, // IPV6_ROUTER_ALERT_ISOLATE
};

struct IpOptions {
    u64 flags = ip_multicast_loop | ip_multicast_all | ip6_multicast_loop | ip6_multicast_all |
                ip6_auto_flow_label;
    i16 ttl = -1;         // IP_TTL; -1: the default
    i16 hop_limit = -1;   // IPV6_UNICAST_HOPS
    u8 tos = 0;           // IP_TOS
    u8 traffic_class = 0; // IPV6_TCLASS
    u8 multicast_ttl = 1, multicast_hops = 1;
    u8 path_mtu4 = 1, path_mtu6 = 1; // IP_PMTUDISC_*: WANT
    u8 min_ttl = 0, min_hop_limit = 0;
    u32 multicast_interface4 = 0, multicast_interface6 = 0;
    u32 unicast_interface = 0;
    IpAddress multicast_source = IpAddress::v4_any();
    u32 mark = 0;            // SO_MARK
    u32 bound_interface = 0; // SO_BINDTODEVICE
    u32 incoming_cpu = 0;
    u32 mtu6 = 0;                                  // IPV6_MTU
    u32 flow_label = 0;                            // of connect(2), with IPV6_FLOWINFO_SEND
    u32 source_preferences = 0;                    // IPV6_ADDR_PREFERENCES
    u16 port_range_first = 0, port_range_last = 0; // IP_LOCAL_PORT_RANGE
    u8 header_options_length = 0;                  // IP_OPTIONS
    u8 header_options[40] = {};
    bool on(IpOptionFlag flag) const { return (flags & flag) != 0; }
};

class InetSocketFile : public SocketFile {
public:
    InetSocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol,
                   Ref<NetNamespace> space);
    ~InetSocketFile() override;
    bool v6() const { return family() == family_inet6; }
    Stack& stack() const { return *stack_; }
    const Ref<NetNamespace>& network_namespace() const { return space_; }
    const kernel::NetNamespace* home() const override { return space_.get(); }
    const IpOptions& ip_options() const { return ip_; }
    i32 priority() const { return options_.priority; }

    // The levels SOL_SOCKET (what the family-independent part passes on), IPPROTO_IP and
    // IPPROTO_IPV6; derived classes try their own levels first. option_changed() follows.
    Result<void> set_option(int level, int name, std::span<const u8> value) override;
    Result<usize> get_option(int level, int name, std::span<u8> out) override;
    Result<long> ioctl(u32 command, u64 argument) override; // of interfaces, routes, ARP

    // How it wants its arrivals stamped, and what else SOL_SOCKET has for packets.
    struct PacketOptions {
        bool timestamp = false, timestamp_ns = false;
        u32 timestamping = 0; // SO_TIMESTAMPING
        bool no_check = false, overflow = false;
    };

protected:
    PacketOptions packet_options_;
    Result<void> set_socket_level(int name, std::span<const u8> value);
    Result<usize> get_socket_level(int name, std::span<u8> out);
    Result<void> set_ip_level(int name, std::span<const u8> value);
    Result<void> set_ipv6_level(int name, std::span<const u8> value);
    Result<void> set_unicast_interface(u32 wanted);
    Result<void> set_source_preferences(u32 given);
    Result<void> change_form(int wanted); // IPV6_ADDRFORM
    Result<void> set_sticky(int name, std::span<const u8> value);
    Result<usize> get_sticky(int name, std::span<u8> out) const;
    // sin6_flowinfo's flow label, where the program asked for it to count; else 0.
    u32 given_flow_label(const SocketAddress& address) const;
    Result<int> get_ip_level(int name);
    Result<int> get_ipv6_level(int name);
    // IP_MTU: of the path to the peer; 0: not connected.
    virtual u32 connected_mtu() { return 0; }
    // A flow with the options of the socket, to `destination`; source and ports are the caller's.
    void fill_flow(Flow& flow, const IpAddress& destination, u32 scope) const;
    u32 automatic_flow_label(const IpAddress& destination) const; // IPV6_AUTOFLOWLABEL
    // Whether packets may leave from the source that the program chose: of IPv4 only from this
    // machine's addresses, whatever IP_FREEBIND, which is anybody's, lets it bind to. ENETUNREACH.
    Result<void> check_source(const Flow& flow) const;
    // In the user namespace that owns the network namespace.
    bool capable(unsigned capability) const;
    // What bind(2) takes: AF_UNSPEC with the any address stands for AF_INET.
    Result<Endpoint> parse_bind(const SocketAddress& address);
    // bind(2)'s check of an address that has been parsed: EADDRNOTAVAIL, EACCES (low ports).
    Result<void> check_bind(const Endpoint& where);
    // IPV6_ADDRFORM: whom a socket of a protocol that can do without IPv6 is connected to.
    // ENOTCONN.
    virtual Result<IpAddress> connected_peer() const;
    // The socket is of AF_INET from now on. EBUSY.
    virtual Result<void> become_v4() { return {}; }
    // Called after an option of a level below the protocol's changed (SO_BINDTODEVICE, ...).
    virtual void option_changed() {}
    // Whether an IPv6 option may still change what addresses mean (IPV6_V6ONLY: not once bound).
    virtual bool is_bound() const { return false; }

    IpOptions ip_;
    StickySlot sticky_; // headers of datagrams; a stream's go without

private:
    const Ref<NetNamespace> space_;
    const Ref<Stack> stack_;
};

// struct sockaddr_in or sockaddr_in6 of a socket of `family`: EINVAL, EAFNOSUPPORT. An IPv4-mapped
// address is an IPv4 address. AF_UNSPEC is the caller's to look for.
Result<Endpoint> parse_address(const SocketAddress& address, int family);
// As a socket of `family` shows it: AF_INET6 sockets see IPv4 peers as mapped.
void write_address(const Endpoint& endpoint, int family, SocketAddress& out);

// The ioctls that any socket answers: ENOTTY for others.
Result<long> network_ioctl(Stack& stack, u32 command, u64 argument);
// The same in the running task's network namespace, for sockets of other families.
Result<long> network_ioctl_of_caller(u32 command, u64 argument);
// SIOCETHTOOL; `user` is where the caller's structure begins with its command. EOPNOTSUPP, EFAULT.
Result<void> ethtool_ioctl(Interface& interface, u64 user);

// Whoever makes stream sockets (TCP) says how. Called at boot; without one, SOCK_STREAM is
// EPROTONOSUPPORT... of both families.
using MakeStreamSocket = Result<Ref<SocketFile>> (*)(Ref<NetNamespace> space, int family,
                                                     u32 flags);
void set_stream_sockets(MakeStreamSocket make);
// Registers AF_INET, AF_INET6, AF_PACKET and the built-in protocols. At boot.
void start_network();
// Only the protocols: what a unit test's stacks need, before the first of them is made.
void register_protocols();

} // namespace kernel::net
