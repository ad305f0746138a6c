#include "guestkernel/net/raw.hpp"

namespace kernel::net {

void RawTable::add(RawEndpoint& endpoint) {
    SpinGuard guard(lock_);
    endpoints_.push_back(endpoint);
    count_.fetch_add(1);
}

void RawTable::remove(RawEndpoint& endpoint) {
    SpinGuard guard(lock_);
    if (!endpoint.node_.linked())
        return;
    endpoint.node_.unlink();
    count_.fetch_sub(1);
}

// The next few that match, from the `skip`th on: they are called without the lock.
template <typename Match>
usize RawTable::hold(u32& skip, RawEndpoint** out, Match&& match) {
    usize found = 0;
    u32 seen = 0;
    SpinGuard guard(lock_);
    for (RawEndpoint& endpoint : endpoints_) {
        if (!match(endpoint) || seen++ < skip)
            continue;
        if (found == at_once)
            break;
        skip++;
        if (endpoint.try_hold())
            out[found++] = &endpoint;
    }
    return found;
}

bool RawTable::deliver(const Packet& packet, const IpInfo& info) {
    const auto match = [&](const RawEndpoint& endpoint) {
        return endpoint.v6 == info.v6() && endpoint.protocol == info.protocol &&
               (endpoint.local.is_any() || endpoint.local == info.destination) &&
               (endpoint.peer.is_any() || endpoint.peer == info.source) &&
               (endpoint.interface == 0 || endpoint.interface == info.interface->index());
    };
    bool any = false;
    u32 skip = 0;
    for (;;) {
        RawEndpoint* held[at_once];
        const usize found = hold(skip, held, match);
        for (usize i = 0; i < found; i++) {
            if (PacketPtr copy = packet.clone()) {
                copy->restore_network();
                held[i]->deliver(std::move(copy), info);
            }
            held[i]->let_go();
        }
        any = any || found > 0;
        if (found < at_once)
            return any;
    }
}

void RawTable::notify(const IcmpNotice& notice) {
    const auto match = [&](const RawEndpoint& endpoint) {
        return endpoint.v6 == notice.source.is_v6() && endpoint.protocol == notice.protocol &&
               (endpoint.local.is_any() || endpoint.local == notice.source) &&
               (endpoint.peer.is_any() || endpoint.peer == notice.destination);
    };
    u32 skip = 0;
    for (;;) {
        RawEndpoint* held[at_once];
        const usize found = hold(skip, held, match);
        for (usize i = 0; i < found; i++) {
            held[i]->notify(notice);
            held[i]->let_go();
        }
        if (found < at_once)
            return;
    }
}

void RawTable::for_each(void (*visit)(RawEndpoint& endpoint, void* context), void* context) {
    SpinGuard guard(lock_);
    for (RawEndpoint& endpoint : endpoints_)
        visit(endpoint, context);
}

} // namespace kernel::net
