// FdStream: one direction of a host stream, without blocking the event loop and without harm to
// others.
//
// The caller's streams are not ours alone: O_NONBLOCK belongs to the open file description, which a
// shell and its other children share, so it is never set on a descriptor we were given. What can
// block is opened anew through /proc/self/fd (pipes, terminals), used with MSG_DONTWAIT (sockets),
// or polled first.
//
// The process must ignore SIGPIPE; a reader that went away shows as Ended.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <sys/types.h>

#include "base/result.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/port_backend.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace virtio {

class FdStream {
public:
    enum class Direction : std::uint8_t { Input, Output };

    enum class Kind : std::uint8_t {
        NeverBlocks, // regular files, block devices
        NonBlocking, // our own open file description with O_NONBLOCK
        Socket,      // MSG_DONTWAIT
        PollFirst,   // shared with others: poll, then move no more than poll promises
    };
    // A descriptor of our own, and how to use it.
    struct Prepared {
        UniqueFd fd;
        Kind kind = Kind::PollFirst;
        Direction direction = Direction::Input;
        std::size_t write_limit = 0; // bytes at a time; only PollFirst has one
    };

    // Opens the stream anew, or duplicates `fd`; fails if it is not open for this direction. Call
    // it before the process is sandboxed: it needs /proc, and the right to open terminals.
    static base::Result<Prepared, HostError> prepare(int fd, Direction direction);
    FdStream(EventLoop& loop, Prepared prepared) : loop_(loop), stream_(std::move(prepared)) {}
    // Both in one.
    static base::Result<std::unique_ptr<FdStream>, HostError> open(EventLoop& loop, int fd,
                                                                   Direction direction);

    FdStream(const FdStream&) = delete;
    FdStream& operator=(const FdStream&) = delete;
    ~FdStream();

    // Runs on the loop's thread after watch(), when it is worth trying again.
    void on_ready(std::function<void()> callback) { ready_ = std::move(callback); }
    // Blocked does not watch by itself.
    Transfer read(std::span<const struct iovec> into);
    Transfer write(std::span<const struct iovec> from);
    // Watches for readiness, once: on_ready's callback runs and the watch ends. Idempotent.
    void watch();

    // The errno behind Ended: 0 at end of file, EPIPE, ENOSPC, ...
    int end_reason() const { return end_reason_; }

private:
    bool ready_now() const;
    Transfer finish(ssize_t moved);
    Transfer ended(int reason);

    EventLoop& loop_;
    Prepared stream_;
    bool watching_ = false;
    int end_reason_ = 0;
    std::function<void()> ready_;
};

} // namespace virtio
