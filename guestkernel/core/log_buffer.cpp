#include "guestkernel/core/log_buffer.hpp"

#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/time.hpp"

namespace kernel::log {

namespace {

constinit SpinLock lock{LockRank::Log};
constinit Record records[record_capacity] = {};
constinit volatile u64 next_sequence = 0;
constinit volatile u64 cleared = 0;
constinit WaitQueue waiters{LockRank::Nested};

u64 oldest() {
    return next_sequence > record_capacity ? next_sequence - record_capacity : 0;
}

} // namespace

void append_record(u32 priority, std::string_view text) {
    text = text.substr(0, Record::longest);
    const u64 now = monotonic_ns();
    SpinGuard guard(lock);
    Record& record = records[next_sequence % record_capacity];
    record.sequence = next_sequence;
    record.time_ns = now;
    record.priority = priority;
    record.length = static_cast<u32>(text.size());
    __builtin_memcpy(record.text, text.data(), text.size());
    next_sequence = next_sequence + 1;
}

u64 first_record() {
    SpinGuard guard(lock);
    return oldest();
}

u64 next_record() {
    return next_sequence;
}

bool read_record(u64 sequence, Record& out) {
    SpinGuard guard(lock);
    if (sequence >= next_sequence || sequence < oldest())
        return false;
    out = records[sequence % record_capacity];
    return true;
}

WaitQueue& record_waiters() {
    return waiters;
}

u64 cleared_up_to() {
    return cleared;
}

void clear_records() {
    cleared = next_sequence;
}

} // namespace kernel::log
