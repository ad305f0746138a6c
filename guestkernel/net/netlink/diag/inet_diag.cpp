// inet_diag: sockets of TCP, UDP and raw ones, of both versions of IP.
#include <linux/errno.h>
#include <linux/in.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>

#include "guestkernel/net/inet_socket.hpp"
#include "guestkernel/net/netlink/diag/diag.hpp"
#include "guestkernel/net/netlink/diag/inet_filter.hpp"
#include "guestkernel/net/socket_list.hpp"

namespace kernel::net::netlink {

namespace {

constexpr u8 established = 1, closed = 7, listening = 10;

struct Query {
    inet_diag_req_v2 asked;
    u32 protocol;    // may be one that `asked` has no room for
    u16 type;        // of the answers
    bool any_family; // of a request in the old form
    bool filtered;
    std::span<const u8> filter;
    bool v6() const { return asked.sdiag_family == family_inet6; }
    bool wants(u32 extension) const { return (asked.idiag_ext >> (extension - 1) & 1) != 0; }
    bool wants_state(u8 state) const { return (asked.idiag_states >> state & 1) != 0; }
};

// The form before sock_diag, which knows no protocols but by the request's type.
Result<void> take_old_form(std::span<const u8> payload, Query& out) {
    inet_diag_req old;
    if (payload.size() < sizeof old)
        return fail(EINVAL);
    __builtin_memcpy(&old, payload.data(), sizeof old);
    out.asked.sdiag_family = old.idiag_family;
    out.asked.sdiag_protocol = out.type == TCPDIAG_GETSOCK ? IPPROTO_TCP : IPPROTO_DCCP;
    out.asked.idiag_ext = old.idiag_ext;
    out.asked.idiag_states = old.idiag_states;
    out.asked.id = old.id;
    return {};
}

Result<Query> parse_query(u16 type, std::span<const u8> payload) {
    Query out{};
    out.type = type;
    usize taken = sizeof out.asked;
    if (type == TCPDIAG_GETSOCK || type == DCCPDIAG_GETSOCK) {
        TRY(take_old_form(payload, out));
        out.any_family = true;
        taken = sizeof(inet_diag_req);
    } else {
        out.type = SOCK_DIAG_BY_FAMILY;
        if (payload.size() < taken)
            return fail(EINVAL);
        __builtin_memcpy(&out.asked, payload.data(), taken);
    }
    out.protocol = out.asked.sdiag_protocol;
    AttributeReader reader(payload.subspan(taken));
    Attribute attribute;
    while (reader.next(attribute)) {
        if (attribute.type == INET_DIAG_REQ_BYTECODE) {
            out.filtered = true;
            out.filter = attribute.data;
        } else if (attribute.type == INET_DIAG_REQ_PROTOCOL) {
            out.protocol = attribute.number();
        }
    }
    return out;
}

// Which tables a protocol's sockets are in.
struct Tables {
    SocketTable first, last;
};
bool tables_of(u32 protocol, Tables& out) {
    switch (protocol) {
    case IPPROTO_TCP:
        out = {SocketTable::Listeners, SocketTable::Connections};
        return true;
    case IPPROTO_UDP:
        out = {SocketTable::Udp, SocketTable::Udp};
        return true;
    case IPPROTO_UDPLITE:
        out = {SocketTable::UdpLite, SocketTable::UdpLite};
        return true;
    case IPPROTO_RAW:
        out = {SocketTable::Raw, SocketTable::Raw};
        return true;
    default:
        return false;
    }
}

u16 network_order(u16 port) {
    return Be16(port).raw();
}

void put_address(__be32 (&out)[4], const IpAddress& address, bool v6) {
    if (address.is_any()) // neither version's
        return;
    if (v6)
        __builtin_memcpy(out, address.bytes(), sizeof out);
    else
        __builtin_memcpy(out, address.bytes() + 12, sizeof out[0]);
}

u32 milliseconds(u64 ns) {
    return static_cast<u32>((ns + 999'999) / 1'000'000);
}

inet_diag_msg message_of(const SocketRecord& record, const Endpoint* reader) {
    inet_diag_msg out{};
    out.idiag_family = static_cast<u8>(record.v6 ? family_inet6 : family_inet);
    out.idiag_state = record.state;
    out.idiag_timer = record.timer;
    out.idiag_retrans = static_cast<u8>(
        record.timer == 2 || record.timer == 4 ? record.probes : record.retransmits);
    out.id.idiag_sport = network_order(record.port);
    out.id.idiag_dport = network_order(record.peer_port);
    put_address(out.id.idiag_src, record.local, record.v6);
    put_address(out.id.idiag_dst, record.peer, record.v6);
    out.id.idiag_if = record.interface;
    const DiagCookie cookie = DiagCookie::of(record.cookie);
    out.id.idiag_cookie[0] = cookie.words[0];
    out.id.idiag_cookie[1] = cookie.words[1];
    out.idiag_expires = record.timer == 0 ? 0 : milliseconds(record.timer_left_ns);
    if (!record.whole)
        return out;
    out.idiag_rqueue = record.received;
    out.idiag_wqueue = record.sent;
    out.idiag_uid = uid_for(reader, record.uid);
    out.idiag_inode = static_cast<u32>(record.inode);
    return out;
}

void put_details(MessageWriter& out, const SocketRecord& record, const Query& query, bool raw,
                 bool administrator) {
    out.number8(INET_DIAG_SHUTDOWN, record.shutdown);
    if (query.wants(INET_DIAG_TOS))
        out.number8(INET_DIAG_TOS, record.tos);
    if (record.v6) {
        if (query.wants(INET_DIAG_TCLASS))
            out.number8(INET_DIAG_TCLASS, record.traffic_class);
        if (record.state == closed || record.state == listening)
            out.number8(INET_DIAG_SKV6ONLY, record.v6_only ? 1 : 0);
    }
    if (administrator)
        out.number32(INET_DIAG_MARK, record.mark);
    // Without classes, the priority.
    if (query.wants(INET_DIAG_TCLASS))
        out.number32(INET_DIAG_CLASS_ID, static_cast<u32>(record.priority));
    out.attribute(INET_DIAG_SOCKOPT, record.option_bits, sizeof record.option_bits);
    if (raw)
        out.number8(INET_DIAG_PROTOCOL, static_cast<u8>(record.port));
    if (query.wants(INET_DIAG_MEMINFO)) {
        inet_diag_meminfo memory{};
        memory.idiag_rmem = record.receive_memory;
        memory.idiag_wmem = record.send_memory;
        memory.idiag_tmem = record.packets_out;
        out.value(INET_DIAG_MEMINFO, memory);
    }
    if (query.wants(INET_DIAG_SKMEMINFO)) {
        SocketMemory memory;
        memory.received = record.receive_memory;
        memory.receive_buffer = record.receive_buffer;
        memory.sent = record.packets_out;
        memory.send_buffer = record.send_buffer;
        memory.queued = record.send_memory;
        memory.drops = record.drops;
        out.value(INET_DIAG_SKMEMINFO, memory);
    }
}

// One socket's message. False: there is no room.
bool put_socket(MessageWriter& out, const SocketRecord& record, const ::tcp_info& info,
                const Query& query, SocketTable table, const Endpoint* reader) {
    const bool administrator = may_administer(reader);
    out.put(message_of(record, reader));
    if (!record.whole) {
        if (administrator)
            out.number32(INET_DIAG_MARK, record.mark);
        return out.end();
    }
    put_details(out, record, query, table == SocketTable::Raw, administrator);
    const bool tcp = table == SocketTable::Listeners || table == SocketTable::Connections;
    if (tcp && query.wants(INET_DIAG_INFO))
        out.value(INET_DIAG_INFO, info);
    if (tcp && query.wants(INET_DIAG_CONG))
        out.text(INET_DIAG_CONG, record.congestion);
    return out.end();
}

bool shown(const SocketRecord& record, const Query& query) {
    const inet_diag_sockid& id = query.asked.id;
    return (query.any_family || record.v6 == query.v6()) && query.wants_state(record.state) &&
           (id.idiag_sport == 0 || id.idiag_sport == network_order(record.port)) &&
           (id.idiag_dport == 0 || id.idiag_dport == network_order(record.peer_port)) &&
           (!query.filtered || run_filter(query.filter, record));
}

// Whether a table need not be gone through.
bool skipped(SocketTable table, const Query& query) {
    if (table == SocketTable::Listeners)
        return !query.wants_state(listening) || query.asked.id.idiag_dport != 0;
    if (table == SocketTable::Connections)
        return (query.asked.idiag_states & ~(1u << listening)) == 0;
    return !query.wants_state(closed) && !query.wants_state(established);
}

// words: the table, the bucket, how many of its sockets were shown.
Result<bool> step(Dump& dump, MessageWriter& out) {
    TRY(const Query query, parse_query(dump.request_type, dump.payload.span()));
    Tables tables{};
    if (!tables_of(query.protocol, tables))
        return fail(ENOENT);
    const usize last = static_cast<usize>(tables.last);
    Vector<Ref<RefCounted>> held;
    for (usize index = static_cast<usize>(tables.first) + dump.words[0]; index <= last; index++) {
        const auto table = static_cast<SocketTable>(index);
        const usize buckets = skipped(table, query) ? 0 : socket_buckets(table);
        for (; dump.words[1] < buckets; dump.words[1]++) {
            TRY(hold_sockets(*dump.stack, table, dump.words[1], held));
            for (; dump.words[2] < held.size(); dump.words[2]++) {
                SocketRecord record;
                ::tcp_info info{};
                if (!describe_socket(table, *held[dump.words[2]], record, &info) ||
                    !shown(record, query))
                    continue;
                dump.begin(out, query.type);
                if (!put_socket(out, record, info, query, table, dump.reader))
                    return false;
            }
            held.clear();
            dump.words[2] = 0;
        }
        dump.words[0]++;
        dump.words[1] = 0;
    }
    return true;
}

IpAddress address_in(const __be32 (&words)[4], bool v6) {
    // Mapped addresses are IPv4's.
    return IpAddress::from_wire(v6, words);
}

struct Found {
    SocketTable table{};
    Ref<RefCounted> socket;
    SocketRecord record;
    ::tcp_info info;
};

// `from_socket`: the request's source is the socket's own side.
Result<void> look_up(Stack& stack, const Query& query, bool from_socket, Found& out) {
    const inet_diag_sockid& id = query.asked.id;
    Tables tables{};
    if (!tables_of(query.protocol, tables))
        return fail(ENOENT);
    const auto port = [](u16 wire) { return static_cast<u16>(wire >> 8 | wire << 8); };
    SocketKey key{address_in(id.idiag_src, query.v6()), address_in(id.idiag_dst, query.v6()),
                  port(id.idiag_sport), port(id.idiag_dport), id.idiag_if};
    if (!from_socket)
        key = {key.peer, key.local, key.peer_port, key.port, key.interface};
    if (tables.last == SocketTable::Raw)
        key.port = query.asked.pad; // sdiag_raw_protocol
    out.table = tables.last;
    out.socket = find_socket(stack, out.table, key);
    out.info = {};
    if (!out.socket || !describe_socket(out.table, *out.socket, out.record, &out.info))
        return fail(ENOENT);
    auto same = check_cookie({{id.idiag_cookie[0], id.idiag_cookie[1]}}, out.record.cookie);
    // Another connection of the same addresses is none that was asked for.
    return same || query.protocol != IPPROTO_TCP ? same : fail(ENOENT);
}

} // namespace

Result<void> inet_diag(Request& request) {
    auto parsed = parse_query(request.type(), request.payload());
    if (!parsed)
        return fail(parsed.error().code);
    const Query& query = *parsed;
    if (request.is_dump()) {
        if (query.filtered)
            TRY(check_filter(query.filter, may_administer(&request.sender())));
        Tables tables{};
        if (!tables_of(query.protocol, tables))
            return request.refuse_dump(ENOENT);
        return request.start_dump(step, {}, false);
    }
    Found found;
    // Of UDP the two sides are the other way round here, as on Linux: a packet's, not the socket's.
    TRY(look_up(request.stack(), query,
                query.protocol != IPPROTO_UDP && query.protocol != IPPROTO_UDPLITE, found));
    MessageWriter out;
    request.begin(out, query.type);
    if (!put_socket(out, found.record, found.info, query, found.table, &request.sender()))
        return fail(ENOMEM);
    return request.reply(out);
}

Result<void> inet_destroy(Request& request) {
    TRY(const Query query, parse_query(request.type(), request.payload()));
    Found found;
    TRY(look_up(request.stack(), query, true, found));
    destroy_socket(request.stack(), found.table, *found.socket);
    return {};
}

} // namespace kernel::net::netlink
