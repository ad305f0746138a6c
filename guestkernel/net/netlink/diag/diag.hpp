// NETLINK_SOCK_DIAG's parts, for each other: sock_diag(7). A family answers one request about one
// socket, or starts a dump.
#pragma once

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"

namespace kernel::net::netlink {

inline constexpr int protocol_sock_diag = 4; // NETLINK_SOCK_DIAG

Result<void> inet_diag(Request& request);
Result<void> inet_destroy(Request& request);
Result<void> unix_diag(Request& request);
Result<void> netlink_diag(Request& request);
Result<void> packet_diag(Request& request);

// A cookie in two words, as requests name it: ESTALE when it is another one's.
struct DiagCookie {
    u32 words[2];
    static DiagCookie of(u64 cookie) {
        return {{static_cast<u32>(cookie), static_cast<u32>(cookie >> 32)}};
    }
};
Result<void> check_cookie(const DiagCookie& wanted, u64 actual);
// The cookie of a socket's file, SO_COOKIE.
u64 cookie_of_inode(u64 inode);
// A user as whoever reads the dump knows it.
u32 uid_for(const Endpoint* reader, u32 global);
bool may_administer(const Endpoint* reader); // CAP_NET_ADMIN

void start_sock_diag();

} // namespace kernel::net::netlink
