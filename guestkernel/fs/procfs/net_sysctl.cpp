// /proc/sys/net: settings of the reader's network namespace. What nothing here would obey can be
// read, not written.
#include "guestkernel/fs/procfs/net_sysctl.hpp"

#include <linux/capability.h>

#include "guestkernel/ipc/socket.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/task/task.hpp"

namespace kernel::procfs {

using namespace net_sysctl;

net::Stack& own_stack(const TableContext& of) {
    return of.network != nullptr ? *of.network : net::stack_of(current_net_namespace());
}

Result<Ref<RefCounted>> bind_network(TableContext& of) {
    NetNamespace* space = current_net_namespace();
    of.network = &net::stack_of(space);
    return Ref<RefCounted>(Ref<NetNamespace>::share(space)); // null: the first one, which stays
}

void net_owner(const TableContext& of, u32& uid, u32& gid) {
    const UserNamespace* owner = own_stack(of).owner();
    const u32 root = to_global_id(owner, false, 0), root_group = to_global_id(owner, true, 0);
    uid = root == invalid_id ? 0 : root;
    gid = root_group == invalid_id ? 0 : root_group;
}

// The owner that a node was made with is that of whoever looked first, which gives no right over
// another network namespace's settings.
bool may_set_network(const TableContext& of) {
    const Credentials* who = current_task().credentials.get();
    return who == nullptr || who->euid == 0 || capable_over(own_stack(of).owner(), CAP_NET_ADMIN);
}

namespace {

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

Result<void> show_port_range(TextBuilder& out, const TableContext& of) {
    const net::PortTable::Range& range = own_stack(of).settings.local_ports;
    out.print("{}\t{}\n", range.first, range.last);
    return {};
}
Result<void> store_port_range(std::string_view text, const TableContext& of) {
    i64 numbers[2] = {};
    TRY(parse_numbers(text, numbers));
    net::Stack& stack = own_stack(of);
    if (numbers[0] < 1 || numbers[1] > 65535 || numbers[1] < numbers[0] ||
        numbers[0] < stack.settings.unprivileged_port_start)
        return fail(invalid);
    stack.settings.local_ports.first = static_cast<u16>(numbers[0]);
    stack.settings.local_ports.last = static_cast<u16>(numbers[1]);
    return {};
}

// A set of ports, "8080,9000-9010"; written as a whole (ip-sysctl.rst).
Result<void> show_reserved(TextBuilder& out, const TableContext& of) {
    const net::ReservedPorts& reserved = own_stack(of).settings.reserved_ports;
    out.ranges(65536, [&](u32 port) { return reserved.contains(static_cast<u16>(port)); });
    out.append("\n");
    return {};
}

Result<u32> parse_port(std::string_view& text) {
    u32 port = 0;
    usize digits = 0;
    for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; digits++) {
        port = port * 10 + static_cast<u32>(text[digits] - '0');
        if (port > 65535)
            return fail(invalid);
    }
    if (digits == 0)
        return fail(invalid);
    text.remove_prefix(digits);
    return port;
}

Result<void> parse_ports(std::string_view text, std::span<u64> bits) {
    while (!text.empty()) {
        TRY(const u32 first, parse_port(text));
        u32 last = first;
        if (!text.empty() && text.front() == '-') {
            text.remove_prefix(1);
            TRY(last, parse_port(text));
        }
        if (last < first)
            return fail(invalid);
        for (u32 port = first; port <= last; port++)
            bits[port / 64] |= u64{1} << port % 64;
        if (text.empty())
            break;
        if (text.front() != ',')
            return fail(invalid);
        text.remove_prefix(1);
    }
    return {};
}

Result<void> store_reserved(std::string_view text, const TableContext& of) {
    while (!text.empty() && (text.back() == '\n' || text.back() == ' '))
        text.remove_suffix(1);
    constexpr usize words = net::ReservedPorts::words;
    u64* const bits = new (std::nothrow) u64[words]{};
    if (bits == nullptr)
        return fail(enomem);
    Result<void> outcome = parse_ports(text, {bits, words});
    if (outcome)
        outcome =
            own_stack(of).settings.reserved_ports.replace(std::span<const u64, words>(bits, words));
    delete[] bits;
    return outcome;
}

Result<void> show_algorithm(TextBuilder& out, const TableContext& of) {
    out.append(tcp::algorithm_name(tcp::TcpStack::of(own_stack(of)).settings.algorithm));
    out.append("\n");
    return {};
}
Result<void> store_algorithm(std::string_view text, const TableContext& of) {
    while (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    tcp::Algorithm algorithm{};
    if (!tcp::find_algorithm(text, algorithm))
        return fail(no_entry);
    tcp::TcpStack::of(own_stack(of)).settings.algorithm = algorithm;
    return {};
}

// What sockets can ask for by SO_RCVBUF and SO_SNDBUF: of all namespaces, so that only the initial
// one may change it.
template <base::Atomic<u32>& Most, i64 Least>
constexpr TableEntry most_buffer(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext&) -> Result<void> {
                out.print("{}\n", Most.load(base::Order::Relaxed));
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                if (&own_stack(of) != &net::stack_of(nullptr))
                    return fail(no_access);
                TRY(const i64 number, parse_number(text));
                if (number < Least || number > most_int)
                    return fail(invalid);
                Most.store(static_cast<u32>(number), base::Order::Relaxed);
                return {};
            },
            .bind = bind_network};
}

