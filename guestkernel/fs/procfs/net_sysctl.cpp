// /proc/sys/net: settings of the reader's network namespace. What nothing here would obey can be
// read, not written.
#include <array>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/interface_names.hpp"
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/ip.hpp"
#include "guestkernel/net/neighbour.hpp"
#include "guestkernel/net/tcp/tcp_stack.hpp"

namespace kernel::procfs {

net::Stack& own_stack() {
    return net::stack_of(current_net_namespace());
}

void net_owner(const TableContext&, u32& uid, u32& gid) {
    const UserNamespace* owner = own_stack().owner();
    const u32 root = to_global_id(owner, false, 0), root_group = to_global_id(owner, true, 0);
    uid = root == invalid_id ? 0 : root;
    gid = root_group == invalid_id ? 0 : root_group;
}

namespace {

constexpr int no_entry = 2, invalid = 22; // ENOENT, EINVAL
constexpr u32 read_only = mode_regular | 0444;
constexpr u32 read_write = mode_regular | 0644;
constexpr u32 directory = mode_directory | 0555;

// A number among the stack's settings, between two bounds.
template <auto Member, i64 Low, i64 High>
constexpr TableEntry stack_number(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", static_cast<u64>(own_stack().settings.*Member));
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < Low || number > High)
                    return fail(invalid);
                auto& value = own_stack().settings.*Member;
                value = static_cast<std::remove_reference_t<decltype(value)>>(number);
                return {};
            },
            .owner = net_owner};
}

template <auto Member, i64 Low, i64 High>
constexpr TableEntry tcp_number(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n",
                          static_cast<u64>(tcp::TcpStack::of(own_stack()).settings.*Member));
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < Low || number > High)
                    return fail(invalid);
                auto& value = tcp::TcpStack::of(own_stack()).settings.*Member;
                value = static_cast<std::remove_reference_t<decltype(value)>>(number);
                return {};
            },
            .owner = net_owner};
}

// Two or three numbers in a line, separated by blanks.
template <usize N>
Result<void> parse_numbers(std::string_view text, i64 (&out)[N]) {
    usize count = 0;
    const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\n'; };
    while (!text.empty()) {
        while (!text.empty() && blank(text.front()))
            text.remove_prefix(1);
        usize length = 0;
        while (length < text.size() && !blank(text[length]))
            length++;
        if (length == 0)
            break;
        if (count == N)
            return fail(invalid);
        TRY(out[count], parse_number(text.substr(0, length)));
        count++;
        text.remove_prefix(length);
    }
    return count == N ? Result<void>() : fail(invalid);
}

// --- what is more than a number

// "all": a change is every interface's, and that of those to come.
template <bool V6>
constexpr TableEntry forwarding(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                const net::StackSettings& settings = own_stack().settings;
                out.append((V6 ? settings.forwarding6 : settings.forwarding4) ? "1\n" : "0\n");
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                const bool on = number != 0;
                net::Stack& stack = own_stack();
                (V6 ? stack.settings.forwarding6 : stack.settings.forwarding4) = on;
                net::Interface::Settings& fresh = stack.settings.default_interface;
                (V6 ? fresh.forwarding6 : fresh.forwarding4) = on;
                u32 after = 0;
                while (const Ref<net::Interface> interface = stack.next_interface(after)) {
                    after = interface->index();
                    net::Interface::Settings& own = interface->settings;
                    (V6 ? own.forwarding6 : own.forwarding4) = on;
                }
                stack.routes_changed();
                return {};
            },
            .owner = net_owner};
}

// Which interfaces a setting is about: those that are there and to come, those to come, one.
enum class Scope : u8 { All, Default, One };

net::Stack& whose(const TableContext&) {
    return own_stack();
}

// Calls `function` with the settings of the interface, or of those to come.
template <Scope S, typename F>
Result<void> with_settings(const TableContext& of, F&& function) {
    net::Stack& stack = own_stack();
    if constexpr (S == Scope::Default) {
        return function(stack.settings.default_interface);
    } else {
        const Ref<net::Interface> interface = stack.interface(static_cast<u32>(of.fd));
        return interface ? function(interface->settings) : fail(no_entry);
    }
}

