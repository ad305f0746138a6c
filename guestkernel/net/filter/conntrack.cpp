// The table of connections, and how a packet finds its own.
#include "guestkernel/net/filter/conntrack.hpp"

#include "guestkernel/core/log.hpp"
#include "guestkernel/core/random.hpp"
#include "guestkernel/net/ip.hpp"

namespace kernel::net::filter {

namespace {

constexpr u64 collect_interval = nanoseconds_per_second;
constexpr usize collected_each = Connections::buckets / 8;

Connection& of(Packet& packet) {
    // SAFETY: nothing but a Connection is ever put there.
    return static_cast<Connection&>(*packet.connection);
}

void attach(Packet& packet, Ref<Connection> connection, Tracking state, bool reply) {
    packet.connection = std::move(connection);
    packet.tracking = static_cast<u8>(static_cast<u8>(state) | (reply ? tracking_reply : 0));
}

// Whether sums are right, as far as it can be seen here.
bool sum_is_right(Packet& packet, const PacketTuple& from) {
    if (packet.checksum_known_good() || packet.local)
        return true;
    const Tuple& tuple = from.tuple;
    const u32 bytes = packet.length() - from.transport;
    ChecksumSum sum;
    switch (tuple.protocol) {
    case proto_udp: {
        UdpHeader header;
        if (!packet.read(from.transport, header))
            return false;
        if (header.checksum[0] == 0 && header.checksum[1] == 0)
            return true;
        [[fallthrough]];
    }
    case proto_tcp:
    case proto_icmpv6:
        sum = pseudo_header(tuple.source, tuple.destination, tuple.protocol, bytes);
        break;
    case proto_icmp:
        break;
    default:
        return true;
    }
    packet.add_to(sum, from.transport, bytes);
    if (sum.finish() != 0)
        return false;
    packet.checksum_state = ChecksumState::Verified;
    return true;
}

// Neighbour discovery and group membership are nobody's connection.
bool is_link_business(const Tuple& tuple) {
    const u8 type = static_cast<u8>(tuple.destination_port >> 8);
    return tuple.protocol == proto_icmpv6 && ((type >= 130 && type <= 137) || type == 143);
}

bool is_error(const Tuple& tuple) {
    const u8 type = static_cast<u8>(tuple.destination_port >> 8);
    if (tuple.protocol == proto_icmpv6)
        return type < 128;
    return tuple.protocol == proto_icmp &&
           (type == 3 || type == 4 || type == 5 || type == 11 || type == 12);
}

} // namespace

constinit base::Atomic<u32> most_connections{65536};

Connection::Connection() {
    for (u8 i = 0; i < 2; i++) {
        ends[i].connection = this;
        ends[i].direction = i;
    }
}

Connections::Connections(Stack& stack) : stack_(stack), timer_(stack.clock, expired, this) {}

Connections::~Connections() {
    timer_.cancel();
    for (usize i = 0; i < bucket_count_; i++)
        while (table_[i] != nullptr) {
            Connection& connection = *table_[i]->connection; // there twice, and one reference
            unlink(connection);
            connection.release();
        }
    ::operator delete(static_cast<void*>(table_));
}

Result<void> Connections::init() {
    if (table_ != nullptr)
        return {};
    void* memory = ::operator new(buckets * sizeof(End*), std::nothrow);
    if (memory == nullptr)
        return fail(enomem);
    __builtin_memset(memory, 0, buckets * sizeof(End*));
    table_ = static_cast<End**>(memory);
    bucket_count_ = buckets;
    return {};
}

u64 Connections::hash(const Tuple& tuple) const {
    const u64 ports =
        u64{tuple.source_port} << 32 | u64{tuple.destination_port} << 8 | tuple.protocol;
    return hash_mix(tuple.destination.hash(tuple.source.hash(stack_.secret())) ^ ports);
}

Connections::End* Connections::find_end(const Tuple& tuple, u64 place) {
    for (End* end = table_[place & (bucket_count_ - 1)]; end != nullptr; end = end->next)
        if (end->tuple == tuple)
            return end;
    return nullptr;
}

Ref<Connection> Connections::find(const Tuple& tuple, u8* direction) {
    if (table_ == nullptr)
        return {};
    const u64 place = hash(tuple);
    Ref<Connection> stale;
    SpinGuard guard(lock_);
    End* end = find_end(tuple, place);
    if (end == nullptr)
        return {};
    Connection& connection = *end->connection;
    if (connection.expires.load(base::Order::Relaxed) <= stack_.now()) {
        unlink(connection);
        stale = Ref<Connection>::adopt(&connection); // the table's
        return {};
    }
    if (direction != nullptr)
        *direction = end->direction;
    return Ref<Connection>::share(&connection);
}

bool Connections::taken(const Tuple& reply, const Connection& but) {
    const u64 place = hash(reply);
    const u64 now = stack_.now();
    SpinGuard guard(lock_);
    End* end = find_end(reply, place);
    return end != nullptr && end->connection != &but &&
           end->connection->expires.load(base::Order::Relaxed) > now;
}

// Requires: it is in the table. The table's reference is then the caller's.
void Connections::unlink(Connection& connection) {
    for (End& end : connection.ends) {
        End** at = &table_[hash(end.tuple) & (bucket_count_ - 1)];
        while (*at != nullptr && *at != &end)
            at = &(*at)->next;
        if (*at == &end)
            *at = end.next;
    }
    connection.status.fetch_or(status_dying);
    count_.fetch_sub(1);
}

void Connections::remove(Connection& connection) {
    {
        SpinGuard guard(lock_);
        if (!connection.has(status_confirmed) || connection.has(status_dying))
            return;
        unlink(connection);
    }
    connection.release();
}

// One that was never answered, near to where the new one goes.
bool Connections::make_room(u64 place, Ref<Connection>& gone) {
    constexpr usize most_looks = 8;
    const u64 now = stack_.now();
    SpinGuard guard(lock_);
    for (usize i = 0; i < most_looks; i++)
        for (End* end = table_[(place + i) & (bucket_count_ - 1)]; end != nullptr;
             end = end->next) {
            Connection& victim = *end->connection;
            if (victim.has(status_assured) && victim.expires.load() > now)
                continue;
            unlink(victim);
            gone = Ref<Connection>::adopt(&victim);
            early_dropped.fetch_add(1);
            return true;
        }
    return false;
}

usize Connections::list(u64& after, Ref<Connection>* out, usize capacity) {
    usize got = 0;
    SpinGuard guard(lock_);
    usize bucket = static_cast<usize>(after >> 32);
    u32 skip = static_cast<u32>(after);
    for (; bucket < bucket_count_; bucket++, skip = 0) {
        u32 index = 0;
        for (End* end = table_[bucket]; end != nullptr; end = end->next) {
            if (end->direction != 0 || index++ < skip)
                continue;
            if (got == capacity) {
                after = u64{bucket} << 32 | (index - 1);
                return got;
            }
            out[got++] = Ref<Connection>::share(end->connection);
        }
    }
    after = u64{bucket} << 32;
    return got;
}

void Connections::renew(Connection& connection, u32 seconds) {
    connection.expires.store(stack_.now() + u64{seconds} * nanoseconds_per_second,
                             base::Order::Relaxed);
}

// --- packets

HookVerdict Connections::track(const HookContext& context, PacketPtr& packet) {
    // One that came back by the loopback has its connection with it.
    if (packet->tracking != 0)
        return HookVerdict::Accept;
    Ipv4Header header;
    if (!context.v6 && packet->read(0, header) && header.is_fragment()) {
        packet = ipv4_reassemble(stack_, std::move(packet), header);
        if (!packet)
            return HookVerdict::Stolen;
    }
    PacketTuple from;
    if (!read_tuple(*packet, 0, from)) {
        invalid.fetch_add(1);
        return HookVerdict::Accept;
    }
    if (is_link_business(from.tuple) || (from.fragment && context.v6)) {
        packet->tracking = static_cast<u8>(Tracking::Untracked);
        return HookVerdict::Accept;
    }
    if (context.point == HookPoint::PreRouting && settings.checksum &&
        !sum_is_right(*packet, from)) {
        invalid.fetch_add(1);
        return HookVerdict::Accept;
    }
    if (is_error(from.tuple))
        return track_error(context, packet, from);
    u8 direction = 0;
    Ref<Connection> connection = find(from.tuple, &direction);
    const bool fresh = !connection;
    if (fresh) {
        if (const u32 most = most_connections.load(); most != 0 && count() >= most) {
            Ref<Connection> gone;
            if (!make_room(hash(from.tuple), gone)) {
                dropped.fetch_add(1);
                complain();
                return HookVerdict::Drop;
            }
        }
        connection = start(*packet, from);
    }
    if (connection && !follow(*connection, *packet, from, direction)) {
        // Over, and begun anew by this packet.
        if (connection->has(status_dying) && !fresh && direction == 0) {
            connection = start(*packet, from);
            if (connection && !follow(*connection, *packet, from, 0))
                connection = nullptr;
        } else {
            connection = nullptr;
        }
    }
    if (!connection) {
        invalid.fetch_add(1);
        return HookVerdict::Accept;
    }
    if (connection->counted) {
        connection->packets[direction].fetch_add(1);
        connection->bytes[direction].fetch_add(packet->length());
    }
    if (direction != 0)
        connection->status.fetch_or(status_seen_reply);
    const bool known = direction != 0 || connection->has(status_seen_reply);
    attach(*packet, std::move(connection), known ? Tracking::Established : Tracking::New,
           direction != 0);
    return HookVerdict::Accept;
}

// A line in the log, not one per packet.
void Connections::complain() {
    constexpr u64 quiet = 5 * nanoseconds_per_second;
    const u64 now = stack_.now();
    u64 until = quiet_until_.load();
    if (now >= until && quiet_until_.compare_exchange(until, now + quiet))
        log::warning("nf_conntrack: table full, dropping packet");
}

Ref<Connection> Connections::start(Packet& packet, const PacketTuple& from) {
    Tuple reply;
    if (!invert(from.tuple, reply))
        return {};
    // Of ICMP only requests begin anything.
    const u8 type = static_cast<u8>(from.tuple.destination_port >> 8);
    if ((from.tuple.protocol == proto_icmp && type != 8 && type != 13 && type != 15 &&
         type != 17) ||
        (from.tuple.protocol == proto_icmpv6 && type != 128 && type != 139))
        return {};
    (void)packet;
    auto made = make_ref<Connection>();
    if (!made)
        return {};
    Connection& connection = **made;
    connection.ends[0].tuple = from.tuple;
    connection.ends[1].tuple = reply;
    connection.started = stack_.now();
    connection.counted = settings.accounting;
    connection.id = static_cast<u32>(random_u64());
    return std::move(*made);
}

HookVerdict Connections::track_error(const HookContext& context, PacketPtr& packet,
                                     const PacketTuple& outer) {
    (void)context;
    PacketTuple inner;
    Tuple answer;
    if (!read_tuple(*packet, outer.transport + static_cast<u32>(sizeof(IcmpHeader)), inner) ||
        inner.tuple.v6() != outer.tuple.v6() || !invert(inner.tuple, answer)) {
        invalid.fetch_add(1);
        return HookVerdict::Accept;
    }
    u8 direction = 0;
    Ref<Connection> connection = find(answer, &direction);
    // The error goes where the answers go.
    if (!connection ||
        !(connection->ends[direction].tuple.destination == outer.tuple.destination)) {
        invalid.fetch_add(1);
        return HookVerdict::Accept;
    }
    attach(*packet, std::move(connection), Tracking::Related, direction != 0);
    return HookVerdict::Accept;
}

HookVerdict Connections::confirm(Packet& packet) {
    if (!packet.connection || tracking_of(packet) != Tracking::New)
        return HookVerdict::Accept;
    Connection& connection = of(packet);
    if (connection.has(status_confirmed))
        return HookVerdict::Accept;
    const u64 places[2] = {hash(connection.ends[0].tuple), hash(connection.ends[1].tuple)};
    Ref<Connection> other;
    const u64 now = stack_.now();
    SpinGuard guard(lock_);
    for (u8 i = 0; i < 2; i++) {
        End* there = find_end(connection.ends[i].tuple, places[i]);
        if (there == nullptr)
            continue;
        Connection& rival = *there->connection;
        if (rival.expires.load() <= now) {
            unlink(rival);
            guard.unlock();
            rival.release();
            return confirm(packet);
        }
        // The same conversation, begun on two CPUs at once.
        if (rival.ends[0].tuple == connection.ends[0].tuple &&
            rival.ends[1].tuple == connection.ends[1].tuple) {
            other = Ref<Connection>::share(&rival);
            guard.unlock();
            packet.connection = std::move(other);
            return HookVerdict::Accept;
        }
        insert_failed.fetch_add(1);
        return HookVerdict::Drop;
    }
    connection.status.fetch_or(status_confirmed);
    connection.add_ref(); // the table's
    for (u8 i = 0; i < 2; i++) {
        End*& bucket = table_[places[i] & (bucket_count_ - 1)];
        connection.ends[i].next = bucket;
        bucket = &connection.ends[i];
    }
    inserted.fetch_add(1);
    if (count_.fetch_add(1) == 0)
        timer_.arm(now + collect_interval);
    return HookVerdict::Accept;
}

// --- what is over

void Connections::expired(NetTimer& timer, void* argument) {
    (void)timer;
    static_cast<Connections*>(argument)->collect();
}

void Connections::collect() {
    const u64 now = stack_.now();
    for (usize i = 0; i < collected_each; i++) {
        const usize bucket = next_bucket_;
        next_bucket_ = (next_bucket_ + 1) & (bucket_count_ - 1);
        for (;;) {
            Connection* over = nullptr;
            SpinGuard guard(lock_);
            for (End* end = table_[bucket]; end != nullptr && over == nullptr; end = end->next)
                if (end->connection->expires.load(base::Order::Relaxed) <= now)
                    over = end->connection;
            if (over == nullptr)
                break;
            unlink(*over);
            guard.unlock();
            over->release();
        }
    }
    SpinGuard guard(lock_);
    if (count() > 0)
        timer_.arm(now + collect_interval);
}

} // namespace kernel::net::filter
