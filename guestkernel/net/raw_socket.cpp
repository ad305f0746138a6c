// Raw and ping sockets.
#include "guestkernel/net/raw_socket.hpp"

#include <asm/socket.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/in.h>
#include <linux/in6.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::net {

namespace {

constexpr u32 headroom = 96;
constexpr int level_icmpv6 = 58, level_raw = 255; // SOL_ICMPV6, SOL_RAW

const char* protocol_name(int family, bool ping) {
    if (ping)
        return family == family_inet6 ? "PINGv6" : "PING";
    return family == family_inet6 ? "RAWv6" : "RAW";
}

Result<Ref<SocketFile>> make(Ref<NetNamespace> space, int family, int type, int protocol, bool ping,
                             u32 flags) {
    TRY(Ref<Inode> inode, make_socket_inode(protocol_name(family, ping)));
    TRY(Ref<RawSocketEndpoint> endpoint,
        make_ref<RawSocketEndpoint>(Ref<Stack>::share(&stack_of(space.get()))));
    endpoint->protocol = static_cast<u8>(protocol);
    endpoint->v6 = family == family_inet6;
    endpoint->local = endpoint->peer = IpAddress::any(endpoint->v6);
    endpoint->ping = ping;
    endpoint->uid = current_socket_credentials().uid;
    TRY(Ref<RawSocketFile> file,
        make_ref<RawSocketFile>(std::move(inode), flags, family, type, protocol, std::move(space),
                                std::move(endpoint)));
    // IPPROTO_RAW, too, gets what is of protocol 255, whatever raw(7) says. Pings are told apart by
    // their identifier.
    if (!ping)
        file->stack().raw_sockets().add(file->endpoint());
    return Ref<SocketFile>(std::move(file));
}

bool in_ping_group(const Stack& stack) {
    const Credentials& who = *current_task().credentials;
    const u32 first = stack.settings.ping_group_first, last = stack.settings.ping_group_last;
    const auto inside = [&](u32 group) { return group >= first && group <= last; };
    if (inside(who.egid))
        return true;
    for (const u32 group : who.groups)
        if (inside(group))
            return true;
    return false;
}

} // namespace

Result<Ref<SocketFile>> make_raw_socket(Ref<NetNamespace> space, int family, int protocol,
                                        u32 flags) {
    if (!capable_over(space ? space->owner() : nullptr, CAP_NET_RAW))
        return fail(EPERM);
    if (protocol <= 0 || protocol > 255)
        return fail(EPROTONOSUPPORT);
    return make(std::move(space), family, socket_raw, protocol, false, flags);
}

Result<Ref<SocketFile>> make_ping_socket(Ref<NetNamespace> space, int family, u32 flags) {
    if (!in_ping_group(stack_of(space.get())))
        return fail(EACCES);
    return make(std::move(space), family, socket_datagram,
                family == family_inet6 ? int{IPPROTO_ICMPV6} : int{IPPROTO_ICMP}, true, flags);
}

// --- receiving

void RawSocketEndpoint::deliver(PacketPtr packet, const IpInfo& info) {
    // Of IPv6, Linux lets a raw socket see what comes to any group.
    if (!v6 && !ping && !admits(info.destination, info.source, info.interface->index()))
        return;
    const u32 transport = static_cast<u32>(packet->transport_offset());
    u8 type = 0;
    const bool icmp = protocol == proto_icmp || protocol == proto_icmpv6;
    if (icmp && !ping && packet->read(transport, type) &&
        (icmp_filter[type / 64].load(base::Order::Relaxed) >> (type % 64) & 1) != 0)
        return;
    if (v6 || ping) {
        // IPv6 shows no headers (RFC 3542, 3), nor does a ping socket.
        if (!packet->pull(transport))
            return;
    }
    if (v6 && !ping && checksum_at >= 0 && packet->checksum_state == ChecksumState::None &&
        !verify_checksum(*packet, info, packet->length()))
        return;
    if (filter.present()) {
        const Ref<SocketFilter> program = filter.get();
        const u32 keep = program ? program->run(*packet) : ~u32{0};
        if (keep == 0)
            return;
        (void)packet->trim(keep);
    }
    DatagramInfo out;
    out.source = info.source;
    out.destination = info.destination;
    out.interface = info.interface->index();
    out.hop_limit = info.hop_limit;
    out.traffic_class = info.traffic_class;
    (void)enqueue(std::move(packet), out);
}