template <Scope S, auto Member, i64 Low, i64 High>
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
                    own_stack().routes_changed();
                    return Result<void>();
                });
            },
            .owner = net_owner};
}

// "all" of a setting that counts together with an interface's own.
template <auto Member, i64 Low, i64 High>
constexpr TableEntry all_number(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", static_cast<u64>(own_stack().settings.all_interfaces.*Member));
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < Low || number > High)
                    return fail(invalid);
                auto& value = own_stack().settings.all_interfaces.*Member;
                value = static_cast<std::remove_reference_t<decltype(value)>>(number);
                return {};
            },
            .owner = net_owner};
}

// What is never done: it can be switched off only.
Result<void> store_nothing_but_zero(std::string_view text, const TableContext&) {
    TRY(const i64 number, parse_number(text));
    return number == 0 ? Result<void>() : fail(invalid);
}
constexpr TableEntry never(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.append("0\n");
                return {};
            },
            .store = store_nothing_but_zero,
            .owner = net_owner};
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
    net::Stack& stack = own_stack();
    if constexpr (S == Scope::One) {
        const Ref<net::Interface> interface = stack.interface(static_cast<u32>(of.fd));
        if (!interface)
            return fail(no_entry);
        disable_ipv6(stack, *interface, off);
        return {};
    }
    stack.settings.default_interface.disable_ipv6 = off;
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
    return with_settings < S == Scope::One
               ? Scope::One
               : Scope::Default > (of, [&](const net::Interface::Settings& own) {
                     out.append(own.disable_ipv6 ? "1\n" : "0\n");
                     return Result<void>();
                 });
}
template <Scope S>
constexpr TableEntry disable_ipv6_entry = {.name = "disable_ipv6",
                                           .mode = read_write,
                                           .show = show_disable_ipv6<S>,
                                           .store = store_disable_ipv6<S>,
                                           .owner = net_owner};

// The MTU of IPv6, the interface's unless it is less.
Result<void> show_mtu6(TextBuilder& out, const TableContext& of) {
    const Ref<net::Interface> interface = own_stack().interface(static_cast<u32>(of.fd));
    if (!interface)
        return fail(no_entry);
    const u32 own = interface->settings.mtu6;
    out.print("{}\n", own != 0 && own < interface->mtu() ? own : interface->mtu());
    return {};
}
Result<void> store_mtu6(std::string_view text, const TableContext& of) {
    constexpr i64 least = 1280; // RFC 8200, 5
    TRY(const i64 number, parse_number(text));
    net::Stack& stack = own_stack();
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
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", own_stack().neighbours().settings(V6).*Member / Unit);
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < Low || number > High)
                    return fail(invalid);
                auto& value = own_stack().neighbours().settings(V6).*Member;
                value = static_cast<std::remove_reference_t<decltype(value)>>(
                    static_cast<u64>(number) * Unit);
                return {};
            },
            .owner = net_owner};
}

Result<void> show_port_range(TextBuilder& out, const TableContext&) {
    const net::PortTable::Range& range = own_stack().settings.local_ports;
    out.print("{}\t{}\n", range.first, range.last);
    return {};
}
Result<void> store_port_range(std::string_view text, const TableContext&) {
    i64 numbers[2] = {};
    TRY(parse_numbers(text, numbers));
    net::Stack& stack = own_stack();
    if (numbers[0] < 1 || numbers[1] > 65535 || numbers[1] < numbers[0] ||
        numbers[0] < stack.settings.unprivileged_port_start)
        return fail(invalid);
    stack.settings.local_ports = {static_cast<u16>(numbers[0]), static_cast<u16>(numbers[1])};
    return {};
}

Result<void> store_unprivileged_start(std::string_view text, const TableContext&) {
    TRY(const i64 number, parse_number(text));
    net::Stack& stack = own_stack();
    // Ports that connections take by themselves need no privilege.
    if (number < 0 || number > 65535 || number > stack.settings.local_ports.first)
        return fail(invalid);
    stack.settings.unprivileged_port_start = static_cast<u16>(number);
    return {};
}
Result<void> show_unprivileged_start(TextBuilder& out, const TableContext&) {
    out.print("{}\n", own_stack().settings.unprivileged_port_start);
    return {};
}

