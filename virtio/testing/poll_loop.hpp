// PollLoop: an EventLoop over poll(2) for tests, turned by hand. Like epoll, it refuses regular
// files.
#pragma once

#include <deque>
#include <map>
#include <memory>

#include "virtio/backend/event_loop.hpp"

namespace virtio::testing {

class PollLoop final : public EventLoop {
public:
    base::Result<void, HostError> add(int fd, Interest interest, Callback callback) override;
    base::Result<void, HostError> modify(int fd, Interest interest) override;
    void remove(int fd) override { watches_.erase(fd); }
    void post(std::function<void()> task) override { tasks_.push_back(std::move(task)); }

    // Runs posted tasks and ready callbacks until there is nothing left to do without waiting.
    void settle();
    // One round: what was ready then. False: nothing was.
    bool turn();
    std::size_t watched() const { return watches_.size(); }
    std::size_t tasks() const { return tasks_.size(); } // that wait for their turn

private:
    struct Watch {
        Interest interest;
        std::shared_ptr<Callback> callback;
    };

    std::map<int, Watch> watches_;
    std::deque<std::function<void()>> tasks_;
};

} // namespace virtio::testing
