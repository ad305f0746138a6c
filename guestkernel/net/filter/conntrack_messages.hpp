// Connection tracking as programs see it by netlink: conntrack(8).
#pragma once

#include "guestkernel/net/netlink/protocol.hpp"

namespace kernel::net::filter {

Result<void> receive_conntrack(netlink::Request& request);

} // namespace kernel::net::filter
