// What the tables of /proc/sys/net are made of: settings of the reader's network namespace.
#pragma once

#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/net/tcp/tcp_stack.hpp"

namespace kernel::procfs::net_sysctl {

inline constexpr int no_entry = 2, no_access = 13, invalid = 22; // ENOENT, EACCES, EINVAL
inline constexpr u32 read_only = mode_regular | 0444;
inline constexpr u32 read_write = mode_regular | 0644;
inline constexpr u32 directory = mode_directory | 0555;

using Stacked = net::StackSettings;
using Tcp = tcp::Settings;
inline constexpr i64 most_int = 0x7fff'ffff;

// A number between two bounds. EINVAL.
template <typename T>
Result<void> store_within(std::string_view text, i64 low, i64 high, T& value) {
    TRY(const i64 number, parse_number(text));
    if (number < low || number > high)
        return fail(invalid);
    value = static_cast<T>(number);
    return {};
}

// A number among the stack's settings, between two bounds.
template <auto Member, i64 Low, i64 High>
constexpr TableEntry stack_number(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                out.print("{}\n", static_cast<u64>(own_stack(of).settings.*Member));
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                return store_within(text, Low, High, own_stack(of).settings.*Member);
            },
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

// The same for milliseconds, shown and set in seconds.
template <auto Member>
constexpr TableEntry stack_seconds(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                out.print("{}\n", own_stack(of).settings.*Member / 1000);
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                if (number < 0 || number > most_int / 1000)
                    return fail(invalid);
                own_stack(of).settings.*Member = static_cast<u32>(number * 1000);
                return {};
            },
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

template <auto Member, i64 Low, i64 High>
constexpr TableEntry tcp_number(std::string_view name) {
    return {
        .name = name,
        .mode = read_write,
        .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
            out.print("{}\n", static_cast<u64>(tcp::TcpStack::of(own_stack(of)).settings.*Member));
            return {};
        },
        .store = [](std::string_view text, const TableContext& of) -> Result<void> {
            return store_within(text, Low, High, tcp::TcpStack::of(own_stack(of)).settings.*Member);
        },
        .owner = net_owner,
        .admits = may_set_network,
        .bind = bind_network};
}

// What is never done: it can be switched off only.
inline Result<void> store_nothing_but_zero(std::string_view text, const TableContext&) {
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
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

// "all": a change is every interface's, and that of those to come.
template <bool V6>
constexpr TableEntry forwarding(std::string_view name) {
    return {.name = name,
            .mode = read_write,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                const net::StackSettings& settings = own_stack(of).settings;
                out.append((V6 ? settings.forwarding6 : settings.forwarding4) ? "1\n" : "0\n");
                return {};
            },
            .store = [](std::string_view text, const TableContext& of) -> Result<void> {
                TRY(const i64 number, parse_number(text));
                const bool on = number != 0;
                net::Stack& stack = own_stack(of);
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
            .owner = net_owner,
            .admits = may_set_network,
            .bind = bind_network};
}

// Of interfaces and neighbours: net_sysctl_interfaces.cpp.
extern const TableEntry conf4_entries[2], conf6_entries[2];
extern const TableNumbers conf4_interfaces, conf6_interfaces;
extern const TableEntry neighbour4_entries[1], neighbour6_entries[1];

} // namespace kernel::procfs::net_sysctl
