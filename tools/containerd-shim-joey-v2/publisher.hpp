// Publisher: events for containerd, in their order, each until it has arrived. While containerd is
// away they wait in a queue that has a bound.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>

#include "agent/os/event_loop.hpp"
#include "agent/ttrpc/client.hpp"
#include "tools/containerd-shim-joey-v2/log.hpp"
#include "tools/containerd-shim-joey-v2/messages.hpp"

namespace shim {

class Publisher {
public:
    struct Target {
        std::string socket; // of containerd's ttrpc service; empty: `fallback` takes them all
        std::string name_space;
    };
    using Done = std::function<void(os::Result<std::string>)>;
    // Publishes one event by other means.
    using Fallback =
        std::function<void(const std::string& topic, const std::string& event, Done done)>;

    Publisher(os::EventLoop& loop, Target target, Fallback fallback, const Log& log)
        : loop_(loop), target_(std::move(target)), fallback_(std::move(fallback)), log_(log) {}
    ~Publisher();
    Publisher(const Publisher&) = delete;
    Publisher& operator=(const Publisher&) = delete;

    template <typename Event>
    void publish(const char* topic, const Event& event) {
        add(topic, any_of(event));
    }
    // Calls back when all has arrived, or the time is up.
    void when_idle(std::chrono::nanoseconds limit, std::function<void()> action);
    std::size_t waiting() const { return queue_.size(); }

    static constexpr std::size_t most_waiting = 2048;

private:
    struct Item {
        std::string topic;
        std::string event;    // an Any
        std::string envelope; // a ForwardRequest
        int refusals = 0;
    };
    void add(const char* topic, const wellknown::Any& event);
    void send();
    void send_by_fallback();
    void arrived();
    void refused(const os::Error& why);
    void try_later();
    void drop_client();

    os::EventLoop& loop_;
    const Target target_;
    const Fallback fallback_;
    const Log& log_;
    std::deque<Item> queue_;
    std::unique_ptr<ttrpc::Client> client_;
    bool sending_ = false;
    os::EventLoop::TimerId timer_ = 0;
    std::chrono::milliseconds delay_{0};
    std::function<void()> idle_;
};

} // namespace shim
