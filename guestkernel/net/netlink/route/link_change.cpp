// RTM_NEWLINK, RTM_SETLINK and RTM_DELLINK.
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include "guestkernel/core/random.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/netlink/route/family.hpp"
#include "guestkernel/net/netlink/route/link_kind.hpp"
#include "guestkernel/net/netlink/route/operational.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::net::netlink {

namespace {

constexpr usize most_kinds = 8;
constinit const LinkKind* kinds[most_kinds] = {};

constexpr AttributePolicy policy[] = {
    {},
    {},                           // IFLA_ADDRESS
    {},                           // IFLA_BROADCAST
    {AttributeKind::Text, 15},    // IFLA_IFNAME
    {AttributeKind::Number32, 0}, // IFLA_MTU
    {AttributeKind::Number32, 0}, // IFLA_LINK
    {},                           // IFLA_QDISC
    {},                           // IFLA_STATS
    {},                           // IFLA_COST
    {},                           // IFLA_PRIORITY
    {AttributeKind::Number32, 0}, // IFLA_MASTER
    {},                           // IFLA_WIRELESS
    {},                           // IFLA_PROTINFO
    {AttributeKind::Number32, 0}, // IFLA_TXQLEN
    {AttributeKind::Any, 28},     // IFLA_MAP
    {},                           // IFLA_WEIGHT
    {AttributeKind::Number8, 0},  // IFLA_OPERSTATE
    {AttributeKind::Number8, 0},  // IFLA_LINKMODE
    {AttributeKind::Nested, 0},   // IFLA_LINKINFO
    {AttributeKind::Number32, 0}, // IFLA_NET_NS_PID
    {AttributeKind::Text, 255},   // IFLA_IFALIAS
};

using LinkAttributes = AttributeTable<IFLA_MAX + 1>;

struct LinkRequest {
    ifinfomsg header;
    LinkAttributes attributes;
    AttributeTable<IFLA_INFO_MAX + 1> info;
};

Result<void> parse(Request& request, LinkRequest& out) {
    TRY(out.header, request.payload_header<ifinfomsg>());
    TRY(out.attributes.parse(request.attributes_after<ifinfomsg>(), policy, false, request.ack));
    if (const Attribute* info = out.attributes[IFLA_LINKINFO])
        TRY(out.info.parse(info->data, {}, false, request.ack));
    return {};
}

// The one that the request names: null without a number or a name.
Ref<Interface> named_link(Stack& stack, const LinkRequest& wanted) {
    if (wanted.header.ifi_index > 0)
        return stack.interface(static_cast<u32>(wanted.header.ifi_index));
    if (wanted.attributes[IFLA_IFNAME] != nullptr)
        return stack.interface(wanted.attributes.text(IFLA_IFNAME));
    if (wanted.attributes[IFLA_ALT_IFNAME] != nullptr)
        return stack.interface(wanted.attributes.text(IFLA_ALT_IFNAME));
    return {};
}

Result<MacAddress> mac_of(const Attribute& attribute) {
    MacAddress out;
    if (attribute.data.size() < sizeof out.bytes)
        return fail(EINVAL);
    __builtin_memcpy(out.bytes, attribute.data.data(), sizeof out.bytes);
    return out;
}

Result<Ref<Stack>> target_of(Request& request, const LinkAttributes& attributes) {
    if (attributes[IFLA_TARGET_NETNSID] != nullptr)
        return request.refuse(EOPNOTSUPP, "Network namespaces cannot be named by numbers");
    return target_stack(request, attributes[IFLA_NET_NS_FD], attributes[IFLA_NET_NS_PID]);
}

void tell_changed(Stack& stack, Interface& interface) {
    Change change{ChangeKind::InterfaceChanged};
    change.interface = &interface;
    notify_change(stack, change);
}

// `stack`: where the port is, and where its master's number counts.
Result<void> set_master(Request& request, Stack& stack, Interface& port, u32 index) {
    u32 before = 0;
    {
        SpinGuard guard(stack.lock);
        before = port.master == nullptr ? 0 : port.master->index();
    }
    if (before == index)
        return {};
    leave_master(stack, port);
    if (index == 0)
        return {};
    const Ref<Interface> master = stack.interface(index);
    if (!master)
        return fail(EINVAL);
    const LinkKind* kind = find_link_kind(master->kind());
    if (kind == nullptr || kind->add_port == nullptr)
        return fail(EOPNOTSUPP);
    TRY(kind->add_port(request, *master, port));
    tell_changed(stack, port);
    return {};
}

Result<void> set_families(Request& request, Interface& interface, const Attribute& families) {
    AttributeReader reader(families.data);
    Attribute family;
    while (reader.next(family)) {
        if (family.type != 10) // AF_INET6
            continue;
        AttributeTable<IFLA_INET6_MAX + 1> inner;
        TRY(inner.parse(family.data, {}, false, request.ack));
        const Attribute* mode = inner[IFLA_INET6_ADDR_GEN_MODE];
        if (mode == nullptr)
            continue;
        const u8 value = mode->as<u8>();
        if (value > IN6_ADDR_GEN_MODE_RANDOM)
            return fail(EINVAL);
        // Stable secrets come from /proc/sys; without one there is nothing to make names of.
        if (value == IN6_ADDR_GEN_MODE_STABLE_PRIVACY)
            return fail(EINVAL);
        interface.settings.addr_gen_mode = value;
    }
    return {};
}

Result<void> set_alias(Stack& stack, Interface& interface, std::string_view text) {
    TRY(String fresh, String::from(text));
    {
        SpinGuard guard(stack.lock);
        String before = std::move(interface.alias);
        interface.alias = std::move(fresh);
        fresh = std::move(before);
    }
    tell_changed(stack, interface);
    return {};
}

Result<void> set_simple(Request& request, Stack& stack, Interface& interface,
                        const LinkAttributes& attributes) {
    if (const Attribute* address = attributes[IFLA_ADDRESS]) {
        TRY(const MacAddress mac, mac_of(*address));
        if (!(mac == interface.mac()))
            TRY(stack.set_mac(interface, mac));
    }
    if (const Attribute* mtu = attributes[IFLA_MTU]) {
        const u32 wanted = mtu->number();
        if (wanted != interface.mtu()) {
            if (wanted < interface.min_mtu)
                return request.refuse(EINVAL, "mtu less than device minimum");
            if (wanted > interface.max_mtu && !interface.is_loopback())
                return request.refuse(EINVAL, "mtu greater than device maximum");
            TRY(stack.set_mtu(interface, wanted));
        }
    }
    if (const Attribute* group = attributes[IFLA_GROUP])
        interface.group = group->number();
    if (attributes[IFLA_IFNAME] != nullptr) {
        const std::string_view name = attributes.text(IFLA_IFNAME);
        if (!name.empty() && name != interface.name())
            TRY(stack.rename(interface, name));
    }
    if (attributes[IFLA_IFALIAS] != nullptr)
        TRY(set_alias(stack, interface, attributes.text(IFLA_IFALIAS)));
    return {};
}

// What the request says of an interface that is there.
Result<void> change_link(Request& request, const LinkRequest& wanted, Interface& interface) {
    const LinkAttributes& attributes = wanted.attributes;
    TRY(const Ref<Stack> target, target_of(request, attributes));
    Stack& stack = *target;
    // First of all: a name need only be free where the interface goes, and all else counts there.
    if (&stack != &request.stack()) {
        leave_master(request.stack(), interface);
        TRY(request.stack().move(interface, stack, attributes.text(IFLA_IFNAME),
                                 attributes.number(IFLA_NEW_IFINDEX)));
    }
    TRY(set_simple(request, stack, interface, attributes));
    if (const Attribute* master = attributes[IFLA_MASTER])
        TRY(set_master(request, stack, interface, master->number()));
    if (wanted.header.ifi_flags != 0 || wanted.header.ifi_change != 0) {
        const u32 mask = wanted.header.ifi_change != 0 ? wanted.header.ifi_change : ~u32{0};
        TRY(stack.set_flags(interface, wanted.header.ifi_flags, mask));
    }
    if (const Attribute* carrier = attributes[IFLA_CARRIER]) {
        // Only of devices that have none of their own.
        if (interface.kind() != "dummy")
            return fail(EOPNOTSUPP);
        interface.set_carrier(carrier->as<u8>() != 0);
    }
    if (const Attribute* length = attributes[IFLA_TXQLEN])
        interface.tx_queue_length = length->number();
    if (const Attribute* families = attributes[IFLA_AF_SPEC])
        TRY(set_families(request, interface, *families));
    return {};
}

// IFLA_INFO_DATA and IFLA_INFO_SLAVE_DATA of one that is there.
Result<void> change_kind(Request& request, const LinkRequest& wanted, Interface& interface) {
    if (wanted.info[IFLA_INFO_KIND] != nullptr) {
        const std::string_view name = wanted.info.text(IFLA_INFO_KIND);
        const LinkKind* kind = find_link_kind(name);
        if (const Attribute* data = wanted.info[IFLA_INFO_DATA]) {
            if (kind == nullptr || kind->change == nullptr || interface.kind() != name)
                return fail(EOPNOTSUPP);
            TRY(kind->change(request, interface, data->data));
        }
    }
    if (const Attribute* data = wanted.info[IFLA_INFO_SLAVE_DATA]) {
        Ref<Interface> master;
        {
            SpinGuard guard(request.stack().lock);
            master = Ref<Interface>::share(interface.master);
        }
        const LinkKind* kind = master ? find_link_kind(master->kind()) : nullptr;
        if (kind == nullptr || kind->change_port == nullptr)
            return fail(EOPNOTSUPP);
        TRY(kind->change_port(request, interface, data->data));
    }
    return {};
}

Result<void> make_link(Request& request, const LinkRequest& wanted) {
    const LinkAttributes& attributes = wanted.attributes;
    if (wanted.info[IFLA_INFO_KIND] == nullptr)
        return request.refuse(EOPNOTSUPP, "Unknown device type");
    const LinkKind* kind = find_link_kind(wanted.info.text(IFLA_INFO_KIND));
    if (kind == nullptr || kind->make == nullptr)
        return request.refuse(EOPNOTSUPP, "Unknown device type");
    if (wanted.header.ifi_index < 0)
        return request.refuse(EINVAL, "ifindex can't be negative");
    TRY(const Ref<Stack> target, target_of(request, attributes));
    LinkWanted link;
    link.stack = target.get();
    char numbered[Interface::name_bytes] = {};
    link.name = attributes.text(IFLA_IFNAME);
    if (link.name.empty()) {
        if (kind->name.size() + 2 >= sizeof numbered)
            return fail(EINVAL);
        __builtin_memcpy(numbered, kind->name.data(), kind->name.size());
        __builtin_memcpy(numbered + kind->name.size(), "%d", 2);
        link.name = numbered;
    }
    link.index = static_cast<u32>(wanted.header.ifi_index);
    MacAddress mac;
    if (const Attribute* address = attributes[IFLA_ADDRESS]) {
        TRY(mac, mac_of(*address));
        if (mac.is_group() || mac.is_zero())
            return fail(EADDRNOTAVAIL);
        link.mac = &mac;
    }
    link.mtu = attributes.number(IFLA_MTU);
    link.queue_length = attributes.number(IFLA_TXQLEN, ~u32{0});
    link.group = attributes.number(IFLA_GROUP);
    if (const Attribute* data = wanted.info[IFLA_INFO_DATA])
        link.data = data->data;
    TRY(const Ref<Interface> made, kind->make(request, link));
    // The rest as if it had been there: it goes again if it cannot be had.
    auto done = [&]() -> Result<void> {
        if (attributes[IFLA_IFALIAS] != nullptr)
            TRY(set_alias(*target, *made, attributes.text(IFLA_IFALIAS)));
        if (const Attribute* master = attributes[IFLA_MASTER])
            TRY(set_master(request, *target, *made, master->number()));
        if (const Attribute* families = attributes[IFLA_AF_SPEC])
            TRY(set_families(request, *made, *families));
        if (wanted.header.ifi_flags != 0 || wanted.header.ifi_change != 0) {
            const u32 mask = wanted.header.ifi_change != 0 ? wanted.header.ifi_change : ~u32{0};
            TRY(target->set_flags(*made, wanted.header.ifi_flags, mask));
        }
        return {};
    }();
    if (!done)
        target->detach(*made);
    return done;
}

// All interfaces of a group: RTM_SETLINK without a name.
Result<void> change_group(Request& request, const LinkRequest& wanted, u32 group) {
    u32 after = 0;
    while (const Ref<Interface> interface = request.stack().next_interface(after)) {
        after = interface->index();
        if (interface->group == group)
            TRY(change_link(request, wanted, *interface));
    }
    return {};
}

bool removable(const Interface& interface) {
    return find_link_kind(interface.kind()) != nullptr;
}

} // namespace

