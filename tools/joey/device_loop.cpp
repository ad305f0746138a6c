#include "tools/joey/device_loop.hpp"

#include <array>
#include <cerrno>
#include <cstring>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <fmt/format.h>

namespace joey {
namespace {

struct epoll_event make_event(int fd, virtio::Interest interest) {
    struct epoll_event event {};
    event.events = (interest.read ? EPOLLIN : 0u) | (interest.write ? EPOLLOUT : 0u);
    event.data.fd = fd;
    return event;
}

} // namespace

Outcome<std::unique_ptr<DeviceLoop>> DeviceLoop::create() {
    vmm::UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    vmm::UniqueFd wake(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    if (!epoll || !wake)
        return fail(fmt::format("cannot make an event loop: {}", std::strerror(errno)));
    struct epoll_event event = make_event(wake.get(), {.read = true, .write = false});
    if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) != 0)
        return fail(fmt::format("cannot set up an event loop: {}", std::strerror(errno)));
    return std::unique_ptr<DeviceLoop>(new DeviceLoop(std::move(epoll), std::move(wake)));
}

void DeviceLoop::dispatch() {
    std::array<struct epoll_event, 16> events{};
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), 0);
    for (int i = 0; i < count; ++i) {
        const struct epoll_event& event = events[static_cast<std::size_t>(i)];
        const int fd = event.data.fd;
        if (fd == wake_.get()) {
            run_tasks();
            continue;
        }
        std::shared_ptr<Callback> callback;
        callbacks_.with([&](auto& map) {
            if (const auto found = map.find(fd); found != map.end())
                callback = found->second;
        });
        if (!callback)
            continue; // removed by an earlier callback of this round
        const bool hangup = (event.events & (EPOLLHUP | EPOLLERR)) != 0;
        (*callback)({.readable = hangup || (event.events & EPOLLIN) != 0,
                     .writable = hangup || (event.events & EPOLLOUT) != 0,
                     .hangup = hangup});
    }
}

void DeviceLoop::run_tasks() {
    std::uint64_t count = 0;
    static_cast<void>(!::read(wake_.get(), &count, sizeof count));
    std::vector<std::function<void()>> due;
    tasks_.with([&](auto& tasks) { due.swap(tasks); });
    for (const auto& task : due)
        task();
}

base::Result<void, virtio::HostError> DeviceLoop::add(int fd, virtio::Interest interest,
                                                      Callback callback) {
    return callbacks_.with([&](auto& map) -> base::Result<void, virtio::HostError> {
        struct epoll_event event = make_event(fd, interest);
        if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
            return base::Failure(virtio::HostError{errno, "watch a descriptor"});
        map[fd] = std::make_shared<Callback>(std::move(callback));
        return {};
    });
}

base::Result<void, virtio::HostError> DeviceLoop::modify(int fd, virtio::Interest interest) {
    struct epoll_event event = make_event(fd, interest);
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) != 0)
        return base::Failure(virtio::HostError{errno, "change what a descriptor is watched for"});
    return {};
}

void DeviceLoop::remove(int fd) {
    callbacks_.with([&](auto& map) {
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
        map.erase(fd);
    });
}

void DeviceLoop::post(std::function<void()> task) {
    tasks_.with([&](auto& tasks) { tasks.push_back(std::move(task)); });
    const std::uint64_t one = 1;
    static_cast<void>(!::write(wake_.get(), &one, sizeof one));
}

} // namespace joey
