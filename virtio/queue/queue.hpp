// The device's side of a split virtqueue (virtio 1.2, 2.7), with VIRTIO_RING_F_EVENT_IDX and
// VIRTIO_RING_F_INDIRECT_DESC.
//
// Threads: every method may be called from any thread. The available side (pop) and the used side
// (push_used, needs_interrupt) have a lock each; neither is held while the other is taken, or while
// anything outside of this class is called.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/atomic.hpp"
#include "virtio/fault.hpp"
#include "virtio/guarded.hpp"
#include "virtio/memory/guest_memory.hpp"
#include "virtio/queue/chain.hpp"

namespace virtio {

inline constexpr std::uint16_t max_queue_size = 32768; // 2.7

// While the driver writes it.
struct QueueConfig {
    std::uint16_t index = 0;
    std::uint16_t size = 0;
    std::uint16_t max_size = 0;
    bool ready = false;
    GuestAddr descriptors;
    GuestAddr available;
    GuestAddr used;
};

struct QueueFeatures {
    bool event_index = false;
    bool indirect = false;
    static QueueFeatures from(std::uint64_t negotiated);
};

// What has gone through a queue, over all lives of its device. Written under the used side's lock,
// read by whoever asks.
struct QueueTraffic {
    base::Atomic<std::uint64_t> chains;
    base::Atomic<std::uint64_t> from_driver; // bytes that it offered to be read
    base::Atomic<std::uint64_t> to_driver;   // bytes that the device wrote
};

// Told when the driver wants to hear of used buffers. The transport is one.
class QueueInterrupt {
public:
    virtual ~QueueInterrupt() = default;
    virtual void used_buffer() = 0;
};

class Queue {
public:
    // Checks what the driver set up; from here on positions in the rings are our own. `interrupt`
    // may be null (then interrupt_driver() does nothing), `traffic` too (nothing is counted); they
    // must outlive the queue, as must `memory`.
    static Checked<std::unique_ptr<Queue>>
    activate(const QueueConfig& config, const QueueFeatures& features, const GuestMemory& memory,
             QueueInterrupt* interrupt, QueueTraffic* traffic = nullptr);
    // What activate() would say, without the queue.
    static Checked<void> check(const QueueConfig& config, const GuestMemory& memory);

    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
    ~Queue();

    std::uint16_t index() const { return index_; }
    std::uint16_t size() const { return size_; }

    enum class WhenEmpty : std::uint8_t {
        Arm,        // ask the driver for a notification when it offers the next chain
        StaySilent, // the caller polls, or will come back by itself
    };
    // The next chain, an empty one when there is none, or the driver's fault. With Arm there is no
    // race: an empty answer means that the next offer will notify. A fault is final: the queue
    // answers every later pop() with it.
    Checked<Chain> pop(WhenEmpty when_empty = WhenEmpty::Arm);

    // Returns a chain to the driver; `written` is the number of bytes at the start of its writable
    // part that the device wrote (2.7.8.2). In any order. Does not interrupt.
    void push_used(Chain chain, std::uint32_t written);
    // The same for several chains, which the driver sees all at once or not yet: one packet in
    // merged buffers (5.1.6.4). The handles are empty afterwards.
    struct UsedChain {
        Chain* chain;
        std::uint32_t written;
    };
    void push_used(std::span<const UsedChain> chains);
    // Whether the driver wants an interrupt for what was pushed since the last call (2.7.7.2). Says
    // true at most once per push: who gets true must interrupt.
    bool needs_interrupt();
    // needs_interrupt(), and the interrupt. Once per batch.
    void interrupt_driver();
    // push_used and interrupt_driver in one.
    void complete(Chain chain, std::uint32_t written);

    // Chains popped and not yet returned or dropped.
    std::size_t in_flight() const;

private:
    struct Available {
        std::uint16_t next = 0; // own-index: ours, never read back
        DriverFault fault;
    };
    struct Used {
        std::uint16_t next = 0;
        std::uint16_t signalled = 0; // `next` when needs_interrupt() was last asked
    };
    struct Rings {
        GuestSlice descriptors;
        GuestSlice available;
        GuestSlice used;
    };
    struct Descriptor;
    struct Table;

    Queue(const QueueConfig& config, const QueueFeatures& features, const Rings& rings,
          const GuestMemory& memory, QueueInterrupt* interrupt, QueueTraffic* traffic);
    void count(std::span<const UsedChain> chains) const;
    static Checked<Rings> locate(const QueueConfig& config, const GuestMemory& memory);

    Checked<Chain> pop_locked(Available& state, WhenEmpty when_empty);
    Checked<bool> offered(std::uint16_t next) const;
    Checked<void> read_chain(std::uint16_t head, detail::ChainSlot& slot) const;
    Checked<void> walk(const Table& table, std::uint16_t first, detail::ChainSlot& slot,
                       std::size_t& budget) const;
    Checked<void> add_piece(const Descriptor& descriptor, detail::ChainSlot& slot) const;
    void arm(std::uint16_t next) const;

    const GuestMemory& memory_;
    QueueInterrupt* interrupt_;
    QueueTraffic* const traffic_;
    const std::uint16_t index_;
    const std::uint16_t size_;
    const QueueFeatures features_;
    const Rings rings_;

    std::vector<detail::ChainSlot> slots_; // by head
    Guarded<Available> available_;
    Guarded<Used> used_;
};

} // namespace virtio
