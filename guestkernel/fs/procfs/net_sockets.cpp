// /proc/net/{tcp,udp,raw} and their kin.
#include "guestkernel/fs/procfs/net_files.hpp"
#include "guestkernel/namespaces/user_namespace.hpp"
#include "guestkernel/net/reassembly.hpp"
#include "guestkernel/net/socket_list.hpp"
#include "guestkernel/net/tcp/tcp_stack.hpp"

namespace kernel::procfs {

namespace {

using net::IpAddress;
using net::SocketRecord;

using List = Result<void> (*)(net::Stack& stack, Vector<SocketRecord>& out);

// As its 32-bit words are in memory, which is how Linux prints them.
void print_address(TextBuilder& out, const IpAddress& address, bool v6, u16 port) {
    const u8* bytes = v6 ? address.bytes() : address.bytes() + 12;
    // The unspecified address is neither version's.
    static constexpr u8 none[16] = {};
    if (address.is_any())
        bytes = none;
    for (usize at = 0; at < (v6 ? 16u : 4u); at += 4) {
        u32 word = 0;
        __builtin_memcpy(&word, bytes + at, sizeof word);
        out.hex_upper(word, 8);
    }
    out.append(":");
    out.hex_upper(port, 4);
}

constexpr u32 tcp_listen = 10;

u64 ticks(u64 ns) {
    return ns / (nanoseconds_per_second / clock_ticks);
}

u32 shown_uid(const SocketRecord& record) {
    const Credentials* reader = current_task().credentials.get();
    return from_global_id(reader == nullptr ? nullptr : reader->user_space(), false, record.uid);
}

void print_common(TextBuilder& out, usize index, unsigned index_width, const SocketRecord& record) {
    out.number(index, index_width);
    out.append(": ");
    print_address(out, record.local, record.v6, record.port);
    out.append(" ");
    print_address(out, record.peer, record.v6, record.peer_port);
    out.append(" ");
    out.hex_upper(record.state, 2);
    out.append(" ");
    out.hex_upper(record.state == tcp_listen ? 0 : record.sent, 8); // a listener's is its limit
    out.append(":");
    out.hex_upper(record.received, 8);
    out.append(" ");
    out.hex_upper(record.timer, 2);
    out.append(":");
    out.hex_upper(ticks(record.timer_left_ns), 8);
    out.append(" ");
    out.hex_upper(record.retransmits, 8);
    out.append(" ");
    out.number(shown_uid(record), 5);
    out.append(" ");
}

Result<void> list(TextBuilder& out, const TableContext& of, List take, bool v6, bool tcp) {
    TRY(const Ref<net::Stack> stack, subject_stack(of));
    Vector<SocketRecord> records;
    TRY(take(*stack, records));
    usize index = 0;
    for (const SocketRecord& record : records) {
        if (record.v6 != v6)
            continue;
        const usize start = out.size();
        print_common(out, index++, tcp || take == net::list_raw ? 4 : 5, record);
        out.number(record.probes, 8);
        out.append(" ");
        out.number(record.inode);
        out.append(" ");
        out.number(record.references);
        out.append(" 0000000000000000");
        if (tcp) {
            if (record.whole) {
                out.print(" {} {} {} {} ", ticks(record.retransmit_timeout),
                          ticks(record.ack_timeout), record.quick, record.window);
                out.print("{}", record.threshold);
            }
            out.pad_to(out.size() - start, v6 ? 0 : 149);
        } else {
            out.append(" ");
            out.number(record.drops);
            out.pad_to(out.size() - start, v6 || take == net::list_raw ? 0 : 127);
        }
        out.append("\n");
    }
    return {};
}

void heading(TextBuilder& out, std::string_view text, usize width) {
    out.append(text);
    out.pad_to(text.size(), width);
    out.append("\n");
}

constexpr std::string_view columns4 =
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    "inode";
constexpr std::string_view columns6 =
    "  sl  local_address                         remote_address                        st "
    "tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
constexpr std::string_view more_columns = " ref pointer drops";

struct Counts {
    u32 tcp = 0, udp = 0, lite = 0, raw = 0;
    u64 tcp_pages = 0, udp_pages = 0; // of both versions
};

Result<Counts> count(net::Stack& stack, bool v6) {
    constexpr u8 time_wait = 6, closed = 7; // TIME-WAIT has no socket
    Counts out;
    const auto one = [&](List take, bool tcp, u32& number, u64& pages) -> Result<void> {
        Vector<SocketRecord> records;
        TRY(take(stack, records));
        for (const SocketRecord& record : records) {
            const bool in_use =
                !tcp || (record.whole && record.state != time_wait && record.state != closed);
            number += record.v6 == v6 && in_use ? 1 : 0;
            if (record.whole)
                pages +=
                    (u64{record.receive_memory} + record.send_memory + page_size - 1) / page_size;
        }
        return {};
    };
    u64 unused = 0;
    TRY(one(net::list_tcp, true, out.tcp, out.tcp_pages));
    TRY(one(net::list_udp, false, out.udp, out.udp_pages));
    TRY(one(net::list_udplite, false, out.lite, unused));
    TRY(one(net::list_raw, false, out.raw, unused));
    return out;
}

Result<void> list_datagrams4(TextBuilder& out, const TableContext& of, List take) {
    out.append(" ");
    out.append(columns4);
    heading(out, more_columns, 127 - 1 - columns4.size());
    return list(out, of, take, false, false);
}
Result<void> list_datagrams6(TextBuilder& out, const TableContext& of, List take) {
    out.append(columns6);
    heading(out, more_columns, 0);
    return list(out, of, take, true, false);
}

} // namespace

Result<void> show_net_tcp(TextBuilder& out, const TableContext& of) {
    heading(out, columns4, 149);
    return list(out, of, net::list_tcp, false, true);
}
Result<void> show_net_tcp6(TextBuilder& out, const TableContext& of) {
    heading(out, columns6, 0);
    return list(out, of, net::list_tcp, true, true);
}
Result<void> show_net_udp(TextBuilder& out, const TableContext& of) {
    return list_datagrams4(out, of, net::list_udp);
}
Result<void> show_net_udp6(TextBuilder& out, const TableContext& of) {
    return list_datagrams6(out, of, net::list_udp);
}
Result<void> show_net_udplite(TextBuilder& out, const TableContext& of) {
    return list_datagrams4(out, of, net::list_udplite);
}
Result<void> show_net_udplite6(TextBuilder& out, const TableContext& of) {
    return list_datagrams6(out, of, net::list_udplite);
}
Result<void> show_net_raw(TextBuilder& out, const TableContext& of) {
    out.append(columns4);
    heading(out, more_columns, 0);
    return list(out, of, net::list_raw, false, false);
}
Result<void> show_net_raw6(TextBuilder& out, const TableContext& of) {
    return list_datagrams6(out, of, net::list_raw);
}

Result<void> show_net_sockstat(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<net::Stack> stack, subject_stack(of));
    TRY(const Counts inet, count(*stack, false));
    const tcp::TcpStack& tcp = tcp::TcpStack::of(*stack);
    out.print("sockets: used {}\n", tcp.sockets.load() + stack->other_sockets.load());
    out.print("TCP: inuse {} orphan {} tw {} alloc {} mem {}\n", inet.tcp, tcp.orphans.load(),
              tcp.time_wait_count(), tcp.sockets.load(), inet.tcp_pages);
    out.print("UDP: inuse {} mem {}\nUDPLITE: inuse {}\nRAW: inuse {}\n", inet.udp, inet.udp_pages,
              inet.lite, inet.raw);
    const net::Reassembly::Usage fragments = stack->reassembly().usage(false);
    out.print("FRAG: inuse {} memory {}\n", fragments.packets, fragments.bytes);
    return {};
}

Result<void> show_net_sockstat6(TextBuilder& out, const TableContext& of) {
    TRY(const Ref<net::Stack> stack, subject_stack(of));
    TRY(const Counts inet6, count(*stack, true));
    out.print("TCP6: inuse {}\nUDP6: inuse {}\nUDPLITE6: inuse {}\nRAW6: inuse {}\n", inet6.tcp,
              inet6.udp, inet6.lite, inet6.raw);
    const net::Reassembly::Usage fragments = stack->reassembly().usage(true);
    out.print("FRAG6: inuse {} memory {}\n", fragments.packets, fragments.bytes);
    return {};
}

} // namespace kernel::procfs
