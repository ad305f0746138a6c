// DeviceLoop: the event loop that virtio backends ask for, on the machine's event loop. It is an
// epoll instance of its own, watched by the machine's, so that other threads may add and remove
// descriptors at any time.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "tools/joey/outcome.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/guarded.hpp"
#include "vmm/kvm/unique_fd.hpp"

namespace joey {

class DeviceLoop final : public virtio::EventLoop {
public:
    static Outcome<std::unique_ptr<DeviceLoop>> create();

    // Readable when dispatch() has something to do.
    int fd() const { return epoll_.get(); }
    // Runs the callbacks and tasks that are due, on the caller's thread: always the same one.
    void dispatch();

    base::Result<void, virtio::HostError> add(int fd, virtio::Interest interest,
                                              Callback callback) override;
    base::Result<void, virtio::HostError> modify(int fd, virtio::Interest interest) override;
    void remove(int fd) override;
    void post(std::function<void()> task) override;

private:
    DeviceLoop(vmm::UniqueFd epoll, vmm::UniqueFd wake)
        : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
    void run_tasks();

    vmm::UniqueFd epoll_;
    vmm::UniqueFd wake_; // eventfd: tasks_ is not empty
    // shared_ptr: a callback may remove itself while it runs.
    virtio::Guarded<std::map<int, std::shared_ptr<Callback>>> callbacks_;
    virtio::Guarded<std::vector<std::function<void()>>> tasks_;
};

} // namespace joey
