// Console: virtio-console with VIRTIO_CONSOLE_F_MULTIPORT and VIRTIO_CONSOLE_F_SIZE
// (virtio 1.2, 5.3). Each port connects a pair of queues with a PortBackend.
//
// Threads: all queues are NotifyStyle::Eventfd and everything happens on the event loop's thread,
// except activate and reset, which come from a vCPU thread and meet it at the Gate.
//
// Flow control: a chain that the backend cannot take yet is kept, so bytes are neither dropped nor
// reordered and the guest runs out of buffers, as a writer to a full pipe does. Input is read
// straight into the guest's buffers, and only while it has posted any.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/port_backend.hpp"
#include "virtio/device/device.hpp"

namespace virtio {

class Console final : public Device {
public:
    struct Port {
        PortBackend* backend; // not owned; outlives the console
        const char* name;     // for VIRTIO_CONSOLE_PORT_NAME
        bool is_console;      // a terminal
    };

    // Port i of the list is port i of the device. `loop` is the one whose thread calls notify().
    Console(EventLoop& loop, std::vector<Port> ports);
    ~Console() override;

    // The terminal's size, of port 0. On the loop's thread.
    void resize(std::uint16_t columns, std::uint16_t rows);

    // Takes all output that the guest has queued and calls `done` once the backends have it all (or
    // are closed): how the VMM makes sure that nothing is lost before it ends. On the loop's
    // thread, once.
    void drain(std::function<void()> done);

protected:
    Checked<void> on_notify(std::uint32_t queue_index) override;
    void on_reset() override;

private:
    class PortState;
    struct ControlState;

    Checked<void> pump_control_in();
    Checked<void> handle_control(Chain& chain);
    void send_control(std::uint32_t port, std::uint16_t event, std::uint16_t value,
                      const char* text = nullptr);
    void flush_control();
    void check_drained();

    EventLoop& loop_;
    std::vector<std::unique_ptr<PortState>> ports_;
    std::unique_ptr<ControlState> control_;
    std::function<void()> drained_;
};

} // namespace virtio
