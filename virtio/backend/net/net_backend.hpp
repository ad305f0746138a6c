// What a network device needs of the host: ports, one per queue pair, that take and give frames
// with a virtio-net header in front. Everything of a port runs on its event loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

#include "virtio/device/net/protocol.hpp"

namespace virtio {

// What a port tells its device.
class NetPortEvents {
public:
    virtual ~NetPortEvents() = default;
    // receive() may have something.
    virtual void readable() = 0;
    // send() was Full and may go on.
    virtual void writable() = 0;
    // A frame of a port that has it in memory anyway. False: no room now; the port keeps it for
    // receive(), or drops it.
    virtual bool deliver(std::span<const std::byte> frame) = 0;
};

class NetPort {
public:
    virtual ~NetPort() = default;

    // Before the loop runs.
    virtual void attach(NetPortEvents& events) = 0;

    enum class Sent : std::uint8_t { Taken, Full, Refused };
    // Sends one frame of `length` bytes; never waits. The header was checked; so was the first
    // piece, which is not guest memory. Everything behind it the guest may change at any time.
    virtual Sent send(const NetHeader& header, std::span<const struct iovec> frame,
                      std::size_t length) = 0;
    // The end of a batch of send().
    virtual void flush() {}

    // Reads a header and a frame into `room`; 0: there is none now. A frame that is too long for
    // the room is cut.
    virtual std::size_t receive(std::span<const struct iovec> room) = 0;
    // Whether readable() is wanted; off at first.
    virtual void watch(bool on) = 0;
};

class NetBackend {
public:
    virtual ~NetBackend() = default;

    virtual unsigned pairs() const = 0;
    virtual NetPort& port(unsigned pair) = 0;
    // NetFeature bits of what it can do with checksums and segments, in both directions.
    virtual std::uint64_t offloads() const = 0;
    // The next two: on the thread of port 0. What the driver takes (GUEST_* bits).
    virtual void set_guest_offloads(std::uint64_t features) = 0;
    // How many pairs the driver serves; frames come on these only.
    virtual void set_active_pairs(unsigned pairs) = 0;
};

} // namespace virtio
