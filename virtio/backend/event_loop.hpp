// What device backends need of an event loop; the VMM implements it (epoll). One thread runs it,
// and all callbacks come on that thread. Level-triggered.
#pragma once

#include <cstdint>
#include <functional>

#include "base/result.hpp"

namespace virtio {

// A system call of a backend failed: errno and what was attempted.
struct HostError {
    int code = 0;
    const char* action = "";
};

struct Interest {
    bool read = false;
    bool write = false;
};

struct Readiness {
    bool readable = false; // also at end of file and on errors: the read will tell
    bool writable = false; // also when the other side is gone: the write will tell
    bool hangup = false;   // EPOLLHUP or EPOLLERR; reported even with no interest
};

class EventLoop {
public:
    using Callback = std::function<void(Readiness)>;

    virtual ~EventLoop() = default;

    // add, modify and remove: on the loop's thread, or before it runs; also from within callbacks,
    // for the descriptor whose callback runs too. Fails with EPERM for what can never block
    // (regular files). A descriptor can be watched once; whoever needs it twice duplicates it.
    virtual base::Result<void, HostError> add(int fd, Interest interest, Callback callback) = 0;
    virtual base::Result<void, HostError> modify(int fd, Interest interest) = 0;
    // Ensures: on the loop's thread, the callback will not run again.
    virtual void remove(int fd) = 0;
    // Runs `task` on the loop's thread, soon, never from within post(). From any thread.
    virtual void post(std::function<void()> task) = 0;
};

} // namespace virtio
