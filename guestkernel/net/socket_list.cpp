#include "guestkernel/net/socket_list.hpp"

#include "guestkernel/net/raw_socket.hpp"
#include "guestkernel/net/tcp/listener.hpp"
#include "guestkernel/net/udp.hpp"

namespace kernel::net {

namespace {

constexpr u8 connected_state = 1, closed_state = 7, syn_received_state = 3, time_wait_state = 6,
             listen_state = 10;

struct Collection {
    Stack& stack;
    Vector<SocketRecord>& out;
    bool failed = false;
    void add(const SocketRecord& record) {
        if (!out.push_back(record))
            failed = true;
    }
    Result<void> result() const { return failed ? fail(enomem) : Result<void>(); }
};

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
    return hash_mix(inode != 0 ? inode : address); // tells no address
}

// Held, so that they can be looked at without the tables' locks.
struct Held {
    Stack& stack;
    Vector<Ref<tcp::Entry>> entries;
    bool failed = false;
    void add(Ref<tcp::Entry> entry) {
        if (!entries.push_back(std::move(entry)))
            failed = true;
    }
};

void hold_listener(PortOwner& owner, void* context) {
    if (!owner.listening || !owner.try_hold())
        return;
    static_cast<Held*>(context)->add(Ref<tcp::Entry>::adopt(&static_cast<tcp::Connection&>(owner)));
}

void hold_entry(tcp::Entry& entry, void* context) {
    auto& to = *static_cast<Held*>(context);
    if (entry.stack == &to.stack && entry.try_add_ref())
        to.add(Ref<tcp::Entry>::adopt(&entry));
}

SocketRecord listener_record(const tcp::Connection& connection) {
    SocketRecord record;
    take_owner(record, connection);
    record.local = connection.PortOwner::local;
    record.peer = IpAddress::any(record.v6);
    record.state = listen_state;
    record.inode = connection.inode_number;
    record.cookie = cookie_of(record.inode, &connection);
    if (const tcp::Listener* listener = connection.listener.get()) {
        record.sent = listener->backlog;
        record.received = listener->pending_count();
    }
    return record;
}

void take_connection(SocketRecord& record, const tcp::Connection& connection, u64 now) {
    take_owner(record, connection);
    record.state = static_cast<u8>(connection.state());
    record.inode = connection.inode_number;
    record.sent = connection.unacknowledged();
    record.received = connection.readable();
    record.receive_buffer = connection.receive_limit();
    record.send_buffer = connection.send_limit();
    record.retransmits = connection.statistics().retransmits;
    tcp::Deadline which{};
    const u64 due = connection.next_deadline(which);
    if (due == no_deadline)
        return;
    switch (which) {
    case tcp::Deadline::Retransmit:
    case tcp::Deadline::LossProbe:
    case tcp::Deadline::Reorder:
        record.timer = 1;
        break;
    case tcp::Deadline::Persist:
        record.timer = 4;
        break;
    case tcp::Deadline::Keepalive:
    case tcp::Deadline::End:
        record.timer = 2;
        break;
    case tcp::Deadline::DelayedAck:
        return;
    }
    record.timer_left_ns = due > now ? due - now : 0;
}

bool entry_record(tcp::Entry& entry, u64 now, SocketRecord& record) {
    record.local = entry.pair.local.address;
    record.peer = entry.pair.remote.address;
    record.v6 = record.local.is_v6();
    switch (entry.kind) {
    case tcp::EntryKind::Connection: {
        auto& connection = static_cast<tcp::Connection&>(entry);
        SpinGuard guard(connection.lock);
        if (connection.state() == tcp::State::Listen) {
            record = listener_record(connection);
            return true;
        }
        take_connection(record, connection, now);
        break;
    }
    case tcp::EntryKind::TimeWait: {
        const auto& waiting = static_cast<const tcp::TimeWait&>(entry);
        take_owner(record, waiting);
        record.uid = 0;
        record.state = time_wait_state;
        record.timer = 3;
        record.timer_left_ns = waiting.deadline > now ? waiting.deadline - now : 0;
        break;
    }
    case tcp::EntryKind::Request: {
        const auto& request = static_cast<const tcp::Request&>(entry);
        if (request.listener)
            take_owner(record, request.listener->owner());
        record.state = syn_received_state;
        record.timer = 1;
        record.timer_left_ns = request.deadline > now ? request.deadline - now : 0;
        record.retransmits = request.retries;
        break;
    }
    case tcp::EntryKind::Listener:
        return false;
    }
    record.port = entry.pair.local.port;
    record.peer_port = entry.pair.remote.port;
    record.cookie = cookie_of(record.inode, &entry);
    return true;
}

void take_datagram(SocketRecord& record, const DatagramEndpoint& endpoint) {
    record.inode = endpoint.inode_number;
    record.sent = static_cast<u32>(endpoint.sent_.load());
    record.received = static_cast<u32>(endpoint.queued_bytes);
    record.drops = endpoint.dropped.load();
    record.references = endpoint.ref_count();
    record.receive_buffer = endpoint.receive_buffer;
    record.send_buffer = endpoint.send_buffer_;
    record.cookie = cookie_of(record.inode, &endpoint);
}

} // namespace

Result<void> list_tcp(Stack& stack, Vector<SocketRecord>& out) {
    Held held{stack, {}};
    stack.tcp_ports.for_each(hold_listener, &held);
    tcp::Table::get().for_each(hold_entry, &held);
    if (held.failed)
        return fail(enomem);
    for (const Ref<tcp::Entry>& entry : held.entries) {
        SocketRecord record;
        if (entry_record(*entry, stack.now(), record))
            TRY(out.push_back(record));
    }
    return {};
}

Result<void> list_udp(Stack& stack, Vector<SocketRecord>& out) {
    Collection collection{stack, out};
    stack.udp_ports.for_each(
        [](PortOwner& owner, void* context) {
            SocketRecord record;
            take_owner(record, owner);
            record.local = owner.local;
            record.peer = owner.connected ? owner.peer : IpAddress::any(owner.v6);
            record.peer_port = owner.connected ? owner.peer_port : u16{0};
            record.state = owner.connected ? connected_state : closed_state;
            take_datagram(record, static_cast<const UdpEndpoint&>(owner));
            static_cast<Collection*>(context)->add(record);
        },
        &collection);
    return collection.result();
}

Result<void> list_raw(Stack& stack, Vector<SocketRecord>& out) {
    Collection collection{stack, out};
    stack.raw_sockets().for_each(
        [](RawEndpoint& endpoint, void* context) {
            SocketRecord record;
            record.v6 = endpoint.v6;
            record.local = endpoint.local;
            record.peer = endpoint.peer;
            record.port = endpoint.protocol;
            record.interface = endpoint.interface;
            const auto& socket = static_cast<const RawSocketEndpoint&>(endpoint);
            record.state = socket.connected ? connected_state : closed_state;
            take_datagram(record, socket);
            static_cast<Collection*>(context)->add(record);
        },
        &collection);
    return collection.result();
}

} // namespace kernel::net
