#include "vmm/machine/device_slot.hpp"

#include <cerrno>
#include <unistd.h>

#include <sys/eventfd.h>

namespace vmm {
namespace {

Result<virtio::UniqueFd> make_eventfd() {
    virtio::UniqueFd fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!fd)
        return fail(errno, "eventfd");
    return fd;
}

} // namespace

Result<std::unique_ptr<DeviceSlot>> DeviceSlot::create(unsigned number, virtio::Device& device,
                                                       const virtio::GuestMemory& memory,
                                                       std::span<std::byte, boot::page_size> page) {
    TRY(virtio::UniqueFd interrupt, make_eventfd());
    std::unique_ptr<DeviceSlot> slot(new DeviceSlot(number, device, std::move(interrupt)));
    slot->transport_ = std::make_unique<virtio::MmioTransport>(device, memory, page, *slot);
    for (std::uint32_t queue = 0; queue < slot->transport_->queue_count(); ++queue) {
        if (slot->transport_->notify_style(queue) != virtio::NotifyStyle::Eventfd)
            continue;
        TRY(virtio::UniqueFd fd, make_eventfd());
        slot->doorbells_.push_back({queue, std::move(fd)});
    }
    return slot;
}

virtio::EventLoop& DeviceSlot::loop_of(const Doorbell& doorbell, EventLoop& machine_loop) {
    virtio::EventLoop* own = device_.event_loop(doorbell.queue);
    return own != nullptr ? *own : machine_loop;
}

Result<void> DeviceSlot::connect(kvm::VmHandle& vm, EventLoop& loop) {
    TRY(vm.add_irqfd(interrupt_.get(), number_));
    const std::uint64_t page = boot::virtio_mmio_base + number_ * boot::virtio_mmio_stride;
    for (const Doorbell& doorbell : doorbells_) {
        const int fd = doorbell.fd.get();
        TRY(vm.add_ioeventfd(page + virtio::queue_notify_offset, doorbell.queue, fd));
        const auto rung = [this, fd, queue = doorbell.queue](virtio::Readiness) {
            std::uint64_t count = 0;
            // Emptied before the queue is looked at, so that no notification is lost.
            if (read(fd, &count, sizeof(count)) > 0) {
                notifications_.fetch_add(1, base::Order::Relaxed);
                transport_->notify(queue);
            }
        };
        if (auto added = loop_of(doorbell, loop).add(fd, {.read = true}, rung); !added)
            return fail(added.error().code, added.error().action);
    }
    return {};
}

void DeviceSlot::disconnect(EventLoop& loop) {
    for (const Doorbell& doorbell : doorbells_)
        loop_of(doorbell, loop).remove(doorbell.fd.get());
}

void DeviceSlot::write(std::uint32_t offset, std::uint32_t size, std::uint64_t value) {
    if (offset == virtio::queue_notify_offset)
        notifications_.fetch_add(1, base::Order::Relaxed);
    transport_->write(offset, size, value);
}

DeviceMetrics DeviceSlot::metrics() const {
    return {device_.info().id, notifications_.load(base::Order::Relaxed),
            interrupts_.load(base::Order::Relaxed)};
}

void DeviceSlot::signal() {
    interrupts_.fetch_add(1, base::Order::Relaxed);
    const std::uint64_t one = 1;
    // Fails only when the counter is full, and then the interrupt is pending anyway.
    [[maybe_unused]] const ssize_t written = ::write(interrupt_.get(), &one, sizeof(one));
}

} // namespace vmm
