// TunInterface: a network interface whose other end is a program that has /dev/net/tun open.
#pragma once

#include "guestkernel/net/interface.hpp"
#include "guestkernel/sched/wait_queue.hpp"

namespace kernel::net {

class TunInterface final : public Interface {
public:
    static constexpr u32 nobody = ~u32{0};

    // `ethernet`: a tap device, whose packets are frames; else they begin with the IP header.
    TunInterface(std::string_view name, bool ethernet);

    // --- of the file that has it. One at a time: false if there is one already. `readers` is woken
    // when something waits or the interface is gone; it must live until detach_reader().
    bool attach_reader(WaitQueue& readers);
    void detach_reader(); // drops what waits
    // Null: nothing waits.
    PacketPtr take();
    bool has_packets();
    // TUNSETCARRIER: what it says while it is up and a program has it.
    void set_wanted_carrier(bool on);
    // TUNSETOFFLOAD: what the program takes, feature_*.
    void set_offloads(u32 features);
    // IFF_TUN or IFF_TAP, IFF_PERSIST, framing: as TUNGETIFF and sysfs show them.
    u16 shown_flags() const;
    bool is_gone() const { return gone_.load(); } // deleted

    // IFF_NO_PI, IFF_VNET_HDR: of the file, shown by netlink.
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

    // Under the queue's lock.
    PacketList packets_;
    WaitQueue* readers_ = nullptr;
    base::Atomic<bool> attached_{false}, wanted_carrier_{true}, gone_{false};
};

void register_tun(); // at boot: /dev/net/tun, and the kind of link

} // namespace kernel::net
