// EventLoop: epoll, timers and deferred calls of one thread. Everything that hangs on a loop
// belongs to the thread that runs it; post() alone may be called from others.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "agent/os/error.hpp"
#include "agent/os/unique_fd.hpp"

namespace os {

class EventLoop {
public:
    using Clock = std::chrono::steady_clock;
    using Ready = std::function<void(std::uint32_t events)>;
    using Action = std::function<void()>;
    using TimerId = std::uint64_t;

    static Result<std::unique_ptr<EventLoop>> create();
    EventLoop(const EventLoop&) = delete;
    EventLoop& operator=(const EventLoop&) = delete;

    // `events` are EPOLLIN and its like. The descriptor stays the caller's and must be forgotten
    // before it is closed.
    Result<void> watch(int fd, std::uint32_t events, Ready ready);
    void change(int fd, std::uint32_t events);
    void forget(int fd);

    TimerId after(std::chrono::nanoseconds delay, Action action);
    void cancel(TimerId timer);

    // Runs after the handler that is running now: for what would destroy its own caller.
    void defer(Action action) { deferred_.push_back(std::move(action)); }
    // From any thread.
    void post(Action action);

    void run();
    // One round, which waits `timeout` at most (-1: for as long as it takes).
    void run_once(std::chrono::milliseconds timeout);
    void stop() { stopped_ = true; }
    // After fork(), in the process that does not go on with it: epoll is common to both, so that
    // what is forgotten here would be forgotten there. Nothing can be waited for here any more.
    void leave_to_copy() { epoll_.reset(); }

private:
    struct Watch {
        std::shared_ptr<Ready> ready;
        std::uint32_t generation = 0;
    };

    EventLoop(UniqueFd epoll, UniqueFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
    void dispatch(std::uint64_t key, std::uint32_t events);
    void run_timers();
    void run_deferred();
    int wait_milliseconds(std::chrono::milliseconds timeout) const;

    UniqueFd epoll_;
    UniqueFd wake_;
    std::unordered_map<int, Watch> watches_;
    std::multimap<Clock::time_point, std::pair<TimerId, Action>> timers_;
    std::vector<Action> deferred_;
    std::mutex posted_lock_; // guards posted_
    std::vector<Action> posted_;
    std::uint32_t generation_ = 0;
    TimerId last_timer_ = 0;
    bool stopped_ = false;
};

} // namespace os
