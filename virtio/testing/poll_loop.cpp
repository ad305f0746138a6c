#include "virtio/testing/poll_loop.hpp"

#include <cerrno>
#include <poll.h>
#include <utility>
#include <vector>

#include <sys/stat.h>

namespace virtio::testing {

base::Result<void, HostError> PollLoop::add(int fd, Interest interest, Callback callback) {
    struct stat status {};
    if (::fstat(fd, &status) != 0)
        return base::Failure(HostError{errno, "watch"});
    if (S_ISREG(status.st_mode))
        return base::Failure(HostError{EPERM, "watch"});
    if (watches_.contains(fd))
        return base::Failure(HostError{EEXIST, "watch"});
    watches_[fd] = {interest, std::make_shared<Callback>(std::move(callback))};
    return {};
}

base::Result<void, HostError> PollLoop::modify(int fd, Interest interest) {
    const auto found = watches_.find(fd);
    if (found == watches_.end())
        return base::Failure(HostError{ENOENT, "watch"});
    found->second.interest = interest;
    return {};
}

void PollLoop::settle() {
    while (turn()) {
    }
}

bool PollLoop::turn() {
    bool worked = false;
    std::deque<std::function<void()>> tasks;
    tasks.swap(tasks_);
    for (const auto& task : tasks) {
        task();
        worked = true;
    }
    std::vector<struct pollfd> ready;
    for (const auto& [fd, watch] : watches_) {
        const int events =
            (watch.interest.read ? POLLIN : 0) | (watch.interest.write ? POLLOUT : 0);
        ready.push_back({fd, static_cast<short>(events), 0});
    }
    if (::poll(ready.data(), ready.size(), 0) <= 0)
        return worked;
    for (const struct pollfd& one : ready) {
        const auto found = watches_.find(one.fd);
        if (one.revents == 0 || found == watches_.end())
            continue;
        const auto callback = found->second.callback; // it may remove itself
        const bool hangup = (one.revents & (POLLHUP | POLLERR)) != 0;
        (*callback)({(one.revents & POLLIN) != 0 || hangup, (one.revents & POLLOUT) != 0 || hangup,
                     hangup});
        worked = true;
    }
    return worked;
}

} // namespace virtio::testing
