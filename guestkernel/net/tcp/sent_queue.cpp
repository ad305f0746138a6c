#include "guestkernel/net/tcp/sent_queue.hpp"

#include <new>

#include "guestkernel/core/panic.hpp"
#include "guestkernel/core/ref.hpp"

namespace kernel::tcp {

SentRange* SentQueue::allocate() {
    for (unsigned i = 0; i < 2; i++) {
        if ((inline_used_ >> i & 1) != 0)
            continue;
        inline_used_ = static_cast<u8>(inline_used_ | 1u << i);
        SentRange& range = inline_[i];
        range.transmissions = 1;
        range.sacked = range.lost = range.retransmitted = false;
        range.fixed = true;
        return &range;
    }
    return new (std::nothrow) SentRange();
}

void SentQueue::release(SentRange& range) {
    if (lost_hint_ == &range)
        lost_hint_ = order_.next(range);
    if (range.time_node.linked())
        range.time_node.unlink();
    range.order_node.unlink();
    count_--;
    if (range.fixed)
        inline_used_ = static_cast<u8>(inline_used_ & ~(1u << (&range - inline_)));
    else
        delete &range;
}

void SentQueue::clear() {
    while (SentRange* range = order_.front())
        release(*range);
    total_ = sacked_ = lost_ = retransmitted_ = 0;
    highest_valid_ = delivered_valid_ = false;
    lost_hint_ = nullptr;
}

Result<void> SentQueue::push(SequenceRange range, u64 now) {
    SentRange* sent = allocate();
    if (sent == nullptr)
        return fail(enomem);
    sent->start = range.start;
    sent->end = range.end;
    sent->sent_at = now;
    order_.push_back(*sent);
    times_.push_back(*sent);
    count_++;
    total_ += range.size();
    return {};
}

Result<SentRange*> SentQueue::split(SentRange& range, Sequence at) {
    SentRange* rest = allocate();
    if (rest == nullptr)
        return fail(enomem);
    rest->start = at;
    rest->end = range.end;
    rest->sent_at = range.sent_at;
    rest->transmissions = range.transmissions;
    rest->sacked = range.sacked;
    rest->lost = range.lost;
    rest->retransmitted = range.retransmitted;
    range.end = at;
    if (SentRange* after = order_.next(range))
        order_.insert_before(*after, *rest);
    else
        order_.push_back(*rest);
    if (range.time_node.linked()) {
        if (SentRange* after = times_.next(range))
            times_.insert_before(*after, *rest);
        else
            times_.push_back(*rest);
    }
    count_++;
    return rest;
}

void SentQueue::uncount(const SentRange& range) {
    const u32 size = range.size();
    if (range.sacked)
        sacked_ -= size;
    if (range.lost)
        lost_ -= size;
    if (range.retransmitted)
        retransmitted_ -= size;
}

void SentQueue::note_delivery(const SentRange& range, bool by_number, Delivery& out) {
    out.bytes += range.size();
    const bool once = range.transmissions == 1;
    if (once) {
        u64& first = by_number ? out.first_sent : out.sack_sent;
        first = range.sent_at < first ? range.sent_at : first;
        out.original_acked = true;
        if (delivered_valid_ && range.end < highest_delivered_)
            out.reordered = true;
    } else {
        out.was_retransmitted = true;
    }
    if (!delivered_valid_ || range.end > highest_delivered_) {
        highest_delivered_ = range.end;
        delivered_valid_ = true;
    }
    if (range.sent_at > out.newest_sent ||
        (range.sent_at == out.newest_sent && range.end > out.newest_end)) {
        out.newest_sent = range.sent_at;
        out.newest_end = range.end;
        out.newest_retransmitted = !once;
    }
}

void SentQueue::acknowledge(Sequence una, Delivery& out) {
    while (SentRange* range = order_.front()) {
        if (range->start >= una)
            break;
        if (range->end <= una) {
            if (!range->sacked)
                note_delivery(*range, true, out);
            out.cumulative += range->size();
            uncount(*range);
            total_ -= range->size();
            release(*range);
            continue;
        }
        // A part of it: the rest keeps its fate.
        const u32 part = una.since(range->start);
        SentRange head;
        head.start = range->start;
        head.end = una;
        head.sent_at = range->sent_at;
        head.transmissions = range->transmissions;
        head.sacked = range->sacked;
        head.lost = range->lost;
        head.retransmitted = range->retransmitted;
        if (!head.sacked)
            note_delivery(head, true, out);
        uncount(head);
        out.cumulative += part;
        total_ -= part;
        range->start = una;
        break;
    }
    if (sacked_ == 0)
        highest_valid_ = false;
}

void SentQueue::set_sacked(SentRange& range, Delivery& out) {
    note_delivery(range, false, out);
    uncount(range);
    range.lost = range.retransmitted = false;
    range.sacked = true;
    sacked_ += range.size();
    if (range.time_node.linked())
        range.time_node.unlink();
    out.sack_news = true;
    if (!highest_valid_ || range.end > highest_sacked_) {
        highest_sacked_ = range.end;
        highest_valid_ = true;
    }
}

// Neighbours that have both arrived become one: nothing about them matters any more but where they
// are. `before` is the range before it, or null. Returns the range that is left.
SentRange& SentQueue::merge_sacked(SentRange* before, SentRange& range) {
    if (SentRange* after = order_.next(range); after != nullptr && after->sacked) {
        range.end = after->end;
        release(*after);
    }
    if (before == nullptr || !before->sacked)
        return range;
    before->end = range.end;
    release(range);
    return *before;
}

Result<void> SentQueue::sack(SequenceRange block, u32 mss, Delivery& out) {
    SentRange* before = nullptr;
    SentRange* range = order_.front();
    while (range != nullptr && range->start < block.end) {
        if (!range->sacked && range->end > block.start) {
            if (range->start < block.start) {
                // From the first whole segment inside of the block.
                const u32 ahead = block.start.since(range->start);
                const u32 whole = (ahead + mss - 1) / mss * mss;
                if (whole < range->size() &&
                    (range->start + whole + mss <= block.end || range->end <= block.end))
                    TRY(split(*range, range->start + whole));
            } else if (range->end > block.end) {
                const u32 whole = block.end.since(range->start) / mss * mss;
                if (whole == 0)
                    break;
                TRY(split(*range, range->start + whole));
                continue; // now it lies inside
            } else {
                set_sacked(*range, out);
                range = &merge_sacked(before, *range);
            }
        }
        before = range;
        range = order_.next(*range);
    }
    return {};
}

void SentQueue::mark_lost(SentRange& range) {
    if (range.sacked || (range.lost && !range.retransmitted))
        return;
    if (range.retransmitted) {
        range.retransmitted = false;
        retransmitted_ -= range.size();
    }
    if (!range.lost) {
        range.lost = true;
        lost_ += range.size();
    }
    if (lost_hint_ == nullptr || range.start < lost_hint_->start)
        lost_hint_ = &range;
}

void SentQueue::mark_all_lost(bool forget_sacks) {
    for (SentRange& range : order_) {
        if (range.sacked && forget_sacks) {
            range.sacked = false;
            sacked_ -= range.size();
            times_.push_back(range);
        }
        mark_lost(range);
    }
    lost_hint_ = order_.front();
    if (forget_sacks)
        highest_valid_ = false;
}

Result<void> SentQueue::mark_head_lost(u32 bytes) {
    SentRange* head = order_.front();
    if (head == nullptr || head->sacked || (head->lost && head->retransmitted))
        return {};
    if (head->size() > bytes)
        TRY(split(*head, head->start + bytes));
    mark_lost(*head);
    return {};
}

void SentQueue::forget_losses() {
    for (SentRange& range : order_) {
        range.lost = false;
        range.retransmitted = false;
    }
    lost_ = retransmitted_ = 0;
    lost_hint_ = nullptr;
}

SentRange* SentQueue::next_lost() {
    if (lost_ == retransmitted_)
        return nullptr;
    SentRange* range = lost_hint_ != nullptr ? lost_hint_ : order_.front();
    while (range != nullptr && !(range->lost && !range->retransmitted))
        range = order_.next(*range);
    lost_hint_ = range;
    return range;
}

bool SentQueue::cut_last(Sequence at, bool keep_rest) {
    SentRange& range = *order_.back();
    if (keep_rest)
        return split(range, at).has_value();
    const u32 size = range.end.since(at);
    total_ -= size;
    if (range.lost)
        lost_ -= size;
    if (range.retransmitted)
        retransmitted_ -= size;
    range.end = at;
    return true;
}

Result<void> SentQueue::retransmit(SentRange& range, u32 bytes, u64 now) {
    if (bytes < range.size())
        TRY(split(range, range.start + bytes));
    if (range.transmissions < 0xffff)
        range.transmissions++;
    range.sent_at = now;
    if (range.lost && !range.retransmitted) {
        range.retransmitted = true;
        retransmitted_ += range.size();
    }
    if (range.time_node.linked())
        range.time_node.unlink();
    times_.push_back(range);
    return {};
}

} // namespace kernel::tcp
