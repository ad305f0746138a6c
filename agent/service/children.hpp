// Children: everything that this process waits for. As pid 1, or as a subreaper, that includes what
// other processes have left behind.
#pragma once

#include <functional>
#include <memory>
#include <unordered_map>

#include <sys/types.h>

#include "agent/os/event_loop.hpp"

namespace service {

class Children {
public:
    using Ended = std::function<void(int wait_status)>;

    // Blocks SIGCHLD for the process and takes it from a descriptor.
    static os::Result<std::unique_ptr<Children>> start(os::EventLoop& loop);
    ~Children();
    Children(const Children&) = delete;
    Children& operator=(const Children&) = delete;

    // While a builder works, a process may end before its number is known here.
    void builder_begins() { ++builders_; }
    void builder_ends();
    // Calls `ended` once, from the loop or, for one that has ended already, deferred.
    void watch(pid_t pid, Ended ended);
    void forget(pid_t pid) { watched_.erase(pid); }

    // Runs `work` in a child of its own and tells `done` what came of it: for what may block.
    void run_aside(const std::function<os::Result<void>()>& work,
                   const std::function<void(os::Result<void>)>& done);

private:
    Children(os::EventLoop& loop, os::UniqueFd signals)
        : loop_(loop), signals_(std::move(signals)) {}
    void reap();

    os::EventLoop& loop_;
    os::UniqueFd signals_;
    std::unordered_map<pid_t, Ended> watched_;
    std::unordered_map<pid_t, int> unclaimed_;
    int builders_ = 0;
};

} // namespace service
