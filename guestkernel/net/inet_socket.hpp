// What sockets of AF_INET and AF_INET6 have in common, whatever protocol they speak: addresses,
// options of the levels IPPROTO_IP and IPPROTO_IPV6, and how those shape what is sent.
#pragma once

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/namespaces/namespace.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net {

inline constexpr int family_inet = 2, family_inet6 = 10, family_packet = 17;

// Options that are on or off, as bits of IpOptions::flags.
enum IpOptionFlag : u32 {
    ip_receive_info = 1u << 0, // IP_PKTINFO
    ip_receive_ttl = 1u << 1,
    ip_receive_tos = 1u << 2,
    ip_receive_options = 1u << 3,
    ip_receive_original = 1u << 4, // IP_RECVORIGDSTADDR
    ip_receive_error = 1u << 5,
    ip_receive_fragment_size = 1u << 6,
    ip_freebind = 1u << 7,
    ip_transparent = 1u << 8,
    ip_header_included = 1u << 9,
    ip_multicast_loop = 1u << 10,
    ip_multicast_all = 1u << 11,
    ip_router_alert = 1u << 12,
    ip_bind_no_port = 1u << 13, // IP_BIND_ADDRESS_NO_PORT
    ip6_receive_info = 1u << 14,
    ip6_receive_hop_limit = 1u << 15,
    ip6_receive_class = 1u << 16,
    ip6_receive_error = 1u << 17,
    ip6_receive_path_mtu = 1u << 18,
    ip6_multicast_loop = 1u << 19,
    ip6_multicast_all = 1u << 20,
    ip6_dont_fragment = 1u << 21,
    ip6_flow_info_send = 1u << 22,
    ip6_receive_flow_info = 1u << 23,
    ip6_v6_only = 1u << 24,
    ip6_auto_flow_label = 1u << 25,
    ip6_receive_original = 1u << 26,
    ip6_receive_options = 1u << 27, // IPV6_RECVHOPOPTS, RTHDR, DSTOPTS
    ip6_receive_fragment_size = 1u << 28,
    ip6_receive_old_info = 1u << 29, // IPV6_2292PKTINFO, IPV6_2292HOPLIMIT: other names in messages
    ip6_receive_old_hop_limit = 1u << 30,
};

struct IpOptions {
    u32 flags = ip_multicast_loop | ip_multicast_all | ip6_multicast_loop | ip6_multicast_all;
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
    Result<int> get_ip_level(int name);
    Result<int> get_ipv6_level(int name);
    // IP_MTU: of the path to the peer; 0: not connected.
    virtual u32 connected_mtu() { return 0; }
    // A flow with the options of the socket, to `destination`; source and ports are the caller's.
    void fill_flow(Flow& flow, const IpAddress& destination, u32 scope) const;
    // Whether packets may leave from the source that the program chose: of IPv4 only from this
    // machine's addresses, whatever IP_FREEBIND, which is anybody's, lets it bind to. ENETUNREACH.
    Result<void> check_source(const Flow& flow) const;
    // In the user namespace that owns the network namespace.
    bool capable(unsigned capability) const;
    // What bind(2) takes: AF_UNSPEC with the any address stands for AF_INET.
    Result<Endpoint> parse_bind(const SocketAddress& address);
    // bind(2)'s check of an address that has been parsed: EADDRNOTAVAIL, EACCES (low ports).
    Result<void> check_bind(const Endpoint& where);
    // Called after an option of a level below the protocol's changed (SO_BINDTODEVICE, ...).
    virtual void option_changed() {}
    // Whether an IPv6 option may still change what addresses mean (IPV6_V6ONLY: not once bound).
    virtual bool is_bound() const { return false; }

    IpOptions ip_;

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
