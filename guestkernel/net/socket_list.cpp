#include "guestkernel/net/socket_list.hpp"

#include <linux/errno.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/raw_socket.hpp"
#include "guestkernel/net/tcp/listener.hpp"
#include "guestkernel/net/tcp/tcp_info.hpp"
#include "guestkernel/net/udp.hpp"

namespace kernel::net {

namespace {

constexpr u8 connected_state = 1, closed_state = 7, syn_received_state = 3, time_wait_state = 6;

void take_owner(SocketRecord& record, const PortOwner& owner) {
    record.v6 = owner.v6;
    record.v6_only = owner.v6_only;
    record.uid = owner.uid;
    record.interface = owner.interface;
    record.port = owner.port;
}

u64 cookie_of(u64 inode, const void* object) {
    u64 address = 0;
    __builtin_memcpy(&address, &object, sizeof object);
    return hash_mix(inode != 0 ? inode : address); // SO_COOKIE; tells no address
}

// What only the file knows. Under the lock that keeps it.
void take_options(SocketRecord& record, const InetSocketFile* file, bool connection) {
    if (connection)
        record.option_bits[0] = 2; // is_icsk
    if (file == nullptr)
        return;
    const IpOptions& options = file->ip_options();
    record.mark = options.mark;
    record.priority = file->priority();
    record.tos = options.tos;
    record.traffic_class = options.traffic_class;
    const bool v6 = file->v6();
    constexpr struct {
        u64 flag;
        u8 byte, bit;
    } bits[] = {{ip_receive_error, 0, 0},  {ip_freebind, 0, 2},    {ip_header_included, 0, 3},
                {ip_multicast_loop, 0, 4}, {ip_transparent, 0, 5}, {ip_multicast_all, 0, 6},
                {ip_bind_no_port, 1, 0}};
    for (const auto& known : bits)
        if ((options.flags & known.flag) != 0)
            record.option_bits[known.byte] |= static_cast<u8>(1u << known.bit);
    if (v6 && options.on(ip6_receive_error))
        record.option_bits[0] |= 1;
}

struct Holding {
    Stack& stack;
    Vector<Ref<RefCounted>>& out;
    bool failed = false;
    void add(RefCounted& held) {
        if (!out.push_back(Ref<RefCounted>::adopt(&held)))
            failed = true;
    }
};

void hold_listener(PortOwner& owner, void* context) {
    // Only connections listen.
    if (owner.listening && owner.try_hold())
        static_cast<Holding*>(context)->add(static_cast<tcp::Connection&>(owner));
}

void hold_entry(tcp::Entry& entry, void* context) {
    auto& to = *static_cast<Holding*>(context);
    if (entry.stack == &to.stack && entry.try_add_ref())
        to.add(entry);
}

bool describe_listener(tcp::Connection& connection, SocketRecord& record, ::tcp_info* info) {
    SpinGuard guard(connection.lock);
    if (connection.state() != tcp::State::Listen)
        return false;
    const tcp::TcpInfo about(connection);
    about.describe(record);
    if (info != nullptr)
        about.fill(*info);
    take_owner(record, connection);
    take_options(record, static_cast<const InetSocketFile*>(connection.file), true);
    record.local = connection.PortOwner::local;
    record.peer = IpAddress::any(record.v6);
    record.inode = connection.inode_number;
    record.cookie = cookie_of(record.inode, &connection);
    record.bound_by_hand = connection.port_kept;
    record.references = connection.ref_count();
    return true;
}

void describe_connection(tcp::Connection& connection, SocketRecord& record, ::tcp_info* info) {
    const tcp::TcpInfo about(connection);
    about.describe(record);
    if (info != nullptr)
        about.fill(*info);
    take_owner(record, connection);
    record.mark = connection.flow.mark;
    record.tos = record.traffic_class = connection.flow.traffic_class;
    take_options(record, static_cast<const InetSocketFile*>(connection.file), true);
    record.inode = connection.inode_number;
    record.bound_by_hand = connection.port_kept;
    record.references = connection.ref_count();
}

bool describe_entry(tcp::Entry& entry, SocketRecord& record, ::tcp_info* info) {
    const u64 now = entry.stack->now();
    record.v6 = entry.pair.local.address.is_v6();
    switch (entry.kind) {
    case tcp::EntryKind::Connection: {
        auto& connection = static_cast<tcp::Connection&>(entry);
        if (connection.state() == tcp::State::Listen)
            return describe_listener(connection, record, info);
        SpinGuard guard(connection.lock);
        if (!connection.in_table())
            return false;
        describe_connection(connection, record, info);
        break;
    }
    case tcp::EntryKind::TimeWait: {
        const auto& waiting = static_cast<const tcp::TimeWait&>(entry);
        take_owner(record, waiting);
        record.whole = false;
        record.uid = 0;
        record.mark = waiting.mark;
        record.state = time_wait_state;
        record.timer = 3;
        record.timer_left_ns = waiting.deadline > now ? waiting.deadline - now : 0;
        break;
    }
    case tcp::EntryKind::Request: {
        const auto& request = static_cast<const tcp::Request&>(entry);
        if (request.listener)
            take_owner(record, request.listener->owner());
        record.whole = false;
        record.state = syn_received_state;
        record.timer = 1;
        record.timer_left_ns = request.deadline > now ? request.deadline - now : 0;
        record.retransmits = request.retries;
        break;
    }
    case tcp::EntryKind::Listener:
        return false;
    }
    record.local = entry.pair.local.address;
    record.peer = entry.pair.remote.address;
    record.port = entry.pair.local.port;
    record.peer_port = entry.pair.remote.port;
    record.cookie = cookie_of(record.inode, &entry);
    return true;
}

void take_datagram(SocketRecord& record, DatagramEndpoint& endpoint) {
    record.inode = endpoint.inode_number;
    record.sent = record.send_memory = record.packets_out = static_cast<u32>(endpoint.sent_.load());
    record.received = record.receive_memory = static_cast<u32>(endpoint.queued_bytes);
    record.drops = endpoint.dropped.load();
    record.references = endpoint.ref_count();
    record.receive_buffer = endpoint.receive_buffer;
    record.send_buffer = endpoint.send_buffer_;
    record.shutdown = static_cast<u8>(endpoint.shutdown);
    record.cookie = cookie_of(record.inode, &endpoint);
    SpinGuard guard(endpoint.lock);
    take_options(record, endpoint.file, false);
}

bool describe_udp(UdpEndpoint& endpoint, SocketRecord& record) {
    take_owner(record, endpoint);
    record.local = endpoint.local;
    record.peer = endpoint.connected ? endpoint.peer : IpAddress::any(endpoint.v6);
    record.peer_port = endpoint.connected ? endpoint.peer_port : u16{0};
    record.state = endpoint.connected ? connected_state : closed_state;
    take_datagram(record, endpoint);
    return endpoint.port != 0;
}

bool describe_raw(RawSocketEndpoint& endpoint, SocketRecord& record) {
    record.v6 = endpoint.v6;
    record.local = endpoint.local;
    record.peer = endpoint.peer;
    record.port = endpoint.protocol;
    record.interface = endpoint.RawEndpoint::interface;
    record.uid = endpoint.uid;
    record.state = endpoint.connected ? connected_state : closed_state;
    take_datagram(record, endpoint);
    return true;
}

Result<void> list(Stack& stack, SocketTable table, Vector<SocketRecord>& out) {
    Vector<Ref<RefCounted>> held;
    for (usize bucket = 0; bucket < socket_buckets(table); bucket++) {
        TRY(hold_sockets(stack, table, bucket, held));
        for (const Ref<RefCounted>& socket : held) {
            SocketRecord record;
            if (describe_socket(table, *socket, record))
                TRY(out.push_back(record));
        }
        held.clear();
    }
    return {};
}

bool matches(const RawEndpoint& endpoint, const SocketKey& key) {
    return endpoint.v6 == key.local.is_v6() && endpoint.protocol == key.port &&
           (endpoint.local.is_any() || endpoint.local == key.local) &&
           (endpoint.peer.is_any() || endpoint.peer == key.peer) &&
           (endpoint.interface == 0 || endpoint.interface == key.interface);
}

} // namespace

usize socket_buckets(SocketTable table) {
    switch (table) {
    case SocketTable::Listeners:
    case SocketTable::Udp:
    case SocketTable::UdpLite:
        return PortTable::buckets;
    case SocketTable::Connections:
        return tcp::Table::bucket_count;
    case SocketTable::Raw:
        break;
    }
    return 1;
}

Result<void> hold_sockets(Stack& stack, SocketTable table, usize bucket,
                          Vector<Ref<RefCounted>>& out) {
    Holding holding{stack, out};
    switch (table) {
    case SocketTable::Listeners:
        stack.tcp_ports.for_each_in(bucket, hold_listener, &holding);
        break;
    case SocketTable::Connections:
        tcp::Table::get().for_each_in(bucket, hold_entry, &holding);
        break;
    case SocketTable::Udp:
    case SocketTable::UdpLite:
        stack.udp_ports.for_each_in(
            bucket,
            [](PortOwner& owner, void* context) {
                if (owner.try_hold())
                    static_cast<Holding*>(context)->add(static_cast<UdpEndpoint&>(owner));
            },
            &holding);
        break;
    case SocketTable::Raw:
        stack.raw_sockets().for_each(
            [](RawEndpoint& endpoint, void* context) {
                if (endpoint.try_hold())
                    static_cast<Holding*>(context)->add(static_cast<RawSocketEndpoint&>(endpoint));
            },
            &holding);
        break;
    }
    return holding.failed ? fail(enomem) : Result<void>();
}

bool describe_socket(SocketTable table, RefCounted& socket, SocketRecord& out, ::tcp_info* info) {
    switch (table) {
    case SocketTable::Listeners:
        return describe_listener(static_cast<tcp::Connection&>(socket), out, info);
    case SocketTable::Connections:
        return describe_entry(static_cast<tcp::Entry&>(socket), out, info);
    case SocketTable::Udp:
    case SocketTable::UdpLite:
        // Both are in one table.
        return static_cast<UdpEndpoint&>(socket).lite == (table == SocketTable::UdpLite) &&
               describe_udp(static_cast<UdpEndpoint&>(socket), out);
    case SocketTable::Raw:
        return describe_raw(static_cast<RawSocketEndpoint&>(socket), out);
    }
    return false;
}

Ref<RefCounted> find_socket(Stack& stack, SocketTable& table, const SocketKey& key) {
    const PortTable::Key where{key.local,     key.peer,      key.port,
                               key.peer_port, key.interface, table == SocketTable::UdpLite};
    switch (table) {
    case SocketTable::Connections:
    case SocketTable::Listeners: {
        tcp::Pair pair;
        pair.local = {key.local, key.port, 0};
        pair.remote = {key.peer, key.peer_port, 0};
        if (key.peer.is_link_local() && key.peer.is_v6())
            pair.remote.scope = key.interface;
        if (Ref<tcp::Entry> entry = tcp::Table::get().find(stack, pair)) {
            table = SocketTable::Connections;
            return entry;
        }
        table = SocketTable::Listeners;
        PortOwner* owner = stack.tcp_ports.find(where);
        return owner == nullptr ? nullptr
                                : Ref<RefCounted>::adopt(static_cast<tcp::Connection*>(owner));
    }
    case SocketTable::Udp:
    case SocketTable::UdpLite: {
        PortOwner* owner = stack.udp_ports.find(where);
        return owner == nullptr ? nullptr
                                : Ref<RefCounted>::adopt(static_cast<UdpEndpoint*>(owner));
    }
    case SocketTable::Raw:
        break;
    }
    struct Search {
        const SocketKey& key;
        Ref<RefCounted> found;
    } search{key, {}};
    stack.raw_sockets().for_each(
        [](RawEndpoint& endpoint, void* context) {
            auto& to = *static_cast<Search*>(context);
            if (!to.found && matches(endpoint, to.key) && endpoint.try_hold())
                to.found = Ref<RefCounted>::adopt(static_cast<RawSocketEndpoint*>(&endpoint));
        },
        &search);
    return std::move(search.found);
}

namespace {

void destroy_connection(tcp::Connection& connection) {
    Ref<tcp::Listener> served;
    {
        SpinGuard guard(connection.lock);
        if (connection.state() == tcp::State::Listen) {
            served = connection.stop_listening();
            connection.error = ECONNABORTED;
        } else {
            connection.abort(ECONNABORTED);
        }
    }
    if (served)
        served->close();
}

} // namespace

void destroy_socket(Stack& stack, SocketTable table, RefCounted& socket) {
    switch (table) {
    case SocketTable::Listeners:
        destroy_connection(static_cast<tcp::Connection&>(socket));
        break;
    case SocketTable::Connections: {
        auto& entry = static_cast<tcp::Entry&>(socket);
        if (entry.kind == tcp::EntryKind::Connection) {
            destroy_connection(static_cast<tcp::Connection&>(entry));
        } else if (entry.kind == tcp::EntryKind::TimeWait) {
            tcp::TcpStack::of(stack).end_time_wait(static_cast<tcp::TimeWait&>(entry));
        } else if (entry.kind == tcp::EntryKind::Request) {
            auto& request = static_cast<tcp::Request&>(entry);
            request.listener->request_error(request, request.send_initial);
        }
        break;
    }
    case SocketTable::Udp:
    case SocketTable::UdpLite: {
        auto& endpoint = static_cast<UdpEndpoint&>(socket);
        if (endpoint.connected)
            stack.udp_ports.set_peer(endpoint, endpoint.local, IpAddress::any(endpoint.v6), 0,
                                     false);
        endpoint.set_error(ECONNABORTED);
        break;
    }
    case SocketTable::Raw: {
        auto& endpoint = static_cast<RawSocketEndpoint&>(socket);
        endpoint.connected = false;
        endpoint.peer = IpAddress::any(endpoint.v6);
        endpoint.set_error(ECONNABORTED);
        break;
    }
    }
    run_backlog();
}

Result<void> list_tcp(Stack& stack, Vector<SocketRecord>& out) {
    TRY(list(stack, SocketTable::Listeners, out));
    return list(stack, SocketTable::Connections, out);
}

Result<void> list_udp(Stack& stack, Vector<SocketRecord>& out) {
    return list(stack, SocketTable::Udp, out);
}

Result<void> list_udplite(Stack& stack, Vector<SocketRecord>& out) {
    return list(stack, SocketTable::UdpLite, out);
}

Result<void> list_raw(Stack& stack, Vector<SocketRecord>& out) {
    return list(stack, SocketTable::Raw, out);
}

} // namespace kernel::net
