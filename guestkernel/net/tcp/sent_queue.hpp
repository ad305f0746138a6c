// What has been sent and not been acknowledged, as ranges of sequence space with the fate of each:
// the scoreboard of RFC 2018 and RFC 6675 and the times that RACK (RFC 8985) goes by. The bytes
// themselves are the send buffer's.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/time.hpp"
#include "guestkernel/net/tcp/sequence.hpp"

namespace kernel::tcp {

struct SentRange {
    base::ListNode order_node; // by sequence
    base::ListNode time_node;  // by the time of the last transmission; not while sacked
    Sequence start, end;
    u64 sent_at = 0; // the last time
    u16 transmissions = 1;
    bool sacked = false;
    bool lost = false;          // by the rules of loss detection; not in flight
    bool retransmitted = false; // again in flight, after it was lost
    bool fixed = false;         // lives in the queue itself, not on the heap
    u32 size() const { return end.since(start); }
};

// What one acknowledgement told.
struct Delivery {
    u32 bytes = 0;                  // newly known to have arrived, by either kind
    u32 cumulative = 0;             // by the acknowledgement number
    bool sack_news = false;         // a block told of something new
    bool was_retransmitted = false; // some of it had been sent more than once
    bool original_acked = false;    // some of it had been sent once only
    u64 first_sent = no_deadline;   // of what was sent once only: the oldest, by the number
    u64 sack_sent = no_deadline;    // the same, by a block
    // The delivered range that was sent last (RFC 8985, 6.2 step 2) among those that count.
    u64 newest_sent = 0;
    Sequence newest_end;
    bool newest_retransmitted = false;
    bool reordered = false; // one that was never retransmitted, below what had arrived before
};

class SentQueue {
public:
    SentQueue() = default;
    SentQueue(const SentQueue&) = delete;
    SentQueue& operator=(const SentQueue&) = delete;
    ~SentQueue() { clear(); }
    void clear();

    // A range that was just sent, the next in order. ENOMEM leaves the queue as it was.
    Result<void> push(SequenceRange range, u64 now);
    // Everything before `una` has arrived.
    void acknowledge(Sequence una, Delivery& out);
    // One SACK block, inside of what was sent. Pieces count from whole segments of `mss` on, so
    // that a hostile peer cannot cut the ranges into crumbs.
    Result<void> sack(SequenceRange block, u32 mss, Delivery& out);
    // All that is not sacked counts as lost: a retransmission timeout. With `forget_sacks` the
    // peer has broken its word (RFC 2018, 8).
    void mark_all_lost(bool forget_sacks);
    void mark_lost(SentRange& range);
    // The first `bytes` count as lost: NewReno's guess, where there is no SACK.
    Result<void> mark_head_lost(u32 bytes);
    // No loss at all, as it turned out.
    void forget_losses();
    // The first range that is lost and was not sent again since. Null: none.
    SentRange* next_lost();
    // It is sent again. Only its first `bytes`: the rest stays lost.
    Result<void> retransmit(SentRange& range, u32 bytes, u64 now);
    // The last range ends at `at`; with `keep_rest` what is behind becomes a range of its own, else
    // it was never sent.
    [[nodiscard]] bool cut_last(Sequence at, bool keep_rest = false);

    bool empty() const { return count_ == 0; }
    u32 count() const { return count_; }
    SentRange* first() { return order_.front(); }
    SentRange* last() { return order_.back(); }
    SentRange* next(SentRange& range) { return order_.next(range); }
    SentRange* oldest() { return times_.front(); }
    SentRange* next_by_time(SentRange& range) { return times_.next(range); }

    u32 sacked() const { return sacked_; } // bytes
    u32 lost() const { return lost_; }
    u32 retransmitted() const { return retransmitted_; }
    u32 total() const { return total_; }
    u32 in_flight() const { return total_ - sacked_ - lost_ + retransmitted_; }
    Sequence highest_sacked() const { return highest_sacked_; }
    bool any_sacked() const { return sacked_ != 0; }

private:
    SentRange* allocate();
    void release(SentRange& range);
    // Cuts it at `at`: the range keeps what is before.
    Result<SentRange*> split(SentRange& range, Sequence at);
    void note_delivery(const SentRange& range, bool by_number, Delivery& out);
    void set_sacked(SentRange& range, Delivery& out);
    SentRange& merge_sacked(SentRange* before, SentRange& range);
    void uncount(const SentRange& range);

    base::IntrusiveList<SentRange, &SentRange::order_node> order_;
    base::IntrusiveList<SentRange, &SentRange::time_node> times_;
    SentRange inline_[2];
    u8 inline_used_ = 0; // bits
    u32 count_ = 0, total_ = 0, sacked_ = 0, lost_ = 0, retransmitted_ = 0;
    Sequence highest_sacked_; // valid while any_sacked(), and after for reordering
    bool highest_valid_ = false;
    Sequence highest_delivered_;
    bool delivered_valid_ = false;
    SentRange* lost_hint_ = nullptr; // nothing before it is waiting to be sent again
};

} // namespace kernel::tcp
