// /proc/net: interfaces, addresses, routes, neighbours.
#include "guestkernel/fs/procfs/net_files.hpp"

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/namespaces/namespace_file.hpp"
#include "guestkernel/net/netlink/endpoint.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::procfs {

using net::Interface;
using net::InterfaceAddress;
using net::Stack;

Result<Ref<net::Stack>> subject_stack(const TableContext& of) {
    TRY(const Ref<Task> task, subject_task(of));
    const Ref<Namespace> space = namespace_of_task(*task, NamespaceKind::Net, false);
    if (!space)
        return fail(22); // EINVAL, as Linux says of a process that has ended
    return Ref<Stack>::share(static_cast<NetNamespace&>(*space).stack.get());
}

namespace {

constexpr u32 for_all = mode_regular | 0444;

template <typename F>
void for_interfaces(Stack& stack, F&& function) {
    u32 after = 0;
    while (const Ref<Interface> interface = stack.next_interface(after)) {
        after = interface->index();
        function(*interface);
    }
}

// Right-aligned, as %6s.
void name_right(TextBuilder& out, std::string_view name, usize width) {
    out.pad_to(name.size(), width);
    out.append(name);
}

Result<void> show_dev(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    out.append("Inter-|   Receive                                                |  Transmit\n"
               " face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets "
               "errs drop fifo colls carrier compressed\n");
    for_interfaces(*stack, [&](Interface& interface) {
        const net::InterfaceCounters& c = interface.counters;
        name_right(out, interface.name(), 6);
        out.append(": ");
        constexpr unsigned receive_widths[] = {7, 7, 4, 4, 4, 5, 10, 9};
        const u64 received[] = {c.rx_bytes.load(),
                                c.rx_packets.load(),
                                c.rx_errors.load(),
                                c.rx_dropped.load(),
                                0,
                                0,
                                0,
                                c.multicast.load()};
        for (usize i = 0; i < 8; i++) {
            out.number(received[i], receive_widths[i]);
            out.append(" ");
        }
        constexpr unsigned send_widths[] = {8, 7, 4, 4, 4, 5, 7, 10};
        const u64 sent[] = {c.tx_bytes.load(),
                            c.tx_packets.load(),
                            c.tx_errors.load(),
                            c.tx_dropped.load(),
                            0,
                            0,
                            0,
                            0};
        for (usize i = 0; i < 8; i++) {
            if (i > 0)
                out.append(" ");
            out.number(sent[i], send_widths[i]);
        }
        out.append("\n");
    });
    return {};
}

void hex_address(TextBuilder& out, const net::IpAddress& address) {
    for (usize i = 0; i < 16; i++)
        out.hex(address.is_any() ? 0 : address.bytes()[i], 2);
}

Result<void> show_if_inet6(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    for_interfaces(*stack, [&](Interface& interface) {
        for (usize i = 0;; i++) {
            InterfaceAddress address;
            {
                SpinGuard guard(stack->lock);
                if (i >= interface.addresses.size())
                    break;
                address = interface.addresses[i];
            }
            if (address.address.is_v4())
                continue;
            hex_address(out, address.address);
            // IPV6_ADDR_*SCOPE of Linux: host 0x10, link 0x20, global 0.
            const u32 scope = address.address.is_loopback()     ? 0x10
                              : address.address.is_link_local() ? 0x20
                                                                : 0;
            out.append(" ");
            out.hex(interface.index(), 2);
            out.append(" ");
            out.hex(address.prefix_length, 2);
            out.append(" ");
            out.hex(scope, 2);
            out.append(" ");
            out.hex(address.flags & 0xff, 2);
            out.append(" ");
            name_right(out, interface.name(), 8);
            out.append("\n");
        }
    });
    return {};
}

void hex4(TextBuilder& out, const net::IpAddress& address) { // as it stands in memory
    u32 word = 0;
    __builtin_memcpy(&word, address.wire(), sizeof word);
    out.hex_upper(word, 8);
}

constexpr u32 route_up = 1, route_gateway = 2, route_host = 4, route_reject = 0x200;

void print_route4(TextBuilder& out, const net::Route& route) {
    const net::NextHop* hop = route.hops.empty() ? nullptr : &route.hops[0];
    const usize start = out.size();
    out.append(hop == nullptr ? std::string_view("*") : hop->interface->name());
    out.append("\t");
    hex4(out, route.prefix);
    out.append("\t");
    if (hop != nullptr && hop->has_gateway() && hop->gateway.is_v4())
        hex4(out, hop->gateway);
    else
        out.hex(0, 8);
    const bool rejects = hop == nullptr;
    const u32 flags = route_up | (rejects ? route_reject : 0) |
                      (hop != nullptr && hop->has_gateway() ? route_gateway : 0) |
                      (route.length == 32 ? route_host : 0);
    out.append("\t");
    out.hex_upper(flags, 4);
    out.print("\t0\t0\t{}\t", route.metric);
    hex4(out, net::IpAddress::v4(route.length == 0 ? 0 : ~u32{0} << (32 - route.length)));
    out.print("\t{}\t{}\t0", route.advertised_mss != 0 ? route.advertised_mss + 40 : 0, 0);
    out.pad_to(out.size() - start, 127);
    out.append("\n");
}

Result<void> show_route(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    constexpr std::string_view columns =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    out.append(columns);
    out.pad_to(columns.size(), 127);
    out.append("\n");
    SpinGuard guard(stack->lock);
    stack->routes().for_each(
        false,
        [](const net::Route& route, void* context) {
            if (route.table == net::table_main && route.type != net::RouteType::Broadcast &&
                route.type != net::RouteType::Multicast)
                print_route4(*static_cast<TextBuilder*>(context), route);
        },
        &out);
    return {};
}

Result<void> show_ipv6_route(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    SpinGuard guard(stack->lock);
    stack->routes().for_each(
        true,
        [](const net::Route& route, void* context) {
            auto& to = *static_cast<TextBuilder*>(context);
            const net::NextHop* hop = route.hops.empty() ? nullptr : &route.hops[0];
            hex_address(to, route.prefix);
            to.append(" ");
            to.hex(route.length, 2);
            to.append(" 00000000000000000000000000000000 00 ");
            hex_address(to, hop != nullptr ? hop->gateway : net::IpAddress());
            constexpr u32 local_flag = 0x8000'0000;
            const u32 flags = route_up | (hop == nullptr ? route_reject : 0) |
                              (hop != nullptr && hop->has_gateway() ? route_gateway : 0) |
                              (route.length == 128 ? route_host : 0) |
                              (route.type == net::RouteType::Local ? local_flag : 0);
            to.append(" ");
            to.hex(route.metric, 8);
            to.append(" 00000001 00000000 ");
            to.hex(flags, 8);
            to.append(" ");
            name_right(to, hop != nullptr ? hop->interface->name() : std::string_view("lo"), 8);
            to.append("\n");
        },
        &out);
    return {};
}

void print_mac(TextBuilder& out, const net::MacAddress& mac) {
    for (usize i = 0; i < sizeof mac.bytes; i++) {
        if (i > 0)
            out.append(":");
        out.hex(mac.bytes[i], 2);
    }
}

Result<void> show_arp(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    struct All {
        Vector<Ref<net::Neighbour>> neighbours;
        bool failed = false;
    } all;
    stack->neighbours().for_each(
        false,
        [](net::Neighbour& neighbour, void* context) {
            auto& to = *static_cast<All*>(context);
            if (!to.neighbours.push_back(Ref<net::Neighbour>::share(&neighbour)))
                to.failed = true;
        },
        &all);
    if (all.failed)
        return fail(enomem);
    out.append("IP address       HW type     Flags       HW address            Mask     Device\n");
    for (const Ref<net::Neighbour>& neighbour : all.neighbours) {
        const net::Neighbour::View view = neighbour->view();
        const u32 a = neighbour->address.v4_value();
        char text[16];
        const usize length = log::format(text, sizeof text, "{}.{}.{}.{}", a >> 24, a >> 16 & 0xff,
                                         a >> 8 & 0xff, a & 0xff);
        constexpr u32 complete = 2, permanent = 4; // ATF_COM, ATF_PERM
        const bool known = view.state != net::NeighbourState::Incomplete &&
                           view.state != net::NeighbourState::Failed &&
                           view.state != net::NeighbourState::None;
        out.text({text, length}, 16);
        out.append(" 0x1         0x");
        out.hex((known ? complete : 0) |
                    (view.state == net::NeighbourState::Permanent ? permanent : 0),
                1);
        out.append("         ");
        print_mac(out, view.mac);
        out.append("     *        ");
        out.append(neighbour->interface->name());
        out.append("\n");
    }
    return {};
}

Result<void> show_netlink(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    out.append("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    "
               "Inode\n");
    u64 after = 0;
    while (const Ref<net::netlink::Endpoint> endpoint =
               net::netlink::next_endpoint(*stack, after)) {
        char number[16];
        const auto padded = [&](u64 value, unsigned width) {
            const usize length = log::format(number, sizeof number, "{}", value);
            out.text({number, length}, width);
            out.append(" ");
        };
        out.append("0000000000000000 ");
        padded(static_cast<u64>(endpoint->protocol().number), 3);
        padded(endpoint->port(), 10);
        out.hex(endpoint->first_groups(), 8);
        out.append(" ");
        padded(endpoint->queued_bytes(), 8);
        padded(0, 8);
        padded(endpoint->dumping() ? 1 : 0, 5);
        padded(endpoint->ref_count(), 8);
        padded(endpoint->drops.load(), 8);
        padded(endpoint->inode_number, 8);
        out.append("\n");
    }
    return {};
}

} // namespace

