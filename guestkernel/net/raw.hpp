// Raw sockets and ping sockets as the IP layer sees them: who else wants a packet.
#pragma once

#include "base/intrusive_list.hpp"
#include "guestkernel/core/lock.hpp"
#include "guestkernel/core/ref.hpp"
#include "guestkernel/net/transport.hpp"

namespace kernel::net {

class RawEndpoint {
public:
    virtual ~RawEndpoint() = default;
    // Under the table's lock. False: it is about to die.
    virtual bool try_hold() = 0;
    // Without locks; gives the hold up afterwards. The packet is its own copy, with the network
    // header in front of the data.
    virtual void deliver(PacketPtr packet, const IpInfo& info) = 0;
    virtual void notify(const IcmpNotice& notice) = 0;
    virtual void let_go() = 0;

    u8 protocol = 0;
    bool v6 = false;
    IpAddress local, peer; // any: all
    u32 interface = 0;

private:
    friend class RawTable;
    base::ListNode node_;
};

class RawTable {
public:
    void add(RawEndpoint& endpoint);
    void remove(RawEndpoint& endpoint);
    // Copies for all that match. `packet` begins with the transport header. True: somebody did.
    bool deliver(const Packet& packet, const IpInfo& info);
    void notify(const IcmpNotice& notice);
    bool empty() const { return count_.load(base::Order::Relaxed) == 0; }
    void for_each(void (*visit)(RawEndpoint& endpoint, void* context), void* context);

private:
    static constexpr usize at_once = 16;
    template <typename Match>
    usize hold(u32& skip, RawEndpoint** out, Match&& match);
    SpinLock lock_{LockRank::NetTable};
    base::IntrusiveList<RawEndpoint, &RawEndpoint::node_> endpoints_;
    base::Atomic<u32> count_{0};
};

} // namespace kernel::net
