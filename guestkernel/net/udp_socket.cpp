// UDP sockets: what programs do with them.
#include <asm/socket.h>
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/udp.h>

#include "guestkernel/fs/inode.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/udp.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net {

namespace {

constexpr u32 headroom = 104; // UDP, and what ip_output() wants for the headers before it
constexpr usize most_bytes4 = 65507, most_bytes6 = 65527;
constexpr u32 most_segments = 128; // UDP_MAX_SEGMENTS
// UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV of udplite(7): no UAPI header has them.
constexpr int send_coverage_option = 10, receive_coverage_option = 11;

// A destination that is any means this machine.
IpAddress reachable(const IpAddress& address) {
    return address.is_any() ? IpAddress::loopback(address.is_v6()) : address;
}

const char* protocol_name(int family, int protocol) {
    const bool v6 = family == family_inet6;
    if (protocol == IPPROTO_UDPLITE)
        return v6 ? "UDPLITEv6" : "UDP-Lite";
    return v6 ? "UDPv6" : "UDP";
}

} // namespace

Result<Ref<SocketFile>> make_udp_socket(Ref<NetNamespace> space, int family, int protocol,
                                        u32 flags) {
    TRY(Ref<Inode> inode, make_socket_inode(protocol_name(family, protocol)));
    TRY(Ref<UdpEndpoint> endpoint,
        make_ref<UdpEndpoint>(Ref<Stack>::share(&stack_of(space.get()))));
    TRY(Ref<UdpSocketFile> file, make_ref<UdpSocketFile>(std::move(inode), flags, family, protocol,
                                                         std::move(space), std::move(endpoint)));
    return Ref<SocketFile>(std::move(file));
}

UdpSocketFile::UdpSocketFile(Ref<Inode> inode, u32 flags, int family, int protocol,
                             Ref<NetNamespace> space, Ref<UdpEndpoint> endpoint_of)
    : DatagramSocketFile(std::move(inode), flags, family, socket_datagram, protocol,
                         std::move(space), std::move(endpoint_of)) {
    UdpEndpoint& own = endpoint();
    own.v6 = v6();
    own.lite = protocol == IPPROTO_UDPLITE;
    own.local = IpAddress::any(v6());
    own.peer = IpAddress::any(v6());
    own.uid = current_socket_credentials().uid;
    bound_local_ = own.local;
}

UdpSocketFile::~UdpSocketFile() {
    leave_groups();
    stack().udp_ports.unbind(endpoint());
    endpoint().close();
}

void UdpSocketFile::option_changed() {
    UdpEndpoint& own = endpoint();
    own.wants_errors4 = ip_.on(ip_receive_error);
    own.wants_errors6 = ip_.on(ip6_receive_error);
    own.discovers_mtu = (v6() ? ip_.path_mtu6 : ip_.path_mtu4) != 0;
    own.all_groups4 = ip_.on(ip_multicast_all);
    own.all_groups6 = ip_.on(ip6_multicast_all);
    own.min_ttl = v6() ? ip_.min_hop_limit : ip_.min_ttl;
    own.interface = ip_.bound_interface;
    SpinGuard guard(own.lock);
    own.path.generation = 0;
}

// --- names

Result<void> UdpSocketFile::bind_port(const IpAddress& address, u16 port) {
    UdpEndpoint& own = endpoint();
    own.local = address;
    own.v6_only = ip_.on(ip6_v6_only);
    own.reuse_address = option_on(SO_REUSEADDR);
    own.reuse_port = option_on(SO_REUSEPORT);
    own.interface = ip_.bound_interface;
    PortTable::Range range = stack().settings.local_ports;
    if (ip_.port_range_first != 0 && ip_.port_range_first > range.first)
        range.first = ip_.port_range_first;
    if (ip_.port_range_last != 0 && ip_.port_range_last < range.last)
        range.last = ip_.port_range_last;
    if (range.first > range.last)
        return fail(EADDRINUSE);
    auto bound = stack().udp_ports.bind(own, port, range, true);
    if (!bound)
        own.local = IpAddress::any(v6());
    return bound;
}

Result<void> UdpSocketFile::autobind() {
    if (endpoint().port != 0)
        return {};
    MutexGuard guard(bind_mutex_);
    if (endpoint().port != 0)
        return {};
    auto bound = bind_port(endpoint().local, 0);
    return bound ? Result<void>() : Result<void>(fail(EAGAIN));
}