Result<void> show_ping_range(TextBuilder& out, const TableContext&) {
    const net::Stack& stack = own_stack();
    const auto shown = [&](u32 global) { return from_global_id(stack.owner(), true, global); };
    out.print("{}\t{}\n", shown(stack.settings.ping_group_first),
              shown(stack.settings.ping_group_last));
    return {};
}
Result<void> store_ping_range(std::string_view text, const TableContext&) {
    i64 numbers[2] = {};
    TRY(parse_numbers(text, numbers));
    net::Stack& stack = own_stack();
    if (numbers[0] < 0 || numbers[1] < 0 || numbers[0] > 0x7fff'ffff || numbers[1] > 0x7fff'ffff)
        return fail(invalid);
    u32 first = to_global_id(stack.owner(), true, static_cast<u32>(numbers[0]));
    u32 last = to_global_id(stack.owner(), true, static_cast<u32>(numbers[1]));
    if (first == invalid_id || last == invalid_id)
        return fail(invalid);
    if (numbers[1] < numbers[0]) { // nobody
        first = 1;
        last = 0;
    }
    stack.settings.ping_group_first = first;
    stack.settings.ping_group_last = last;
    return {};
}

template <auto Least, auto Default, auto Most>
constexpr TableEntry memory_triple(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                const tcp::Settings& settings = tcp::TcpStack::of(own_stack()).settings;
                out.print("{}\t{}\t{}\n", settings.*Least, settings.*Default, settings.*Most);
                return {};
            },
            .store = [](std::string_view text, const TableContext&) -> Result<void> {
                i64 numbers[3] = {};
                TRY(parse_numbers(text, numbers));
                for (const i64 number : numbers)
                    if (number < 1 || number > 0x7fff'ffff)
                        return fail(invalid);
                tcp::Settings& settings = tcp::TcpStack::of(own_stack()).settings;
                settings.*Least = static_cast<u32>(numbers[0]);
                settings.*Default = static_cast<u32>(numbers[1]);
                settings.*Most = static_cast<u32>(numbers[2]);
                return {};
            },
            .owner = net_owner};
}

using Stacked = net::StackSettings;
using Own = net::Interface::Settings;
using Tcp = tcp::Settings;
constexpr i64 most_int = 0x7fff'ffff;

constexpr TableEntry core_entries[] = {
    {.name = "netdev_max_backlog", .mode = read_only, .text = "1000\n"},
    stack_number<&Stacked::receive_buffer_default, 2304, most_int>("rmem_default"),
    {.name = "rmem_max", .mode = read_only, .text = "212992\n"},
    tcp_number<&Tcp::accept_backlog, 0, most_int>("somaxconn"),
    stack_number<&Stacked::send_buffer_default, 4608, most_int>("wmem_default"),
    {.name = "wmem_max", .mode = read_only, .text = "212992\n"},
};

using All = net::StackSettings::All;
constexpr TableEntry all4_entries[] = {
    all_number<&All::accept_local, 0, 1>("accept_local"),
    never("accept_redirects"),
    all_number<&All::arp_filter, 0, 1>("arp_filter"),
    all_number<&All::arp_ignore, 0, 8>("arp_ignore"),
    forwarding<false>("forwarding"),
    all_number<&All::route_localnet, 0, 1>("route_localnet"),
    all_number<&All::rp_filter, 0, 2>("rp_filter"),
    never("send_redirects"),
};
template <Scope S>
constexpr TableEntry conf4_of[] = {
    conf_number<S, &Own::accept_local, 0, 1>("accept_local"),
    never("accept_redirects"),
    conf_number<S, &Own::arp_announce, 0, 2>("arp_announce"),
    conf_number<S, &Own::arp_filter, 0, 1>("arp_filter"),
    conf_number<S, &Own::arp_ignore, 0, 8>("arp_ignore"),
    conf_number<S, &Own::forwarding4, 0, 1>("forwarding"),
    conf_number<S, &Own::route_localnet, 0, 1>("route_localnet"),
    conf_number<S, &Own::rp_filter, 0, 2>("rp_filter"),
    never("send_redirects"),
};
constexpr TableEntry conf4_entries[] = {
    {.name = "all", .mode = directory, .children = all4_entries},
    {.name = "default", .mode = directory, .children = conf4_of<Scope::Default>},
};
constexpr TableEntry conf4_interface = {
    .name = "", .mode = directory, .children = conf4_of<Scope::One>};