void register_link_kind(const LinkKind& kind) {
    for (const LinkKind*& slot : kinds)
        if (slot == nullptr) {
            slot = &kind;
            return;
        }
    PANIC("too many kinds of links");
}

const LinkKind* find_link_kind(std::string_view name) {
    for (const LinkKind* kind : kinds)
        if (kind != nullptr && !name.empty() && kind->name == name)
            return kind;
    return nullptr;
}

void leave_master(Stack& stack, Interface& port) {
    Ref<Interface> master;
    {
        SpinGuard guard(stack.lock);
        master = Ref<Interface>::share(port.master);
    }
    const LinkKind* kind = master ? find_link_kind(master->kind()) : nullptr;
    if (kind == nullptr || kind->remove_port == nullptr)
        return;
    if (kind->remove_port(*master, port))
        tell_changed(stack, port);
}

Result<Ref<Stack>> target_stack(Request& request, const Attribute* fd, const Attribute* pid) {
    if (fd == nullptr && pid == nullptr)
        return Ref<Stack>::share(&request.stack());
    TRY(Ref<Stack> target, fd != nullptr ? stack_of_fd(fd->number()) : stack_of_pid(pid->number()));
    if (!request.capable_at(*target, CAP_NET_ADMIN))
        return fail(EPERM);
    return target;
}