Result<void> UdpSocketFile::bind(const SocketAddress& address) {
    TRY(Endpoint where, parse_bind(address));
    TRY(check_bind(where));
    MutexGuard guard(bind_mutex_);
    UdpEndpoint& own = endpoint();
    if (own.port != 0 || own.connected)
        return fail(EINVAL);
    if (where.scope != 0) {
        ip_.bound_interface = where.scope;
        own.interface = where.scope;
    }
    return bind_port(where.address, where.port);
}

Result<void> UdpSocketFile::connect(const SocketAddress& address) {
    if (address.length < sizeof(u16))
        return fail(EINVAL);
    UdpEndpoint& own = endpoint();
    if (address.family() == family_unspecified) {
        MutexGuard guard(bind_mutex_);
        if (own.port != 0)
            stack().udp_ports.set_peer(own, bound_local_, IpAddress::any(v6()), 0, false);
        own.error.store(0);
        SpinGuard inner(own.lock);
        own.path = {};
        return {};
    }
    TRY(Endpoint to, parse_address(address, family()));
    to.address = reachable(to.address);
    if (v6() && to.address.is_v4() && ip_.on(ip6_v6_only))
        return fail(ENETUNREACH);
    MutexGuard guard(bind_mutex_);
    if (own.port == 0)
        TRY(bind_port(own.local, 0));
    if (!own.connected)
        bound_local_ = own.local;
    if (!bound_local_.is_any() && bound_local_.is_v4() != to.address.is_v4())
        return fail(to.address.is_v4() ? ENETUNREACH : EINVAL);
    Flow flow;
    fill_flow(flow, to.address, to.scope);
    if (!bound_local_.is_any())
        flow.source = bound_local_;
    TRY(check_source(flow));
    flow.protocol = static_cast<u8>(protocol());
    TRY(resolve(stack(), flow));
    ip_.flow_label = given_flow_label(address);
    stack().udp_ports.set_peer(own, flow.source, to.address, to.port, true);
    peer_scope_ = to.scope;
    keep_path(flow);
    return {};
}

Result<void> UdpSocketFile::shutdown(u32 how) {
    UdpEndpoint& own = endpoint();
    if (!own.connected)
        return fail(ENOTCONN);
    own.shutdown = own.shutdown | how;
    own.read_waiters.wake_all();
    own.write_waiters.wake_all();
    return {};
}

Result<void> UdpSocketFile::local_address(SocketAddress& out) {
    UdpEndpoint& own = endpoint();
    IpAddress address = own.local;
    if (v6() && address.is_any()) // an AF_INET6 socket that is bound to nothing shows ::
        address = IpAddress();
    write_address({address, own.port, ip_.bound_interface}, family(), out);
    return {};
}

Result<void> UdpSocketFile::peer_address(SocketAddress& out) {
    UdpEndpoint& own = endpoint();
    if (!own.connected)
        return fail(ENOTCONN);
    write_address({own.peer, own.peer_port, peer_scope_}, family(), out);
    return {};
}

Result<IpAddress> UdpSocketFile::connected_peer() const {
    if (!endpoint().connected)
        return fail(ENOTCONN);
    return IpAddress(endpoint().peer);
}

Result<void> UdpSocketFile::become_v4() {
    MutexGuard guard(cork_mutex_);
    if (pending_)
        return fail(EBUSY);
    UdpEndpoint& own = endpoint();
    MutexGuard inner(bind_mutex_);
    if (!own.connected || !own.peer.is_v4()) // not any more
        return fail(ENOTCONN);
    stack().udp_ports.become_v4(own);
    if (bound_local_.is_any()) // what it goes back to is of IPv4, too
        bound_local_ = IpAddress::any(false);
    return {};
}

u32 UdpSocketFile::connected_mtu() {
    UdpEndpoint& own = endpoint();
    if (!own.connected)
        return 0;
    Flow flow;
    fill_flow(flow, own.peer, peer_scope_);
    take_path(flow);
    return resolve(stack(), flow) ? flow.path.mtu : 0;
}

// --- sending

void UdpSocketFile::take_path(Flow& flow) {
    UdpEndpoint& own = endpoint();
    SpinGuard guard(own.lock);
    if (own.path.generation != 0 && own.path_to == flow.destination)
        flow.path = own.path;
}

