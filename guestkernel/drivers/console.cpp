// virtio-console, multi-port (virtio 1.2, 5.3). Our VMM serves the ports from DRIVER_OK on, so the
// port handshake on the control queues is left out: it would cost a dozen exits at every start.
// Port 2 carries ControlMessages.
#include "guestkernel/drivers/console.hpp"

#include <linux/errno.h>
#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include "boot/protocol/device_tree.hpp"
#include "guestkernel/arch/interrupts.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/core/panic.hpp"
#include "guestkernel/drivers/console_port.hpp"
#include "guestkernel/fs/inode.hpp"
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/vfs.hpp"
#include "guestkernel/mm/user_copy.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel {

namespace {

constexpr int fionread = 0x541b, sigpipe = 13;
constexpr u32 poll_in = 1, poll_out = 4, poll_err = 8, poll_rdnorm = 64, poll_wrnorm = 256;
constexpr u16 control_buffers = 4;

struct Console {
    VirtioDevice device;
    PortInput input;
    PortOutput outputs[2]; // stdout or the terminal; stderr
    Virtqueue control_in;  // ControlMessages of joey
    Virtqueue port_events; // virtio's control queue: a port's reader went away
    boot::ControlMessage messages[control_buffers];
    struct {
        virtio_console_control control;
        u8 rest[120];
    } events[2];
    SpinLock lock{LockRank::Device};
    // A terminal takes its input as it comes.
    void (*sink)(const u8*, usize, void*) = nullptr;
    void* sink_context = nullptr;
    void (*on_window)(u32, u32) = nullptr;
    void (*on_signal)(int) = nullptr;
    u8* terminal_buffer = nullptr;
    Virtqueue* terminal_queue = nullptr;
};
Console* console = nullptr;
constexpr usize terminal_buffer_size = 4096;

// --- joey's messages
// -----------------------------------------------------------------------------------

void offer_message(usize index) {
    const DeviceSegment segment[] = {
        device_segment(&console->messages[index], sizeof(boot::ControlMessage))};
    (void)console->control_in.submit({}, segment, &console->messages[index]);
}

void serve_message(const boot::ControlMessage& message) {
    switch (message.type) {
    case boot::ControlMessageType::signal:
        console->on_signal(static_cast<int>(message.a));
        break;
    case boot::ControlMessageType::window:
        if (console->on_window != nullptr)
            console->on_window(message.a, message.b);
        break;
    case boot::ControlMessageType::stdin_closed:
        console->input.set_end();
        break;
    }
}

// Until there is somebody to tell of signals, messages wait where they are.
void serve_control() {
    if (__atomic_load_n(&console->on_signal, __ATOMIC_ACQUIRE) == nullptr)
        return;
    for (;;) {
        boot::ControlMessage message;
        {
            SpinGuard guard(console->lock);
            Virtqueue::Used used;
            if (!console->control_in.take_used(used)) {
                if (console->control_in.enable_interrupts() || console->control_in.broken())
                    break;
                continue;
            }
            auto* slot = static_cast<boot::ControlMessage*>(used.token);
            message = *slot;
            offer_message(static_cast<usize>(slot - console->messages));
            if (used.written < sizeof message)
                continue;
        }
        console->control_in.notify();
        serve_message(message);
    }
}

void offer_event(usize index) {
    const DeviceSegment segment[] = {
        device_segment(&console->events[index], sizeof console->events[index])};
    (void)console->port_events.submit({}, segment, &console->events[index]);
}

void serve_port_events() {
    for (;;) {
        virtio_console_control event;
        {
            SpinGuard guard(console->lock);
            Virtqueue::Used used;
            if (!console->port_events.take_used(used)) {
                if (console->port_events.enable_interrupts() || console->port_events.broken())
                    break;
                continue;
            }
            const bool second = used.token == &console->events[1];
            event = console->events[second ? 1 : 0].control;
            offer_event(second ? 1 : 0);
        }
        console->port_events.notify();
        if (event.event == VIRTIO_CONSOLE_PORT_OPEN && event.value == 0 && event.id < 2)
            console->outputs[event.id].set_closed();
    }
}

// --- the terminal's input
// --------------------------------------------------------------------------------

void offer_terminal_buffer() {
    const DeviceSegment segment[] = {
        device_segment(console->terminal_buffer, terminal_buffer_size)};
    (void)console->input.queue.submit({}, segment, console);
}

void serve_terminal_input() {
    for (;;) {
        usize bytes = 0;
        {
            SpinGuard guard(console->lock);
            Virtqueue::Used used;
            if (!console->input.queue.take_used(used)) {
                if (console->input.queue.enable_interrupts() || console->input.queue.broken())
                    break;
                continue;
            }
            bytes = used.written;
        }
        // One buffer, offered again after it was consumed: input keeps its order.
        if (bytes > 0)
            console->sink(console->terminal_buffer, bytes, console->sink_context);
        {
            SpinGuard guard(console->lock);
            offer_terminal_buffer();
        }
        console->input.queue.notify();
    }
}

void on_interrupt(void*) {
    if (console->sink != nullptr)
        serve_terminal_input();
    else
        console->input.on_interrupt();
    for (PortOutput& output : console->outputs)
        output.on_interrupt();
    serve_control();
    serve_port_events();
}

// --- streams as files
// --------------------------------------------------------------------------------------

// A port seen by programs: like one end of a pipe whose other end joey's caller holds.
class PortFile final : public File {
public:
    PortFile(Ref<Inode> inode, u32 flags, PortInput* input, PortOutput* output)
        : File(Path(), std::move(inode), flags), input_(input), output_(output) {}
    static constexpr char file_type[] = "console port";
    const char* type_name() const override { return file_type; }
    bool is_stream() const override { return true; }
    bool signals_readiness() const override { return true; }

