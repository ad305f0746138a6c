// The filters that ss(8) sends along: conditions and jumps forward, INET_DIAG_REQ_BYTECODE.
#pragma once

#include <span>

#include "guestkernel/net/socket_list.hpp"

namespace kernel::net::netlink {

// Whether run_filter() may run it: EINVAL, and EPERM where it asks for what only an administrator
// may know.
Result<void> check_filter(std::span<const u8> code, bool administrator);
// Whether the socket is to be shown. Requires: the filter was checked.
bool run_filter(std::span<const u8> code, const SocketRecord& record);

} // namespace kernel::net::netlink
