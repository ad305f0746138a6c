// Identifiers of ping sockets: an echo reply belongs to whoever sent the request.
#include <linux/errno.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/net/raw_socket.hpp"

namespace kernel::net {

namespace {

// Of all stacks together, but as many of each as there are identifiers: one container's do not take
// the place of another's.
constinit SpinLock ping_lock{LockRank::NetTable};
constinit HashTable<RawSocketEndpoint, &RawSocketEndpoint::next_ping, 1024> pingers;

u64 place_of(const Stack& stack, u16 identifier) {
    return hash_mix(stack.secret() ^ identifier);
}

RawSocketEndpoint* find_locked(const Stack& stack, bool v6, u16 identifier) {
    return pingers.find(place_of(stack, identifier), [&](RawSocketEndpoint& endpoint) {
        return endpoint.identifier == identifier && endpoint.v6 == v6 &&
               &endpoint.stack() == &stack;
    });
}

} // namespace

Result<void> claim_ping(Stack& stack, RawSocketEndpoint& endpoint, u16 wanted) {
    const u16 start = static_cast<u16>(random_u64());
    SpinGuard guard(ping_lock);
    if (endpoint.identifier != 0)
        return wanted == 0 ? Result<void>() : fail(EINVAL);
    if (wanted != 0 && find_locked(stack, endpoint.v6, wanted) != nullptr)
        return fail(EADDRINUSE);
    for (u32 i = 0; wanted == 0 && i < 0x10000; i++) {
        const u16 candidate = static_cast<u16>(start + i);
        if (candidate != 0 && find_locked(stack, endpoint.v6, candidate) == nullptr)
            wanted = candidate;
    }
    if (wanted == 0)
        return fail(EADDRINUSE);
    endpoint.identifier = wanted;
    pingers.insert(place_of(stack, wanted), endpoint);
    return {};
}

void release_ping(Stack& stack, RawSocketEndpoint& endpoint) {
    SpinGuard guard(ping_lock);
    if (endpoint.identifier != 0)
        (void)pingers.remove(place_of(stack, endpoint.identifier), endpoint);
}

RawSocketEndpoint* find_ping(Stack& stack, bool v6, u16 identifier) {
    SpinGuard guard(ping_lock);
    RawSocketEndpoint* found = find_locked(stack, v6, identifier);
    return found != nullptr && found->try_hold() ? found : nullptr;
}

} // namespace kernel::net
