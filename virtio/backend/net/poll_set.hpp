// PollSet: what a library that thinks in poll(2) wants to wait for, kept in an epoll instance: a
// list made anew each time costs system calls only where it differs from the one before. One
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "base/result.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace virtio {

class PollSet {
public:
    static base::Result<PollSet, HostError> create();

    // Readable when anything of the set is ready.
    int fd() const { return epoll_.get(); }

    // A new list: begin(), add() for each, end(). add() returns the number by which ready() is
    // asked. `events`: EPOLL*.
    void begin();
    int add(int fd, std::uint32_t events);
    void end();

    // Looks which are ready, without waiting; false: none.
    bool look();
    std::uint32_t ready(int number) const;

    // The descriptor is about to be closed.
    void forget(int fd);

private:
    explicit PollSet(UniqueFd epoll) : epoll_(std::move(epoll)) {}
    struct Entry {
        std::uint32_t events = 0; // as epoll knows it; 0: it does not
        std::uint32_t list = 0;   // the last list that it was on
        int number = -1;          // in that list
    };
    void apply(int fd, Entry& entry, std::uint32_t events);

    UniqueFd epoll_;
    std::vector<Entry> entries_;       // by descriptor
    std::vector<int> watched_;         // descriptors that epoll may know
    std::vector<std::uint32_t> ready_; // by number
    std::uint32_t list_ = 0;
};

} // namespace virtio
