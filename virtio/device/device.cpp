#include "virtio/device/device.hpp"

#include <algorithm>
#include <cassert>

#include <linux/virtio_config.h>

namespace virtio {

namespace {
// linux/virtio_ring.h defines these two, but it is not valid C++ (virtio 1.2, 6).
constexpr unsigned feature_indirect_descriptors = 28;
constexpr unsigned feature_event_index = 29;

constexpr std::uint64_t bit(unsigned number) {
    return std::uint64_t{1} << number;
}
} // namespace

std::uint64_t Device::offered_features() const {
    return info_.features | bit(VIRTIO_F_VERSION_1) | bit(feature_indirect_descriptors) |
           bit(feature_event_index);
}

Checked<void> Device::activate(std::uint64_t negotiated, std::span<const QueueConfig> configs,
                               const GuestMemory& memory, QueueInterrupt& interrupt) {
    assert(!active() && configs.size() == info_.queues.size());
    std::vector<std::unique_ptr<Queue>> queues(configs.size());
    const QueueFeatures features = QueueFeatures::from(negotiated);
    for (std::size_t i = 0; i < configs.size(); ++i) {
        if (!configs[i].ready)
            continue;
        TRY(queues[i], Queue::activate(configs[i], features, memory, &interrupt, &traffic_[i]));
    }
    queues_ = std::move(queues);
    features_ = negotiated;
    memory_ = &memory;
    broken_.store(false, std::memory_order_relaxed);
    on_activate();
    gate_.open();
    return {};
}

void Device::reset() {
    if (!active())
        return;
    gate_.close();
    on_stop();
    gate_.wait_until_empty();
    on_reset();
    queues_.clear();
    features_ = 0;
}

void Device::notify(std::uint32_t queue_index) {
    const Gate::Pass pass(gate_);
    if (!pass || broken_.load(std::memory_order_relaxed) || queue(queue_index) == nullptr)
        return;
    const Checked<void> handled = on_notify(queue_index);
    if (!handled)
        report(handled.error());
}

void Device::report(const DriverFault& fault) {
    broken_.store(true, std::memory_order_relaxed);
    if (host_ != nullptr)
        host_->driver_fault(fault);
}

void Device::read_config(std::span<std::byte> out) {
    config_.with([&](const std::vector<std::byte>& config) {
        std::copy_n(config.begin(), std::min(out.size(), config.size()), out.begin());
    });
}

void Device::update_config(std::size_t offset, std::span<const std::byte> bytes) {
    config_.with([&](std::vector<std::byte>& config) {
        assert(offset <= config.size() && bytes.size() <= config.size() - offset);
        std::copy(bytes.begin(), bytes.end(), config.begin() + static_cast<std::ptrdiff_t>(offset));
    });
    if (host_ != nullptr)
        host_->config_changed();
}

} // namespace virtio
