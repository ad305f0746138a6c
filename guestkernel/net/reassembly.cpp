#include "guestkernel/net/reassembly.hpp"

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

struct Reassembly::Queue {
    Queue* next = nullptr; // in the bucket
    Queue* older = nullptr;
    Queue* newer = nullptr;
    Piece key;
    u64 place = 0;
    u64 deadline = 0;
    PacketList pieces;     // by offset; each begins with its network header
    Vector<Packet*> order; // the same, for bisection
    u32 memory = 0;
    u32 total = 0; // payload bytes, once the last fragment came
    u32 have = 0;
    u32 ecn_seen = 0; // bit n: a fragment with ECN field n
    bool last_seen = false;
};

namespace {

// What of a piece is kept in its packet while it waits.
struct Place {
    u32 offset, bytes, header_bytes;
};

constexpr u32 most_payload = 65535;

// Where a piece from `offset` on belongs. Mostly that is behind the last one; a sender who chooses
// another order must not make us walk past all that came each time.
usize position(const Vector<Packet*>& order, u32 offset) {
    usize low = 0, high = order.size();
    if (high == 0 || order[high - 1]->scratch<Place>().offset < offset)
        return high;
    while (low < high) {
        const usize middle = low + (high - low) / 2;
        if (order[middle]->scratch<Place>().offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// RFC 3168, 5.3: how the ECN fields of fragments combine. Negative: the packet must be dropped.
int combined_ecn(u32 seen) {
    const bool not_capable = (seen & 1) != 0;
    const bool marked = (seen & 8) != 0;
    if (marked && not_capable)
        return -1;
    return marked ? 3 : 0;
}

} // namespace

Reassembly::Reassembly(Stack& stack) : stack_(stack), timer_(stack.clock, expired, this) {}

Reassembly::~Reassembly() {
    timer_.cancel();
    PacketList dropped;
    while (oldest_ != nullptr)
        destroy(oldest_, false, dropped);
}

u64 Reassembly::hash(const Piece& piece) const {
    return piece.source.hash(stack_.secret() ^ piece.id) ^ piece.destination.hash(piece.protocol);
}

Reassembly::Queue* Reassembly::find(const Piece& piece, u64 place) {
    for (Queue* queue = table_[place % buckets]; queue != nullptr; queue = queue->next)
        if (queue->key.id == piece.id && queue->key.protocol == piece.protocol &&
            queue->key.source == piece.source && queue->key.destination == piece.destination &&
            queue->key.interface == piece.interface)
            return queue;
    return nullptr;
}

// Locks: lock_. Of a packet that timed out, the first fragment is left in `dropped` to be answered.
void Reassembly::destroy(Queue* queue, bool timed_out, PacketList& dropped) {
    for (Queue** at = &table_[queue->place % buckets]; *at != nullptr; at = &(*at)->next)
        if (*at == queue) {
            *at = queue->next;
            break;
        }
    (queue->older != nullptr ? queue->older->newer : oldest_) = queue->newer;
    (queue->newer != nullptr ? queue->newer->older : newest_) = queue->older;
    memory_ -= queue->memory;
    const bool v6 = queue->key.source.is_v6();
    if (timed_out) {
        stack_.counters.count(v6 ? Counter::Ip6ReassemblyTimeouts : Counter::IpReassemblyTimeouts);
        stack_.counters.count(v6 ? Counter::Ip6ReassemblyFailed : Counter::IpReassemblyFailed);
        Packet* first = queue->pieces.front();
        if (first != nullptr && first->scratch<Place>().offset == 0)
            dropped.push_back(queue->pieces.pop_front());
    }
    delete queue;
}

void Reassembly::make_room(bool v6, PacketList& dropped) {
    const u64 limit = v6 ? stack_.settings.fragment_high6 : stack_.settings.fragment_high4;
    while (memory_ > limit && oldest_ != nullptr) {
        stack_.counters.count(v6 ? Counter::Ip6ReassemblyFailed : Counter::IpReassemblyFailed);
        destroy(oldest_, false, dropped);
    }
}

// Locks: lock_. False: the whole packet is to be given up.
bool Reassembly::insert(Queue& queue, PacketPtr packet, const Piece& piece) {
    const u32 bytes = packet->length() - piece.header_bytes;
    const u32 end = piece.offset + bytes;
    if (end > most_payload)
        return false;
    if (piece.more) {
        if ((bytes & 7) != 0 || bytes == 0 || (queue.last_seen && end > queue.total))
            return false;
    } else {
        if (queue.last_seen && end != queue.total)
            return false;
        Packet* back = queue.pieces.back();
        if (back != nullptr && back->scratch<Place>().offset + back->scratch<Place>().bytes > end)
            return false;
        queue.last_seen = true;
        queue.total = end;
    }
    const usize at = position(queue.order, piece.offset);
    Packet* const before = at > 0 ? queue.order[at - 1] : nullptr;
    Packet* const after = at < queue.order.size() ? queue.order[at] : nullptr;
    if (after != nullptr && after->scratch<Place>().offset == piece.offset &&
        after->scratch<Place>().bytes == bytes)
        return true; // a duplicate
    if ((before != nullptr &&
         before->scratch<Place>().offset + before->scratch<Place>().bytes > piece.offset) ||
        (after != nullptr && end > after->scratch<Place>().offset))
        return false;
    if (!queue.order.insert(at, packet.get()))
        return false;
    packet->scratch<Place>() = {piece.offset, bytes, piece.header_bytes};
    packet->ingress = nullptr;
    queue.have += bytes;
    const u32 cost = packet->true_size() + u32{sizeof(Packet*)};
    queue.memory += cost;
    memory_ += cost;
    queue.pieces.insert_after(before, std::move(packet));
    return true;
}

// Locks: lock_.
PacketPtr Reassembly::finish(Queue& queue) {
    PacketPtr whole = queue.pieces.pop_front();
    const u32 headers = whole->scratch<Place>().header_bytes;
    // The length of IPv4 has the header in it, that of IPv6 has not.
    const u32 beside = queue.key.source.is_v6() ? u32{sizeof(Ipv6Header)} : 0;
    if (headers + queue.total > most_payload + beside)
        return {};
    // Payloads are copied together: fragments are rare, and a packet has few places for them.
    PacketPtr out = Packet::allocate(headers + 64, 64);
    if (!out || whole->linear(headers) == nullptr)
        return {};
    u8* to = out->put(headers);
    if (to == nullptr || !whole->copy_out(0, to, headers))
        return {};
    out->mark_network();
    out->timestamp = whole->timestamp;
    out->mark = whole->mark;
    out->link_protocol = whole->link_protocol;
    out->kind = whole->kind;
    out->local = whole->local;
    for (PacketPtr piece = std::move(whole); piece; piece = queue.pieces.pop_front()) {
        const Place place = piece->scratch<Place>();
        bool copied = true;
        (void)piece->for_pieces(place.header_bytes, place.bytes, [&](const u8* data, u32 count) {
            copied = copied && out->append(data, count).has_value();
        });
        if (!copied)
            return {};
    }
    const int ecn = combined_ecn(queue.ecn_seen);
    if (ecn < 0)
        return {};
    return out;
}

PacketPtr Reassembly::add(PacketPtr packet, const Piece& piece) {
    const bool v6 = piece.source.is_v6();
    stack_.counters.count(v6 ? Counter::Ip6ReassemblyRequired : Counter::IpReassemblyRequired);
    PacketList dropped; // freed without the lock
    PacketPtr whole;
    Interface* const ingress = packet->ingress;
    const u32 ingress_index = packet->ingress_index;
    {
        SpinGuard guard(lock_);
        const u64 place = hash(piece);
        Queue* queue = find(piece, place);
        if (queue == nullptr) {
            queue = new (std::nothrow) Queue;
            if (queue == nullptr)
                return {};
            queue->key = piece;
            queue->place = place;
            const u32 patience =
                v6 ? stack_.settings.fragment_time6_ms : stack_.settings.fragment_time4_ms;
            queue->deadline = stack_.now() + u64{patience} * 1'000'000;
            queue->memory = sizeof(Queue);
            memory_ += sizeof(Queue);
            queue->next = std::exchange(table_[place % buckets], queue);
            queue->older = newest_;
            (newest_ != nullptr ? newest_->newer : oldest_) = queue;
            newest_ = queue;
            if (!timer_.pending())
                timer_.arm(queue->deadline);
        }
        queue->ecn_seen |= 1u << (piece.traffic_class & 3);
        if (!insert(*queue, std::move(packet), piece)) {
            stack_.counters.count(v6 ? Counter::Ip6ReassemblyFailed : Counter::IpReassemblyFailed);
            destroy(queue, false, dropped);
            return {};
        }
        if (queue->last_seen && queue->have == queue->total) {
            whole = finish(*queue);
            stack_.counters.count(
                whole ? (v6 ? Counter::Ip6Reassembled : Counter::IpReassembled)
                      : (v6 ? Counter::Ip6ReassemblyFailed : Counter::IpReassemblyFailed));
            destroy(queue, false, dropped);
        }
        make_room(v6, dropped);
    }
    if (whole) {
        whole->ingress = ingress;
        whole->ingress_index = ingress_index;
    }
    return whole;
}

void Reassembly::expired(NetTimer&, void* argument) {
    static_cast<Reassembly*>(argument)->expire();
}

void Reassembly::expire() {
    PacketList dropped;
    {
        SpinGuard guard(lock_);
        const u64 now = stack_.now();
        // Of both versions, whose patience differs: not quite in the order of deadlines.
        u64 next = no_deadline;
        for (Queue* queue = oldest_; queue != nullptr;) {
            Queue* newer = queue->newer;
            if (queue->deadline <= now)
                destroy(queue, true, dropped);
            else if (queue->deadline < next)
                next = queue->deadline;
            queue = newer;
        }
        if (next != no_deadline)
            timer_.arm(next);
    }
    while (PacketPtr first = dropped.pop_front()) {
        const Ref<Interface> interface = stack_.interface(first->ingress_index);
        if (!interface)
            continue;
        first->ingress = interface.get();
        first->mark_network();
        send_icmp_error(stack_, *first, IcmpProblem::ReassemblyTime);
    }
}

Reassembly::Usage Reassembly::usage(bool v6) {
    Usage out;
    SpinGuard guard(lock_);
    for (const Queue* queue = oldest_; queue != nullptr; queue = queue->newer) {
        if (queue->key.source.is_v6() != v6)
            continue;
        out.packets++;
        out.bytes += queue->memory;
    }
    return out;
}

} // namespace kernel::net