constexpr TableNumbers conf4_interfaces = InterfaceNames<whose>::numbers(&conf4_interface);

constexpr TableEntry all6_entries[] = {
    never("accept_redirects"),
    disable_ipv6_entry<Scope::All>,
    forwarding<true>("forwarding"),
};
template <Scope S>
constexpr TableEntry conf6_of[] = {
    conf_number<S, &Own::accept_dad, 0, 2>("accept_dad"),
    conf_number<S, &Own::accept_ra, 0, 2>("accept_ra"),
    conf_number<S, &Own::accept_ra_defrtr, 0, 1>("accept_ra_defrtr"),
    never("accept_redirects"),
    conf_number<S, &Own::addr_gen_mode, 0, 1>("addr_gen_mode"),
    conf_number<S, &Own::autoconf, 0, 1>("autoconf"),
    conf_number<S, &Own::dad_transmits, 0, 255>("dad_transmits"),
    disable_ipv6_entry<S>,
    conf_number<S, &Own::forwarding6, 0, 1>("forwarding"),
    conf_number<S, &Own::hop_limit, 1, 255>("hop_limit"),
};
constexpr TableEntry mtu6_entry = {
    .name = "mtu", .mode = read_write, .show = show_mtu6, .store = store_mtu6, .owner = net_owner};
constexpr auto conf6_one = [] {
    constexpr usize common = sizeof conf6_of<Scope::One> / sizeof(TableEntry);
    std::array<TableEntry, common + 1> out{};
    for (usize i = 0; i < common; i++)
        out[i] = conf6_of<Scope::One>[i];
    out[common] = mtu6_entry;
    return out;
}();
constexpr TableEntry conf6_entries[] = {
    {.name = "all", .mode = directory, .children = all6_entries},
    {.name = "default", .mode = directory, .children = conf6_of<Scope::Default>},
};
constexpr TableEntry conf6_interface = {.name = "", .mode = directory, .children = conf6_one};
constexpr TableNumbers conf6_interfaces = InterfaceNames<whose>::numbers(&conf6_interface);

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
template <bool V6>
constexpr TableEntry neigh_entries[] = {
    {.name = "default", .mode = directory, .children = neighbour_entries<V6>},
};