void RawSocketEndpoint::notify(const IcmpNotice& notice) {
    const bool hard = notice.hard;
    if (!wants_errors) {
        if (hard && connected)
            set_error(notice.error);
        return;
    }
    ErrorInfo out{};
    out.number = static_cast<u32>(notice.error);
    out.origin = v6 ? origin_icmp6 : origin_icmp;
    out.type = notice.type;
    out.code = notice.code;
    out.info = notice.mtu;
    out.offender = notice.reporter;
    out.destination = notice.destination;
    PacketPtr quoted = Packet::allocate(0, 64);
    if (!quoted)
        return;
    const u32 from = notice.transport_offset;
    if (notice.packet->length() > from &&
        !quoted->share_range(*notice.packet, from, notice.packet->length() - from))
        return;
    report(std::move(quoted), out);
    set_error(notice.error);
}

void ping_reply(Stack& stack, PacketPtr packet, const IpInfo& info) {
    IcmpHeader header;
    if (!packet->read(0, header))
        return;
    const u16 identifier = static_cast<u16>(header.rest[0] << 8 | header.rest[1]);
    RawSocketEndpoint* found = find_ping(stack, info.v6(), identifier);
    if (found == nullptr)
        return;
    found->deliver(std::move(packet), info);
    found->let_go();
}

// --- the file

RawSocketFile::RawSocketFile(Ref<Inode> inode, u32 flags, int family, int type, int protocol,
                             Ref<NetNamespace> space, Ref<RawSocketEndpoint> endpoint_of)
    : DatagramSocketFile(std::move(inode), flags, family, type, protocol, std::move(space),
                         std::move(endpoint_of)) {
    if (protocol == IPPROTO_RAW)
        ip_.flags |= ip_header_included;
    if (protocol == IPPROTO_ICMPV6)
        endpoint().checksum_at = icmp_checksum_field;
}

RawSocketFile::~RawSocketFile() {
    leave_groups();
    if (endpoint().ping)
        release_ping(stack(), endpoint());
    else
        stack().raw_sockets().remove(endpoint());
    endpoint().close();
}

void RawSocketFile::option_changed() {
    endpoint().wants_errors = ip_.on(v6() ? ip6_receive_error : ip_receive_error);
    endpoint().interface = ip_.bound_interface;
    endpoint().all_groups4 = ip_.on(ip_multicast_all);
}

Result<void> RawSocketFile::bind(const SocketAddress& address) {
    TRY(Endpoint where, parse_bind(address));
    const u16 port = where.port;
    where.port = 0; // raw(7): ignored; of a ping socket it is the identifier
    TRY(check_bind(where));
    if (where.scope != 0)
        endpoint().interface = ip_.bound_interface = where.scope;
    if (endpoint().ping)
        TRY(claim_ping(stack(), endpoint(), port));
    endpoint().local = where.address;
    return {};
}

Result<void> RawSocketFile::connect(const SocketAddress& address) {
    if (address.length >= sizeof(u16) && address.family() == family_unspecified) {
        endpoint().peer = IpAddress::any(v6());
        endpoint().connected = false;
        return {};
    }
    TRY(Endpoint to, parse_address(address, family()));
    if (to.address.is_any())
        to.address = IpAddress::loopback(v6());
    Flow flow;
    fill_flow(flow, to.address, to.scope);
    TRY(resolve(stack(), flow));
    if (endpoint().ping)
        TRY(claim_ping(stack(), endpoint(), 0));
    endpoint().peer = to.address;
    if (endpoint().local.is_any())
        endpoint().local = flow.source;
    peer_scope_ = to.scope;
    endpoint().connected = true;
    return {};
}

Result<void> RawSocketFile::shutdown(u32 how) {
    if (!endpoint().connected)
        return fail(ENOTCONN);
    endpoint().shutdown = endpoint().shutdown | how;
    endpoint().read_waiters.wake_all();
    return {};
}

Result<void> RawSocketFile::local_address(SocketAddress& out) {
    const u16 port = endpoint().ping ? u16{endpoint().identifier} : static_cast<u16>(protocol());
    write_address({endpoint().local, port, endpoint().interface}, family(), out);
    return {};
}

