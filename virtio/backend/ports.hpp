// The backends of console ports: FdPort over the caller's streams, MessagePort for records of the
// VMM.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <span>

#include "virtio/backend/fd_stream.hpp"
#include "virtio/backend/port_backend.hpp"

namespace virtio {

// Input and output are host streams; either may be null: then guest output vanishes, and guest
// input is at its end from the start.
class FdPort final : public PortBackend {
public:
    FdPort(std::unique_ptr<FdStream> input, std::unique_ptr<FdStream> output);

    // Runs once, after the guest was given the last byte of input: here the VMM sends stdin_closed
    // on the control port. The guest sees the two in this order if it empties the stdio port's
    // queue before it acts on the message.
    void on_end_of_input(std::function<void()> callback) { end_of_input_ = std::move(callback); }
    // Runs once, when output can go nowhere any more; EPIPE if the reader is gone, else the host's
    // reason.
    void on_output_closed(std::function<void(int error)> callback) {
        output_closed_ = std::move(callback);
    }

    void attach(PortEvents& events) override;
    Transfer read(std::span<const struct iovec> into) override;
    Transfer write(std::span<const struct iovec> from) override;

private:
    std::unique_ptr<FdStream> input_;
    std::unique_ptr<FdStream> output_;
    std::function<void()> end_of_input_;
    std::function<void(int)> output_closed_;
    bool input_ended_ = false;
    bool output_ended_ = false;
};

// Records from the host to the guest (boot::ControlMessage), in order. To the guest they are a byte
// stream: buffers of a multiple of the record's size receive whole records. Guest output goes to a
// handler.
class MessagePort final : public PortBackend {
public:
    // A guest that does not read must not fill the host's memory: beyond this, records are refused.
    static constexpr std::size_t max_pending = std::size_t{64} << 10;

    void on_output(std::function<void(std::span<const std::byte>)> handler) {
        output_ = std::move(handler);
    }
    // On the loop's thread. False: refused, the guest does not read its records.
    bool send(std::span<const std::byte> record);

    void attach(PortEvents& events) override { events_ = &events; }
    Transfer read(std::span<const struct iovec> into) override;
    Transfer write(std::span<const struct iovec> from) override;

private:
    PortEvents* events_ = nullptr;
    std::deque<std::byte> pending_;
    std::function<void(std::span<const std::byte>)> output_;
};

} // namespace virtio
