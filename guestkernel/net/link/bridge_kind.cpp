// The bridge as netlink makes, changes and shows it.
#include <linux/errno.h>
#include <linux/if_link.h>

#include "guestkernel/net/link/bridge.hpp"
#include "guestkernel/net/link/links.hpp"

namespace kernel::net {

namespace {

using netlink::Attribute;
using netlink::LinkWanted;
using netlink::MessageWriter;
using netlink::Request;

constexpr u64 tick = 10'000'000; // USER_HZ: netlink's times of a bridge are in hundredths
using BridgeAttributes = netlink::AttributeTable<IFLA_BR_MAX + 1>;
using PortAttributes = netlink::AttributeTable<IFLA_BRPORT_MAX + 1>;

// Those that are what they are: without spanning tree, VLANs and snooping.
struct Fixed {
    u16 type;
    u8 bytes;
    u32 value;
};
constexpr Fixed fixed[] = {
    {IFLA_BR_FORWARD_DELAY, 4, 1500},  {IFLA_BR_HELLO_TIME, 4, 200},
    {IFLA_BR_MAX_AGE, 4, 2000},        {IFLA_BR_STP_STATE, 4, 0},
    {IFLA_BR_PRIORITY, 2, 0x8000},     {IFLA_BR_VLAN_FILTERING, 1, 0},
    {IFLA_BR_GROUP_FWD_MASK, 2, 0},    {IFLA_BR_MCAST_SNOOPING, 1, 0},
    {IFLA_BR_MCAST_QUERIER, 1, 0},     {IFLA_BR_NF_CALL_IPTABLES, 1, 0},
    {IFLA_BR_NF_CALL_IP6TABLES, 1, 0}, {IFLA_BR_NF_CALL_ARPTABLES, 1, 0},
};

BridgeInterface& bridge_of(Interface& interface) {
    return static_cast<BridgeInterface&>(interface);
}

Result<void> change(Request& request, Interface& interface, std::span<const u8> data) {
    BridgeAttributes attributes;
    TRY(attributes.parse(data, {}, false, request.ack));
    for (const Fixed& setting : fixed) {
        const Attribute* given = attributes[setting.type];
        // A time of the spanning tree has no effect without one; any will do.
        const bool time = setting.type == IFLA_BR_FORWARD_DELAY ||
                          setting.type == IFLA_BR_HELLO_TIME || setting.type == IFLA_BR_MAX_AGE;
        if (given != nullptr && !time && given->number() != setting.value)
            return request.refuse(EOPNOTSUPP, given, "Setting is not supported");
    }
    if (const Attribute* aging = attributes[IFLA_BR_AGEING_TIME])
        bridge_of(interface).table.aging_ns.store(u64{aging->number()} * tick);
    if (attributes[IFLA_BR_FDB_FLUSH] != nullptr)
        bridge_of(interface).table.clear();
    return {};
}

void put_bridge_id(MessageWriter& out, u16 type, const Interface& bridge) {
    u8 id[8] = {0x80, 0};
    __builtin_memcpy(id + 2, bridge.mac().bytes, 6);
    out.value(type, id);
}

void fill(Interface& interface, MessageWriter& out) {
    BridgeInterface& bridge = bridge_of(interface);
    for (const Fixed& setting : fixed)
        out.attribute(setting.type, &setting.value, setting.bytes);
    out.number32(IFLA_BR_AGEING_TIME, static_cast<u32>(bridge.table.aging_ns.load() / tick));
    out.number16(IFLA_BR_VLAN_PROTOCOL, 0x0081); // ETH_P_8021Q in network order
    put_bridge_id(out, IFLA_BR_ROOT_ID, bridge);
    put_bridge_id(out, IFLA_BR_BRIDGE_ID, bridge);
    out.number16(IFLA_BR_ROOT_PORT, 0);
    out.number32(IFLA_BR_ROOT_PATH_COST, 0);
    out.number8(IFLA_BR_TOPOLOGY_CHANGE, 0);
    out.number8(IFLA_BR_TOPOLOGY_CHANGE_DETECTED, 0);
    for (const u16 timer :
         {IFLA_BR_HELLO_TIMER, IFLA_BR_TCN_TIMER, IFLA_BR_TOPOLOGY_CHANGE_TIMER, IFLA_BR_GC_TIMER})
        out.value(timer, u64{0});
    const MacAddress group = {{0x01, 0x80, 0xc2, 0, 0, 0}};
    out.value(IFLA_BR_GROUP_ADDR, group);
}

Result<Ref<Interface>> make(Request& request, const LinkWanted& wanted) {
    TRY(Ref<BridgeInterface> made, make_ref<BridgeInterface>(wanted.name));
    if (!wanted.data.empty())
        TRY(change(request, *made, wanted.data));
    TRY(attach_link(made, wanted));
    return Ref<Interface>(std::move(made));
}

Result<void> add_port(Request& request, Interface& master, Interface& port) {
    const Ref<Stack> at = master.stack();
    if (!at)
        return fail(ENODEV);
    auto added = bridge_of(master).add_port(*at, port);
    if (!added && added.error().code == ELOOP)
        return request.refuse(ELOOP, "Can not enslave a bridge to a bridge");
    return added;
}

Result<void> remove_port(Interface& master, Interface& port) {
    if (const Ref<Stack> at = master.stack())
        bridge_of(master).remove_port(*at, port);
    return {};
}

void fill_port(Interface& master, Interface& interface, MessageWriter& out) {
    const Ref<BridgePort> port = bridge_of(master).port_of(interface);
    if (!port)
        return;
    const bool forwards = interface.is_up() && (interface.flags() & iff_lower_up) != 0;
    out.number8(IFLA_BRPORT_STATE, forwards ? 3 : 0); // BR_STATE_FORWARDING, BR_STATE_DISABLED
    out.number16(IFLA_BRPORT_PRIORITY, 32);
    out.number32(IFLA_BRPORT_COST, 2);
    out.number8(IFLA_BRPORT_MODE, port->hairpin.load() ? 1 : 0);
    out.number8(IFLA_BRPORT_GUARD, 0);
    out.number8(IFLA_BRPORT_PROTECT, 0);
    out.number8(IFLA_BRPORT_FAST_LEAVE, 0);
    out.number8(IFLA_BRPORT_LEARNING, port->learning.load() ? 1 : 0);
    out.number8(IFLA_BRPORT_UNICAST_FLOOD, port->flood.load() ? 1 : 0);
    out.number16(IFLA_BRPORT_ID, static_cast<u16>(0x8000 | port->number));
    out.number16(IFLA_BRPORT_NO, port->number);
    out.number8(IFLA_BRPORT_ISOLATED, port->isolated.load() ? 1 : 0);
    put_bridge_id(out, IFLA_BRPORT_ROOT_ID, master);
    put_bridge_id(out, IFLA_BRPORT_BRIDGE_ID, master);
}

Result<void> change_port(Request& request, Interface& interface, std::span<const u8> data) {
    Ref<Interface> master;
    {
        SpinGuard guard(request.stack().lock);
        master = Ref<Interface>::share(interface.master);
    }
    const Ref<BridgePort> port = master ? bridge_of(*master).port_of(interface) : nullptr;
    if (!port)
        return fail(EINVAL);
    PortAttributes attributes;
    TRY(attributes.parse(data, {}, false, request.ack));
    const auto set = [&](u16 type, base::Atomic<bool>& value) {
        if (const Attribute* given = attributes[type])
            value.store(given->as<u8>() != 0);
    };
    set(IFLA_BRPORT_MODE, port->hairpin);
    set(IFLA_BRPORT_LEARNING, port->learning);
    set(IFLA_BRPORT_UNICAST_FLOOD, port->flood);
    set(IFLA_BRPORT_ISOLATED, port->isolated);
    return {};
}

} // namespace

constinit const netlink::LinkKind bridge_kind = {
    .name = "bridge",
    .make = make,
    .change = change,
    .fill = fill,
    .add_port = add_port,
    .remove_port = remove_port,
    .fill_port = fill_port,
    .change_port = change_port,
};

} // namespace kernel::net
