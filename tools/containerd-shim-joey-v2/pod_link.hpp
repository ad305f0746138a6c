// PodLink: the shim's own connection to the agent in its pod's VM: signals, statistics and what
// happens inside. The guest is not trusted: it can waste its own pod's time only.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tools/containerd-shim-joey-v2/log.hpp"
#include "tools/pod/agent_dial.hpp"
#include "tools/pod/pod.hpp"

namespace shim {

class PodLink {
public:
    PodLink(os::EventLoop& loop, const Log& log) : loop_(loop), log_(log) {}
    ~PodLink() { *alive_ = false; }
    PodLink(const PodLink&) = delete;
    PodLink& operator=(const PodLink&) = delete;

    // A container's processes were ended by its kernel for want of memory.
    void on_oom(std::function<void(const std::string& container)> action) {
        oom_ = std::move(action);
    }
    // Begins to, and waits for nothing. A connection that the guest ends is made again when it is
    // needed.
    void connect(const pod::StateRoot& root, const std::string& pod);
    bool is_open() const { return agent_ && agent_->client().is_open(); }
    const pod::ProcessId& vm() const { return vm_; }

    // `answered` is called from the loop, within `limit`; after a few seconds more, if the
    // connection has to be made first.
    template <typename Response, typename Request, typename Function>
    void call(const char* method, const Request& request, std::chrono::nanoseconds limit,
              Function answered) {
        when_connected([this, method, request, limit, answered] {
            if (is_open()) {
                agent_->client().call<Response>("joey.agent.v1.Agent", method, request, limit,
                                                answered);
                return;
            }
            const char* why = vm_.is_alive() ? "the agent in the pod's VM does not answer"
                                             : "the pod's VM has ended";
            loop_.defer([answered, why] {
                answered(os::Result<Response>(os::fail(os::Code::Unavailable, why)));
            });
        });
    }

private:
    // Now, or when it is known whether there is a connection.
    void when_connected(std::function<void()> action);
    void open(std::chrono::milliseconds patience);
    void take_over(std::unique_ptr<pod::AgentLink> agent);
    void opened(os::Result<std::unique_ptr<pod::AgentLink>> agent);
    void connect_again();
    void ask_for_events();
    void take(const pod::proto::NextEventsResponse& answer);

    os::EventLoop& loop_;
    const Log& log_;
    std::unique_ptr<pod::AgentLink> agent_;
    std::unique_ptr<pod::AgentDial> dial_; // while a connection is being made
    std::vector<std::function<void()>> waiting_;
    std::string directory_; // the pod's
    pod::ProcessId vm_;
    os::EventLoop::Clock::time_point last_failure_{}; // to connect
    unsigned connections_ = 0;
    std::uint64_t seen_ = 0;
    std::function<void(const std::string&)> oom_;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace shim
