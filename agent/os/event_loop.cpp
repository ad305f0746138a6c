#include "agent/os/event_loop.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <sys/epoll.h>
#include <sys/eventfd.h>

namespace os {

namespace {

// A descriptor's number comes back as soon as it is closed; the generation tells an event that was
// already fetched for the old owner from one for the new.
std::uint64_t key_of(int fd, std::uint32_t generation) {
    return std::uint64_t{generation} << 32 | static_cast<std::uint32_t>(fd);
}

} // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create() {
    UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
    UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll || !wake)
        return fail_errno(errno, "create an event loop");
    std::unique_ptr<EventLoop> loop(new EventLoop(std::move(epoll), std::move(wake)));
    EventLoop* self = loop.get();
    TRY(self->watch(self->wake_.get(), EPOLLIN, [self](std::uint32_t) {
        std::uint64_t count = 0;
        [[maybe_unused]] const ssize_t got = read(self->wake_.get(), &count, sizeof count);
        std::vector<Action> posted;
        {
            const std::lock_guard guard(self->posted_lock_);
            posted.swap(self->posted_);
        }
        for (const Action& action : posted)
            action();
    }));
    return loop;
}

Result<void> EventLoop::watch(int fd, std::uint32_t events, Ready ready) {
    const std::uint32_t generation = ++generation_;
    epoll_event event{.events = events, .data = {.u64 = key_of(fd, generation)}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        return fail_errno(errno, "watch a descriptor");
    watches_[fd] = {std::make_shared<Ready>(std::move(ready)), generation};
    return {};
}

void EventLoop::change(int fd, std::uint32_t events) {
    const auto found = watches_.find(fd);
    if (found == watches_.end())
        return;
    epoll_event event{.events = events, .data = {.u64 = key_of(fd, found->second.generation)}};
    epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::forget(int fd) {
    if (watches_.erase(fd) != 0)
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::after(std::chrono::nanoseconds delay, Action action) {
    const TimerId timer = ++last_timer_;
    // A delay without end would overflow the clock.
    const std::chrono::nanoseconds bounded =
        std::min<std::chrono::nanoseconds>(delay, std::chrono::hours(24 * 365));
    timers_.emplace(Clock::now() + bounded, std::pair(timer, std::move(action)));
    return timer;
}

void EventLoop::cancel(TimerId timer) {
    const auto found = std::find_if(timers_.begin(), timers_.end(),
                                    [&](const auto& entry) { return entry.second.first == timer; });
    if (found != timers_.end())
        timers_.erase(found);
}

void EventLoop::post(Action action) {
    {
        const std::lock_guard guard(posted_lock_);
        posted_.push_back(std::move(action));
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t put = write(wake_.get(), &one, sizeof one);
}

void EventLoop::run() {
    stopped_ = false;
    while (!stopped_)
        run_once(std::chrono::milliseconds(-1));
}

int EventLoop::wait_milliseconds(std::chrono::milliseconds timeout) const {
    if (!deferred_.empty())
        return 0;
    if (timers_.empty())
        return static_cast<int>(timeout.count());
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(timers_.begin()->first - Clock::now());
    const auto wait = std::clamp<std::int64_t>(left.count(), 0, 1'000'000);
    if (timeout.count() < 0)
        return static_cast<int>(wait);
    return static_cast<int>(std::min<std::int64_t>(wait, timeout.count()));
}

void EventLoop::run_once(std::chrono::milliseconds timeout) {
    std::array<epoll_event, 64> events{};
    const int count =
        epoll_wait(epoll_.get(), events.data(), events.size(), wait_milliseconds(timeout));
    for (int i = 0; i < count; ++i)
        dispatch(events[static_cast<std::size_t>(i)].data.u64,
                 events[static_cast<std::size_t>(i)].events);
    run_timers();
    run_deferred();
}

void EventLoop::dispatch(std::uint64_t key, std::uint32_t events) {
    const auto found = watches_.find(static_cast<int>(key & 0xffffffff));
    if (found == watches_.end() || found->second.generation != key >> 32)
        return;
    // The handler may forget itself.
    const std::shared_ptr<Ready> ready = found->second.ready;
    (*ready)(events);
}

void EventLoop::run_timers() {
    const Clock::time_point now = Clock::now();
    while (!timers_.empty() && timers_.begin()->first <= now) {
        const Action action = std::move(timers_.begin()->second.second);
        timers_.erase(timers_.begin());
        action();
    }
}

void EventLoop::run_deferred() {
    std::vector<Action> actions;
    actions.swap(deferred_);
    for (const Action& action : actions)
        action();
}

} // namespace os
