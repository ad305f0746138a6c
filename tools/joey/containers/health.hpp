// Health: asks the container's check again and again whether the program still does its work.
#pragma once

#include <functional>
#include <string>

#include "agent/os/event_loop.hpp"
#include "tools/joey/containers/registry.hpp"

namespace joey::containers {

class Health {
public:
    // `changed`: the state of a check that has just ended.
    Health(os::EventLoop& loop, Registry& registry, const Container& container,
           std::function<void(const HealthState&)> changed);
    ~Health();
    Health(const Health&) = delete;
    Health& operator=(const Health&) = delete;

private:
    void schedule();
    bool is_warming_up() const;
    bool is_paused() const;
    void check();
    void read_answer();
    void conclude(int status, const std::string& output);

    os::EventLoop& loop_;
    Registry& registry_;
    const Container& container_;
    const std::function<void(const HealthState&)> changed_;
    HealthState state_;
    std::chrono::steady_clock::time_point began_;
    std::string asked_; // when, RFC 3339
    os::EventLoop::TimerId timer_ = 0;
    os::UniqueFd answer_;
    std::string text_;
    pid_t child_ = 0;
};

} // namespace joey::containers
