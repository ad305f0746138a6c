#include "guestkernel/net/tun/tun_interface.hpp"

#include <linux/errno.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>

#include "guestkernel/ipc/poll_events.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/route/link_kind.hpp"
#include "guestkernel/net/tun/tun_file.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net {

TunInterface::TunInterface(std::string_view name, bool ethernet)
    : Interface(name, ethernet ? LinkType::Ethernet : LinkType::None, 1500) {
    if (!ethernet)
        set_first_flags(iff_point_to_point | iff_no_arp | iff_multicast);
    tx_queue_length = TUN_READQ_SIZE;
    features_ = feature_fragments;
    reports_carrier.store(true);
}

bool TunInterface::attach_reader(WaitQueue& readers) {
    {
        SpinGuard guard(queue_lock(0));
        if (readers_ != nullptr)
            return false;
        readers_ = &readers;
    }
    attached_.store(true);
    show_carrier();
    return true;
}

void TunInterface::detach_reader() {
    attached_.store(false);
    set_carrier(false);
    PacketList dropped; // freed without the lock
    SpinGuard guard(queue_lock(0));
    readers_ = nullptr;
    dropped = std::move(packets_);
}

PacketPtr TunInterface::take() {
    SpinGuard guard(queue_lock(0));
    return packets_.pop_front();
}

bool TunInterface::has_packets() {
    SpinGuard guard(queue_lock(0));
    return !packets_.empty();
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
    if (readers_ == nullptr || packets_.size() >= tx_queue_length) {
        count(counters.tx_dropped);
        packet = {};
        return true;
    }
    // When the program reads it is the program's affair: its socket may go on.
    packet->release_charge();
    packet->forget_connection();
    packets_.push_back(std::move(packet));
    readers_->wake_all(poll_in | poll_rdnorm);
    return true;
}

Result<void> TunInterface::open() {
    set_carrier(attached_.load() && wanted_carrier_.load());
    SpinGuard guard(queue_lock(0));
    if (readers_ != nullptr)
        readers_->wake_all(poll_out | poll_wrnorm);
    return {};
}

void TunInterface::close() {
    set_carrier(false);
}

void TunInterface::detached() {
    gone_.store(true);
    SpinGuard guard(queue_lock(0));
    if (readers_ != nullptr)
        readers_->wake_all();
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
    out.number8(IFLA_TUN_MULTI_QUEUE, 0);
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
