// Answers to packets that rules refuse.
#pragma once

#include "guestkernel/net/filter/evaluation.hpp"

namespace kernel::net::filter {

// ICMP's (or ICMPv6's) destination unreachable with the code; nothing to what must not be answered.
void send_unreachable(Evaluation& at, u8 code);
// TCP's reset (RFC 9293, 3.10.7.1), unless the packet is one or is no TCP.
void send_reset(Evaluation& at);

} // namespace kernel::net::filter
