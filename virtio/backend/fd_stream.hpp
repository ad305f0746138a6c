// Port backends over file descriptors and over messages.
//
// The caller's streams are not ours alone: O_NONBLOCK belongs to the open file description, which a
// shell and its other children share, so it is never set on a descriptor we were given. What can
// block is opened anew through /proc/self/fd (pipes, terminals), used with MSG_DONTWAIT (sockets),
// or polled first.
#pragma once

#include <deque>
#include <functional>
#include <memory>

#include "base/result.hpp"
#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/port_backend.hpp"
#include "virtio/backend/unique_fd.hpp"

namespace virtio {

// One direction of a host stream.
class FdStream {
public:
    enum class Direction : std::uint8_t { Input, Output };

    // Duplicates `fd`; fails if it is not open for this direction. Call before the process is
    // sandboxed.
    static base::Result<std::unique_ptr<FdStream>, HostError> open(EventLoop& loop, int fd,
                                                                   Direction direction);

    FdStream(const FdStream&) = delete;
    FdStream& operator=(const FdStream&) = delete;
    ~FdStream();

    // Called on the loop's thread when it is worth trying again.
    void on_ready(std::function<void()> callback) { ready_ = std::move(callback); }
    Transfer read(std::span<const struct iovec> into);
    Transfer write(std::span<const struct iovec> from);
    // Watches for readiness, once: on_ready's callback runs and the watch ends. Idempotent.
    void watch();
    void unwatch();

private:
    enum class Kind : std::uint8_t {
        NeverBlocks, // regular files, /dev/null and the like
        NonBlocking, // our own open file description with O_NONBLOCK
        Socket,      // MSG_DONTWAIT
        PollFirst,   // shared with others: poll, then move no more than poll promises
    };
    FdStream(EventLoop& loop, UniqueFd fd, Kind kind, Direction direction);
    Transfer finish(ssize_t moved);

    EventLoop& loop_;
    UniqueFd fd_;
    Kind kind_;
    Direction direction_;
    bool added_ = false;
    bool watching_ = false;
    std::function<void()> ready_;
};

// A port whose input and output are host streams; either may be null: then guest output vanishes,
// and guest input never comes (end of input is announced at once).
class FdPort final : public PortBackend {
public:
    // `on_end_of_input` runs once, after the guest was given the last byte of input: here the VMM
    // sends stdin_closed on the control port. `on_output_closed` runs once, when the reader is gone
    // (EPIPE).
    FdPort(std::unique_ptr<FdStream> input, std::unique_ptr<FdStream> output);
    void on_end_of_input(std::function<void()> callback) { end_of_input_ = std::move(callback); }
    void on_output_closed(std::function<void()> callback) { output_closed_ = std::move(callback); }

    void attach(PortEvents& events) override;
    Transfer read(std::span<const struct iovec> into) override;
    void cancel_input() override;
    Transfer write(std::span<const struct iovec> from) override;

private:
    std::unique_ptr<FdStream> input_;
    std::unique_ptr<FdStream> output_;
    std::function<void()> end_of_input_;
    std::function<void()> output_closed_;
    PortEvents* events_ = nullptr;
    bool input_ended_ = false;
    bool output_ended_ = false;
};

// A port for records from the host to the guest (ControlMessage); each record is delivered whole
// and in order, possibly several to a buffer. Guest output goes to a handler, as a byte stream.
class MessagePort final : public PortBackend {
public:
    explicit MessagePort(EventLoop& loop) : loop_(loop) {}
    void on_output(std::function<void(std::span<const std::byte>)> handler) {
        output_ = std::move(handler);
    }

    // From the loop's thread.
    void send(std::span<const std::byte> record);

    void attach(PortEvents& events) override { events_ = &events; }
    Transfer read(std::span<const struct iovec> into) override;
    void cancel_input() override {}
    Transfer write(std::span<const struct iovec> from) override;

private:
    EventLoop& loop_;
    PortEvents* events_ = nullptr;
    std::deque<std::byte> pending_;
    std::function<void(std::span<const std::byte>)> output_;
};

} // namespace virtio
