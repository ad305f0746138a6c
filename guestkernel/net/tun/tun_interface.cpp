#include "guestkernel/net/tun/tun_interface.hpp"

#include <linux/errno.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/lib/hash_map.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/route/link_kind.hpp"
#include "guestkernel/net/tun/tun_file.hpp"
#include "guestkernel/net/wire.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net {

namespace {

// The same for both directions of a connection. Fragments of a packet have no ports to go by.
u32 flow_hash(const Packet& packet, u32 offset) {
    u8 first = 0, protocol = 0;
    u64 mixed = 0;
    u32 transport = 0;
    Ipv4Header four;
    Ipv6Header six;
    if (packet.read(offset, first) && first >> 4 == 4 && packet.read(offset, four)) {
        mixed = four.source.get() ^ four.destination.get();
        protocol = (four.fragment.get() & 0x3fff) == 0 ? four.protocol : u8{0};
        transport = offset + four.header_bytes();
    } else if (first >> 4 == 6 && packet.read(offset, six)) {
        mixed = IpAddress::v6(six.source).hash() ^ IpAddress::v6(six.destination).hash();
        protocol = six.next_header;
        transport = offset + static_cast<u32>(sizeof six);
    }
    Be16 ports[2];
    if ((protocol == proto_tcp || protocol == proto_udp) && packet.read(transport, ports))
        mixed ^= u64{static_cast<u16>(ports[0].get() ^ ports[1].get())} << 32;
    return static_cast<u32>(hash_mix(mixed));
}

} // namespace

TunInterface::TunInterface(std::string_view name, bool ethernet)
    : Interface(name, ethernet ? LinkType::Ethernet : LinkType::None, 1500) {
    if (!ethernet)
        set_first_flags(iff_point_to_point | iff_no_arp | iff_multicast);
    tx_queue_length = TUN_READQ_SIZE;
    features_ = feature_fragments;
    reports_carrier.store(true);
}

bool TunInterface::multi_queue() const {
    return (framing.load() & IFF_MULTI_QUEUE) != 0;
}

u32 TunInterface::place_of(const TunQueue& queue) const {
    u32 at = 0;
    while (at < all_ && queues_[at] != &queue)
        at++;
    return at;
}

void TunInterface::move_to(u32 from, u32 to) {
    std::swap(queues_[from], queues_[to]);
}

Result<void> TunInterface::add(TunQueue& queue) {
    {
        SpinGuard guard(queue_lock(0));
        if (!multi_queue() && all_ != 0)
            return fail(EBUSY);
        if (all_ == most_queues)
            return fail(E2BIG);
        queues_[all_++] = &queue;
        move_to(all_ - 1, active_++);
    }
    attached_.store(true);
    show_carrier();
    return {};
}

bool TunInterface::remove(TunQueue& queue) {
    (void)set_active(queue, false);
    {
        SpinGuard guard(queue_lock(0));
        move_to(place_of(queue), all_ - 1);
        queues_[--all_] = nullptr;
        if (all_ != 0)
            return false;
        attached_.store(false);
    }
    set_carrier(false);
    return true;
}

bool TunInterface::set_active(TunQueue& queue, bool active) {
    PacketList dropped; // freed without the lock
    SpinGuard guard(queue_lock(0));
    const u32 at = place_of(queue);
    if (at == all_ || (at < active_) == active)
        return false;
    if (active) {
        move_to(at, active_++);
        return true;
    }
    move_to(at, --active_);
    dropped = std::move(queue.packets);
    for (TunQueue*& learned : flow_queues_)
        learned = learned == &queue ? nullptr : learned;
    guard.unlock();
    return true;
}

bool TunInterface::is_active(const TunQueue& queue) {
    SpinGuard guard(queue_lock(0));
    return place_of(queue) < active_;
}

PacketPtr TunInterface::take(TunQueue& queue) {
    SpinGuard guard(queue_lock(0));
    return queue.packets.pop_front();
}

bool TunInterface::has_packets(const TunQueue& queue) {
    SpinGuard guard(queue_lock(0));
    return !queue.packets.empty();
}

TunInterface::QueueCounts TunInterface::queue_counts() {
    SpinGuard guard(queue_lock(0));
    return {active_, all_};
}

void TunInterface::learn(TunQueue& queue, const Packet& packet) {
    if (!multi_queue())
        return;
    const u32 hash = flow_hash(packet, link_header_bytes());
    SpinGuard guard(queue_lock(0));
    if (active_ > 1 && place_of(queue) < active_)
        flow_queues_[hash % flows] = &queue;
}

