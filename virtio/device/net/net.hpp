// Net: the network device (virtio 1.2, 5.1) over a NetBackend: checksum and segmentation offload
// both ways, mergeable receive buffers, several queue pairs, the control queue, rate limits.
//
// Threads: each queue pair lives on an event loop's thread, which may be one for all or one each
// (event_loop()); the control queue is inline, on the vCPU that gives the command. What both touch
// is atomic or in a lock: the filter, the active offloads.
//
// Nothing is copied but heads: a frame goes from the guest's buffers to the backend's writev and
// from its readv into them, all but the first bytes of a sent one, which are checked and must not
// change afterwards.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "virtio/backend/event_loop.hpp"
#include "virtio/backend/net/net_backend.hpp"
#include "virtio/device/device.hpp"
#include "virtio/device/net/protocol.hpp"
#include "virtio/device/net/rate_limiter.hpp"
#include "virtio/device/net/receive_filter.hpp"

namespace virtio {

struct NetOptions {
    MacAddress mac{};
    std::uint16_t mtu = 1500;
    TrafficLimit receive;  // towards the guest
    TrafficLimit transmit; // from it
    // How long a pair goes on looking after the last packet before it waits to be woken; 0: not at
    // all. Pays where a CPU has nothing else to do.
    std::uint64_t poll_ns = 0;
    std::uint16_t queue_size = 1024;
};

struct NetCounters {
    std::uint64_t received = 0; // packets given to the guest
    std::uint64_t received_dropped = 0;
    std::uint64_t sent = 0;
    std::uint64_t sent_dropped = 0; // malformed, or refused by the host
    std::uint64_t wakeups = 0;      // of the pairs' threads, for packets
};

class Net final : public Device {
public:
    // `loops`: one per pair of the backend, the same one several times if it likes. All must
    // outlive the device's last callback.
    Net(NetBackend& backend, std::span<EventLoop* const> loops, const NetOptions& options);
    ~Net() override;

    EventLoop* event_loop(std::uint32_t queue_index) override;

    // From any thread.
    NetCounters counters() const;
    void set_link(bool up);
    // Asks the driver to make itself known on the network (VIRTIO_NET_F_GUEST_ANNOUNCE).
    void announce();

protected:
    Checked<void> on_notify(std::uint32_t queue_index) override;
    void on_activate() override;
    void on_reset() override;

private:
    class Pair;

    std::uint32_t control_queue() const { return net_receive_queue(pair_count()); }
    std::uint32_t pair_count() const { return static_cast<std::uint32_t>(pairs_.size()); }
    Checked<void> serve_control();
    void control_later();
    bool execute(const NetControlHead& head, ChainReader& data);
    bool set_mac(std::uint8_t command, ChainReader& data);
    bool set_pairs(ChainReader& data);
    bool set_offloads(ChainReader& data);
    void apply_on_loop();
    void update_status(std::uint16_t set, std::uint16_t clear);

    NetBackend& backend_;
    const NetOptions options_;
    std::vector<std::unique_ptr<Pair>> pairs_;
    Guarded<ReceiveFilter> filter_;
    Guarded<std::uint16_t> status_{net_link_up};
    std::atomic<std::uint64_t> guest_offloads_{0};
    std::atomic<std::uint32_t> active_pairs_{1};
    std::atomic<bool> apply_posted_{false};
    std::atomic<bool> control_posted_{false}; // a task waits that goes on with the commands
    // Tasks that were posted may run after we are gone.
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace virtio
