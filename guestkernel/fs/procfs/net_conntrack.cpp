// /proc/net/nf_conntrack, its counters, and /proc/sys/net/netfilter: connections that are tracked.
#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/namespaces/namespaces.hpp"
#include "guestkernel/net/filter/filter.hpp"
#include "guestkernel/net/wire.hpp"

namespace kernel::procfs {

namespace {

using net::IpAddress;
using net::Stack;
using net::filter::Connection;
using net::filter::Connections;
using net::filter::Filter;
using net::filter::TcpState;
using net::filter::TrackingSettings;
using net::filter::Tuple;

constexpr int denied = 13, invalid = 22; // EACCES, EINVAL
constexpr u32 read_only = mode_regular | 0444;
constexpr u32 read_write = mode_regular | 0644;
constexpr i64 most_int = 0x7fff'ffff;

// --- /proc/net/nf_conntrack

std::string_view protocol_name(u8 protocol) {
    switch (protocol) {
    case net::proto_tcp:
        return "tcp";
    case net::proto_udp:
        return "udp";
    case net::proto_udplite:
        return "udplite";
    case net::proto_icmp:
        return "icmp";
    case net::proto_icmpv6:
        return "icmpv6";
    default:
        return "unknown";
    }
}

std::string_view state_name(TcpState state) {
    constexpr std::string_view names[net::filter::tcp_states] = {
        "NONE",       "SYN_SENT", "SYN_RECV",  "ESTABLISHED", "FIN_WAIT",
        "CLOSE_WAIT", "LAST_ACK", "TIME_WAIT", "CLOSE",       "SYN_SENT2"};
    const auto number = static_cast<usize>(state);
    return number < net::filter::tcp_states ? names[number] : names[0];
}

void print_address(TextBuilder& out, const IpAddress& address) {
    if (address.is_v4()) {
        const u32 value = address.v4_value();
        out.print("{}.{}.{}.{} ", value >> 24, value >> 16 & 255, value >> 8 & 255, value & 255);
        return;
    }
    for (usize i = 0; i < 16; i += 2) { // whole, without the short forms
        out.append(i > 0 ? ":" : "");
        out.hex(address.bytes()[i], 2);
        out.hex(address.bytes()[i + 1], 2);
    }
    out.append(" ");
}

void print_tuple(TextBuilder& out, const Tuple& tuple) {
    out.append("src=");
    print_address(out, tuple.source);
    out.append("dst=");
    print_address(out, tuple.destination);
    switch (tuple.protocol) {
    case net::proto_icmp:
    case net::proto_icmpv6:
        out.print("type={} code={} id={} ", tuple.destination_port >> 8,
                  tuple.destination_port & 255, tuple.source_port);
        break;
    case net::proto_tcp:
    case net::proto_udp:
    case net::proto_udplite:
        out.print("sport={} dport={} ", tuple.source_port, tuple.destination_port);
        break;
    default:
        break;
    }
}

void print_counters(TextBuilder& out, const Connection& one, usize direction) {
    if (one.counted)
        out.print("packets={} bytes={} ", one.packets[direction].load(),
                  one.bytes[direction].load());
}

void print_connection(TextBuilder& out, const Connection& one, u64 now) {
    const Tuple& original = one.ends[0].tuple;
    const std::string_view protocol = protocol_name(original.protocol);
    out.append(original.v6() ? "ipv6     10 " : "ipv4     2 ");
    out.text(protocol, 8);
    out.print(" {} {} ", original.protocol, one.left_seconds(now));
    if (original.protocol == net::proto_tcp)
        out.print("{} ", state_name(one.tcp));
    print_tuple(out, original);
    print_counters(out, one, 0);
    if (!one.has(net::filter::status_seen_reply))
        out.append("[UNREPLIED] ");
    print_tuple(out, one.ends[1].tuple);
    print_counters(out, one, 1);
    if (one.has(net::filter::status_assured))
        out.append("[ASSURED] ");
    out.print("mark={} zone=0 use={}\n", one.mark.load(), one.ref_count());
}

// --- counters, as they are of each CPU on Linux: here of all together

Result<void> show_statistics(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    out.append("entries  clashres found new invalid ignore delete chainlength insert insert_failed "
               "drop early_drop icmp_error  expect_new expect_create expect_delete "
               "search_restart\n");
    const Filter* filter = Filter::existing(*stack);
    const auto print = [&](u64 value, std::string_view behind) {
        out.hex(value & 0xffff'ffff, 8);
        out.append(behind);
    };
    const auto count = [&](base::Atomic<u64> Connections::*counter) {
        return filter == nullptr ? 0 : (filter->connections.*counter).load();
    };
    print(filter == nullptr ? 0 : filter->connections.count(), " ");
    print(0, " ");
    print(count(&Connections::found), " ");
    print(0, " ");
    print(count(&Connections::invalid), " ");
    print(0, " ");
    print(0, " ");
    print(0, " ");
    print(count(&Connections::inserted), " ");
    print(count(&Connections::insert_failed), " ");
    print(count(&Connections::dropped), " ");
    print(count(&Connections::early_dropped), " ");
    print(0, "  ");
    print(0, " ");
    print(0, " ");
    print(0, " ");
    print(0, "\n");
    return {};
}

// --- settings

constinit TrackingSettings untouched; // of a namespace where nothing was tracked yet

const TrackingSettings& own_settings(const TableContext& of) {
    const Filter* filter = Filter::existing(own_stack(of));
    return filter == nullptr ? untouched : filter->connections.settings;
}

// `Of` gives the member of the settings.
template <auto Of, i64 Low, i64 High>
constexpr TableEntry setting(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                out.print("{}\n", static_cast<u64>(Of(own_settings(of))));
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                TRY(const i64 wanted, parse_number(text));
                if (wanted < Low || wanted > High)
                    return fail(invalid);
                TRY(Filter * filter, Filter::of(own_stack(of)));
                auto& value = Of(filter->connections.settings);
                value = static_cast<std::remove_reference_t<decltype(value)>>(wanted);
                return {};
            },
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}
template <auto Member, i64 Low, i64 High>
constexpr TableEntry number(std::string_view name) {
    return setting < [](auto& settings) -> auto& {
        return settings.*Member;
    }
    , Low, High > (name);
}
template <TcpState State>
constexpr TableEntry seconds_in(std::string_view name) {
    return setting < [](auto& settings) -> auto& {
        return settings.tcp[static_cast<usize>(State)];
    }
    , 0, most_int > (name);
}

Result<void> show_count(TextBuilder& out, const TableContext& of) {
    const Filter* filter = Filter::existing(own_stack(of));
    out.print("{}\n", filter == nullptr ? 0 : filter->connections.count());
    return {};
}
Result<void> show_buckets(TextBuilder& out, const TableContext&) {
    out.print("{}\n", Connections::buckets);
    return {};
}

// One limit for the namespaces of all: it is the first one's to set.
bool in_first_network(const TableContext& of) {
    return &own_stack(of) == &net::stack_of(nullptr);
}
using Track = TrackingSettings;

} // namespace

Result<void> show_most_connections(TextBuilder& out, const TableContext&) {
    out.print("{}\n", net::filter::most_connections.load());
    return {};
}
Result<void> store_most_connections(std::string_view text, const TableContext& of) {
    TRY(const i64 wanted, parse_number(text));
    if (!in_first_network(of))
        return fail(denied);
    if (wanted < 0 || wanted > most_int)
        return fail(invalid);
    net::filter::most_connections.store(static_cast<u32>(wanted));
    return {};
}
Result<Ref<File>> open_most_connections(const Path& path, Ref<Inode> inode, u32 flags,
                                        const TableContext& of) {
    constexpr u32 access = 3; // O_ACCMODE
    if ((flags & access) != 0 && !in_first_network(of))
        return fail(denied);
    TRY(auto file, make_ref<TableFile>(path, std::move(inode), flags));
    return Ref<File>(std::move(file));
}

Result<void> show_net_conntrack(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    Filter* filter = Filter::existing(*stack);
    if (filter == nullptr)
        return {};
    for (u64 after = 0;;) {
        constexpr usize at_once = 16;
        Ref<Connection> some[at_once];
        const usize got = filter->connections.list(after, some, at_once);
        if (got == 0)
            return {};
        const u64 now = stack->now();
        for (usize i = 0; i < got; i++)
            if (some[i]->expires.load() > now)
                print_connection(out, *some[i], now);
    }
}

constinit const TableEntry net_stat_entries[1] = {
    {.name = "nf_conntrack", .mode = read_only, .show = show_statistics},
};

constinit const TableEntry netfilter_entries[23] = {
    number<&Track::accounting, 0, 1>("nf_conntrack_acct"),
    {.name = "nf_conntrack_buckets", .mode = read_only, .show = show_buckets},
    number<&Track::checksum, 0, 1>("nf_conntrack_checksum"),
    {.name = "nf_conntrack_count", .mode = read_only, .show = show_count, .bind = bind_network},
    number<&Track::generic, 0, most_int>("nf_conntrack_generic_timeout"),
    number<&Track::icmp, 0, most_int>("nf_conntrack_icmp_timeout"),
    number<&Track::icmpv6, 0, most_int>("nf_conntrack_icmpv6_timeout"),
    most_connections_entry,
    number<&Track::tcp_liberal, 0, 1>("nf_conntrack_tcp_be_liberal"),
    number<&Track::tcp_loose, 0, 1>("nf_conntrack_tcp_loose"),
    number<&Track::tcp_most_retransmitted, 0, 255>("nf_conntrack_tcp_max_retrans"),
    seconds_in<TcpState::Close>("nf_conntrack_tcp_timeout_close"),
    seconds_in<TcpState::CloseWait>("nf_conntrack_tcp_timeout_close_wait"),
    seconds_in<TcpState::Established>("nf_conntrack_tcp_timeout_established"),
    seconds_in<TcpState::FinWait>("nf_conntrack_tcp_timeout_fin_wait"),
    seconds_in<TcpState::LastAck>("nf_conntrack_tcp_timeout_last_ack"),
    number<&Track::tcp_retransmitted, 0, most_int>("nf_conntrack_tcp_timeout_max_retrans"),
    seconds_in<TcpState::SynReceived>("nf_conntrack_tcp_timeout_syn_recv"),
    seconds_in<TcpState::SynSent>("nf_conntrack_tcp_timeout_syn_sent"),
    seconds_in<TcpState::TimeWait>("nf_conntrack_tcp_timeout_time_wait"),
    number<&Track::tcp_unacknowledged, 0, most_int>("nf_conntrack_tcp_timeout_unacknowledged"),
    number<&Track::udp, 0, most_int>("nf_conntrack_udp_timeout"),
    number<&Track::udp_stream, 0, most_int>("nf_conntrack_udp_timeout_stream"),
};

} // namespace kernel::procfs
