// A network namespace for a test program: what it does to interfaces and ports touches nobody else.
#pragma once

#include <cstring>
#include <poll.h>
#include <sched.h>

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "virtio/backend/unique_fd.hpp"

namespace virtio::testing {

// Enters it, once for the whole process; with a loopback that is up. False: only root, or users
// who may make user namespaces, can.
inline bool enter_own_namespace() {
    static const bool entered = [] {
        if (::unshare(CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
            return false;
        const UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        struct ifreq request {};
        std::strcpy(request.ifr_name, "lo");
        request.ifr_flags = IFF_UP | IFF_RUNNING;
        return ::ioctl(control.get(), SIOCSIFFLAGS, &request) == 0;
    }();
    return entered;
}

// Calls `done` until it says yes, for as long as a busy machine may take; between the calls the
// host's kernel has its turn.
template <typename Done>
bool wait_for(Done done) {
    constexpr int patience_ms = 20'000;
    for (int waited = 0; waited < patience_ms; ++waited) {
        if (done())
            return true;
        ::poll(nullptr, 0, 1);
    }
    return false;
}

} // namespace virtio::testing
