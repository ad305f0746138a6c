// Device: what all virtio devices have in common - identity, features, configuration space, queues,
// life cycle. A concrete device says what it is in its constructor (DeviceInfo) and overrides
// on_notify() and, where it keeps state or threads, on_activate(), on_stop(), on_reset().
//
// Threads. activate() and reset() come from a vCPU thread (a write to Status), never two at once.
// notify() comes from a vCPU thread (NotifyStyle::Inline) or from the event loop
// (NotifyStyle::Eventfd), for different queues, or one queue, at the same time: a device guards its
// own state. The queues themselves are thread-safe. Any other thread (a worker, a backend's
// callback) must hold a Gate::Pass while it touches queues, chains or guest memory:
//
//     const Gate::Pass pass(gate());
//     if (!pass)
//         return;              // being reset: the chain in hand is simply dropped
//     queue(1)->complete(std::move(chain), written);
//
// reset() closes the gate, calls on_stop(), waits until all passes are returned, calls on_reset(),
// and then destroys the queues; chains that a device keeps must be dropped in on_reset() or
// earlier.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "virtio/device/gate.hpp"
#include "virtio/fault.hpp"
#include "virtio/queue/queue.hpp"

namespace virtio {

class EventLoop;

// How the driver's notification of a queue reaches the device: by an eventfd and another thread (56
// us, the vCPU goes on after 3 us), or by the exit itself on the vCPU's thread (20 us, during which
// it waits).
enum class NotifyStyle : std::uint8_t { Eventfd, Inline };

struct QueueInfo {
    std::uint16_t max_size;
    NotifyStyle notify;
};

// Memory that the device shares besides RAM (virtio 1.2, 2.10): a DAX window.
struct SharedMemoryInfo {
    std::uint8_t id;
    GuestAddr base;
    std::uint64_t length;
};

struct DeviceInfo {
    std::uint32_t id = 0;       // VIRTIO_ID_*
    std::uint64_t features = 0; // device-specific ones; the base adds the transport's own
    std::vector<QueueInfo> queues;
    std::vector<std::byte> config;
    std::vector<SharedMemoryInfo> shared_memory;
};

// What a device may ask of its transport; all from any thread.
class DeviceHost {
public:
    virtual ~DeviceHost() = default;
    // The driver broke the protocol: DEVICE_NEEDS_RESET.
    virtual void driver_fault(const DriverFault& fault) = 0;
    // Publishes the configuration space anew and interrupts.
    virtual void config_changed() = 0;
};

class Device {
public:
    virtual ~Device() = default;
    Device(const Device&) = delete;
    Device& operator=(const Device&) = delete;

    // For the transport.
    const DeviceInfo& info() const { return info_; }
    std::uint64_t offered_features() const;
    // Null detaches. Not while the device is active.
    void attach(DeviceHost* host) { host_ = host; }
    // Requires: `configs` has one entry per queue; those not `ready` stay null.
    Checked<void> activate(std::uint64_t negotiated, std::span<const QueueConfig> configs,
                           const GuestMemory& memory, QueueInterrupt& interrupt);
    void reset();
    // Handles one notification; reports a fault to the host itself. Does nothing unless active.
    void notify(std::uint32_t queue_index);
    // A copy, consistent in itself.
    void read_config(std::span<std::byte> out);

    bool active() const { return gate_.is_open(); }

    // What has gone through its queues, one after the other. From any thread.
    std::span<const QueueTraffic> traffic() const { return {traffic_.get(), info_.queues.size()}; }

    // Where notifications of an Eventfd queue are to come; null: the machine's own loop.
    virtual EventLoop* event_loop(std::uint32_t /*queue_index*/) { return nullptr; }

protected:
    explicit Device(DeviceInfo info)
        : info_(std::move(info)), traffic_(std::make_unique<QueueTraffic[]>(info_.queues.size())),
          config_(info_.config) {}

    // The driver offered chains on this queue. Runs with a pass held.
    virtual Checked<void> on_notify(std::uint32_t queue_index) = 0;
    // The queues exist; the gate opens right after.
    virtual void on_activate() {}
    // The gate is closed: make threads that hold a pass return it soon. Must not wait for the event
    // loop.
    virtual void on_stop() {}
    // Nobody else is inside: drop chains, forget the driver's state.
    virtual void on_reset() {}

    // Null if the driver did not set it up. Requires: a pass is held, or on_activate/on_reset runs.
    Queue* queue(std::uint32_t index) const {
        return index < queues_.size() ? queues_[index].get() : nullptr;
    }
    std::uint64_t features() const { return features_; } // negotiated
    bool negotiated(unsigned feature_bit) const { return ((features_ >> feature_bit) & 1) != 0; }
    const GuestMemory& memory() const { return *memory_; }
    Gate& gate() { return gate_; }
    // For work outside of on_notify.
    void report(const DriverFault& fault);
    // Changes bytes of the configuration space, bumps its generation and tells the driver.
    // Requires: inside of info().config.
    void update_config(std::size_t offset, std::span<const std::byte> bytes);

private:
    const DeviceInfo info_;
    DeviceHost* host_ = nullptr;
    const GuestMemory* memory_ = nullptr;
    std::uint64_t features_ = 0;
    const std::unique_ptr<QueueTraffic[]> traffic_; // longer than the queues
    std::vector<std::unique_ptr<Queue>> queues_;
    Gate gate_;
    std::atomic<bool> broken_{false}; // the driver is at fault: no more notifications until a reset
    Guarded<std::vector<std::byte>> config_;
};

} // namespace virtio
