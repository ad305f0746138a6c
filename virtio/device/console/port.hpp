// ConsolePort: one port of the console - the pump between its pair of queues and its backend. Lives
// on the event loop's thread, all but reset().
#pragma once

#include <cstdint>
#include <optional>

#include "virtio/backend/port_backend.hpp"
#include "virtio/fault.hpp"
#include "virtio/queue/queue.hpp"

namespace virtio {

class ConsolePort {
public:
    explicit ConsolePort(PortBackend& backend) : backend_(backend) {}
    ConsolePort(const ConsolePort&) = delete;
    ConsolePort& operator=(const ConsolePort&) = delete;

    PortBackend& backend() { return backend_; }

    enum class Pumped : std::uint8_t {
        Idle,       // nothing more to do until an event
        Unfinished, // stopped to be fair to others: call again
    };
    // Moves what can be moved. Requires: the device's pass is held.
    Checked<Pumped> pump_input(Queue& receive);
    Checked<Pumped> pump_output(Queue& transmit);

    // Output that the backend does not have yet (as of the last pump_output).
    bool output_pending() const { return static_cast<bool>(output_); }
    // The backend takes no more output; what the guest sends is thrown away.
    bool output_closed() const { return output_closed_; }

    // Drops the chains in hand. Requires: the gate is closed and empty.
    void reset();

private:
    PortBackend& backend_;
    Chain input_;                              // waits for data
    Chain output_;                             // partly written
    std::optional<ChainReader> output_cursor_; // where in `output_`
    bool input_ended_ = false;
    bool output_closed_ = false;
};

} // namespace virtio
