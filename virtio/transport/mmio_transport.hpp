// MmioTransport: virtio-mmio version 2 (virtio 1.2, 4.2.2) over a register page that the guest
// reads without an exit: the page is in a read-only memory slot, and the transport keeps every
// readable register up to date in it. Writes exit and come here as write().
//
// For the VMM, per device i:
//   1. one page of host memory, mapped read-only to the guest at virtio_mmio_base + i * stride;
//   2. an InterruptSink (an irqfd);
//   3. MmioTransport transport(device, memory, page, sink);
//   4. for each queue q with notify_style(q) == Eventfd: an ioeventfd at page + 0x50 (QueueNotify),
//   length 4,
//      datamatch q; when it fires: transport.notify(q), from the event loop or any thread;
//   5. each MMIO exit in the page that is a write: transport.write(offset, size, value) on the vCPU
//   thread.
// Reads never exit. The device must outlive its transport, and both the vCPU threads.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "virtio/device/device.hpp"
#include "virtio/fault.hpp"
#include "virtio/guarded.hpp"
#include "virtio/memory/guest_memory.hpp"
#include "virtio/queue/queue.hpp"

namespace virtio {

// Raises the device's interrupt in the guest (edge, MSI). Called from any thread.
class InterruptSink {
public:
    virtual ~InterruptSink() = default;
    virtual void signal() = 0;
};

inline constexpr std::size_t register_page_size = 4096;
inline constexpr std::uint32_t queue_notify_offset = 0x50;

class MmioTransport final : private DeviceHost, private QueueInterrupt {
public:
    // `page` must be zeroed, writable for the host, and outlive the transport.
    MmioTransport(Device& device, const GuestMemory& memory,
                  std::span<std::byte, register_page_size> page, InterruptSink& sink);
    MmioTransport(const MmioTransport&) = delete;
    MmioTransport& operator=(const MmioTransport&) = delete;
    ~MmioTransport() override;

    // A write of the guest to the register page, on the vCPU's thread; effects are visible in the
    // page on return. A write that the protocol forbids sets DEVICE_NEEDS_RESET or is ignored; it
    // never fails.
    void write(std::uint32_t offset, std::uint32_t size, std::uint64_t value);
    // The driver's notification of a queue arrived by its eventfd.
    void notify(std::uint32_t queue);

    std::size_t queue_count() const { return configs_.size(); }
    NotifyStyle notify_style(std::uint32_t queue) const;

    // The driver's first offence since the last reset, for the report; `kind` None if there is
    // none.
    DriverFault first_fault();

    // Ends all activity of the device as a reset does: before the VMM tears down.
    void stop();

private:
    void driver_fault(const DriverFault& fault) override;
    void config_changed() override;
    void used_buffer() override;

    struct Selection {
        std::uint32_t device_features = 0;
        std::uint32_t driver_features = 0;
        std::uint32_t queue = 0;
        std::uint32_t shared_memory = 0;
    };
    // The registers that the driver writes.
    struct Registers {
        Selection select;
        std::uint64_t driver_features = 0;
        bool unknown_features = false; // bits beyond 63 were asked for
        std::uint32_t status = 0;      // what the driver set; NEEDS_RESET lives in the page only
    };

    void write_register(Registers& registers, std::uint32_t offset, std::uint32_t value);
    void write_driver_features(Registers& registers, std::uint32_t value);
    void write_queue_register(Registers& registers, std::uint32_t offset, std::uint32_t value);
    void set_queue_ready(Registers& registers, QueueConfig& config, std::uint32_t value);
    void write_status(Registers& registers, std::uint32_t value);
    bool features_acceptable(const Registers& registers) const;
    void start(Registers& registers);
    void reset(Registers& registers);

    void publish(std::uint32_t offset, std::uint32_t value);
    std::uint32_t published(std::uint32_t offset) const;
    void raise(std::uint32_t interrupt_bit);
    void publish_selected(const Registers& registers);
    void publish_config();

    Device& device_;
    const GuestMemory& memory_;
    GuestSlice page_;
    InterruptSink& sink_;
    std::vector<QueueConfig> configs_; // under registers_
    // Lock order: registers_, then config_generation_ or fault_. Never taken by notify() and
    // driver_fault(), so that a reset, which holds it, can wait for threads that are in these.
    Guarded<Registers> registers_;
    Guarded<std::uint32_t> config_generation_;
    Guarded<DriverFault> fault_;
};

} // namespace virtio
