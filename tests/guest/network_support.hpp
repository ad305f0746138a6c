// A network namespace of a test's own.
#pragma once

#include <cstring>
#include <sched.h>
#include <unistd.h>

#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tests/guest/check.hpp"

inline void loopback_up() {
    const int fd = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK(fd >= 0);
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    CHECK(ioctl(fd, SIOCGIFFLAGS, &request) == 0);
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
    close(fd);
}

// As root, or with a user namespace.
inline void own_network() {
    if (unshare(CLONE_NEWNET) != 0)
        CHECK(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0);
    loopback_up();
}
