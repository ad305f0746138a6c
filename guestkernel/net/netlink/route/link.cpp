// RTM_NEWLINK messages, and RTM_GETLINK.
#include <linux/errno.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include "guestkernel/net/netlink/route/conf.hpp"
#include "guestkernel/net/netlink/route/family.hpp"
#include "guestkernel/net/netlink/route/link_kind.hpp"
#include "guestkernel/net/netlink/route/operational.hpp"

namespace kernel::net::netlink {

namespace {

// Not in every UAPI header of the build host: linux/if_link.h since 6.10.
constexpr u16 ifla_netns_immutable = 67, ifla_gso_ipv4_max_size = 63, ifla_gro_ipv4_max_size = 64;
constexpr u32 gso_size = 65536, gso_segments = 65535, tso_size = 524280;

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
};

rtnl_link_stats64 statistics_of(const Interface& interface) {
    const InterfaceCounters& counters = interface.counters;
    rtnl_link_stats64 out{};
    out.rx_packets = counters.rx_packets.load();
    out.tx_packets = counters.tx_packets.load();
    out.rx_bytes = counters.rx_bytes.load();
    out.tx_bytes = counters.tx_bytes.load();
    out.rx_errors = counters.rx_errors.load();
    out.tx_errors = counters.tx_errors.load();
    out.rx_dropped = counters.rx_dropped.load();
    out.tx_dropped = counters.tx_dropped.load();
    out.multicast = counters.multicast.load();
    return out;
}

void put_statistics(MessageWriter& out, const Interface& interface) {
    const rtnl_link_stats64 wide = statistics_of(interface);
    out.value(IFLA_STATS64, wide);
    // The same in the old form, of 32 bits each.
    constexpr usize fields = sizeof(rtnl_link_stats) / sizeof(u32);
    u64 values[sizeof wide / sizeof(u64)];
    __builtin_memcpy(values, &wide, sizeof wide);
    u32 narrow[fields] = {};
    for (usize i = 0; i < fields && i < sizeof values / sizeof(u64); i++)
        narrow[i] = static_cast<u32>(values[i]);
    out.attribute(IFLA_STATS, narrow, sizeof narrow);
}

void put_addresses(MessageWriter& out, const Interface& interface) {
    if (interface.type() == LinkType::None)
        return;
    const MacAddress broadcast = interface.is_loopback() ? MacAddress() : MacAddress::broadcast();
    out.value(IFLA_ADDRESS, interface.mac());
    out.value(IFLA_BROADCAST, broadcast);
}

void put_link_info(MessageWriter& out, Interface& interface, Interface* master) {
    if (interface.kind().empty() && master == nullptr)
        return;
    const usize info = out.open(IFLA_LINKINFO);
    if (!interface.kind().empty()) {
        out.text(IFLA_INFO_KIND, interface.kind());
        const LinkKind* kind = find_link_kind(interface.kind());
        if (kind != nullptr && kind->fill != nullptr) {
            const usize data = out.open(IFLA_INFO_DATA);
            kind->fill(interface, out);
            out.close(data);
        }
    }
    if (master != nullptr) {
        out.text(IFLA_INFO_SLAVE_KIND, master->kind());
        const LinkKind* kind = find_link_kind(master->kind());
        if (kind != nullptr && kind->fill_port != nullptr) {
            const usize data = out.open(IFLA_INFO_SLAVE_DATA);
            kind->fill_port(*master, interface, out);
            out.close_or_drop(data);
        }
    }
    out.close(info);
}

void put_family6(MessageWriter& out, Stack& stack, const Interface& interface) {
    out.number32(IFLA_INET6_FLAGS, interface.is_up() ? 0x8000'0000u : 0u); // IF_READY
    const NeighbourSettings& neighbours = stack.neighbours().settings(true);
    const ifla_cacheinfo timing = {65535, 0,
                                   static_cast<u32>(neighbours.base_reachable_ns / 1'000'000),
                                   static_cast<u32>(neighbours.retransmit_ns / 1'000'000)};
    out.value(IFLA_INET6_CACHEINFO, timing);
    i32 values6[conf6_values];
    conf6(interface, values6);
    out.attribute(IFLA_INET6_CONF, values6, sizeof values6);
    out.number8(IFLA_INET6_ADDR_GEN_MODE, interface.settings.addr_gen_mode);
}

void put_families(MessageWriter& out, Stack& stack, const Interface& interface) {
    const usize all = out.open(IFLA_AF_SPEC);
    const usize inet = out.open(AF_INET);
    i32 values4[conf4_values];
    conf4(stack, interface.settings, values4);
    out.attribute(IFLA_INET_CONF, values4, sizeof values4);
    out.close(inet);
    const usize inet6 = out.open(AF_INET6);
    put_family6(out, stack, interface);
    out.close(inet6);
    out.close(all);
}

void put_numbers(MessageWriter& out, Interface& interface) {
    out.number32(IFLA_TXQLEN, interface.tx_queue_length);
    out.number8(IFLA_OPERSTATE, operational_state(interface));
    out.number8(IFLA_LINKMODE, 0);
    out.number8(ifla_netns_immutable, interface.movable() ? 0 : 1);
    out.number32(IFLA_MTU, interface.mtu());
    out.number32(IFLA_MIN_MTU, interface.is_loopback() ? 0 : interface.min_mtu);
    out.number32(IFLA_MAX_MTU, interface.is_loopback() ? 0 : interface.max_mtu);
    out.number32(IFLA_GROUP, interface.group);
    out.number32(IFLA_PROMISCUITY, interface.promiscuous.load());
    out.number32(IFLA_ALLMULTI, interface.all_multicast.load());
    const u32 queues = shown_queues(interface);
    out.number32(IFLA_NUM_TX_QUEUES, queues);
    out.number32(IFLA_GSO_MAX_SEGS, gso_segments);
    out.number32(IFLA_GSO_MAX_SIZE, gso_size);
    out.number32(IFLA_GRO_MAX_SIZE, gso_size);
    out.number32(ifla_gso_ipv4_max_size, gso_size);
    out.number32(ifla_gro_ipv4_max_size, gso_size);
    out.number32(IFLA_TSO_MAX_SIZE, interface.is_loopback() ? tso_size : gso_size);
    out.number32(IFLA_TSO_MAX_SEGS, gso_segments);
    out.number32(IFLA_NUM_RX_QUEUES, queues);
}

} // namespace

bool fill_link(MessageWriter& out, Stack& stack, Interface& interface, const Heading& heading,
               const LinkView& view) {
    heading.begin(out);
    ifinfomsg link{};
    link.ifi_type = static_cast<u16>(interface.type());
    link.ifi_index = static_cast<i32>(interface.index());
    link.ifi_flags = shown_flags(interface);
    link.ifi_change = view.change;
    out.put(link);
    out.text(IFLA_IFNAME, interface.name());
    put_numbers(out, interface);
    u32 master_index = 0;
    Ref<Interface> master;
    char alias[256] = {};
    {
        SpinGuard guard(stack.lock);
        if (interface.master != nullptr) {
            master_index = interface.master->index();
            master = Ref<Interface>::share(interface.master);
        }
        const std::string_view own = interface.alias.view();
        __builtin_memcpy(alias, own.data(), own.size() < 255 ? own.size() : 255);
    }
    if (master_index != 0)
        out.number32(IFLA_MASTER, master_index);
    out.number8(IFLA_CARRIER, (interface.flags() & iff_lower_up) != 0 ? 1 : 0);
    out.text(IFLA_QDISC, queue_discipline(interface));
    if (alias[0] != 0)
        out.text(IFLA_IFALIAS, alias);
    const u32 ups = interface.carrier_ups.load(), downs = interface.carrier_downs.load();
    out.number32(IFLA_CARRIER_CHANGES, ups + downs);
    out.number32(IFLA_CARRIER_UP_COUNT, ups);
    out.number32(IFLA_CARRIER_DOWN_COUNT, downs);
    out.number8(IFLA_PROTO_DOWN, 0);
    const rtnl_link_ifmap map{};
    out.value(IFLA_MAP, map);
    put_addresses(out, interface);
    if ((view.ext_mask & RTEXT_FILTER_SKIP_STATS) == 0)
        put_statistics(out, interface);
    put_link_info(out, interface, master.get());
    const Interface::Linked linked = interface.linked();
    if (linked.index != 0) {
        out.number32(IFLA_LINK, linked.index);
        if (linked.stack && linked.stack.get() != &stack) {
            const i32 number = namespace_number(stack, *linked.stack);
            if (number >= 0)
                out.value(IFLA_LINK_NETNSID, number);
        }
    }
    put_families(out, stack, interface);
    if (interface.kind().empty() && !interface.is_loopback())
        out.value(IFLA_PERM_ADDRESS, interface.mac());
    return out.end();
}

// As IPv6 sees its interfaces: RTM_GETLINK of AF_INET6.
bool fill_link6(MessageWriter& out, Stack& stack, Interface& interface, const Heading& heading) {
    heading.begin(out);
    ifinfomsg link{};
    link.ifi_family = AF_INET6;
    link.ifi_type = static_cast<u16>(interface.type());
    link.ifi_index = static_cast<i32>(interface.index());
    link.ifi_flags = shown_flags(interface);
    out.put(link);
    out.text(IFLA_IFNAME, interface.name());
    if (interface.type() != LinkType::None)
        out.value(IFLA_ADDRESS, interface.mac());
    out.number32(IFLA_MTU, interface.mtu());
    if (const Interface::Linked linked = interface.linked(); linked.index != 0)
        out.number32(IFLA_LINK, linked.index);
    out.number8(IFLA_OPERSTATE, operational_state(interface));
    const usize own = out.open(IFLA_PROTINFO);
    put_family6(out, stack, interface);
    out.close(own);
    return out.end();
}

// --- RTM_GETLINK

namespace {

struct LinkFilter final : DumpContext {
    bool only6 = false;
    u32 ext_mask = 0, master = 0;
    char kind[16] = {};
};

Result<bool> dump_links(Dump& dump, MessageWriter& out) {
    const auto& filter = static_cast<const LinkFilter&>(*dump.context);
    Stack& stack = *dump.stack;
    u32 after = static_cast<u32>(dump.words[0]);
    while (const Ref<Interface> interface = stack.next_interface(after)) {
        if (filter.master != 0) {
            SpinGuard guard(stack.lock);
            if (interface->master == nullptr || interface->master->index() != filter.master) {
                after = interface->index();
                continue;
            }
        }
        if (filter.kind[0] == 0 || interface->kind() == std::string_view(filter.kind)) {
            LinkView view;
            view.ext_mask = filter.ext_mask;
            const Heading heading = Heading::of_dump(dump, RTM_NEWLINK);
            if (filter.only6 ? !fill_link6(out, stack, *interface, heading)
                             : !fill_link(out, stack, *interface, heading, view))
                return false;
        }
        after = interface->index();
        dump.words[0] = after;
    }
    return true;
}

Result<void> start_link_dump(Request& request) {
    ifinfomsg header{};
    if (request.strict()) {
        TRY(header, request.payload_header<ifinfomsg>());
        if (header.ifi_type != 0 || header.ifi_flags != 0 || header.ifi_change != 0)
            return request.refuse(EINVAL, "Invalid values in header for link dump request");
        if (header.ifi_index != 0)
            return request.refuse(EINVAL, "Filter by device index not supported for link dumps");
    }
    if (request.payload().empty())
        return request.refuse(EINVAL, "Invalid header for link dump");
    // Old programs send one byte of header, the family, and no attributes.
    AttributeTable<IFLA_MAX + 1> attributes;
    if (request.payload().size() >= sizeof(ifinfomsg))
        TRY(attributes.parse(request.attributes_after<ifinfomsg>(), policy, request.strict(),
                             request.ack));
    TRY(Owned<LinkFilter> filter, make_owned<LinkFilter>());
    filter->only6 = request.payload()[0] == AF_INET6;
    filter->ext_mask = attributes.number(IFLA_EXT_MASK);
    filter->master = attributes.number(IFLA_MASTER);
    if (const Attribute* info = attributes[IFLA_LINKINFO]) {
        AttributeTable<IFLA_INFO_MAX + 1> inner;
        TRY(inner.parse(info->data, {}, false, request.ack));
        const std::string_view kind = inner.text(IFLA_INFO_KIND);
        if (kind.size() >= sizeof filter->kind)
            return fail(EINVAL);
        __builtin_memcpy(filter->kind, kind.data(), kind.size());
    }
    const bool filtered = filter->master != 0 || filter->kind[0] != 0;
    return request.start_dump(dump_links, std::move(filter), true, filtered);
}

} // namespace

Result<void> get_link(Request& request) {
    if (request.is_dump())
        return start_link_dump(request);
    TRY(const ifinfomsg header, request.payload_header<ifinfomsg>());
    if (request.strict() &&
        (header.ifi_type != 0 || header.ifi_flags != 0 || header.ifi_change != 0))
        return request.refuse(EINVAL, "Invalid values in header for get link request");
    AttributeTable<IFLA_MAX + 1> attributes;
    TRY(attributes.parse(request.attributes_after<ifinfomsg>(), policy, request.strict(),
                         request.ack));
    Stack& stack = request.stack();
    Ref<Interface> interface;
    if (header.ifi_index > 0)
        interface = stack.interface(static_cast<u32>(header.ifi_index));
    else if (attributes[IFLA_IFNAME] != nullptr)
        interface = stack.interface(attributes.text(IFLA_IFNAME));
    else if (attributes[IFLA_ALT_IFNAME] != nullptr)
        interface = stack.interface(attributes.text(IFLA_ALT_IFNAME));
    else
        return fail(EINVAL);
    if (!interface)
        return fail(ENODEV);
    MessageWriter out;
    LinkView view;
    view.ext_mask = attributes.number(IFLA_EXT_MASK);
    if (!fill_link(out, stack, *interface, Heading::of_reply(request, RTM_NEWLINK), view))
        return fail(ENOBUFS);
    return request.reply(out);
}

} // namespace kernel::net::netlink