// Locks: the queue's. Requires: one is active.
TunQueue& TunInterface::choose(const Packet& packet) {
    if (active_ == 1)
        return *queues_[0];
    const u32 hash = flow_hash(packet, link_header_bytes());
    TunQueue* const learned = flow_queues_[hash % flows];
    return learned != nullptr ? *learned : *queues_[u64{hash} * active_ >> 32];
}

u64 TransmitFilter::bit(const MacAddress& address) {
    u64 value = 0;
    __builtin_memcpy(&value, address.bytes, sizeof address.bytes);
    return u64{1} << (hash_mix(value) & 63);
}

bool TransmitFilter::wants(const MacAddress& address) const {
    for (u32 i = 0; i < count; i++)
        if (exact[i] == address)
            return true;
    return count == 0 || ((address.bytes[0] & 1) != 0 && (groups & bit(address)) != 0);
}

void TunInterface::set_transmit_filter(const TransmitFilter& wanted) {
    SpinGuard guard(queue_lock(0));
    filter_ = wanted;
}

void TunInterface::set_offloads(u32 features) {
    features_ = feature_fragments | features;
}

void TunInterface::set_wanted_carrier(bool on) {
    wanted_carrier_.store(on);
    show_carrier();
}

void TunInterface::show_carrier() {
    set_carrier(is_up() && attached_.load() && wanted_carrier_.load());
}

u16 TunInterface::shown_flags() const {
    return static_cast<u16>(framing.load() | (persistent.load() ? IFF_PERSIST : 0) |
                            (has_link_addresses() ? IFF_TAP : IFF_TUN));
}

bool TunInterface::start_transmit(unsigned, PacketPtr& packet) {
    EthernetHeader link{};
    const bool filtered =
        filter_.count != 0 && packet->read(0, link) && !filter_.wants(link.destination);
    TunQueue* const to = active_ == 0 || filtered ? nullptr : &choose(*packet);
    if (to == nullptr || to->packets.size() >= tx_queue_length) {
        count(counters.tx_dropped);
        packet = {};
        return true;
    }
    // When the program reads it is the program's affair: its socket may go on.
    packet->release_charge();
    packet->forget_connection();
    to->packets.push_back(std::move(packet));
    to->waiters.wake_all(poll_in | poll_rdnorm);
    return true;
}

Result<void> TunInterface::open() {
    set_carrier(attached_.load() && wanted_carrier_.load());
    SpinGuard guard(queue_lock(0));
    for (u32 i = 0; i < all_; i++)
        queues_[i]->waiters.wake_all(poll_out | poll_wrnorm);
    return {};
}

void TunInterface::close() {
    set_carrier(false);
}

void TunInterface::detached() {
    gone_.store(true);
    SpinGuard guard(queue_lock(0));
    for (u32 i = 0; i < all_; i++)
        queues_[i]->waiters.wake_all();
}

namespace {

void fill(Interface& interface, netlink::MessageWriter& out) {
    auto& device = static_cast<TunInterface&>(interface);
    // Nobody's when a kernel task tells of a change: it may be the last to let go of a file.
    const Ref<const Credentials>& reader = current_task().credentials;
    const UserNamespace* space = reader ? reader->user_ns.get() : nullptr;
    if (const u32 owner = device.owner.load(); owner != TunInterface::nobody)
        out.number32(IFLA_TUN_OWNER, from_global_id(space, false, owner));
    if (const u32 group = device.owner_group.load(); group != TunInterface::nobody)
        out.number32(IFLA_TUN_GROUP, from_global_id(space, true, group));
    const u16 framing = device.framing.load();
    out.number8(IFLA_TUN_TYPE, device.type() == LinkType::Ethernet ? IFF_TAP : IFF_TUN);
    out.number8(IFLA_TUN_PI, (framing & IFF_NO_PI) == 0);
    out.number8(IFLA_TUN_VNET_HDR, (framing & IFF_VNET_HDR) != 0);
    out.number8(IFLA_TUN_PERSIST, device.persistent.load());
    const bool several = (framing & IFF_MULTI_QUEUE) != 0;
    out.number8(IFLA_TUN_MULTI_QUEUE, several);
    if (several) {
        const TunInterface::QueueCounts counts = device.queue_counts();
        out.number32(IFLA_TUN_NUM_QUEUES, counts.active);
        out.number32(IFLA_TUN_NUM_DISABLED_QUEUES, counts.all - counts.active);
    }
}

constinit const netlink::LinkKind tun_kind = {
    .name = "tun",
    // Only /dev/net/tun makes them.
    .make = [](netlink::Request&, const netlink::LinkWanted&) -> Result<Ref<Interface>> {
        return fail(EOPNOTSUPP);
    },
    .fill = fill,
};

} // namespace

void register_tun() {
    netlink::register_link_kind(tun_kind);
    register_tun_device();
}

} // namespace kernel::net
