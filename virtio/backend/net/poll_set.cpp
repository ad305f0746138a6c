#include "virtio/backend/net/poll_set.hpp"

#include <algorithm>
#include <array>
#include <cerrno>

#include <sys/epoll.h>

namespace virtio {

base::Result<PollSet, HostError> PollSet::create() {
    UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (!epoll)
        return base::Failure(HostError{errno, "make an epoll instance"});
    return PollSet(std::move(epoll));
}

void PollSet::begin() {
    ++list_;
    ready_.clear();
}

int PollSet::add(int fd, std::uint32_t events) {
    const auto index = static_cast<std::size_t>(fd);
    if (index >= entries_.size())
        entries_.resize(index + 1);
    Entry& entry = entries_[index];
    entry.list = list_;
    entry.number = static_cast<int>(ready_.size());
    ready_.push_back(0);
    apply(fd, entry, events);
    return entry.number;
}

void PollSet::end() {
    const auto gone = [this](int fd) {
        Entry& entry = entries_[static_cast<std::size_t>(fd)];
        if (entry.list != list_ && entry.events != 0)
            apply(fd, entry, 0);
        return entry.events == 0;
    };
    watched_.erase(std::remove_if(watched_.begin(), watched_.end(), gone), watched_.end());
}

void PollSet::apply(int fd, Entry& entry, std::uint32_t events) {
    if (entry.events == events)
        return;
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (events == 0) {
        // Taken out, not muted: epoll tells of hang-ups that nobody asked for.
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, &event);
    } else if (entry.events != 0) {
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
    } else {
        ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event);
        if (std::find(watched_.begin(), watched_.end(), fd) == watched_.end())
            watched_.push_back(fd);
    }
    entry.events = events;
}

bool PollSet::look() {
    std::array<epoll_event, 64> events;
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 0);
    for (int i = 0; i < count; ++i) {
        const epoll_event& event = events[static_cast<std::size_t>(i)];
        const Entry& entry = entries_[static_cast<std::size_t>(event.data.fd)];
        if (entry.list == list_)
            ready_[static_cast<std::size_t>(entry.number)] = event.events;
    }
    return count > 0;
}

std::uint32_t PollSet::ready(int number) const {
    const auto index = static_cast<std::size_t>(number);
    return number >= 0 && index < ready_.size() ? ready_[index] : 0;
}

void PollSet::forget(int fd) {
    const auto index = static_cast<std::size_t>(fd);
    if (index >= entries_.size())
        return;
    apply(fd, entries_[index], 0);
    entries_[index].list = 0;
}

} // namespace virtio