void UdpSocketFile::keep_path(const Flow& flow) {
    UdpEndpoint& own = endpoint();
    Destination old; // dropped without the lock
    SpinGuard guard(own.lock);
    old = std::move(own.path);
    own.path = flow.path;
    own.path_to = flow.destination;
    guard.unlock();
}

Result<Endpoint> UdpSocketFile::target(const SendRequest& request) {
    const UdpEndpoint& own = endpoint();
    if (request.to == nullptr) {
        if (!own.connected)
            return fail(EDESTADDRREQ);
        return Endpoint{own.peer, own.peer_port, peer_scope_};
    }
    SocketAddress as_given = *request.to;
    if (as_given.length < sizeof(u16))
        return fail(EINVAL);
    // AF_UNSPEC is taken for AF_INET (udp_sendmsg() of Linux); an IPv6 socket sends to IPv4 too.
    if (as_given.family() == family_unspecified && !v6())
        as_given.set_family(family_inet);
    const bool four = as_given.family() == family_inet;
    if (v6() && four && ip_.on(ip6_v6_only))
        return fail(ENETUNREACH);
    TRY(Endpoint to, parse_address(as_given, v6() && four ? family_inet : family()));
    if (to.port == 0)
        return fail(EINVAL);
    to.address = reachable(to.address);
    if (to.address.is_v4() && v6() && ip_.on(ip6_v6_only))
        return fail(ENETUNREACH);
    return to;
}

// The sum is over the beginning only, as long as the header says in place of the length, which IP
// knows; it is never left out.
Result<void> UdpSocketFile::transmit_lite(Flow& flow, PacketPtr packet) {
    UdpHeader header{};
    header.source.set(flow.source_port);
    header.destination.set(flow.destination_port);
    const u32 total = packet->length() + static_cast<u32>(sizeof header);
    const u32 wanted = endpoint().send_coverage;
    const u32 covered = wanted != 0 && wanted < total ? wanted : total;
    header.length.set(static_cast<u16>(covered));
    packet->push_header(header);
    TRY(resolve(stack(), flow));
    ChecksumSum sum = flow_pseudo_header(flow, total);
    packet->add_to(sum, 0, covered);
    u16 result = sum.finish();
    result = result == 0 ? u16{0xffff} : result;
    (void)packet->write(udp_checksum_field, result);
    return output(flow, std::move(packet));
}

Result<void> UdpSocketFile::transmit(Flow& flow, PacketPtr packet, u16 segment) {
    if (lite())
        return transmit_lite(flow, std::move(packet));
    const u32 payload = packet->length();
    UdpHeader header{};
    header.source.set(flow.source_port);
    header.destination.set(flow.destination_port);
    const u32 total = payload + static_cast<u32>(sizeof header);
    header.length.set(static_cast<u16>(total));
    packet->push_header(header);
    const bool v6_flow = flow.destination.is_v6();
    TRY(resolve(stack(), flow));
    if (segment != 0 && payload > segment) {
        if (segment + sizeof header > transport_mtu(flow) || payload > u32{segment} * most_segments)
            return fail(EINVAL);
        packet->segmentation = Segmentation::Udp;
        packet->segment_size = segment;
    }
    const bool without = v6_flow ? no_check6_send_ : packet_options_.no_check;
    if (!without || packet->segmentation != Segmentation::None)
        packet->start_checksum(flow_pseudo_header(flow, total), 0, udp_checksum_field);
    stack().counters.count(v6_flow ? Counter::Udp6OutDatagrams : Counter::UdpOutDatagrams);
    return output(flow, std::move(packet));
}

Result<usize> UdpSocketFile::send(IoBuffer& in, SendRequest& request) {
    const usize bytes = in.remaining();
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    if (bytes > 65535)
        return fail(EMSGSIZE);
    if (corked_ || (request.flags & msg_more) != 0 || pending_)
        return add_to_cork(in, bytes, request);
    return send_one(in, bytes, request);
}

// What it is bound to, where that is an address to send from.
Result<void> UdpSocketFile::take_source(Flow& flow) const {
    const IpAddress& local = endpoint().local;
    if (local.is_any() || local.is_multicast())
        return {};
    if (local.is_v4() != flow.destination.is_v4())
        return fail(ENETUNREACH);
    flow.source = local;
    return {};
}

