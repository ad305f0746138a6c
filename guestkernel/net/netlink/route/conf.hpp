// The settings of an interface as arrays, in the order of IPV4_DEVCONF_* (linux/ip.h; first is
// number 1) and DEVCONF_* (linux/ipv6.h).
#pragma once

#include "guestkernel/net/stack.hpp"

namespace kernel::net::netlink {

inline constexpr usize conf4_values = 33, conf6_values = 59;
void conf4(Stack& stack, const Interface::Settings& settings, i32 (&out)[conf4_values]);
void conf6(const Interface& interface, i32 (&out)[conf6_values]);

} // namespace kernel::net::netlink
