// /proc/net: groups that interfaces are in, packet sockets, the tree of routes.
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/packet_tap.hpp"
#include "guestkernel/net/route.hpp"

namespace kernel::procfs {

namespace {

using net::Interface;
using net::IpAddress;
using net::JoinedGroup;
using net::Stack;

// Each group of each interface; `function(interface, group)` runs without locks.
template <typename F>
void for_groups(Stack& stack, F&& function) {
    u32 after = 0;
    while (const Ref<Interface> interface = stack.next_interface(after)) {
        after = interface->index();
        for (usize i = 0;; i++) {
            JoinedGroup group;
            {
                SpinGuard guard(stack.lock);
                if (i >= interface->groups.size())
                    break;
                group = interface->groups[i];
            }
            function(*interface, group);
        }
    }
}

void hex_bytes(TextBuilder& out, const u8* bytes, usize count) {
    for (usize i = 0; i < count; i++)
        out.hex(bytes[i], 2);
}

// Hundredths of a second until the report that is still to come.
u64 report_ticks(const Stack& stack, const JoinedGroup& group) {
    constexpr u64 tick = nanoseconds_per_second / clock_ticks;
    const u64 now = stack.now();
    return group.report_at == no_deadline || group.report_at <= now
               ? 0
               : (group.report_at - now) / tick;
}

} // namespace

Result<void> show_net_igmp(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    out.append("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
    u32 shown = 0;
    for_groups(*stack, [&](Interface& interface, const JoinedGroup& group) {
        if (!group.group.is_v4())
            return;
        if (interface.index() != shown) {
            shown = interface.index();
            u32 count = 0;
            {
                SpinGuard guard(stack->lock);
                for (const JoinedGroup& other : interface.groups)
                    count += other.group.is_v4() ? 1 : 0;
            }
            out.print("{}\t", interface.index());
            out.text(interface.name(), 10);
            out.append(": ");
            out.number(count, 5);
            out.append("      V3\n");
        }
        u32 word = 0;
        __builtin_memcpy(&word, group.group.wire(), sizeof word);
        out.append("\t\t\t\t");
        out.hex_upper(word, 8);
        out.append(" ");
        out.number(group.users, 5);
        const u64 left = report_ticks(*stack, group);
        out.print(" {}:", left != 0 ? 1 : 0);
        out.hex_upper(left, 8);
        out.append("\t\t0\n");
    });
    return {};
}

Result<void> show_net_igmp6(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    for_groups(*stack, [&](Interface& interface, const JoinedGroup& group) {
        if (group.group.is_v4())
            return;
        char index[16];
        const usize length = log::format(index, sizeof index, "{}", interface.index());
        out.text({index, length}, 4);
        out.append(" ");
        out.text(interface.name(), 15);
        out.append(" ");
        hex_bytes(out, group.group.bytes(), 16);
        out.append(" ");
        out.number(group.users, 5);
        const u64 left = report_ticks(*stack, group);
        out.append(" ");
        out.hex_upper(left != 0 ? 1 : 4, 8); // MAF_TIMER_RUNNING, MAF_LAST_REPORTER
        out.print(" {}\n", left);
    });
    return {};
}

Result<void> show_net_dev_mcast(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    for_groups(*stack, [&](Interface& interface, const JoinedGroup& group) {
        if (!interface.has_link_addresses())
            return;
        const u8* bytes = group.group.wire();
        // RFC 1112, 6.4 and RFC 2464, 7.
        const u8 mac4[] = {0x01, 0x00, 0x5e, static_cast<u8>(bytes[1] & 0x7f), bytes[2], bytes[3]};
        const u8* own = group.group.bytes();
        const u8 mac6[] = {0x33, 0x33, own[12], own[13], own[14], own[15]};
        char text[16];
        usize length = log::format(text, sizeof text, "{}", interface.index());
        out.text({text, length}, 4);
        out.append(" ");
        out.text(interface.name(), 15);
        out.append(" ");
        length = log::format(text, sizeof text, "{}", group.users);
        out.text({text, length}, 5);
        out.append(" 0     ");
        hex_bytes(out, group.group.is_v4() ? mac4 : mac6, sizeof mac4);
        out.append("\n");
    });
    return {};
}

Result<void> show_net_packet(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    out.append("sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n");
    const auto padded = [&](u64 value, unsigned width) {
        char text[24];
        const usize length = log::format(text, sizeof text, "{}", value);
        out.text({text, length}, width);
        out.append(" ");
    };
    const Credentials* reader = current_task().credentials.get();
    u64 after = 0;
    net::PacketSocketRecord record;
    while (stack->taps().next_socket(after, record)) {
        out.append("0000000000000000 ");
        padded(record.references, 6);
        padded(static_cast<u64>(record.type), 4);
        out.hex(record.protocol, 4);
        out.append("   ");
        padded(record.interface, 5);
        padded(record.attached ? 1 : 0, 1);
        padded(record.receive_memory, 6);
        padded(
            from_global_id(reader == nullptr ? nullptr : reader->user_space(), false, record.uid),
            6);
        padded(record.inode, 6);
        out.append("\n");
    }
    return {};
}

// --- the tree of routes: networks with what is known of them. Ours is a list, so the tree is flat.

namespace {

std::string_view scope_name(u8 scope) {
    return scope == net::scope_universe ? "universe"
           : scope == net::scope_site   ? "site"
           : scope == net::scope_link   ? "link"
           : scope == net::scope_host   ? "host"
                                        : "nowhere";
}

std::string_view route_type_name(net::RouteType type) {
    constexpr std::string_view names[] = {"UNSPEC",   "UNICAST",   "LOCAL",     "BROADCAST",
                                          "ANYCAST",  "MULTICAST", "BLACKHOLE", "UNREACHABLE",
                                          "PROHIBIT", "THROW"};
    const auto index = static_cast<usize>(type);
    return index < sizeof names / sizeof names[0] ? names[index] : "UNSPEC";
}

void show_table(TextBuilder& out, Stack& stack, std::string_view title, u32 table) {
    struct Printing {
        TextBuilder& out;
        u32 table;
        IpAddress last;
        bool any;
    } printing{out, table, {}, false};
    out.append(title);
    out.append(":\n");
    SpinGuard guard(stack.lock);
    stack.routes().for_each(
        false,
        [](const net::Route& route, void* context) {
            auto& to = *static_cast<Printing*>(context);
            if (route.table != to.table)
                return;
            if (!to.any)
                to.out.append("  +-- 0.0.0.0/0 0 0 0\n");
            if (!to.any || to.last != route.prefix) {
                const u32 a = route.prefix.v4_value();
                to.out.print("     |-- {}.{}.{}.{}\n", a >> 24, a >> 16 & 0xff, a >> 8 & 0xff,
                             a & 0xff);
            }
            to.any = true;
            to.last = route.prefix;
            to.out.print("        /{} {} {}\n", route.length, scope_name(route.scope),
                         route_type_name(route.type));
        },
        &printing);
}

} // namespace

Result<void> show_net_fib_trie(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<Stack> stack, subject_stack(of));
    show_table(out, *stack, "Main", net::table_main);
    show_table(out, *stack, "Local", net::table_local);
    return {};
}

} // namespace kernel::procfs
