// NETLINK_KOBJECT_UEVENT: what udev and its kind hear of devices; here, of network interfaces.
#pragma once

#include "guestkernel/net/stack.hpp"

namespace kernel::net::netlink {

// What `change` means for devices, told to those who listen. No lock held; does not sleep.
void tell_uevent(Stack& stack, const Change& change);
// "add", "change", ... about an interface, as written to its uevent file: EINVAL.
Result<void> make_uevent(Stack& stack, Interface& interface, std::string_view text);
u64 last_uevent(); // /sys/kernel/uevent_seqnum

void start_uevents();

} // namespace kernel::net::netlink
