// Packets that were received where the stack cannot be entered (a sender's call chain, with its
// locks held): a list per CPU, worked off soon in soft-interrupt context. Loopback and veth.
#pragma once

#include "guestkernel/net/interface.hpp"

namespace kernel::net {

// As if `interface` had received them, a little later on this CPU. Any context of a sender; locks
// of rank Leaf or above may be held.
void queue_receive(Interface& interface, PacketPtr packet);
// Works off this CPU's list. Requires: no spin locks held. Senders call it when they have let go
// of their locks, so that what goes to this machine arrives before the call returns.
void run_backlog();
bool backlog_pending();
void start_backlog(); // once at boot

// /proc/net/softnet_stat: what a CPU has received, what it lost for want of room, how often it had
// more than it may do at a time, what waits.
struct ReceiveCounts {
    u32 received = 0, dropped = 0, squeezed = 0, waiting = 0;
};
ReceiveCounts receive_counts(u32 cpu);
void count_received(u32 packets); // by this CPU

} // namespace kernel::net
