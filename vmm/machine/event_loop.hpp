// The event loop: one epoll instance, run by the thread that calls Vm::run(). Callbacks run on that
// thread only, one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "vmm/error.hpp"
#include "vmm/kvm/unique_fd.hpp"

namespace vmm {

class EventLoop {
public:
    // Called with the epoll events that are pending (EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR).
    using Callback = std::function<void(std::uint32_t events)>;

    static Result<EventLoop> create();
    EventLoop(EventLoop&&) = default;
    EventLoop& operator=(EventLoop&&) = default;

    // Watches `fd`, which stays the caller's and must outlive the watch. A file that epoll cannot
    // watch (EPERM: regular files) is refused. Locks: none; before run(), or from a callback.
    Result<void> watch(int fd, std::uint32_t events, Callback callback);
    // Changes the events waited for; 0 pauses the watch.
    Result<void> change(int fd, std::uint32_t events);
    void unwatch(int fd);

    // Runs until stop() has been called.
    Result<void> run();
    // Safe from any thread, and in a signal handler.
    void stop();

private:
    EventLoop(UniqueFd epoll, UniqueFd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
    Result<void> dispatch(int fd, std::uint32_t events);

    UniqueFd epoll_;
    UniqueFd wake_; // eventfd: stop() was called
    // shared_ptr: a callback may unwatch itself while it runs.
    std::unordered_map<int, std::shared_ptr<Callback>> callbacks_;
};

} // namespace vmm
