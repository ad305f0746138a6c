// /proc/sys/net/ipv4 and ipv6: conf and neigh, what an interface or its neighbours have of their
// own.
#include <array>

#include "guestkernel/fs/procfs/interface_names.hpp"
#include "guestkernel/fs/procfs/net_sysctl.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"

namespace kernel::procfs::net_sysctl {

namespace {

// Which interfaces a setting is about: those that are there and to come, those to come, one.
enum class Scope : u8 { All, Default, One };

net::Stack& whose(const TableContext& of) {
    return own_stack(of);
}

// Calls `function` with the settings of the interface, of those to come, or what "all" says.
template <Scope S, typename F>
Result<void> with_settings(const TableContext& of, F&& function) {
    net::Stack& stack = own_stack(of);
    if constexpr (S == Scope::All) {
        return function(stack.settings.all_interfaces);
    } else if constexpr (S == Scope::Default) {
        return function(stack.settings.default_interface);
    } else {
        const Ref<net::Interface> interface = stack.interface(static_cast<u32>(of.fd));
        return interface ? function(interface->settings) : fail(no_entry);
    }
}

// Most settings of IPv4 follow those of "default" until somebody sets them, or the interface gets
// an address.
template <auto Member>
u64 own4_bit(const net::Interface::Settings& of) {
    const void* const member = &(of.*Member);
    const void* const start = &of;
    const auto offset = static_cast<const u8*>(member) - static_cast<const u8*>(start);
    static_assert(sizeof of <= 64);
    return u64{1} << offset;
}
template <Scope S, auto Member>
void spread4(net::Stack& stack, net::Interface::Settings& changed) {
    if constexpr (S == Scope::One)
        changed.own4 |= own4_bit<Member>(changed);
    if constexpr (S != Scope::Default)
        return;
    u32 after = 0;
    while (const Ref<net::Interface> interface = stack.next_interface(after)) {
        after = interface->index();
        if ((interface->settings.own4 & own4_bit<Member>(interface->settings)) == 0)
            interface->settings.*Member = changed.*Member;
    }
}

template <Scope S, auto Member, i64 Low, i64 High, bool Follows = false>
constexpr TableEntry conf_number(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                return with_settings<S>(of, [&](const net::Interface::Settings& own) {
                    out.print("{}\n", static_cast<u64>(own.*Member));
                    return Result<void>();
                });
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < Low || number > High)
                    return fail(invalid);
                return with_settings<S>(of, [&](net::Interface::Settings& own) {
                    auto& value = own.*Member;
                    value = static_cast<std::remove_reference_t<decltype(value)>>(number);
                    if constexpr (Follows)
                        spread4<S, Member>(own_stack(of), own);
                    own_stack(of).routes_changed();
                    return Result<void>();
                });
            },
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

template <Scope S, auto Member, i64 Low, i64 High>
constexpr TableEntry conf4_number(std::string_view name) {
    return conf_number<S, Member, Low, High, true>(name);
}

void disable_ipv6(net::Stack& stack, net::Interface& interface, bool off) {
    if (interface.settings.disable_ipv6 == off)
        return;
    interface.settings.disable_ipv6 = off;
    if (!off) {
        if (interface.is_up())
            net::ipv6_interface_up(stack, interface);
        return;
    }
    // Addresses go, those that an administrator gave, too.
    for (;;) {
        net::InterfaceAddress gone;
        bool found = false;
        {
            SpinGuard guard(stack.lock);
            for (const net::InterfaceAddress& address : interface.addresses)
                if (!found && address.address.is_v6()) {
                    gone = address;
                    found = true;
                }
        }
        if (!found || !stack.remove_address(interface, gone.address, gone.prefix_length))
            return;
    }
}

template <Scope S>
Result<void> store_disable_ipv6(std::string_view text, const TableContext& of) {
    TRY(const i64 number, parse_number(text));
    if (number < 0 || number > 1)
        return fail(invalid);
    const bool off = number != 0;
    net::Stack& stack = own_stack(of);
    if constexpr (S == Scope::One) {
        const Ref<net::Interface> interface = stack.interface(static_cast<u32>(of.fd));
        if (!interface)
            return fail(no_entry);
        disable_ipv6(stack, *interface, off);
        return {};
    }
    stack.settings.default_interface.disable_ipv6 = off;
    if constexpr (S == Scope::All)
        stack.settings.all_interfaces.disable_ipv6 = off;
    u32 after = 0;
    while (S == Scope::All) {
        const Ref<net::Interface> interface = stack.next_interface(after);
        if (!interface)
            break;
        after = interface->index();
        disable_ipv6(stack, *interface, off);
    }
    return {};
}
template <Scope S>
Result<void> show_disable_ipv6(TextBuilder& out, const TableContext& of) {
    return with_settings<S>(of, [&](const net::Interface::Settings& own) {
        out.append(own.disable_ipv6 ? "1\n" : "0\n");
        return Result<void>();
    });
}
template <Scope S>
constexpr TableEntry disable_ipv6_entry = {.name = "disable_ipv6",
                                           .mode = read_write,
                                           .show = show_disable_ipv6<S>,
                                           .store = store_disable_ipv6<S>,
                                           .owner = net_owner,
                                           .admits = may_set_network,
                                           .bind = bind_network};

// The link-local address that the new mode makes comes at once; those that are there stay.
void set_address_mode(net::Stack& stack, net::Interface& interface, u8 mode) {
    if (interface.settings.addr_gen_mode == mode)
        return;
    interface.settings.addr_gen_mode = mode;
    // Nothing else: the addresses that are there have joined their groups.
    if (interface.is_up() && !interface.settings.disable_ipv6)
        net::ipv6_add_link_local(stack, interface);
}

// "all": every interface's, and that of those to come.
template <Scope S>
Result<void> store_address_mode(std::string_view text, const TableContext& of) {
    TRY(const i64 number, parse_number(text));
    if (number < 0 || number > 1)
        return fail(invalid);
    const u8 mode = static_cast<u8>(number);
    net::Stack& stack = own_stack(of);
    if constexpr (S == Scope::One) {
        const Ref<net::Interface> interface = stack.interface(static_cast<u32>(of.fd));
        if (!interface)
            return fail(no_entry);
        set_address_mode(stack, *interface, mode);
        return {};
    }
    stack.settings.default_interface.addr_gen_mode = mode;
    if constexpr (S == Scope::Default)
        return {};
    stack.settings.all_interfaces.addr_gen_mode = mode;
    u32 after = 0;
    while (const Ref<net::Interface> interface = stack.next_interface(after)) {
        after = interface->index();
        set_address_mode(stack, *interface, mode);
    }
    return {};
}
template <Scope S>
constexpr TableEntry address_mode_entry() {
    TableEntry out =
        conf_number<S, &net::Interface::Settings::addr_gen_mode, 0, 1>("addr_gen_mode");
    out.store = store_address_mode<S>;
    return out;
}

// The MTU of IPv6, the interface's unless it is less.
Result<void> show_mtu6(TextBuilder& out, const TableContext& of) {
    const Ref<net::Interface> interface = own_stack(of).interface(static_cast<u32>(of.fd));
    if (!interface)
        return fail(no_entry);
    const u32 own = interface->settings.mtu6;
    out.print("{}\n", own != 0 && own < interface->mtu() ? own : interface->mtu());
    return {};
}
Result<void> store_mtu6(std::string_view text, const TableContext& of) {
    constexpr i64 least = 1280; // RFC 8200, 5
    TRY(const i64 number, parse_number(text));
    net::Stack& stack = own_stack(of);
    const Ref<net::Interface> interface = stack.interface(static_cast<u32>(of.fd));
    if (!interface)
        return fail(no_entry);
    if (number < least || number > interface->mtu())
        return fail(invalid);
    interface->settings.mtu6 = static_cast<u32>(number);
    stack.routes_changed();
    return {};
}

// Times and numbers of neighbours, of a version of IP.
template <bool V6, auto Member, u64 Unit, i64 Low, i64 High>
constexpr TableEntry neighbour_number(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                out.print("{}\n", own_stack(of).neighbours().settings(V6).*Member / Unit);
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < Low || number > High)
                    return fail(invalid);
                auto& value = own_stack(of).neighbours().settings(V6).*Member;
                value = static_cast<std::remove_reference_t<decltype(value)>>(
                    static_cast<u64>(number) * Unit);
                return {};
            },
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

