#include "guestkernel/fs/sysfs/net_devices.hpp"

#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/if.h>

#include "guestkernel/fs/mode.hpp"
#include "guestkernel/fs/procfs/interface_names.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/netlink/route/operational.hpp"
#include "guestkernel/net/netlink/uevent.hpp"
#include "guestkernel/net/stack.hpp"
#include "guestkernel/net/tun/tun_interface.hpp"
#include "guestkernel/task/process.hpp"

namespace kernel::sysfs {

namespace {

using net::Interface;

constexpr u32 read_only = mode_regular | 0444;
constexpr u32 read_write = mode_regular | 0644;
constexpr u32 directory = mode_directory | 0755;
constexpr u32 symlink = mode_symlink | 0777;

net::Stack& stack_in(const TableContext& of) {
    return *of.network;
}

// Root of the user namespace that owns the network.
void net_owner(const TableContext& of, u32& uid, u32& gid) {
    const UserNamespace* owner = of.network->owner();
    const u32 root = to_global_id(owner, false, 0), root_group = to_global_id(owner, true, 0);
    uid = root == invalid_id ? 0 : root;
    gid = root_group == invalid_id ? 0 : root_group;
}

Result<Ref<Interface>> device(const TableContext& of) {
    Ref<Interface> found = of.network->interface(static_cast<u32>(of.fd));
    if (!found)
        return fail(ENODEV);
    return found;
}

// A line that a function of the interface writes.
template <auto Show>
constexpr TableEntry shown(std::string_view name, u32 mode = read_only) {
    return {.name = name,
            .mode = mode,
            .show = [](TextBuilder& out, const TableContext& of) -> Result<void> {
                TRY(const Ref<Interface> interface, device(of));
                return Show(out, *interface);
            },
            .owner = net_owner};
}
template <auto Show, auto Store>
constexpr TableEntry changed(std::string_view name) {
    TableEntry out = shown<Show>(name, read_write);
    out.store = [](std::string_view text, const TableContext& of) -> Result<void> {
        if (!capable_over(of.network->owner(), CAP_NET_ADMIN))
            return fail(EPERM);
        TRY(const Ref<Interface> interface, device(of));
        return Store(text, *of.network, *interface);
    };
    return out;
}

template <auto Number>
Result<void> show_number(TextBuilder& out, Interface& interface) {
    out.print("{}\n", Number(interface));
    return {};
}
template <auto Number>
constexpr TableEntry number(std::string_view name) {
    return shown<show_number<Number>>(name);
}

// "1500", "0x1003", as programs write them.
Result<u32> parse_unsigned(std::string_view text) {
    while (!text.empty() && (text.back() == '\n' || text.back() == '\0'))
        text.remove_suffix(1);
    u64 value = 0;
    const bool hex = text.size() > 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    if (hex)
        text.remove_prefix(2);
    if (text.empty() || text.size() > 10)
        return fail(EINVAL);
    for (const char c : text) {
        const u32 digit = c >= '0' && c <= '9'   ? static_cast<u32>(c - '0')
                          : c >= 'a' && c <= 'f' ? static_cast<u32>(c - 'a') + 10
                          : c >= 'A' && c <= 'F' ? static_cast<u32>(c - 'A') + 10
                                                 : 99;
        if (digit >= (hex ? 16u : 10u))
            return fail(EINVAL);
        value = value * (hex ? 16 : 10) + digit;
    }
    if (value > 0xffff'ffff)
        return fail(ERANGE);
    return static_cast<u32>(value);
}

void print_mac(TextBuilder& out, const net::MacAddress& mac) {
    for (usize i = 0; i < sizeof mac.bytes; i++) {
        out.append(i > 0 ? ":" : "");
        out.hex(mac.bytes[i], 2);
    }
}

u32 address_bytes(const Interface& interface) {
    return interface.has_link_addresses() || interface.is_loopback() ? 6 : 0;
}

Result<void> show_address(TextBuilder& out, Interface& interface) {
    if (address_bytes(interface) != 0)
        print_mac(out, interface.mac());
    out.append("\n");
    return {};
}
Result<void> show_broadcast(TextBuilder& out, Interface& interface) {
    if (address_bytes(interface) != 0)
        print_mac(out, interface.has_link_addresses() ? net::MacAddress::broadcast()
                                                      : net::MacAddress());
    out.append("\n");
    return {};
}

bool has_carrier(const Interface& interface) {
    return (interface.flags() & net::iff_lower_up) != 0;
}
Result<void> show_carrier(TextBuilder& out, Interface& interface) {
    if (!interface.is_up())
        return fail(EINVAL);
    out.append(has_carrier(interface) ? "1\n" : "0\n");
    return {};
}

Result<void> show_operstate(TextBuilder& out, Interface& interface) {
    out.print("{}\n", net::netlink::operational_name(net::netlink::operational_state(interface)));
    return {};
}

// Only virtual cables know of their line; a VM's card does not.
Result<void> show_line(TextBuilder& out, const Interface& interface, std::string_view of_cable,
                       std::string_view unknown) {
    if (!interface.is_up() || interface.driver().empty())
        return fail(EINVAL);
    out.append(interface.kind() == "veth" ? of_cable : unknown);
    return {};
}
Result<void> show_speed(TextBuilder& out, Interface& interface) {
    return show_line(out, interface, "10000\n", "-1\n");
}
Result<void> show_duplex(TextBuilder& out, Interface& interface) {
    return show_line(out, interface, "full\n", "unknown\n");
}

// The flags without those that only tell of the carrier, as set by programs.
Result<void> show_flags(TextBuilder& out, Interface& interface) {
    out.append("0x");
    out.hex(interface.flags() & 0xffff & ~u32{IFF_RUNNING});
    out.append("\n");
    return {};
}
Result<void> store_flags(std::string_view text, net::Stack& stack, Interface& interface) {
    TRY(const u32 wanted, parse_unsigned(text));
    return stack.set_flags(interface, wanted, ~u32{0});
}

Result<void> store_mtu(std::string_view text, net::Stack& stack, Interface& interface) {
    TRY(const u32 wanted, parse_unsigned(text));
    return stack.set_mtu(interface, wanted);
}

Result<void> show_alias(TextBuilder& out, Interface& interface) {
    const Ref<net::Stack> stack = interface.stack();
    if (!stack)
        return fail(ENODEV);
    char text[256];
    usize length = 0;
    {
        SpinGuard guard(stack->lock);
        const std::string_view alias = interface.alias.view();
        length = alias.size() < sizeof text ? alias.size() : sizeof text;
        __builtin_memcpy(text, alias.data(), length);
    }
    out.append({text, length});
    out.append(length != 0 ? "\n" : "");
    return {};
}
Result<void> store_alias(std::string_view text, net::Stack& stack, Interface& interface) {
    if (!text.empty() && text.back() == '\n')
        text.remove_suffix(1);
    if (text.size() >= 256) // IFALIASZ
        return fail(EINVAL);
    TRY(String alias, String::from(text));
    SpinGuard guard(stack.lock);
    std::swap(interface.alias, alias);
    return {};
}

Result<void> store_queue_length(std::string_view text, net::Stack&, Interface& interface) {
    TRY(interface.tx_queue_length, parse_unsigned(text));
    return {};
}
Result<void> store_group(std::string_view text, net::Stack&, Interface& interface) {
    TRY(interface.group, parse_unsigned(text));
    return {};
}

Result<void> show_uevent(TextBuilder& out, Interface& interface) {
    if (interface.kind() == "bridge")
        out.append("DEVTYPE=bridge\n");
    out.print("INTERFACE={}\nIFINDEX={}\n", interface.name(), interface.index());
    return {};
}
Result<void> store_uevent(std::string_view text, net::Stack& stack, Interface& interface) {
    return net::netlink::make_uevent(stack, interface, text);
}

// Who chose the address: the driver (0), chance (1).
u32 address_origin(const Interface& interface) {
    return (interface.mac().bytes[0] & 2) != 0 && interface.driver().empty() ? 1 : 0;
}
// Names: as programs gave them (3), or the kernel by a fixed rule (2, the loopback), or counted
// (1).
u32 name_origin(const Interface& interface) {
    return interface.is_loopback() ? 2 : interface.driver().empty() ? 3 : 1;
}

u32 link_of(const Interface& interface) {
    const u32 below = const_cast<Interface&>(interface).linked().index;
    return below != 0 ? below : interface.index();
}

// --- statistics

template <auto Counter>
u64 counted(const Interface& interface) {
    return (interface.counters.*Counter).load();
}
u64 none(const Interface&) { // errors that no device here tells of
    return 0;
}
using Counts = net::InterfaceCounters;
constexpr TableEntry statistics_entries[] = {
    number<none>("collisions"),
    number<counted<&Counts::multicast>>("multicast"),
    number<counted<&Counts::rx_bytes>>("rx_bytes"),
    number<none>("rx_compressed"),
    number<none>("rx_crc_errors"),
    number<counted<&Counts::rx_dropped>>("rx_dropped"),
    number<counted<&Counts::rx_errors>>("rx_errors"),
    number<none>("rx_fifo_errors"),
    number<none>("rx_frame_errors"),
    number<none>("rx_length_errors"),
    number<none>("rx_missed_errors"),
    number<none>("rx_nohandler"),
    number<none>("rx_over_errors"),
    number<counted<&Counts::rx_packets>>("rx_packets"),
    number<none>("tx_aborted_errors"),
    number<counted<&Counts::tx_bytes>>("tx_bytes"),
    number<none>("tx_carrier_errors"),
    number<none>("tx_compressed"),
    number<counted<&Counts::tx_dropped>>("tx_dropped"),
    number<counted<&Counts::tx_errors>>("tx_errors"),
    number<none>("tx_fifo_errors"),
    number<none>("tx_heartbeat_errors"),
    number<counted<&Counts::tx_packets>>("tx_packets"),
    number<none>("tx_window_errors"),
};

// --- queues: "rx-0", "tx-0", ... The number stands where CPUs have theirs; senders follow.

unsigned queues_of(const TableContext& of) {
    const Ref<Interface> interface = of.network->interface(static_cast<u32>(of.fd));
    return interface ? net::netlink::shown_queues(*interface) : 0;
}
i32 next_queue(const TableContext& of, i32 after) {
    return after + 1 < static_cast<i32>(2 * queues_of(of)) ? after + 1 : -1;
}
bool queue_exists(const TableContext& of) {
    return of.cpu >= 0 && of.cpu < static_cast<i32>(2 * queues_of(of));
}
TableContext with_queue(TableContext of, i32 queue) {
    of.cpu = queue;
    return of;
}
usize queue_name(const TableContext& of, std::span<char> out) {
    const i32 count = static_cast<i32>(queues_of(of));
    if (of.cpu >= 2 * count)
        return 0;
    return log::format(out.data(), out.size(), "{}-{}", of.cpu < count ? "rx" : "tx",
                       of.cpu % count);
}
i32 find_queue(const TableContext& of, std::string_view name) {
    for (i32 queue = 0; queue < static_cast<i32>(2 * queues_of(of)); queue++) {
        char called[32];
        const usize length = queue_name(with_queue(of, queue), called);
        if (name == std::string_view(called, length))
            return queue;
    }
    return -1;
}
constexpr TableEntry queue_entry = {.name = "", .mode = directory};
constexpr TableNumbers queue_numbers = {"",           next_queue, queue_exists, with_queue,
                                        &queue_entry, queue_name, find_queue};

// --- of tun devices

const net::TunInterface* as_tun(const Interface& interface) {
    return interface.kind() == "tun" ? static_cast<const net::TunInterface*>(&interface) : nullptr;
}

Result<void> show_tun_flags(TextBuilder& out, Interface& interface) {
    const net::TunInterface* tun = as_tun(interface);
    if (tun == nullptr)
        return fail(ENODEV);
    out.append("0x");
    out.hex(tun->shown_flags());
    out.append("\n");
    return {};
}

template <bool group>
Result<void> show_tun_owner(TextBuilder& out, Interface& interface) {
    const net::TunInterface* tun = as_tun(interface);
    if (tun == nullptr)
        return fail(ENODEV);
    const u32 id = (group ? tun->owner_group : tun->owner).load();
    const UserNamespace* space = current_task().credentials->user_ns.get();
    out.print("{}\n",
              id == net::TunInterface::nobody ? i64{-1} : i64{from_global_id(space, group, id)});
    return {};
}

template <auto Show>
constexpr TableEntry shown_of_tun(std::string_view name) {
    TableEntry out = shown<Show>(name);
    out.present = [](const TableContext& of) {
        const auto found = device(of);
        return found && as_tun(**found) != nullptr;
    };
    return out;
}

constexpr TableEntry device_entries[] = {
    number<address_origin>("addr_assign_type"),
    number<address_bytes>("addr_len"),
    shown<show_address>("address"),
    shown<show_broadcast>("broadcast"),
    shown<show_carrier>("carrier"),
    number<[](const Interface& i) { return i.carrier_ups.load() + i.carrier_downs.load(); }>(
        "carrier_changes"),
    number<[](const Interface& i) { return i.carrier_downs.load(); }>("carrier_down_count"),
    number<[](const Interface& i) { return i.carrier_ups.load(); }>("carrier_up_count"),
    {.name = "dev_id", .mode = read_only, .text = "0x0\n"},
    {.name = "dev_port", .mode = read_only, .text = "0\n"},
    {.name = "dormant", .mode = read_only, .text = "0\n"},
    shown<show_duplex>("duplex"),
    changed<show_flags, store_flags>("flags"),
    changed<show_alias, store_alias>("ifalias"),
    number<[](const Interface& i) { return i.index(); }>("ifindex"),
    number<link_of>("iflink"),
    shown_of_tun<show_tun_owner<true>>("group"),
    {.name = "link_mode", .mode = read_only, .text = "0\n"},
    changed<show_number<[](const Interface& i) { return i.mtu(); }>, store_mtu>("mtu"),
    number<name_origin>("name_assign_type"),
    changed<show_number<[](const Interface& i) { return i.group; }>, store_group>("netdev_group"),
    shown<show_operstate>("operstate"),
    shown_of_tun<show_tun_owner<false>>("owner"),
    {.name = "queues", .mode = directory, .numbers = &queue_numbers},
    shown<show_speed>("speed"),
    {.name = "statistics", .mode = directory, .children = statistics_entries},
    {.name = "subsystem",
     .mode = symlink,
     .link = [](TextBuilder& out, const TableContext&) -> Result<void> {
         out.append("../../../../class/net");
         return {};
     }},
    shown_of_tun<show_tun_flags>("tun_flags"),
    changed<show_number<[](const Interface& i) { return i.tx_queue_length; }>, store_queue_length>(
        "tx_queue_len"),
    number<[](const Interface& i) { return static_cast<u32>(i.type()); }>("type"),
    changed<show_uevent, store_uevent>("uevent"),
};
constexpr TableEntry device_entry = {.name = "", .mode = directory, .children = device_entries};

Result<void> link_to_device(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Interface> interface, device(of));
    out.print("../../devices/virtual/net/{}", interface->name());
    return {};
}
constexpr TableEntry class_entry = {.name = "", .mode = symlink, .link = link_to_device};

} // namespace

constinit const TableNumbers net_class_links = InterfaceNames<stack_in>::numbers(&class_entry);
constinit const TableNumbers net_device_directories =
    InterfaceNames<stack_in>::numbers(&device_entry);

} // namespace kernel::sysfs