    Result<usize> read(IoBuffer& out, u64) override {
        if (input_ == nullptr)
            return fail(EBADF);
        return input_->read(out, non_blocking());
    }
    Result<usize> write(IoBuffer& in, u64) override {
        if (output_ == nullptr)
            return fail(EBADF);
        auto written = output_->write(in, non_blocking());
        if (!written && written.error().code == EPIPE)
            send_signal(current_task(), sigpipe);
        return written;
    }
    u32 poll(PollTable* table) override {
        u32 events = 0;
        if (input_ != nullptr) {
            if (table != nullptr)
                table->watch(input_->waiters);
            if (input_->poll_ready())
                events |= poll_in | poll_rdnorm;
        }
        if (output_ != nullptr) {
            if (table != nullptr)
                table->watch(output_->waiters);
            if (output_->closed())
                events |= poll_err;
            if (output_->can_write())
                events |= poll_out | poll_wrnorm;
        }
        return events;
    }
    Result<long> ioctl(u32 command, u64 argument) override {
        if (command != fionread || input_ == nullptr)
            return fail(ENOTTY);
        const int bytes = static_cast<int>(input_->available());
        TRY(UserPtr<int>(argument).copy_out(bytes));
        return 0;
    }
    bool describe(String& out) override {
        char text[32];
        const usize length = log::format(text, sizeof text, "pipe:[{}]", inode_->number());
        return out.append(std::string_view(text, length)).has_value();
    }

private:
    PortInput* input_;
    PortOutput* output_;
};

// So that opening /dev/stdin, /proc/self/fd/1 and the like gives another description of the same
// port.
class PortInode final : public Inode {
public:
    PortInode(Superblock* superblock, u64 number, int stream)
        : Inode(superblock, number, mode_fifo | 0600), stream_(stream) {}
    Result<Ref<File>> open(const Path&, u32 flags) override {
        TRY(Ref<PortFile> file,
            make_ref<PortFile>(Ref<Inode>::share(this), flags,
                               stream_ == 0 ? &console->input : nullptr,
                               stream_ == 0 ? nullptr : &console->outputs[stream_ - 1]));
        return Ref<File>(std::move(file));
    }

private:
    int stream_;
};

Result<void> setup_queues() {
    constexpr u16 data_size = 64;
    TRY(console->device.setup_queue(console->input.queue, 0, 4));
    TRY(console->device.setup_queue(console->outputs[0].queue, 1, data_size));
    TRY(console->device.setup_queue(console->port_events, 2, 4));
    TRY(console->device.setup_queue(console->outputs[1].queue, 5, data_size));
    TRY(console->device.setup_queue(console->control_in, 6, control_buffers));
    return console->device.start();
}

} // namespace