using Own = net::Interface::Settings;
template <Scope S>
constexpr TableEntry forwarding4_entry() {
    if constexpr (S == Scope::All)
        return forwarding<false>("forwarding");
    else
        return conf_number<S, &Own::forwarding4, 0, 1>("forwarding");
}
// Packets with a source route are refused whatever an interface says: "all" has to agree.
template <Scope S>
constexpr TableEntry source_route_entry() {
    if constexpr (S == Scope::All)
        return never("accept_source_route");
    else
        return conf4_number<S, &Own::accept_source_route, 0, 1>("accept_source_route");
}
template <Scope S>
constexpr TableEntry conf4_of[] = {
    conf4_number<S, &Own::accept_local, 0, 1>("accept_local"),
    never("accept_redirects"),
    source_route_entry<S>(),
    conf4_number<S, &Own::arp_accept, 0, 2>("arp_accept"),
    conf4_number<S, &Own::arp_announce, 0, 2>("arp_announce"),
    conf4_number<S, &Own::arp_filter, 0, 1>("arp_filter"),
    conf4_number<S, &Own::arp_ignore, 0, 8>("arp_ignore"),
    conf4_number<S, &Own::drop_gratuitous_arp, 0, 1>("drop_gratuitous_arp"),
    forwarding4_entry<S>(),
    conf4_number<S, &Own::log_martians, 0, 1>("log_martians"),
    conf_number<S, &Own::promote_secondaries, 0, 1>("promote_secondaries"),
    conf4_number<S, &Own::proxy_arp, 0, 1>("proxy_arp"),
    conf_number<S, &Own::route_localnet, 0, 1>("route_localnet"),
    conf4_number<S, &Own::rp_filter, 0, 2>("rp_filter"),
    never("secure_redirects"),
    never("send_redirects"),
    conf4_number<S, &Own::src_valid_mark, 0, 1>("src_valid_mark"),
};
constexpr TableEntry conf4_interface = {
    .name = "", .mode = directory, .children = conf4_of<Scope::One>};

