// Identifiers of ping sockets: an echo reply belongs to whoever sent the request.
#include <linux/errno.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/raw_socket.hpp"

namespace kernel::net {

namespace {

// Of all stacks together: there are never many.
constinit SpinLock ping_lock{LockRank::NetTable};
struct Pinger {
    RawSocketEndpoint* endpoint = nullptr;
};
constexpr usize most_pingers = 1024;
constinit Pinger pingers[most_pingers];
constinit usize pinger_count = 0;

RawSocketEndpoint* find_locked(const Stack& stack, bool v6, u16 identifier) {
    for (usize i = 0; i < pinger_count; i++) {
        RawSocketEndpoint& endpoint = *pingers[i].endpoint;
        if (endpoint.identifier == identifier && endpoint.v6 == v6 && &endpoint.stack() == &stack)
            return &endpoint;
    }
    return nullptr;
}

} // namespace

Result<void> claim_ping(Stack& stack, RawSocketEndpoint& endpoint, u16 wanted) {
    const u16 start = static_cast<u16>(random_u64());
    SpinGuard guard(ping_lock);
    if (endpoint.identifier != 0)
        return wanted == 0 ? Result<void>() : fail(EINVAL);
    if (pinger_count == most_pingers)
        return fail(EADDRINUSE);
    if (wanted != 0 && find_locked(stack, endpoint.v6, wanted) != nullptr)
        return fail(EADDRINUSE);
    for (u32 i = 0; wanted == 0 && i < 0x10000; i++) {
        const u16 candidate = static_cast<u16>(start + i);
        if (candidate != 0 && find_locked(stack, endpoint.v6, candidate) == nullptr)
            wanted = candidate;
    }
    endpoint.identifier = wanted;
    pingers[pinger_count++].endpoint = &endpoint;
    return {};
}

void release_ping(Stack&, RawSocketEndpoint& endpoint) {
    SpinGuard guard(ping_lock);
    for (usize i = 0; i < pinger_count; i++)
        if (pingers[i].endpoint == &endpoint) {
            pingers[i] = pingers[--pinger_count];
            return;
        }
}

RawSocketEndpoint* find_ping(Stack& stack, bool v6, u16 identifier) {
    SpinGuard guard(ping_lock);
    RawSocketEndpoint* found = find_locked(stack, v6, identifier);
    return found != nullptr && found->try_hold() ? found : nullptr;
}

} // namespace kernel::net
