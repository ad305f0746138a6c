// The sockets of a network namespace as /proc/net/{tcp,udp,raw} and sock_diag(7) show them: held
// one by one, and copied as they are at one moment.
#pragma once

#include "guestkernel/net/stack.hpp"

struct tcp_info; // linux/tcp.h

namespace kernel::net {

struct SocketRecord {
    IpAddress local, peer;
    u16 port = 0, peer_port = 0; // of raw sockets: the protocol's number
    u32 interface = 0;           // SO_BINDTODEVICE
    u8 state = 7;                // of TCP; of others 1 (connected) or 7 (not)
    bool v6 = false, v6_only = false;
    bool whole = true; // false: TIME-WAIT or a request, which has nothing but its addresses
    bool bound_by_hand = false; // its port was not chosen for it
    u32 sent = 0, received = 0; // bytes in its queues; of a listener: the backlog, those waiting
    u32 uid = 0;                // a global id
    u64 inode = 0;
    u32 drops = 0;
    u32 references = 1;
    u8 timer = 0; // 0 none, 1 retransmission, 2 keepalive or the end, 3 TIME-WAIT, 4 zero window
    u64 timer_left_ns = 0;
    u32 retransmits = 0; // in a row
    u32 probes = 0;      // of a zero window or of keepalive, without an answer
    u64 cookie = 0;
    u32 receive_buffer = 0, send_buffer = 0;
    u32 receive_memory = 0, send_memory = 0; // what waits costs: to be read, to be acknowledged
    u32 packets_out = 0;                     // the same of packets on their way to the link
    u32 mark = 0;
    i32 priority = 0;
    u8 shutdown = 0; // shut_*
    u8 tos = 0, traffic_class = 0;
    u8 option_bits[2] = {}; // struct inet_diag_sockopt
    // --- of TCP
    std::string_view congestion;
    u64 retransmit_timeout = 0, ack_timeout = 0;
    u32 quick = 0; // acknowledgements that will not wait, times two; odd: data goes both ways
    u32 window = 0;
    i32 threshold = -1; // -1: none known yet; of a listener: how many fast opens may wait
};

enum class SocketTable : u8 { Listeners, Connections, Udp, UdpLite, Raw };
// Sockets are found bucket by bucket, so that a list can be made in steps.
usize socket_buckets(SocketTable table);
// Appends those of a bucket: ENOMEM.
Result<void> hold_sockets(Stack& stack, SocketTable table, usize bucket,
                          Vector<Ref<RefCounted>>& out);
// What hold_sockets() gave, as it is now; false: it is nothing that is shown. `info`: what TCP_INFO
// says of a connection.
bool describe_socket(SocketTable table, RefCounted& socket, SocketRecord& out,
                     struct ::tcp_info* info = nullptr);

// Whom a packet between the two would reach, among sockets of this kind (for connections: those
// that listen, too). Null: nobody.
struct SocketKey {
    IpAddress local, peer;
    u16 port = 0, peer_port = 0;
    u32 interface = 0;
};
Ref<RefCounted> find_socket(Stack& stack, SocketTable& table, const SocketKey& key);
// Ends it as if the network had: whoever waits for it gets ECONNABORTED.
void destroy_socket(Stack& stack, SocketTable table, RefCounted& socket);

// All at once, appended; ENOMEM.
Result<void> list_tcp(Stack& stack, Vector<SocketRecord>& out);
Result<void> list_udp(Stack& stack, Vector<SocketRecord>& out);
Result<void> list_udplite(Stack& stack, Vector<SocketRecord>& out);
Result<void> list_raw(Stack& stack, Vector<SocketRecord>& out);

} // namespace kernel::net