constinit const TableEntry net_entries[28] = {
    {.name = "arp", .mode = for_all, .show = show_arp},
    {.name = "dev", .mode = for_all, .show = show_dev},
    {.name = "dev_mcast", .mode = for_all, .show = show_net_dev_mcast},
    {.name = "fib_trie", .mode = for_all, .show = show_net_fib_trie},
    {.name = "if_inet6", .mode = for_all, .show = show_if_inet6},
    {.name = "igmp", .mode = for_all, .show = show_net_igmp},
    {.name = "igmp6", .mode = for_all, .show = show_net_igmp6},
    {.name = "ipv6_route", .mode = for_all, .show = show_ipv6_route},
    {.name = "netlink", .mode = for_all, .show = show_netlink},
    {.name = "netstat", .mode = for_all, .show = show_net_netstat},
    {.name = "nf_conntrack", .mode = mode_regular | 0440, .show = show_net_conntrack},
    {.name = "packet", .mode = for_all, .show = show_net_packet},
    {.name = "raw", .mode = for_all, .show = show_net_raw},
    {.name = "raw6", .mode = for_all, .show = show_net_raw6},
    {.name = "route", .mode = for_all, .show = show_route},
    {.name = "snmp", .mode = for_all, .show = show_net_snmp},
    {.name = "snmp6", .mode = for_all, .show = show_net_snmp6},
    {.name = "sockstat", .mode = for_all, .show = show_net_sockstat},
    {.name = "sockstat6", .mode = for_all, .show = show_net_sockstat6},
    {.name = "softnet_stat", .mode = for_all, .show = show_net_softnet_stat},
    {.name = "stat", .mode = mode_directory | 0555, .children = net_stat_entries},
    {.name = "tcp", .mode = for_all, .show = show_net_tcp},
    {.name = "tcp6", .mode = for_all, .show = show_net_tcp6},
    {.name = "udp", .mode = for_all, .show = show_net_udp},
    {.name = "udp6", .mode = for_all, .show = show_net_udp6},
    {.name = "udplite", .mode = for_all, .show = show_net_udplite},
    {.name = "udplite6", .mode = for_all, .show = show_net_udplite6},
    {.name = "unix", .mode = for_all, .show = show_net_unix},
};

} // namespace kernel::procfs
