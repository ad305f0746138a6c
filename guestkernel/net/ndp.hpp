// Neighbour discovery and address autoconfiguration of IPv6: RFC 4861, RFC 4862.
#pragma once

#include "guestkernel/net/ip.hpp"

namespace kernel::net {

// ICMPv6 messages other than errors and echoes. Checked: the checksum.
void ndp_input(Stack& stack, Packet& packet, const IpInfo& info, const IcmpHeader& header);

// What a stack's autoconfiguration keeps: probes for duplicates, solicitations of routers,
// lifetimes. One timer for all.
class AddressTimer {
public:
    explicit AddressTimer(Stack& stack);
    void start(Interface& interface);
    void soon(u64 when);

private:
    static void expired(NetTimer& timer, void* argument);
    void run();
    u64 run_interface(Interface& interface);
    Stack& stack_;
    SpinLock lock_{LockRank::NetNeighbour};
    u64 next_ = no_deadline;
    NetTimer timer_;
};

} // namespace kernel::net
