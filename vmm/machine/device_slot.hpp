// One virtio device in the machine: its transport, its interrupt (an irqfd), and the doorbells of
// the queues that are served outside of the vCPU's thread (ioeventfds).
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "boot/protocol/layout.hpp"
#include "virtio/backend/unique_fd.hpp"
#include "virtio/transport/mmio_transport.hpp"
#include "vmm/error.hpp"
#include "vmm/kvm/vm_handle.hpp"
#include "vmm/machine/event_loop.hpp"
#include "vmm/machine/metrics.hpp"

namespace vmm {

class DeviceSlot final : public virtio::InterruptSink {
public:
    static Result<std::unique_ptr<DeviceSlot>> create(unsigned number, virtio::Device& device,
                                                      const virtio::GuestMemory& memory,
                                                      std::span<std::byte, boot::page_size> page);
    DeviceSlot(const DeviceSlot&) = delete;
    DeviceSlot& operator=(const DeviceSlot&) = delete;
    ~DeviceSlot() override = default;

    // Connects the interrupt to GSI `number` and the doorbells to the device's loops, or else to
    // `loop`. None of them runs during either.
    Result<void> connect(kvm::VmHandle& vm, EventLoop& loop);
    void disconnect(EventLoop& loop);

    // A write of the guest to its registers, on the vCPU's thread.
    void write(std::uint32_t offset, std::uint32_t size, std::uint64_t value);
    virtio::MmioTransport& transport() { return *transport_; }
    DeviceMetrics metrics() const; // from any thread

private:
    struct Doorbell {
        std::uint32_t queue;
        virtio::UniqueFd fd;
    };

    DeviceSlot(unsigned number, virtio::Device& device, virtio::UniqueFd interrupt)
        : number_(number), device_(device), interrupt_(std::move(interrupt)) {}
    virtio::EventLoop& loop_of(const Doorbell& doorbell, EventLoop& machine_loop);
    void signal() override;

    const unsigned number_;
    virtio::Device& device_;
    virtio::UniqueFd interrupt_;
    std::unique_ptr<virtio::MmioTransport> transport_;
    std::vector<Doorbell> doorbells_;
    base::Atomic<std::uint64_t> notifications_;
    base::Atomic<std::uint64_t> interrupts_;
};

} // namespace vmm
