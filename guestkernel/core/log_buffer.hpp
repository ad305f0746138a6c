// What was logged last, for syslog(2) and /dev/kmsg: a ring of records, the oldest is overwritten.
#pragma once

#include <string_view>

#include "guestkernel/core/types.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel::log {

struct Record {
    static constexpr usize longest = 236;
    u64 sequence = 0;
    u64 time_ns = 0;
    u32 priority = 0; // facility * 8 + level, syslog(3)
    u32 length = 0;
    char text[longest] = {};
};

inline constexpr usize record_capacity = 256;

void append_record(u32 priority, std::string_view text);
// Sequence numbers: of the oldest record that is there, and of the next one to come.
u64 first_record();
u64 next_record();
// False: overwritten, or not there yet.
bool read_record(u64 sequence, Record& out);
// Woken when a program writes a record. The kernel logs with any lock held, so that what it says is
// seen by those who wait with the next one.
WaitQueue& record_waiters();
// Where "everything since the last clear" begins (SYSLOG_ACTION_CLEAR).
u64 cleared_up_to();
void clear_records();

} // namespace kernel::log