Result<void> store_unprivileged_start(std::string_view text, const TableContext& of) {
    TRY(const i64 number, parse_number(text));
    net::Stack& stack = own_stack(of);
    // Ports that connections take by themselves need no privilege.
    if (number < 0 || number > 65535 || number > stack.settings.local_ports.first)
        return fail(invalid);
    stack.settings.unprivileged_port_start = static_cast<u16>(number);
    return {};
}
Result<void> show_unprivileged_start(TextBuilder& out, const TableContext& of) {
    out.print("{}\n", own_stack(of).settings.unprivileged_port_start);
    return {};
}

Result<void> show_ping_range(TextBuilder& out, const TableContext& of) {
    const net::Stack& stack = own_stack(of);
    const auto shown = [&](u32 global) { return from_global_id(stack.owner(), true, global); };
    out.print("{}\t{}\n", shown(stack.settings.ping_group_first),
              shown(stack.settings.ping_group_last));
    return {};
}
Result<void> store_ping_range(std::string_view text, const TableContext& of) {
    i64 numbers[2] = {};
    TRY(parse_numbers(text, numbers));
    net::Stack& stack = own_stack(of);
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
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                const tcp::Settings& settings = tcp::TcpStack::of(own_stack(of)).settings;
                out.print("{}\t{}\t{}\n", settings.*Least, settings.*Default, settings.*Most);
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                i64 numbers[3] = {};
                TRY(parse_numbers(text, numbers));
                for (const i64 number : numbers)
                    if (number < 1 || number > 0x7fff'ffff)
                        return fail(invalid);
                tcp::Settings& settings = tcp::TcpStack::of(own_stack(of)).settings;
                settings.*Least = static_cast<u32>(numbers[0]);
                settings.*Default = static_cast<u32>(numbers[1]);
                settings.*Most = static_cast<u32>(numbers[2]);
                return {};
            },
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

constexpr TableEntry core_entries[] = {
    {.name = "netdev_max_backlog", .mode = read_only, .text = "1000\n"},
    stack_number<&Stacked::receive_buffer_default, 2304, most_int>("rmem_default"),
    most_buffer<most_receive_buffer, 2304>("rmem_max"),
    tcp_number<&Tcp::accept_backlog, 0, most_int>("somaxconn"),
    stack_number<&Stacked::send_buffer_default, 4608, most_int>("wmem_default"),
    most_buffer<most_send_buffer, 4608>("wmem_max"),
};

constexpr TableEntry route4_entries[] = {
    stack_number<&Stacked::min_pmtu, 68, most_int>("min_pmtu"),
    stack_number<&Stacked::mtu_expires_s, 0, most_int>("mtu_expires"),
};
constexpr TableEntry ipv4_entries[] = {
    {.name = "conf", .mode = directory, .children = conf4_entries, .numbers = &conf4_interfaces},
    stack_number<&Stacked::echo_ignore_all, 0, 1>("icmp_echo_ignore_all"),
    stack_number<&Stacked::echo_ignore_broadcasts, 0, 1>("icmp_echo_ignore_broadcasts"),
    stack_number<&Stacked::icmp_errors_by_inbound, 0, 1>("icmp_errors_use_inbound_ifaddr"),
    stack_number<&Stacked::ignore_bogus_errors, 0, 1>("icmp_ignore_bogus_error_responses"),
    stack_number<&Stacked::icmp_burst, 0, most_int>("icmp_msgs_burst"),
    stack_number<&Stacked::icmp_messages_per_second, 0, most_int>("icmp_msgs_per_sec"),
    stack_number<&Stacked::icmp_rate_limit_ms, 0, most_int>("icmp_ratelimit"),
    stack_number<&Stacked::icmp_rate_mask, 0, most_int>("icmp_ratemask"),
    stack_number<&Stacked::igmp_max_memberships, 0, most_int>("igmp_max_memberships"),
    stack_number<&Stacked::igmp_max_sources, 0, most_int>("igmp_max_msf"),
    stack_number<&Stacked::default_ttl, 1, 255>("ip_default_ttl"),
    forwarding<false>("ip_forward"),
    {.name = "ip_local_port_range",
     .mode = read_write,
     .show = show_port_range,
     .store = store_port_range,
     .owner = net_owner,
     .admits = may_set_network,
     .bind = bind_network},
    {.name = "ip_local_reserved_ports",
     .mode = read_write,
     .show = show_reserved,
     .store = store_reserved,
     .owner = net_owner,
     .admits = may_set_network,
     .bind = bind_network},
    stack_number<&Stacked::no_pmtu_disc, 0, 3>("ip_no_pmtu_disc"),
    stack_number<&Stacked::non_local_bind4, 0, 1>("ip_nonlocal_bind"),
    {.name = "ip_unprivileged_port_start",
     .mode = read_write,
     .show = show_unprivileged_start,
     .store = store_unprivileged_start,
     .owner = net_owner,
     .admits = may_set_network,
     .bind = bind_network},
    stack_number<&Stacked::fragment_high4, 0, most_int>("ipfrag_high_thresh"),
    stack_seconds<&Stacked::fragment_time4_ms>("ipfrag_time"),
    {.name = "neigh", .mode = directory, .children = neighbour4_entries},
    {.name = "ping_group_range",
     .mode = read_write,
     .show = show_ping_range,
     .store = store_ping_range,
     .owner = net_owner,
     .admits = may_set_network,
     .bind = bind_network},
    {.name = "route", .mode = directory, .children = route4_entries},
    tcp_number<&Tcp::abort_on_overflow, 0, 1>("tcp_abort_on_overflow"),
    {.name = "tcp_allowed_congestion_control", .mode = read_only, .text = "reno cubic\n"},
    {.name = "tcp_available_congestion_control", .mode = read_only, .text = "reno cubic\n"},
    tcp_number<&Tcp::challenge_limit, 0, most_int>("tcp_challenge_ack_limit"),
    {.name = "tcp_congestion_control",
     .mode = read_write,
     .show = show_algorithm,
     .store = store_algorithm,
     .owner = net_owner,
     .admits = may_set_network,
     .bind = bind_network},
    tcp_number<&Tcp::duplicate_sack, 0, 1>("tcp_dsack"),
    never("tcp_ecn"),
    tcp_number<&Tcp::fast_open, 0, 0xfff>("tcp_fastopen"),
    tcp_number<&Tcp::fin_timeout_s, 0, most_int / 1000>("tcp_fin_timeout"),
    tcp_number<&Tcp::invalid_rate_ms, 0, most_int>("tcp_invalid_ratelimit"),
    tcp_number<&Tcp::keepalive_interval_s, 1, 32767>("tcp_keepalive_intvl"),
    tcp_number<&Tcp::keepalive_probes, 1, 127>("tcp_keepalive_probes"),
    tcp_number<&Tcp::keepalive_idle_s, 1, 32767>("tcp_keepalive_time"),
    tcp_number<&Tcp::max_orphans, 0, most_int>("tcp_max_orphans"),
    tcp_number<&Tcp::syn_backlog, 0, most_int>("tcp_max_syn_backlog"),
    tcp_number<&Tcp::max_time_wait, 0, most_int>("tcp_max_tw_buckets"),
    tcp_number<&Tcp::least_sent_mss, 48, 65535>("tcp_min_snd_mss"),
    tcp_number<&Tcp::moderate_receive_buffer, 0, 1>("tcp_moderate_rcvbuf"),
    tcp_number<&Tcp::unsent_low_water, 0, ~u32{0}>("tcp_notsent_lowat"),
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
    stack_seconds<&Stacked::fragment_time6_ms>("ip6frag_time"),
    stack_number<&Stacked::non_local_bind6, 0, 1>("ip_nonlocal_bind"),
    {.name = "neigh", .mode = directory, .children = neighbour6_entries},
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