Result<void> RawSocketFile::peer_address(SocketAddress& out) {
    if (!endpoint().connected)
        return fail(ENOTCONN);
    write_address({endpoint().peer, 0, peer_scope_}, family(), out);
    return {};
}

Result<void> RawSocketFile::prepare_ping(Packet& packet, const Flow& flow) {
    IcmpHeader header;
    if (!packet.read(0, header))
        return fail(EINVAL);
    const u8 request = v6() ? u8{ICMPV6_ECHO_REQUEST} : u8{ICMP_ECHO};
    if (header.type != request || header.code != 0)
        return fail(EINVAL);
    TRY(claim_ping(stack(), endpoint(), 0));
    const Be16 identifier(endpoint().identifier);
    __builtin_memcpy(header.rest, &identifier, sizeof identifier);
    header.checksum[0] = header.checksum[1] = 0;
    (void)packet.write(0, header);
    ChecksumSum sum;
    if (v6())
        sum = flow_pseudo_header(flow, packet.length());
    packet.add_to(sum, 0, packet.length());
    const u16 result = sum.finish();
    (void)packet.write(icmp_checksum_field, result);
    return {};
}

// IPV6_CHECKSUM: the kernel makes the sum (RFC 3542, 3.1).
Result<void> RawSocketFile::finish_checksum(Packet& packet, const Flow& flow) {
    const i32 at = endpoint().checksum_at;
    if (!v6() || at < 0)
        return {};
    const u32 offset = static_cast<u32>(at);
    const u16 none = 0;
    if (!packet.write(offset, none))
        return fail(EINVAL);
    ChecksumSum sum = flow_pseudo_header(flow, packet.length());
    packet.add_to(sum, 0, packet.length());
    const u16 result = sum.finish();
    (void)packet.write(offset, result);
    return {};
}

// IP_HDRINCL: raw(7) says which fields are filled in.
Result<void> RawSocketFile::send_with_header(Flow& flow, PacketPtr packet) {
    if (v6()) {
        if (packet->length() < sizeof(Ipv6Header))
            return fail(EINVAL);
        return output_raw(flow, std::move(packet));
    }
    Ipv4Header header;
    if (!packet->read(0, header) || header.header_bytes() < sizeof header ||
        packet->linear(header.header_bytes()) == nullptr)
        return fail(EINVAL);
    header.total_length.set(static_cast<u16>(packet->length()));
    if (header.id.get() == 0)
        header.id.set(stack().next_ip_id());
    if (header.source.get() == 0)
        header.source.set(flow.source.v4_value());
    (void)packet->write(0, header);
    set_header_checksum(*packet, header.header_bytes());
    return output_raw(flow, std::move(packet));
}

Result<void> RawSocketFile::output_raw(Flow& flow, PacketPtr packet) {
    endpoint().charge(*packet);
    auto sent = output_with_header(stack(), flow, std::move(packet));
    run_backlog();
    return sent;
}

Result<usize> RawSocketFile::send(IoBuffer& in, SendRequest& request) {
    const usize bytes = in.remaining();
    if ((request.flags & msg_oob) != 0)
        return fail(EOPNOTSUPP);
    if (bytes > 65535)
        return fail(EMSGSIZE);
    Endpoint to{endpoint().peer, 0, peer_scope_};
    if (request.to != nullptr) {
        TRY(to, parse_address(*request.to, family()));
        if (to.address.is_any())
            to.address = IpAddress::loopback(v6());
    } else if (!endpoint().connected) {
        return fail(EDESTADDRREQ);
    }
    if (v6() && to.address.is_v4())
        return fail(EINVAL);
    SendControl control;
    if (!request.control.empty())
        TRY(parse_control(request.control, control));
    Flow flow;
    fill_flow(flow, to.address, to.scope);
    if (!endpoint().local.is_any() && !endpoint().local.is_multicast())
        flow.source = endpoint().local;
    if (request.to != nullptr)
        if (const u32 label = given_flow_label(*request.to); label != 0)
            flow.flow_label = label;
    apply_control(control, flow);
    flow.any_source = flow.any_source || ip_.on(ip_header_included);
    // Ping sockets are anybody's: who may not bind to an address may not send from it.
    if (control.has_source && flow.source.is_v6() && !flow.any_source &&
        !stack().is_local(flow.source))
        return fail(EINVAL);
    TRY(check_source(flow));
    TRY(take_extensions(control, flow));
    flow.protocol = static_cast<u8>(protocol());
    TRY(resolve(stack(), flow));
    // As on Linux: traceroute sends on while answers to its first packets come in as errors.
    const bool tells_error = endpoint().ping || ip_.on(ip_header_included);
    TRY(PacketPtr packet, load(in, bytes, headroom, request.flags, tells_error));
    if (ip_.on(ip_header_included)) {
        TRY(send_with_header(flow, std::move(packet)));
        return bytes;
    }
    if (endpoint().ping)
        TRY(prepare_ping(*packet, flow));
    else
        TRY(finish_checksum(*packet, flow));
    TRY(output(flow, std::move(packet)));
    return bytes;
}

