// Signals as events: blocked in the whole process and read from a signalfd, so that they are
// handled on the event loop's thread like everything else.
#pragma once

#include <functional>
#include <initializer_list>

#include "tools/joey/outcome.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace joey {

class SignalQueue {
public:
    // Requires: one thread so far; threads started later inherit the mask.
    static Outcome<SignalQueue> block(std::initializer_list<int> signals);

    // Readable while a signal waits.
    int fd() const { return fd_.get(); }
    // Hands each waiting signal to `handle`.
    void take(const std::function<void(int signal)>& handle);

private:
    explicit SignalQueue(virtio::UniqueFd fd) : fd_(std::move(fd)) {}
    virtio::UniqueFd fd_;
};

} // namespace joey
