// TunInterface: a network interface whose other end is a program that has /dev/net/tun open.
#pragma once

#include "guestkernel/net/interface.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel::net {

// What waits for one of the files that have an interface. Under the interface's queue lock.
struct TunQueue {
    WaitQueue waiters;
    PacketList packets;
};

// TUNSETTXFILTER: which frames a program wants of a tap device.
struct TransmitFilter {
    static constexpr u32 most_exact = 8;
    u32 count = 0; // 0: all frames
    MacAddress exact[most_exact];
    u64 groups = 0; // of others, by their hashes
    static u64 bit(const MacAddress& address);
    bool wants(const MacAddress& address) const;
};

class TunInterface final : public Interface {
public:
    static constexpr u32 nobody = ~u32{0};

    // `ethernet`: a tap device, whose packets are frames; else they begin with the IP header.
    TunInterface(std::string_view name, bool ethernet);

    // --- of the files that have it: one, or with IFF_MULTI_QUEUE up to `most_queues`.
    static constexpr u32 most_queues = 256;
    // EBUSY, E2BIG. From now on the queue must live until remove(), and gets its share of packets.
    Result<void> add(TunQueue& queue);
    bool remove(TunQueue& queue); // drops what waits; true: it was the last
    // TUNSETQUEUE: whether it gets packets. False: it is so already.
    bool set_active(TunQueue& queue, bool active);
    bool is_active(const TunQueue& queue);
    // Null: nothing waits.
    PacketPtr take(TunQueue& queue);
    bool has_packets(const TunQueue& queue);
    struct QueueCounts {
        u32 active, all;
    };
    QueueCounts queue_counts();
    // A packet came from the program by that queue: answers go there, too.
    void learn(TunQueue& queue, const Packet& packet);
    void set_transmit_filter(const TransmitFilter& filter);
    // TUNSETCARRIER: what it says while it is up and a program has it.
    void set_wanted_carrier(bool on);
    // TUNSETOFFLOAD: what the program takes, feature_*.
    void set_offloads(u32 features);
    // IFF_TUN or IFF_TAP, IFF_PERSIST, framing: as TUNGETIFF and sysfs show them.
    u16 shown_flags() const;
    bool is_gone() const { return gone_.load(); } // deleted

    // IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE, IFF_NAPI: as they were asked for.
    base::Atomic<u16> framing{0};
    base::Atomic<bool> persistent{false};
    base::Atomic<u32> owner{nobody}, owner_group{nobody}; // global ids; who may have it without
                                                          // being an administrator

    // --- Interface
    bool start_transmit(unsigned queue, PacketPtr& packet) override;
    Result<void> open() override;
    void close() override;
    void detached() override;
    std::string_view kind() const override { return "tun"; }
    std::string_view driver() const override { return "tun"; }

private:
    void show_carrier();

    u32 place_of(const TunQueue& queue) const;
    void move_to(u32 from, u32 to);
    TunQueue& choose(const Packet& packet);
    bool multi_queue() const;

    // Under the queue's lock: those that get packets first.
    TunQueue* queues_[most_queues] = {};
    u32 active_ = 0, all_ = 0;
    // By the hash of a flow, where its last packet came from; null: by the hash alone.
    static constexpr u32 flows = 256;
    TunQueue* flow_queues_[flows] = {};
    TransmitFilter filter_;
    base::Atomic<bool> attached_{false}, wanted_carrier_{true}, gone_{false};
};

void register_tun(); // at boot: /dev/net/tun, and the kind of link

} // namespace kernel::net
