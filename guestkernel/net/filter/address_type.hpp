// What an address is to this machine: RTN_* as rules name them.
#pragma once

#include "guestkernel/net/stack.hpp"

namespace kernel::net::filter {

// `interface`: only what is local (or broadcast) there counts as that; null: anywhere.
u32 address_type(Stack& stack, const IpAddress& address, const Interface* interface);
bool read_addresses(const Packet& packet, bool v6, IpAddress& source, IpAddress& destination);

} // namespace kernel::net::filter
