#include "virtio/device/console/console.hpp"

#include <array>
#include <bit>
#include <cstring>

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "virtio/device/console/port.hpp"

namespace virtio {

namespace {

constexpr std::uint16_t data_queue_size = 128;
constexpr std::uint16_t control_queue_size = 32;

// What the driver has yet to be told about a port, in the order in which it is told. A set, not a
// list of messages: a driver that asks again and again without reading answers costs no memory.
enum Tell : unsigned {
    tell_added = 1,
    tell_console = 2,
    tell_name = 4,
    tell_open = 8,
    tell_size = 16,
};

struct Resize { // 5.3.6.2
    std::uint16_t columns;
    std::uint16_t rows;
};

template <typename T>
std::span<const std::byte> bytes_of(const T& value) {
    return std::as_bytes(std::span(&value, 1));
}

DeviceInfo describe_console(std::size_t ports) {
    const virtio_console_config config{
        .cols = 0, .rows = 0, .max_nr_ports = static_cast<std::uint32_t>(ports), .emerg_wr = 0};
    const auto bytes = bytes_of(config);
    DeviceInfo info{.id = VIRTIO_ID_CONSOLE,
                    .features = 1u << VIRTIO_CONSOLE_F_SIZE | 1u << VIRTIO_CONSOLE_F_MULTIPORT,
                    .config = {bytes.begin(), bytes.end()}};
    // A pair for each port, and the control pair.
    info.queues.assign(2 * ports + 2, QueueInfo{data_queue_size, NotifyStyle::Eventfd});
    for (const auto control : {console_control_receive_queue, console_control_transmit_queue})
        info.queues[control].max_size = control_queue_size;
    return info;
}

} // namespace

class Console::PortState final : public PortEvents {
public:
    PortState(Console& owner, std::uint32_t port_number, const Port& port)
        : pump(*port.backend), number(port_number), name(port.name), is_console(port.is_console),
          console_(owner) {}

    void input_ready() override { console_.outside(&Console::run_input, *this); }
    void output_ready() override { console_.outside(&Console::run_output, *this); }

