#include "guestkernel/net/link/bridge.hpp"

#include <linux/errno.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::net {

namespace {

bool forwards(const Interface& port) {
    return port.is_up() && (port.flags() & iff_lower_up) != 0;
}

// Frames that are never forwarded: pause, slow protocols, spanning trees (802.1D, 7.12.6).
bool is_link_local(const MacAddress& mac) {
    constexpr u8 prefix[5] = {0x01, 0x80, 0xc2, 0x00, 0x00};
    return __builtin_memcmp(mac.bytes, prefix, sizeof prefix) == 0 && mac.bytes[5] < 0x10 &&
           mac.bytes[5] != 0; // without a spanning tree its own frames pass
}

} // namespace

BridgeInterface::BridgeInterface(std::string_view name)
    : Interface(name, LinkType::Ethernet, 1500) {
    features_ = feature_all_offloads;
    reports_carrier.store(true);
}

u64 BridgeInterface::time() {
    const Ref<Stack> at = stack();
    return at ? at->now() : 0;
}

// --- frames

bool BridgeInterface::receive_from_port(Interface& port, PacketPtr& packet) {
    const Ref<Stack> at = port.stack();
    if (!at)
        return false;
    Ref<Interface> master;
    {
        SpinGuard guard(at->lock);
        master = Ref<Interface>::share(port.master);
    }
    if (!master || master->kind() != "bridge")
        return false;
    auto& bridge = static_cast<BridgeInterface&>(*master);
    const Ref<BridgePort> from = bridge.port_of(port);
    if (!from)
        return false;
    packet->restore_link();
    EthernetHeader header;
    if (packet->read(0, header) && is_link_local(header.destination)) {
        (void)packet->pull(sizeof header);
        return false; // for this machine, if for anybody
    }
    bridge.input(*from, std::move(packet));
    return true;
}

void BridgeInterface::input(const BridgePort& from, PacketPtr packet) {
    EthernetHeader header;
    if (!is_up() || !packet->read(0, header) || !forwards(*from.interface))
        return;
    if (from.learning.load())
        table.learn(header.source, from.interface->index(), time());
    packet->ingress = nullptr;
    if (header.destination == mac() || header.destination == from.interface->mac()) {
        deliver_up(std::move(packet));
        return;
    }
    if (!header.destination.is_group()) {
        if (const u32 port = table.find(header.destination, time())) {
            send_to(port, &from, std::move(packet));
            return;
        }
        // A port's own address is this machine's, whichever port asks.
        bool own = false;
        {
            SpinGuard guard(lock_);
            for (const Ref<BridgePort>& port : ports_)
                own = own || port->interface->mac() == header.destination;
        }
        if (own) {
            deliver_up(std::move(packet));
            return;
        }
    }
    if (header.destination.is_group() || promiscuous.load() != 0)
        if (PacketPtr copy = packet->clone())
            deliver_up(std::move(copy));
    flood(&from, std::move(packet));
}

void BridgeInterface::deliver_up(PacketPtr packet) {
    queue_receive(*this, std::move(packet));
}

namespace {

bool may_pass(const BridgePort* from, const BridgePort& to) {
    if (!forwards(*to.interface))
        return false;
    if (from == nullptr)
        return true;
    if (from == &to)
        return to.hairpin.load();
    return !(from->isolated.load() && to.isolated.load());
}

} // namespace

void BridgeInterface::send_to(u32 index, const BridgePort* from, PacketPtr packet) {
    Ref<BridgePort> to;
    {
        SpinGuard guard(lock_);
        for (const Ref<BridgePort>& port : ports_)
            if (port->interface->index() == index)
                to = port;
    }
    if (to && may_pass(from, *to) &&
        packet->length() <= to->interface->mtu() + 14u +
                                (packet->segmentation != Segmentation::None ? 0xffffu : 0u))
        to->interface->transmit(std::move(packet));
}

void BridgeInterface::flood(const BridgePort* from, PacketPtr packet) {
    EthernetHeader header;
    if (!packet->read(0, header))
        return;
    const bool to_group = header.destination.is_group();
    // One port after the other, each held while it sends; the last one gets the packet itself.
    Ref<BridgePort> last;
    for (usize at = 0;; at++) {
        Ref<BridgePort> to;
        {
            SpinGuard guard(lock_);
            if (at >= ports_.size())
                break;
            to = ports_[at];
        }
        if (!may_pass(from, *to) || (!to_group && !to->flood.load()))
            continue;
        if (last)
            if (PacketPtr copy = packet->clone(64))
                last->interface->transmit(std::move(copy));
        last = std::move(to);
    }
    if (last)
        last->interface->transmit(std::move(packet));
}

// Under the queue's lock nothing can be sent: it waits for the flush.
bool BridgeInterface::start_transmit(unsigned, PacketPtr& packet) {
    pending_.push_back(std::move(packet));
    return true;
}

