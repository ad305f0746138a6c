// Workers: what takes its time, or reads what others wrote, is done in a forked child, so that the
// shim goes on answering and outlives it. What a worker starts for good (the VM, relays) becomes
// the shim's child when the worker ends, for the shim is a subreaper.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "agent/os/event_loop.hpp"
#include "tools/containerd-shim-joey-v2/reaper.hpp"

namespace shim {

class Workers {
public:
    using Work = std::function<os::Result<std::string>()>;
    using Done = std::function<void(os::Result<std::string>)>;

    Workers(os::EventLoop& loop, Reaper& reaper) : loop_(loop), reaper_(reaper) {}

    // `work` runs in a child whose standard streams are `streams` (-1: /dev/null) and which has no
    // other descriptor of this process; it dies if this process does. `done` is called from the
    // loop, before anything that the work has started can be reaped unnoticed.
    void run(std::array<int, 3> streams, const Work& work, Done done);
    void run(const Work& work, Done done) { run({-1, -1, -1}, work, std::move(done)); }

private:
    struct Running;
    void read_some(const std::shared_ptr<Running>& running);

    os::EventLoop& loop_;
    Reaper& reaper_;
};

} // namespace shim
