// Data that came before its turn: runs of packets without gaps, sorted by sequence number and found
// by bisection; what the peer hears of them is SACK blocks. Bounded in runs here, in bytes by the
// connection's window and memory.
#pragma once

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/packet.hpp"
#include "guestkernel/net/tcp/header.hpp"

namespace kernel::tcp {

// What Packet::scratch() holds while TCP has the packet: where its payload belongs.
struct Placed {
    Sequence start, end;
};

class OutOfOrderQueue {
public:
    // Every run is a hole that the peer made; more than these are not worth remembering.
    static constexpr usize most_runs = 512;

    enum class Outcome : u8 { Kept, Duplicate, Refused };
    // Takes the packet, whose payload alone is left, cut to what is new. `duplicate` receives what
    // was here already, if the peer is to be told (RFC 2883).
    Outcome insert(net::PacketPtr packet, SequenceRange range, SequenceRange& duplicate);
    // Packets that now continue at `next`, which moves on; what overlaps is cut off.
    void take_ready(Sequence& next, net::PacketList& out);
    // Drops the run that is farthest away; false: none is left.
    bool drop_last();
    void clear();

    bool empty() const { return runs_.empty(); }
    usize run_count() const { return runs_.size(); }
    u32 memory() const { return memory_; } // true sizes
    // The latest first (RFC 2018, 4); returns how many.
    unsigned sack_blocks(SequenceRange (&out)[most_sacks], unsigned room) const;

private:
    struct Run {
        SequenceRange range;
        net::PacketList packets;
    };
    usize find(Sequence at) const; // the first run that ends at or after it
    void remember(Sequence start);
    void drop(usize index);

    Vector<Run> runs_;
    u32 memory_ = 0;
    Sequence recent_[most_sacks]; // beginnings of what came last
    u8 recent_count_ = 0;
};

} // namespace kernel::tcp
