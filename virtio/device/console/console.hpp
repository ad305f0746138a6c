// Console: virtio-console with VIRTIO_CONSOLE_F_MULTIPORT and VIRTIO_CONSOLE_F_SIZE
// (virtio 1.2, 5.3). Each port connects a pair of queues with a PortBackend; all ports work from
// DRIVER_OK on, whether or not the driver takes part in the port handshake on the control queues.
//
// Threads: all queues are NotifyStyle::Eventfd and must be notified from the event loop's thread,
// on which everything happens, except activate and reset: these come from a vCPU thread and meet it
// at the Gate.
//
// Flow control: a chain that the backend cannot take yet is kept, so bytes are neither dropped nor
// reordered and the guest runs out of buffers, as a writer to a full pipe does. Input is read
// straight into the guest's buffers, and only while it has posted any. When the reader of a port's
// output is gone, what the guest still sends is thrown away and the driver is told with
// VIRTIO_CONSOLE_PORT_OPEN = 0.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/port_backend.hpp"
#include "virtio/device/device.hpp"

namespace virtio {

// Queues of port `port` (5.3.2): port 0 has the first pair, the control queues the second.
constexpr std::uint32_t console_receive_queue(std::uint32_t port) {
    return port == 0 ? 0 : 2 * port + 2;
}
constexpr std::uint32_t console_transmit_queue(std::uint32_t port) {
    return console_receive_queue(port) + 1;
}
inline constexpr std::uint32_t console_control_receive_queue = 2;
inline constexpr std::uint32_t console_control_transmit_queue = 3;

class Console final : public Device {
public:
    struct Port {
        PortBackend* backend; // not owned; outlives the console
        const char* name;     // for VIRTIO_CONSOLE_PORT_NAME
        bool is_console;      // a terminal
    };

    // Port i of the list is port i of the device.
    Console(EventLoop& loop, const std::vector<Port>& ports);
    ~Console() override;

    // The terminal's size. On the loop's thread, or before it runs.
    void resize(std::uint16_t columns, std::uint16_t rows);

    // Takes all output that the guest has queued and calls `done` once the backends have it (or are
    // closed): how the VMM makes sure that nothing is lost before it ends. On the loop's thread,
    // once; the vCPUs should have stopped, or no longer write. `done` may run before this returns.
    void drain(std::function<void()> done);

protected:
    Checked<void> on_notify(std::uint32_t queue_index) override;
    void on_reset() override;

private:
    class PortState;

    Checked<void> run_input(PortState& port);
    Checked<void> run_output(PortState& port);
    Checked<void> receive_control();
    Checked<void> go_on_with_control(PortState& port);
    Checked<void> handle_control(const Chain& chain);
    Checked<void> send_control();
    Checked<std::uint32_t> write_next_control(const Chain& chain);
    void outside(Checked<void> (Console::*work)(PortState&), PortState& port);
    void later(bool& posted, Checked<void> (Console::*work)(PortState&), PortState& port);
    void check_drained();

    EventLoop& loop_;
    std::vector<std::unique_ptr<PortState>> ports_;
    std::uint16_t columns_ = 0;
    std::uint16_t rows_ = 0;
    bool control_posted_ = false;
    std::function<void()> drained_;
    // Tasks that we posted may run after we are gone.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace virtio
