// What a transport protocol (UDP, TCP, ICMP, raw) and the IP layer want of each other.
//
// Context: input() and error() are called in soft-interrupt context (or in a sender's task that
// works off its backlog) with no locks held, and never from within ip_output(): what is sent to
// this machine arrives by the backlog of this CPU. So a protocol may send with its socket's lock
// held (rank Socket or NetListener). When it has let go of its locks it calls run_backlog(), which
// lets local traffic arrive at once. Nothing sleeps.
#pragma once

#include "guestkernel/net/interface.hpp"
#include "guestkernel/net/neighbour.hpp"

namespace kernel::net {

class Stack;

// Values of linux/rtnetlink.h: RTN_*.
enum class RouteType : u8 {
    Unspecified = 0,
    Unicast = 1,
    Local = 2,
    Broadcast = 3,
    Anycast = 4,
    Multicast = 5,
    Blackhole = 6,
    Unreachable = 7,
    Prohibit = 8,
    Throw = 9,
};

// The way to a destination, found once and kept by whoever sends there again. It is stale when the
// stack's generation has moved on; resolve() then looks again.
struct Destination {
    Ref<Interface> interface;
    Ref<Neighbour> neighbour; // of next_hop; null: none needed, or not looked for yet
    IpAddress next_hop;
    IpAddress source;   // the preferred one
    u32 generation = 0; // 0: never found
    u32 mtu = 0;        // of the path, IP header included
    RouteType type = RouteType::Unspecified;
    bool gateway = false;    // next_hop is a router
    bool mtu_locked = false; // by the route: path MTU discovery does not count
    u8 hop_limit = 0;        // 0: the default
    u32 initial_window = 0, initial_receive_window = 0; // segments; 0: not set
    u32 advertised_mss = 0;
};

// One conversation's addresses and how its packets are to be sent.
struct Flow {
    IpAddress source; // any: chosen by resolve()
    IpAddress destination;
    u16 source_port = 0, destination_port = 0; // for rules, hashes and error messages
    u8 protocol = 0;
    u8 traffic_class = 0; // with the ECN bits
    u8 hop_limit = 0;     // 0: the route's or the default
    u32 flow_label = 0;
    u32 mark = 0;
    u32 interface = 0; // SO_BINDTODEVICE, IP_PKTINFO or the scope of a link-local address; 0: any
    const Interface* in = nullptr; // where a packet that is forwarded came from: for rules
    u32 uid = 0;
    u8 priority = 0;
    bool dont_fragment = false;   // IPv4: DF; either: EMSGSIZE rather than fragments
    bool discover_mtu = false;    // IPv4: DF on what fits the path, fragments of what does not
    bool ignore_path_mtu = false; // the interface's MTU instead (IP_PMTUDISC_PROBE)
    bool dont_route = false;      // MSG_DONTROUTE
    bool any_source = false;      // the source need not be ours (IP_TRANSPARENT, IPV6_FREEBIND)
    bool allow_broadcast = false; // else EACCES
    bool multicast_loop = true;
    bool hop_limit_given = false; // hop_limit counts even if it is 0 (a group's: this machine only)
    // IPv4 options, padded to 4 bytes; IPv6: extension headers (ip_extensions.hpp), the first of
    // which is of protocol `first_extension`.
    std::span<const u8> options;
    u8 first_extension = 0;
    Destination path;
};

// Finds the path, or finds it again when it is stale; fills in a source that is any. ENETUNREACH,
// EHOSTUNREACH, EACCES, EINVAL, EADDRNOTAVAIL. Cheap when nothing has changed.
Result<void> resolve(Stack& stack, Flow& flow);
// Sends a packet that begins with the transport header, whose checksum is Partial or done. Takes
// segmentation packets. Fragments unless flow.dont_fragment: then EMSGSIZE. ENOBUFS, ENOMEM and
// resolve()'s errors. Local delivery is queued.
Result<void> ip_output(Stack& stack, Flow& flow, PacketPtr packet);
// The bytes that a transport segment can have on the path, its header included.
inline u32 transport_mtu(const Flow& flow) {
    const u32 header = (flow.destination.is_v4() ? 20 : 40) + static_cast<u32>(flow.options.size());
    return flow.path.mtu - header;
}
// Whether a segment of up to 64 KB may go down the path for the device (or the last moment) to cut.
inline bool can_segment(const Flow& flow) {
    return flow.path.interface.get() != nullptr;
}
// For `flow`'s addresses: ready for Packet::start_checksum().
inline ChecksumSum flow_pseudo_header(const Flow& flow, usize length) {
    return pseudo_header(flow.source, flow.destination, flow.protocol, length);
}

// What the IP layer found out about a packet that it hands up.
struct IpInfo {
    IpAddress source, destination;
    Interface* interface = nullptr; // it came in by; for the time of the call
    u8 protocol = 0;
    u8 traffic_class = 0;
    u8 hop_limit = 0;
    bool broadcast = false, multicast = false; // by destination address
    u32 flow_label = 0;
    u32 options_offset = 0, options_length = 0; // of IPv4, in the packet from its network header
    bool v6() const { return source.is_v6(); }
};

// An ICMP error about a packet that this machine sent.
struct IcmpNotice {
    IpAddress source, destination; // of the packet in question: source is ours
    IpAddress reporter;
    Interface* interface = nullptr;
    u8 protocol = 0;
    u8 type = 0, code = 0;          // of ICMP or ICMPv6, by source.is_v6()
    int error = 0;                  // ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ...
    bool hard = false;              // ends a connection attempt
    u32 mtu = 0;                    // for "too big"
    const Packet* packet = nullptr; // the message; its bytes are as hostile as any
    u32 transport_offset = 0;       // of the transport header in it: ports are 4 bytes from there
    Be16 source_port{}, destination_port{}; // read already if there were enough bytes, else 0
};

// Redirects and changed path MTUs need no action: the next resolve() sees them.
struct TransportProtocol {
    u8 number = 0; // IPPROTO_*
    // The packet begins with the transport header; its network header is marked. Checksums of the
    // transport are the protocol's to verify: verify_checksum().
    void (*input)(Stack& stack, PacketPtr packet, const IpInfo& info) = nullptr;
    void (*error)(Stack& stack, const IcmpNotice& notice) = nullptr; // may be null
    // Its part of each stack (tables, settings): see StackPart. May be null.
    Result<Owned<class StackPart>> (*make_part)(Stack& stack) = nullptr;
};
// At boot (or before a test's first stack); the object stays the caller's.
void register_transport(const TransportProtocol& protocol);
const TransportProtocol* find_transport(u8 number);

// Whether the transport checksum, over `length` bytes from the packet's beginning, is right, or
// need not be looked at. Marks the packet Verified. `pseudo`: without, for ICMP of IPv4.
bool verify_checksum(Packet& packet, const IpInfo& info, u32 length, bool pseudo = true);

// Answers with an ICMP error, within the rate limit, unless the packet is of a kind that must not
// be answered (errors, broadcasts, fragments, RFC 1122 3.2.2). The network header is marked.
enum class IcmpProblem : u8 {
    PortUnreachable,
    ProtocolUnreachable,
    HostUnreachable,
    NetUnreachable,
    Prohibited,
    TooBig, // `detail`: MTU
    TimeExceeded,
    ReassemblyTime,
    ParameterProblem, // `detail`: offset of the field
    UnknownOption,    // IPv6 `detail`: likewise
    UnknownNextHeader,
    SourceRouteFailed,
    NoRoute,
};
void send_icmp_error(Stack& stack, Packet& packet, IcmpProblem problem, u32 detail = 0);

} // namespace kernel::net
