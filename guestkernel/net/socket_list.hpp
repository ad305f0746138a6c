// The sockets of a network namespace as /proc/net/{tcp,udp,raw} and sock_diag(7) show them: copies
// of what they are at one moment, taken without their locks.
#pragma once

#include "guestkernel/net/stack.hpp"

namespace kernel::net {

struct SocketRecord {
    IpAddress local, peer;
    u16 port = 0, peer_port = 0; // of raw sockets: the protocol's number
    u32 interface = 0;           // SO_BINDTODEVICE
    u8 state = 7;                // of TCP; of others 1 (connected) or 7 (not)
    bool v6 = false, v6_only = false;
    u32 sent = 0, received = 0; // bytes in its queues; of a listener: the backlog, those waiting
    u32 uid = 0;                // a global id
    u64 inode = 0;
    u32 drops = 0;
    u32 references = 1;
    u8 timer = 0; // 0 none, 1 retransmission, 2 keepalive or the end, 3 TIME-WAIT, 4 zero window
    u64 timer_left_ns = 0;
    u32 retransmits = 0;
    u64 cookie = 0;
    u32 receive_buffer = 0, send_buffer = 0;
};

// Appends; ENOMEM.
Result<void> list_tcp(Stack& stack, Vector<SocketRecord>& out);
Result<void> list_udp(Stack& stack, Vector<SocketRecord>& out);
Result<void> list_raw(Stack& stack, Vector<SocketRecord>& out);

} // namespace kernel::net
