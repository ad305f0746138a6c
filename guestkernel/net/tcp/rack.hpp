// Which ranges are lost, by the time at which others arrived that were sent later: RACK (RFC 8985,
// section 6). Where the peer has no SACK, NewReno's rules take its place (loss_recovery.cpp).
#pragma once

#include "guestkernel/net/tcp/round_trip.hpp"
#include "guestkernel/net/tcp/sent_queue.hpp"

namespace kernel::tcp {

class Rack {
public:
    // What an acknowledgement delivered. `echo_age`: how long ago the segment that the peer echoes
    // was sent (no_deadline: no timestamps).
    void delivered(const Delivery& delivery, u64 now, u64 echo_age, const RoundTrip& rtt);
    // The peer reports something twice: reordering was taken for loss. Widens the window once per
    // round trip; `una` and `next` delimit the round.
    void duplicate_reported(Sequence una, Sequence next);
    void recovery_ended();
    // Marks what is lost. Returns how long until the next range may be declared so; 0: none is in
    // doubt. `impatient`: in recovery already, or three segments' worth is sacked: with no
    // reordering seen so far there is no waiting.
    u64 detect(SentQueue& queue, u64 now, const RoundTrip& rtt, bool impatient);
    bool reordering_seen() const { return reordering_seen_; }
    void timed_out() { valid_ = false; }

private:
    u64 reordering_window(const RoundTrip& rtt, bool impatient) const;

    bool valid_ = false;
    bool reordering_seen_ = false;
    u64 sent_ = 0, rtt_ = 0; // of the newest delivered range
    Sequence end_;
    u32 multiplier_ = 1;
    u32 persist_ = 0; // recoveries for which the multiplier stays
    bool round_valid_ = false;
    Sequence round_end_;
};

} // namespace kernel::tcp
