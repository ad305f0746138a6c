#include "guestkernel/net/link/veth.hpp"

#include <linux/errno.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>

#include "guestkernel/net/backlog.hpp"
#include "guestkernel/net/link/links.hpp"

namespace kernel::net {

VethInterface::VethInterface(std::string_view name) : Interface(name, LinkType::Ethernet, 1500) {
    features_ = feature_all_offloads;
    reports_carrier.store(true);
}

void VethInterface::connect(VethInterface& a, VethInterface& b) {
    a.peer_ = Ref<VethInterface>::share(&b);
    b.peer_ = Ref<VethInterface>::share(&a);
}

Ref<VethInterface> VethInterface::peer() {
    SpinGuard guard(lock_);
    return peer_;
}

Interface::Linked VethInterface::linked() {
    const Ref<VethInterface> other = peer();
    return other ? Linked{other->index(), other->stack()} : Linked();
}

bool VethInterface::start_transmit(unsigned, PacketPtr& packet) {
    const Ref<VethInterface> other = peer();
    if (!other || !other->is_up()) {
        count(counters.tx_dropped);
        packet = {};
        return true;
    }
    // What it meant on this side it does not mean on the other.
    packet->local = packet->looped = false;
    packet->mark = 0;
    packet->forget_connection();
    packet->priority = 0;
    packet->timestamp = 0;
    packet->release_charge();
    queue_receive(*other, std::move(packet));
    return true;
}

// There is a carrier when both ends are up.
Result<void> VethInterface::open() {
    if (const Ref<VethInterface> other = peer(); other && other->is_up()) {
        set_carrier(true);
        other->set_carrier(true);
    }
    return {};
}

void VethInterface::close() {
    set_carrier(false);
    if (const Ref<VethInterface> other = peer())
        other->set_carrier(false);
}

void VethInterface::detached() {
    Ref<VethInterface> other;
    {
        SpinGuard guard(lock_);
        other = std::move(peer_);
    }
    if (!other)
        return;
    if (const Ref<Stack> there = other->stack())
        there->detach(*other);
    // That did it, unless the other one was on its way itself.
    other->detached();
}

namespace {

using netlink::Attribute;
using netlink::LinkWanted;
using netlink::Request;

constexpr netlink::AttributePolicy peer_policy[] = {
    {}, {netlink::AttributeKind::Any, 6}, {}, {netlink::AttributeKind::Text, 15}};
constexpr std::string_view numbered = "veth%d";

// What IFLA_INFO_DATA says of the other end: like a RTM_NEWLINK of its own.
Result<Ref<Stack>> read_peer(Request& request, const LinkWanted& wanted, LinkWanted& peer,
                             MacAddress& mac) {
    peer.name = numbered;
    peer.mtu = wanted.mtu;
    netlink::AttributeTable<VETH_INFO_MAX + 1> data;
    TRY(data.parse(wanted.data, {}, false, request.ack));
    const Attribute* info = data[VETH_INFO_PEER];
    if (info == nullptr)
        return Ref<Stack>::share(&request.stack());
    ifinfomsg header{};
    if (info->data.size() < sizeof header)
        return fail(EINVAL);
    __builtin_memcpy(&header, info->data.data(), sizeof header);
    netlink::AttributeTable<IFLA_MAX + 1> attributes;
    TRY(attributes.parse(info->data.subspan(sizeof header), peer_policy, false, request.ack));
    if (attributes[IFLA_IFNAME] != nullptr)
        peer.name = attributes.text(IFLA_IFNAME);
    if (const Attribute* address = attributes[IFLA_ADDRESS]) {
        __builtin_memcpy(mac.bytes, address->data.data(), sizeof mac.bytes);
        peer.mac = &mac;
    }
    peer.mtu = attributes.number(IFLA_MTU, wanted.mtu);
    peer.queue_length = attributes.number(IFLA_TXQLEN, ~u32{0});
    peer.group = attributes.number(IFLA_GROUP);
    if (header.ifi_index < 0)
        return fail(EINVAL);
    peer.index = static_cast<u32>(header.ifi_index);
    return netlink::target_stack(request, attributes[IFLA_NET_NS_FD], attributes[IFLA_NET_NS_PID]);
}

Result<Ref<Interface>> make(Request& request, const LinkWanted& wanted) {
    LinkWanted peer_wanted;
    MacAddress mac;
    TRY(const Ref<Stack> there, read_peer(request, wanted, peer_wanted, mac));
    peer_wanted.stack = there.get();
    TRY(Ref<VethInterface> own, make_ref<VethInterface>(wanted.name));
    TRY(Ref<VethInterface> peer, make_ref<VethInterface>(peer_wanted.name));
    // Joined first: the notifications say so.
    VethInterface::connect(*own, *peer);
    auto done = attach_link(peer, peer_wanted);
    if (done) {
        done = attach_link(own, wanted);
        if (!done)
            there->detach(*peer);
    }
    if (!done) {
        own->detached();
        return fail(done.error().code);
    }
    return Ref<Interface>(std::move(own));
}

} // namespace

constinit const netlink::LinkKind veth_kind = {.name = "veth", .make = make};

} // namespace kernel::net
