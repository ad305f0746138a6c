// What is shown of an interface's state: flags, RFC 2863's operational state, the queue's kind.
#pragma once

#include "guestkernel/net/stack.hpp"

namespace kernel::net::netlink {

// IFF_* as netdevice(7) has them: one that is down does not run.
u32 shown_flags(const Interface& interface);
u8 operational_state(Interface& interface);  // IF_OPER_*
std::string_view operational_name(u8 state); // as /sys/class/net/*/operstate has it
// As programs see them: the loopback's, one per CPU, are our own affair.
unsigned shown_queues(const Interface& interface);
std::string_view queue_discipline(const Interface& interface);

} // namespace kernel::net::netlink
