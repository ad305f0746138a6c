#include "vmm/machine/event_loop.hpp"

#include <array>
#include <cerrno>
#include <chrono>
#include <unistd.h>

#include <sys/epoll.h>
#include <sys/eventfd.h>

namespace vmm {
namespace {

constexpr std::uint64_t wake_key = 0;

std::uint32_t epoll_events(virtio::Interest interest) {
    return (interest.read ? std::uint32_t{EPOLLIN} : 0u) |
           (interest.write ? std::uint32_t{EPOLLOUT} : 0u);
}

base::Failure<virtio::HostError> host_error(const char* action) {
    return base::Failure(virtio::HostError{errno, action});
}

} // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    virtio::UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    if (!epoll)
        return fail(errno, "epoll_create1");
    virtio::UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!wake)
        return fail(errno, "eventfd");
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = wake_key;
    if (epoll_ctl(epoll.get(), EPOLL_CTL_ADD, wake.get(), &event) < 0)
        return fail(errno, "epoll_ctl");
    return std::unique_ptr<EventLoop>(new EventLoop(std::move(epoll), std::move(wake)));
}

base::Result<void, virtio::HostError> EventLoop::add(int fd, virtio::Interest interest,
                                                     Callback callback) {
    return state_.with([&](State& state) -> base::Result<void, virtio::HostError> {
        const std::uint64_t key = state.next_key++;
        epoll_event event{};
        event.events = epoll_events(interest);
        event.data.u64 = key;
        if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0)
            return host_error("watch a descriptor");
        state.watches[key] = std::make_shared<Watch>(Watch{fd, std::move(callback)});
        state.keys[fd] = key;
        return {};
    });
}

base::Result<void, virtio::HostError> EventLoop::modify(int fd, virtio::Interest interest) {
    return state_.with([&](State& state) -> base::Result<void, virtio::HostError> {
        const auto key = state.keys.find(fd);
        if (key == state.keys.end()) {
            errno = ENOENT;
            return host_error("change the watch of a descriptor");
        }
        epoll_event event{};
        event.events = epoll_events(interest);
        event.data.u64 = key->second;
        if (epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event) < 0)
            return host_error("change the watch of a descriptor");
        return {};
    });
}

void EventLoop::remove(int fd) {
    state_.with([&](State& state) {
        const auto key = state.keys.find(fd);
        if (key == state.keys.end())
            return;
        // Fails only if the descriptor was closed already, which removed it as well.
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
        state.watches.erase(key->second);
        state.keys.erase(key);
    });
}

void EventLoop::post(std::function<void()> task) {
    state_.with([&](State& state) { state.tasks.push_back(std::move(task)); });
    wake();
}

void EventLoop::stop() {
    stopped_.store(true);
    wake();
}

void EventLoop::wake() {
    const std::uint64_t one = 1;
    // Fails only when the counter is full, and then the loop is awake anyway.
    [[maybe_unused]] const ssize_t written = write(wake_.get(), &one, sizeof(one));
}

void EventLoop::run_tasks() {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof(count));
    const auto tasks = state_.with([](State& state) { return std::exchange(state.tasks, {}); });
    for (const auto& task : tasks)
        task();
}

void EventLoop::dispatch(std::uint64_t key, std::uint32_t events) {
    const auto watch = state_.with([key](State& state) -> std::shared_ptr<Watch> {
        const auto found = state.watches.find(key);
        return found == state.watches.end() ? nullptr : found->second;
    });
    if (!watch)
        return;
    const bool gone = (events & (EPOLLHUP | EPOLLERR)) != 0;
    watch->callback({(events & EPOLLIN) != 0 || gone, (events & EPOLLOUT) != 0 || gone, gone});
}

Result<void> EventLoop::wait(int timeout_ms) {
    std::array<epoll_event, 16> events{};
    const int count =
        epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), timeout_ms);
    if (count < 0 && errno != EINTR)
        return fail(errno, "epoll_wait");
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        if (event.data.u64 == wake_key)
            run_tasks();
        else
            dispatch(event.data.u64, event.events);
    }
    return {};
}

Result<void> EventLoop::run() {
    while (!stopped_.load())
        TRY(wait(-1));
    return {};
}

Result<void> EventLoop::run_until(const std::function<bool()>& done, int limit_ms) {
    using std::chrono::steady_clock;
    const auto end = steady_clock::now() + std::chrono::milliseconds(limit_ms);
    while (!done()) {
        const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - steady_clock::now());
        if (left.count() <= 0)
            break;
        TRY(wait(static_cast<int>(left.count())));
    }
    return {};
}

} // namespace vmm
