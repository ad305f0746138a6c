// A bridge: a switch whose ports are other interfaces (IFLA_MASTER), and which is an interface of
// its own for what is meant for this machine.
#pragma once

#include "guestkernel/net/interface.hpp"
#include "guestkernel/net/link/bridge_table.hpp"

namespace kernel::net {

struct BridgePort final : public RefCounted {
    explicit BridgePort(Ref<Interface> of) : interface(std::move(of)) {}
    const Ref<Interface> interface;
    u16 number = 0;
    base::Atomic<bool> hairpin{false}, learning{true}, flood{true}, isolated{false};
};

class BridgeInterface final : public Interface {
public:
    static constexpr usize most_ports = 1023;
    explicit BridgeInterface(std::string_view name);
    bool start_transmit(unsigned queue, PacketPtr& packet) override;
    void flush_transmit(unsigned queue) override;
    Result<void> open() override;
    void close() override { table.clear(); }
    Result<void> set_mac(const MacAddress& mac) override;
    Result<void> set_mtu(u32 mtu) override;
    void detached() override;
    void port_changed() override;
    void port_gone(Stack& stack, Interface& port) override { remove_port(stack, port); }
    std::string_view kind() const override { return "bridge"; }
    std::string_view driver() const override { return "bridge"; }

    // EBUSY, EINVAL (no Ethernet), ELOOP, ENODEV (one of the two is not in that stack), EXFULL.
    // Requires: no locks; the configuration's mutex.
    Result<void> add_port(Stack& stack, Interface& port);
    void remove_port(Stack& stack, Interface& port);
    Ref<BridgePort> port_of(const Interface& interface);
    BridgeTable table;

private:
    static bool receive_from_port(Interface& port, PacketPtr& packet);
    void input(const BridgePort& from, PacketPtr packet);
    void send_to(u32 index, const BridgePort* from, PacketPtr packet);
    void flood(const BridgePort* from, PacketPtr packet);
    void deliver_up(PacketPtr packet);
    u64 time();
    SpinLock lock_{LockRank::Leaf};
    Vector<Ref<BridgePort>> ports_;
    bool mac_set_ = false, mtu_set_ = false;
    PacketList pending_; // under the queue's lock
};

} // namespace kernel::net
