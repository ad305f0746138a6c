// Fragments of both versions, until they are whole: bounded in memory and in time. Overlaps end a
// packet (RFC 5722; RFC 8900 for IPv4), exact duplicates are ignored.
#pragma once

#include "guestkernel/core/lock.hpp"
#include "guestkernel/net/clock.hpp"
#include "guestkernel/net/packet.hpp"

namespace kernel::net {

class Stack;

class Reassembly {
public:
    explicit Reassembly(Stack& stack);
    ~Reassembly();

    struct Piece {
        IpAddress source, destination;
        u32 id = 0;
        u8 protocol = 0;
        u32 interface = 0; // of link-local addresses: the same pair on two links are two
        u32 offset = 0;    // in the payload
        bool more = false;
        u32 header_bytes = 0; // of what stands before the payload in the packet, network header on
        u32 traffic_class = 0;
    };
    // Takes the piece, which begins with its network header. Returns the whole packet once it is
    // there: headers of the first fragment, payload after header_bytes. Null: not yet, or refused.
    PacketPtr add(PacketPtr packet, const Piece& piece);
    u64 memory() const { return memory_; }
    // What waits of one version: packets that are not whole yet, and what they cost.
    struct Usage {
        u32 packets = 0;
        u64 bytes = 0;
    };
    Usage usage(bool v6);

private:
    struct Queue;
    static constexpr usize buckets = 64;
    static void expired(NetTimer& timer, void* argument);
    void expire();
    Queue* find(const Piece& piece, u64 place);
    void destroy(Queue* queue, bool timed_out, PacketList& dropped);
    bool insert(Queue& queue, PacketPtr packet, const Piece& piece);
    PacketPtr finish(Queue& queue);
    void make_room(bool v6, PacketList& dropped);
    u64 hash(const Piece& piece) const;

    Stack& stack_;
    SpinLock lock_{LockRank::NetTable};
    Queue* table_[buckets] = {};
    Queue* oldest_ = nullptr; // in the order of their making
    Queue* newest_ = nullptr;
    u64 memory_ = 0;
    NetTimer timer_;
};

} // namespace kernel::net
