// VsockChannel: the host's end of one vsock connection - a stream or a sequence of messages in each
// direction, either of which can end by itself. Nothing of virtio in it. All calls, in both
// directions, are on the event loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include <sys/uio.h>

#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/port_backend.hpp"

namespace virtio {

enum class VsockType : std::uint8_t { Stream, SeqPacket };

class VsockChannelEvents {
public:
    virtual ~VsockChannelEvents() = default;
    // What was watched for is there. May destroy the channel.
    virtual void channel_ready(Readiness readiness) = 0;
};

class VsockChannel {
public:
    virtual ~VsockChannel() = default;

    void attach(VsockChannelEvents* events) { events_ = events; }
    // SeqPacket: one message; the caller asked next_message() for its size and has room for it.
    virtual Transfer read(std::span<const struct iovec> into) = 0;
    // SeqPacket: one message, whole or not at all.
    virtual Transfer write(std::span<const struct iovec> from) = 0;
    // The size of the message that read() would give: Blocked, Ended, or Done with its size.
    virtual Transfer next_message() = 0;
    // Ends a direction: the program at the other end reads an end, or fails to write.
    virtual void shut(bool reading, bool writing) = 0;
    // Whether the other end is gone altogether, not just one direction of it.
    virtual bool hung_up() = 0;
    // What channel_ready() is to tell of; a hangup is told once in any case.
    virtual void watch(Interest interest) = 0;

protected:
    VsockChannelEvents* events_ = nullptr;
};

// What the device offers to those who connect from the host.
class VsockHost {
public:
    virtual ~VsockHost() = default;
    // `done` runs once, on the loop's thread: with the host's port when the guest has accepted,
    // before any byte moves; with 0 when it has not, or the channel has hung up before.
    virtual void open(std::uint32_t guest_port, VsockType type,
                      std::unique_ptr<VsockChannel> channel,
                      std::function<void(std::uint32_t host_port)> done) = 0;
    // Whether open() would take one more connection now.
    virtual bool has_room() const = 0;
};

// What is behind the host's ports.
class VsockBackend {
public:
    virtual ~VsockBackend() = default;
    // Once, before the loop runs; the host outlives every call.
    virtual void attach(VsockHost& host) = 0;
    // The guest asks for a port of the host. `done` runs once, on the loop's thread, during this
    // call or later; null: nobody is there.
    virtual void connect(std::uint32_t host_port, VsockType type,
                         std::function<void(std::unique_ptr<VsockChannel>)> done) = 0;
    // A connection ended: there may be room for one that waits.
    virtual void room_again() = 0;
};

} // namespace virtio
