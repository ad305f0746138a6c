// What a netlink socket has to say, read to its end.
#pragma once

#include <cstdlib>

#include "guestkernel/net/netlink/endpoint.hpp"

namespace fuzz {

inline void drain(kernel::net::netlink::Endpoint& endpoint) {
    // Far more than any state that so few messages can make.
    for (int reads = 0; reads < 10'000; reads++) {
        kernel::net::netlink::QueuedMessage* message = endpoint.take();
        if (message == nullptr && !endpoint.dumping())
            return;
        if (message != nullptr)
            destroy_message(message);
        endpoint.continue_dump();
    }
    std::abort(); // a dump without end
}

} // namespace fuzz
