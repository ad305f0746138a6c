// AgentDial: a connection to the agent in a pod's VM that is made while the loop does other things.
// A guest that does not answer keeps nobody waiting but who asked for it.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "tools/pod/agent_link.hpp"
#include "tools/pod/vm_socket.hpp"

namespace pod {

class AgentDial {
public:
    using Done = std::function<void(os::Result<std::unique_ptr<AgentLink>>)>;

    // `directory` is the pod's. `done` is called once, from the loop, and may destroy the dial; if
    // that is destroyed before, it is not called.
    AgentDial(os::EventLoop& loop, std::string directory, ProcessId vm,
              std::chrono::milliseconds limit, Done done);
    ~AgentDial() { stop(); }
    AgentDial(const AgentDial&) = delete;
    AgentDial& operator=(const AgentDial&) = delete;

private:
    using Clock = os::EventLoop::Clock;

    void attempt();
    os::Result<void> ask();
    void on_ready();
    void try_again();
    void stop();
    void finish(os::Result<std::unique_ptr<AgentLink>> result);

    os::EventLoop& loop_;
    const std::string directory_;
    const ProcessId vm_;
    const Clock::time_point deadline_;
    Done done_;
    os::UniqueFd socket_;
    PortRequest request_;
    std::chrono::milliseconds between_{2};
    os::EventLoop::TimerId timer_ = 0; // until the next attempt, or the end of this one
};

} // namespace pod