    ConsolePort pump;
    const std::uint32_t number;
    const char* const name;
    const bool is_console;
    unsigned tell = 0;
    bool driver_ready = false; // the driver said PORT_READY
    bool settled = true;       // the backend has all output that there was at the last look
    bool input_posted = false; // a task waits that goes on with it
    bool output_posted = false;

private:
    Console& console_;
};

Console::Console(EventLoop& loop, const std::vector<Port>& ports)
    : Device(describe_console(ports.size())), loop_(loop) {
    for (const Port& port : ports) {
        const auto number = static_cast<std::uint32_t>(ports_.size());
        ports_.push_back(std::make_unique<PortState>(*this, number, port));
        port.backend->attach(*ports_.back());
    }
}

Console::~Console() = default;

Checked<void> Console::on_notify(std::uint32_t queue_index) {
    if (queue_index == console_control_receive_queue)
        return send_control();
    if (queue_index == console_control_transmit_queue)
        return receive_control();
    for (const auto& port : ports_) {
        if (queue_index == console_receive_queue(port->number))
            return run_input(*port);
        if (queue_index == console_transmit_queue(port->number))
            return run_output(*port);
    }
    return {};
}

void Console::on_reset() {
    for (const auto& port : ports_) {
        port->pump.reset();
        port->tell = 0;
        port->driver_ready = false;
        port->settled = true;
    }
}

// Work that was not caused by a notification: a backend became ready, or the loop came back to us.
void Console::outside(Checked<void> (Console::*work)(PortState&), PortState& port) {
    const Gate::Pass pass(gate());
    if (!pass)
        return;
    const Checked<void> done = (this->*work)(port);
    if (!done)
        report(done.error());
}

// One task of a kind waits: each notification that comes before it runs would add one more, which a
// guest could have grow without end.
void Console::later(bool& posted, Checked<void> (Console::*work)(PortState&), PortState& port) {
    if (std::exchange(posted, true))
        return;
    loop_.post([this, &posted, work, &port, alive = std::weak_ptr<bool>(alive_)] {
        if (alive.expired())
            return;
        posted = false;
        outside(work, port);
    });
}

Checked<void> Console::run_input(PortState& port) {
    Queue* receive = queue(console_receive_queue(port.number));
    if (receive == nullptr)
        return {};
    TRY(const auto pumped, port.pump.pump_input(*receive));
    if (pumped == ConsolePort::Pumped::Unfinished)
        later(port.input_posted, &Console::run_input, port);
    return {};
}

Checked<void> Console::run_output(PortState& port) {
    Queue* transmit = queue(console_transmit_queue(port.number));
    if (transmit == nullptr)
        return {};
    const bool was_closed = port.pump.output_closed();
    const auto pumped = port.pump.pump_output(*transmit);
    if (pumped && *pumped == ConsolePort::Pumped::Unfinished)
        later(port.output_posted, &Console::run_output, port);
    // A driver at fault has nothing more to say: whoever waits for its output must not wait for
    // ever.
    port.settled = !pumped || (*pumped == ConsolePort::Pumped::Idle && !port.pump.output_pending());
    if (port.pump.output_closed() && !was_closed) {
        port.tell |= tell_open;
        TRY(send_control());
    }
    check_drained();
    if (!pumped)
        return base::Failure(pumped.error());
    return {};
}

Checked<void> Console::receive_control() {
    Queue& transmit = *queue(console_control_transmit_queue);
    // A round of the ring, then it is the turn of others on the loop: a guest that goes on adding
    // must not keep it, on which the machine's end depends too.
    for (unsigned taken = 0;; ++taken) {
        if (taken == transmit.size()) {
            later(control_posted_, &Console::go_on_with_control, *ports_.front());
            break;
        }
        TRY(Chain chain, transmit.pop());
        if (!chain)
            break;
        TRY(handle_control(chain));
        transmit.push_used(std::move(chain), 0);
    }
    transmit.interrupt_driver();
    return send_control();
}

Checked<void> Console::go_on_with_control(PortState&) {
    return queue(console_control_transmit_queue) == nullptr ? Checked<void>{} : receive_control();
}

Checked<void> Console::handle_control(const Chain& chain) {
    ChainReader reader(chain);
    const auto message = reader.read_object<virtio_console_control>();
    if (!message)
        return fault(FaultKind::Request, chain.readable_bytes(), console_control_transmit_queue);
    if (message->event == VIRTIO_CONSOLE_DEVICE_READY) {
        for (const auto& port : ports_)
            port->tell |= message->value == 1 ? tell_added : 0u;
        return {};
    }
    if (message->id >= ports_.size())
        return fault(FaultKind::Request, message->id, console_control_transmit_queue);
    PortState& port = *ports_[message->id];
    // PORT_OPEN from the driver says that a program opened the port: nothing depends on it here.
    if (message->event == VIRTIO_CONSOLE_PORT_READY && message->value == 1) {
        port.driver_ready = true;
        port.tell |= tell_name | tell_open;
        if (port.is_console)
            port.tell |= tell_console | (columns_ != 0 ? tell_size : 0u);
    }
    return {};
}

Checked<void> Console::send_control() {
    Queue* receive = queue(console_control_receive_queue);
    if (receive == nullptr)
        return {};
    for (;;) {
        bool wanted = false;
        for (const auto& port : ports_)
            wanted = wanted || port->tell != 0;
        if (!wanted)
            break;
        TRY(Chain chain, receive->pop());
        if (!chain)
            break; // told when the driver posts a buffer: pop() asked for that
        TRY(const std::uint32_t written, write_next_control(chain));
        receive->push_used(std::move(chain), written);
    }
    receive->interrupt_driver();
    return {};
}

// Requires: some port has something to tell.
Checked<std::uint32_t> Console::write_next_control(const Chain& chain) {
    std::size_t index = 0;
    while (ports_[index]->tell == 0)
        ++index;
    PortState& port = *ports_[index];
    const unsigned what = port.tell & (~port.tell + 1); // the lowest, which is the first in order
    port.tell &= ~what;

    virtio_console_control message{.id = port.number, .event = VIRTIO_CONSOLE_PORT_ADD, .value = 1};
    std::span<const std::byte> extra;
    const Resize size{columns_, rows_};
    if (what == tell_console) {
        message.event = VIRTIO_CONSOLE_CONSOLE_PORT;
    } else if (what == tell_name) {
        message.event = VIRTIO_CONSOLE_PORT_NAME;
        extra = std::as_bytes(std::span(port.name, std::strlen(port.name)));
    } else if (what == tell_open) {
        message.event = VIRTIO_CONSOLE_PORT_OPEN;
        message.value = port.pump.output_closed() ? 0 : 1;
    } else if (what == tell_size) {
        message.event = VIRTIO_CONSOLE_RESIZE;
        extra = bytes_of(size);
    }
    ChainWriter writer(chain);
    if (!writer.write_object(message) || !writer.write(extra))
        return fault(FaultKind::Request, chain.writable_bytes(), console_control_receive_queue);
    return static_cast<std::uint32_t>(writer.position());
}

void Console::resize(std::uint16_t columns, std::uint16_t rows) {
    const Resize size{columns, rows};
    columns_ = columns;
    rows_ = rows;
    static_assert(offsetof(virtio_console_config, cols) == 0 &&
                  offsetof(virtio_console_config, rows) == offsetof(Resize, rows));
    update_config(0, bytes_of(size));

    const Gate::Pass pass(gate());
    if (!pass)
        return;
    for (const auto& port : ports_) {
        if (port->driver_ready && port->is_console)
            port->tell |= tell_size;
    }
    const Checked<void> sent = send_control();
    if (!sent)
        report(sent.error());
}

void Console::drain(std::function<void()> done) {
    drained_ = std::move(done);
    for (const auto& port : ports_)
        outside(&Console::run_output, *port);
    check_drained();
}

void Console::check_drained() {
    if (!drained_)
        return;
    for (const auto& port : ports_) {
        if (!port->settled)
            return;
    }
    std::exchange(drained_, nullptr)();
}

} // namespace virtio
