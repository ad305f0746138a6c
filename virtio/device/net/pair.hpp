// Net::Pair: the data path of one queue pair. On its event loop's thread, all but reset().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "virtio/backend/unique_fd.hpp"
#include "virtio/device/net/net.hpp"
#include "virtio/device/net/packet_check.hpp"

namespace virtio {

class Net::Pair final : public NetPortEvents {
public:
    Pair(Net& device, std::uint32_t index, EventLoop& loop, NetPort& port);
    ~Pair() override;

    EventLoop& loop() { return loop_; }
    NetPort& port() { return port_; }

    // NetPortEvents; each takes a pass itself.
    void readable() override;
    void writable() override;
    bool deliver(std::span<const std::byte> frame) override;

    // Moves what can be moved, for a bounded time. Requires: a pass is held.
    Checked<void> run();
    // The driver is there: begins to listen, on the loop's thread. From any thread.
    void start_later();
    // Requires: the gate is closed and empty.
    void reset();

    void add_to(NetCounters& sum) const;

private:
    enum class Step : std::uint8_t { Worked, Idle };
    Checked<Step> transmit(Queue::WhenEmpty when_empty);
    Checked<Step> receive();
    Checked<bool> poll_on();
    Checked<void> send_chain(Queue& queue, Chain chain);
    NetPort::Sent send_frame(const Chain& chain);

    Checked<bool> gather_room(Queue& queue);
    void lay_out_room();
    void take_in(Queue& queue, std::size_t length);
    bool finish_packet(Queue& queue, std::size_t length);
    bool acceptable(const NetHeader& header, std::span<const std::byte> head, std::size_t length);
    void watch(bool on);
    void wake_at(std::uint64_t time_ns);
    void outside(Checked<void> (Pair::*work)());
    void later();
    std::size_t usable_bytes() const;

    // What is read of each received packet before the guest sees any of it.
    static constexpr std::size_t local_head = sizeof(NetHeader) + net_ethernet_header + 4;
    // Pieces of guest memory in one readv or writev; a local one may stand before and behind.
    static constexpr std::size_t max_pieces = 1000;

    Net& device_;
    const std::uint32_t index_;
    EventLoop& loop_;
    NetPort& port_;
    UniqueFd timer_;                // of the rate limiters; none if there is no limit
    std::uint64_t timer_at_ns_ = 0; // 0: not armed

    RateLimiter transmit_limit_;
    Chain outgoing_; // the backend was full

    RateLimiter receive_limit_;
    std::vector<Chain> room_;           // popped, and empty so far
    std::vector<struct iovec> pieces_;  // of the chains in front, as far as they fit
    std::size_t usable_chains_ = 0;     // those in pieces_
    std::vector<struct iovec> read_to_; // local head, pieces behind it, spill
    std::array<std::byte, local_head> head_{};
    std::vector<std::byte> spill_; // the end of a packet for which there was no room
    std::size_t spilled_from_ = 0; // where in the packet spill_ begins
    std::size_t pending_ = 0;      // length of a packet that waits for more room; 0: none
    std::vector<Queue::UsedChain> used_;
    bool watching_ = false;
    bool later_posted_ = false;
    std::atomic<bool> start_posted_{false};
    std::uint64_t idle_since_ = 0;

    // One writer; read by whoever asks.
    struct Counts {
        std::atomic<std::uint64_t> received{0}, received_dropped{0}, sent{0}, sent_dropped{0},
            wakeups{0};
    } counts_;
    std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

} // namespace virtio
