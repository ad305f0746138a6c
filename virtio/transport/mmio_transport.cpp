#include "virtio/transport/mmio_transport.hpp"

// Only version 2's registers; the legacy ones would be accepted by mistake.
#define VIRTIO_MMIO_NO_LEGACY
#include <algorithm>
#include <bit>
#include <limits>

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

namespace virtio {

namespace {

constexpr std::uint32_t magic = 0x74726976;  // "virt"
constexpr std::uint32_t vendor = 0x79656f4a; // "Joey"
constexpr std::uint32_t mmio_version = 2;    // 4.2.2
constexpr std::uint32_t config_space = VIRTIO_MMIO_CONFIG;
static_assert(queue_notify_offset == VIRTIO_MMIO_QUEUE_NOTIFY);
// The page is little-endian (4.2.2.1) and so are we.
static_assert(std::endian::native == std::endian::little);

constexpr std::uint32_t settable_status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
                                          VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FEATURES_OK |
                                          VIRTIO_CONFIG_S_FAILED;

constexpr std::uint32_t low_half(std::uint64_t value) {
    return static_cast<std::uint32_t>(value);
}
constexpr std::uint32_t high_half(std::uint64_t value) {
    return static_cast<std::uint32_t>(value >> 32);
}
constexpr std::uint64_t with_low(std::uint64_t old, std::uint32_t value) {
    return (old & ~std::uint64_t{0xffff'ffff}) | value;
}
constexpr std::uint64_t with_high(std::uint64_t old, std::uint32_t value) {
    return (old & 0xffff'ffff) | std::uint64_t{value} << 32;
}
// One 32-bit window of a 64-bit feature set; windows beyond hold nothing.
constexpr std::uint32_t window(std::uint64_t features, std::uint32_t select) {
    return select == 0 ? low_half(features) : select == 1 ? high_half(features) : 0;
}

} // namespace

MmioTransport::MmioTransport(Device& device, const GuestMemory& memory,
                             std::span<std::byte, register_page_size> page, InterruptSink& sink)
    : device_(device), memory_(memory), page_(GuestSlice::over(page)), sink_(sink),
      configs_(device.info().queues.size()) {
    for (std::size_t i = 0; i < configs_.size(); ++i) {
        configs_[i].index = static_cast<std::uint16_t>(i);
        configs_[i].max_size = device.info().queues[i].max_size;
    }
    device_.attach(this);
    publish(VIRTIO_MMIO_MAGIC_VALUE, magic);
    publish(VIRTIO_MMIO_VERSION, mmio_version);
    publish(VIRTIO_MMIO_DEVICE_ID, device.info().id);
    publish(VIRTIO_MMIO_VENDOR_ID, vendor);
    registers_.with([&](Registers& registers) { publish_selected(registers); });
    config_generation_.with([&](std::uint32_t&) { publish_config(); });
}

MmioTransport::~MmioTransport() {
    stop();
    device_.attach(nullptr);
}

void MmioTransport::write(std::uint32_t offset, std::uint32_t size, std::uint64_t value) {
    // 4.2.2.2: aligned 32-bit accesses only. No device of ours has configuration that a driver may
    // write.
    if (size != sizeof(std::uint32_t) || offset % sizeof(std::uint32_t) != 0 ||
        offset >= config_space)
        return driver_fault({FaultKind::Register, 0, offset});
    const auto word = static_cast<std::uint32_t>(value);
    switch (offset) {
    // These two are hot, and harmless at any time: no lock.
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        return notify(word);
    case VIRTIO_MMIO_INTERRUPT_ACK:
        page_.fetch_and<std::uint32_t>(VIRTIO_MMIO_INTERRUPT_STATUS, ~word);
        return;
    default:
        registers_.with([&](Registers& registers) { write_register(registers, offset, word); });
    }
}

void MmioTransport::notify(std::uint32_t queue) {
    if (queue >= configs_.size())
        return driver_fault({FaultKind::Register, 0, queue_notify_offset});
    if ((published(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) == 0)
        device_.notify(queue);
}

NotifyStyle MmioTransport::notify_style(std::uint32_t queue) const {
    return device_.info().queues[queue].notify;
}

DriverFault MmioTransport::first_fault() {
    return fault_.with([](const DriverFault& first) { return first; });
}

void MmioTransport::stop() {
    registers_.with([&](Registers& registers) { reset(registers); });
}

void MmioTransport::write_register(Registers& registers, std::uint32_t offset,
                                   std::uint32_t value) {
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        registers.select.device_features = value;
        return publish_selected(registers);
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        registers.select.driver_features = value;
        return;
    case VIRTIO_MMIO_QUEUE_SEL:
        registers.select.queue = value;
        return publish_selected(registers);
    case VIRTIO_MMIO_SHM_SEL:
        registers.select.shared_memory = value;
        return publish_selected(registers);
    case VIRTIO_MMIO_DRIVER_FEATURES:
        return write_driver_features(registers, value);
    case VIRTIO_MMIO_STATUS:
        return write_status(registers, value);
    default:
        return write_queue_register(registers, offset, value);
    }
}

void MmioTransport::write_driver_features(Registers& registers, std::uint32_t value) {
    // 3.1.1: features are settled once FEATURES_OK was accepted.
    if ((registers.status & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
        return driver_fault({FaultKind::Features, 0, value});
    if (registers.select.driver_features == 0)
        registers.driver_features = with_low(registers.driver_features, value);
    else if (registers.select.driver_features == 1)
        registers.driver_features = with_high(registers.driver_features, value);
    else if (value != 0)
        registers.unknown_features = true;
}

void MmioTransport::write_queue_register(Registers& registers, std::uint32_t offset,
                                         std::uint32_t value) {
    if (registers.select.queue >= configs_.size()) {
        // A driver that probes for a queue that is not there may still clear its QueueReady.
        if (offset != VIRTIO_MMIO_QUEUE_READY || value != 0)
            driver_fault({FaultKind::Register, 0, offset});
        return;
    }
    QueueConfig& config = configs_[registers.select.queue];
    // Activation took the configuration over: the rings can no longer move (no
    // VIRTIO_F_RING_RESET).
    if ((registers.status & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
        return driver_fault({FaultKind::Register, config.index, offset});
    if (offset == VIRTIO_MMIO_QUEUE_READY)
        return set_queue_ready(registers, config, value);
    if (config.ready) // 4.2.2.2
        return driver_fault({FaultKind::Register, config.index, offset});

    const auto set = [value](GuestAddr& address, bool high) {
        address =
            GuestAddr(high ? with_high(address.raw(), value) : with_low(address.raw(), value));
    };
    switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
        // 0 where it does not fit: refused, like any other bad size, when the queue is made ready.
        config.size =
            value <= max_queue_size ? static_cast<std::uint16_t>(value) : std::uint16_t{0};
        return;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
        return set(config.descriptors, false);
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
        return set(config.descriptors, true);
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
        return set(config.available, false);
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
        return set(config.available, true);
    case VIRTIO_MMIO_QUEUE_USED_LOW:
        return set(config.used, false);
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        return set(config.used, true);
    default: // read-only registers, QueueReset, and what is none
        return driver_fault({FaultKind::Register, config.index, offset});
    }
}

void MmioTransport::set_queue_ready(Registers& registers, QueueConfig& config,
                                    std::uint32_t value) {
    if (value > 1)
        return driver_fault({FaultKind::Register, config.index, VIRTIO_MMIO_QUEUE_READY});
    if (value == 1) {
        const Checked<void> sound = Queue::check(config, memory_);
        if (!sound)
            return driver_fault(sound.error());
    }
    config.ready = value == 1;
    publish_selected(registers);
}

void MmioTransport::write_status(Registers& registers, std::uint32_t value) {
    if (value == 0)
        return reset(registers);
    // 2.1: bits are only ever added. NEEDS_RESET is ours; a driver that writes back what it read
    // has it.
    const std::uint32_t wanted = value & ~std::uint32_t{VIRTIO_CONFIG_S_NEEDS_RESET};
    const std::uint32_t added = wanted & ~registers.status;
    const auto lacks = [wanted](std::uint32_t step, std::uint32_t before) {
        return (wanted & step) != 0 && (wanted & before) == 0;
    };
    if ((registers.status & ~wanted) != 0 || (wanted & ~settable_status) != 0 ||
        lacks(VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE) ||
        lacks(VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER) ||
        lacks(VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK))
        return driver_fault({FaultKind::Status, 0, value});

    std::uint32_t accepted = added & ~std::uint32_t{VIRTIO_CONFIG_S_DRIVER_OK};
    // 3.1.1 step 5: features that do not do are refused by not showing FEATURES_OK.
    if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !features_acceptable(registers))
        accepted &= ~std::uint32_t{VIRTIO_CONFIG_S_FEATURES_OK};
    registers.status |= accepted;
    page_.fetch_or<std::uint32_t>(VIRTIO_MMIO_STATUS, accepted);
    if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
        start(registers);
}

bool MmioTransport::features_acceptable(const Registers& registers) const {
    const std::uint64_t version_1 = std::uint64_t{1} << VIRTIO_F_VERSION_1;
    return !registers.unknown_features &&
           (registers.driver_features & ~device_.offered_features()) == 0 &&
           (registers.driver_features & version_1) !=
               0; // 6.1: this transport has no legacy interface
}

void MmioTransport::start(Registers& registers) {
    if ((registers.status & VIRTIO_CONFIG_S_FEATURES_OK) == 0 ||
        (published(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
        return driver_fault({FaultKind::Status, 0, VIRTIO_CONFIG_S_DRIVER_OK});
    registers.status |= VIRTIO_CONFIG_S_DRIVER_OK;
    page_.fetch_or<std::uint32_t>(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER_OK);
    const Checked<void> active =
        device_.activate(registers.driver_features, configs_, memory_, *this);
    if (!active)
        driver_fault(active.error());
}

void MmioTransport::reset(Registers& registers) {
    device_.reset();
    registers = Registers{};
    for (QueueConfig& config : configs_)
        config = QueueConfig{.index = config.index, .max_size = config.max_size};
    fault_.with([](DriverFault& first) { first = DriverFault{}; });
    publish(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
    publish_selected(registers);
    // Last: a driver that polls for 0 may start anew as soon as it sees it (4.2.3.1).
    publish(VIRTIO_MMIO_STATUS, 0);
}

void MmioTransport::driver_fault(const DriverFault& fault) {
    fault_.with([&](DriverFault& first) {
        if (first.kind == FaultKind::None)
            first = fault;
    });
    const auto before =
        page_.fetch_or<std::uint32_t>(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
    // 2.1.2: tell a driver that is up.
    if ((before & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (before & VIRTIO_CONFIG_S_NEEDS_RESET) == 0)
        raise(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::config_changed() {
    config_generation_.with([&](std::uint32_t& generation) {
        // Bumped on both sides, so that a driver that reads across the change sees two generations
        // or is told by the interrupt (2.5.1). Words are stored whole: a field of 32 bits is never
        // torn.
        publish(VIRTIO_MMIO_CONFIG_GENERATION, ++generation);
        publish_config();
        publish(VIRTIO_MMIO_CONFIG_GENERATION, ++generation);
    });
    if ((published(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
        raise(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::used_buffer() {
    raise(VIRTIO_MMIO_INT_VRING);
}

void MmioTransport::raise(std::uint32_t interrupt_bit) {
    page_.fetch_or<std::uint32_t>(VIRTIO_MMIO_INTERRUPT_STATUS, interrupt_bit);
    sink_.signal();
}

void MmioTransport::publish(std::uint32_t offset, std::uint32_t value) {
    page_.store<std::uint32_t>(offset, value, base::Order::Release);
}

std::uint32_t MmioTransport::published(std::uint32_t offset) const {
    return page_.load<std::uint32_t>(offset, base::Order::Acquire);
}

// Whatever a selector register decides.
void MmioTransport::publish_selected(const Registers& registers) {
    const Selection& select = registers.select;
    publish(VIRTIO_MMIO_DEVICE_FEATURES,
            window(device_.offered_features(), select.device_features));

    const bool exists = select.queue < configs_.size();
    publish(VIRTIO_MMIO_QUEUE_NUM_MAX, exists ? configs_[select.queue].max_size : 0u);
    publish(VIRTIO_MMIO_QUEUE_READY, exists && configs_[select.queue].ready ? 1u : 0u);

    // 4.2.2: all ones where there is no such region.
    std::uint64_t base = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t length = base;
    for (const SharedMemoryInfo& region : device_.info().shared_memory) {
        if (region.id == select.shared_memory) {
            base = region.base.raw();
            length = region.length;
        }
    }
    publish(VIRTIO_MMIO_SHM_LEN_LOW, low_half(length));
    publish(VIRTIO_MMIO_SHM_LEN_HIGH, high_half(length));
    publish(VIRTIO_MMIO_SHM_BASE_LOW, low_half(base));
    publish(VIRTIO_MMIO_SHM_BASE_HIGH, high_half(base));
}

void MmioTransport::publish_config() {
    std::array<std::byte, register_page_size - config_space> bytes{};
    device_.read_config(bytes);
    const std::size_t used = std::min(device_.info().config.size(), bytes.size());
    for (std::size_t at = 0; at < used; at += sizeof(std::uint32_t)) {
        std::array<std::byte, sizeof(std::uint32_t)> word{};
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), word.size(), word.begin());
        publish(config_space + static_cast<std::uint32_t>(at), std::bit_cast<std::uint32_t>(word));
    }
}

} // namespace virtio