// An address of IPv6 that a message says to send from has to be ours.
Result<void> UdpSocketFile::check_given_source(const SendControl& control, const Flow& flow) const {
    if (control.has_source && control.source.is_v6() && !flow.any_source &&
        !stack().is_local(control.source))
        return fail(EINVAL);
    return {};
}

Result<usize> UdpSocketFile::send_one(IoBuffer& in, usize bytes, SendRequest& request) {
    UdpEndpoint& own = endpoint();
    TRY(const Endpoint to, target(request));
    SendControl control;
    if (!request.control.empty())
        TRY(parse_control(request.control, control));
    if (bytes > (to.address.is_v4() ? most_bytes4 : most_bytes6))
        return fail(EMSGSIZE);
    TRY(autobind());
    Flow flow;
    fill_flow(flow, to.address, to.scope);
    TRY(take_source(flow));
    if (request.to != nullptr)
        if (const u32 label = given_flow_label(*request.to); label != 0)
            flow.flow_label = label;
    apply_control(control, flow);
    TRY(take_extensions(control, flow));
    TRY(check_given_source(control, flow));
    if ((request.flags & msg_dontroute) != 0)
        flow.dont_route = true;
    flow.protocol = static_cast<u8>(protocol());
    flow.source_port = own.port;
    flow.destination_port = to.port;
    flow.uid = own.uid;
    // What rules of routing go by is as the socket's options say.
    const bool usual = control.interface == 0 && !control.has_source && !control.has_mark &&
                       control.traffic_class < 0 && !flow.dont_route;
    if (usual)
        take_path(flow);
    const u32 known = flow.path.generation;
    if (known != stack().generation()) // else it was asked when the path was found
        TRY(check_source(flow));
    TRY(resolve(stack(), flow));
    TRY(PacketPtr packet, load(in, bytes, headroom, request.flags));
    if ((request.flags & msg_confirm) != 0 && flow.path.neighbour)
        flow.path.neighbour->confirm();
    TRY(transmit(flow, std::move(packet),
                 control.segment_size != 0 ? control.segment_size : segment_size_));
    if (usual && flow.path.generation != known)
        keep_path(flow);
    return bytes;
}

// Locks: cork_mutex_.
Result<void> UdpSocketFile::start_cork(IoBuffer& in, usize bytes, SendRequest& request) {
    TRY(const Endpoint to, target(request));
    if (bytes > (to.address.is_v4() ? most_bytes4 : most_bytes6))
        return fail(EMSGSIZE);
    TRY(autobind());
    pending_flow_ = Flow();
    pending_control_ = {};
    if (!request.control.empty())
        TRY(parse_control(request.control, pending_control_));
    fill_flow(pending_flow_, to.address, to.scope);
    TRY(take_source(pending_flow_));
    apply_control(pending_control_, pending_flow_);
    TRY(check_given_source(pending_control_, pending_flow_));
    TRY(take_extensions(pending_control_, pending_flow_));
    pending_control_.hop_options = pending_control_.destination_options = {}; // the caller's memory
    TRY(check_source(pending_flow_));
    pending_flow_.protocol = static_cast<u8>(protocol());
    pending_flow_.source_port = endpoint().port;
    pending_flow_.destination_port = to.port;
    TRY(pending_, load(in, bytes, headroom, request.flags));
    return {};
}

Result<usize> UdpSocketFile::add_to_cork(IoBuffer& in, usize bytes, SendRequest& request) {
    MutexGuard guard(cork_mutex_);
    if (!pending_) {
        TRY(start_cork(in, bytes, request));
    } else {
        const usize most = pending_flow_.destination.is_v4() ? most_bytes4 : most_bytes6;
        if (pending_->length() + bytes > most) {
            pending_ = {};
            return fail(EMSGSIZE);
        }
        if (auto added = pending_->append(in, static_cast<u32>(bytes)); !added) {
            pending_ = {};
            return fail(added.error().code);
        }
    }
    if (corked_ || (request.flags & msg_more) != 0)
        return bytes;
    TRY(transmit(pending_flow_, std::move(pending_), segment_size_));
    return bytes;
}

Result<void> UdpSocketFile::uncork() {
    MutexGuard guard(cork_mutex_);
    if (!pending_)
        return {};
    return transmit(pending_flow_, std::move(pending_), segment_size_);
}