MacAddress random_mac() {
    MacAddress out;
    random_bytes(out.bytes, sizeof out.bytes);
    out.bytes[0] = static_cast<u8>((out.bytes[0] & 0xfe) | 0x02);
    return out;
}

Result<void> new_link(Request& request) {
    LinkRequest wanted;
    TRY(parse(request, wanted));
    const bool set = request.type() == RTM_SETLINK;
    const bool named = wanted.header.ifi_index > 0 || wanted.attributes[IFLA_IFNAME] != nullptr ||
                       wanted.attributes[IFLA_ALT_IFNAME] != nullptr;
    const Ref<Interface> known = named_link(request.stack(), wanted);
    if (known && !set) {
        if (request.wants(NLM_F_EXCL))
            return fail(EEXIST);
        if (request.wants(NLM_F_REPLACE))
            return fail(EOPNOTSUPP);
        TRY(change_kind(request, wanted, *known));
    }
    if (known)
        return change_link(request, wanted, *known);
    if (set)
        return named ? fail(ENODEV) : fail(EINVAL);
    if (!request.wants(NLM_F_CREATE)) {
        if (named)
            return fail(ENODEV);
        if (const Attribute* group = wanted.attributes[IFLA_GROUP])
            return change_group(request, wanted, group->number());
        return fail(ENODEV);
    }
    return make_link(request, wanted);
}