constexpr TableEntry ipv4_entries[] = {
    {.name = "conf", .mode = directory, .children = conf4_entries, .numbers = &conf4_interfaces},
    stack_number<&Stacked::echo_ignore_all, 0, 1>("icmp_echo_ignore_all"),
    stack_number<&Stacked::echo_ignore_broadcasts, 0, 1>("icmp_echo_ignore_broadcasts"),
    stack_number<&Stacked::ignore_bogus_errors, 0, 1>("icmp_ignore_bogus_error_responses"),
    stack_number<&Stacked::icmp_burst, 0, most_int>("icmp_msgs_burst"),
    stack_number<&Stacked::icmp_messages_per_second, 0, most_int>("icmp_msgs_per_sec"),
    stack_number<&Stacked::icmp_rate_limit_ms, 0, most_int>("icmp_ratelimit"),
    stack_number<&Stacked::igmp_max_memberships, 0, most_int>("igmp_max_memberships"),
    stack_number<&Stacked::default_ttl, 1, 255>("ip_default_ttl"),
    forwarding<false>("ip_forward"),
    {.name = "ip_local_port_range",
     .mode = read_write,
     .show = show_port_range,
     .store = store_port_range,
     .owner = net_owner},
    stack_number<&Stacked::no_pmtu_disc, 0, 3>("ip_no_pmtu_disc"),
    stack_number<&Stacked::non_local_bind4, 0, 1>("ip_nonlocal_bind"),
    {.name = "ip_unprivileged_port_start",
     .mode = read_write,
     .show = show_unprivileged_start,
     .store = store_unprivileged_start,
     .owner = net_owner},
    stack_number<&Stacked::fragment_high4, 0, most_int>("ipfrag_high_thresh"),
    {.name = "neigh", .mode = directory, .children = neigh_entries<false>},
    {.name = "ping_group_range",
     .mode = read_write,
     .show = show_ping_range,
     .store = store_ping_range,
     .owner = net_owner},
    tcp_number<&Tcp::abort_on_overflow, 0, 1>("tcp_abort_on_overflow"),
    {.name = "tcp_available_congestion_control", .mode = read_only, .text = "reno cubic\n"},
    tcp_number<&Tcp::fast_open, 0, 0xfff>("tcp_fastopen"),
    tcp_number<&Tcp::fin_timeout_s, 0, most_int / 1000>("tcp_fin_timeout"),
    tcp_number<&Tcp::keepalive_interval_s, 1, 32767>("tcp_keepalive_intvl"),
    tcp_number<&Tcp::keepalive_probes, 1, 127>("tcp_keepalive_probes"),
    tcp_number<&Tcp::keepalive_idle_s, 1, 32767>("tcp_keepalive_time"),
    tcp_number<&Tcp::max_orphans, 0, most_int>("tcp_max_orphans"),
    tcp_number<&Tcp::syn_backlog, 0, most_int>("tcp_max_syn_backlog"),
    tcp_number<&Tcp::max_time_wait, 0, most_int>("tcp_max_tw_buckets"),
    tcp_number<&Tcp::moderate_receive_buffer, 0, 1>("tcp_moderate_rcvbuf"),
    tcp_number<&Tcp::orphan_retries, 0, 255>("tcp_orphan_retries"),
    tcp_number<&Tcp::retries_before_doubt, 0, 255>("tcp_retries1"),
    tcp_number<&Tcp::retries, 0, 255>("tcp_retries2"),
    tcp_number<&Tcp::protect_time_wait, 0, 1>("tcp_rfc1337"),
    memory_triple<&Tcp::receive_least, &Tcp::receive_default, &Tcp::receive_most>("tcp_rmem"),
    tcp_number<&Tcp::sack, 0, 1>("tcp_sack"),
    tcp_number<&Tcp::slow_start_after_idle, 0, 1>("tcp_slow_start_after_idle"),
    tcp_number<&Tcp::syn_retries, 1, 127>("tcp_syn_retries"),
    tcp_number<&Tcp::syn_ack_retries, 0, 255>("tcp_synack_retries"),
    tcp_number<&Tcp::syn_cookies, 0, 2>("tcp_syncookies"),
    tcp_number<&Tcp::timestamps, 0, 1>("tcp_timestamps"),
    tcp_number<&Tcp::reuse_time_wait, 0, 2>("tcp_tw_reuse"),
    tcp_number<&Tcp::window_scaling, 0, 1>("tcp_window_scaling"),
    memory_triple<&Tcp::send_least, &Tcp::send_default, &Tcp::send_most>("tcp_wmem"),
};
constexpr TableEntry ipv6_entries[] = {
    stack_number<&Stacked::bind_v6_only, 0, 1>("bindv6only"),
    {.name = "conf", .mode = directory, .children = conf6_entries, .numbers = &conf6_interfaces},
    stack_number<&Stacked::fragment_high6, 0, most_int>("ip6frag_high_thresh"),
    stack_number<&Stacked::non_local_bind6, 0, 1>("ip_nonlocal_bind"),
    {.name = "neigh", .mode = directory, .children = neigh_entries<true>},
};

} // namespace

constinit const TableEntry net_sysctl_entries[5] = {
    {.name = "core", .mode = directory, .children = core_entries},
    {.name = "ipv4", .mode = directory, .children = ipv4_entries},
    {.name = "ipv6", .mode = directory, .children = ipv6_entries},
    {.name = "netfilter", .mode = directory, .children = netfilter_entries},
    most_connections_entry,
};

} // namespace kernel::procfs