void UdpSocketFile::add_more_control(const Packet& packet, ReceiveRequest& request) {
    if (endpoint().receive_segments && packet.segmentation == Segmentation::Udp) {
        const int size = packet.segment_size;
        request.add_control(IPPROTO_UDP, UDP_GRO, &size, sizeof size);
    }
}

// --- options

Result<void> UdpSocketFile::set_chooser(Ref<SocketFilter> chooser) {
    MutexGuard guard(bind_mutex_);
    if (endpoint().port == 0)
        endpoint().reuse_port = option_on(SO_REUSEPORT);
    return stack().udp_ports.set_chooser(endpoint(), std::move(chooser));
}

Result<void> UdpSocketFile::set_option(int level, int name, std::span<const u8> value) {
    if (level == SOL_SOCKET && name == SO_ATTACH_REUSEPORT_CBPF) {
        if (options_.filter_locked)
            return fail(EPERM);
        TRY(Ref<SocketFilter> chooser, SocketFilter::of_user(value));
        return set_chooser(std::move(chooser));
    }
    if (level == SOL_SOCKET && name == SO_DETACH_REUSEPORT_BPF)
        return set_chooser({});
    if (level != IPPROTO_UDP && (level != IPPROTO_UDPLITE || !lite())) {
        TRY(DatagramSocketFile::set_option(level, name, value));
        option_changed();
        return {};
    }
    int number = 0;
    if (value.size() < sizeof number)
        return fail(EINVAL);
    __builtin_memcpy(&number, value.data(), sizeof number);
    switch (name) {
    case send_coverage_option:
    case receive_coverage_option: {
        if (!lite())
            return fail(ENOPROTOOPT);
        constexpr int header = sizeof(UdpHeader);
        const int bounded = number != 0 && number < header ? header
                            : number > 65535               ? 65535
                                                           : number;
        (name == send_coverage_option ? endpoint().send_coverage : endpoint().least_coverage) =
            static_cast<u16>(bounded);
        return {};
    }
    case UDP_ENCAP:
        // Of tunnels: L2TP's packets are told by the tunnel's own socket, which there is none of
        // here, and so come to this one; IPsec's and the others' need the kernel's help.
        if (number != 0 && number != UDP_ENCAP_L2TPINUDP)
            return fail(ENOPROTOOPT);
        encapsulates_ = number != 0;
        return {};
    case UDP_CORK:
        corked_ = number != 0;
        return corked_ ? Result<void>() : uncork();
    case UDP_SEGMENT:
        if (number < 0 || number > 65535)
            return fail(EINVAL);
        segment_size_ = static_cast<u16>(number);
        return {};
    case UDP_GRO:
        endpoint().receive_segments = number != 0;
        return {};
    case UDP_NO_CHECK6_TX:
        no_check6_send_ = number != 0;
        return {};
    case UDP_NO_CHECK6_RX:
        no_check6_receive_ = number != 0;
        return {};
    default:
        return fail(ENOPROTOOPT);
    }
}

Result<usize> UdpSocketFile::get_option(int level, int name, std::span<u8> out) {
    if (level != IPPROTO_UDP && (level != IPPROTO_UDPLITE || !lite()))
        return DatagramSocketFile::get_option(level, name, out);
    int value = 0;
    switch (name) {
    case send_coverage_option:
    case receive_coverage_option:
        value = name == send_coverage_option ? endpoint().send_coverage : endpoint().least_coverage;
        break;
    case UDP_CORK:
        value = corked_ ? 1 : 0;
        break;
    case UDP_ENCAP:
        value = encapsulates_ ? UDP_ENCAP_L2TPINUDP : 0;
        break;
    case UDP_SEGMENT:
        value = segment_size_;
        break;
    case UDP_GRO:
        value = endpoint().receive_segments ? 1 : 0;
        break;
    case UDP_NO_CHECK6_TX:
        value = no_check6_send_ ? 1 : 0;
        break;
    case UDP_NO_CHECK6_RX:
        value = no_check6_receive_ ? 1 : 0;
        break;
    default:
        return fail(ENOPROTOOPT);
    }
    const usize bytes = out.size() < sizeof value ? out.size() : sizeof value;
    __builtin_memcpy(out.data(), &value, bytes);
    return bytes;
}

} // namespace kernel::net
