#include "tools/containerd-shim-joey-v2/pod_link.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace shim {

void PodLink::connect(const pod::StateRoot& root, const std::string& pod) {
    if (dial_)
        return;
    const auto patience = pod::patience(std::chrono::seconds(5));
    const auto found = pod::Pod::open(root, pod);
    if (!found)
        return;
    vm_ = found->vm();
    directory_ = found->directory();
    seen_ = 0;
    open(patience);
}

void PodLink::open(std::chrono::milliseconds patience) {
    dial_ = std::make_unique<pod::AgentDial>(
        loop_, directory_, vm_, patience,
        [this](os::Result<std::unique_ptr<pod::AgentLink>> agent) { opened(std::move(agent)); });
}

void PodLink::opened(os::Result<std::unique_ptr<pod::AgentLink>> agent) {
    dial_.reset();
    if (agent) {
        take_over(std::move(*agent));
    } else {
        log_.warning(os::text("the pod's agent: ", agent.error().message));
        last_failure_ = os::EventLoop::Clock::now();
    }
    for (const auto& action : std::exchange(waiting_, {}))
        action();
}

void PodLink::take_over(std::unique_ptr<pod::AgentLink> agent) {
    // The end of the earlier connection may be known, and those who wait for answers over it not
    // told yet: that is deferred, too, and comes first.
    loop_.defer([old = std::shared_ptr<pod::AgentLink>(std::move(agent_))] {});
    agent_ = std::move(agent);
    ++connections_;
    ask_for_events();
}

void PodLink::when_connected(std::function<void()> action) {
    if (!is_open() && !dial_)
        connect_again();
    if (dial_)
        waiting_.push_back(std::move(action));
    else
        action();
}

// A guest that takes no connections keeps nobody for long.
void PodLink::connect_again() {
    const auto between = pod::patience(std::chrono::seconds(10));
    if (directory_.empty() || !vm_.is_alive() ||
        os::EventLoop::Clock::now() < last_failure_ + between)
        return;
    open(pod::patience(std::chrono::seconds(1)));
}

void PodLink::ask_for_events() {
    pod::proto::NextEventsRequest request;
    request.set_after(seen_);
    agent_->call_later<pod::proto::NextEventsResponse>(
        "NextEvents", request,
        [this, alive = alive_,
         connection = connections_](const os::Result<pod::proto::NextEventsResponse>& answer) {
            if (!*alive || !answer)
                return;
            take(*answer);
            // A guest that always has something to say is not listened to all the time.
            constexpr std::chrono::milliseconds pause(20);
            loop_.after(pause, [this, alive, connection] {
                if (*alive && connection == connections_ && is_open())
                    ask_for_events();
            });
        });
}

void PodLink::take(const pod::proto::NextEventsResponse& answer) {
    std::set<std::string> said;
    for (const pod::proto::Event& event : answer.events()) {
        seen_ = std::max(seen_, event.number());
        if (event.kind() == pod::proto::Event::OOM && said.insert(event.container_id()).second &&
            oom_)
            oom_(event.container_id());
    }
}

} // namespace shim
