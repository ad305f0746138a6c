// The network device of the machine: eth0 of the first stack.
#pragma once

#include "guestkernel/core/ref.hpp"
#include "guestkernel/core/result.hpp"
#include "guestkernel/core/types.hpp"

namespace kernel {

struct VirtioSlot;

namespace net {
class Interface;
class Stack;
} // namespace net

// Takes the machine's network device, if it has one, and sets the interface up as the boot
// parameters say: addresses, routes, up. Once at boot, after the network was started. A device that
// does not work is left alone, with a line in the log.
void init_net_device();

// The interface of a device: attached to `stack`, down.
Result<Ref<net::Interface>> open_net_device(const VirtioSlot& slot, net::Stack& stack);
// What its interrupt does; for tests.
void serve_net_device(net::Interface& interface);

} // namespace kernel
