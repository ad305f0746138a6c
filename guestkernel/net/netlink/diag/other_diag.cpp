// netlink_diag and packet_diag: sockets of AF_NETLINK and AF_PACKET. Both know dumps only.
#include <linux/errno.h>
#include <linux/netlink.h>
#include <linux/netlink_diag.h>
#include <linux/packet_diag.h>
#include <linux/sock_diag.h>

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/netlink/diag/diag.hpp"
#include "guestkernel/net/netlink/socket.hpp"
#include "guestkernel/net/packet_tap.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 closed = 7, connected = 1;

u32 flags_of(const Endpoint& endpoint) {
    return (endpoint.dumping() ? NDIAG_FLAG_CB_RUNNING : 0u) |
           (endpoint.packet_info ? NDIAG_FLAG_PKTINFO : 0u) |
           (endpoint.broadcast_error ? NDIAG_FLAG_BROADCAST_ERROR : 0u) |
           (endpoint.no_enobufs ? NDIAG_FLAG_NO_ENOBUFS : 0u) |
           (endpoint.all_namespaces ? NDIAG_FLAG_LISTEN_ALL_NSID : 0u) |
           (endpoint.short_ack ? NDIAG_FLAG_CAP_ACK : 0u);
}

bool put_netlink(MessageWriter& out, const Endpoint& endpoint, u32 show) {
    netlink_diag_msg message{};
    message.ndiag_family = family_netlink;
    message.ndiag_type = static_cast<u8>(endpoint.socket_type);
    message.ndiag_protocol = static_cast<u8>(endpoint.protocol().number);
    message.ndiag_state = endpoint.peer_port != 0 || endpoint.peer_group != 0 ? connected : closed;
    message.ndiag_portid = endpoint.port();
    message.ndiag_dst_portid = endpoint.peer_port;
    message.ndiag_dst_group = endpoint.peer_group;
    message.ndiag_ino = static_cast<u32>(endpoint.inode_number);
    const DiagCookie cookie = DiagCookie::of(cookie_of_inode(endpoint.inode_number));
    message.ndiag_cookie[0] = cookie.words[0];
    message.ndiag_cookie[1] = cookie.words[1];
    out.put(message);
    if ((show & NDIAG_SHOW_GROUPS) != 0 && endpoint.joined_once) {
        // Words of 64 groups, the first group in the first bit.
        u64 words[Endpoint::most_groups / 64 + 1] = {};
        const u32 groups = endpoint.protocol().groups < 32 ? 32 : endpoint.protocol().groups;
        for (u32 group = 1; group <= groups; group++)
            if (endpoint.member_of(group))
                words[(group - 1) / 64] |= u64{1} << (group - 1) % 64;
        out.attribute(NETLINK_DIAG_GROUPS, words, (groups + 63) / 64 * sizeof(u64));
    }
    if ((show & NDIAG_SHOW_MEMINFO) != 0) {
        SocketMemory memory;
        memory.received = static_cast<u32>(endpoint.queued_bytes());
        memory.receive_buffer = endpoint.receive_buffer;
        memory.send_buffer = endpoint.send_buffer;
        memory.drops = endpoint.drops.load();
        out.value(NETLINK_DIAG_MEMINFO, memory);
    }
    if ((show & NDIAG_SHOW_FLAGS) != 0)
        out.number32(NETLINK_DIAG_FLAGS, flags_of(endpoint));
    return out.end();
}

// words: where next_endpoint() stands.
Result<bool> netlink_step(Dump& dump, MessageWriter& out) {
    netlink_diag_req asked;
    __builtin_memcpy(&asked, dump.payload.data(), sizeof asked);
    u64 after = dump.words[0];
    while (const Ref<Endpoint> endpoint = next_endpoint(*dump.stack, after)) {
        if (asked.sdiag_protocol == NDIAG_PROTO_ALL ||
            asked.sdiag_protocol == endpoint->protocol().number) {
            dump.begin(out, SOCK_DIAG_BY_FAMILY);
            if (!put_netlink(out, *endpoint, asked.ndiag_show))
                return false;
        }
        dump.words[0] = after;
    }
    return true;
}

bool put_packet(MessageWriter& out, const PacketSocketRecord& record, u32 show,
                const Endpoint* reader) {
    packet_diag_msg message{};
    message.pdiag_family = family_packet;
    message.pdiag_type = static_cast<u8>(record.type);
    message.pdiag_num = record.protocol;
    message.pdiag_ino = static_cast<u32>(record.inode);
    const DiagCookie cookie = DiagCookie::of(cookie_of_inode(record.inode));
    message.pdiag_cookie[0] = cookie.words[0];
    message.pdiag_cookie[1] = cookie.words[1];
    out.put(message);
    if ((show & PACKET_SHOW_INFO) != 0) {
        packet_diag_info info{};
        info.pdi_index = record.interface;
        info.pdi_flags =
            (record.attached ? PDI_RUNNING : 0u) | (record.auxiliary ? PDI_AUXDATA : 0u);
        out.value(PACKET_DIAG_INFO, info);
        out.number32(PACKET_DIAG_UID, uid_for(reader, record.uid));
    }
    if ((show & PACKET_SHOW_MEMINFO) != 0) {
        SocketMemory memory;
        memory.received = record.receive_memory;
        memory.receive_buffer = record.receive_buffer;
        memory.sent = record.send_memory;
        memory.send_buffer = record.send_buffer;
        memory.drops = record.drops;
        out.value(PACKET_DIAG_MEMINFO, memory);
    }
    return out.end();
}

Result<bool> packet_step(Dump& dump, MessageWriter& out) {
    packet_diag_req asked;
    __builtin_memcpy(&asked, dump.payload.data(), sizeof asked);
    u64 after = dump.words[0];
    PacketSocketRecord record;
    while (dump.stack->taps().next_socket(after, record)) {
        dump.begin(out, SOCK_DIAG_BY_FAMILY);
        if (!put_packet(out, record, asked.pdiag_show, dump.reader))
            return false;
        dump.words[0] = after;
    }
    return true;
}

} // namespace

Result<void> netlink_diag(Request& request) {
    TRY(const netlink_diag_req asked, request.payload_header<netlink_diag_req>());
    if (!request.is_dump())
        return fail(EOPNOTSUPP);
    if (asked.sdiag_protocol != NDIAG_PROTO_ALL && asked.sdiag_protocol >= MAX_LINKS)
        return request.refuse_dump(ENOENT);
    return request.start_dump(netlink_step, {}, false);
}

Result<void> packet_diag(Request& request) {
    TRY(const packet_diag_req asked, request.payload_header<packet_diag_req>());
    if (asked.sdiag_protocol != 0)
        return fail(EINVAL);
    if (!request.is_dump())
        return fail(EOPNOTSUPP);
    return request.start_dump(packet_step, {}, false);
}

} // namespace kernel::net::netlink
