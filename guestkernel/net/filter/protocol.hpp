// NETLINK_NETFILTER's registration.
#pragma once

namespace kernel::net::filter {

void start_filter(); // at boot

} // namespace kernel::net::filter