Result<void> RawSocketFile::set_option(int level, int name, std::span<const u8> value) {
    RawSocketEndpoint& own = endpoint();
    if (level == level_raw && name == ICMP_FILTER && protocol() == IPPROTO_ICMP) {
        u32 blocked = 0;
        __builtin_memcpy(&blocked, value.data(), value.size() < 4 ? value.size() : 4);
        own.icmp_filter[0].store(blocked);
        return {};
    }
    if (level == level_icmpv6 && name == ICMPV6_FILTER && protocol() == IPPROTO_ICMPV6) {
        u64 words[4] = {};
        __builtin_memcpy(words, value.data(), value.size() < 32 ? value.size() : 32);
        for (usize i = 0; i < 4; i++)
            own.icmp_filter[i].store(words[i]);
        return {};
    }
    if (name == IPV6_CHECKSUM && v6() && (level == IPPROTO_IPV6 || level == level_raw)) {
        int at = 0;
        if (value.size() < sizeof at)
            return fail(EINVAL);
        __builtin_memcpy(&at, value.data(), sizeof at);
        // RFC 3542, 3.1: of ICMPv6 the sum is the kernel's; Linux lets SOL_RAW change it.
        if ((protocol() == IPPROTO_ICMPV6 && level == IPPROTO_IPV6) || (at > 0 && (at & 1) != 0))
            return fail(EINVAL);
        own.checksum_at = at < 0 ? -1 : at;
        return {};
    }
    if (name == IPV6_HDRINCL && v6() && level == IPPROTO_IPV6 && !own.ping) {
        int on = 0;
        if (value.size() < sizeof on)
            return fail(EINVAL);
        __builtin_memcpy(&on, value.data(), sizeof on);
        ip_.flags = on != 0 ? ip_.flags | ip_header_included : ip_.flags & ~ip_header_included;
        return {};
    }
    return DatagramSocketFile::set_option(level, name, value);
}

Result<usize> RawSocketFile::get_option(int level, int name, std::span<u8> out) {
    const RawSocketEndpoint& own = endpoint();
    const auto put = [out](const void* value, usize size) {
        const usize bytes = out.size() < size ? out.size() : size;
        __builtin_memcpy(out.data(), value, bytes);
        return bytes;
    };
    if (level == level_raw && name == ICMP_FILTER && protocol() == IPPROTO_ICMP) {
        const u32 blocked = static_cast<u32>(own.icmp_filter[0].load());
        return put(&blocked, sizeof blocked);
    }
    if (level == level_icmpv6 && name == ICMPV6_FILTER && protocol() == IPPROTO_ICMPV6) {
        u64 words[4];
        for (usize i = 0; i < 4; i++)
            words[i] = own.icmp_filter[i].load();
        return put(words, sizeof words);
    }
    if (name == IPV6_CHECKSUM && v6() && (level == IPPROTO_IPV6 || level == level_raw)) {
        const int at = own.checksum_at;
        return put(&at, sizeof at);
    }
    if (name == IPV6_HDRINCL && v6() && level == IPPROTO_IPV6 && !own.ping) {
        const int on = ip_.on(ip_header_included) ? 1 : 0;
        return put(&on, sizeof on);
    }
    return DatagramSocketFile::get_option(level, name, out);
}

} // namespace kernel::net