void BridgeInterface::flush_transmit(unsigned queue) {
    for (;;) {
        PacketPtr packet;
        {
            SpinGuard guard(queue_lock(queue));
            packet = pending_.pop_front();
        }
        if (!packet)
            return;
        EthernetHeader header;
        if (!packet->read(0, header))
            continue;
        packet->local = packet->looped = false;
        const u32 port = header.destination.is_group() ? 0 : table.find(header.destination, time());
        if (port != 0)
            send_to(port, nullptr, std::move(packet));
        else
            flood(nullptr, std::move(packet));
    }
}

// --- ports

Result<void> BridgeInterface::open() {
    port_changed();
    return {};
}

Result<void> BridgeInterface::set_mac(const MacAddress& mac) {
    TRY(Interface::set_mac(mac));
    mac_set_ = stack().get() != nullptr; // not by whoever makes it
    return {};
}

Result<void> BridgeInterface::set_mtu(u32 mtu) {
    TRY(Interface::set_mtu(mtu));
    mtu_set_ = true;
    return {};
}

Ref<BridgePort> BridgeInterface::port_of(const Interface& interface) {
    SpinGuard guard(lock_);
    for (const Ref<BridgePort>& port : ports_)
        if (port->interface.get() == &interface)
            return port;
    return {};
}

Result<void> BridgeInterface::add_port(Stack& stack, Interface& port) {
    if (!port.has_link_addresses() || port.is_loopback())
        return fail(EINVAL);
    if (port.kind() == "bridge")
        return fail(ELOOP);
    if (port.receive_handler.load() != nullptr)
        return fail(EBUSY);
    TRY(Ref<BridgePort> fresh, make_ref<BridgePort>(Ref<Interface>::share(&port)));
    {
        SpinGuard guard(stack.lock);
        if (port.master != nullptr)
            return fail(EBUSY);
        // Files of /dev/net/tun and the ends of network namespaces do not wait for the mutex.
        if (this->stack().get() != &stack || port.stack().get() != &stack)
            return fail(ENODEV);
        SpinGuard inner(lock_);
        if (ports_.size() >= most_ports)
            return fail(EXFULL);
        for (u16 number = 1; fresh->number == 0; number++) {
            bool taken = false;
            for (const Ref<BridgePort>& other : ports_)
                taken = taken || other->number == number;
            if (!taken)
                fresh->number = number;
        }
        TRY(ports_.push_back(fresh));
        port.master = this;
        add_ref(); // the port's
    }
    port.promiscuous.fetch_add(1);
    port.receive_filter_changed();
    port.receive_handler.store(receive_from_port, base::Order::Release);
    port_changed();
    return {};
}

void BridgeInterface::remove_port(Stack& stack, Interface& port) {
    port.receive_handler.store(nullptr, base::Order::Release);
    Ref<BridgePort> gone;
    {
        SpinGuard guard(stack.lock);
        if (port.master != this)
            return;
        port.master = nullptr;
        SpinGuard inner(lock_);
        for (usize i = 0; i < ports_.size(); i++)
            if (ports_[i]->interface.get() == &port) {
                gone = std::move(ports_[i]);
                ports_.erase(i);
                break;
            }
    }
    port.promiscuous.fetch_sub(1);
    port.receive_filter_changed();
    table.forget_port(port.index());
    port_changed();
    release();
}

// The carrier is there when a port can forward; the address is the least of the ports', and the MTU
// too, unless somebody set them.
void BridgeInterface::port_changed() {
    bool any = false;
    MacAddress least = MacAddress::broadcast();
    u32 mtu_of_ports = 0;
    {
        SpinGuard guard(lock_);
        for (const Ref<BridgePort>& port : ports_) {
            const Interface& interface = *port->interface;
            any = any || forwards(interface);
            if (__builtin_memcmp(interface.mac().bytes, least.bytes, sizeof least.bytes) < 0)
                least = interface.mac();
            if (mtu_of_ports == 0 || interface.mtu() < mtu_of_ports)
                mtu_of_ports = interface.mtu();
        }
        if (!mac_set_ && !least.is_broadcast())
            mac_ = least;
    }
    if (!mtu_set_ && mtu_of_ports != 0) {
        (void)Interface::set_mtu(mtu_of_ports);
    }
    set_carrier(any);
}

void BridgeInterface::detached() {
    for (;;) {
        Ref<BridgePort> port;
        {
            SpinGuard guard(lock_);
            if (ports_.empty())
                break;
            port = ports_.back();
        }
        const Ref<Stack> at = port->interface->stack();
        if (at) {
            remove_port(*at, *port->interface);
            continue;
        }
        // On its way out on another CPU, which still calls remove_port() for the rest.
        SpinGuard guard(lock_);
        if (!ports_.empty() && ports_.back() == port)
            ports_.pop_back();
    }
    table.clear();
}

} // namespace kernel::net
