// The kinds of links that netlink can make.
#pragma once

#include "guestkernel/net/netlink/route/link_kind.hpp"

namespace kernel::net {

extern const netlink::LinkKind dummy_kind, veth_kind, bridge_kind;
void register_links(); // at boot

// Gives a link what the request says, and its place in the stack.
Result<void> attach_link(Ref<Interface> link, const netlink::LinkWanted& wanted);

} // namespace kernel::net
