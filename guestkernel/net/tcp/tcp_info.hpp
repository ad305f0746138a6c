// TCP_INFO: what a connection knows of itself, in the ABI's form. Also for sock_diag.
#pragma once

#include "guestkernel/net/socket_list.hpp"
#include "guestkernel/net/tcp/connection.hpp"

struct tcp_info; // linux/tcp.h

namespace kernel::tcp {

class TcpInfo {
public:
    // Locks: the connection's is held.
    explicit TcpInfo(const Connection& connection) : connection_(connection) {}
    void fill(struct ::tcp_info& out) const;
    // For lists of sockets: state, queues, timers; not addresses.
    void describe(net::SocketRecord& out) const;

private:
    const Connection& connection_;
};

} // namespace kernel::tcp
