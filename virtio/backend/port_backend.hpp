// PortBackend: the host side of one console port - a byte stream in each direction. Nothing of
// virtio in it. All calls, in both directions, are on the event loop's thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace virtio {

// How far a transfer got.
struct Transfer {
    enum class Outcome : std::uint8_t {
        Done,    // `bytes` > 0 were moved; maybe fewer than asked
        Blocked, // nothing moved; PortEvents will say when it is worth trying again
        Ended,   // nothing moved, and nothing ever will: end of input, or the reader is gone
    };
    Outcome outcome = Outcome::Blocked;
    std::size_t bytes = 0;
};

// The console port, as its backend sees it.
class PortEvents {
public:
    virtual ~PortEvents() = default;
    virtual void input_ready() = 0;  // read() is worth a try
    virtual void output_ready() = 0; // write() is worth a try
};

class PortBackend {
public:
    virtual ~PortBackend() = default;

    // Called once, before anything else.
    virtual void attach(PortEvents& events) = 0;
    // Guest input. Only called while the guest has room, so what is not asked for is not consumed.
    // After Blocked the backend watches for input, once.
    virtual Transfer read(std::span<const struct iovec> into) = 0;
    // Guest output. After Blocked the backend watches for room, once.
    virtual Transfer write(std::span<const struct iovec> from) = 0;
};

} // namespace virtio
