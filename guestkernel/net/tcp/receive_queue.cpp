#include "guestkernel/net/tcp/receive_queue.hpp"

namespace kernel::tcp {

usize OutOfOrderQueue::find(Sequence at) const {
    usize low = 0, high = runs_.size();
    while (low < high) {
        const usize middle = (low + high) / 2;
        if (runs_[middle].range.end < at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void OutOfOrderQueue::remember(Sequence start) {
    u8 kept = 1;
    Sequence fresh[most_sacks] = {start};
    for (u8 i = 0; i < recent_count_ && kept < most_sacks; i++)
        if (!(recent_[i] == start))
            fresh[kept++] = recent_[i];
    for (u8 i = 0; i < kept; i++)
        recent_[i] = fresh[i];
    recent_count_ = kept;
}

void OutOfOrderQueue::drop(usize index) {
    Run& run = runs_[index];
    while (net::PacketPtr packet = run.packets.pop_front())
        memory_ -= packet->true_size();
    runs_.erase(index);
}

OutOfOrderQueue::Outcome OutOfOrderQueue::insert(net::PacketPtr packet, SequenceRange range,
                                                 SequenceRange& duplicate) {
    duplicate = {};
    usize at = find(range.start);
    if (at < runs_.size() && runs_[at].range.start <= range.start) {
        const SequenceRange there = runs_[at].range;
        if (there.end >= range.end) {
            duplicate = range;
            remember(there.start);
            return Outcome::Duplicate;
        }
        if (there.end > range.start) {
            duplicate = {range.start, there.end};
            if (!packet->pull(there.end.since(range.start)))
                return Outcome::Refused;
            range.start = there.end;
        }
    } else if (runs_.size() >= most_runs) {
        return Outcome::Refused;
    }
    const bool joins = at < runs_.size() && runs_[at].range.end == range.start;
    usize after = joins ? at + 1 : at;
    // Runs that lie inside of it are not needed any more; one that begins inside stays.
    while (after < runs_.size() && runs_[after].range.end <= range.end) {
        if (duplicate.empty())
            duplicate = runs_[after].range;
        drop(after);
    }
    if (after < runs_.size() && runs_[after].range.start < range.end) {
        const Sequence start = runs_[after].range.start;
        if (duplicate.empty())
            duplicate = {start, range.end};
        if (!packet->trim(start.since(range.start)))
            return Outcome::Refused;
        range.end = start;
    }
    packet->scratch<Placed>() = {range.start, range.end};
    const u32 size = packet->true_size();
    if (!joins) {
        Run run;
        run.range = range;
        if (!runs_.insert(at, std::move(run)))
            return Outcome::Refused;
        after++;
    }
    memory_ += size;
    Run& run = runs_[at];
    run.packets.push_back(std::move(packet));
    run.range.end = range.end;
    if (after < runs_.size() && runs_[after].range.start == range.end) {
        run.range.end = runs_[after].range.end;
        run.packets.append(std::move(runs_[after].packets));
        runs_.erase(after);
    }
    remember(range.start);
    return Outcome::Kept;
}

void OutOfOrderQueue::take_ready(Sequence& next, net::PacketList& out) {
    while (!runs_.empty() && runs_[0].range.start <= next) {
        while (net::PacketPtr packet = runs_[0].packets.pop_front()) {
            memory_ -= packet->true_size();
            Placed& placed = packet->scratch<Placed>();
            if (placed.end <= next)
                continue;
            if (placed.start < next) {
                if (!packet->pull(next.since(placed.start)))
                    continue;
                placed.start = next;
            }
            next = placed.end;
            out.push_back(std::move(packet));
        }
        runs_.erase(0);
    }
    if (runs_.empty())
        recent_count_ = 0;
}

bool OutOfOrderQueue::drop_last() {
    if (runs_.empty())
        return false;
    drop(runs_.size() - 1);
    return true;
}

void OutOfOrderQueue::clear() {
    runs_.clear();
    memory_ = 0;
    recent_count_ = 0;
}

unsigned OutOfOrderQueue::sack_blocks(SequenceRange (&out)[most_sacks], unsigned room) const {
    unsigned count = 0;
    const auto add = [&](Sequence at) {
        // The run that the byte `at` lies in.
        const usize index = find(at + 1);
        if (index >= runs_.size() || runs_[index].range.start > at)
            return;
        for (unsigned i = 0; i < count; i++)
            if (out[i] == runs_[index].range)
                return;
        out[count++] = runs_[index].range;
    };
    for (u8 i = 0; i < recent_count_ && count < room; i++)
        add(recent_[i]);
    // Runs that nobody heard of lately fill what is left.
    for (usize i = runs_.size(); i-- > 0 && count < room;)
        add(runs_[i].range.start);
    return count;
}

} // namespace kernel::tcp