Result<void> init_console() {
    TRY(Owned<Console> fresh, make_owned<Console>());
    console = fresh.leak(); // lives as long as the machine
    const BootConfig& config = boot_config();
    for (u32 i = 0; i < config.device_count; i++) {
        const VirtioSlot& slot = config.devices[i];
        if (VirtioDevice::identify(PhysAddr(slot.phys)) != VIRTIO_ID_CONSOLE)
            continue;
        TRY(console->device.open(PhysAddr(slot.phys), slot.vector, VIRTIO_ID_CONSOLE,
                                 u64{1} << VIRTIO_CONSOLE_F_MULTIPORT));
        TRY(setup_queues());
        for (usize n = 0; n < control_buffers; n++)
            offer_message(n);
        offer_event(0);
        offer_event(1);
        arch::register_device_interrupt(slot.vector, on_interrupt, nullptr);
        console->control_in.notify();
        console->port_events.notify();
        // The host may have spoken since the buffers were there, when nobody asked for interrupts:
        // that is heard now, and interrupts are asked for from here on. joey's messages are when
        // there is a handler.
        serve_port_events();
        return {};
    }
    return fail(ENODEV);
}

Result<Ref<File>> open_standard_stream(int stream) {
    const StreamKind kind = boot_config().streams[stream];
    const u32 access = stream == 0 ? 0u : 1u; // O_RDONLY, O_WRONLY
    switch (kind) {
    case StreamKind::Closed:
        return Ref<File>();
    case StreamKind::Null:
        return open_file(at_fdcwd, "/dev/null", access, 0);
    case StreamKind::Terminal:
        return open_file(at_fdcwd, "/dev/console", 2, 0);
    case StreamKind::Pipe:
    case StreamKind::File:
        break;
    }
    TRY(Ref<Inode> anonymous, make_anonymous_inode(mode_fifo | 0600));
    TRY(Ref<PortInode> inode,
        make_ref<PortInode>(anonymous->superblock(), anonymous->number(), stream));
    inode->uid_ = current_task().credentials->fsuid;
    inode->gid_ = current_task().credentials->fsgid;
    return inode->open(Path(), access);
}

void set_console_terminal_sink(void (*input)(const u8* data, usize bytes, void* context),
                               void* context) {
    Frame* frame = alloc_frame();
    if (frame == nullptr)
        PANIC("no memory for the console's input");
    console->terminal_buffer = static_cast<u8*>(frame_data(*frame));
    console->sink_context = context;
    console->sink = input;
    {
        SpinGuard guard(console->lock);
        offer_terminal_buffer();
        (void)console->input.queue.enable_interrupts();
    }
    console->input.queue.notify();
}

void console_terminal_write(const u8* data, usize bytes) {
    IoBuffer buffer(const_cast<u8*>(data), bytes); // only read from
    while (buffer.remaining() > 0) {
        auto written = console->outputs[0].write(buffer, false);
        if (!written)
            return; // the host's terminal is gone, or a signal: what is left is dropped, as a line
                    // that hung up does
    }
}

void console_terminal_echo(const u8* data, usize bytes) {
    IoBuffer buffer(const_cast<u8*>(data), bytes);
    (void)console->outputs[0].write(buffer, true);
}

bool console_terminal_can_write() {
    return console->outputs[0].can_write();
}
WaitQueue& console_terminal_queue() {
    return console->outputs[0].waiters;
}

void set_console_window_handler(void (*handler)(u32 columns, u32 rows)) {
    console->on_window = handler;
}
void set_console_signal_handler(void (*handler)(int signal)) {
    __atomic_store_n(&console->on_signal, handler, __ATOMIC_RELEASE);
    serve_control();
}

void flush_console() {
    for (PortOutput& output : console->outputs)
        output.flush();
}

} // namespace kernel