Result<void> delete_link(Request& request) {
    LinkRequest wanted;
    TRY(parse(request, wanted));
    TRY(const Ref<Stack> target, target_of(request, wanted.attributes));
    if (const Ref<Interface> interface = named_link(*target, wanted)) {
        if (!removable(*interface))
            return fail(EOPNOTSUPP);
        leave_master(*target, *interface);
        target->detach(*interface);
        return {};
    }
    const bool named = wanted.header.ifi_index > 0 || wanted.attributes[IFLA_IFNAME] != nullptr ||
                       wanted.attributes[IFLA_ALT_IFNAME] != nullptr;
    const Attribute* group = wanted.attributes[IFLA_GROUP];
    if (named || group == nullptr)
        return named ? fail(ENODEV) : fail(EINVAL);
    // All or none of a group.
    bool any = false;
    for (const bool for_real : {false, true}) {
        u32 after = 0;
        while (const Ref<Interface> interface = target->next_interface(after)) {
            after = interface->index();
            if (interface->group != group->number())
                continue;
            any = true;
            if (!removable(*interface))
                return fail(EOPNOTSUPP);
            if (for_real) {
                leave_master(*target, *interface);
                target->detach(*interface);
            }
        }
        if (!any)
            return fail(ENODEV);
    }
    return {};
}

} // namespace kernel::net::netlink