template <Scope S>
constexpr TableEntry forwarding6_entry() {
    if constexpr (S == Scope::All)
        return forwarding<true>("forwarding");
    else
        return conf_number<S, &Own::forwarding6, 0, 1>("forwarding");
}
// What "all" has beside accept_dad, disable_ipv6, addr_gen_mode and forwarding changes no
// interface, as on Linux.
template <Scope S>
constexpr TableEntry conf6_of[] = {
    conf_number<S, &Own::accept_dad, 0, 2>("accept_dad"),
    conf_number<S, &Own::accept_ra, 0, 2>("accept_ra"),
    conf_number<S, &Own::accept_ra_defrtr, 0, 1>("accept_ra_defrtr"),
    conf_number<S, &Own::accept_ra_pinfo, 0, 1>("accept_ra_pinfo"),
    never("accept_redirects"),
    never("accept_source_route"),
    address_mode_entry<S>(),
    conf_number<S, &Own::autoconf, 0, 1>("autoconf"),
    conf_number<S, &Own::dad_transmits, 0, 255>("dad_transmits"),
    disable_ipv6_entry<S>,
    forwarding6_entry<S>(),
    conf_number<S, &Own::hop_limit, 1, 255>("hop_limit"),
};
constexpr TableEntry mtu6_entry = {.name = "mtu",
                                   .mode = read_write,
                                   .show = show_mtu6,
                                   .store = store_mtu6,
                                   .owner = net_owner,
                                   .admits = may_set_network,
                                   .bind = bind_network};
constexpr auto conf6_one = [] {
    constexpr usize common = sizeof conf6_of<Scope::One> / sizeof(TableEntry);
    std::array<TableEntry, common + 1> out{};
    for (usize i = 0; i < common; i++)
        out[i] = conf6_of<Scope::One>[i];
    out[common] = mtu6_entry;
    return out;
}();
constexpr TableEntry conf6_interface = {.name = "", .mode = directory, .children = conf6_one};

using Neigh = net::NeighbourSettings;
template <bool V6>
constexpr TableEntry neighbour_entries[] = {
    neighbour_number<V6, &Neigh::base_reachable_ns, nanoseconds_per_second, 1, 3600>(
        "base_reachable_time"),
    neighbour_number<V6, &Neigh::base_reachable_ns, 1'000'000, 1, 3'600'000>(
        "base_reachable_time_ms"),
    neighbour_number<V6, &Neigh::delay_first_probe_ns, nanoseconds_per_second, 0, 3600>(
        "delay_first_probe_time"),
    neighbour_number<V6, &Neigh::stale_ns, nanoseconds_per_second, 0, 86400>("gc_stale_time"),
    neighbour_number<V6, &Neigh::keep, 1, 0, most_int>("gc_thresh1"),
    neighbour_number<V6, &Neigh::soft_limit, 1, 0, most_int>("gc_thresh2"),
    neighbour_number<V6, &Neigh::hard_limit, 1, 0, most_int>("gc_thresh3"),
    neighbour_number<V6, &Neigh::multicast_probes, 1, 0, 1000>("mcast_solicit"),
    neighbour_number<V6, &Neigh::retransmit_ns, 1'000'000, 1, 3'600'000>("retrans_time_ms"),
    neighbour_number<V6, &Neigh::unicast_probes, 1, 0, 1000>("ucast_solicit"),
    neighbour_number<V6, &Neigh::queue_packets, 1, 0, 10'000>("unres_qlen"),
};

} // namespace

constinit const TableEntry conf4_entries[2] = {
    {.name = "all", .mode = directory, .children = conf4_of<Scope::All>},
    {.name = "default", .mode = directory, .children = conf4_of<Scope::Default>},
};
constinit const TableNumbers conf4_interfaces = InterfaceNames<whose>::numbers(&conf4_interface);
constinit const TableEntry conf6_entries[2] = {
    {.name = "all", .mode = directory, .children = conf6_of<Scope::All>},
    {.name = "default", .mode = directory, .children = conf6_of<Scope::Default>},
};
constinit const TableNumbers conf6_interfaces = InterfaceNames<whose>::numbers(&conf6_interface);
constinit const TableEntry neighbour4_entries[1] = {
    {.name = "default", .mode = directory, .children = neighbour_entries<false>},
};
constinit const TableEntry neighbour6_entries[1] = {
    {.name = "default", .mode = directory, .children = neighbour_entries<true>},
};

} // namespace kernel::procfs::net_sysctl
