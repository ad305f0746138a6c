// What is left of a connection that was closed from this side first: enough to answer what still
// comes, and to keep its pair of addresses from being taken for another connection's (RFC 9293,
// 3.10.7; RFC 6191).
#pragma once

#include "guestkernel/net/port_table.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/tcp/table.hpp"

namespace kernel::tcp {

class TimeWait final : public Entry, public net::PortOwner {
public:
    TimeWait() : Entry(EntryKind::TimeWait) {}
    bool try_hold() override { return try_add_ref(); }

    static constexpr u64 length = 60 * nanoseconds_per_second;
    // --- under TcpStack's lock
    base::ListNode age_node;
    u64 deadline = 0;

    // --- written before it is known to others, and by the input path
    Sequence send_next, receive_next;
    u32 receive_window = 0; // scaled
    u8 receive_scale = 0;
    bool timestamps = false;
    u32 recent_timestamp = 0, timestamp_offset = 0;
    u64 recent_at = 0; // when that came
    u64 last_answer = 0;
    u8 traffic_class = 0;
    u32 mark = 0;
};

} // namespace kernel::tcp
