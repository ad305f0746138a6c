// Routes in the order in which Linux shows them: tables by their number's last byte, then prefixes.
#pragma once

#include "guestkernel/lib/vector.hpp"
#include "guestkernel/net/route.hpp"
#include "guestkernel/net/stack.hpp"

namespace kernel::net::netlink {

// All of one version, sorted. What it holds is good as long as Stack::lock, which is required.
Result<void> routes_in_order(Stack& stack, bool v6, Vector<const Route*>& out);
bool route_before(const Route& a, const Route& b);

} // namespace kernel::net::netlink
