// The event loop: one epoll instance, run by the thread that calls Vm::run(). All callbacks run on
// that thread, one at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "base/atomic.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "virtio/guarded.hpp"
#include "vmm/error.hpp"

namespace vmm {

class EventLoop final : public virtio::EventLoop {
public:
    static Result<std::unique_ptr<EventLoop>> create();

    base::Result<void, virtio::HostError> add(int fd, virtio::Interest interest,
                                              Callback callback) override;
    base::Result<void, virtio::HostError> modify(int fd, virtio::Interest interest) override;
    void remove(int fd) override;
    void post(std::function<void()> task) override;

    // Runs until stop() has been called; returns at once if it already was.
    Result<void> run();
    // Runs, stopped or not, until `done` says so or `limit_ms` have passed.
    Result<void> run_until(const std::function<bool()>& done, int limit_ms);
    // From any thread, and from a signal handler.
    void stop();

private:
    struct Watch {
        int fd;
        Callback callback;
    };
    struct State {
        // Keyed by a number that is never used again, so that an event which was already fetched
        // for a descriptor that has since been removed, and perhaps opened anew, finds nobody.
        std::unordered_map<std::uint64_t, std::shared_ptr<Watch>> watches;
        std::unordered_map<int, std::uint64_t> keys;
        std::vector<std::function<void()>> tasks;
        std::uint64_t next_key = 1;
    };

    EventLoop(virtio::UniqueFd epoll, virtio::UniqueFd wake)
        : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
    void dispatch(std::uint64_t key, std::uint32_t events);
    Result<void> wait(int timeout_ms); // and dispatches what came
    void run_tasks();
    void wake();

    virtio::UniqueFd epoll_;
    virtio::UniqueFd wake_; // eventfd, key 0: a task was posted or stop() called
    base::Atomic<bool> stopped_{false};
    virtio::Guarded<State> state_;
};

} // namespace vmm
