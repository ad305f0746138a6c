// The guest's console driver against the host's device, over one memory.
#include <csignal>
#include <cstdio>
#include <functional>
#include <memory>
#include <ucontext.h>

#include <linux/virtio_ids.h>

#include <catch2/catch.hpp>

#include "guestkernel/arch/arch.hpp"
#include "guestkernel/arch/hosted/hosted.hpp"
#include "guestkernel/core/log.hpp"
#include "guestkernel/drivers/console_port.hpp"
#include "guestkernel/task/task.hpp"
#include "virtio/device/console/console.hpp"
#include "virtio/testing/poll_loop.hpp"
#include "virtio/transport/mmio_transport.hpp"

namespace kernel::log {
// Weak: the hosted machine may come to have a log of its own.
[[gnu::weak]] void write_line(boot::LogLevel, std::string_view line) {
    std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}
} // namespace kernel::log

using namespace kernel;

namespace {

constexpr u64 ram_bytes = u64{64} << 20;
constexpr u64 register_page = 0x10000;
constexpr u32 available_ring_register = 0x90; // its low half

struct Interrupt final : virtio::InterruptSink {
    void signal() override { raised = true; }
    bool raised = false;
};

// Has a byte for whoever asks, and takes so many chains.
struct Line final : virtio::PortBackend {
    void attach(virtio::PortEvents& to) override { events = &to; }
    virtio::Transfer read(std::span<const struct iovec> into) override {
        if (keys == 0)
            return {};
        keys--;
        *static_cast<char*>(into.front().iov_base) = 'k';
        return {virtio::Transfer::Outcome::Done, 1};
    }
    virtio::Transfer write(std::span<const struct iovec> from) override {
        if (room == 0)
            return {};
        room--;
        return {virtio::Transfer::Outcome::Done, from.front().iov_len};
    }
    void take(unsigned chains) {
        room += chains;
        events->output_ready();
    }
    virtio::PortEvents* events = nullptr;
    unsigned keys = 0, room = 0;
};

virtio::MmioTransport* device_behind = nullptr;
u64 available_ring = 0; // of the queue that was set up last

struct Machine {
    Machine() {
        hosted::reset(ram_bytes);
        hosted::set_current(&task);
        auto* ram = static_cast<std::byte*>(arch::phys_to_virt(PhysAddr(0)));
        REQUIRE(memory.add_region({virtio::GuestAddr(0), ram, ram_bytes}));
        transport = std::make_unique<virtio::MmioTransport>(
            console, memory,
            std::span<std::byte, virtio::register_page_size>(ram + register_page,
                                                             virtio::register_page_size),
            interrupt);
        device_behind = transport.get();
        hosted_mmio_write = [](volatile u8*, u32 offset, u32 value) {
            if (offset == available_ring_register)
                available_ring = value;
            if (offset == virtio::queue_notify_offset)
                device_behind->notify(value);
            else
                device_behind->write(offset, 4, value);
        };
        REQUIRE(device.open(PhysAddr(register_page), 0xe4, VIRTIO_ID_CONSOLE, 0));
        REQUIRE(device.setup_queue(output.queue, 1, 4));
        REQUIRE(device.setup_queue(input.queue, 0, 4));
        REQUIRE(device.start());
    }
    ~Machine() {
        transport->write(0x70, 4, 0); // the device's status: no more of it
        device_behind = nullptr;
        hosted::set_current(nullptr);
    }
    // How many chains the driver has offered.
    u16 offered() const {
        return *static_cast<const volatile u16*>(arch::phys_to_virt(PhysAddr(available_ring + 2)));
    }

    Task task;
    Interrupt interrupt;
    Line line;
    virtio::testing::PollLoop loop;
    virtio::GuestMemory memory;
    virtio::Console console{loop, {{&line, "line", false}}};
    std::unique_ptr<virtio::MmioTransport> transport;
    VirtioDevice device;
    PortInput input;
    PortOutput output;
};

// Another CPU, which acts between two instructions of this one: `act` is called after each until it
// says true.
std::function<bool()> act;
constexpr long trap_flag = 0x100;

void after_instruction(int, siginfo_t*, void* context) {
    if (act())
        static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_EFL] &= ~trap_flag;
}

template <typename Run>
auto with_another_cpu(std::function<bool()> what, Run&& run) {
    act = std::move(what);
    struct sigaction action {};
    struct sigaction before {};
    action.sa_sigaction = after_instruction;
    action.sa_flags = SA_SIGINFO;
    REQUIRE(::sigaction(SIGTRAP, &action, &before) == 0);
    // Not over what a leaf function keeps below its stack pointer.
    asm volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp"
                 :
                 :
                 : "memory", "cc");
    auto result = run();
    asm volatile(
        "lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp"
        :
        :
        : "memory", "cc");
    ::sigaction(SIGTRAP, &before, nullptr);
    return result;
}

} // namespace

TEST_CASE("console device: input that is there before the driver asks to hear of it is not slept "
          "through") {
    Machine machine;
    machine.line.keys = 1;
    // An earlier notification has the device look just when the buffer is offered.
    const bool ready = with_another_cpu(
        [&] {
            if (machine.offered() == 0)
                return false;
            machine.transport->notify(0);
            return true;
        },
        [&] { return machine.input.poll_ready(); });
    CHECK(machine.line.keys == 0);
    // Whoever sees that it is not ready sleeps until the interrupt.
    CHECK((ready || machine.interrupt.raised));
    char key = 0;
    IoBuffer out(&key, 1);
    const auto got = machine.input.read(out, true);
    REQUIRE(got);
    CHECK(key == 'k');
}

TEST_CASE("console device: a driver that is quick enough hears of input by an interrupt") {
    Machine machine;
    CHECK_FALSE(machine.input.poll_ready());
    CHECK_FALSE(machine.interrupt.raised);
    machine.line.keys = 2;
    machine.transport->notify(0);
    CHECK(machine.interrupt.raised);
    CHECK(machine.input.poll_ready());
}

TEST_CASE("console device: whoever waits until the host has everything hears of the last of it") {
    // The host takes the first of two chains behind any of the driver's instructions.
    bool done = false;
    for (unsigned at = 1; !done; at++) {
        Machine machine;
        for (int i = 0; i < 2; i++) {
            char text[] = "text";
            IoBuffer in(text, 4);
            REQUIRE(machine.output.write(in, true));
        }
        machine.interrupt.raised = false;
        unsigned count = 0;
        const bool all = with_another_cpu(
            [&] {
                if (++count < at)
                    return false;
                machine.line.take(1);
                return true;
            },
            [&] { return machine.output.all_taken(); });
        REQUIRE_FALSE(all);
        done = count < at; // it was through before
        if (done)
            machine.line.take(1);
        if (!machine.interrupt.raised) // or else it looks again
            machine.line.take(1);
        REQUIRE(machine.interrupt.raised);
    }
}
