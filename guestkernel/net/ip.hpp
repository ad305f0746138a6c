// The IP layer's own parts, for each other.
#pragma once

#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

// A packet from a link: the data begin with the network header, which is marked.
void ipv4_input(Stack& stack, PacketPtr packet);
void ipv6_input(Stack& stack, PacketPtr packet);
// For this stack: the packet begins with the transport header. Goes to raw sockets, then to the
// protocol. False: nobody wants this protocol.
bool deliver_transport(Stack& stack, PacketPtr& packet, const IpInfo& info);
// The whole packet once all of its fragments are there, with its header in `header`; null: not yet.
PacketPtr ipv4_reassemble(Stack& stack, PacketPtr packet, Ipv4Header& header);
void ipv4_deliver(Stack& stack, PacketPtr packet, const Ipv4Header& header);
void forward(Stack& stack, PacketPtr packet, const IpAddress& source, const IpAddress& destination);

// Sends what begins with its network header on its way: to the neighbour, the group, the loopback.
// ENOBUFS: no neighbour entry could be made.
Result<void> link_output(Stack& stack, Destination& path, PacketPtr packet, const IpAddress& to);
// The rest of output for a packet whose header is complete: hooks, fragmentation, the link.
// `whole`: EMSGSIZE rather than fragments.
Result<void> finish_output(Stack& stack, Flow& flow, PacketPtr packet, bool whole);
// Output of a packet whose header is its sender's (IP_HDRINCL), by all hooks. EMSGSIZE if it does
// not fit in one piece. Requires: the flow is resolved.
Result<void> output_with_header(Stack& stack, Flow& flow, PacketPtr packet);
// Bytes of the largest packet, network header included, that leaves for it: of one that is cut into
// segments, each has its own headers. Its transport header is marked then.
u32 largest_piece(const Packet& packet);
// Cuts a packet (which begins with its network header) into fragments for `mtu`: RFC 791, RFC 8200.
Result<PacketList> fragment_packet(Stack& stack, PacketPtr packet, u32 mtu);
void set_header_checksum(Packet& packet, u32 header_bytes);

// Checks options of IPv4 (RFC 791). Returns the offset of the first byte that is wrong, 0: none.
// `source_route` says whether there is one.
u32 check_options(std::span<const u8> options, bool& source_route);

// Extension headers of IPv6 that a host passes over to find the transport's.
struct Ipv6Chain {
    u8 protocol = proto_none; // the first that is not passed over
    u32 offset = 0;           // of it, from the IPv6 header
    u32 previous = 6;         // offset of the byte that names it
    bool fragment = false;    // protocol is not known: a fragment header comes next
    bool router_alert = false;
};
enum class ChainProblem : u8 { None, Truncated, BadOption, BadHeader, Silent };
// `problem_offset`: the byte at fault.
ChainProblem walk_extensions(Packet& packet, Ipv6Chain& chain, u32& problem_offset);

// What error messages of both versions have in common.
void notify_transport(Stack& stack, IcmpNotice& notice);
void send_icmpv6_error(Stack& stack, Packet& packet, IcmpProblem problem, u32 detail);
// An echo reply for whoever has a ping socket with its identifier.
void ping_reply(Stack& stack, PacketPtr packet, const IpInfo& info);
bool may_answer(const Packet& packet, const IpAddress& source, const IpAddress& destination);

extern const TransportProtocol icmp_protocol, icmpv6_protocol, udp_protocol, udplite_protocol;

// IPv6 comes and goes with the interface (ndp.cpp).
void ipv6_interface_up(Stack& stack, Interface& interface);
// The link-local address of one that is up, by its mode (addr_gen_mode), and what begins with it.
void ipv6_add_link_local(Stack& stack, Interface& interface);
void ipv6_interface_down(Stack& stack, Interface& interface);
// The name of a group on the link.
MacAddress multicast_mac(const IpAddress& group);
IpAddress solicited_node(const IpAddress& address);
} // namespace kernel::net
